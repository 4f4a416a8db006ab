"""Histories in files: CSV and JSON lines, written whole or appended line by line; a torn last line is left out."""

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

LAST = 2**63 - 1       # the largest t: a 64-bit integer
WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}


def as_json(t: int, row: Row) -> str:
    plain = {name: x if math.isfinite(x) else WORDS.get(x, "NaN") for name, x in row.items()}
    return json.dumps({"t": t, **plain}, allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(entries: Iterable[Any], quoting: Any = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerow(entries)
    return text.getvalue()


def header(columns: Iterable[str]) -> str:
    """The first line of a CSV; quoted where a name begins or ends with a blank, so that `columns_of` keeps it."""
    names = list(columns)
    return as_csv(names, csv.QUOTE_ALL if any(name != name.strip() for name in names) else csv.QUOTE_MINIMAL)


def columns_of(line: str) -> list[str]:
    """The names in the first line of a CSV; blanks about names that are not quoted are left out."""
    names = next(csv.reader([line], skipinitialspace=True))
    return names if '"' in line else [name.strip() for name in names]


def fields(t: int, row: Row, columns: Iterable[str]) -> list[Any]:
    """One line of a CSV: numbers as Python writes them, which is exact; empty where nothing was recorded."""
    return [t, *(repr(row[name]) if name in row else "" for name in columns)]


def write_jsonl(path: Path_, rows: Iterable[dict[str, Any]]) -> None:
    replace(path, (as_json(row.pop("t"), row) for row in rows))


def write_csv(path: Path_, columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
    def lines() -> Iterator[str]:
        yield header(("t", *columns))
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


def complete_lines(path: Path_) -> tuple[list[tuple[int, str]], str]:
    """The numbered lines that end, without blank ones, and the text after the last line's end."""
    data = Path(path).read_bytes()
    end = data.rfind(b"\n") + 1
    name = Path(path).name
    try:
        text = data[:end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"History: {name}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    lines = [(k, line) for k, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return lines, data[end:].decode("utf-8", "replace")


def read_jsonl(path: Path_) -> Iterator[tuple[int, Row, str]]:
    """t, numbers and text of each line; a last line that does not end counts if it is a whole object."""
    lines, rest = complete_lines(path)
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
        yield *row_of(where, k, entry), line


def read_csv(path: Path_) -> Iterator[tuple[int, Row, str]]:
    """t, numbers and text of each line after the first, which has the names; one that does not end is left out."""
    lines, _ = complete_lines(path)
    name = Path(path).name
    if not lines:
        return
    columns = columns_of(lines[0][1])
    if len({*columns}) != len(columns) or not all(columns):
        raise ValueError(f"History: {name}: line {lines[0][0]}: expected different names, got {lines[0][1][:60]!r}")
    for k, (number, line) in enumerate(lines[1:], start=1):
        entries = next(csv.reader([line]))
        if len(entries) > len(columns):
            raise ValueError(f"History: {name}: line {number}: expected {len(columns)} entries "
                             f"separated by commas, got {len(entries)}")
        present = {column: entry for column, entry in zip(columns, entries, strict=False) if entry.strip()}
        yield *row_of(f"History: {name}: line {number}", k, present), line


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
                if t != x or not 0 <= t <= LAST:
                    raise ValueError
        except (ValueError, OverflowError):
            what = f"an integer from 0 {'up' if t <= LAST else 'to 2**63 - 1'}" if name == "t" else "a number"
            cure = "; leave columns of text out" * (name != "t" and isinstance(value, str))
            raise ValueError(f"{where}: {name!r}: expected {what}, got {str(value)[:40]!r}{cure}") from None
        if name != "t":
            row[name] = x
    return t, row


class LogFile:
    """A file that grows by one line at every record, written at once: a record is in it whole, or not at all."""

    def __init__(self, path: Path_) -> None:
        self.path = Path(path)
        self.jsonl = self.path.suffix.lower() in (".jsonl", ".ndjson")
        if not self.jsonl and self.path.suffix.lower() != ".csv":
            raise ValueError(f"History: path must end in .jsonl or .csv, got {str(path)!r}")
        self.columns: list[str] = []
        self.file: BinaryIO | None = None
        self.torn: int | None = None   # the size to which the file must be cut before the next line

    def read(self) -> Iterator[tuple[int, Row, str]]:
        if self.path.exists():
            yield from (read_jsonl if self.jsonl else read_csv)(self.path)

    def open(self) -> None:
        """Open for appending; a torn last line is cut off, or ended where it is whole."""
        self.file = self.path.open("ab", buffering=0)
        lines, rest = complete_lines(self.path)
        if rest:
            whole = False
            if self.jsonl:
                with suppress(ValueError):
                    whole = isinstance(json.loads(rest), dict)
            if whole:
                self.append("\n")
            else:
                self.file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
        if not self.jsonl and lines:
            self.columns = columns_of(lines[0][1])

    def record(self, t: int, row: Row) -> None:
        """Append a line; OSError, and the file is as it was, if it cannot be written."""
        if self.jsonl:
            self.append(as_json(t, row))
            return
        new = [name for name in row if name not in self.columns]
        if new or "t" not in self.columns:
            self.widen(new)
        numbers: dict[str, Any] = {name: repr(x) for name, x in row.items()}
        self.append(as_csv((numbers | {"t": t}).get(name, "") for name in self.columns))

    def append(self, text: str) -> None:
        assert self.file is not None
        if self.torn is not None:
            self.file.truncate(self.torn)
            self.torn = None
        size, data = os.fstat(self.file.fileno()).st_size, text.encode()
        try:
            while data:                # (a full disk takes a part of it first)
                data = data[self.file.write(data):]
        except BaseException:
            self.torn = size
            with suppress(OSError):
                self.file.truncate(size)
                self.torn = None
            raise

    def widen(self, new: list[str]) -> None:
        """Give the file further columns, at the right: lines so far are short of them, which reads as nothing."""
        if self.columns and "t" not in self.columns:
            raise ValueError(f"History: {self.path.name}: has no column t: read it with History.from_csv, "
                             f"and write another file")
        columns = [*(self.columns or ["t"]), *new]
        lines = self.path.read_bytes().decode("utf-8-sig").splitlines(keepends=True)[1:]
        self.rewrite([header(columns), *lines])
        self.columns = columns

    def rewind(self, t: int) -> None:
        """Take the rows from update t on out of the file."""
        lines = [] if self.jsonl or not self.columns else [header(self.columns)]
        self.rewrite([*lines, *(line.rstrip("\r") + "\n" for at, _, line in self.read() if at < t)])

    def rewrite(self, lines: list[str]) -> None:
        """Put these lines in place of the file's, and go on appending."""
        assert self.file is not None
        replace(self.path, lines)
        self.file.close()
        self.file, self.torn = self.path.open("ab", buffering=0), None

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
