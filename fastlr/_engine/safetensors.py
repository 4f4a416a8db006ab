"""The safetensors format, read without trust: https://github.com/huggingface/safetensors.

A file has the length of a header (8 bytes, little-endian), the header (JSON: the offsets of each tensor, and
texts), and the bytes of the tensors, in C order, little-endian, without gaps. Nothing in it is ever executed. This
module knows files and arrays, no optimizers.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from math import isfinite
from stat import S_ISREG
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import numpy as np

from .arrays import BFloat16, stored_as
from .tensors import Array

LARGEST_HEADER = 100_000_000           # bytes, in every reader of the format
BLOCK = 1 << 20                        # bytes; a block is still in the cache when it is written, after its checksum
BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
        "I16": 16, "U16": 16, "BOOL": 8, "I8": 8, "U8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}


#: NumPy's names of the types that arrays of a run may have, and the format's.
TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16",
         "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL"}
DTYPES = {code: np.dtype(name) for name, code in TYPES.items()}
CODES = {dtype: code for code, dtype in DTYPES.items()}        # (in this machine's order of bytes)


class CheckpointError(Exception):
    """A file that is no whole checkpoint, or none of this optimizer. Nothing was changed."""


class Stored(NamedTuple):
    """The dtype and shape of a tensor, and the offsets of its bytes in the data of a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def code_of(array: Array) -> str:
    """The format's name of an array's type."""
    if stored_as(array) == "bfloat16":
        return "BF16"
    return CODES.get(array.dtype) or TYPES[array.dtype.name]       # (a name costs ten times as much to find)


def array_of(name: str, tensor: Stored) -> Array:
    """A new array for a tensor of a file."""
    if tensor.dtype == "BF16":
        return np.empty(tensor.shape, np.uint16).view(BFloat16)
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{brief(name)}: cannot read {tensor.dtype} into an array")
    return np.empty(tensor.shape, DTYPES[tensor.dtype])


# Writing

def written(file: BinaryIO, array: Array) -> str:
    """Write an array in C order, whatever its layout, little-endian; return its checksum."""
    total = 0
    for block in np.nditer(array, ["external_loop", "buffered", "zerosize_ok"], order="C",
                           buffersize=BLOCK // array.itemsize):
        values = np.ascontiguousarray(block)
        raw = (values if sys.byteorder == "little" else values.byteswap()).view(np.uint8).data
        total = crc32(raw, total)
        file.write(raw)
    return f"{total:08x}"


# Reading

@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """The file, opened without waiting for the other end of a pipe; a CheckpointError then names it."""
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=opener) as file:
        try:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError("expected a regular file")
            yield file
        except CheckpointError as error:
            error.args = (f"{os.fspath(path)}: {error}",)
            raise


def read(file: BufferedReader) -> tuple[bytes, dict[str, Stored], dict[str, str]]:
    """The raw header of a safetensors file, its tensors and its metadata; the file is then at the data."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise CheckpointError(f"expected a safetensors file, got {size:,} bytes that begin with {head!r}")
    head += file.read(length)
    document = parsed(memoryview(head)[8:], 4)
    if len(head) != 8 + length or head[8:9] != b"{" or not isinstance(document, dict):
        raise CheckpointError("expected a safetensors file, its header is no JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ must map names to texts")
    stored = {name: located(name, entry) for name, entry in document.items()}
    end = 0
    for name, tensor in sorted(stored.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise CheckpointError(f"{brief(name)} begins at byte {tensor.begin} of the data, the one before "
                                  f"ends at {end}")
        end = tensor.end
    if 8 + length + end != size:
        raise CheckpointError(f"expected {8 + length + end:,} bytes, got {size:,}; was it cut off?")
    return head, stored, metadata


def located(name: str, entry: Any) -> Stored:
    """One entry of a header; CheckpointError if it contradicts itself."""
    def counts(value: Any) -> bool:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{brief(name)}: expected dtype, shape and data_offsets, got {brief(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{brief(name)}: unknown dtype {brief(dtype)}")
    if not counts(shape):
        raise CheckpointError(f"{brief(name)}: shape must be a list of counts, got {brief(shape)}")
    if not counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{brief(name)}: data_offsets must be two counts, got {brief(offsets)}")
    bits = BITS[dtype]
    for n in shape:
        bits *= n
        if bits >= 2**67:                  # (more than any file has: more factors would only take time)
            break
    if bits != 8 * (offsets[1] - offsets[0]):
        raise CheckpointError(f"{brief(name)}: {dtype} of shape {brief(shape)} does not fill the bytes "
                              f"{offsets}")
    return Stored(dtype, tuple(shape), *offsets)


def fetched(file: BufferedReader, count: int, array: Array | None) -> str:
    """Read the next bytes, into the array if there is one; return their checksum."""
    raw = None if array is None else array.reshape(-1).view(np.uint8).data
    total = 0
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        part = memoryview(bytearray(end - begin)) if raw is None else raw[begin:end]
        if file.readinto(part) != len(part):
            raise CheckpointError("the file became shorter while it was read")
        total = crc32(part, total)
    if array is not None and sys.byteorder == "big":
        array.byteswap(inplace=True)
    return f"{total:08x}"


def parsed(text: str | bytes | memoryview, depth: int) -> Any:
    """JSON no deeper than this, of distinct keys, finite numbers and Unicode; else CheckpointError.

    The memory that it needs is at most about 20 times the text: JSON of little but brackets is refused before.
    """
    import json

    keys = 0

    def counted(entries: dict[str, Any]) -> dict[str, Any]:
        nonlocal keys
        keys += len(entries)
        return entries

    def integer(digits: str) -> int:
        if len(digits) < 19:
            return int(digits)
        if len(digits) > 20 or not -2**63 <= (value := int(digits)) < 2**64:
            raise ValueError("an integer is too large")
        return value

    def number(digits: str) -> float:
        if not isfinite(value := float(digits)):
            raise ValueError(f"{brief(digits)} is no finite number")
        return value

    try:
        raw = text.encode() if isinstance(text, str) else bytes(text)
        found, escapes = structure(raw), b"\\u" in raw
        del raw
        if found.depth > depth:
            raise ValueError(f"it is nested more than {depth} deep")
        if found.objects > 64 + len(text) // 20 or found.lists > 64 + len(text) // 12:
            raise ValueError(f"it has {found.objects:,} objects and {found.lists:,} lists in {len(text):,} characters, "
                             f"more than a checkpoint has")
        value = json.loads(text if isinstance(text, str) else str(text, "utf-8"), object_hook=counted,
                           parse_int=integer, parse_float=number, parse_constant=number)
        if keys != found.keys:
            raise ValueError("a key appears twice")
        if escapes:                        # (which alone can give half of a character)
            require_unicode(value)
        return value
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is malformed: {brief(str(error))}") from None


def require_unicode(value: Any) -> None:
    """ValueError if a key or a text is no Unicode."""
    rest: list[Any] = [[value]]
    while rest:
        container = rest.pop()
        if type(container) is dict:
            "".join(container).encode()
        for entry in container.values() if type(container) is dict else container:
            if type(entry) in CONTAINERS:
                rest.append(entry)
            elif type(entry) is str and not entry.isascii():
                entry.encode()


class Structure(NamedTuple):
    """What the characters of JSON outside its strings show."""

    depth: int
    objects: int
    lists: int
    keys: int


def structure(text: bytes) -> Structure:
    """The structure of JSON, known before anything recursive or large begins."""
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, WITHOUT_STRUCTURE)
    level = depth = objects = lists = keys = in_string = 0
    size = 1 << 16
    for begin in range(0, len(plain), size):
        block = np.frombuffer(plain, np.uint8, min(size, len(plain) - begin), begin)
        quotes = np.cumsum(block == ord('"'), dtype=np.int32) + in_string
        outside = block[(quotes & 1) == 0]
        levels = level + np.cumsum(BRACKETS[outside], dtype=np.int64)
        depth = max(depth, int(levels.max(initial=0)))
        level = int(levels[-1]) if len(levels) else level
        in_string = int(quotes[-1]) % 2
        counts = np.bincount(outside, minlength=256)
        objects += int(counts[ord("{")])
        lists += int(counts[ord("[")])
        keys += int(counts[ord(":")])
    return Structure(depth, objects, lists, keys)


WITHOUT_STRUCTURE = bytes({*range(256)} - {*b'"[]{}:'})
CONTAINERS = frozenset((dict, list))
BRACKETS = np.zeros(256, np.int8)
BRACKETS[[*b"[{"]], BRACKETS[[*b"]}"]] = 1, -1


def brief(value: Any) -> str:
    """The repr, cut to at most 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}..."
