"""The value of a schedule: one, and a million at once."""
import numpy as np

from fastlr import schedules

MADE = {
    "constant": lambda: schedules.constant(1e-3),
    "exponential": lambda: schedules.exponential(1e-3, 1e-5),
    "cosine": lambda: schedules.cosine(1e-3, steps=1_000_000),
    "cosine + warmup": lambda: schedules.cosine(1e-3, steps=1_000_000).warmup(500),
}


class Schedules:
    params = ["constant", "exponential", "cosine", "cosine + warmup"]
    param_names = ("schedule",)

    def setup(self, name):
        self.value = MADE[name]()
        self.instants = np.arange(1_000_000)

    def time_one(self, name):
        self.value(5000)

    def time_million(self, name):
        self.value(self.instants)

    def time_make(self, name):
        MADE[name]()

    time_one.version = time_million.version = time_make.version = "1"
