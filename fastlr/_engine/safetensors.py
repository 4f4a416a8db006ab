"""The safetensors format, read without trust: https://github.com/huggingface/safetensors.

A file is the length of a header (8 bytes, little end first), the header (JSON: where each tensor lies, and
texts), and the tensors' bytes, in C order, little end first, without gaps. Nothing in it is ever run. What
may enter here knows files and arrays, no optimizer.
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

from .tensors import Array

LARGEST_HEADER = 100_000_000           # bytes, in every reader of the format
BLOCK = 1 << 20                        # bytes; what is summed is still in the cache when it is written
CODES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8",
         "uint8": "U8", "int16": "I16"}                # NumPy's name: the format's
BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
        "I16": 16, "U16": 16, "BOOL": 8, "I8": 8, "U8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}


class CheckpointError(Exception):
    """A file that is no whole checkpoint, or not one of this optimizer. Nothing was changed."""


class Stored(NamedTuple):
    """Where a tensor lies in the data of a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


# Writing

def written(file: BinaryIO, array: Array) -> str:
    """Write an array in C order, whatever its layout, little end first; its sum."""
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
    """The file; a CheckpointError says which one it was. (A pipe does not make it wait.)"""
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
    """The raw header of a safetensors file, its tensors and its metadata; the data is what comes next."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise CheckpointError(f"expected a safetensors file, got {size:,} bytes that begin with {head!r}")
    head += file.read(length)
    document = parsed(head[8:], 4)
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
    """One entry of a header, if it makes sense by itself."""
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
        if bits >= 2**67:                  # more than two offsets can be apart: the rest would only take time
            break
    if bits != 8 * (offsets[1] - offsets[0]):
        raise CheckpointError(f"{brief(name)}: {dtype} of shape {brief(shape)} does not fill the bytes "
                              f"{offsets}")
    return Stored(dtype, tuple(shape), *offsets)


def fetched(file: BufferedReader, count: int, array: Array | None) -> str:
    """Read the next bytes, into the array if there is one; their sum."""
    raw = None if array is None else array.reshape(-1).view(np.uint8).data
    total = 0
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        part = memoryview(bytearray(end - begin)) if raw is None else raw[begin:end]
        if file.readinto(part) != len(part):
            raise CheckpointError("it became shorter while it was read")
        total = crc32(part, total)
    if array is not None and sys.byteorder == "big":
        array.byteswap(inplace=True)
    return f"{total:08x}"


def parsed(text: bytes, depth: int) -> Any:
    """JSON no deeper than this, of distinct keys, finite numbers and Unicode; else CheckpointError."""
    import json

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(mapping := dict(pairs)) != len(pairs):
            raise ValueError("a key stands there twice")
        "".join([word for pair in pairs for word in pair if isinstance(word, str)]).encode()
        return mapping

    def integer(digits: str) -> int:
        if len(digits) > 20 or not -2**63 <= (value := int(digits)) < 2**64:
            raise ValueError("an integer is too large")
        return value

    def number(digits: str) -> float:
        if not isfinite(value := float(digits)):
            raise ValueError(f"{brief(digits)} is no finite number")
        return value

    try:
        if nesting(text) > depth:
            raise ValueError(f"it is nested more than {depth} deep")
        return json.loads(text.decode(), object_pairs_hook=distinct, parse_int=integer, parse_float=number,
                          parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is not as it must be: {brief(str(error))}") from None


def nesting(text: bytes) -> int:
    """How deep brackets are nested in JSON, strings left out: to know it before anything recursive begins."""
    plain = b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    marks = np.frombuffer(plain.translate(BRACKETS, OTHERS), np.int8)
    return int(marks.cumsum(dtype=np.int64).max(initial=0))


BRACKETS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def brief(value: Any) -> str:
    """The repr, cut where an error message has had enough."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}..."
