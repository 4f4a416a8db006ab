"""Three common claims about learning rates, tested on the measured runs.

Each verdict is that of a sign test, whose rule is printed with it. Where several comparisons could refute a claim,
their p-values are corrected by Holm's method, so that all of them together refute a true one in at most 5 % of studies.
Holm 1979, Scandinavian Journal of Statistics 6:65-70.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, inf
from statistics import fmean
from typing import Any

Run = dict[str, Any]
Pair = tuple[float, float]

REFUTED, HELD, UNDECIDED = "refuted", "held here", "undecided"
LEVEL = 0.05
FEWEST = 5  # pairs of a test: with fewer not even all of them on one side are below the level


def group(runs: Sequence[Run], *names: str) -> dict[Any, list[Run]]:
    """Runs by the value of one field, or the tuple of several, in the order of the runs."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        key = tuple(run[name] for name in names) if len(names) > 1 else run[names[0]]
        groups.setdefault(key, []).append(run)
    return groups


def lost(run: Run) -> bool:
    """Whether the rate has cost the network: it diverged or collapsed."""
    return bool(run["diverged"] or run["collapsed"])


def loss_of(run: Run) -> float:
    """The validation loss after the last update, infinite if the network was lost."""
    return inf if lost(run) or run["validation_loss"] is None else float(run["validation_loss"])


def mean_loss(runs: Sequence[Run]) -> float:
    """The mean validation loss after the last update, infinite if one of the runs was lost."""
    return fmean(map(loss_of, runs)) if runs else inf


def best_rate(runs: Sequence[Run]) -> float | None:
    """The rate whose mean validation loss is lowest; None if at every rate some seed was lost."""
    losses = {lr: mean_loss(of) for lr, of in group(runs, "lr").items()}
    best = min(losses, key=lambda lr: (losses[lr], lr), default=None)
    return None if best is None or losses[best] == inf else best


def paired(ones: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed."""
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in ones if run["seed"] in by_seed]


def without_seed(runs: Sequence[Run], seed: int) -> list[Run]:
    return [run for run in runs if run["seed"] != seed]


# the test


def sign_test(wins: int, pairs: int) -> float:
    """The probability of at least so many wins in so many pairs, each won with probability 1/2."""
    return float(sum(comb(pairs, k) for k in range(wins, pairs + 1)) / 2**pairs)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: the k-th smallest of n by the factor n - k + 1, and never falling."""
    corrected, highest = [0.0] * len(values), 0.0
    for k, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - k) * values[at]))
        corrected[at] = highest
    return corrected


def compare(pairs_of: dict[Any, list[Pair]]) -> tuple[str, Any, list[tuple[Any, int, int, float]]]:
    """Verdict on the claim that in each comparison the second number is larger, and the comparison that decides it.

    Where none does, that is the one nearest to it. Pairs of equal numbers count for nothing. Refuted if in some
    comparison the first number is larger in more pairs than chance allows, corrected for the number of comparisons;
    held if in each the second is (no correction: a true exception in any one of them keeps this below the level).
    Returned with (comparison, pairs in which the first is larger, pairs, corrected p of that) for each that has enough
    pairs.
    """
    counts = []
    for key, pairs in pairs_of.items():
        different = [(a, b) for a, b in pairs if a != b]
        if len(different) >= FEWEST:
            counts.append((key, sum(a > b for a, b in different), len(different)))
    against = holm([sign_test(first, n) for _, first, n in counts])
    tested = [(key, first, n, p) for (key, first, n), p in zip(counts, against, strict=True)]
    if tested and min(against) < LEVEL:
        return REFUTED, min(tested, key=lambda found: found[3])[0], tested
    if tested and all(sign_test(n - first, n) < LEVEL for _, first, n in counts):
        return HELD, max(counts, key=lambda found: (found[1] / found[2], -found[2]))[0], tested
    return UNDECIDED, min(tested, key=lambda found: found[3])[0] if tested else None, tested


def claim(text: str, verdict: str, rule: str, evidence: list[str]) -> dict[str, Any]:
    return {"claim": text, "verdict": verdict, "rule": rule, "evidence": evidence}


def tested_text(tested: Sequence[tuple[Any, int, int, float]], what: str) -> str:
    """How many comparisons there were, and how many pairs in each."""
    if not tested:
        return f"No {what} with {FEWEST} pairs of runs at least that differ: nothing could be tested."
    sizes = sorted({n for _, _, n, _ in tested})
    pairs = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{len(tested)} {what if len(tested) == 1 else plural(what)} tested, by {pairs} pairs of runs each."


def plural(what: str) -> str:
    return what.replace("pair of rates", "pairs of rates").replace("distance", "distances")


def p_of(verdict: str, against: int, pairs: int, corrected: float, comparisons: int) -> str:
    """The p-value of a comparison: against the claim, or, where it was held, for it."""
    p = sign_test(pairs - against, pairs) if verdict == HELD else corrected
    text = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return text + (f" after correction for {comparisons}" if verdict != HELD and comparisons > 1 else "")


# the claims


def claims(experiments: dict[str, list[Run]], unit: str = "nats") -> list[dict[str, Any]]:
    """The three claims; a claim about experiments without runs is undecided. `unit` is that of losses."""
    ladder = experiments.get("ladder", [])
    return [
        faster(ladder),
        safer(ladder, experiments.get("escape", []), unit),
        once(ladder, experiments.get("decay", []), experiments.get("grid", []), experiments.get("strategies", [])),
    ]


def faster(ladder: Sequence[Run]) -> dict[str, Any]:
    """Does the higher of two rates always need fewer updates?"""

    def updates(run: Run) -> float:
        reached = run["updates_to_target"]
        return inf if reached is None or lost(run) else float(reached)

    pairs_of: dict[tuple[float, float], list[Pair]] = {}
    for runs in group(ladder, "network").values():
        rates = group(runs, "lr")
        for low in sorted(rates):
            high = next((lr for lr in rates if abs(lr / low - 10) < 0.5), None)  # (a decade above)
            if high is not None:
                pairs = [(updates(b), updates(a)) for a, b in paired(rates[low], rates[high])]
                pairs_of.setdefault((low, high), []).extend(pair for pair in pairs if min(pair) < inf)
    verdict, decisive, tested = compare(pairs_of)
    evidence = []
    for (low, high), slower, n, p in tested:
        if (low, high) == decisive:
            evidence.append(f"At {high:g} the target took more updates than at {low:g}, or was never reached, in "
                            f"{slower} of {n} pairs of runs ({p_of(verdict, slower, n, p, len(tested))}).")
    evidence.append(tested_text(tested, "pair of rates"))
    every = [pair for pairs in pairs_of.values() for pair in pairs]
    evidence.append(
        f"Of all {len(every)} pairs of runs whose rates differ tenfold, and of which at least one reached the target, "
        f"the higher rate needed more updates, or never got there, in {sum(a > b for a, b in every)}."
    )
    gone = {lr: sum(map(lost, runs)) for lr, runs in sorted(group(ladder, "lr").items())}
    if any(gone.values()):
        first = next(lr for lr, count in gone.items() if count)
        evidence.append(f"From rate {first:g} up networks diverge or collapse: {sum(gone.values())} of "
                        f"{sum(r['lr'] >= first for r in ladder)} runs.")
    rule = (
        "Runs of the same network and seed at rates a decade apart are compared where at least one reached the target. "
        "Refuted if for some two rates the higher one was slower in more pairs than chance allows: one-sided sign "
        f"test, p < {LEVEL:g} after Holm's correction for all pairs of rates. Held here if for every two rates it was "
        f"faster, p < {LEVEL:g} each. Else undecided."
    )
    return claim("A higher rate always converges faster.", verdict, rule, evidence)


def safer(ladder: Sequence[Run], escapes: Sequence[Run], unit: str) -> dict[str, Any]:
    """Of two rates, one as far below the best as the other is above it, is the lower one always better?"""
    pairs_of: dict[int, list[Pair]] = {}  # rates of the ladder from the best: (lower rate's loss, higher rate's loss)
    for runs in group(ladder, "network").values():
        for seed in group(runs, "seed"):
            # (by the other seeds: a loss does not take part in the choice of what it is compared for)
            best = best_rate(without_seed(runs, seed))
            own = {run["lr"]: loss_of(run) for run in runs if run["seed"] == seed}
            lrs = sorted(own)
            if best not in own:
                continue
            at = lrs.index(best)
            for steps in range(1, min(at, len(lrs) - 1 - at) + 1):
                pairs_of.setdefault(steps, []).append((own[lrs[at - steps]], own[lrs[at + steps]]))
    verdict, decisive, tested = compare(dict(sorted(pairs_of.items())))
    evidence = []
    for steps, worse, n, p in tested:
        if steps == decisive:
            evidence.append(f"{away(steps)} the best rate the lower one ended with the higher validation loss in "
                            f"{worse} of {n} pairs of runs ({p_of(verdict, worse, n, p, len(tested))}).")
    evidence.append(tested_text(tested, "distance"))
    every = [pair for pairs in pairs_of.values() for pair in pairs]
    evidence.append(
        f"Of all {len(every)} pairs of runs as far below the best rate as above it, the lower rate ended with the "
        f"higher validation loss in {sum(a > b for a, b in every)}."
    )
    sides: dict[bool, list[Run]] = {True: [], False: []}
    lowest, bests = [], []
    for runs in group(ladder, "network").values():
        best, rates = best_rate(runs), group(runs, "lr")
        if best is not None:
            for run in runs:
                if run["lr"] != best:
                    sides[run["lr"] < best].append(run)
            lowest.append(f"{mean_loss(rates[min(rates)]):.2g}")
            bests.append(f"{mean_loss(rates[best]):.2g}")
    if sides[True] and sides[False]:
        counts = {below: f"{sum(map(lost, of))} of {len(of)}" for below, of in sides.items()}
        evidence.append(f"Diverged or collapsed: {counts[True]} runs below the best rate, {counts[False]} above it.")
    if sides[True]:
        evidence.append(
            f"What does not diverge need not end well: at rate {min(run['lr'] for run in ladder):g} the networks end "
            f"at {', '.join(lowest)} {unit}, at their best rates at {', '.join(bests)}."
        )
    if escapes:
        rates = group(escapes, "lr")
        means = {lr: 100 * fmean(run["escaped"] for run in of) for lr, of in rates.items()}
        low, high = min(rates), max(rates, key=lambda lr: means[lr])
        evidence.append(
            f"Not part of the test: from a local minimum {means[low]:.1f} % of "
            f"noisy starts escaped at rate {low:g}, {means[high]:.1f} % at {high:g} "
            f"(mean of {len(rates[low])} landscapes)."
        )
    rule = (
        "Of two rates, one as many rates of the ladder below the best as the other is above it, the safer one ends "
        "with the lower validation loss; a network that diverged or collapsed ended worst. The best is chosen by the "
        "other seeds. Refuted if at some distance the higher rate was the safer one in more pairs of runs than chance "
        f"allows: one-sided sign test, p < {LEVEL:g} after Holm's correction for all distances. Held here if at every "
        f"distance the lower rate was, p < {LEVEL:g} each. Else undecided."
    )
    return claim("Too low is always the safer choice.", verdict, rule, evidence)


def away(steps: int) -> str:
    return "One rate of the ladder from" if steps == 1 else f"{steps} rates of the ladder from"


def once(
    ladder: Sequence[Run], decay: Sequence[Run], grid: Sequence[Run], strategies: Sequence[Run]
) -> dict[str, Any]:
    """Can the rate be set once and held, or is one that decays better?"""
    evidence: list[str] = []
    held_of, decaying_of = group(ladder, "network"), group(decay, "network")
    lrs = set(group(decay, "lr"))
    pairs: list[Pair] = []  # (held, decaying) validation losses
    for network in held_of:
        held = [run for run in held_of[network] if run["lr"] in lrs]
        decaying = decaying_of.get(network, [])
        for seed in group(decaying, "seed"):
            own = []
            for runs in (held, decaying):
                best = best_rate(without_seed(runs, seed))
                own += [loss_of(run) for run in runs if (run["lr"], run["seed"]) == (best, seed)]
            if len(own) == 2:
                pairs.append((own[0], own[1]))
    # (the claim is that the decaying rate, second, ends higher)
    verdict, _, tested = compare({"decay": pairs})
    for _, better, n, p in tested:
        evidence.append(
            f"The best rate that decays ended with a lower validation loss than the best held rate in {better} of {n} "
            f"pairs of runs ({p_of(verdict, better, n, p, 1)})."
        )
    if not tested:
        evidence.append(f"Fewer than {FEWEST} pairs of runs that differ: nothing could be tested.")
    if grid and strategies:
        network, own_optimizer = strategies[0]["network"], grid[0]["optimizer"]
        held = [run for run in grid if run["network"] == network]
        decaying = [run for run in strategies if run["optimizer"] == own_optimizer and run["schedule"] is not None]
        better = total = 0
        for _, runs in group(decaying, "schedule").items():
            for a, b in paired_by_rate(held, runs):
                total += 1
                better += loss_of(b) < loss_of(a)
        if total:
            evidence.append(f"Not part of the test: in table 11 a decaying rate ended lower than the same first rate "
                            f"held in {better} of {total} runs of {network}.")
    found = {network: lr for network, runs in held_of.items() if (lr := best_rate(runs)) is not None}
    if found:
        rates = ", ".join(f"{lr:g} for {network}" for network, lr in found.items())
        evidence.append(f"Not part of the test: the best held rate is {rates}.")
    rule = (
        "Of the same network and seed, the best held rate and the best first rate of a cosine to 0 are compared, each "
        "chosen by the other seeds from the same rates. Refuted if the decaying one ended with the lower validation "
        f"loss in more pairs of runs than chance allows: one-sided sign test, p < {LEVEL:g}. Held here if the held one "
        f"did, p < {LEVEL:g}. Else undecided."
    )
    return claim("It can be set once and never adjusted.", verdict, rule, evidence)


def paired_by_rate(ones: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed and the same first rate."""
    by_key = {(run["seed"], run["lr"]): run for run in others}
    return [(run, by_key[key]) for run in ones if (key := (run["seed"], run["lr"])) in by_key]
