"""The data of a study: small data sets that scikit-learn includes, or a file; nothing is downloaded."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..optimizers.declaration import nearest
from .networks import Array, Batch
from .table_file import MOST_CLASSES, are_amounts, read_table, whole

NAMES = ("digits", "wine", "breast_cancer", "diabetes")
FRACTIONS = (0.6, 0.2)
MIN_CLASS_ROWS = 5  # so that each split has one
MIN_ROWS = 20  # of a regression


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits (x, y): x is (n, features) float32, y is (n,) int64 labels; all read-only.

    `mean` and `scale` are the training split's, one pair of numbers or a pair per feature:
    original = x * scale + mean. `classes` are the labels of the source; y has their indices. Without classes the data
    are a regression: y is (n,) float32, numbers of mean 0 and variance 1 in the training split, and `target` has that
    split's mean and deviation, in the source's own unit. `notes` tell what was left out or made of a table to get
    numbers.
    """

    name: str
    train: Batch
    validation: Batch
    test: Batch
    mean: float | Array
    scale: float | Array
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    target: tuple[float, float] = (0.0, 1.0)

    @property
    def features(self) -> int:
        return int(self.train[0].shape[1])

    @property
    def regression(self) -> bool:
        return not self.classes

    @property
    def outputs(self) -> int:
        """Of a network: one for each class, or the number that is predicted."""
        return len(self.classes) or 1

    @property
    def majority(self) -> float:
        """The accuracy on the test split of always saying the most frequent class of the training split."""
        return self.baseline["test_accuracy"]

    @property
    def baseline(self) -> dict[str, float]:
        """The losses, and the accuracies, of a prediction that does not look at the features.

        It is the frequencies of the classes in the training split, of which the most frequent one is said, so that the
        loss is their cross-entropy; in a regression the mean of the training split, and there is no accuracy.
        """
        splits = {"train": self.train[1], "validation": self.validation[1], "test": self.test[1]}
        if self.regression:
            return {f"{name}_loss": float(np.square(y, dtype=np.float64).mean()) for name, y in splits.items()}
        counts = np.bincount(self.train[1], minlength=len(self.classes))
        nats = -np.log(counts / counts.sum())
        losses = {f"{name}_loss": float(nats[y].mean()) for name, y in splits.items()}
        return losses | {f"{name}_accuracy": float((y == counts.argmax()).mean()) for name, y in splits.items()}


def load(source: str, seed: int = 0, target: str | None = None) -> Dataset:
    """The data set of a name (`NAMES`) or of a file that ends in .csv or .npz, split by `seed`.

    A .csv file has a row for each example; the label is the column `target`, or the one that the first line names
    label, target, class or y, else the last. Text columns and missing values become numbers: see
    `fastlr.study.table_file`. A .npz file holds x (n, ...) and y (n,), or X and y, or data and target. Each feature is
    scaled to mean 0 and variance 1 in the training split. A target of numbers that are not whole, or of more than 20
    different ones, is a regression.

    Raises `ValueError`, one line with the place, for data that cannot be used: one class, too few rows of a class, in a
    .npz text, missing or infinite values. `OSError` for a file that cannot be read, `ImportError` for a name without
    scikit-learn.
    """
    if target is not None and Path(source).suffix.lower() != ".csv":
        raise ValueError(f"data: --target names a column of a .csv file, and {source} is none")
    if source == "digits":
        return digits(seed)
    if source in NAMES:
        bunch = from_sklearn(source)
        if source == "diabetes":
            return split_numbers(source, bunch.data, bunch.target, seed)
        return split(source, bunch.data, np.asarray(bunch.target_names)[bunch.target], seed)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise ValueError(f"data: one of {', '.join(NAMES)}, or a .csv or .npz file, got {source!r}"
                         f"{nearest(str(source), NAMES)}")
    notes: list[str] = []
    if suffix == ".npz":
        x, labels = read_npz(path)
    else:
        x, labels, notes = read_table(path, target)
    if are_amounts(labels):
        notes.append(f"the target is a number with {len(np.unique(labels)):,} different values: a regression"
                     + (f" (numbers are classes where they are whole and at most {MOST_CLASSES})"
                        if labels.dtype.kind in "iub" else ""))
        made = split_numbers(path.name, x, labels, seed)
    else:
        x, labels = without_rare(x, labels, notes)
        made = split(path.name, x, labels, seed)
    return replace(made, notes=tuple(notes))


def without_rare(x: Array, labels: Array, notes: list[str]) -> tuple[Array, Array]:
    """The rows whose class has enough of them, where there are two such classes."""
    _, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    enough = counts >= MIN_CLASS_ROWS
    if enough.all() or enough.sum() < 2:
        return x, labels
    notes.append(f"{int((~enough).sum())} classes of fewer than {MIN_CLASS_ROWS} rows are left out, "
                 f"{int(counts[~enough].sum())} rows in all")
    return x[enough[y]], labels[enough[y]]


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
        raise ValueError(f"data: {name}: labels must be of two classes at least, got {len(classes)}: "
                         f"{str(classes[0])[:40]!r} in every row; choose another target")
    if MIN_CLASS_ROWS * len(classes) > len(y):
        raise ValueError(
            f"data: {name}: {len(classes)} classes in {len(y)} rows; each class needs {MIN_CLASS_ROWS} rows at least. "
            "If the target names the rows, choose another one"
        )
    if counts.min() < MIN_CLASS_ROWS:
        raise ValueError(
            f"data: {name}: class {str(classes[counts.argmin()])!r} has {counts.min()} rows; "
            f"each class needs {MIN_CLASS_ROWS} at least, to be in each split"
        )
    parts = stratified(y, shares, np.random.default_rng(seed))
    scaled, mean, scale = scaled_features(name, x, parts[0], together)
    splits = ((frozen(scaled[rows]), frozen(y[rows].astype(np.int64))) for rows in parts)
    train, validation, test = splits
    return Dataset(name, train, validation, test, mean, scale, tuple(map(str, classes)))


def split_numbers(name: str, x: Array, values: Array, seed: int, shares: tuple[float, float] = FRACTIONS) -> Dataset:
    """Check, split and scale rows and the numbers that a regression predicts."""
    if len(values) < MIN_ROWS:
        raise ValueError(f"data: {name}: a regression needs {MIN_ROWS} rows at least, got {len(values)}")
    parts = stratified(np.zeros(len(values)), shares, np.random.default_rng(seed))
    scaled, mean, scale = scaled_features(name, x, parts[0], together=False)
    with np.errstate(over="ignore", invalid="ignore"):
        training = np.asarray(values[parts[0]], np.float64)
        middle, spread = float(training.mean()), float(training.std())
        if not np.isfinite(middle + spread):
            raise ValueError(f"data: {name}: numbers of the target too large to be scaled to float32")
        if spread == 0:
            raise ValueError(f"data: {name}: the target is {middle:.6g} in every training row; choose another target")
        y = ((values - middle) / spread).astype(np.float32)
    train, validation, test = ((frozen(scaled[rows]), frozen(y[rows])) for rows in parts)
    return Dataset(name, train, validation, test, mean, scale, (), target=(middle, spread))


def scaled_features(name: str, x: Array, rows: Array, together: bool) -> tuple[Array, Any, Any]:
    """Features of mean 0 and variance 1 in the training rows; the mean and the deviation that were taken out."""
    training = x[rows]
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.where(np.isnan(training), 0.0, training)  # (NaN is missing; such a value becomes the mean, 0)
        count = np.maximum((~np.isnan(training)).sum(axis=0), 1)
        mean = training.mean() if together else known.sum(axis=0) / count
        spread = training.std() if together else np.sqrt(np.nansum((training - mean) ** 2, axis=0) / count)
        scale = np.where(spread > 0, spread, 1.0)  # (a constant feature becomes 0)
        scaled = np.where(np.isnan(x), 0.0, (x - mean) / scale).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise ValueError(f"data: {name}: numbers too large to be scaled to float32")
    return (scaled, float(mean), float(scale)) if together else (scaled, frozen(mean), frozen(scale))


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
