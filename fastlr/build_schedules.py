"""Writes the code that calls the curves of `curves.pxd`: one function for a number, one loop for an array, one table.

    python fastlr/build_schedules.py fastlr/curves.pxd curve_table.pxi

setup.py runs it before Cython. It reads signatures only; a loop per curve, with the formula compiled into it, makes an
array three times as fast as one call per element through a pointer, with the same bits.
"""
from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

#: How many numbers and powers a node of a schedule holds at most: its struct says.
NODE = Path(__file__).with_name("_engine").joinpath("compiled_schedule.pxd").read_text(encoding="utf-8")
MAX_NUMBERS, MAX_POWERS = (int(re.findall(rf"{kind}\[(\d+)\] {name} ", NODE)[0])
                           for kind, name in (("double", "h"), ("Power", "powers")))

STRUCT = re.compile(r"^cdef struct (\w+):\n((?:    .*\n)+)", re.MULTILINE)
FUNCTION = re.compile(r"^cdef inline (\w+) (\w+)\(([^)]*)\) noexcept nogil:", re.MULTILINE)
POWER = re.compile(r"const Power\* (\w+)")
CACHE = re.compile(r"Cycle\* (\w+)")


@dataclass(frozen=True)
class Curve:
    """What a curve's struct and signature say."""

    name: str
    struct: str
    fields: tuple[str, ...]
    bases: tuple[str, ...]             # an expression of `h` for each number that is raised to powers
    cached: bool


def curves_of(text: str, source: str = "curves.pxd") -> list[Curve]:
    """The curves of a file's text, in order; ValueError for one that cannot be read."""
    functions = {name: arguments for _, name, arguments in FUNCTION.findall(text)}
    found = []
    for struct, body in STRUCT.findall(text):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", struct).lower()
        arguments = [" ".join(argument.split()) for argument in functions.get(name, "").split(",")]
        if arguments[0] != f"{struct} h":
            if any(argument.startswith(f"{struct} ") for argument in arguments) or takes(functions, struct):
                raise ValueError(f"{source}: struct {struct} needs the function `cdef inline double {name}({struct} h, "
                                 f"..., double t) noexcept nogil`, got {name}({', '.join(arguments)})")
            continue                   # a struct that is no curve's, as Cycle
        found.append(read(source, name, struct, body, arguments, functions))
    return found


def takes(functions: dict[str, str], struct: str) -> bool:
    """Whether a function has a struct as its first argument by value, as a curve has."""
    return any(arguments.startswith(f"{struct} h") for arguments in functions.values())


def read(source: str, name: str, struct: str, body: str, arguments: list[str], functions: dict[str, str]) -> Curve:
    """One curve."""
    fields: list[str] = []
    for line in filter(None, (line.partition("#")[0].strip() for line in body.splitlines())):
        kind, _, names = line.partition(" ")
        if kind != "double":
            raise ValueError(f"{source}: struct {struct} must hold doubles only, got {line!r}")
        fields += [field.strip() for field in names.split(",")]
    *middle, last = arguments[1:] or [""]
    powers = [match[1] for argument in middle if (match := POWER.fullmatch(argument))]
    cached = bool(middle) and CACHE.fullmatch(middle[-1]) is not None
    if last != "double t" or len(middle) != len(powers) + cached:
        raise ValueError(f"{source}: {name} must have the arguments ({struct} h, [const Power* X, ...] [Cycle* cache,] "
                         f"double t), got ({', '.join(arguments)})")
    for what, most in ((fields, MAX_NUMBERS), (powers, MAX_POWERS)):
        if len(what) > most:
            raise ValueError(f"{source}: {name} may have at most {most} of {', '.join(what)}")
    bases = []
    for power in powers:
        if power not in fields and f"{name}_{power}" not in functions:
            raise ValueError(f"{source}: {name} has a Power {power}: its struct needs a field of this name, or the "
                             f"file a function {name}_{power}({struct} h)")
        bases.append(f"h.{power}" if power in fields else f"curves.{name}_{power}(h)")
    return Curve(name, struct, tuple(fields), tuple(bases), cached)


def call(curve: Curve, powers: str, t: str) -> str:
    """The call of a curve's function for its numbers `h`."""
    arguments = [f"&{powers}[{k}]" for k in range(len(curve.bases))] + (["&cache"] if curve.cached else [])
    return f"curves.{curve.name}({', '.join(['h', *arguments, t])})"


def functions_for(curve: Curve) -> str:
    """Its functions for a number and for a block of numbers, and the bases of its powers."""
    numbers = f"    cdef curves.{curve.struct} h = (<const curves.{curve.struct}*>numbers)[0]\n"
    cache = "    cdef curves.Cycle cache = [0, 1, 0]\n" if curve.cached else ""
    lines = [
        f"cdef double {curve.name}_at(const double* numbers, const Power* powers, double t) noexcept nogil:\n",
        numbers, cache,
        f"    return {call(curve, 'powers', 't')}\n\n\n",
        f"cdef void {curve.name}_block(\n",
        "    const double* numbers, const Power* powers, const double* t, double* y, int n\n) noexcept nogil:\n",
        numbers, cache,
        "    cdef int k\n",
    ]
    if curve.bases:                    # a copy, which the compiler knows that writing to y does not change
        lines.append(f"    cdef Power[{len(curve.bases)}] known\n")
        lines.append(f"    for k in range({len(curve.bases)}):\n        known[k] = powers[k]\n")
    lines += ["    for k in range(n):\n", f"        y[k] = {call(curve, 'known', 't[k]')}\n\n\n"]
    if curve.bases:
        lines += [f"cdef void {curve.name}_bases(const double* numbers, double* base) noexcept nogil:\n", numbers]
        lines += [f"    base[{k}] = {base}\n" for k, base in enumerate(curve.bases)] + ["\n\n"]
    return "".join(lines)


def table_of(curves: list[Curve], source: str) -> str:
    """All of it, for `include` in _engine/compiled_schedule.pyx."""
    entries = "".join(
        f"CURVES[{k}] = [{curve.name}_at, {curve.name}_block, {f'{curve.name}_bases' if curve.bases else 'NULL'}]\n"
        for k, curve in enumerate(curves))
    fields = "".join(f"    {curve.name!r}: {curve.fields!r},\n" for curve in curves)
    return (
        f"# Written by build_schedules.py from {source}: change that file instead.\n\n"
        "cimport fastlr.curves as curves\nfrom fastlr.powers cimport Power\n\n"
        f"cdef CurveEntry[{len(curves)}] CURVES\n\n"
        + "\n".join(functions_for(curve) for curve in curves)
        + entries + f"\nCURVE_FIELDS = {{\n{fields}}}\n"
    )


def write_table(source: Path, target: Path) -> None:
    """Write the table of the curves in `source` to `target`, which is left alone where it would not change."""
    text = table_of(curves_of(source.read_text(encoding="utf-8"), source.name), source.name)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), Path(sys.argv[2]))
