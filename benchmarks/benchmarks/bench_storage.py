"""AdamW stored in fewer bytes (benchmarks/storage.py has the ratios): in cache on one thread, and in memory."""
import fastlr

from .arrays import normal

CASES = {
    "float32": ("float32", {}),
    "bfloat16 states": ("float32", {"state_dtype": "bfloat16"}),
    "8-bit states": ("float32", {"state_dtype": "int8"}),
    "all bfloat16, stochastic": ("bfloat16", {"state_dtype": "bfloat16", "rounding": "stochastic"}),
    "bfloat16, 8-bit states": ("bfloat16", {"state_dtype": "int8", "rounding": "stochastic"}),
    "float32, clip by norm": ("float32", {"clip_norm": 1.0}),
}


class Stored:
    """One step."""

    params = [list(CASES), [65_536, 10_000_000]]
    param_names = ("storage", "elements")

    def setup(self, name, elements):
        dtype, keywords = CASES[name]
        arrays = [normal(1, elements, seed=seed)[0] for seed in (1, 2)]
        if dtype == "bfloat16":
            # (the upper halves of float32, without ml_dtypes)
            arrays = [a.view("uint16")[1::2].copy() for a in arrays]
            keywords = {**keywords, "dtype": "bfloat16"}
        fastlr.set_num_threads(1 if elements < 1_000_000 else 2)
        self.opt = fastlr.AdamW(arrays[:1], lr=1e-6, grads=arrays[1:], **keywords)
        for _ in range(2):
            self.opt.step()

    def time_step(self, name, elements):
        self.opt.step()

    time_step.version = "1"
