"""`fastlr study`: train small networks at several learning rates, and compare."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from . import Refusal, at_least_one, print_json

if TYPE_CHECKING:
    from ..study import Result

LINE = "Train small networks on handwritten digits at several learning rates and compare."


def declare(options: argparse.ArgumentParser) -> None:
    options.add_argument("--lrs", type=float, nargs="+", metavar="LR", help="default: 0.001 0.01 0.05 0.1")
    options.add_argument("--networks", nargs="+", metavar="NET", help="like 64-32-10-relu; default: four")
    options.add_argument("--seeds", type=at_least_one, metavar="N", help="seeds 0 to N-1; default: 2")
    options.add_argument("--epochs", type=int, metavar="N", help="passes over the images; default: 100")
    options.add_argument("--optimizer", metavar="NAME", help="one of fastlr.list_optimizers(); default: sgd")
    options.add_argument("--quick", action="store_true", help="two networks, one seed, 20 epochs")


def run(arguments: argparse.Namespace) -> int:
    """Train the grid, then print its tables; those of the finished cells if interrupted."""
    try:
        from ..study import digits, experiment, report

        data = digits()
    except ImportError as error:
        raise Refusal(f"fastlr study: {error}", 1) from error
    quick = {"networks": experiment.NETWORKS[:2], "seeds": range(1), "epochs": 20}
    given = {name: getattr(arguments, name) for name in ("lrs", "networks", "epochs", "optimizer")}
    given["seeds"] = arguments.seeds and range(arguments.seeds)
    chosen: dict[str, Any] = quick if arguments.quick else {}
    chosen |= {name: value for name, value in given.items() if value is not None}
    try:
        cells = experiment.grid(**chosen)
        for cell in cells:
            experiment.check_fit(cell, data)
    except ValueError as error:
        raise Refusal(f"fastlr {error}", 2) from error

    finished: list[Result] = []
    interrupted = False
    try:
        with report.progress(len(cells), sys.stderr) as advance:

            def note(result: Result) -> None:
                finished.append(result)
                advance(result)

            experiment.run(cells, data, progress=note)
    except KeyboardInterrupt:
        interrupted = True
        print(f"fastlr study: interrupted after {len(finished)} of {len(cells)} cells", file=sys.stderr)
    report.print_tables(finished, sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print_json({"complete": not interrupted, "results": [result.to_dict() for result in finished]})
    return 130 if interrupted else 0
