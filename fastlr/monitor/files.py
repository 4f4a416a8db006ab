"""Histories in files: CSV and JSON lines, whole or appended line by line; what a crash tore off is left out."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

Row = dict[str, float]
Path_ = str | os.PathLike[str]

WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}


def as_json(t: int, row: Row) -> str:
    plain = {name: x if math.isfinite(x) else WORDS.get(x, "NaN") for name, x in row.items()}
    return json.dumps({"t": t, **plain}, allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(entries: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(entries)
    return text.getvalue()


def fields(t: int, row: Row, columns: Iterable[str]) -> list[Any]:
    """One line of a CSV: numbers as Python writes them, which is exact; nothing where there is nothing."""
    return [t, *(repr(row[name]) if name in row else "" for name in columns)]


def write_jsonl(path: Path_, rows: Iterable[dict[str, Any]]) -> None:
    replace(path, (as_json(row.pop("t"), row) for row in rows))


def write_csv(path: Path_, columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
    def lines() -> Iterator[str]:
        yield as_csv(("t", *columns))
        for row in rows:
            yield as_csv(fields(row.pop("t"), row, columns))

    replace(path, lines())


def replace(path: Path_, lines: Iterable[str]) -> None:
    """Write a file that takes an old one's place only when it is whole."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=".fastlr-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~current_umask()
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def whole_lines(path: Path_) -> tuple[list[tuple[int, str]], str]:
    """The numbered lines that end, without blank ones, and what stands behind the last end."""
    data = Path(path).read_bytes()
    end = data.rfind(b"\n") + 1
    name = Path(path).name
    try:
        text = data[:end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"History: {name}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    lines = [(k, line) for k, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return lines, data[end:].decode("utf-8", "replace")


def read_jsonl(path: Path_) -> Iterator[tuple[int, Row]]:
    """t and numbers of each line; of a last line that does not end only what is a whole object."""
    lines, rest = whole_lines(path)
    name = Path(path).name
    if rest.strip():
        with suppress(ValueError):
            if isinstance(json.loads(rest), dict):
                lines.append((lines[-1][0] + 1 if lines else 1, rest))
    for k, (number, line) in enumerate(lines, start=1):
        where = f"History: {name}: line {number}"
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}")
        yield row_of(where, k, entry)


def read_csv(path: Path_) -> Iterator[tuple[int, Row]]:
    """t and numbers of each line after the first, which has the names; a last line that does not end is left out."""
    lines, _ = whole_lines(path)
    name = Path(path).name
    if not lines:
        return
    columns = [column.strip() for column in next(csv.reader([lines[0][1]]))]
    if len({*columns}) != len(columns) or not all(columns):
        raise ValueError(f"History: {name}: line {lines[0][0]}: expected different names, got {lines[0][1][:60]!r}")
    for k, (number, line) in enumerate(lines[1:], start=1):
        entries = next(csv.reader([line]))
        if len(entries) > len(columns):
            raise ValueError(f"History: {name}: line {number}: expected {len(columns)} entries, got {len(entries)}")
        present = {column: entry for column, entry in zip(columns, entries, strict=False) if entry.strip()}
        yield row_of(f"History: {name}: line {number}", k, present)


def row_of(where: str, k: int, entry: dict[str, Any]) -> tuple[int, Row]:
    """The t (k without one) and the numbers of a line."""
    row: Row = {}
    t = k
    for name, value in entry.items():
        try:
            if value is None or isinstance(value, bool | list | dict):
                raise ValueError
            x = float(value)
            if name == "t":
                t = int(value) if isinstance(value, str) and value.strip().isdigit() else int(x)
                if t != x or t < 0:
                    raise ValueError
        except (ValueError, OverflowError):
            what = "an integer from 0 up" if name == "t" else "a number"
            raise ValueError(f"{where}: {name!r}: expected {what}, got {str(value)[:40]!r}") from None
        if name != "t":
            row[name] = x
    return t, row


class Log:
    """A file that grows by one line at every record, written and handed to the system at once."""

    def __init__(self, path: Path_) -> None:
        self.path = Path(path)
        self.jsonl = self.path.suffix.lower() in (".jsonl", ".ndjson")
        if not self.jsonl and self.path.suffix.lower() != ".csv":
            raise ValueError(f"History: path must end in .jsonl or .csv, got {str(path)!r}")
        self.columns: list[str] = []
        self.file: BinaryIO | None = None

    def read(self) -> Iterator[tuple[int, Row]]:
        if self.path.exists():
            yield from (read_jsonl if self.jsonl else read_csv)(self.path)

    def open(self) -> None:
        """Open for appending; a torn last line is cut off, or ended where it is whole."""
        self.file = self.path.open("ab", buffering=0)
        lines, rest = whole_lines(self.path)
        if rest:
            whole = False
            if self.jsonl:
                with suppress(ValueError):
                    whole = isinstance(json.loads(rest), dict)
            if whole:
                self.file.write(b"\n")
            else:
                self.file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
        if not self.jsonl and lines:
            self.columns = [column.strip() for column in next(csv.reader([lines[0][1]]))]

    def __call__(self, t: int, row: Row) -> None:
        assert self.file is not None
        if self.jsonl:
            self.file.write(as_json(t, row).encode())
            return
        new = [name for name in row if name not in self.columns]
        if new or "t" not in self.columns:
            self.widen(new)
        numbers: dict[str, Any] = {name: repr(x) for name, x in row.items()}
        self.file.write(as_csv((numbers | {"t": t}).get(name, "") for name in self.columns).encode())

    def widen(self, new: list[str]) -> None:
        """Give the file further columns, at the right: lines so far are short of them, which reads as nothing."""
        assert self.file is not None
        data = self.path.read_bytes()
        if self.columns and "t" not in self.columns:
            raise ValueError(f"History: {self.path.name}: has no column t: read it with History.from_csv, "
                             f"and write another file")
        self.columns = [*(self.columns or ["t"]), *new]
        lines = data.decode("utf-8-sig").splitlines(keepends=True)[1:]
        self.file.close()
        replace(self.path, (as_csv(self.columns), *lines))
        self.file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
