"""The tensors of an optimizer: parameters as arrays over the caller's memory, with their state and exceptions."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .arena import Arena
from .arrays import BFloat16, as_array, overlaps_itself, stored_as

Array = np.ndarray[Any, np.dtype[Any]]

STORAGES = ("float32", "float64", "float16", "bfloat16")
GROUP = 64             # elements of an 8-bit state that share a scale
NONNEGATIVE = {"alpha", "s", "u", "v", "vmax"}      # slots that add up squares, unless a class declares them `signed`
POSITIONS = {"ax", "x0", "z"}              # slots that say where a parameter is or was: 8 bits would move it
SMALL = 4096           # tensors of fewer elements keep their state in float32 rather than in 8 bits


class Tensor:
    """One parameter: where it lies, how it is walked, and what differs for it alone."""

    __slots__ = (
        "allocated",
        "array",
        "axes",
        "decay",
        "decays",
        "factor",
        "group",
        "is_double",
        "label",
        "matrices",
        "matrix_shape",
        "memory",
        "name",
        "rest",
        "scale",
        "scales",
        "shadow",
        "state",
    )

    def __init__(self, name: str, array: Array, group: int, label: str, axes: tuple[int, ...]) -> None:
        self.name, self.array, self.group, self.label, self.axes = name, array, group, label, axes
        self.factor, self.decays, self.decay = 1.0, True, "coupled"
        self.scale: Array | None = None
        self.rest: Array | None = None             # what a bfloat16 parameter leaves of the float32 that moves
        self.shadow: Array | None = None           # a 16-bit copy that follows the parameter
        self.is_double = array.dtype == np.float64      # whether the rule computes in float64
        self.state: list[Array] = []               # a slot each, as it is stored
        self.scales: list[Array | None] = []       # what 8-bit slots are in units of, 64 elements each
        self.allocated = False
        self.memory: Array = np.zeros(0)           # what the rule remembers of the tensor as a whole
        self.matrices: dict[str, Array] = {}         # slots that are not of the parameter's shape
        self.matrix_shape = (1, 1, array.size)     # for a matrix rule: how many matrices, their rows and columns

    def alike(self, stored: str, arena: Arena | None = None) -> Array:
        """A new array of the parameter's shape, laid out in memory in the order in which it is walked."""
        shape = [self.array.shape[axis] for axis in self.axes]
        dtype = np.dtype("uint16" if stored == "bfloat16" else stored)
        if arena is None:
            laid: Array = np.zeros(shape, dtype)
        else:
            laid = arena.take(self.array.size * dtype.itemsize).view(dtype).reshape(shape)
        if stored == "bfloat16":
            laid = laid.view(BFloat16)
        return laid.transpose(np.argsort(self.axes)) if self.axes else laid

    def storage(self, slot: str, stored: str, signed: Sequence[str]) -> str:
        """How a slot is stored, given what was asked for; those of `signed` may hold negative numbers."""
        if slot == "ema":
            return "float64" if self.is_double or stored == "float64" else "float32"
        if stored != "int8":
            return stored
        if slot in POSITIONS:
            return "float64" if self.is_double else "float32"
        if self.array.size < SMALL:
            return "float32"
        return "uint8" if slot in NONNEGATIVE and slot not in signed else "int8"

    def sizes(self, slots: Sequence[str], stored: str, signed: Sequence[str]) -> list[int]:
        """The bytes that `allocate` takes for each slot."""
        kinds = [self.storage(slot, stored, signed) for slot in slots]
        return [self.array.size * np.dtype("uint16" if kind == "bfloat16" else kind).itemsize for kind in kinds]

    def allocate(self, slots: Sequence[str], memory: Sequence[str], fill: Mapping[str, float], stored: str,
                 signed: Sequence[str], arena: Arena) -> None:
        """Room for what the rule remembers, and, as the slot "ema", a running mean that begins at the parameter."""
        self.is_double = self.is_double or stored == "float64"
        self.allocated = True
        self.memory = np.array([fill.get(name, 0.0) for name in memory])
        for slot in slots:
            kind, begin, scale = self.storage(slot, stored, signed), fill.get(slot, 0.0), None
            array = self.alike(kind, arena)
            if slot == "ema":
                array[...] = self.master()
            elif begin:                            # (what begins at zero is first touched in the first step)
                array[...] = companded(begin, kind)[0] if kind in ("uint8", "int8") else \
                    nearest16(begin) if kind == "bfloat16" else begin
            if kind in ("uint8", "int8"):
                scale = np.full(-(-self.array.size // GROUP), companded(begin, kind)[1], np.float32)
            self.state.append(array)
            self.scales.append(scale)

    def snapshot(self) -> dict[str, Any]:
        """All that `Optimizer._equip` may set on a tensor: for `restore`."""
        return {name: getattr(self, name) for name in self.__slots__} | {"matrices": dict(self.matrices)}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what the tensor was when the snapshot was taken."""
        for name, value in snapshot.items():
            setattr(self, name, value)

    def written(self) -> list[Array]:
        """All that a step writes."""
        beside = [x for x in (self.rest, self.shadow) if x is not None]
        return [self.array, *self.state, *self.matrices.values(), *beside]

    def master(self) -> Array:
        """The numbers that move, as an array that NumPy can compute with."""
        if self.rest is None:
            return values(self.array)
        upper = np.asarray(self.array).view(np.uint16).astype(np.uint32) << 16
        own, rest = upper & 0x7fffffff, self.rest.astype(np.int32)
        rest[(own == 0) | ((own == 0x7f800000) & (rest > 0))] = 0
        return (upper + rest.view(np.uint32)).view(np.float32)

    def cast(self) -> None:
        """Bring the 16-bit copy to what the parameter is."""
        if self.shadow is None:
            return
        x = self.master()
        if self.shadow.dtype == np.float16:
            with np.errstate(over="ignore", under="ignore"):
                self.shadow[...] = x
        else:
            self.shadow.view(np.uint16)[...] = nearest16(x)

    def shown(self, slots: Sequence[str], memory: Sequence[str]) -> dict[str, Array]:
        """The state by slot, the scales of an 8-bit slot beside it; the numbers of the whole; what a split leaves."""
        named: dict[str, Array] = {}
        for slot, array, scale in zip(slots, self.state, self.scales, strict=True):
            named[slot] = array
            if scale is not None:
                named[f"{slot}_scale"] = scale
        named |= {name: self.memory[k:k + 1].reshape(()) for k, name in enumerate(memory)}
        if self.rest is not None:
            named["remainder"] = self.rest
        return named | self.matrices

    def walked(self, values: Array) -> Array:
        """A copy of `values` in the precision of the rule, in the order in which the parameter is walked."""
        copy = self.alike("float64" if self.is_double else "float32")
        copy[...] = values
        return copy


def companded(x: float, kind: str) -> tuple[int, float]:
    """The 8-bit code of a group of nothing but x >= 0, and its scale, as codecs.pxi has them."""
    shift, steps, most = (2.0**-3, 32, 1.84375) if kind == "int8" else (2.0**-15, 16, 1.90625 - 2.0**-14)
    if x == 0:
        return 0, 0.0
    scale = 2.0 ** (math.frexp(x * 2 / most)[1] - 1)
    mantissa, exponent = math.frexp(x / scale + shift)
    return round((exponent - math.frexp(shift)[1] + 2 * mantissa - 1) * steps), scale


def named(params: Any, first: int) -> tuple[list[tuple[str, Any]], str]:
    """Names and arrays of one group, and how its gradients will come: "one", "sequence" or "mapping"."""
    if isinstance(params, Mapping):
        return [(str(name), array) for name, array in params.items()], "mapping"
    if is_array(params):
        return [(str(first), params)], "one"
    if isinstance(params, Iterable) and not isinstance(params, str):
        return [(str(first + k), array) for k, array in enumerate(params)], "sequence"
    raise TypeError(f"params: expected an array, a sequence or a mapping of arrays, or groups, "
                    f"got {type(params).__name__}")


def is_array(x: Any) -> bool:
    """Whether x is one tensor rather than several."""
    return isinstance(x, np.ndarray | memoryview | bytearray | bytes) or (
        hasattr(x, "__dlpack__") or hasattr(x, "typecode")
    )


def nearest16(x: Any) -> Array:
    """The nearest bfloat16s, ties to even, as their bits."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.asarray(x).astype(np.float32)
    u = narrow.view(np.uint32)
    if np.asarray(x).dtype == np.float64:          # (rounded once, not twice: cut off, what was lost in the last bit)
        lost = (narrow != x) & ~np.isnan(narrow)
        u = (u - (lost & (abs(narrow) > abs(x)))) | lost
    rounded = (u + np.uint32(0x7fff) + (u >> 16 & 1)) >> 16
    return np.where(np.isnan(narrow), u >> 16 | 0x40, rounded).astype(np.uint16)


def values(array: Array) -> Array:
    """The numbers of a parameter, whatever it is stored as, as an array that NumPy can compute with."""
    if isinstance(array, BFloat16):
        return (np.asarray(array).astype(np.uint32) << 16).view(np.float32)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def bind(name: str, x: Any, group: int, who: str, label: str, dtype: str | None, permuted: bool) -> Tensor:
    """A parameter over the caller's memory, refused unless it can be updated in place."""
    spoken = f"{who}: params[{name!r}]" if not name.isdecimal() else f"{who}: params[{name}]"
    array = as_array(x, spoken)
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = array.view(BFloat16)
    if stored_as(array) not in STORAGES:
        cure = "; cast its memoryview, e.g. memoryview(buffer).cast('f')" if isinstance(x, bytearray) else ""
        if array.dtype == np.uint16:
            cure = "; say dtype='bfloat16' if they are its bits"
        raise TypeError(f"{spoken}: expected float32, float64, float16 or bfloat16, got {array.dtype}{cure}")
    if not array.flags.writeable:
        raise ValueError(f"{spoken}: must be writable, got a read-only array")
    if array.size and overlaps_itself(array):
        raise ValueError(f"{spoken}: elements overlap in memory (shape {array.shape}, strides {array.strides}); "
                         f"pass a copy")
    axes = tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
    if array.flags.c_contiguous or not permuted:
        axes = tuple(range(array.ndim))
    return Tensor(name, array, group, label, axes)


def refuse_shared(tensors: Sequence[Tensor], who: str) -> None:
    """No two parameters, or their copies, may share memory: an element would move twice."""
    shadows = [(t.shadow, f"the shadow of {t.name!r}") for t in tensors if t.shadow is not None]
    arrays = [(t.array, f"parameter {t.name!r}") for t in tensors] + shadows
    spans = sorted(((*np.lib.array_utils.byte_bounds(array), k) for k, (array, _) in enumerate(arrays) if array.size))
    open_spans: list[tuple[int, int]] = []
    for low, high, k in spans:
        open_spans = [(end, other) for end, other in open_spans if end > low]
        for _, other in open_spans:
            if np.shares_memory(arrays[other][0], arrays[k][0]):
                raise ValueError(f"{who}: {arrays[other][1]} and {arrays[k][1]} share memory; pass each once")
        open_spans.append((high, k))


def per_tensor(value: Any, tensors: Sequence[Tensor], who: str, what: str) -> list[Any]:
    """One entry of `value` per tensor: a mapping by name, a sequence, a callable (name, array), or one for all."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in {t.name for t in tensors}]
        if unknown:
            raise ValueError(f"{who}: {what} names no parameter: {unknown[0]!r}")
        return [value.get(t.name) for t in tensors]
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return [value(t.name, t.array) for t in tensors]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(tensors):
            raise ValueError(f"{who}: {what}: expected {len(tensors)} entries, one per parameter, got {len(value)}")
        return list(value)
    return [value] * len(tensors)


def named_dtype(value: Any) -> Any:
    """A storage that is given as NumPy's type, by its name; all else as it is."""
    return np.dtype(value).name if isinstance(value, type | np.dtype) else value


def set_scale(tensor: Tensor, value: Any, who: str) -> None:
    """A learning-rate factor: a number, or an array of the parameter's shape."""
    if value is None:
        return
    factors = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(f"{who}: lr_scale of {tensor.name!r} must be finite and >= 0")
    if factors.ndim == 0:
        tensor.factor = float(factors)
    elif factors.shape == tensor.array.shape:
        tensor.scale = tensor.walked(factors)
    else:
        raise ValueError(f"{who}: lr_scale of {tensor.name!r}: expected a number or shape {tensor.array.shape}, "
                         f"got shape {factors.shape}")


def set_shadow(tensor: Tensor, value: Any, who: str) -> None:
    """A 16-bit copy: the name of its type, or an array of the caller's."""
    if value is None or tensor.shadow is not None:
        return
    if isinstance(value, str):
        if value not in ("bfloat16", "float16"):
            raise ValueError(f"{who}: shadow must be 'bfloat16', 'float16' or 16-bit arrays, got {value!r}")
        tensor.shadow = tensor.alike(value)
        return
    spoken = f"{who}: shadow of {tensor.name!r}"
    array = as_array(value, spoken)
    if array.dtype == np.uint16:
        array = array.view(BFloat16)
    if stored_as(array) not in ("bfloat16", "float16"):
        raise TypeError(f"{spoken}: expected bfloat16 or float16, got {array.dtype}")
    if array.shape != tensor.array.shape:
        raise ValueError(f"{spoken}: expected shape {tensor.array.shape} like the parameter, got {array.shape}")
    if not array.flags.writeable or (array.size and overlaps_itself(array)):
        raise ValueError(f"{spoken}: must be writable and its elements apart in memory; pass a copy")
    tensor.shadow = array


def split(tensors: Sequence[Tensor], who: str) -> None:
    """Give bfloat16 parameters a remainder."""
    kinds = [stored_as(tensor.array) for tensor in tensors]
    if "bfloat16" not in kinds or "float16" in kinds:
        found = "float16, which is no half of a float32" if "float16" in kinds else kinds[0] if kinds else "none"
        raise ValueError(f"{who}: master='split' needs bfloat16 parameters (wider ones beside them stay whole), "
                         f"got {found}")
    for tensor, kind in zip(tensors, kinds, strict=True):
        if kind == "bfloat16" and tensor.rest is None:
            tensor.rest = tensor.alike("int16")
