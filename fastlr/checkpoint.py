"""Checkpoints: an optimizer and its parameters in one file, whole or not there, and not trusted when read.

Any reader of the safetensors format opens these files; this one also checks every byte of them.

CRC-32 guards the arrays, and the header with its own eight digits left out. What it must catch is torn writes
and bad memory: it finds every error of up to 32 bits in a row for certain, and misses one in 2**32 of the
others. It does 2.0 GB/s, where sha256 does 1.1 (with the processor's own instructions for it), blake2b 0.4.
Neither would stop a forger, as there is no key: a forged file is what the strict reader is for.
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR
from stat import S_IMODE, S_ISDIR, S_ISREG
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from ._engine.arrays import stored_as
from ._engine.program import DEPTH
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
from .optimizers.resumable import Resumable, cast, tensors_of

__all__ = ["CheckpointError", "load", "read_header", "save"]

FORMAT = 1
CURE = "build the optimizer over the parameters that were saved"
OPENING = b'{"__metadata__":{"crc32":"'
DIGITS = slice(8 + len(OPENING), 16 + len(OPENING))


def save(path: str | os.PathLike[str], opt: Optimizer | Resumable, *, params: bool = True) -> None:
    """Write all that the coming steps depend on: parameters, state, t and hyper-parameters.

    The new file takes the place of the old one only when it is whole and on the disk: whatever happens, the
    path holds one or the other. (A process that is killed leaves a `.fastlr-*.tmp` beside it.) Tensors are
    `param/NAME` and `state/NAME/SLOT` (and of the n-th wrapper around an optimizer, counted from outside,
    `wrapper/n/NAME/SLOT`), written block by block without a second copy: do not step in another thread meanwhile.

    A hyper-parameter that is a plain function is not saved: `load` keeps the function that is there.

    Parameters
    ----------
    path
        The file. A file that is replaced keeps its mode; a link is followed.
    opt
        Any fastlr optimizer, a wrapper around one, or a mean of weights.
    params
        False: the optimizer's own state only, where the framework saves the parameters.

    Raises
    ------
    OSError
        The old file is as it was; or, if what failed is the last act, recording the exchange, the new one.

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
    placeholder = header(described, arrays, sums)
    with replacing(os.path.realpath(os.fsdecode(path))) as file:
        file.write(placeholder)
        for name, array in arrays.items():
            sums[name] = written(file, array)
        file.seek(0)
        file.write(header(described, arrays, sums))


def load(path: str | os.PathLike[str], opt: Optimizer | Resumable, *, params: bool | None = None) -> None:
    """Become what was saved: the state, t and hyper-parameters, and the parameters in place.

    Everything is read and checked first; then it is copied, all or nothing.

    Parameters
    ----------
    path
        A file that `save` wrote.
    opt
        An optimizer of the same class, over parameters of the same names, shapes, dtypes and groups.
    params
        None: load parameters if the file has them. True: it must. False: leave the parameters as they are.

    Raises
    ------
    CheckpointError
        If the file is torn, altered, foreign, or does not fit this optimizer. Nothing has changed.
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
        try:
            opt.load_state_dict(with_arrays(described, opt, loaded))
        except (TypeError, ValueError) as error:
            raise CheckpointError(str(error)) from error
    for name, array in wanted.items():
        if name.startswith("param/"):
            array[...] = loaded[name]
    cast(opt)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a safetensors file says it holds; its arrays are not read.

    Returns `optimizer` and `t` (None if fastlr did not write it), `metadata` (what else fastlr wrote, or the
    texts of another writer) and `tensors`: name -> {"dtype", "shape", "bytes"}. CheckpointError if its length
    or its header is not as it must be.
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
    """The arrays by their names in a file; wide ones first, so that each is aligned there."""
    arrays = {f"param/{tensor.name}": tensor.array for tensor in tensors_of(opt)} if params else {}
    for prefix, states in layers(opt):
        for name, slots in states.items():
            arrays |= {f"{prefix}/{name}/{slot}": array for slot, array in slots.items()}
    return dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))


def layers(opt: Optimizer | Resumable) -> Iterator[tuple[str, dict[str, dict[str, Array]]]]:
    """What each wrapper remembers, from the outermost in, and then what is wrapped: its place in a file, its arrays."""
    wrapped: Any = opt
    depth = 0
    while isinstance(wrapped, Resumable) and wrapped.inner is not None:
        yield f"wrapper/{depth}", wrapped._arrays()
        wrapped, depth = wrapped.inner, depth + 1
    yield "state", wrapped._arrays() if isinstance(wrapped, Resumable) else wrapped.state


def with_arrays(described: dict[str, Any], opt: Optimizer | Resumable, loaded: Mapping[str, Array]) -> dict[str, Any]:
    """The whole `state_dict` of what a file describes; descriptions that end too soon are refused when it is loaded."""
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
    """`opt.state_dict()` without its arrays (of which that would make copies)."""
    if isinstance(opt, Optimizer):
        return opt._described()
    opt._settled("save")
    return opt._described() if opt.inner is None else opt._described() | {"inner": description(opt.inner)}


# Writing

def header(described: Mapping[str, Any], arrays: Mapping[str, Array], sums: Mapping[str, str]) -> bytes:
    """All that precedes the data. Its length does not depend on the sums."""
    import json

    from . import __version__

    def text(value: Any) -> str:           # (floats are written so that they read back as the same ones)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    document: dict[str, Any] = {"__metadata__": {"crc32": "0" * 8, "fastlr": text(
        {"format": FORMAT, "fastlr": __version__, "state": described, "crc32": sums})}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        code = CODES[str(stored_as(array))]
        document[name] = {"dtype": code, "shape": array.shape, "data_offsets": (begin, end)}
    try:
        body = text(document).encode()
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


def header_sum(head: bytes | bytearray) -> bytes:
    """The sum of a header but for the digits of its own sum."""
    return b"%08x" % crc32(head[DIGITS.stop:], crc32(head[:DIGITS.start]))


@contextmanager
def replacing(target: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of `target` when all is written, or vanishes."""
    try:
        old = os.stat(target).st_mode
    except FileNotFoundError:
        old = None
    if old is not None and not S_ISREG(old):
        raise OSError(EISDIR if S_ISDIR(old) else EINVAL, "save: not a regular file", target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastlr-{os.urandom(8).hex()}.tmp")
    directory = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666 if old is None else S_IMODE(old))
        try:
            with open(descriptor, "wb") as file:
                if old is not None and os.name == "posix":
                    os.fchmod(descriptor, S_IMODE(old))
                yield file
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if directory is not None:
            os.fsync(directory)
    finally:
        if directory is not None:
            os.close(directory)


# Reading

def own(head: bytes, stored: Mapping[str, Stored],
        metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What `save` described, and the sum of each tensor, if all of the header is as it was written."""
    if "fastlr" not in metadata or not head.startswith(OPENING, 8):
        raise CheckpointError("expected a checkpoint of fastlr, this is another's safetensors file")
    if header_sum(head) != head[DIGITS]:
        raise CheckpointError("the header is not the one that was saved; take an older copy")
    note = parsed(metadata["fastlr"].encode(), 2 * DEPTH + 8)
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
    """Whether what `load_state_dict` takes for granted holds."""
    if "groups" not in state:              # (of a wrapper or the like, which takes nothing else for granted)
        inner = state.get("inner")
        return (isinstance(state.get("optimizer"), str) and type(state.get("t")) is int
                and (inner is None or (isinstance(inner, dict) and well_formed(inner))))
    if state.keys() - {"norms", "folded", "shared", "convention", "lr_max", "options"} \
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
    """Every tensor that this optimizer holds and no other, each of its shape and dtype, and writable here."""
    for name, array in wanted.items():
        if name not in stored:
            raise CheckpointError(f"{who} needs {brief(name)}, which is not in the file; {CURE}")
        code, (dtype, shape, *_) = CODES[str(stored_as(array))], stored[name]
        if (dtype, shape) != (code, array.shape):
            raise CheckpointError(f"{brief(name)}: expected {code} {array.shape} as in this {who}, got "
                                  f"{dtype} {brief(shape)}; {CURE}")
        if not array.flags.writeable:
            raise CheckpointError(f"{brief(name)}: must be writable, the array has become read-only")
    for name in stored:
        if name not in wanted:
            raise CheckpointError(f"{brief(name)} is in the file, and this {who} has none of that name"
                                  f"{nearest(name, wanted)}; {CURE}")
