"""What stages add to one pass: AdamW over a million float32 elements, on one thread, one stage at a time and all."""
import fastlr

from .arrays import normal

STAGES = {
    "none": {},
    "clip_norm": {"clip_norm": 1.0},
    "clip_adaptive": {"clip_adaptive": 0.01},
    "clip_zscore": {"clip_zscore": 2.5},
    "ema": {"ema_decay": 0.999},
    "shadow": {"shadow": "bfloat16"},
    "all": {"clip_norm": 1.0, "ema_decay": 0.999, "shadow": "bfloat16"},
}


class Stages:
    params = ["none", "clip_norm", "clip_adaptive", "clip_zscore", "ema", "shadow", "all"]
    param_names = ("stage",)

    def setup(self, stage):
        fastlr.set_num_threads(1)
        params, grads = normal(1000, (32, 32), seed=1), normal(1000, (32, 32), seed=2)
        self.opt = fastlr.AdamW(params, lr=1e-6, grads=grads, **STAGES[stage])
        for _ in range(3):
            self.opt.step()

    def time_step(self, stage):
        self.opt.step(grad_scale=2.0)

    time_step.version = "1"
