"""AdamW over 40 million elements, stored in fewer bytes, beside its own float32 step: one run, interleaved, medians.

    python benchmarks/storage.py [elements]

needs ml_dtypes. Prints state bytes per parameter, time, the ratio, and the ratio of bytes moved, which is its limit.
"""
import statistics
import sys
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


def main():
    elements = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000_000
    opts = {name: optimizer(elements, dtype, keywords) for name, (dtype, _, keywords) in CASES.items()}
    times = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, opt in opts.items():
            begin = time.perf_counter()
            opt.step()
            times[name].append(time.perf_counter() - begin)
    base = statistics.median(times["float32"])
    print(f"{elements:,} elements, {fastlr.get_num_threads()} threads, {fastlr.show_config(mode='dicts')['isa']}")
    for name, found in times.items():
        median = statistics.median(found)
        state = sum(a.nbytes for slots in opts[name].state.values() for a in slots.values()) / elements
        print(f"{name:26s} {state:6.3f} state bytes {median * 1e3:8.1f} ms (min {min(found) * 1e3:.1f})"
              f"  {base / median:5.2f}x  (bytes: {28 / CASES[name][1]:.2f}x)")


if __name__ == "__main__":
    main()
