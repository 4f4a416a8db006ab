"""A torch optimizer for each of fastlr's, made from the declarations when it is first asked for."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch

from .._engine.torch_tensors import array_over
from ..optimizers.binding import OTHER_NAMES
from ..optimizers.curvature import decays
from ..optimizers.declaration import COMMON as DESCRIBED
from ..optimizers.declaration import common_keywords, nearest, own_arguments
from ..optimizers.rule_class import REGISTRY, RuleClass
from .arguments import PEERS, TORCH_SPELLING, WITHOUT_EFFECT, refuse_schedule
from .optimizer import COMMON, Optimizer, hooked_step, plain_step, refuse_beside_differentiable

MADE: dict[Any, type[Optimizer]] = {}


class WithLoss(Optimizer):
    """What is given the loss of each step: `step(closure)` takes what the closure returns, or ``step(loss=loss)``."""

    _needs_more = True

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """As `Optimizer.step`; the loss comes from the closure, or as `loss`, where the gradients were taken."""
        return step_with(self, closure, loss=loss)

    step.hooked = True                 # type: ignore[attr-defined]

    def _given(self, returned: Any, loss: Any = None) -> dict[str, Any]:      # type: ignore[override]
        who, loss = type(self).__name__, returned if loss is None else loss
        if loss is None:
            raise TypeError(f"{who}: step needs the loss: step(closure), or step(loss=loss)")
        value = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        if not isfinite(value):
            raise ValueError(f"{who}: loss must be finite, got {value}; leave such a step out")
        return {"loss": -value if self.param_groups[0]["maximize"] else value}


class WithCurvature(Optimizer):
    """What is given estimates of the curvature in some steps."""

    _needs_more = True

    def step(self, closure: Callable[[], Any] | None = None, *,
             curvature: Sequence[Any] | None = None) -> Any:
        """As `Optimizer.step`; `curvature` has a tensor, or None, for each parameter in the order of the groups."""
        return step_with(self, closure, curvature=curvature)

    step.hooked = True                 # type: ignore[attr-defined]

    def _given(self, returned: Any, curvature: Sequence[Any] | None = None) -> dict[str, Any]:  # type: ignore[override]
        params = [param for group in self.param_groups for param in group["params"]]
        if curvature is not None and len(curvature) != len(params):
            raise ValueError(f"{type(self).__name__}: expected {len(params)} estimates of curvature, one for each "
                             f"parameter, got {len(curvature)}")
        return {"keeps": decays, "curvature": None if curvature is None else
                {id(param): None if estimate is None else array_over(estimate.detach())
                 for param, estimate in zip(params, curvature, strict=True)}}


def step_with(opt: Optimizer, closure: Any, **more: Any) -> Any:
    """A step with more than gradients, with hooks where there are any."""
    arguments = (opt,) if closure is None else (opt, closure)
    return hooked_step(*arguments, **more) if opt._has_hooks() else plain_step(*arguments, **more)


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

    known = fastlr.SGD.__signature__.parameters
    kind = inspect.Parameter.KEYWORD_ONLY
    return [known[name].replace(kind=kind) if name in known else inspect.Parameter(name, kind, default=None)
            for name in COMMON] + [inspect.Parameter(name, kind, default=False)
                                   for name in ("zero_grads", "in_backward")]


def hint(word: str, known: Sequence[str]) -> str:
    """A hint at what this keyword is called here, or nothing."""
    known = [*known, *COMMON, "zero_grads", "in_backward"]
    other = OTHER_NAMES.get(word, "")
    return f"; did you mean {other!r}?" if other in known else nearest(word, known)


def refuse_capturable(owner: str, given: dict[str, Any]) -> None:
    """What cannot be had: steps that a graph of an accelerator captures."""
    if given.get("capturable"):
        raise ValueError(f"{owner}: capturable=True is not supported, as steps are done on the CPU; leave it out")


def of_torch(name: str) -> type[Optimizer]:
    """A class with the arguments, checks and messages of torch's own, whose constructor it calls."""
    theirs = getattr(torch.optim, name)

    class Made(Optimizer, theirs):     # type: ignore[misc, valid-type]
        _peer = PEERS[name]
        _step_of_torch = staticmethod(inspect.unwrap(theirs.step))

        def __init__(self, params: Any, *arguments: Any, **keywords: Any) -> None:
            self._take_common(keywords)
            if self._common.get("convention") is not None:
                raise ValueError(f"{name}: convention={self._common['convention']!r} is not for a class of torch's, "
                                 f"which has torch's formula; leave it out")
            for word in keywords:
                if word not in known:
                    raise TypeError(f"{name}: unknown keyword {word!r}{hint(word, known)}")
            bound = inspect.signature(theirs.__init__).bind(self, params, *arguments, **keywords)
            refuse_schedule(name, "lr", bound.arguments.get("lr"))
            refuse_capturable(name, bound.arguments)
            if bound.arguments.get("differentiable"):
                refuse_beside_differentiable(name, [*self._common, *(
                    word for word in ("zero_grads", "in_backward") if getattr(self, word))])
            theirs.__init__(self, params, *arguments, **keywords)
            if "state_dtype" in self._common:              # (Adagrad makes it at once, in the parameters' type)
                self.state.clear()
            self._begin()

    signature = inspect.signature(theirs.__init__)
    known = [word for word in signature.parameters if word != "self"]
    own = [p for p in signature.parameters.values() if p.name != "self"]
    return finished(Made, name, own, f"fastlr's {name}, with the arguments of torch's, which are described below.\n"
                    f"{keywords_here(without='convention')}\n\n{inspect.cleandoc(theirs.__doc__ or '')}\n")


def of_fastlr(cls: type[RuleClass]) -> type[Optimizer]:
    """A class with the arguments of fastlr's own."""
    declared: dict[str, Any] = {**cls.hypers, **cls.initial_states, **cls.options}
    lr = cls.hypers["lr"]

    class Made(WithLoss if cls.needs_loss else WithCurvature if cls.needs_curvature else Optimizer):   # type: ignore
        _rule_class = cls

        def __init__(self, params: Any, lr: Any = lr.default, **keywords: Any) -> None:
            owner = cls.__name__
            self._take_common(keywords)
            convention = self._common.get("convention")
            if convention is not None and convention not in cls.conventions:
                named = ", ".join(map(repr, cls.conventions)) or "left out, as libraries do not differ in this rule"
                raise ValueError(f"{owner}: convention must be {named}, got {convention!r}")
            peer = cls.conventions.get(convention) if convention is not None else None
            usual = {} if peer is None else peer.defaults
            given = {"lr": usual.get("lr", lr) if lr is cls.hypers["lr"].default else lr}
            for name in list(keywords):
                if name not in declared and name not in ("maximize", *WITHOUT_EFFECT):
                    raise TypeError(f"{owner}: unknown keyword {name!r}{hint(name, list(declared))} "
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
            refuse_capturable(owner, own)
            if own["differentiable"]:
                raise ValueError(f"{owner}: differentiable=True is not supported, as torch has no step of {owner} that "
                                 f"autograd could follow; leave it out")
            torch.optim.Optimizer.__init__(self, params, own)
            self._begin()

    kind = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD), *own_arguments(declared)]
    own += [inspect.Parameter("maximize", kind, default=False)]
    own += [inspect.Parameter(name, kind, default=value) for name, value in WITHOUT_EFFECT.items()]
    doc = inspect.cleandoc((cls.__doc__ or "").replace(common_keywords(), ""))
    first = f"`fastlr.{cls.__name__}` for tensors of torch; its example is of arrays."
    return finished(Made, cls.__name__, own, f"{first}\n\n{doc}\n{keywords_here()}\n")


#: What is described otherwise than for optimizers of arrays, or is here alone.
HERE = {
    "ema_decay": 'keeps a running mean of the parameters, opt.state[p]["ema"]',
    "catch_up_rows": "True: rows that a sparse gradient did not touch have those updates later, in catch_up()",
    "zero_grads": "sets gradients to zero in the pass that reads them",
    "in_backward": "moves each parameter when its gradient is complete, and frees the gradient",
}


def keywords_here(without: str = "") -> str:
    """A paragraph for the docstring of each class: fastlr's own keywords."""
    described = {name: text for name, text in {**DESCRIBED, **HERE}.items()
                 if name in (*COMMON, *HERE) and name != without}
    lines = "\n".join(f"    {name}: {text}." for name, text in described.items())
    return f"\nKeywords beside these, of which `help(fastlr.Optimizer)` says more::\n\n{lines}"


def finished(made: type[Optimizer], name: str, own: list[inspect.Parameter], doc: str | None) -> type[Optimizer]:
    """The class under its name, with its signature."""
    made.__name__ = made.__qualname__ = name
    made.__module__ = "fastlr.torch"
    made.__doc__ = doc
    taken = {p.name for p in own}
    more = [p for p in common_parameters() if p.name not in taken]
    made.__signature__ = inspect.Signature([*own, *more])
    return made
