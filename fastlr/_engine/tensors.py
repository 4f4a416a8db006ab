"""The tensors of an optimizer: parameters as arrays over the caller's memory, with their state and exceptions."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

import numpy as np

from .arena import Arena
from .arrays import BFloat16, as_array, overlaps_itself, stored_as
from .row_journal import RowJournal
from .shared_memory import find_shared
from .tensor_versions import is_torch_tensor, mark_written

Array = np.ndarray[Any, np.dtype[Any]]

STORAGES = ("float32", "float64", "float16", "bfloat16")
SCALED_TOGETHER = 64   # elements of an 8-bit state that share a scale
SMALLEST_8_BIT = 4096  # tensors of fewer elements keep their state in float32 rather than in 8 bits

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
AS_THEY_ARE = [tuple(range(ndim)) for ndim in range(65)]       # the axes of an array in their own order
NOTHING: Array = np.zeros(0)


class Tensor:
    """One parameter: its array and state, the order in which they are read, and what differs for it alone."""

    # (defaults of the class: most tensors keep most of them, and there may be many tensors)
    lr_scale = 1.0                             # a factor of the learning rate
    decays = True
    decay = "coupled"
    lr_scales: Array | None = None             # factors of the learning rate, one for each element
    low_bits: Array | None = None              # the lower half of the float32 whose upper half is the parameter
    shadow: Array | None = None                # a 16-bit copy that follows the parameter
    shadow_fixed: Any = None                   # see `fixed_in_memory`
    source: Any = None                         # the tensor of PyTorch whose memory the array is
    shadow_source: Any = None
    allocated = False
    constraint: tuple[str, float, float, int] | None = None    # kind, low and high, elements of a row
    journal: RowJournal | None = None          # where rows catch up: the updates that some have not had
    measured = False                           # whether the norms of its gradient, update and parameter are measured
    in_8_bits = False                          # whether any slot is
    memory: Array = NOTHING                    # what the rule remembers of the tensor as a whole
    matrix_shape: tuple[int, int, int]         # for a matrix rule: how many matrices, their rows and columns

    def __init__(self, name: str, array: Array, group: int, prefix: str, path: tuple[Any, ...],
                 axes: tuple[int, ...]) -> None:
        self.name, self.array, self.group, self.prefix, self.path = name, array, group, prefix, path
        self.axes = axes                           # in the order in which elements are read
        self.fixed = ref(array) if array.base is None else fixed_in_memory(array)
        self.is_double = array.dtype == FLOAT64    # whether the rule computes in float64
        self.state: list[Array] = []               # one array for each slot, as it is stored
        self.state_scales: list[Array | None] = []     # of 8-bit slots
        self.matrices: dict[str, Array] = {}       # slots that are not of the parameter's shape

    @property
    def label(self) -> str:
        """What errors call the gradient of this parameter."""
        return self.prefix + "".join([f"[{key!r}]" for key in self.path])

    def zeros_like(self, stored: str) -> Array:
        """A new array of the parameter's shape, whose elements are in the order in which they are read."""
        shape = [self.array.shape[axis] for axis in self.axes]
        if stored == "bfloat16":
            return self.transposed(np.zeros(shape, np.uint16).view(BFloat16))
        return self.transposed(np.zeros(shape, stored))

    def transposed(self, array: Array) -> Array:
        """An array whose axes are in the order in which they are read, with the axes of the parameter."""
        return array if self.axes == AS_THEY_ARE[len(self.axes)] else array.transpose(np.argsort(self.axes))

    def snapshot(self) -> dict[str, Any]:
        """All that an optimizer may set on a tensor: for `restore`."""
        return vars(self) | {"matrices": dict(self.matrices)}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what the tensor was when the snapshot was taken."""
        vars(self).clear()
        vars(self).update(snapshot)

    def sources(self) -> list[Any]:
        """The tensors of PyTorch that a step writes."""
        return [x for x in (self.source, self.shadow_source) if x is not None]

    def written(self) -> list[Array]:
        """All that a step writes."""
        if self.low_bits is None and self.shadow is None and not self.matrices:
            return [self.array, *self.state]
        beside = [x for x in (self.low_bits, self.shadow) if x is not None]
        return [self.array, *self.state, *self.matrices.values(), *beside]

    def master(self) -> Array:
        """The numbers that move, as an array that NumPy can compute with."""
        if self.low_bits is None:
            return values(self.array)
        upper = np.asarray(self.array).view(np.uint16).astype(np.uint32) << 16
        magnitude, lower = upper & 0x7fffffff, self.low_bits.astype(np.int32)
        lower[(magnitude == 0) | ((magnitude == 0x7f800000) & (lower > 0))] = 0
        return (upper + lower.view(np.uint32)).view(np.float32)

    def cast(self) -> None:
        """Bring the 16-bit copy to what the parameter is."""
        if self.shadow is None:
            return
        if self.shadow_source is not None:
            mark_written([self.shadow_source])
        x = self.master()
        if self.shadow.dtype == np.float16:
            with np.errstate(over="ignore", under="ignore"):
                self.shadow[...] = x
        else:
            self.shadow.view(np.uint16)[...] = bfloat16_bits(x)

    def state_by_name(self, slots: Sequence[str], memory: Sequence[str]) -> dict[str, Array]:
        """The state by slot, the scales of an 8-bit slot beside it; the numbers of the whole; what a split leaves."""
        if not self.in_8_bits:
            named = dict(zip(slots, self.state, strict=True))
        else:
            named = {}
            for slot, array, scale in zip(slots, self.state, self.state_scales, strict=True):
                named[slot] = array
                if scale is not None:
                    named[f"{slot}_scale"] = scale
        for k, name in enumerate(memory):
            named[name] = self.memory[k:k + 1].reshape(())
        if self.low_bits is not None:
            named["remainder"] = self.low_bits
        return named | self.matrices if self.matrices else named

    def place(self, slots: Sequence[str], slot: str, array: Array) -> None:
        """Keep a slot in another array from now on."""
        if slot in slots:
            self.state[slots.index(slot)] = array
        else:
            self.matrices[slot] = array

    def in_read_order(self, values: Array) -> Array:
        """A copy of `values` in the precision of the rule, whose elements are in the order in which they are read."""
        copy = self.zeros_like("float64" if self.is_double else "float32")
        copy[...] = values
        return copy


def fixed_in_memory(array: Array) -> ref[Array]:
    """A reference for the sake of which NumPy does not move the memory of an array (`ndarray.resize`)."""
    base = array.base
    if base is None:
        return ref(array)
    while isinstance(base, np.ndarray):
        array, base = base, base.base
    return ref(array)


# State

#: How a slot of some tensors is stored: the type, its bytes, what each element begins as (None: zero, or for "ema" the
#: parameter), and the scale of an 8-bit slot.
StoredSlot = tuple[str, int, Any, float | None]


class SlotKinds:
    """What a rule says of its slots: which never hold a negative number, and which hold a place of the parameter."""

    __slots__ = ("nonnegative", "position")

    def __init__(self, nonnegative: Sequence[str], position: Sequence[str]) -> None:
        self.nonnegative, self.position = nonnegative, position

    def storage(self, slot: str, state_dtype: str, is_double: bool, small: bool) -> str:
        """How a slot is stored, given what was asked for."""
        if slot == "ema":
            return "float64" if is_double else "float32"
        if state_dtype != "int8":
            return state_dtype
        if slot in self.position:
            return "float64" if is_double else "float32"
        return "float32" if small else "uint8" if slot in self.nonnegative else "int8"

    def stored_slot(self, slot: str, begin: float, *how: Any) -> StoredSlot:
        """A slot that begins with a number."""
        stored = self.storage(slot, *how)
        itemsize = np.dtype("uint16" if stored == "bfloat16" else stored).itemsize
        if stored in ("uint8", "int8"):
            code, scale = companded(begin, stored)
            return stored, itemsize, code if begin else None, scale
        if not begin or slot == "ema":
            return stored, itemsize, None, None
        return stored, itemsize, bfloat16_bits(begin) if stored == "bfloat16" else begin, None


def allocate(new: Sequence[tuple[Tensor, str]], slots: Sequence[str], memory: Sequence[str],
             begin: Mapping[str, float], kinds: SlotKinds) -> None:
    """Memory for what the rule remembers, and, as the slot "ema", a running mean that begins at the parameter.

    `new` has each tensor and its state_dtype; `begin` what slots and memory hold before the first update.
    """
    known: dict[tuple[str, bool, bool], list[StoredSlot]] = {}
    stored_slots, sizes = [], []
    for tensor, state_dtype in new:
        size = tensor.array.size
        tensor.is_double = tensor.is_double or state_dtype == "float64"
        how = state_dtype, tensor.is_double, size < SMALLEST_8_BIT
        if how not in known:
            known[how] = [kinds.stored_slot(slot, begin.get(slot, 0.0), *how) for slot in slots]
        stored_slots.append(known[how])
        sizes += [size * itemsize for _, itemsize, _, _ in known[how]]
    arena = Arena(sizes)
    for (tensor, _), how_stored in zip(new, stored_slots, strict=True):
        tensor.allocated = True
        if memory:
            tensor.memory = np.array([begin.get(name, 0.0) for name in memory])
        size, shape = tensor.array.size, tensor.array.shape
        in_order = tensor.axes == AS_THEY_ARE[len(shape)]
        if not in_order:
            shape = tuple([shape[axis] for axis in tensor.axes])
        for slot, (stored, _, first, scale) in zip(slots, how_stored, strict=True):
            array = arena.take(size, stored)
            if len(shape) != 1:
                array = array.reshape(shape)
            if not in_order:
                array = tensor.transposed(array)
            if slot == "ema":
                array[...] = tensor.master()
            elif first is not None:            # (what begins at zero is first touched in the first step)
                array[...] = first
            tensor.state.append(array)
            tensor.state_scales.append(None if scale is None else
                                       np.full(-(-size // SCALED_TOGETHER), scale, np.float32))
            if scale is not None:
                tensor.in_8_bits = True


def companded(x: float, kind: str) -> tuple[int, float]:
    """The 8-bit code of a group of nothing but x >= 0, and its scale, as codecs.pxi has them."""
    shift, steps, most = (2.0**-3, 32, 1.84375) if kind == "int8" else (2.0**-15, 16, 1.90625 - 2.0**-14)
    if x == 0:
        return 0, 0.0
    scale = 2.0 ** (math.frexp(x * 2 / most)[1] - 1)
    mantissa, exponent = math.frexp(x / scale + shift)
    return round((exponent - math.frexp(shift)[1] + 2 * mantissa - 1) * steps), scale


def is_array(x: Any) -> bool:
    """Whether x is one tensor rather than several."""
    if isinstance(x, np.ndarray | memoryview | bytearray | bytes) or hasattr(x, "__dlpack__") or hasattr(x, "typecode"):
        return True
    if isinstance(x, list | tuple | dict | str):
        return False
    try:                               # (typed memoryviews of Cython are sequences, too)
        memoryview(x)
    except (TypeError, BufferError):
        return False
    return True


def bfloat16_bits(x: Any) -> Array:
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
    return array if array.dtype in (FLOAT32, FLOAT64) else array.astype(np.float32)


def bind(name: str, x: Any, *, group: int, owner: str, prefix: str, path: tuple[Any, ...], dtype: str | None,
         permuted: bool) -> Tensor:
    """A parameter over the caller's memory, refused unless it can be updated in place."""
    if type(x) is np.ndarray and (x.dtype is FLOAT32 or x.dtype is FLOAT64):
        flags = x.flags
        if flags.c_contiguous and flags.writeable:
            return Tensor(name, x, group, prefix, path, AS_THEY_ARE[x.ndim])
    label = f"{owner}: params[{name!r}]" if not name.isdecimal() else f"{owner}: params[{name}]"
    array = as_array(x, label, True)
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = array.view(BFloat16)
    if stored_as(array) not in STORAGES:
        cure = "; cast its memoryview, e.g. memoryview(buffer).cast('f')" if isinstance(x, bytearray) else ""
        if array.dtype == np.uint16:
            cure = "; say dtype='bfloat16' if they are its bits"
        raise TypeError(f"{label}: expected float32, float64, float16 or bfloat16, got {array.dtype}{cure}")
    if not array.flags.writeable:
        raise ValueError(f"{label}: must be writable, got a read-only array; let your model use a writable copy of it, "
                         f"and pass that")
    if array.size and overlaps_itself(array):
        raise ValueError(f"{label}: elements overlap in memory (shape {array.shape}, strides {array.strides}); "
                         f"let your model use a copy of it, and pass that")
    if array.flags.c_contiguous or not permuted:
        axes = AS_THEY_ARE[array.ndim]
    else:
        axes = tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
    tensor = Tensor(name, array, group, prefix, path, axes)
    if is_torch_tensor(x):
        tensor.source = x
    return tensor


def refuse_shared(tensors: Sequence[Tensor], owner: str) -> None:
    """No two parameters, or their copies, may share memory: an element would move twice."""
    shadows = [(tensor.name, tensor.shadow) for tensor in tensors if tensor.shadow is not None]
    found = find_shared([tensor.array for tensor in tensors] + [shadow for _, shadow in shadows])
    if found is not None:
        one, other = (f"parameter {tensors[k].name!r}" if k < len(tensors) else
                      f"the shadow of {shadows[k - len(tensors)][0]!r}" for k in found)
        raise ValueError(f"{owner}: {one} and {other} share memory; pass each once")


def listed(names: Sequence[str]) -> str:
    """How parameters are called, for an error: the first of them."""
    numbered = all(name.isdigit() for name in names)
    first = ", ".join(map(repr, names[:4])) + ", ..." * (len(names) > 4)
    return f"they are called {first}" + ", as they were given without names" * numbered


def per_tensor(value: Any, tensors: Sequence[Tensor], owner: str, what: str) -> list[Any]:
    """One entry of `value` per tensor: a mapping by name, a sequence, a callable (name, array), or one for all."""
    if isinstance(value, Mapping):
        names = {tensor.name for tensor in tensors}
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ValueError(f"{owner}: {what} names no parameter: {unknown[0]!r}; "
                             f"{listed([tensor.name for tensor in tensors])}")
        return [value.get(tensor.name) for tensor in tensors]
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return [value(tensor.name, tensor.array) for tensor in tensors]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(tensors):
            raise ValueError(f"{owner}: {what}: expected {len(tensors)} entries, one per parameter, got {len(value)}")
        return list(value)
    return [value] * len(tensors)


def named_dtype(value: Any) -> Any:
    """A storage that is given as NumPy's type, by its name; all else as it is."""
    return np.dtype(value).name if isinstance(value, type | np.dtype) else value


def set_lr_scale(tensor: Tensor, value: Any, owner: str) -> None:
    """A learning-rate factor: a number, or an array of the parameter's shape."""
    if value is None:
        return
    if type(value) is float and 0 <= value < math.inf:
        tensor.lr_scale = value
        return
    factors = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(f"{owner}: lr_scale of {tensor.name!r} must be finite and >= 0")
    if factors.ndim == 0:
        tensor.lr_scale = float(factors)
    elif factors.shape == tensor.array.shape:
        tensor.lr_scales = tensor.in_read_order(factors)
    else:
        raise ValueError(f"{owner}: lr_scale of {tensor.name!r}: expected a number or shape {tensor.array.shape}, "
                         f"got shape {factors.shape}")


def set_shadow(tensor: Tensor, value: Any, owner: str) -> None:
    """A 16-bit copy: the name of its type, or an array of the caller's."""
    if value is None or tensor.shadow is not None:
        return
    if isinstance(value, str):
        if value not in ("bfloat16", "float16"):
            raise ValueError(f"{owner}: shadow must be 'bfloat16', 'float16' or 16-bit arrays, got {value!r}")
        tensor.shadow = tensor.zeros_like(value)
        return
    label = f"{owner}: shadow of {tensor.name!r}"
    array = as_array(value, label, True)
    if array.dtype == np.uint16:
        array = array.view(BFloat16)
    if stored_as(array) not in ("bfloat16", "float16"):
        raise TypeError(f"{label}: expected bfloat16 or float16, got {array.dtype}")
    if array.shape != tensor.array.shape:
        raise ValueError(f"{label}: expected shape {tensor.array.shape} like the parameter, got {array.shape}")
    if not array.flags.writeable or (array.size and overlaps_itself(array)):
        raise ValueError(f"{label}: must be writable and its elements apart in memory; pass a new array")
    tensor.shadow, tensor.shadow_fixed = array, fixed_in_memory(array)
    if is_torch_tensor(value):
        tensor.shadow_source = value


def split(tensors: Sequence[Tensor], owner: str) -> None:
    """Give bfloat16 parameters a remainder."""
    kinds = [stored_as(tensor.array) for tensor in tensors]
    if "bfloat16" not in kinds or "float16" in kinds:
        found = "float16, which is no half of a float32" if "float16" in kinds else kinds[0] if kinds else "none"
        raise ValueError(f"{owner}: master='split' needs bfloat16 parameters (wider ones beside them stay whole), "
                         f"got {found}")
    for tensor, kind in zip(tensors, kinds, strict=True):
        if kind == "bfloat16" and tensor.low_bits is None:
            tensor.low_bits = tensor.zeros_like("int16")
