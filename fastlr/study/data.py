"""The images a study learns: handwritten digits that come with scikit-learn; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .networks import Array, Batch


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits (x, y): x is (n, features) float32, y is (n,) int64 labels; all read-only.

    `mean` and `scale` are the training split's: pixel = x * scale + mean.
    """

    name: str
    train: Batch
    validation: Batch
    test: Batch
    mean: float
    scale: float


def digits(seed: int = 0, shares: tuple[float, float] = (0.6, 0.2)) -> Dataset:
    """1,797 images of 8 x 8 pixels, ten classes, split into train, validation and test by `seed`.

    `shares` are those of training and validation; the rest is the test. Every class is split in the same
    shares. Pixels (0 to 16) are brought to mean 0 and variance 1 by the mean and deviation of all *training*
    pixels: one pair of numbers, because the pixels share a unit, and a deviation per pixel would divide by
    almost nothing at the borders, which are almost always blank.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, https://doi.org/10.24432/C50P49.
    Raises `ImportError` without scikit-learn, `ValueError` for shares that leave a split empty.
    """
    train_share, validation_share = shares
    if not (train_share > 0 and validation_share > 0 and train_share + validation_share < 1):
        raise ValueError(f"digits: shares must be positive and leave some for the test, got {shares}")
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            "digits: the images come with scikit-learn, which is missing; pip install 'fastlr-core[lab]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    parts = stratified(labels, (train_share, validation_share), np.random.default_rng(seed))
    mean, scale = float(pixels[parts[0]].mean()), float(pixels[parts[0]].std())
    train, validation, test = (
        (frozen(((pixels[rows] - mean) / scale).astype(np.float32)), frozen(labels[rows].astype(np.int64)))
        for rows in parts
    )
    return Dataset("digits", train, validation, test, mean, scale)


def stratified(labels: Array, shares: tuple[float, ...], rng: np.random.Generator) -> list[Array]:
    """Row numbers of each share and of the rest, in ascending order, every class in the same shares."""
    parts: list[list[Array]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(np.cumsum(shares) * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def frozen(array: Array) -> Array:
    """The array, made read-only: a study must not change the images it is repeated on."""
    array.flags.writeable = False
    return array
