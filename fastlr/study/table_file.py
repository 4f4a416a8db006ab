"""A table in a CSV file as features and a target: text, missing values, identifiers."""

from __future__ import annotations

import csv
from math import isfinite
from pathlib import Path

import numpy as np

from ..optimizers.declaration import nearest
from .networks import Array

LABEL_NAMES = ("label", "target", "class", "y")
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "."}
IDENTIFIERS = ("", "id", "index", "row", "rownames", "unnamed: 0")
MOST_CATEGORIES = 20    # of a text column; one with more is left out
MOST_CLASSES = 20       # of a target of whole numbers; one with more is a regression


def read_table(path: Path, target: str | None = None) -> tuple[Array, Array, list[str]]:
    """Features (n, features) float64, in which NaN is missing, the target (n,), and what was done to get them.

    Numbers stay as they are. A text column becomes a column of 0 and 1 for each of its values, one for missing values
    among them. Left out are text columns of more than 20 values, as names, columns called id or index whose values all
    differ, and rows without a target. The target is numbers where all of its entries are, else text.

    Raises `ValueError` for what is no table, and for a target that numbers the rows.
    """
    columns, rows, headed = split_lines(path)
    k = target_column(path, columns, target, headed)
    notes: list[str] = []
    entries = [[row[j].strip() for row in rows] for j in range(len(columns))]
    known = [entry.lower() not in MISSING for entry in entries[k]]
    if not all(known):
        notes.append(f"{known.count(False)} rows without {columns[k]!r} are left out")
        entries = [[entry for entry, keep in zip(column, known, strict=True) if keep] for column in entries]
    labels = target_of(entries[k])
    if headed and columns[k].lower() in IDENTIFIERS and len(set(entries[k])) == len(entries[k]) > 1:
        raise ValueError(f"data: {path.name}: the target {columns[k]!r} numbers the rows; choose another with --target")
    features = []
    for j, column in enumerate(columns):
        if j != k:
            features += encoded(column, entries[j], notes)
    if not features:
        raise ValueError(f"data: {path.name}: no column is left to learn {columns[k]!r} from; {'; '.join(notes)}")
    return np.column_stack(features), labels, notes


def split_lines(path: Path) -> tuple[list[str], list[list[str]], bool]:
    """Names of columns, rows of entries, and whether the first line had the names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"data: {path.name}: not a text file of separated values ({error})") from None
    headed = bool(rows) and not any(number(entry) is not None for entry in rows[0]) and (
        any(entry.strip() for entry in rows[0]))
    columns = [name.strip() for name in rows[0]] if headed else [str(k + 1) for k in range(len(rows[0]) if rows else 0)]
    if len(columns) < 2 or len(rows) - headed < 1:
        raise ValueError(f"data: {path.name}: needs rows of features and a label, separated by commas")
    for k, row in enumerate(rows[headed:]):
        if len(row) != len(columns):
            where = f"data: {path.name}: row {k + 1 + headed}"
            raise ValueError(f"{where}: expected {len(columns)} entries, got {len(row)}")
    return columns, rows[headed:], headed


def target_column(path: Path, columns: list[str], target: str | None, headed: bool) -> int:
    if target is None:
        return next((k for k, name in enumerate(columns) if headed and name.lower() in LABEL_NAMES), len(columns) - 1)
    if target not in columns:
        cure = nearest(target, columns) or f"; it has {', '.join(columns[:20])}"
        raise ValueError(f"data: {path.name}: no column is called {target!r}{cure}")
    return columns.index(target)


def target_of(entries: list[str]) -> Array:
    """The entries of a target as whole numbers, as numbers, or as text."""
    numbers = [number(entry) for entry in entries]
    if any(value is None or not isfinite(value) for value in numbers):
        return np.array(entries)
    return whole(np.array(numbers, float))


def whole(labels: Array) -> Array:
    """Labels as integers where all are whole numbers, so that class names are 0 and not 0.0."""
    if labels.dtype.kind == "f" and (np.abs(labels) < 2**53).all() and (labels == np.rint(labels)).all():
        return labels.astype(np.int64)
    return labels


def are_amounts(labels: Array) -> bool:
    """Whether a target is predicted as a number: it has more than two values that are not whole, or more than 20."""
    if labels.dtype.kind not in "fiub":
        return False
    count = len(np.unique(labels))
    return count > MOST_CLASSES or (labels.dtype.kind == "f" and count > 2)


def encoded(name: str, entries: list[str], notes: list[str]) -> list[Array]:
    """A column as columns of numbers, none where it is left out."""
    missing = [entry.lower() in MISSING for entry in entries]
    numbers = [None if gone else number(entry) for entry, gone in zip(entries, missing, strict=True)]
    if all(gone or (value is not None and isfinite(value)) for value, gone in zip(numbers, missing, strict=True)):
        values = np.array([np.nan if value is None else value for value in numbers])
        if all(missing):
            notes.append(f"{name!r} is left out: all its values are missing")
            return []
        if name.lower() in IDENTIFIERS and len(np.unique(values)) == len(values):
            notes.append(f"{name!r} is left out: it numbers the rows")
            return []
        if any(missing):
            notes.append(f"{name!r}: {sum(missing)} missing values have the mean of the training rows")
        return [values]
    kinds = sorted(set(entries))
    if len(kinds) > MOST_CATEGORIES:
        notes.append(f"{name!r} is left out: it is text with {len(kinds)} different values")
        return []
    notes.append(f"{name!r} is text: a column of 0 and 1 for each of its {len(kinds)} values")
    return [np.array([entry == kind for entry in entries], float) for kind in kinds]


def number(entry: str) -> float | None:
    try:
        return float(entry)
    except ValueError:
        return None
