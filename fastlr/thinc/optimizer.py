"""What every optimizer of `fastlr.thinc` is: one that thinc calls with a key, weights and a gradient."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from math import inf
from typing import Any, ClassVar

import numpy as np
import thinc.optimizers

from .._engine.plan import Plan
from ..optimizers.base import Optimizer as Stepper
from ..optimizers.declaration import HyperParameter, nearest
from ..optimizers.rule_class import RuleClass
from ..schedules.expression import parse

Key = tuple[int, str]

#: What thinc calls hyper-parameters of fastlr.
THINC_NAMES = {"lr": "learn_rate", "weight_decay": "L2"}

#: What all of them take beside the rule's own, with the defaults that thinc has.
COMMON: dict[str, Any] = {
    "L2_is_weight_decay": None, "grad_clip": 1.0, "use_averages": True, "convention": None, "clip_value": None,
    "nonfinite": "propagate", "state_dtype": None, "rounding": "nearest", "seed": 0,
}
MOST_DECAY = 0.9999            # of averages, as in thinc


def named(name: str) -> str:
    """What a hyper-parameter is called here."""
    return THINC_NAMES.get(name, name)


class Parameter:
    """One parameter that thinc has shown: its optimizer, and what of that each call uses."""

    __slots__ = ("keeps_mean", "opt", "plan", "step", "version", "weights")

    opt: Stepper
    plan: Plan
    step: Callable[..., None]

    def __init__(self, weights: Any, opt: Stepper) -> None:
        self.weights, self.version, self.keeps_mean = weights, -1, opt.ema_decay is not None
        self.use(opt)

    def use(self, opt: Stepper) -> None:
        self.opt, self.plan = opt, opt._plan
        self.step = opt._plan.step


class Optimizer(thinc.optimizers.Optimizer):
    """An optimizer of thinc whose step is one of fastlr's, parameter by parameter.

    Called with a key, weights and a gradient, it updates the weights in place, sets the gradient to zero, and returns
    both, as thinc's own. State belongs to the key: weights that come in other memory go on with it.

    Parameters
    ----------
    learn_rate, L2, grad_clip and the hyper-parameters of the rule
        A number; a list or an iterator, as thinc's schedules are; a callable t -> number, as fastlr's schedules are; or
        one of these as text, ``"cosine(1e-3, steps=20000).warmup(250)"``. `step_schedules` goes on to the next value.
    L2_is_weight_decay
        True: L2 shrinks the weights (as in AdamW). False: it is added to the gradient. None: as the rule's name means.
    grad_clip
        The norm to which each gradient is scaled down; 0: as it is.
    use_averages
        Keep a mean of each parameter, by thinc's formula, in `averages`. Rules that have a mean of their own
        (ScheduleFreeAdamW, ASGD) show that.
    convention, clip_value, nonfinite, state_dtype, rounding, seed
        See `fastlr.Optimizer`. `convention` chooses the formula; the defaults of numbers are those of this signature.

    Raises
    ------
    TypeError, ValueError
        For arguments when it is made; for weights and gradients before anything is written.

    Differs from `thinc.optimizers.Optimizer`: the norm is compared with 1e-6 added, and weight decay is done before the
    update rather than after it.
    """

    __slots__ = ("_keywords", "_limit", "_parameters", "_uses_averages", "_values", "_version", "schedules")

    _rule_class: ClassVar[type[RuleClass]]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        cls, owner = self._rule_class, type(self).__name__
        known = type(self).__signature__.parameters
        unknown = next((name for name in keywords if name not in known), None)
        if unknown is not None:
            raise TypeError(f"{owner}: unknown keyword {unknown!r}{nearest(unknown, known)}")
        bound = type(self).__signature__.bind(*arguments, **keywords)
        given = {name: parameter.default for name, parameter in known.items()} | bound.arguments
        self._values: dict[str, float] = {}
        self._parameters: dict[Key, Parameter] = {}
        self._version = 0
        self.schedules: dict[str, Iterator[float]] = {}
        self._uses_averages = bool(given.pop("use_averages"))
        shrinks = given.pop("L2_is_weight_decay")
        if shrinks not in (None, False, True):
            raise ValueError(f"{owner}: L2_is_weight_decay must be True, False or None, got {shrinks!r}")
        self._set("grad_clip", given.pop("grad_clip"))
        for name in cls.hypers:
            self._set(named(name), given.pop(named(name)))
        if shrinks is not None:
            given["decay"] = "decoupled" if shrinks else "coupled"
        self._keywords: dict[str, Any] = given
        self._stepper(np.zeros((2, 2), np.float32))            # (what is wrong is said here, not in the first step)

    def _set(self, name: str, value: Any) -> None:
        """Set a number, or the first of a schedule, which is kept."""
        if isinstance(value, str):
            value = parse(value)
        if callable(value):
            value = map(value, count())
        elif isinstance(value, list | tuple):
            value = iter(value)
        if hasattr(value, "__next__"):
            self.schedules[name] = value
            try:
                value = next(value)
            except StopIteration:
                raise ValueError(f"{type(self).__name__}: {name}: a schedule without values") from None
        setattr(self, name, value)

    # Values

    @staticmethod
    def value(name: str) -> property:
        """A hyper-parameter as an attribute, under thinc's name."""
        def read(self: Optimizer) -> float:
            return self._values[name]

        def write(self: Optimizer, value: float) -> None:
            declared = self._rule_class.hypers[name]
            bounds = HyperParameter(declared.default, declared.low, declared.high)
            bounds.name = named(name)
            if callable(value):
                raise TypeError(f"{type(self).__name__}: {named(name)} must be a number here, got {value!r}; give a "
                                f"schedule to the constructor")
            self._values[name] = bounds.checked(value, type(self).__name__)    # type: ignore[assignment]
            self._version += 1

        return property(read, write, doc=f"The present value of {named(name)}.")

    learn_rate = value("lr")
    L2 = value("weight_decay")

    @property
    def b1(self) -> float:
        """beta1, as thinc calls it; 0 for a rule that has none, as in thinc."""
        return self._values.get("beta1", 0.0)

    @property
    def b2(self) -> float:
        """beta2, as thinc calls it; 0 for a rule that has none, as in thinc."""
        return self._values.get("beta2", 0.0)

    @property
    def grad_clip(self) -> float:
        """The norm to which each gradient is scaled down, or 0."""
        return self._limit or 0.0

    @grad_clip.setter
    def grad_clip(self, value: float | None) -> None:
        bounds = HyperParameter(1.0, 0.0, inf)
        bounds.name = "grad_clip"
        limit = bounds.checked(0.0 if value is None else value, type(self).__name__)
        self._limit: float | None = limit or None              # type: ignore[assignment]
        self._version += 1

    # Steps

    def __call__(self, key: Key, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> tuple[Any, Any]:
        """Update the weights in place and set the gradient to zero; both are returned.

        `key` names the parameter, usually by the number of its model and its name; `lr_scale` is a factor of the
        learning rate in this call.
        """
        parameter = self._parameters.get(key)
        if parameter is None or parameter.weights is not weights:
            parameter = self._bound(key, weights)
        if parameter.version != self._version or lr_scale != 1.0:
            self._assign(parameter, lr_scale)
        if parameter.keeps_mean:
            t = parameter.plan.t + 1
            decay = (1.0 + t) / (10.0 + t)
            parameter.plan.set_ema_decay(decay if decay < MOST_DECAY else MOST_DECAY)
        parameter.step([gradient], 1.0, True)
        return weights, gradient

    def _assign(self, parameter: Parameter, lr_scale: float) -> None:
        """Give a parameter's plan the present values."""
        opt = parameter.opt
        if opt.clip_tensor_norm != self._limit:
            opt.clip_tensor_norm = self._limit                 # (which makes another plan)
            parameter.use(opt)
        for index, name in enumerate(opt._fields):
            value = self._values[name]
            parameter.plan.assign(0, index, value * lr_scale if name == "lr" else value)
        parameter.version = self._version if lr_scale == 1.0 else -1

    def _stepper(self, weights: Any) -> Stepper:
        """The optimizer of one parameter."""
        cls: Any = self._rule_class
        has_mean = hasattr(cls, "averaged")
        return cls([weights], **self._values, **self._keywords, clip_tensor_norm=self._limit,    # type: ignore[no-any-return]
                   ema_decay=0.0 if self._uses_averages and not has_mean else None)

    def _bound(self, key: Key, weights: Any) -> Parameter:
        """The parameter of this key, which is in other memory than before, or new."""
        known = self._parameters.get(key)
        if known is not None and same_memory(known.weights, weights):
            known.weights = weights
            return known
        if type(weights) is not np.ndarray:
            raise TypeError(f"{type(self).__name__}: weights of {key!r}: expected an array of NumPy, got "
                            f"{type(weights).__name__}; fastlr steps on the CPU: train with gpu_id=-1")
        opt = self._stepper(weights)
        if known is None:
            if opt.ema_decay is not None:
                opt.ema["0"] = 0.0                             # (as thinc's, which forget it soon)
        else:
            if known.weights.shape != weights.shape:
                raise ValueError(f"{type(self).__name__}: weights of {key!r}: expected shape {known.weights.shape} as "
                                 f"before, got {weights.shape}; make a new optimizer for another model")
            opt.load_state_dict(known.opt.state_dict())
        parameter = self._parameters[key] = Parameter(weights, opt)
        return parameter

    # What is kept

    @property
    def averages(self) -> dict[Key, Any] | None:
        """The mean of each parameter by key, as `nlp.use_params` takes them; None if none is kept."""
        if not self._uses_averages:
            return None
        return {key: parameter.opt.ema["0"] if parameter.keeps_mean else parameter.opt.averaged["0"]   # type: ignore
                for key, parameter in self._parameters.items()}

    @property
    def nr_update(self) -> dict[Key, int]:
        """How many updates each parameter has had, by key."""
        return {key: parameter.plan.t for key, parameter in self._parameters.items()}

    @property
    def state(self) -> dict[Key, Any]:
        """The state of each parameter by key: slot -> array."""
        return {key: parameter.opt.state["0"] for key, parameter in self._parameters.items()}

    def __repr__(self) -> str:
        return f"fastlr.thinc.{type(self).__name__}({', '.join(f'{named(k)}={v!r}' for k, v in self._values.items())})"


def same_memory(a: Any, b: Any) -> bool:
    """Whether two arrays are the same elements of memory."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray:
        return False
    one, other = a.__array_interface__, b.__array_interface__
    return all(one[name] == other[name] for name in ("data", "shape", "strides", "typestr"))
