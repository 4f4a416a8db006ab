"""How long a step takes with a constraint, or while it is measured: python benchmarks/constraints.py [--help].

AdamW on one thread over a matrix of rows, beside the same step without; each has its own parameters and state, whose
arrays begin at the same places within a page. Rounds are interleaved in one process, with the step without a constraint
before and after each; figures are medians of the ratios of processor times. Steps lead away from the origin, so that a
constraint that changes much does so in each:

- box, little: 1 of 2000 elements is at a bound; box, much: 6 of 10
- max_norm, within: no row is beyond it; max_norm: each is scaled; unit_norm
- simplex: rows of about equal elements; simplex, sparse: a few elements are nearly all of the sum
- measured: `opt.measure()`
"""
from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from time import process_time

import numpy as np
from compare import use_threads

import fastlr
from fastlr.constraints import Constraint, box, max_norm, simplex, unit_norm

PAGE = 4096
# Bytes before p, g, m and v: as NumPy and fastlr place large arrays; all at different places; all at the same.
PLACES = {"usual": (16, 16, 0, 0), "apart": (0, 832, 1728, 2624), "same": (16, 16, 16, 16)}
BAR, MEASURED_BAR = 1.05, 1.20


def placed(values: np.ndarray, place: int) -> np.ndarray:
    """A copy that begins so many bytes after the beginning of a page."""
    memory = np.zeros(values.nbytes + 2 * PAGE, np.uint8)
    start = (place - memory.ctypes.data) % PAGE
    copy = memory[start:start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def variants(width: int) -> dict[str, tuple[Constraint | None, str]]:
    """Each variant's constraint, and from which values it begins."""
    norm = width**0.5
    return {
        "step": (None, "normal"),
        "box, little": (box(-3.5, 3.5), "normal"),
        "box, much": (box(-0.5, 0.5), "normal"),
        "max_norm, within": (max_norm(2 * norm), "normal"),
        "max_norm": (max_norm(0.9 * norm), "normal"),
        "unit_norm": (unit_norm(), "normal"),
        "simplex": (simplex(), "dense"),
        "simplex, sparse": (simplex(), "sparse"),
        "measured": (None, "normal"),
    }


def values(kind: str, rows: int, width: int, dtype: np.dtype) -> np.ndarray:
    rng = np.random.default_rng(0)
    p = rng.standard_normal((rows, width), dtype=dtype)
    if kind != "normal":
        p = np.exp(p * 0.3 if kind == "dense" else p * 4)
        p /= p.sum(axis=1, keepdims=True)
    return p


def stepper(name: str, rows: int, width: int, dtype: np.dtype, grads: np.ndarray,
            places: tuple[int, ...]) -> Callable[[], object]:
    constraint, kind = variants(width)[name]
    p = placed(values(kind, rows, width, dtype), places[0])
    lr = 1e-4 if kind == "normal" else 1e-3 / width
    opt = fastlr.AdamW({"p": p}, lr, weight_decay=0.0, grads={"p": grads}, constraint=constraint)
    opt.place_state({"p": {slot: placed(np.zeros_like(p), at) for slot, at in zip("mv", places[2:], strict=True)}})
    if name == "measured":
        opt.measure()
    return opt.step


def ratios(rows: int, width: int, dtype: np.dtype, chosen: list[str], place: str, rounds: int,
           sample: float) -> dict[str, list[float]]:
    places = PLACES[place]
    grads = placed(-values("normal", rows, width, dtype), places[1])
    steps = {name: stepper(name, rows, width, dtype, grads, places) for name in ["step", *chosen]}
    plain, found = steps["step"], {name: [] for name in steps}
    calls = {name: max(1, round(sample / min(seconds(step) for _ in range(5)))) for name, step in steps.items()}
    for _ in range(rounds):
        before = seconds(plain, calls["step"])
        for name in chosen:
            took = seconds(steps[name], calls[name])
            after = seconds(plain, calls["step"])
            found[name].append(took * 2 / (before + after))
            found["step"].append(after)
            before = after
    return found


def seconds(step: Callable[[], object], calls: int = 1) -> float:
    """Processor time of a call, after one that brings its data back into the cache."""
    step()
    start = process_time()
    for _ in range(calls):
        step()
    return (process_time() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elements", type=int, nargs="+", default=[1 << 14, 1 << 24], help="default: 2**14 and 2**24")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 1000, 4096, 100_000], help="of rows")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--only", nargs="+", default=[], help="variants")
    parser.add_argument("--place", nargs="+", choices=PLACES, default=["usual"],
                        help="where arrays begin within a page")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sample", type=float, default=0.05, help="seconds of a round")
    given = parser.parse_args()
    use_threads(1)
    chosen = given.only or [name for name in variants(1) if name != "step"]
    for place, elements, dtype in product(given.place, given.elements, given.dtypes):
        widths = [width for width in given.widths if width <= elements]
        found = [ratios(elements // width, width, np.dtype(dtype), chosen, place, given.rounds, given.sample)
                 for width in widths]
        print(f"\n{dtype}, {elements:,} elements, arrays {place}; rows of "
              + "".join(f"{width:>12,}" for width in widths))
        rates = [statistics.median(of["step"]) * 1e9 / elements for of in found]
        print(f"    {'a step, ns an element':24s}" + "".join(f"{rate:12.3f}" for rate in rates))
        for name in chosen:
            bar = MEASURED_BAR if name == "measured" else BAR
            medians = [statistics.median(of[name]) for of in found]
            print(f"    {name:24s}" + "".join(f"{median:12.3f}" for median in medians)
                  + f"   <= {bar}: " + ("met" if max(medians) <= bar else "missed"), flush=True)


if __name__ == "__main__":
    main()
