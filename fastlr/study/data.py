"""The data of a study: three small data sets that scikit-learn includes, or a file; nothing is downloaded."""

from __future__ import annotations

import csv
import difflib
import zipfile
import zlib
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from .networks import Array, Batch

NAMES = ("digits", "wine", "breast_cancer")
FRACTIONS = (0.6, 0.2)
MIN_CLASS_ROWS = 5  # so that each split has one
LABEL_NAMES = ("label", "target", "class", "y")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits (x, y): x is (n, features) float32, y is (n,) int64 labels; all read-only.

    `mean` and `scale` are the training split's, one pair of numbers or a pair per feature:
    original = x * scale + mean. `classes` are the labels of the source; y has their indices.
    """

    name: str
    train: Batch
    validation: Batch
    test: Batch
    mean: float | Array
    scale: float | Array
    classes: tuple[str, ...]

    @property
    def features(self) -> int:
        return int(self.train[0].shape[1])


def load(source: str, seed: int = 0) -> Dataset:
    """The data set of a name (`NAMES`) or of a file that ends in .csv or .npz, split by `seed`.

    A .csv file has a row for each example and numbers in every column except the label's: the column that
    the first line names label, target, class or y, else the last. A .npz file holds x (n, ...) and y (n,), or X
    and y, or data and target. Each feature is scaled to mean 0 and variance 1 in the training split.

    Raises `ValueError`, one line with the place, for data that cannot be used: text, missing or infinite values,
    one class, too few rows of a class. `OSError` for a file that cannot be
    read, `ImportError` for a name without scikit-learn.
    """
    if source == "digits":
        return digits(seed)
    if source in NAMES:
        bunch = from_sklearn(source)
        return split(source, bunch.data, np.asarray(bunch.target_names)[bunch.target], seed)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        close = difflib.get_close_matches(source, NAMES, n=1)
        cure = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"data: one of {', '.join(NAMES)}, or a .csv or .npz file, got {source!r}{cure}")
    x, labels = read_csv(path) if suffix == ".csv" else read_npz(path)
    return split(path.name, x, labels, seed)


def from_sklearn(name: str) -> Any:
    try:
        import sklearn.datasets as datasets  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"{name}: the data come with scikit-learn, which is missing; pip install 'fastlr-core[lab]'"
        ) from error
    return getattr(datasets, f"load_{name}")()


def digits(seed: int = 0, shares: tuple[float, float] = FRACTIONS) -> Dataset:
    """1,797 images of 8 x 8 pixels, ten classes, split into train, validation and test by `seed`.

    `shares` are the fractions of training and validation; the rest is the test. Every class is split by the same
    fractions. Pixels (0 to 16) are scaled to mean 0 and variance 1 by the mean and standard deviation of all
    *training* pixels: one pair of numbers, because all pixels have one unit, and the deviation of a single pixel at the
    border, which is nearly always blank, is nearly zero.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, https://doi.org/10.24432/C50P49.
    Raises `ImportError` without scikit-learn, `ValueError` for fractions that leave a split empty.
    """
    train_share, validation_share = shares
    if not (train_share > 0 and validation_share > 0 and train_share + validation_share < 1):
        raise ValueError(f"digits: shares must be positive and leave some for the test, got {shares}")
    bunch = from_sklearn("digits")
    return split("digits", bunch.data, bunch.target, seed, shares, together=True)


def split(
    name: str, x: Array, labels: Array, seed: int, shares: tuple[float, float] = FRACTIONS, together: bool = False
) -> Dataset:
    """Check, split and scale rows and labels: with one mean and deviation if `together`, else one per feature."""
    classes, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"data: {name}: labels must be of two classes at least, got {len(classes)}")
    if MIN_CLASS_ROWS * len(classes) > len(y):
        raise ValueError(
            f"data: {name}: {len(classes)} classes in {len(y)} rows; each class needs {MIN_CLASS_ROWS} rows at least. "
            "Are the labels classes?"
        )
    if counts.min() < MIN_CLASS_ROWS:
        raise ValueError(
            f"data: {name}: class {str(classes[counts.argmin()])!r} has {counts.min()} rows; "
            f"each class needs {MIN_CLASS_ROWS} at least, to be in each split"
        )
    parts = stratified(y, shares, np.random.default_rng(seed))
    training = x[parts[0]]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = training.mean() if together else training.mean(axis=0)
        spread = training.std() if together else training.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)  # (a constant feature becomes 0)
        scaled = ((x - mean) / scale).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise ValueError(f"data: {name}: numbers too large to be scaled to float32")
    splits = ((frozen(scaled[rows]), frozen(y[rows].astype(np.int64))) for rows in parts)
    train, validation, test = splits
    pair: tuple[Any, Any] = (float(mean), float(scale)) if together else (frozen(mean), frozen(scale))
    return Dataset(name, train, validation, test, pair[0], pair[1], tuple(map(str, classes)))


def stratified(labels: Array, shares: tuple[float, ...], rng: np.random.Generator) -> list[Array]:
    """Row numbers of each fraction and of the rest, in ascending order, every class in the same fractions."""
    parts: list[list[Array]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(np.cumsum(shares) * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def frozen(array: Array) -> Array:
    """The array, made read-only: all experiments of a study use the same data."""
    array.flags.writeable = False
    return array


# files


def read_csv(path: Path) -> tuple[Array, Array]:
    """Features (n, features) float64 and labels (n,) of a file of comma-, semicolon- or tab-separated values."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"data: {path.name}: not a text file of separated values ({error})") from None
    headed = bool(rows) and not any(number(entry) is not None or not entry.strip() for entry in rows[0])
    columns = [name.strip() for name in rows[0]] if headed else [str(k + 1) for k in range(len(rows[0]) if rows else 0)]
    if len(columns) < 2 or len(rows) - headed < 1:
        raise ValueError(f"data: {path.name}: needs rows of features and a label, separated by commas")
    label = next((k for k, name in enumerate(columns) if headed and name.lower() in LABEL_NAMES), len(columns) - 1)
    x, labels = np.empty((len(rows) - headed, len(columns) - 1)), []
    for k, row in enumerate(rows[headed:]):
        where = f"data: {path.name}: row {k + 1 + headed}"
        if len(row) != len(columns):
            raise ValueError(f"{where}: expected {len(columns)} entries, got {len(row)}")
        for column, entry in zip(columns, row, strict=True):
            if not entry.strip():
                raise ValueError(f"{where}, column {column!r}: the value is missing")
        values = [number(entry) for j, entry in enumerate(row) if j != label]
        for column, entry, x_ in zip(
            columns[:label] + columns[label + 1 :], row[:label] + row[label + 1 :], values, strict=True
        ):
            if x_ is None or not isfinite(x_):
                raise ValueError(f"{where}, column {column!r}: expected a finite number, got {entry.strip()[:40]!r}")
        x[k] = np.array(values, float)
        labels.append(row[label].strip())
    numbers = [number(entry) for entry in labels]
    if any(value is None for value in numbers):
        return x, np.array(labels)
    if not np.isfinite(np.array(numbers, float)).all():
        raise ValueError(f"data: {path.name}: a label is missing or not finite")
    return x, whole(np.array(numbers, float))


def number(entry: str) -> float | None:
    try:
        return float(entry)
    except ValueError:
        return None


def read_npz(path: Path) -> tuple[Array, Array]:
    """Features and labels of a file that `numpy.savez` wrote; nothing in it is unpickled."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = next((pair for pair in (("x", "y"), ("X", "y"), ("data", "target")) if {*pair} <= {*file}), None)
            if names is None:
                held = ", ".join(file) or "nothing"
                raise ValueError(f"data: {path.name}: must hold x and y (or X and y, or data and target), has {held}")
            x, y = file[names[0]], file[names[1]]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        own = str(error).startswith("data: ")
        raise ValueError(str(error) if own else f"data: {path.name}: not a readable .npz file ({error})") from None
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not x.size:
        raise ValueError(f"data: {path.name}: expected x (n, ...) and y (n,), got {x.shape} and {y.shape}")
    if x.dtype.kind not in "fiub":
        raise ValueError(f"data: {path.name}: x must be numbers, got {x.dtype}")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"data: {path.name}: row {row + 1}: a value is missing or not finite")
    if y.dtype.kind not in "fiubUS" or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise ValueError(f"data: {path.name}: y must be finite numbers or text, got {y.dtype}")
    return x, whole(y)


def whole(labels: Array) -> Array:
    """Labels as integers where all are whole numbers, so that class names are 0 and not 0.0."""
    if labels.dtype.kind == "f" and (np.abs(labels) < 2**53).all() and (labels == np.rint(labels)).all():
        return labels.astype(np.int64)
    return labels
