"""A torch optimizer for each of fastlr's, made from the declarations when it is first asked for."""
from __future__ import annotations

import inspect
from typing import Any

import torch

from ..optimizers.declaration import nearest
from ..optimizers.rule_class import REGISTRY, RuleClass
from .arguments import PEERS, TORCH_SPELLING, WITHOUT_EFFECT
from .optimizer import COMMON, Optimizer

MADE: dict[Any, type[Optimizer]] = {}


def class_of(name: str) -> type[Optimizer]:
    """The class of this name; AttributeError if fastlr has no such optimizer."""
    name = TORCH_SPELLING.get(name, name)
    if name in PEERS:
        key: Any = name
        if key not in MADE:
            MADE[key] = of_torch(name)
        return MADE[key]
    cls = REGISTRY.get(name.lower())
    if cls is None or cls.__name__ != name:
        known = names()
        raise AttributeError(f"module 'fastlr.torch' has no attribute {name!r}{nearest(name, known)}")
    if cls not in MADE:
        MADE[cls] = of_fastlr(cls)
    return MADE[cls]


def names() -> list[str]:
    """The names of all optimizers."""
    return sorted({*PEERS, *(cls.__name__ for cls in REGISTRY.values())})


def common_parameters() -> list[inspect.Parameter]:
    """fastlr's own keywords."""
    import fastlr

    known = fastlr.SGD.__signature__.parameters        # type: ignore[attr-defined]
    kind = inspect.Parameter.KEYWORD_ONLY
    return [known[name].replace(kind=kind) if name in known else inspect.Parameter(name, kind, default=None)
            for name in COMMON] + [inspect.Parameter(name, kind, default=False) for name in ("zero_grads", "in_backward")]


def refuse_differentiable(owner: str, given: dict[str, Any]) -> None:
    """What cannot be had: steps that autograd follows, or that a graph of an accelerator captures."""
    if given.get("differentiable"):
        raise ValueError(f"{owner}: differentiable=True is not supported, as steps are no operations of autograd; use "
                         f"torch.optim.{owner}")
    if given.get("capturable"):
        raise ValueError(f"{owner}: capturable=True is not supported, as steps are done on the CPU; leave it out")


def of_torch(name: str) -> type[Optimizer]:
    """A class with the arguments, checks and messages of torch's own, whose constructor it calls."""
    theirs = getattr(torch.optim, name)

    class Made(Optimizer, theirs):     # type: ignore[misc, valid-type]
        _peer = PEERS[name]

        def __init__(self, params: Any, *arguments: Any, **keywords: Any) -> None:
            self._take_common(keywords)
            bound = inspect.signature(theirs.__init__).bind(self, params, *arguments, **keywords)
            refuse_differentiable(name, bound.arguments)
            theirs.__init__(self, params, *arguments, **keywords)
            self._begin()

    signature = inspect.signature(theirs.__init__)
    own = [p for p in signature.parameters.values() if p.name != "self"]
    return finished(Made, name, own, theirs.__doc__)


def of_fastlr(cls: type[RuleClass]) -> type[Optimizer]:
    """A class with the arguments of fastlr's own."""
    declared = {**cls.hypers, **cls.initial_states, **cls.options}
    lr = cls.hypers["lr"]

    class Made(Optimizer):
        _rule_class = cls

        def __init__(self, params: Any, lr: Any = lr.default, **keywords: Any) -> None:
            owner = cls.__name__
            self._take_common(keywords)
            convention = self._common.get("convention")
            peer = cls.conventions.get(convention) if convention is not None else None
            usual = {} if peer is None else peer.defaults
            given = {"lr": usual.get("lr", lr) if lr is cls.hypers["lr"].default else lr}
            for name in list(keywords):
                if name not in declared and name not in ("maximize", *WITHOUT_EFFECT):
                    raise TypeError(f"{owner}: unknown keyword {name!r}{nearest(name, [*declared, *COMMON])} "
                                    f"(hyper-parameters: {', '.join(cls.hypers)})")
            for name, value in declared.items():
                if name != "lr":
                    given[name] = keywords.get(name, usual.get(name, value.default))
            checked = {name: given[name] if isinstance(given[name], torch.Tensor) else declared[name].checked(
                given[name], owner) for name in given}
            if isinstance(checked["lr"], torch.Tensor) and checked["lr"].numel() != 1:
                raise ValueError("Tensor lr must be 1-element")
            own = {**checked, "maximize": bool(keywords.get("maximize", False)),
                   **{name: keywords.get(name, value) for name, value in WITHOUT_EFFECT.items()}}
            refuse_differentiable(owner, own)
            torch.optim.Optimizer.__init__(self, params, own)
            self._begin()

    kind = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
           inspect.Parameter("lr", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=lr.default)]
    own += [inspect.Parameter(name, kind, default=value.default) for name, value in declared.items() if name != "lr"]
    own += [inspect.Parameter("maximize", kind, default=False)]
    own += [inspect.Parameter(name, kind, default=value) for name, value in WITHOUT_EFFECT.items()]
    return finished(Made, cls.__name__, own, cls.__doc__)


def finished(made: type[Optimizer], name: str, own: list[inspect.Parameter], doc: str | None) -> type[Optimizer]:
    """The class under its name, with its signature."""
    made.__name__ = made.__qualname__ = name
    made.__module__ = "fastlr.torch"
    made.__doc__ = doc
    taken = {p.name for p in own}
    more = [p for p in common_parameters() if p.name not in taken]
    made.__signature__ = inspect.Signature([*own, *more])      # type: ignore[attr-defined]
    return made
