"""Every registered schedule: one value, and a million at once. The bar: 0.2 us, 20 ms on two cores."""
import numpy as np

from fastlr.schedules.gallery import EXAMPLES


class EverySchedule:
    params = [
        "clip", "constant", "cosine", "cosine_restarts", "cosine_wave", "cosine_wave2", "cosine_wave_exp",
        "every", "exponential", "geometric", "inverse_power", "inverse_sqrt", "inverse_time", "join", "k_decay",
        "knee", "linear", "log_linear", "noam", "noise", "one_cycle", "one_cycle_momentum", "one_minus_sqrt",
        "one_minus_square", "piecewise_constant", "piecewise_linear", "polynomial", "product", "range_test",
        "rex", "robbins_monro", "saw", "saw2", "saw_exp", "scale", "shift", "sigmoid", "sine", "sine2",
        "sine_exp", "sine_saw", "sine_saw2", "sine_saw_exp", "step_based", "step_decay", "tanh", "time_based",
        "triangular", "triangular2", "triangular_exp", "warmup", "wsd",
    ]
    param_names = ("schedule",)

    def setup(self, name):
        self.schedule, last = EXAMPLES[name]
        self.times = np.linspace(0, last, 1_000_000)

    def time_value(self, name):
        self.schedule(50)

    def time_million(self, name):
        self.schedule(self.times)

    time_value.version = time_million.version = "1"
