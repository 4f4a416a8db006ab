"""Which rules of fastlr a class of torch is, and where a rule's hyper-parameters are in a group of torch's.

A class of torch is one rule or, by its switches, several: SGD with a momentum is `Momentum`, with ``nesterov=True``
`Nesterov`. The switches are read from each group at each step, as torch does, so groups of one optimizer may differ.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from ..optimizers.rule_class import REGISTRY, RuleClass
from ..schedules import Schedule
from ..schedules.plateau import Plateau

Group = Mapping[str, Any]


class Rule(NamedTuple):
    """What one group of parameters is moved by."""

    cls: type[RuleClass]
    decay: str | None
    maximize: bool
    convention: str | None
    options: dict[str, Any]            # what fastlr's class takes once, when it is made

    @property
    def keywords(self) -> dict[str, Any]:
        """What fastlr's class is made with."""
        given = {"maximize": self.maximize, **self.options}
        if self.decay is not None:
            given["decay"] = self.decay
        if self.convention is not None:
            given["convention"] = self.convention
        return given


class Peer(NamedTuple):
    """A class of torch: the name of fastlr's class for a group, and what else that needs."""

    names: Callable[[Group], str]
    decay: Callable[[Group], str | None] = lambda group: None
    options: Callable[[Group], dict[str, Any]] = lambda group: {}
    values: Mapping[str, Callable[[Group], Any]] = {}
    convention: str | None = "torch"
    counts_steps: bool = True          # whether torch's state has a `step`
    only_sparse: bool = False          # whether it refuses dense gradients


def name_of_sgd(group: Group) -> str:
    if group["momentum"] == 0:
        return "SGD"
    return "Nesterov" if group["nesterov"] else "Momentum"


def name_of_rmsprop(group: Group) -> str:
    return "RMSprop" + "Centered" * bool(group["centered"]) + "Momentum" * bool(group["momentum"] > 0)


def name_of_adam(group: Group) -> str:
    return "AMSGrad" if group["amsgrad"] else "Adam"


def decay_of_group(group: Group) -> str:
    return "decoupled" if group.get("decoupled_weight_decay") else "coupled"


def options_of_muon(group: Group) -> dict[str, Any]:
    return {"coefficients": tuple(map(float, group["ns_coefficients"])), "steps": group["ns_steps"],
            "nesterov": bool(group["nesterov"]), "adjust": group["adjust_lr_fn"] or "original", "fallback": None}


def named(name: str) -> Callable[[Group], str]:
    """The same class of fastlr for every group."""
    return lambda group: name


PEERS = {
    "SGD": Peer(name_of_sgd, counts_steps=False),
    "Adagrad": Peer(named("AdaGrad"),
                    options=lambda group: {"initial_accumulator_value": float(group["initial_accumulator_value"])}),
    "Adadelta": Peer(named("AdaDelta")),
    "RMSprop": Peer(name_of_rmsprop),
    "Adam": Peer(name_of_adam, decay_of_group),
    "AdamW": Peer(name_of_adam, lambda group: "decoupled"),
    "Adamax": Peer(named("AdaMax")),
    "NAdam": Peer(named("NAdam"), decay_of_group),
    "RAdam": Peer(named("RAdam"), decay_of_group),
    "ASGD": Peer(named("ASGD"), convention=None),
    "Rprop": Peer(named("Rprop")),
    "SparseAdam": Peer(named("Adam"), convention="keras", only_sparse=True),    # (eps as Keras adds it)
    "Adafactor": Peer(named("Adafactor"), values={
        "beta2_decay": lambda group: -group["beta2_decay"], "eps1": lambda group: group["eps"][0] or 0.0,
        "eps2": lambda group: group["eps"][1], "clip": lambda group: group["d"]}),
    "Muon": Peer(named("Muon"), options=options_of_muon, values={"norm_eps": lambda group: group["eps"]},
                 counts_steps=False),
}
PEERS = {name: peer for name, peer in PEERS.items() if hasattr(torch.optim, name)}

#: What fastlr writes otherwise than torch; both names give the class of torch's arguments.
TORCH_SPELLING = {"AdaGrad": "Adagrad", "AdaDelta": "Adadelta", "AdaMax": "Adamax"}

#: Where torch keeps several hyper-parameters in one entry of a group.
WITHIN = {"beta1": ("betas", 0), "beta2": ("betas", 1), "eta_minus": ("etas", 0), "eta_plus": ("etas", 1),
          "step_min": ("step_sizes", 0), "step_max": ("step_sizes", 1)}

#: What torch's classes take that says how, not what, is computed. None of it changes anything here.
WITHOUT_EFFECT: dict[str, Any] = {"foreach": None, "fused": None, "capturable": False, "differentiable": False}


def rule_of(peer: Peer | None, cls: type[RuleClass] | None, group: Group) -> Rule:
    """What a group is moved by: by torch's class, or by fastlr's `cls`."""
    maximize = bool(group.get("maximize", False))
    if peer is not None:
        chosen = REGISTRY[peer.names(group).lower()]
        convention = peer.convention if peer.convention in chosen.conventions else None
        return Rule(chosen, peer.decay(group), maximize, convention, peer.options(group))
    assert cls is not None
    options = {name: group[name] for name in (*cls.initial_states, *cls.options) if name in group}
    return Rule(cls, group.get("decay"), maximize, group.get("convention"), options)


def refuse_schedule(owner: str, name: str, value: Any) -> None:
    """TypeError for a schedule or a function: torch's checks cannot compare one with a number, and where torch's state
    counts no steps, it would begin anew when that is loaded."""
    if callable(value) and not isinstance(value, torch.Tensor):
        what = f"the schedule {type(value).__name__}" if isinstance(value, Schedule | Plateau) else repr(value)
        cure = "drive the optimizer by scheduler = schedule.to_torch(optimizer), and call scheduler.step()" \
            if name == "lr" else "set a number before each step"
        raise TypeError(f"{owner}: {name} must be a number, as in torch, got {what}; {cure}")


def values_of(owner: str, peer: Peer | None, cls: type[RuleClass], group: Group) -> dict[str, Any]:
    """A group's hyper-parameters, by fastlr's names: numbers, or of a class of fastlr's own a schedule."""
    special = peer.values if peer is not None else {}
    values = {}
    for name in cls.hypers:
        if name in special:
            value = special[name](group)
        elif name in group:
            value = group[name]
        elif name in WITHIN and WITHIN[name][0] in group:
            key, index = WITHIN[name]
            value = group[key][index]
        else:
            continue                   # (fastlr's default)
        if peer is not None:
            refuse_schedule(owner, name, value)
        values[name] = float(value) if isinstance(value, torch.Tensor) else value
    return values
