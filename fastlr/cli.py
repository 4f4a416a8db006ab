"""The command line: `fastlr study`, `fastlr plot`, `fastlr info`, `fastlr inspect`.

Exit status: 0 done; 1 something that the command needs is not installed; 2 a wrong argument, told in one
line on stderr; 130 interrupted. With `--json`, stdout holds one JSON document and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import fastlr

if TYPE_CHECKING:
    from .study import Result


class Refusal(Exception):
    """A command that cannot be carried out: one line for the user, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{self.prog}: {message}", 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `argv` is `sys.argv[1:]` if not given."""
    try:
        arguments = build_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # how argparse ends --help and --version
        return int(done.code or 0)


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="fastlr",
        description="Learning rates: optimizers, schedules and experiments.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastlr {fastlr.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command: Callable[[argparse.Namespace], int], line: str) -> argparse.ArgumentParser:
        name = command.__name__
        subparser = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        subparser.add_argument("--json", action="store_true", help="write one JSON document to stdout")
        subparser.set_defaults(command=command)
        return subparser

    options = add(study, "Train small networks on handwritten digits at several learning rates and compare.")
    options.add_argument("--lrs", type=float, nargs="+", metavar="LR", help="default: 0.001 0.01 0.05 0.1")
    options.add_argument("--networks", nargs="+", metavar="NET", help="like 64-32-10-relu; default: four")
    options.add_argument("--seeds", type=at_least_one, metavar="N", help="seeds 0 to N-1; default: 2")
    options.add_argument("--epochs", type=int, metavar="N", help="passes over the images; default: 100")
    options.add_argument("--optimizer", metavar="NAME", help="one of fastlr.list_optimizers(); default: sgd")
    options.add_argument("--quick", action="store_true", help="two networks, one seed, 20 epochs")

    options = add(plot, "Draw a schedule: as text, or to an SVG or PNG file.")
    options.add_argument("expression", metavar="EXPR", help='like "cosine(1e-3, steps=1000).warmup(50)"')
    options.add_argument("--steps", type=at_least_one, metavar="N", help="updates shown; default: as many as it takes")
    options.add_argument("--out", type=Path, metavar="FILE", help="write FILE, .svg or .png (that needs matplotlib)")

    add(info, "Show versions, instruction set, threads, and who installed the import name.")

    options = add(inspect, "Show what a checkpoint holds, without loading it.")
    options.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    return parser


def at_least_one(text: str) -> int:
    """An integer from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def plot(arguments: argparse.Namespace) -> int:
    """Draw a schedule that is given as an expression."""
    from .schedules.expression import parse
    from .schedules.picture import horizon, sampled, short, svg

    out: Path | None = arguments.out
    if out is not None and out.suffix.lower() not in (".svg", ".png"):
        raise Refusal(f"fastlr plot: --out must end in .svg or .png, got {str(out)!r}", 2)
    try:
        schedule = parse(arguments.expression)
    except ValueError as error:
        raise Refusal(f"fastlr plot: {error}", 2) from error
    n = min(arguments.steps or horizon(schedule), 2**53)
    t, rates = sampled(schedule, n)
    try:
        if out is not None and out.suffix.lower() == ".svg":
            out.write_text(svg(schedule, n, 720, 300, arguments.expression), encoding="utf-8")
        elif out is not None:
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise Refusal(f"fastlr plot: {error}; a .svg file needs no matplotlib", 1) from error
            figure = Figure(figsize=(7.2, 3), layout="constrained")
            axes = figure.add_subplot(xlabel="update", ylabel="rate", title=arguments.expression)
            axes.plot(t, rates)
            figure.savefig(out, dpi=150)
    except OSError as error:
        raise Refusal(f"fastlr plot: {error}", 2) from error
    if arguments.json:
        print_json({"schedule": schedule.to_dict(), "steps": n, "t": t.tolist(), "rates": rates.tolist()})
    elif out is None:
        print(schedule)
        for row in blocks(rates):
            print(f"  {row}")
        print(f"  0 to {n - 1} updates; first {short(rates[0])}, highest {short(rates.max())}, last {short(rates[-1])}")
    return 0


def blocks(rates: Any, width: int = 72, height: int = 8) -> list[str]:
    """Rates as rows of text, from the top down, an eighth of a character fine."""
    columns = [rates[k * len(rates) // min(width, len(rates))] for k in range(min(width, len(rates)))]
    eighths = [round(8 * height * float(rate) / (float(rates.max()) or 1)) for rate in columns]
    return ["".join(" ▁▂▃▄▅▆▇█"[min(max(level - 8 * row, 0), 8)] for level in eighths).rstrip()
            for row in reversed(range(height))]


def study(arguments: argparse.Namespace) -> int:
    """Train the grid, then print its tables; those of the finished cells if interrupted."""
    try:
        from .study import digits, experiment, report

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


def info(arguments: argparse.Namespace) -> int:
    """Print `fastlr.show_config()` and the distributions that own the import name `fastlr`."""
    owners = sorted(set(packages_distributions().get("fastlr", ())))
    if arguments.json:
        print_json({"config": fastlr.show_config(mode="dicts"), "distributions": owners})
        return 0
    fastlr.show_config()
    print(f"installed by {', '.join(owners) or 'nobody: imported from ' + str(Path(fastlr.__file__).parent)}")
    if len(owners) > 1:
        print(
            "warning: these distributions overwrite each other's files; uninstall all of them, "
            "then install the one you want (this engine is fastlr-core)"
        )
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Print the header of a checkpoint: optimizer, updates done, hyper-parameters, tensors."""
    from . import checkpoint

    path = arguments.checkpoint
    try:
        header = checkpoint.read_header(path)
    except OSError as error:
        raise Refusal(f"fastlr inspect: {path}: {error.strerror or error}", 2) from error
    except fastlr.CheckpointError as error:
        raise Refusal(f"fastlr inspect: {error}", 2) from error
    if arguments.json:
        print_json(header)
        return 0
    tensors = header["tensors"]
    print(f"{printable(header['optimizer'])}, {header['t']} updates done")
    for name, value in header["metadata"].items():
        print(f"  {printable(name)} = {printable(value)}")
    print(f"{len(tensors)} tensors, {sum(tensor['bytes'] for tensor in tensors.values()):,} bytes")
    rows = [
        (printable(name), tensor["dtype"], str(tuple(tensor["shape"])), f"{tensor['bytes']:,}")
        for name, tensor in tensors.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, dtype, shape, size in rows:
        print(f"  {name:{widths[0]}}  {dtype:{widths[1]}}  {shape:{widths[2]}}  {size:>{widths[3]}} bytes")
    return 0


def printable(value: object) -> str:
    """The text of a value from a file that nobody vouches for, with control characters escaped."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


def print_json(document: object) -> None:
    """One JSON document on stdout that every reader takes: an infinity or NaN is the text "inf" or "nan"."""
    print(json.dumps(strict(document), indent=2, allow_nan=False, default=str))


def strict(value: object) -> object:
    if isinstance(value, dict):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
