"""Checkpoints: an optimizer and its parameters in one file, written whole or not at all, and checked when read.

Any reader of the safetensors format can read these files; this one also checks every byte of them.

There is a CRC-32 of each array, and one of the header without its own eight digits. It detects torn writes and memory
errors: all errors of up to 32 bits in a row, and all but one in 2**32 of the others. It runs at 2.0 GB/s, sha256 at 1.1
(with the processor's instructions for it), blake2b at 0.4. None of them stops a forger, as there is no key; the strict
reader does.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import isfinite
from typing import Any
from zlib import crc32

import numpy as np

from ._engine.arrays import stored_as
from ._engine.compiled_schedule import DEPTH
from ._engine.file_replacement import replacing
from ._engine.safetensors import (
    CODES,
    LARGEST_HEADER,
    CheckpointError,
    Stored,
    brief,
    fetched,
    opened,
    parsed,
    read,
    written,
)
from ._engine.tensors import Array
from .optimizers.base import Optimizer
from .optimizers.declaration import nearest
from .optimizers.resumable import Resumable, parameters_written, tensors_of
from .optimizers.state import completed

__all__ = ["CheckpointError", "load", "read_header", "save"]

FORMAT = 1
CURE = "build the optimizer over the parameters that were saved"
OPENING = b'{"__metadata__":{"crc32":"'
BITS = "float64 bits"
DIGITS = slice(8 + len(OPENING), 16 + len(OPENING))


def save(path: str | os.PathLike[str], opt: Optimizer | Resumable, *, params: bool = True) -> None:
    """Save all that later steps depend on: parameters, state, t and hyper-parameters.

    The new file replaces the old one only when it is whole and on the disk: whatever happens, the path has one of
    them. A process that is killed leaves no other file where the system has unnamed files, as Linux does; or a
    `.fastlr-*.tmp`, which the next save to the same path removes. Tensors are `param/NAME` and `state/NAME/SLOT` (and
    `wrapper/n/NAME/SLOT` of the n-th wrapper around an optimizer, counted from outside), written block by block without
    a second copy: do not step in another thread meanwhile.

    A hyper-parameter that is a plain function is not saved: `load` keeps the function that the optimizer has.

    Arrays are written in C order, whatever their layout in memory. If you save parameters or states by other tools,
    give them `np.ascontiguousarray` of each: ``safetensors.numpy`` writes the memory of other layouts as it is, with
    the shape of the array and without an error.

    Parameters
    ----------
    path
        The file. If it exists, its mode is kept; a link is followed.
    opt
        Any fastlr optimizer, a wrapper around one, or an average of weights.
    params
        False: save the state of the optimizer only, where the framework saves the parameters.

    Raises
    ------
    OSError
        The old file is unchanged; or, if only syncing the folder failed at the end, the new one is in its place.

    >>> import fastlr, numpy as np, tempfile
    >>> w = np.ones(3)
    >>> opt = fastlr.Adam({"w": w}, lr=0.1)
    >>> opt.step({"w": np.ones(3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastlr.save(f"{folder}/run.safetensors", opt)
    ...     other = fastlr.Adam({"w": np.zeros(3)})
    ...     fastlr.load(f"{folder}/run.safetensors", other)
    >>> other.t, other.lr, other.state["w"]["m"].tolist() == opt.state["w"]["m"].tolist()
    (1, 0.1, True)
    """
    require_optimizer(opt, "save(path, opt)")
    arrays = arrays_of(opt, params)
    described = description(opt)
    sums = dict.fromkeys(arrays, "0" * 8)
    listed = as_text(entries(arrays))
    placeholder = header(described, listed, sums)
    with replacing(os.path.realpath(os.fsdecode(path))) as file:
        file.write(placeholder)
        for name, array in arrays.items():
            sums[name] = written(file, array)
        file.seek(0)
        file.write(header(described, listed, sums))


def load(path: str | os.PathLike[str], opt: Optimizer | Resumable, *, params: bool | None = None,
         strict: bool = True) -> list[str] | None:
    """Load what was saved: the state, t and hyper-parameters, and the parameters in place.

    Everything is read and checked before the first write; then all of it is copied, or nothing.

    Parameters
    ----------
    path
        A file that `save` wrote.
    opt
        An optimizer of the same class, over parameters of the same names, shapes, dtypes and groups.
    params
        None: load parameters if the file has them. True: it must. False: leave the parameters as they are.
    strict
        Refuse a state whose options differ from those of this optimizer, which would step otherwise. False: those of
        this optimizer hold.

    Returns
    -------
    list of str, or None
        Where not `strict`: in which options the saved optimizer differs, empty if in none.

    Raises
    ------
    CheckpointError
        If the file is torn, changed, no checkpoint, or does not fit this optimizer. Nothing has changed.
    OSError
        If it cannot be read.
    """
    require_optimizer(opt, "load(path, opt)")
    with opened(path) as file:
        head, stored, metadata = read(file)
        described, sums = own(head, stored, metadata)
        if described["optimizer"] != type(opt).__name__:
            raise CheckpointError(f"this is the state of {brief(described['optimizer'])}, got an optimizer "
                                  f"of class {type(opt).__name__}; load it into one of the class saved")
        held = any(name.startswith("param/") for name in stored)
        if params and not held:
            raise CheckpointError("expected parameters, it was saved with params=False; load them from where "
                                  "they were saved, and this with params=False")
        wanted = arrays_of(opt, held if params is None else params)
        require_fit(wanted, {name: tensor for name, tensor in stored.items()
                             if params is not False or not name.startswith("param/")}, type(opt).__name__)
        loaded: dict[str, Array] = {}
        for name, tensor in sorted(stored.items(), key=lambda item: item[1].begin):
            array = np.empty(tensor.shape, wanted[name].dtype) if name in wanted else None
            if fetched(file, tensor.end - tensor.begin, array) != sums[name]:
                raise CheckpointError(f"the bytes of {brief(name)} are not those that were saved; take an "
                                      f"older copy")
            if array is not None:
                loaded[name] = array
    state = with_arrays(described, opt, loaded)

    differences: list[str] = []
    keywords = {} if strict else {"strict": False}         # (which a class of one's own may not take)

    def write() -> None:
        differences[:] = opt.load_state_dict(state, **keywords) or ()
        for name, array in wanted.items():
            if name.startswith("param/"):
                array[...] = loaded[name]
        parameters_written(opt)

    try:
        completed(write)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    return None if strict else differences


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a safetensors file by its header; the arrays are not read.

    Returns `optimizer` and `t` (None if fastlr did not write the file), `metadata` (what else fastlr wrote, or the
    texts of another writer) and `tensors`: name -> {"dtype", "shape", "bytes"}. CheckpointError if its length is wrong
    or its header malformed.
    """
    with opened(path) as file:
        head, stored, metadata = read(file)
        shown: dict[str, Any] = {"optimizer": None, "t": None, "metadata": dict(metadata)}
        if "fastlr" in metadata:
            described, _ = own(head, stored, metadata)
            shown = {"optimizer": described.pop("optimizer"), "t": described.pop("t"), "metadata": described}
    tensors = {name: {"dtype": tensor.dtype, "shape": tensor.shape, "bytes": tensor.end - tensor.begin}
               for name, tensor in stored.items()}
    return shown | {"tensors": tensors}


# What is saved

def require_optimizer(opt: Any, call: str) -> None:
    if not isinstance(opt, Optimizer | Resumable):
        raise TypeError(f"{call}: opt must be a fastlr optimizer, got {type(opt).__name__}")


def arrays_of(opt: Optimizer | Resumable, params: bool) -> dict[str, Array]:
    """The arrays by their names in a file; those of large elements first, so that each is aligned there."""
    arrays = {f"param/{tensor.name}": tensor.array for tensor in tensors_of(opt)} if params else {}
    for prefix, states in layers(opt):
        for name, slots in states.items():
            arrays |= {f"{prefix}/{name}/{slot}": array for slot, array in slots.items()}
    return dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))


def layers(opt: Optimizer | Resumable) -> Iterator[tuple[str, dict[str, dict[str, Array]]]]:
    """The arrays of each wrapper, from the outermost, then of the optimizer; each with its prefix in a file."""
    wrapped: Any = opt
    depth = 0
    while isinstance(wrapped, Resumable) and wrapped.inner is not None:
        yield f"wrapper/{depth}", wrapped._arrays()
        wrapped, depth = wrapped.inner, depth + 1
    yield "state", wrapped._arrays() if isinstance(wrapped, Resumable) else wrapped.state


def with_arrays(described: dict[str, Any], opt: Optimizer | Resumable, loaded: Mapping[str, Array]) -> dict[str, Any]:
    """The `state_dict` that a file describes, with its arrays; loading refuses one that lacks a wrapper."""
    level = whole = dict(described)
    for prefix, states in layers(opt):
        level["state"] = {name: {slot: loaded[f"{prefix}/{name}/{slot}"] for slot in slots}
                          for name, slots in states.items()}
        if not isinstance(level.get("inner"), dict):
            break
        level["inner"] = dict(level["inner"])
        level = level["inner"]
    return whole


def description(opt: Optimizer | Resumable) -> dict[str, Any]:
    """`opt.state_dict()` without its arrays (which that copies)."""
    if isinstance(opt, Optimizer):
        return opt._described()
    opt._require_ready("save")
    return opt._described() if opt.inner is None else opt._described() | {"inner": description(opt.inner)}


# Writing

def as_text(value: Any) -> str:
    """A value as JSON; floats are written so that the same floats are read."""
    import json

    write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    try:
        return write(value)
    except (TypeError, ValueError):    # (few values need it: to look at each takes as long as to write it)
        return write(encoded(value))


def entries(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What a header says of each array."""
    found, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        code = CODES[str(stored_as(array))]
        found[name] = {"dtype": code, "shape": array.shape, "data_offsets": (begin, end)}
    return found


def header(described: Mapping[str, Any], listed: str, sums: Mapping[str, str]) -> bytes:
    """All that precedes the data; `listed` is the JSON of `entries`. Its length does not depend on the checksums."""
    from . import __version__

    note = as_text({"format": FORMAT, "fastlr": __version__, "state": described, "crc32": sums})
    metadata = as_text({"__metadata__": {"crc32": "0" * 8, "fastlr": note}})
    try:
        body = (metadata[:-1] + ("," if len(listed) > 2 else "") + listed[1:]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"save: names must be Unicode text, got {error.object[error.start]!r} in one; "
                         f"rename that parameter") from None
    body += b" " * (-len(body) % 8)
    if len(body) > LARGEST_HEADER:
        raise ValueError(f"save: names and hyper-parameters must fit into {LARGEST_HEADER:,} bytes, got "
                         f"{len(body):,}; save fewer tensors at a time")
    head = bytearray(len(body).to_bytes(8, "little") + body)
    head[DIGITS] = header_sum(head)
    return bytes(head)


def encoded(value: Any) -> Any:
    """A value in which floats that JSON lacks, NaN and infinities, are replaced by their bits."""
    if isinstance(value, float) and not isfinite(value):
        return {BITS: struct.pack(">d", value).hex()}
    if isinstance(value, Mapping):
        return {name: encoded(entry) for name, entry in value.items()}
    return [encoded(entry) for entry in value] if isinstance(value, list | tuple) else value


def decoded(value: Any) -> Any:
    """The value that `encoded` was given."""
    if isinstance(value, dict):
        digits = value.get(BITS)
        if value.keys() == {BITS} and isinstance(digits, str) and len(digits) == 16 and digits.isalnum():
            with suppress(ValueError):
                number: float = struct.unpack(">d", bytes.fromhex(digits))[0]
                return value if isfinite(number) else number
        return {name: decoded(entry) for name, entry in value.items()}
    return [decoded(entry) for entry in value] if isinstance(value, list) else value


def header_sum(head: bytes | bytearray) -> bytes:
    """The checksum of a header without the digits of this sum."""
    return b"%08x" % crc32(head[DIGITS.stop:], crc32(head[:DIGITS.start]))


# Reading

def own(head: bytes, stored: Mapping[str, Stored],
        metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What `save` described, and the checksum of each tensor; CheckpointError unless the header is as written."""
    if "fastlr" not in metadata or not head.startswith(OPENING, 8):
        raise CheckpointError("expected a checkpoint of fastlr, this is a safetensors file of another program")
    if header_sum(head) != head[DIGITS]:
        raise CheckpointError("the header is not the one that was saved; take an older copy")
    note = parsed(metadata["fastlr"], 2 * DEPTH + 8)
    if BITS in metadata["fastlr"]:
        note = decoded(note)
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        found = brief(note.get("format") if isinstance(note, dict) else note)
        raise CheckpointError(f"expected checkpoint format {FORMAT}, got {found}; a newer fastlr may read it")
    if note.keys() != {"format", "fastlr", "state", "crc32"}:
        raise CheckpointError(f"expected the entries of checkpoint format {FORMAT}, got {brief(list(note))}")
    state, sums = note["state"], note["crc32"]
    if not isinstance(sums, dict) or sums.keys() != stored.keys():
        raise CheckpointError("its tensors are not those that were saved")
    if not isinstance(state, dict) or not well_formed(state):
        raise CheckpointError(f"expected the state of an optimizer, got {brief(state)}")
    return state, sums


def well_formed(state: dict[str, Any]) -> bool:
    """Whether a state has the entries and types that `load_state_dict` does not check."""
    if "groups" not in state:              # (of a wrapper or an average, which checks all else)
        inner = state.get("inner")
        return (isinstance(state.get("optimizer"), str) and type(state.get("t")) is int
                and (inner is None or (isinstance(inner, dict) and well_formed(inner))))
    if state.keys() - {"norms", "folded", "skipped", "shared", "convention", "lr_max", "options"} \
            != {"format", "optimizer", "t", "missed", "groups"}:
        return False
    if not (isinstance(state.get("shared", {}), dict) and isinstance(state.get("options", {}), dict)):
        return False
    t, missed, groups = state["t"], state["missed"], state["groups"]
    if not (isinstance(state["optimizer"], str) and type(t) is int and isinstance(missed, dict)
            and isinstance(groups, list)):
        return False
    known: list[Any] = []
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            return False
        known += group["params"]
    return all(isinstance(name, str) for name in known) and missed.keys() <= set(known) and all(
        type(steps) is int and steps <= t for steps in missed.values())


def require_fit(wanted: Mapping[str, Array], stored: Mapping[str, Stored], who: str) -> None:
    """CheckpointError unless the file has the tensors of this optimizer and no others, of their shapes and dtypes."""
    for name, array in wanted.items():
        if name not in stored:
            raise CheckpointError(f"{who} needs {brief(name)}, which is not in the file; {CURE}")
        code, (dtype, shape, *_) = CODES[str(stored_as(array))], stored[name]
        if (dtype, shape) != (code, array.shape):
            raise CheckpointError(f"{brief(name)}: expected {code} {array.shape} as in this {who}, got "
                                  f"{dtype} {brief(shape)}; {CURE}")
        if not array.flags.writeable:
            raise CheckpointError(f"{brief(name)}: must be writable, but the array is read-only now")
    for name in stored:
        if name not in wanted:
            raise CheckpointError(f"{brief(name)} is in the file, and this {who} has none of that name"
                                  f"{nearest(name, wanted)}; {CURE}")
