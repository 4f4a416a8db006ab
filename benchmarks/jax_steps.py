"""Steps of `fastlr.jax` beside optax's inside `jax.jit`, in one run: `python benchmarks/jax_steps.py`.

AdamW over many tensors, with donated buffers: by calls of a compiled step, by calls of one that computes the gradients
(of a square) as well, and by a compiled loop of 100 steps, in which nothing is dispatched from Python. "Flat" are steps
of one array that `ravel_pytree` made of the parameters, whose gradients are joined in the compiled program; "nothing"
are programs that take the same arrays as the steps before them and return them as they are. Shown are medians of
interleaved rounds, and the medians of the rounds' ratios to optax.
"""
import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import fastlr
import fastlr.jax

LOOP = 100


def contestants():
    """The name of each, its initial state, a function of parameters, gradients and state, and whether it is flat."""
    ours, theirs = fastlr.jax.AdamW(1e-3), optax.adamw(1e-3, weight_decay=0.01)

    def apply(params, grads, state):
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def nothing(params, grads, state):
        return params, state

    for name, init, step in (("fastlr", ours.init, ours.step), ("optax", theirs.init, apply)):
        yield name, init, step, False
        yield f"{name}, nothing", init, nothing, False
        yield f"{name}, flat", init, joined(step), True
        yield f"{name}, flat, nothing", init, nothing, True


def joined(step):
    """A step of one array by a list of gradients."""
    return lambda flat, grads, state: step(flat, ravel_pytree(grads)[0], state)


def looped(step, unravel):
    """As many steps in one compiled program, of gradients that depend on the parameters."""
    def run(params, grads, state):
        def body(_, carried):
            return step(carried[0], grads, carried[1])

        return jax.lax.fori_loop(0, LOOP, body, (params, state))

    return run


def with_gradients(step, unravel):
    """A step that computes its gradients."""
    def run(params, grads, state):
        tree = params if unravel is None else unravel(params)
        return step(params, jax.grad(lambda params: sum(jnp.vdot(p, p) for p in params))(tree), state)

    return run


WAYS = {"by calls": (lambda step, unravel: step, 20, 1), "with gradients": (with_gradients, 20, 1),
        "in a loop": (looped, 1, LOOP)}


def measure(tensors, elements, rounds, way):
    """Microseconds of a step of each, by round."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(elements).astype(np.float32) for _ in range(tensors)]
    grads = [jnp.asarray(x * 0.01) for x in values]
    made, times = [], {}
    wrapped, calls, steps = WAYS[way]
    for name, init, step, flat in contestants():
        if (flat and tensors == 1) or (name.endswith("nothing") and way != "by calls"):
            continue
        params, unravel = [jnp.array(x) for x in values], None
        if flat:
            params, unravel = ravel_pytree(params)
        compiled = jax.jit(wrapped(step, unravel), donate_argnums=(0, 2), keep_unused=True)
        made.append([name, compiled, params, init(params)])
        times[name] = []
    for turn in range(rounds + 2):
        for entry in made:
            name, compiled, params, state = entry
            begun = time.perf_counter()
            for _ in range(calls):
                params, state = compiled(params, () if way == "with gradients" else grads, state)
            jax.block_until_ready((params, state))
            took = (time.perf_counter() - begun) / (calls * steps) * 1e6
            entry[2:] = params, state
            if turn >= 2:
                times[name].append(took)
    return times


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=30)
    arguments.add_argument("--threads", type=int, default=1, help="of fastlr; XLA takes as many as it sees cores")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    fastlr.set_num_threads(given.threads)
    rows = []
    for tensors, elements in ((100, 1000), (1, 100_000), (500, 64), (10, 100_000), (1, 1_000_000)):
        for way in WAYS:
            times = measure(tensors, elements, given.rounds, way)
            ratios = {name: statistics.median(b / a for a, b in zip(found, times["optax"], strict=True))
                      for name, found in times.items()}
            rows.append({"tensors": tensors, "elements": elements, "way": way, "ratios": ratios,
                         "microseconds": {name: statistics.median(found) for name, found in times.items()}})
            if not given.json:
                print(f"{tensors} x {elements:,}, {way}")
                for name, us in rows[-1]["microseconds"].items():
                    print(f"    {name:22s} {us:8.1f} us, optax takes {ratios[name]:.2f} times as long", flush=True)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
