"""What the ratios of two builds say: `ab.py` measures them, this file judges them. No timing here."""
from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FASTER, SAME, SLOWER, UNSURE = "faster", "same", "SLOWER", "unsure (spread)"
LEAST, LEAST_SLOWER = 3, 5    # so many pairs of processes, at least, for a verdict; and for "slower"
CONFIDENCE = 0.95


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bounds of the median by order statistics: no distribution is assumed.

    The k-th smallest and the k-th largest of n values enclose the median unless fewer than k values lie on one side
    of it, which has the probability of fewer than k heads among n throws of a coin. Of fewer than six values, for which
    no k gives 95 %, they are the smallest and the largest.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 2 / 2**n, 1
    while k < n // 2:
        outside += 2 * math.comb(n, k) / 2**n
        if outside > 1 - confidence:
            break
        k += 1
    return ordered[k - 1], ordered[n - k]


@dataclass(frozen=True)
class Summary:
    """The ratios new / old of one workload: their median, quartiles and bounds over attempts, and how many attempts."""

    ratio: float
    lower_quartile: float
    upper_quartile: float
    low: float
    high: float
    attempts: int


def summarise(attempts: Sequence[Sequence[float]]) -> Summary:
    """From the rounds of each attempt, that is of each pair of processes.

    An attempt counts as one figure, the median of its rounds: where a process lies in memory moves all its rounds
    together (by 5 % where a call takes 0.4 us), so that more rounds of one pair prove nothing.
    """
    if not attempts:
        raise ValueError("summarise: at least one attempt is needed, got none")
    medians = [statistics.median(attempt) for attempt in attempts]
    lower, middle, upper = statistics.quantiles(medians, n=4, method="inclusive") if len(medians) > 1 else medians * 3
    return Summary(middle, lower, upper, *interval(medians), len(medians))


def verdict(attempts: Sequence[Sequence[float]], threshold: float) -> str:
    """`faster`, `same` (not slower by more than the threshold), `SLOWER` or `unsure (spread)`."""
    found = summarise(attempts)
    if found.attempts >= LEAST and found.high < 1 - threshold:
        return FASTER
    if found.attempts >= LEAST and found.high <= 1 + threshold:
        return SAME
    if found.attempts >= LEAST_SLOWER and found.low > 1 + threshold:
        return SLOWER
    return UNSURE


def suspect(attempts: Sequence[Sequence[float]], threshold: float) -> bool:
    """Whether it looks slower and more attempts are needed to say so: measured again whatever the budget."""
    return len(attempts) < LEAST_SLOWER and summarise(attempts).low > 1 + threshold


def verdict_of_counts(old: float, new: float, threshold: float) -> str:
    """Counts of instructions repeat, so one pair decides."""
    if new > old * (1 + threshold):
        return SLOWER
    return FASTER if new < old * (1 - threshold) else SAME
