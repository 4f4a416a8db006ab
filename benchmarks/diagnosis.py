"""Is `fastlr.diagnose` right about real training runs? python benchmarks/diagnosis.py [--help].

A *setting* is a data set, a model, an optimizer and a batch size. Each is trained for 240 updates at each of 15 rates
from 1e-6 to 10 (two a decade). `diagnose` is given what a log of that run would hold: the loss of each batch, and at
every fifth update the loss on rows that are not trained on. It is compared with a label made of facts that it cannot
see or does not use. With

    s, e   the loss of the *whole* training split before the first update, and its mean over the last 24 updates
    b      the least e of the 15 rates of the setting
    gain   (s - e) / (s - b), the share of what was possible in 240 updates
    rises  the share of the last 120 updates after which the loss of the whole split was higher than before
    calm   the loss of the whole split after 60 *more* updates at a tenth of the rate, over that after 60 more at the
           same rate (means over the last 12)
    later  that after 120 more updates at the same rate, over e
    gap    the validation loss at the end over its least before (means of three neighbours)

the first that holds is the label; what falls between two is not clear, gets no label and is counted:

    diverging     a loss is not finite, or e > 1.02 s, or a loss was above 3 s and e > 0.9 s   (not: e < s)
    oscillating   rises > 0.2 and e > 0.001 s and (calm < 0.8, or gain < 0.7 and b is of a lower rate)
                                                                                      (not: rises < 0.1 or calm > 0.9)
    overfitting   gap > 1.1, and the training loss is lower than where the validation loss was least (not: gap < 1.05)
    too slow      gain < 0.5 and b is of a higher rate                                                 (not: gain > 0.7)
    plateaued     later > 0.98 and e > 0.001 s                                                       (not: later < 0.95)
    healthy       all the rest

The thresholds of `diagnose` were chosen on digits, breast_cancer (as classes and by least squares) and quadratics; how
it does on wine, iris and diabetes was looked at when they were fixed.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import fastlr
from fastlr.study.networks import Network

RATES = np.geomspace(1e-6, 10, 15)
UPDATES, EVERY = 240, 5
LEARNED = 1e-3      # of the loss at the start: when so little is left, there is nothing to gain
KINDS = ("diverging", "oscillating", "overfitting", "too slow", "plateaued", "healthy")
DEVELOPMENT = ("digits", "breast_cancer", "digits-regression", "breast_cancer-regression", "quadratic")
HELD_OUT = ("wine", "iris", "diabetes", "diabetes-regression")


class Setting(NamedTuple):
    data: str
    model: str          # widths and activation, "linear" (logistic or least squares), or the condition of a quadratic
    optimizer: str
    rows: int           # of a batch; 0 for the whole split
    train: int = 0      # rows of the training split; 0 for three quarters of all


SETTINGS = [
    Setting("digits", "32-relu", "sgd", 32), Setting("digits", "32-relu", "adam", 32),
    Setting("digits", "32-tanh", "momentum", 0), Setting("digits", "24-sigmoid", "rmsprop", 32),
    Setting("digits", "linear", "sgd", 0), Setting("digits", "linear", "adagrad", 16),
    Setting("digits", "64-32-relu", "adamw", 16, 100), Setting("digits", "32-relu", "adam", 0, 200),
    Setting("breast_cancer", "16-relu", "sgd", 16), Setting("breast_cancer", "16-tanh", "adam", 0),
    Setting("breast_cancer", "linear", "nesterov", 32), Setting("breast_cancer", "linear", "sgd", 0),
    Setting("breast_cancer", "32-32-relu", "rmsprop", 16, 60),
    Setting("breast_cancer", "24-sigmoid", "momentum", 8, 60),
    Setting("breast_cancer", "linear", "adam", 4), Setting("breast_cancer", "32-tanh", "adagrad", 0, 60),
    Setting("breast_cancer-regression", "linear", "sgd", 0),
    Setting("breast_cancer-regression", "linear", "momentum", 8),
    Setting("digits-regression", "linear", "adam", 32), Setting("digits-regression", "linear", "rmsprop", 0),
    Setting("digits-regression", "linear", "sgd", 16),
    Setting("quadratic", "10", "sgd", 0), Setting("quadratic", "1000", "sgd", 0),
    Setting("quadratic", "100", "momentum", 0), Setting("quadratic", "30", "adam", 0),
    Setting("quadratic", "100", "rmsprop", 0), Setting("quadratic", "20", "adagrad", 0),
    Setting("wine", "16-relu", "sgd", 16), Setting("wine", "32-tanh", "adam", 0),
    Setting("wine", "linear", "momentum", 0),
    Setting("wine", "24-sigmoid", "rmsprop", 8), Setting("wine", "32-32-relu", "adamw", 16, 40),
    Setting("iris", "16-tanh", "sgd", 0), Setting("iris", "linear", "adam", 16),
    Setting("iris", "32-relu", "nesterov", 16),
    Setting("iris", "24-relu", "rmsprop", 0, 40), Setting("iris", "16-sigmoid", "adagrad", 8),
    Setting("diabetes", "32-relu", "sgd", 32), Setting("diabetes", "64-32-tanh", "adam", 16, 100),
    Setting("diabetes", "32-relu", "adamw", 0, 100), Setting("diabetes", "linear", "momentum", 32),
    Setting("diabetes", "48-relu", "rmsprop", 0), Setting("diabetes-regression", "linear", "sgd", 0),
    Setting("diabetes-regression", "linear", "adam", 32), Setting("diabetes-regression", "linear", "nesterov", 16),
]


class LeastSquares:
    """Half the mean squared error of x w + c."""

    def __init__(self, features: int) -> None:
        self.params = {"w": np.zeros(features), "c": np.zeros(1)}
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}

    def error(self, batch: Any) -> Any:
        return batch[0] @ self.params["w"] + self.params["c"] - batch[1]

    def loss(self, batch: Any) -> float:
        return float((self.error(batch) ** 2).mean() / 2)

    def loss_and_grad(self, batch: Any) -> tuple[float, Any]:
        error = self.error(batch)
        self.grads["w"][...] = batch[0].T @ error / len(error)
        self.grads["c"][...] = error.mean()
        return float((error**2).mean() / 2), self.grads


class Quadratic:
    """Half of sum(d x x), the d from 1 / condition to 1; there is no batch and nothing to validate on."""

    def __init__(self, condition: float) -> None:
        self.d = np.geomspace(1 / condition, 1, 20)
        self.params = {"x": np.random.default_rng(1).standard_normal(20) * 3}
        self.grads = {"x": np.zeros(20)}

    def loss(self, batch: Any) -> float:
        return float((self.d * self.params["x"] ** 2).sum() / 2)

    def loss_and_grad(self, batch: Any) -> tuple[float, Any]:
        self.grads["x"][...] = self.d * self.params["x"]
        return self.loss(batch), self.grads


@cache
def rows_of(name: str, train: int) -> tuple[Any, Any]:
    """Training and validation rows."""
    if name == "quadratic":
        return None, None
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name.split('-')[0]}")(return_X_y=True)
    if name == "diabetes":
        y = np.searchsorted(np.quantile(y, [1 / 3, 2 / 3]), y)
    order = np.random.default_rng(0).permutation(len(y))
    if name == "digits":
        order = order[:500]
    x = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12))[order]
    y = ((y - y.mean()) / y.std())[order] if name.endswith("regression") else y[order].astype(np.int64)
    x = x if name.endswith("regression") else x.astype(np.float32)
    cut = train or 3 * len(y) // 4
    return (x[:cut], y[:cut]), (x[cut:cut + 300], y[cut:cut + 300])


class Run:
    """One training run: what its log would hold, and the facts."""

    def __init__(self, setting: Setting, lr: float) -> None:
        self.setting, self.lr = setting, lr
        self.train, self.validation = rows_of(setting.data, setting.train)
        model: Any
        if setting.data == "quadratic":
            model = Quadratic(float(setting.model))
        elif setting.data.endswith("regression"):
            model = LeastSquares(self.train[0].shape[1])
        else:
            *widths, activation = setting.model.split("-")
            widths, activation = ([], "relu") if setting.model == "linear" else (widths, activation)
            model = Network((self.train[0].shape[1], *map(int, widths), int(self.train[1].max()) + 1), activation)
        self.model = model
        self.opt = fastlr.create_optimizer(setting.optimizer, model.params, grads=model.grads, lr=lr)
        self.order = np.random.default_rng(7)
        self.history = fastlr.History()
        self.whole: list[float] = []
        with np.errstate(all="ignore"):
            self.start = model.loss(self.train)
            self.whole = self.updates(UPDATES, self.history)
            self.finite = all(map(math.isfinite, self.whole))
            self.end = mean(self.whole[-24:])
            self.later = self.calm = math.nan
            if self.finite:
                saved = {name: p.copy() for name, p in model.params.items()}, self.opt.state_dict()
                same = self.updates(UPDATES // 2)
                for name, p in model.params.items():
                    p[...] = saved[0][name]
                self.opt.load_state_dict(saved[1])
                self.opt.lr = lr / 10
                lower = self.updates(UPDATES // 4)
                self.later = mean(same[-24:]) / (self.end or 1.0)
                self.calm = mean(lower[-12:]) / (mean(same[UPDATES // 4 - 12:UPDATES // 4]) or 1.0)

    def batches(self) -> Iterator[Any]:
        while True:
            if not self.setting.rows:
                yield self.train
                continue
            order = self.order.permutation(len(self.train[1]))
            for end in range(self.setting.rows, len(order) + 1, self.setting.rows):
                rows = order[end - self.setting.rows:end]
                yield self.train[0][rows], self.train[1][rows]

    def updates(self, n: int, history: Any = None) -> list[float]:
        """The loss of the whole training split after each of n updates."""
        whole = []
        for i, batch in zip(range(n), self.batches(), strict=False):
            loss, _ = self.model.loss_and_grad(batch)
            self.opt.step()
            whole.append(self.model.loss(self.train))
            if history is not None:
                history.record(loss=loss, lr=self.lr)
                if self.validation and i % EVERY == 0:
                    history.record(val_loss=self.model.loss(self.validation))
        return whole

    def facts(self, best: float, best_lr: float) -> dict[str, float]:
        tail = np.array(self.whole[UPDATES // 2:])
        with np.errstate(invalid="ignore"):
            rises = float((np.diff(tail) > 0).mean())
        facts = {"end": self.end / self.start, "peak": max(self.whole) / self.start if self.finite else math.inf,
                 "rises": rises, "calm": self.calm, "later": self.later,
                 "gain": (self.start - self.end) / (self.start - best), "below": float(self.lr < best_lr),
                 "above": float(self.lr > best_lr),
                 "gap": 1.0, "learned": 0.0}
        if self.validation and self.finite:
            values = np.convolve(self.history["val_loss"], np.ones(3) / 3, "valid")
            least = int(values.argmin())
            facts["gap"] = float(values[-1] / values[least])
            facts["learned"] = float(self.end < self.whole[least * EVERY + EVERY])
        return facts


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def label(fact: dict[str, float]) -> str:
    """The label by facts, "" where they are not clear."""
    if not math.isfinite(fact["end"]) or not math.isfinite(fact["peak"]):
        return "diverging"
    if fact["end"] > 1.02 or (fact["peak"] > 3 and fact["end"] > 0.9):
        return "diverging"
    if fact["end"] >= 1:
        return ""
    helps = fact["calm"] < 0.8 or (fact["gain"] < 0.7 and fact["above"])
    if fact["rises"] > 0.2 and fact["end"] > LEARNED and helps:
        return "oscillating"
    if not (fact["rises"] < 0.1 or fact["calm"] > 0.9 or fact["end"] < LEARNED):
        return ""
    if fact["gap"] > 1.1 and fact["learned"]:
        return "overfitting"
    if fact["gap"] >= 1.05 and fact["learned"]:
        return ""
    if fact["below"]:
        if fact["gain"] < 0.5:
            return "too slow"
        if fact["gain"] <= 0.7:
            return ""
    if fact["end"] < LEARNED or fact["later"] < 0.95:
        return "healthy"
    return "plateaued" if fact["later"] > 0.98 else ""


class Case(NamedTuple):
    """A run with its label."""

    setting: Setting
    lr: float
    history: Any
    facts: dict[str, float]
    label: str


def cases(settings: list[Setting]) -> list[Case]:
    """Every run of these settings, labelled."""
    fastlr.set_num_threads(1)
    found = []
    for setting in settings:
        runs = [Run(setting, float(lr)) for lr in RATES]
        best, best_lr = min((run.end, run.lr) for run in runs if math.isfinite(run.end))
        for run in runs:
            facts = run.facts(best, best_lr)
            found.append(Case(setting, run.lr, run.history, facts, label(facts)))
    return found


class Judged(NamedTuple):
    case: Case
    kind: str
    factor: float


def judged(found: list[Case]) -> list[Judged]:
    verdicts = [fastlr.diagnose(case.history)[0] for case in found]
    return [Judged(case, verdict.kind, verdict.factor) for case, verdict in zip(found, verdicts, strict=True)]


def share(verdicts: list[Judged]) -> float:
    """The share of the labelled runs on which it is right."""
    return float(np.mean([one.kind == one.case.label for one in verdicts if one.case.label]))


def helped(verdicts: list[Judged]) -> tuple[int, int]:
    """How often the advised rate ended lower than the run it was advised for, and how often it was advised."""
    ends = {(one.case.setting, round(2 * math.log10(one.case.lr))): one.case.facts["end"] for one in verdicts}
    count = total = 0
    for one in verdicts:
        there = round(2 * math.log10(one.case.lr * one.factor))
        if one.factor != 1 and (one.case.setting, there) in ends:
            here, advised = one.case.facts["end"], ends[one.case.setting, there]
            count += (advised if math.isfinite(advised) else math.inf) < (here if math.isfinite(here) else math.inf)
            total += 1
    return count, total


def confusion(verdicts: list[Judged]) -> str:
    """Labels down, verdicts across."""
    counts = Counter((one.case.label, one.kind) for one in verdicts)
    width = 13
    lines = ["".join(f"{kind:>{width}}" for kind in ("label", *KINDS, "right"))]
    for kind in (*KINDS, ""):
        row = [counts[kind, said] for said in KINDS]
        right = f"{counts[kind, kind] / sum(row):.0%}" if kind and sum(row) else ""
        lines.append("".join(f"{entry:>{width}}" for entry in (kind or "not clear", *row, right)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wrong", action="store_true", help="list the runs on which it was wrong")
    parser.add_argument("--least", type=float, nargs=2, default=(0.0, 0.0), metavar=("ALL", "HELD-OUT"),
                        help="exit status 1 if fewer are right")
    arguments = parser.parse_args()
    verdicts = judged(cases(SETTINGS))
    held_out = [one for one in verdicts if one.case.setting.data in HELD_OUT]
    developed = [one for one in verdicts if one.case.setting.data not in HELD_OUT]
    for name, some in (("developed on", developed), ("held out", held_out), ("all", verdicts)):
        labelled = sum(bool(one.case.label) for one in some)
        better, advised = helped(some)
        print(f"\n{name}: {share(some):.1%} right of {labelled} labelled runs; the advised rate ended lower in "
              f"{better} of {advised} runs\n{confusion(some)}")
    if arguments.wrong:
        print()
        for one in verdicts:
            if one.case.label and one.kind != one.case.label:
                facts = ", ".join(f"{name} {value:.3g}" for name, value in one.case.facts.items())
                setting = " ".join(map(str, one.case.setting))
                print(f"{one.case.label} -> {one.kind}: {setting} lr {one.case.lr:.2g}; {facts}")
    if share(verdicts) < arguments.least[0] or share(held_out) < arguments.least[1]:
        sys.exit("diagnosis: fewer right than --least asks for")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
