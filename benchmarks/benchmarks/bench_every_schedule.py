"""Every registered schedule: one value, and a million at once. The bar: 0.2 us, 20 ms on two cores."""
import numpy as np

from fastlr.schedules.gallery import EXAMPLES, UPDATES


class EverySchedule:
    params = sorted(EXAMPLES)
    param_names = ("schedule",)

    def setup(self, name):
        self.schedule = EXAMPLES[name]
        self.times = np.linspace(0, UPDATES, 1_000_000)

    def time_value(self, name):
        self.schedule(50)

    def time_million(self, name):
        self.schedule(self.times)

    time_value.version = time_million.version = "1"
