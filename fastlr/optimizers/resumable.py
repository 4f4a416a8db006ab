"""The base class of wrappers, weight averages and LBFGS: they hold parameters and have state that is saved by name."""
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._engine.arrays import BFloat16, as_array, stored_as
from .._engine.tensor_versions import mark_written
from .._engine.tensors import FLOAT32, FLOAT64, STORAGES, Array, Tensor, bfloat16_bits, refuse_shared, values
from .base import Optimizer
from .declaration import nearest
from .groups import are_groups, bound
from .state import FORMAT, Prepared, copies, fill, refuse_others, write_all
from .state import prepared as prepared_optimizer
from .structure import Container, same_names

Assign = Callable[[], None]

set_attribute = object.__setattr__         # (to look it up takes as long as to call it)


class Resumable:
    """Saved by name and resumed exactly; `inner` is the optimizer or wrapper that it wraps, or None.

    A subclass defines its state: `_arrays` by parameter and slot, `_plain_state` as values that JSON can hold, and
    `_parsed`, which checks such values and returns the function that assigns them.
    """

    inner: Any = None
    _can_be_wrapped = False                    # whether it steps with gradients, as an optimizer does
    _optional: tuple[str, ...] = ()            # entries of `_plain_state` that a state may lack

    @property
    def _tensors(self) -> list[Tensor]:
        raise NotImplementedError

    @property
    def t(self) -> int:
        raise NotImplementedError

    @property
    def _saved_parts(self) -> list[Any]:
        """The optimizers of which this one consists, if it does."""
        return []

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return {}

    def _plain_state(self) -> dict[str, Any]:
        return {}

    def _parsed(self, d: Mapping[str, Any], who: str) -> Assign:
        raise NotImplementedError

    def _require_ready(self, what: str) -> None:
        """RuntimeError if the state cannot be saved or loaded at present."""

    def _parameters_written(self) -> None:
        """Let what depends on the parameters follow what was written to them."""
        if self.inner is not None:
            parameters_written(self.inner)
        elif "torch" in sys.modules:       # (several times in each step of LBFGS)
            mark_written([source for tensor in self._tensors for source in tensor.sources()])

    def _described(self) -> dict[str, Any]:
        """`state_dict` without its arrays and without the state of `inner`."""
        return {"format": FORMAT, "optimizer": type(self).__name__, "t": self.t, **self._plain_state()}

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, by name, as copies; "inner" is the state of the wrapped optimizer."""
        self._require_ready("state_dict")
        d = self._described()
        d["state"] = copies(self._arrays())
        return d if self.inner is None else d | {"inner": self.inner.state_dict()}

    def load_state_dict(self, d: Mapping[str, Any], *, strict: bool = True,
                        rename: Mapping[str, str] | Callable[[str], str] | None = None) -> list[str] | None:
        """Load what `state_dict` returned. Everything is checked before the first write; the arrays are copied.

        `strict`, `rename` and the list that is returned: see `Optimizer.load_state_dict`.
        """
        if rename is not None:
            from .fitting import renamed

            d = renamed(d, rename, f"{type(self).__name__}.load_state_dict")
        ready = self._prepared(d, strict)
        write_all([ready])
        return None if strict else ready.differences

    def _prepared(self, d: Mapping[str, Any], strict: bool) -> Prepared:
        """Check a state, and that of what is wrapped, before anything of it is written."""
        self._require_ready("load_state_dict")
        who = f"{type(self).__name__}.load_state_dict"
        if not isinstance(d, Mapping):
            raise TypeError(f"{who}: expected a mapping, got {type(d).__name__}")
        expected = [*self._described(), "state"] + ["inner"] * (self.inner is not None)
        if d.get("optimizer", type(self).__name__) != type(self).__name__:
            raise ValueError(f"{who}: this is the state of {d['optimizer']}; load it into an object of that class")
        same_names([name for name in expected if name not in self._optional],
                   {name: value for name, value in d.items() if name not in self._optional}, who)
        if d["format"] != FORMAT:
            raise ValueError(f"{who}: expected format {FORMAT}, got {d['format']!r}")
        arrays = self._arrays()
        report: list[str] = []
        if not strict:
            from .fitting import fitted_arrays

            d = {**d, "state": fitted_arrays(arrays, d["state"], report)}
            if "given" in d:           # (of GradientAccumulation: names of parameters)
                d["given"] = [name for name in d["given"] if name in arrays]
        refuse_others(arrays, d["state"], who)
        assign = self._parsed(d, who)
        inner = Prepared([], nothing, []) if self.inner is None else prepared(self.inner, d["inner"], strict)

        def write() -> None:
            inner.write()
            fill(arrays, d["state"])
            assign()

        return Prepared(inner.plans, write, report + inner.differences)

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name!r}{nearest(name, public_names(self))}")
        set_attribute(self, name, value)

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled, as it refers to the memory of its parameters; "
                        f"save state_dict(), or use fastlr.save")


def public_names(x: Any) -> list[str]:
    """The public attributes of an object."""
    return [name for name in dir(type(x)) if not name.startswith("_")]


def nothing() -> None:
    """Write nothing."""


def prepared(opt: Any, d: Mapping[str, Any], strict: bool) -> Prepared:
    """A state that is checked; that of a class with a `load_state_dict` of its own is checked where it is written."""
    if isinstance(opt, Optimizer) and type(opt).load_state_dict is Optimizer.load_state_dict:
        return prepared_optimizer(opt, d, strict)
    if isinstance(opt, Resumable) and type(opt).load_state_dict is Resumable.load_state_dict:
        return opt._prepared(d, strict)
    differences: list[str] = []
    keywords = {} if strict else {"strict": False}             # (which such a class may not take)

    def write() -> None:
        differences[:] = opt.load_state_dict(d, **keywords) or ()

    return Prepared([], write, differences)


# Parameters and gradients

def bound_parameters(params: Any, who: str, storages: Sequence[str] = STORAGES, dtype: str | None = None,
                     cure: str = "") -> tuple[Container | None, list[Tensor]]:
    """The structure in which gradients of these parameters come, and the tensors (see `bound`). Groups are refused."""
    if are_groups(params):
        raise TypeError(f"{who}: takes parameters, not groups, as it has no hyper-parameters per group; "
                        f"pass an array, a sequence or a mapping")
    part, tensors, _ = bound(params, who, dtype=dtype)
    for tensor in tensors:
        if stored_as(tensor.array) not in storages:
            raise TypeError(f"{who}: params[{tensor.name!r}]: expected {' or '.join(storages)}, "
                            f"got {stored_as(tensor.array)}{cure}")
    refuse_shared(tensors, who)
    return part, tensors


def checked_gradient(tensor: Tensor, gradient: Any) -> Array | None:
    """A gradient as an array; ValueError if a step would refuse its shape or dtype."""
    if gradient is None:
        return None
    array: Array = gradient if type(gradient) is np.ndarray else as_array(gradient, tensor.label)
    own = tensor.array
    dtype = array.dtype
    if dtype is own.dtype and (dtype is FLOAT32 or dtype is FLOAT64) and array.shape == own.shape:
        return array                   # (the usual case)
    if array.dtype == np.uint16 and isinstance(own, BFloat16):
        array = array.view(BFloat16)
    stored = stored_as(array)
    if stored not in STORAGES or array.shape != own.shape or (stored == "float64") != (stored_as(own) == "float64"):
        raise ValueError(f"{tensor.label}: expected {stored_as(own)} {own.shape} like the parameter, "
                         f"got {stored or array.dtype} {array.shape}")
    return array


def unwrapped(opt: Any) -> Any:
    """The optimizer inside all wrappers."""
    while getattr(opt, "inner", None) is not None:
        opt = opt.inner
    return opt


def tensors_of(opt: Any) -> list[Tensor]:
    """The parameters of an optimizer, wrapper or weight average."""
    opt = unwrapped(opt)
    tensors: list[Tensor] = opt._plan.tensors if isinstance(opt, Optimizer) else opt._tensors
    return tensors


def rules_of(opt: Any) -> list[Optimizer]:
    """The optimizers inside all wrappers: those of the parts of a Partition."""
    rule = unwrapped(opt)
    return [rule] if isinstance(rule, Optimizer) else [
        each for part in getattr(rule, "_saved_parts", ()) for each in rules_of(part)]


def refuse_replaced(opt: Any) -> None:
    """RuntimeError where parameters were replaced or hold their means: before something reads or writes them."""
    for rule in rules_of(opt):
        rule._plan.refuse_replaced()


def parameters_written(opt: Any) -> None:
    """Let what depends on an optimizer's parameters follow what was written to them.

    Their 16-bit copies are rounded, and the versions of tensors of PyTorch move.
    """
    if isinstance(opt, Optimizer):
        opt.cast()
        mark_written([tensor.source for tensor in opt._plan.tensors if tensor.source is not None])
    elif isinstance(opt, Resumable):
        opt._parameters_written()


# Whole tensors as float32 or float64

def flattened(array: Array) -> Array:
    """An array as one contiguous row of float32 or float64, in C order: a view where possible, else a copy."""
    if is_plain(array):
        return np.asarray(array).reshape(-1)
    copy: Array = np.require(np.asarray(values(array)), requirements=("C", "A")).reshape(-1)
    return copy


def is_plain(array: Array) -> bool:
    """Whether an array can be computed with where it is: contiguous, aligned, and float32 or float64."""
    if array.dtype not in (FLOAT32, FLOAT64):
        return False
    flags = array.flags
    return flags.c_contiguous and flags.aligned


def write_back(array: Array, numbers: Array) -> None:
    """Write numbers that `flattened` returned into the array, rounded to nearest; a view needs no write."""
    if np.may_share_memory(array, numbers):
        return
    if isinstance(array, BFloat16):
        np.asarray(array)[...] = bfloat16_bits(numbers).reshape(array.shape)
        return
    with np.errstate(over="ignore"):
        array[...] = numbers.reshape(array.shape).astype(array.dtype)
