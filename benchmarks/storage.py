"""AdamW stored in fewer bytes, beside its own float32 step: in memory on all threads, in cache on one.

    python benchmarks/storage.py [elements [elements in cache]]

needs ml_dtypes. Rounds are interleaved. In memory (40 million elements) ratios are of medians, and beside each stands
the ratio of bytes moved, which memory would allow. In cache (65,536 elements), where arithmetic alone binds, the
fastest round counts: the time of a step in float32 steps, and in nanoseconds an element. Last, what binds: arithmetic,
where a thread's share of the elements takes longer in cache than its bytes do at the float32 step's pace, else memory.
"""
import argparse
import statistics
import time

import ml_dtypes
import numpy as np

import fastlr

ROUNDS = 9
HALF = ml_dtypes.bfloat16

# name: (parameter and gradient type, bytes moved per element, keywords)
CASES = {
    "float32": (np.float32, 28, {}),
    "bfloat16 states": (np.float32, 20, {"state_dtype": "bfloat16"}),
    "8-bit states": (np.float32, 16.25, {"state_dtype": "int8"}),
    "all bfloat16, stochastic": (HALF, 14, {"state_dtype": "bfloat16", "rounding": "stochastic"}),
    "bfloat16, 8-bit states": (HALF, 10.25, {"state_dtype": "int8", "rounding": "stochastic"}),
    "float32, clip by norm": (np.float32, 32, {"clip_norm": 1.0}),
    "float32, running mean": (np.float32, 36, {"ema_decay": 0.999}),
}


def optimizer(elements, dtype, keywords):
    """An AdamW with bound gradients, warmed by two steps."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(elements, dtype=np.float32).astype(dtype) for _ in range(2))
    opt = fastlr.AdamW([p], grads=[g], **keywords)
    opt.step()
    opt.step()
    return opt


def measured(elements, threads, rounds, steps):
    """{name: seconds of a step, one a round}, and the optimizers."""
    fastlr.set_num_threads(threads)
    opts = {name: optimizer(elements, dtype, keywords) for name, (dtype, _, keywords) in CASES.items()}
    times = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, opt in opts.items():
            begin = time.perf_counter()
            for _ in range(steps):
                opt.step()
            times[name].append((time.perf_counter() - begin) / steps)
    return times, opts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("elements", nargs="?", type=int, default=40_000_000, help="in memory; default: 40 million")
    parser.add_argument("small", nargs="?", type=int, default=65_536, metavar="cached", help="in cache; default: 65536")
    chosen = parser.parse_args()
    elements, small = chosen.elements, chosen.small
    threads = fastlr.get_num_threads()
    cached, _ = measured(small, 1, 40, max(1, 2_000_000 // small))
    times, opts = measured(elements, threads, ROUNDS, 1)
    median = {name: statistics.median(found) for name, found in times.items()}
    print(f"{elements:,} elements on {threads} threads, {small:,} in cache on one, "
          f"{fastlr.show_config(mode='dicts')['isa']}")
    print(f"{'':26s} {'state bytes':>11s} {'ms':>7s} {'(min)':>8s} {'speed':>6s} {'bytes':>6s} {'in cache':>10s} "
          f"{'ns':>5s} binds")
    for name, (_, moved, _) in CASES.items():
        state = sum(a.nbytes for slots in opts[name].state.values() for a in slots.values()) / elements
        arithmetic, bandwidth = min(cached[name]) / small / threads, min(times["float32"]) / elements * moved / 28
        print(f"{name:26s} {state:11.3f} {median[name] * 1e3:7.1f} {'(%.1f)' % (min(times[name]) * 1e3):>8s} "
              f"{median['float32'] / median[name]:5.2f}x {28 / moved:5.2f}x "
              f"{min(cached[name]) / min(cached['float32']):4.2f} steps {min(cached[name]) / small * 1e9:5.2f} "
              f"{'arithmetic' if arithmetic > bandwidth else 'memory'}")


if __name__ == "__main__":
    main()
