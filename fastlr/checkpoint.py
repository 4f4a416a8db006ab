"""Checkpoints: an optimizer, or a whole run, in one file that is written whole or not at all, and checked when read.

Any reader of the safetensors format can read these files; this one also checks every byte of them.

There is a CRC-32 of each array, and one of the header without its own eight digits. It detects torn writes and memory
errors: all errors of up to 32 bits in a row, and all but one in 2**32 of the others. It runs at 2.0 GB/s, sha256 at 1.1
(with the processor's instructions for it), blake2b at 0.4. None of them stops a forger, as there is no key; the strict
reader does.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any
from zlib import crc32

import numpy as np

from ._engine.compiled_schedule import DEPTH
from ._engine.file_replacement import replacing
from ._engine.safetensors import (
    LARGEST_HEADER,
    CheckpointError,
    Stored,
    array_of,
    brief,
    code_of,
    fetched,
    opened,
    parsed,
    read,
    written,
)
from ._engine.tensors import Array
from .optimizers.base import Optimizer
from .optimizers.declaration import nearest
from .optimizers.fitting import Rename
from .optimizers.partition import description
from .optimizers.resumable import Resumable, parameters_written
from .optimizers.state import completed, write_all
from .run_state import DEPTH as RUN_DEPTH
from .run_state import (
    Loading,
    arrays_of,
    described_run,
    largest_first,
    prepared_optimizer,
    well_formed,
    with_arrays,
)

__all__ = ["CheckpointError", "load", "read_header", "save"]

FORMAT, RUN_FORMAT = 1, 2              # of one optimizer, of a run
NESTED = 2 * DEPTH + 8 + 3 * RUN_DEPTH # how deep a description may be
CURE = "build the optimizer over the parameters that were saved"
OPENING = b'{"__metadata__":{"crc32":"'
BITS = "float64 bits"
DIGITS = slice(8 + len(OPENING), 16 + len(OPENING))


Run = Mapping[str, Any] | list[Any] | tuple[Any, ...]


def save(path: str | os.PathLike[str], opt: Optimizer | Resumable | Run, *, params: bool = True) -> None:
    """Save all that later steps depend on: parameters, state, t and hyper-parameters; or a whole run.

    The new file replaces the old one only when it is whole and on the disk: whatever happens, the path has one of
    them. A process that is killed leaves no other file where the system has unnamed files, as Linux does; or a
    `.fastlr-*.tmp`, which the next save to the same path removes. Tensors are `param/NAME` and `state/NAME/SLOT` (and
    `wrapper/n/NAME/SLOT` of the n-th wrapper around an optimizer, counted from outside), written block by block without
    a second copy: do not step in another thread meanwhile.

    A hyper-parameter that is a plain function is not saved: `load` keeps the function that the optimizer has.

    A run is a dict (or list) of all that goes on: optimizers, wrappers, averages, `LossScale`, `Plateau`, `History`,
    schedules, random generators (NumPy's and `random.Random`), arrays, JSON values, and dicts and lists of these. The
    name of each tensor then begins with the key, as ``opt/state/w/m``. Parameters that an average holds beside an
    optimizer are written once.

    Arrays are written in C order, whatever their layout in memory. If you save parameters or states by other tools,
    give them `np.ascontiguousarray` of each: ``safetensors.numpy`` writes the memory of other layouts as it is, with
    the shape of the array and without an error.

    Parameters
    ----------
    path
        The file. If it exists, its mode is kept; a link is followed.
    opt
        Any fastlr optimizer, a wrapper around one, or an average of weights; or a run of them.
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

    A whole run:

    >>> run = {"opt": opt, "scale": fastlr.LossScale(), "rng": np.random.default_rng(0), "epoch": 3}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastlr.save(f"{folder}/run.safetensors", run)
    ...     again = {"opt": other, "scale": fastlr.LossScale(), "rng": np.random.default_rng(), "epoch": 0}
    ...     fastlr.load(f"{folder}/run.safetensors", again)
    >>> again["epoch"], again["rng"].random() == run["rng"].random()
    (3, True)
    """
    require_optimizer(opt, "save(path, opt)")
    if isinstance(opt, Optimizer | Resumable):
        arrays = arrays_of(opt, params)
        described = {"format": FORMAT, "state": description(opt)}
    else:
        found: dict[str, Array] = {}
        described = {"format": RUN_FORMAT, "run": described_run(opt, "", params, found)}
        arrays = largest_first(found)
        try:
            parsed(as_text(described), NESTED)
        except CheckpointError as error:
            raise ValueError(f"save: {error}; save such values as arrays, or in a file of their own") from None
    sums = dict.fromkeys(arrays, "0" * 8)
    listed = as_text(entries(arrays))
    placeholder = header(described, listed, sums)
    with replacing(os.path.realpath(os.fsdecode(path))) as file:
        file.write(placeholder)
        for name, array in arrays.items():
            sums[name] = written(file, array)
        file.seek(0)
        file.write(header(described, listed, sums))


def load(path: str | os.PathLike[str], opt: Optimizer | Resumable | Run, *, params: bool | None = None,
         strict: bool = True, rename: Rename | None = None) -> list[str] | None:
    """Load what was saved: the state, t and hyper-parameters, and the parameters in place; or a whole run.

    Everything is read and checked before the first write; then all of it is copied, or nothing. Of a run, give the
    same structure: its objects take on their states, arrays are written in place, and values are replaced in their
    dict or list.

    Parameters
    ----------
    path
        A file that `save` wrote.
    opt
        An optimizer of the same class, over parameters of the same names, shapes, dtypes and groups; or a run of such.
    params
        None: load parameters if the file has them. True: it must. False: leave the parameters as they are.
    strict
        Refuse a file that does not fit, and a state whose options differ from those of this optimizer, which would
        step otherwise. False: load what fits, as `Optimizer.load_state_dict` says; of a table that has grown, the
        first rows.
    rename
        New names of parameters by the saved ones, or a function old -> new; of a run, for all of its optimizers.

    Returns
    -------
    list of str, or None
        Where not `strict`: a text for each thing that did not fit, empty if all did.

    Raises
    ------
    CheckpointError
        If the file is torn, changed, no checkpoint, or does not fit. Nothing has changed.
    OSError
        If it cannot be read.
    """
    require_optimizer(opt, "load(path, opt)")
    if isinstance(opt, Optimizer | Resumable) and strict and rename is None:
        load_whole(path, opt, params)
        return None
    with opened(path) as file:
        head, stored, metadata = read(file)
        described, sums = own(head, stored, metadata)
        require_kind(described, isinstance(opt, Optimizer | Resumable))
        loaded = fetch(file, stored, sums, {name: array_of(name, tensor) for name, tensor in stored.items()})
        try:
            if isinstance(opt, Optimizer | Resumable):
                ready = [prepared_optimizer(opt, described["state"], loaded, params, strict, rename, "load")]
            else:
                loading = Loading(loaded, params, strict, rename)
                loading.prepare(opt, described["run"], "", None)
                ready = loading.finish()
            write_all(ready)
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from error
    return None if strict else [text for each in ready for text in each.differences]


def load_whole(path: str | os.PathLike[str], opt: Optimizer | Resumable, params: bool | None) -> None:
    """Load an optimizer that the file must fit: what does not is refused before an array is read."""
    with opened(path) as file:
        head, stored, metadata = read(file)
        described, sums = own(head, stored, metadata)
        require_kind(described, True)
        described = described["state"]
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
        loaded = fetch(file, stored, sums, {name: np.empty(tensor.shape, wanted[name].dtype)
                                            for name, tensor in stored.items() if name in wanted})
    state = with_arrays(described, {name: array for name, array in loaded.items() if not name.startswith("param/")})

    def write() -> None:
        opt.load_state_dict(state)
        for name, array in wanted.items():
            if name.startswith("param/"):
                array[...] = loaded[name]
        parameters_written(opt)

    try:
        completed(write)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


def fetch(file: Any, stored: Mapping[str, Stored], sums: Mapping[str, str],
          arrays: dict[str, Array]) -> dict[str, Array]:
    """Read all tensors of a file, into these arrays where there is one; CheckpointError for other bytes than saved."""
    for name, tensor in sorted(stored.items(), key=lambda item: item[1].begin):
        if fetched(file, tensor.end - tensor.begin, arrays.get(name)) != sums[name]:
            raise CheckpointError(f"the bytes of {brief(name)} are not those that were saved; take an older copy")
    return arrays


def require_kind(described: Mapping[str, Any], one: bool) -> None:
    """CheckpointError where one optimizer was saved and a run is loaded, or the other way."""
    if one and "run" in described:
        raise CheckpointError("this is a run of several objects, got one optimizer; load it into the same structure, "
                              "as fastlr.load(path, {\"opt\": opt, ...})")
    if not one and "state" in described:
        raise CheckpointError(f"this is the state of one {brief(described['state']['optimizer'])}, got a run; load it "
                              f"into an optimizer")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a safetensors file by its header; the arrays are not read.

    Returns `optimizer` and `t` (None for a run, and if fastlr did not write the file), `metadata` (what else fastlr
    wrote, of a run under "run"; or the texts of another writer) and `tensors`: name -> {"dtype", "shape", "bytes"}.
    CheckpointError if its length is wrong or its header malformed.
    """
    with opened(path) as file:
        head, stored, metadata = read(file)
        shown: dict[str, Any] = {"optimizer": None, "t": None, "metadata": dict(metadata)}
        if "fastlr" in metadata:
            described, _ = own(head, stored, metadata)
            if "run" in described:
                shown["metadata"] = {"run": described["run"]}
            else:
                state = described["state"]
                shown = {"optimizer": state.pop("optimizer"), "t": state.pop("t"), "metadata": state}
    tensors = {name: {"dtype": tensor.dtype, "shape": tensor.shape, "bytes": tensor.end - tensor.begin}
               for name, tensor in stored.items()}
    return shown | {"tensors": tensors}


# What is saved

def require_optimizer(opt: Any, call: str) -> None:
    if not isinstance(opt, Optimizer | Resumable | Mapping | list | tuple):
        if hasattr(opt, "param_groups"):
            raise TypeError(f"{call}: opt is an optimizer of torch, {type(opt).__name__}; save it by "
                            "torch.save(opt.state_dict(), path), load it by opt.load_state_dict(torch.load(path))")
        raise TypeError(f"{call}: opt must be a fastlr optimizer, or a dict or list of what is to be saved, got "
                        f"{type(opt).__name__}")


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
        found[name] = {"dtype": code_of(array), "shape": array.shape, "data_offsets": (begin, end)}
    return found


def header(described: Mapping[str, Any], listed: str, sums: Mapping[str, str]) -> bytes:
    """All that precedes the data; `listed` is the JSON of `entries`. Its length does not depend on the checksums."""
    from . import __version__

    note = as_text({"fastlr": __version__, **described, "crc32": sums})
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
    """What `save` described, as "state" or "run", and the checksum of each tensor; CheckpointError unless the header is
    as written."""
    if "fastlr" not in metadata or not head.startswith(OPENING, 8):
        raise CheckpointError("expected a checkpoint of fastlr, this is a safetensors file of another program")
    if header_sum(head) != head[DIGITS]:
        raise CheckpointError("the header is not the one that was saved; take an older copy")
    note = parsed(metadata["fastlr"], NESTED)
    if BITS in metadata["fastlr"]:
        note = decoded(note)
    if not isinstance(note, dict) or note.get("format") not in (FORMAT, RUN_FORMAT):
        found = brief(note.get("format") if isinstance(note, dict) else note)
        raise CheckpointError(f"expected checkpoint format {FORMAT} or {RUN_FORMAT}, got {found}; a newer fastlr may "
                              f"read it")
    what = "state" if note["format"] == FORMAT else "run"
    if note.keys() != {"format", "fastlr", what, "crc32"}:
        raise CheckpointError(f"expected the entries of checkpoint format {note['format']}, got {brief(list(note))}")
    sums = note["crc32"]
    if not isinstance(sums, dict) or sums.keys() != stored.keys():
        raise CheckpointError("its tensors are not those that were saved")
    if what == "state" and (not isinstance(note["state"], dict) or not well_formed(note["state"])):
        raise CheckpointError(f"expected the state of an optimizer, got {brief(note['state'])}")
    return {what: note[what]}, sums


def require_fit(wanted: Mapping[str, Array], stored: Mapping[str, Stored], who: str) -> None:
    """CheckpointError unless the file has the tensors of this optimizer and no others, of their shapes and dtypes."""
    for name, array in wanted.items():
        if name not in stored:
            raise CheckpointError(f"{who} needs {brief(name)}, which is not in the file; {CURE}")
        code, (dtype, shape, *_) = code_of(array), stored[name]
        if (dtype, shape) != (code, array.shape):
            raise CheckpointError(f"{brief(name)}: expected {code} {array.shape} as in this {who}, got "
                                  f"{dtype} {brief(shape)}; {CURE}")
        if not array.flags.writeable:
            raise CheckpointError(f"{brief(name)}: must be writable, but the array is read-only now")
    for name in stored:
        if name not in wanted:
            raise CheckpointError(f"{brief(name)} is in the file, and this {who} has none of that name"
                                  f"{nearest(name, wanted)}; {CURE}")
