"""Three common claims about learning rates, tested on the measured runs.

Each verdict follows from counts of runs by a rule that is printed with it, and is "undecided" where seeds contradict
each other or are too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

Run = dict[str, Any]

REFUTED, HELD, UNDECIDED = "refuted", "held here", "undecided"


def group(runs: Sequence[Run], *names: str) -> dict[Any, list[Run]]:
    """Runs by the value of one field, or the tuple of several, in the order of the runs."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        key = tuple(run[name] for name in names) if len(names) > 1 else run[names[0]]
        groups.setdefault(key, []).append(run)
    return groups


def mean_loss(runs: Sequence[Run]) -> float:
    """The mean validation loss after the last update, infinite if one of the runs diverged."""
    losses = [run["validation_loss"] for run in runs]
    return float("inf") if not losses or any(run["diverged"] for run in runs) else fmean(losses)


def best_rate(runs: Sequence[Run]) -> float | None:
    """The rate whose mean validation loss is lowest; None if every rate diverged in some seed."""
    losses = {lr: mean_loss(of) for lr, of in group(runs, "lr").items()}
    best = min(losses, key=lambda lr: (losses[lr], lr), default=None)
    return None if best is None or losses[best] == float("inf") else best


def paired(ones: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed."""
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in ones if run["seed"] in by_seed]


def claim(text: str, verdict: str, rule: str, evidence: list[str]) -> dict[str, Any]:
    return {"claim": text, "verdict": verdict, "rule": rule, "evidence": evidence}


def claims(experiments: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """The three claims; a claim about experiments without runs is undecided."""
    ladder, grid = experiments.get("ladder", []), experiments.get("grid", [])
    return [
        faster(ladder),
        safer(ladder, experiments.get("escape", [])),
        once(grid, experiments.get("strategies", []), ladder),
    ]


def faster(ladder: Sequence[Run]) -> dict[str, Any]:
    """Does the higher of two rates always need fewer updates?"""

    def updates(run: Run) -> float:
        reached = run["updates_to_target"]
        return float("inf") if reached is None or run["diverged"] else float(reached)

    slower = compared = examples_found = 0
    examples: list[tuple[str, float, float, list[Run], list[Run]]] = []
    for network, runs in group(ladder, "network").items():
        rates = group(runs, "lr")
        for low, high in combinations(sorted(rates), 2):
            pairs = [(updates(a), updates(b)) for a, b in paired(rates[low], rates[high])]
            pairs = [(a, b) for a, b in pairs if min(a, b) < float("inf")]
            compared += len(pairs)
            slower += sum(b > a for a, b in pairs)
            if len(pairs) > 1 and all(b > a for a, b in pairs):
                examples_found += 1
                examples.append((network, low, high, rates[low], rates[high]))
    evidence = [
        f"Of {compared} pairs of runs that differ in the rate alone, and of which at least one reached the target, "
        f"the higher rate needed more updates, or never got there, in {slower}."
    ]
    if examples:
        # (the least extreme example: the pair whose higher rate is lowest)
        network, low, high, lows, highs = min(examples, key=lambda e: (e[2], -e[1]))
        evidence.append(
            f"For one: {network} took {updates_text(lows)} at rate {low:g} and {updates_text(highs)} at {high:g}, "
            "in every seed more."
        )
    lost = {lr: sum(run["diverged"] for run in runs) for lr, runs in sorted(group(ladder, "lr").items())}
    if any(lost.values()):
        first = next(lr for lr, count in lost.items() if count)
        evidence.append(
            f"From rate {first:g} up runs diverge: {sum(lost.values())} of {sum(r['lr'] >= first for r in ladder)}."
        )
    rule = (
        "Refuted if, for some network and two rates, the higher one was slower in every seed (two at least); "
        "held here if it was slower in no pair at all; else undecided."
    )
    verdict = REFUTED if examples_found else HELD if compared and not slower else UNDECIDED
    return claim("A higher rate always converges faster.", verdict, rule, evidence)


def updates_text(runs: Sequence[Run]) -> str:
    """Updates to the target, in words."""
    reached = [run["updates_to_target"] for run in runs if run["updates_to_target"] is not None]
    if not reached:
        return f"none of {len(runs)} runs to the target"
    few = f" (where it got there: {len(reached)} of {len(runs)})" if len(reached) < len(runs) else ""
    return f"{fmean(reached):,.0f} updates{few}"


def safer(ladder: Sequence[Run], escapes: Sequence[Run]) -> dict[str, Any]:
    """Of two rates, one as far below the best as the other is above it, is the lower one always better?"""

    def loss(run: Run) -> float:
        return float("inf") if run["diverged"] or run["validation_loss"] is None else float(run["validation_loss"])

    pairs_of: dict[int, list[tuple[float, float]]] = {}  # steps of the ladder from the best: (lower, higher) losses
    examples: list[tuple[int, str, float, float, float]] = []
    for network, runs in group(ladder, "network").items():
        best, rates = best_rate(runs), group(runs, "lr")
        if best is None:
            continue
        lrs = sorted(rates)
        at = lrs.index(best)
        for steps in range(1, min(at, len(lrs) - 1 - at) + 1):
            low, high = lrs[at - steps], lrs[at + steps]
            pairs = [(loss(a), loss(b)) for a, b in paired(rates[low], rates[high])]
            pairs_of.setdefault(steps, []).extend(pairs)
            if len(pairs) > 1 and all(a > b for a, b in pairs):
                examples.append((steps, network, best, low, high))
    pairs = [pair for of in pairs_of.values() for pair in of]
    worse = sum(a > b for a, b in pairs)
    evidence = [
        f"Of {len(pairs)} pairs of runs as far below the best rate as above it, the lower rate ended with the higher "
        f"validation loss in {worse}."
    ]
    if examples:
        _, network, best, low, high = min(examples)
        rates = group([run for run in ladder if run["network"] == network], "lr")
        evidence.append(
            f"For one: {network}, best at {best:g}, ended at {mean_loss(rates[low]):.2g} at rate {low:g} and at "
            f"{mean_loss(rates[high]):.2g} at {high:g}, in every seed lower there."
        )
    far = [pair for steps, of in pairs_of.items() if steps > 1 for pair in of]
    if far:
        evidence.append(
            f"Further off, two rates of the ladder or more, the lower one ended worse in {sum(a > b for a, b in far)} "
            f"of {len(far)}: there the claim is {'true' if all(a <= b for a, b in far) else 'not true either'}."
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
        lost = {below: f"{sum(run['diverged'] for run in of)} of {len(of)}" for below, of in sides.items()}
        evidence.append(f"Diverged: {lost[True]} runs below the best rate, {lost[False]} above it.")
    if sides[True]:
        evidence.append(
            f"What does not diverge need not end well: at rate {min(run['lr'] for run in ladder):g} the networks end "
            f"at {', '.join(lowest)} nats, at their best rates at {', '.join(bests)}."
        )
    if escapes:
        rates = group(escapes, "lr")
        low, high = min(rates), max(rates)
        evidence.append(
            f"From a local minimum {100 * fmean(r['escaped'] for r in rates[low]):.1f} % of noisy starts escaped at "
            f"rate {low:g}, {100 * fmean(r['escaped'] for r in rates[high]):.1f} % at {high:g} "
            f"(mean of {len(rates[low])} landscapes)."
        )
    rule = (
        "The safer of two mistakes, as many rates of the ladder below the best one as above it, is the one that ends "
        "with the lower validation loss. Refuted if, for some network and distance, that was the higher rate in every "
        "seed (two at least); held here if it was in no pair; else undecided."
    )
    verdict = REFUTED if examples else HELD if pairs and not worse else UNDECIDED
    return claim("Too low is always the safer choice.", verdict, rule, evidence)


def once(grid: Sequence[Run], strategies: Sequence[Run], ladder: Sequence[Run]) -> dict[str, Any]:
    """Can the rate be set once and never adjusted?"""
    evidence: list[str] = []
    always = never = False     # decay was better in every seed, or in none
    if grid and strategies:
        network, own = strategies[0]["network"], grid[0]["optimizer"]
        seeds = {run["seed"] for run in strategies}
        held = [run for run in grid if run["network"] == network and run["seed"] in seeds]
        decaying = [run for run in strategies if run["optimizer"] == own and run["schedule"] is not None]
        better = total = 0
        for _, runs in group(decaying, "schedule").items():
            for a, b in paired_by_rate(held, runs):
                total += 1
                better += a["diverged"] or (not b["diverged"] and b["validation_loss"] < a["validation_loss"])
        evidence.append(
            f"Within a run: {network}, letting the same first rate decay gave a lower validation loss than holding it "
            f"in {better} of {total} runs."
        )
        rate = best_rate(held)
        rivals = [(mean_loss(of), text, lr) for (text, lr), of in group(decaying, "schedule", "lr").items()]
        if rate is not None and rivals and min(rivals)[0] < float("inf"):
            loss, text, lr = min(rivals)
            best_held = [run for run in held if run["lr"] == rate]
            rival = [run for run in decaying if (run["schedule"], run["lr"]) == (text, lr)]
            wins = [b["validation_loss"] < a["validation_loss"] for a, b in paired(best_held, rival)]
            always, never = len(wins) > 1 and all(wins), not any(wins)
            evidence.append(
                f"The best held rate, {rate:g}, ended at {mean_loss(best_held):.3g}; the best decaying one, from "
                f"{lr:g} by {text}, at {loss:.3g}: lower in {sum(wins)} of {len(wins)} seeds."
            )
    best = {network: best_rate(runs) for network, runs in group(ladder, "network").items()}
    found = {network: lr for network, lr in best.items() if lr is not None}
    carried = []
    for network, lr in found.items():
        rates = group([run for run in ladder if run["network"] == network], "lr")
        for other in (set(found.values()) - {lr}) & set(rates):
            carried.append((mean_loss(rates[other]) / max(mean_loss(rates[lr]), 1e-12), network, lr, other))
    moved = False
    if found:
        evidence.append(
            "From network to network: the best rate is "
            + ", ".join(f"{lr:g} for {network}" for network, lr in found.items())
            + "."
        )
    if carried:
        factor, network, lr, other = max(carried)
        own_runs = [run for run in ladder if run["network"] == network]
        pairs = paired([r for r in own_runs if r["lr"] == lr], [r for r in own_runs if r["lr"] == other])
        moved = len(pairs) > 1 and all(
            b["diverged"] or b["validation_loss"] > 1.1 * a["validation_loss"] for a, b in pairs
        )
        ends = (
            "diverges in some seed" if factor == float("inf") else f"ends with {factor:.2g} times that validation loss"
        )
        evidence.append(f"{network}, best at {lr:g}, {ends} at {other:g}, the best rate of another one.")
    rates_of = {own: best_rate(runs) for own, runs in group(strategies, "optimizer").items()} if strategies else {}
    if len(rates_of) > 1:
        evidence.append(
            "From optimizer to optimizer, of the same rates: the best is "
            + ", ".join(f"{lr:g} for {own}" for own, lr in rates_of.items() if lr is not None)
            + "."
        )
    rule = (
        "Refuted if the best decaying schedule ended below the best held rate in every seed (two at least), or if a "
        "rate that is best for one network costs another one more than a tenth of its loss in every seed; "
        "held here if neither happened in any seed; else undecided."
    )
    if evidence:
        within = "in every seed" if always else "in no seed" if never else "not in every seed"
        carried_over = "costs" if moved else "does not cost"
        evidence.insert(
            0,
            f"Within a run decay beat the best held rate {within}; from network to network a best rate "
            f"{carried_over} more than the tenth that the rule allows.",
        )
    verdict = REFUTED if always or moved else HELD if never and not moved else UNDECIDED
    return claim("It can be set once and never adjusted.", verdict, rule, evidence)


def paired_by_rate(ones: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed and the same first rate."""
    by_key = {(run["seed"], run["lr"]): run for run in others}
    return [(run, by_key[key]) for run in ones if (key := (run["seed"], run["lr"])) in by_key]
