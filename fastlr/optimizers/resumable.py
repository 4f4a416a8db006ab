"""What holds parameters and remembers something about them, beside the optimizers that are one rule."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._engine.arrays import BFloat16, as_array, stored_as
from .._engine.tensors import STORAGES, Array, Tensor, refuse_shared, values
from .base import Optimizer
from .groups import are_groups, bound
from .state import FORMAT, copies, fill, refuse_others
from .structure import Container, arranged, same_names

Act = Callable[[], None]


class Resumable:
    """Saved by name and resumed exactly; `inner` is what it wraps, if it wraps anything.

    A subclass says what it remembers: `_arrays` by parameter and slot, `_plain` as values that JSON can hold, and
    `_revived`, which refuses plain values that cannot be or returns the act that takes them on.
    """

    inner: Any = None

    @property
    def _tensors(self) -> list[Tensor]:
        raise NotImplementedError

    @property
    def t(self) -> int:
        raise NotImplementedError

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return {}

    def _plain(self) -> dict[str, Any]:
        return {}

    def _revived(self, d: Mapping[str, Any], who: str) -> Act:
        raise NotImplementedError

    def _settled(self, what: str) -> None:
        """RuntimeError if now is no moment to save or load."""

    def _described(self) -> dict[str, Any]:
        """`state_dict` without its arrays and without what is wrapped."""
        return {"format": FORMAT, "optimizer": type(self).__name__, "t": self.t, **self._plain()}

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, by name, as copies; of what is wrapped too, as "inner"."""
        self._settled("state_dict")
        d = self._described()
        d["state"] = copies(self._arrays())
        return d if self.inner is None else d | {"inner": self.inner.state_dict()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Become what `state_dict` described. Everything is checked first; the arrays are copied."""
        self._settled("load_state_dict")
        who = f"{type(self).__name__}.load_state_dict"
        if not isinstance(d, Mapping):
            raise TypeError(f"{who}: expected a mapping, got {type(d).__name__}")
        expected = [*self._described(), "state"] + ["inner"] * (self.inner is not None)
        if d.get("optimizer", type(self).__name__) != type(self).__name__:
            raise ValueError(f"{who}: this is the state of {d['optimizer']}, load it into one")
        same_names(expected, d, who)
        if d["format"] != FORMAT:
            raise ValueError(f"{who}: expected format {FORMAT}, got {d['format']!r}")
        arrays = self._arrays()
        refuse_others(arrays, d["state"], who)
        act = self._revived(d, who)
        if self.inner is not None:
            self.inner.load_state_dict(d["inner"])           # (refuses before it changes anything)
        fill(arrays, d["state"])
        act()

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled, as it points into its parameters' memory; "
                        f"save state_dict(), or use fastlr.save")


# Parameters and gradients

def held(params: Any, who: str, storages: Sequence[str] = STORAGES, dtype: str | None = None,
         cure: str = "") -> tuple[Container | None, list[Tensor]]:
    """The structure of these parameters, and their tensors (see `bound`), where there are no groups."""
    if are_groups(params):
        raise TypeError(f"{who}: takes parameters, not groups: nothing of it differs between them; "
                        f"pass an array, a sequence or a mapping")
    part, tensors, _ = bound(params, who, dtype=dtype)
    for tensor in tensors:
        if stored_as(tensor.array) not in storages:
            raise TypeError(f"{who}: params[{tensor.name!r}]: expected {' or '.join(storages)}, "
                            f"got {stored_as(tensor.array)}{cure}")
    refuse_shared(tensors, who)
    return part, tensors


def gradients(tensors: list[Tensor], part: Container | None, grads: Any, who: str) -> list[Array | None]:
    """Gradients in the order of the tensors, each of its parameter's shape and a type that it can take."""
    return [checked(tensor, g) for tensor, g in zip(tensors, arranged(part, grads, who, "grads"), strict=True)]


def checked(tensor: Tensor, gradient: Any) -> Array | None:
    """A gradient as an array; ValueError unless it fits the parameter as a step would have it."""
    if gradient is None:
        return None
    array, own = as_array(gradient, tensor.label), tensor.array
    if array.dtype == np.uint16 and isinstance(own, BFloat16):
        array = array.view(BFloat16)
    stored = stored_as(array)
    if stored not in STORAGES or array.shape != own.shape or (stored == "float64") != (stored_as(own) == "float64"):
        raise ValueError(f"{tensor.label}: expected {stored_as(own)} {own.shape} like the parameter, "
                         f"got {stored or array.dtype} {array.shape}")
    return array


def innermost(opt: Any) -> Any:
    """What all wrappers around it wrap."""
    while getattr(opt, "inner", None) is not None:
        opt = opt.inner
    return opt


def tensors_of(opt: Any) -> list[Tensor]:
    """The parameters of an optimizer or of whatever else is saved."""
    opt = innermost(opt)
    tensors: list[Tensor] = opt._plan.tensors if isinstance(opt, Optimizer) else opt._tensors
    return tensors


def cast(opt: Any) -> None:
    """Bring the 16-bit copies of an optimizer's parameters to what those are, if it keeps such."""
    inside = innermost(opt)
    if isinstance(inside, Optimizer):
        inside.cast()


# Whole tensors as numbers

def flat(array: Array) -> Array:
    """An array as contiguous float32 or float64, in C order: a view where it is, or else a copy."""
    if array.dtype in (np.float32, np.float64) and array.flags.c_contiguous and array.flags.aligned:
        return np.asarray(array).reshape(-1)
    copy: Array = np.require(np.asarray(values(array)), requirements=("C", "A")).reshape(-1)
    return copy


def give(array: Array, numbers: Array) -> None:
    """Bring numbers that `flat` gave back to where they came from, rounded to nearest; nothing to do for a view."""
    if np.may_share_memory(array, numbers):
        return
    if isinstance(array, BFloat16):
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        rounded = np.where(np.isnan(numbers), bits >> 16 | 0x40, (bits + 0x7fff + (bits >> 16 & 1)) >> 16)
        np.asarray(array)[...] = rounded.astype(np.uint16).reshape(array.shape)
        return
    with np.errstate(over="ignore"):
        array[...] = numbers.reshape(array.shape).astype(array.dtype)
