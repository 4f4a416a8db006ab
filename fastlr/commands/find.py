"""`fastlr find`: find a learning rate for one of the study's networks."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import Refusal, at_least_one, block_characters, print_json, progress

LINE = "Find a learning rate for one of the study's networks: a range test, and trials that are continued."

WIDTH = 72  # characters of the curve of the losses


def declare(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--data", default="digits", metavar="DATA",
        help="digits (default), wine, breast_cancer, diabetes, a .csv or a .npz file, as for fastlr study")
    add("--target", metavar="COLUMN", help="column of a .csv to learn; default: label, target, class, y or the last")
    add("--network", default="relu", metavar="NET", help="an activation, or like 64-32-10-relu; default: relu")
    add("--optimizer", default="sgd", metavar="NAME", help="one of fastlr.list_optimizers(); default: sgd")
    add("--lr-min", type=float, default=1e-7, metavar="LR", help="lowest rate of the sweep; default: 1e-7")
    add("--lr-max", type=float, default=10.0, metavar="LR", help="highest rate of the sweep; default: 10")
    add("--steps", type=at_least_one, default=100, metavar="N", help="rates in the sweep; default: 100")
    add("--repeats", type=at_least_one, default=3, metavar="N", help="sweeps; default: 3")
    add("--trial-steps", type=int, default=112, metavar="N", help="longest trials, 0 for none; default: 112")
    add("--budget", type=at_least_one, metavar="N", help="the most updates in all; trials are shortened to fit")
    add("--validate", action="store_true", help="compare trials by the loss of the validation rows")
    add("--batch-size", type=at_least_one, default=32, metavar="N", help="rows per update; default: 32")
    add("--seed", type=int, default=0, metavar="N", help="seed of weights and batches; default: 0")
    add("--out", type=Path, metavar="FILE", help="draw the result to FILE, .svg, .png or .pdf (needs matplotlib)")


def run(arguments: argparse.Namespace) -> int:
    """Find a rate, then print a table and a line of the losses; draw a figure where --out is given."""
    out: Path | None = arguments.out
    if out is not None and out.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise Refusal(f"fastlr find: --out must end in .svg, .png or .pdf, got {str(out)!r}", 2)
    if out is not None and not out.parent.is_dir():
        raise Refusal(f"fastlr find: --out: there is no folder {str(out.parent)!r}", 2)
    try:
        if out is not None:
            from matplotlib.figure import Figure
        result, what, loss = find(arguments)
    except ImportError as error:
        raise Refusal(f"fastlr find: {error}", 1) from error
    except (ValueError, TypeError) as error:
        text = str(error)
        raise Refusal("fastlr find: " + text.removeprefix("find_lr: ").removeprefix("study: "), 2) from error
    except OSError as error:
        raise Refusal(f"fastlr find: data: {arguments.data}: {error.strerror or error}", 2) from error
    if out is not None:
        figure = Figure(figsize=(7.2, 4), layout="constrained")
        result.plot(figure.add_subplot(title=what))
        try:
            figure.savefig(out, dpi=150)
        except OSError as error:
            raise Refusal(f"fastlr find: --out {out}: {error.strerror or error}", 2) from error
    if arguments.json:
        print_json({"problem": what, **result.to_dict()})
    else:
        print_result(result, what, loss)
    return 0


def find(arguments: argparse.Namespace) -> tuple[Any, str, str]:
    """The result, the name of the problem, and the text for two losses of it."""
    import numpy as np

    import fastlr

    from ..study.data import load
    from ..study.experiment import Cell, check_fit
    from ..study.networks import ACTIVATIONS, Network, parse_network

    data = load(arguments.data, target=arguments.target)
    x, y = data.train
    name = arguments.network
    if name in ACTIVATIONS:
        name = f"{data.features}-32-{data.outputs}-{name}"
    cell = Cell(name, seed=arguments.seed, optimizer=arguments.optimizer, batch_size=arguments.batch_size)
    check_fit(cell, data)
    network = Network(*parse_network(name), seed=cell.seed, regression=data.regression)
    opt = fastlr.create_optimizer(cell.optimizer, network.params, lr=1e-3)

    def batches() -> Iterator[Any]:
        rng = np.random.default_rng((cell.seed, 1))
        while True:
            order = rng.permutation(len(y))
            for end in range(cell.batch_size, len(y) + 1, cell.batch_size):
                rows = order[end - cell.batch_size:end]
                yield x[rows], y[rows]

    def told(trial: dict[str, Any]) -> None:
        progress(f"{trial['updates']} updates at {trial['lr']:.3g}: loss {trial['loss']:.4g}")

    progress("range test")
    result = fastlr.find_lr(opt, network.loss_and_grad, batches(), arguments.lr_min, arguments.lr_max,
                            arguments.steps, arguments.repeats, trial_steps=arguments.trial_steps,
                            budget=arguments.budget, on_trial=told,
                            validation=(lambda: network.loss(data.validation)) if arguments.validate else None)
    progress("")
    loss = "squared error {:.3g} to {:.3g} variances" if data.regression else "cross-entropy {:.3g} to {:.3g} nats"
    return result, f"{data.name}, {name}, {cell.optimizer}", loss


def print_result(result: Any, what: str, loss: str) -> None:
    """Print the result as text; `loss` has the name and the unit of losses."""
    print(f"{what}: tested {result.updates:,} updates, model unchanged")
    finite = [float(loss) for loss in result.smoothed if math.isfinite(loss)]
    shown = [finite[k * len(finite) // min(WIDTH, len(finite))] for k in range(min(WIDTH, len(finite)))]
    low, high = min(finite), max(finite)
    top = min(high, low + 1.5 * abs(result.before - low)) if result.before > low else high    # (not of divergence)
    levels = [1 + round(7 * (min(loss, top) - low) / ((top - low) or 1)) for loss in shown]
    line = "".join(block_characters()[level] for level in levels)
    print(f"  {line}\n  loss after a step, lr {result.lrs[0]:.1e} to {result.lrs[len(finite) - 1]:.1e}; "
          + loss.format(result.before, low))
    count = len(result.runs)
    print(f"  {'rule':10}{'lr':>10}" + (f"   range over {count} sweeps" if count > 1 else ""))
    for name, rate in result.suggestions.items():
        if name == "trials":
            continue
        least, most = result.spread.get(name, (math.nan, math.nan))
        spread = f"   {least:.2g} to {most:.2g}" if name in result.spread and len(result.runs) > 1 else ""
        print(f"  {name:10}{rate:10.3g}{spread}")
    print(f"  bracket   {result.bracket[0]:.3g} to {result.bracket[1]:.3g}")
    for note in result.notes:
        print(f"  doubtful: {note}")
    chosen = "trials" in result.suggestions
    print(f"  chosen: {'best short training' if chosen else 'between valley and least loss'}")
    print(f"lr = {result.lr:.3g}")
