"""Replace a file by a new one that is whole: whatever happens, the path has the old file or the new one.

Where the system has unnamed files (O_TMPFILE), the new file has no name until it is whole and on the disk; then it is
linked, and renamed over the old one. Elsewhere it has a temporary name from the start. A process that is killed while
its file has a temporary name leaves that file; the next save to the same path removes it. A file that another process
still writes is locked, and stays.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR
from stat import S_IMODE, S_ISDIR, S_ISREG
from typing import BinaryIO
from zlib import crc32

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:                    # Windows, where a file that is open cannot be removed
    flock = None                       # type: ignore[assignment]

UNNAMED = getattr(os, "O_TMPFILE", 0)


@contextmanager
def replacing(target: str) -> Iterator[BinaryIO]:
    """A new file, which replaces `target` at the end of the with block, or vanishes after an exception."""
    try:
        old = os.stat(target).st_mode
    except FileNotFoundError:
        old = None
    if old is not None and not S_ISREG(old):
        raise OSError(EISDIR if S_ISDIR(old) else EINVAL, "save: not a regular file", target)
    folder = os.path.dirname(target)
    prefix = f".fastlr-{crc32(os.fsencode(os.path.basename(target))):08x}-"
    temporary = os.path.join(folder, f"{prefix}{os.urandom(8).hex()}.tmp")
    directory = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        remove_stale(folder, prefix)
        mode = 0o666 if old is None else S_IMODE(old)
        descriptor = unnamed_file(folder, mode)
        named = descriptor is None
        try:
            if descriptor is None:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
            with open(descriptor, "wb") as file:
                lock(descriptor)
                if old is not None and os.name == "posix":
                    os.fchmod(descriptor, S_IMODE(old))
                yield file
                file.flush()
                os.fsync(descriptor)
                if not named:
                    named = old is not None or not linked(descriptor, target, directory)
                    if named:
                        linked(descriptor, temporary, directory, must=True)
                if named and os.name == "posix":       # (while the lock is held)
                    os.replace(temporary, target)
            if named and os.name != "posix":
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


def unnamed_file(folder: str, mode: int) -> int | None:
    """The descriptor of a new file without a name; None where the system or the file system has no such files."""
    if not UNNAMED or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_WRONLY | UNNAMED, mode)
    except (PermissionError, FileNotFoundError):
        raise
    except OSError:
        return None


def linked(descriptor: int, path: str, directory: int | None, must: bool = False) -> bool:
    """Give an unnamed file a name; False if that exists already, unless it must not."""
    try:
        # (given a directory, Python calls linkat, which follows the link that /proc has for the file)
        os.link(f"/proc/self/fd/{descriptor}", os.path.basename(path), dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        if must:
            raise
        return False
    return True


def lock(descriptor: int) -> None:
    """Mark a file as being written, until it is closed."""
    if flock is not None:
        with suppress(OSError):            # (a file system without locks)
            flock(descriptor, LOCK_EX | LOCK_NB)


def remove_stale(folder: str, prefix: str) -> None:
    """Remove the temporary files of one target that nobody writes any more."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(prefix) and entry.name.endswith(".tmp")):
                continue
            with suppress(OSError):        # (it is locked, or another process has removed it)
                if flock is not None:
                    descriptor = os.open(entry.path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
                    try:
                        flock(descriptor, LOCK_EX | LOCK_NB)
                        os.unlink(entry.path)
                    finally:
                        os.close(descriptor)
                else:
                    os.unlink(entry.path)
