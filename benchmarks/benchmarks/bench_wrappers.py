"""What goes around a step: its passes over ten million float32, on two threads."""
import numpy as np

import fastlr


class Passes:
    """One call of each, without the optimizer's own step."""

    params = ["Lookahead's pull", "SAM.ascend", "EMA.update", "SWA.update", "GradientAccumulation.add",
              "GradientCentralization"]
    param_names = ("pass",)
    timeout = 120

    def setup(self, what):
        fastlr.set_num_threads(2)
        rng = np.random.default_rng(0)
        self.params = [rng.normal(size=(1000, 1000)).astype(np.float32) for _ in range(10)]
        grads = [rng.normal(size=(1000, 1000)).astype(np.float32) for _ in range(10)]
        opt = fastlr.SGD(self.params, lr=1e-3)
        acc = fastlr.GradientAccumulation(opt)
        acc.add(grads)
        sam, ema, swa = fastlr.SAM(opt), fastlr.EMA(opt), fastlr.SWA(opt)
        swa.update()
        centred = fastlr.GradientCentralization(opt)
        centred.step(grads)

        def ascend():
            sam._place[0] = "origin"
            sam.ascend(grads)

        ascend()
        self.call = {"Lookahead's pull": fastlr.Lookahead(opt)._pull, "SAM.ascend": ascend, "EMA.update": ema.update,
                     "SWA.update": swa.update, "GradientAccumulation.add": lambda: acc.add(grads),
                     "GradientCentralization": lambda: centred.step(grads)}[what]

    def time_call(self, what):
        self.call()

    time_call.version = "1"
