"""Training problems on which rates and diagnoses are judged: tables, text, images; three sets that share no data.

    develop    made data: what a method is thought of, and tried on
    choose     the data of scikit-learn: what its numbers are chosen on
    report     tables of statsmodels and palmerpenguins, text of Python's manual, two photographs: looked at once

A `Problem` says its data, model, optimizer, rows of a batch and updates of a run. Networks are small and in NumPy, so
that a set runs in minutes; fastlr moves them. `pip install statsmodels palmerpenguins` for the set `report`.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import fastlr
from fastlr.study.networks import ACTIVATIONS, Network, log_softmax

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad")
SETS = ("develop", "choose", "report")


class Problem(NamedTuple):
    """What is trained. `model` is widths and an activation, behind "linear", or what reads the rows: see `Model`."""

    data: str
    model: str
    optimizer: str
    rows: int = 32
    updates: int = 200
    train: int = 0           # rows that are trained on; 0 for three quarters of all

    def __str__(self) -> str:
        return f"{self.data}, {self.model}, {self.optimizer}, {self.rows} rows, {self.updates} updates"


# Data: name -> (x, y). y is integers for classes, floats (n, k) for least squares

def made(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    rng = np.random.default_rng(4)
    if name == "mixture":
        return datasets.make_classification(1000, 20, n_informative=8, n_classes=5, random_state=1, flip_y=0.05)
    if name == "moons":
        return datasets.make_moons(600, noise=0.2, random_state=2)
    if name == "shells":
        return datasets.make_gaussian_quantiles(n_samples=800, n_features=10, n_classes=3, random_state=3)
    if name == "spirals":
        turn, arm = rng.uniform(0.3, 3, 900), rng.integers(0, 3, 900)
        angle = turn * 2 + arm * 2 * np.pi / 3
        return np.c_[turn * np.cos(angle), turn * np.sin(angle)] + rng.normal(0, 0.1, (900, 2)), arm
    if name == "teacher":
        x = rng.normal(size=(1500, 30))
        noise = rng.normal(0, 0.3, (1500, 8))
        return x, (np.tanh(x @ rng.normal(size=(30, 20)) / 5) @ rng.normal(size=(20, 8)) + noise).argmax(axis=1)
    if name == "blobs":
        return datasets.make_blobs(300, n_features=6, centers=4, cluster_std=4.0, random_state=5)
    if name == "coins":                                  # labels that are two thirds noise
        x = rng.normal(size=(1200, 8))
        return x, (rng.random(1200) < 1 / (1 + np.exp(-0.6 * x[:, 0] - 0.4 * x[:, 1]))).astype(int)
    if name == "friedman":
        x, y = datasets.make_friedman1(900, noise=1.0, random_state=6)
        return x, standard(y)[:, None]
    if name == "heavy":                                  # least squares, noise of a t distribution
        x = rng.normal(size=(1000, 12))
        return x, standard(x @ rng.normal(size=12) + rng.standard_t(3, 1000))[:, None]
    if name == "scales":                                 # features that differ a hundredfold, and are left so
        x = rng.normal(size=(800, 10)) * np.geomspace(0.1, 10, 10)
        return x, standard(x @ (rng.normal(size=10) / np.geomspace(0.1, 10, 10)) + rng.normal(0, 0.3, 800))[:, None]
    if name == "chain":                                  # a Markov chain of 12 letters
        steps = rng.dirichlet(np.full(12, 0.3), size=12)
        letters = [0]
        for _ in range(6000):
            letters.append(int(rng.choice(12, p=steps[letters[-1]])))
        return contexts(np.array(letters), 4)
    if name == "bars":                                   # images of a bar, whose direction is the class
        x = rng.normal(0, 0.5, (900, 10, 10))
        y = rng.integers(0, 3, 900)
        for image, kind, at in zip(x, y, rng.integers(1, 9, 900), strict=True):
            rows = np.arange(10)
            line = np.full(10, at)
            image[(line, rows) if kind == 0 else (rows, line) if kind == 1 else (rows, rows)] += 1.5
        return x.reshape(900, 100), y
    return noisy(name, rng)


def noisy(name: str, rng: Any) -> tuple[Any, Any]:
    """More of what is made: little of the loss can be gained, or slowly."""
    if name == "ordered":                                # 7 classes in an order, of which few features tell a little
        x = rng.normal(size=(1400, 9))
        score = x[:, :3] @ [0.8, 0.5, -0.3] + rng.logistic(size=1400)
        return x, np.searchsorted(np.quantile(score, np.arange(1, 7) / 7), score)
    if name == "rare":                                   # one row of 8 is of the class
        x = rng.normal(size=(1600, 12))
        score = 0.9 * x[:, 0] - 0.5 * x[:, 1] * x[:, 2] + rng.logistic(size=1600)
        return x, (score > np.quantile(score, 7 / 8)).astype(int)
    if name == "counts":                                 # numbers of visits, whose logarithm is standardized
        x = rng.normal(size=(2000, 9))
        mean = np.exp(0.5 + x[:, :4] @ [0.4, -0.3, 0.2, 0.1] + rng.normal(0, 0.8, 2000))
        return x, standard(np.log1p(rng.poisson(mean)))[:, None]
    if name == "categories":                             # columns of categories, as indicators
        columns = [rng.choice(k, 1000, p=rng.dirichlet(np.full(k, 2.0))) for k in (2, 3, 4, 6, 9)]
        effects = [rng.normal(0, 0.7, (len(np.unique(column)), 4))[np.unique(column, return_inverse=True)[1]]
                   for column in columns]
        shown = np.concatenate([np.eye(int(column.max()) + 1)[column] for column in columns], axis=1)
        return shown, (sum(effects) + rng.gumbel(size=(1000, 4))).argmax(axis=1)
    if name == "surface":                                # an image of waves, by the coordinates of its pixels
        at = np.indices((48, 64)).reshape(2, -1).T / 40.0
        waves = np.sin(at @ rng.normal(0, 6, (2, 12)) + rng.uniform(0, 6, 12)) @ rng.normal(size=(12, 3))
        edges = (at @ [1.0, -0.7] > 0.1)[:, None] * [1.0, -1.0, 0.5]
        shown = np.concatenate([fn(at * 2**k) for k in range(4) for fn in (np.sin, np.cos)], axis=1)
        return shown, standard_columns(waves + 3 * edges)
    if name == "textures":                               # squares of two textures, rough and less so
        spectrum = np.hypot(*np.meshgrid(np.fft.fftfreq(200), np.fft.fftfreq(200))) + 0.01
        images = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(200, 200))) / spectrum**power).real
                  for power in (0.8, 1.3)]
        y = rng.integers(0, 2, 1200)
        squares = np.array([images[k][i:i + 10, j:j + 10].ravel()
                            for k, i, j in zip(y, *rng.integers(0, 190, (2, 1200)), strict=True)])
        return (squares - squares.mean(axis=1, keepdims=True)) / (squares.std(axis=1, keepdims=True) + 0.1), y
    if name == "words":                                  # text of 60 made words, a word by the one before it
        lengths = rng.integers(2, 8, 60)
        lexicon = ["".join(map(chr, 97 + rng.choice(26, n, p=rng.dirichlet(np.full(26, 0.5))))) for n in lengths]
        follow, spoken = rng.dirichlet(np.full(60, 0.1), size=60), [0]
        for _ in range(2500):
            spoken.append(int(rng.choice(60, p=follow[spoken[-1]])))
        return contexts(letters_of(" ".join(lexicon[k] for k in spoken)), 6)
    raise KeyError(name)


def chosen(name: str) -> tuple[Any, Any]:
    """Of scikit-learn and this repository's licence."""
    from sklearn import datasets

    base, _, kind = name.partition("-")
    if base == "descriptions":
        text = "".join(getattr(datasets, f"load_{one}")().DESCR for one in ("digits", "wine", "breast_cancer", "iris"))
        return contexts(letters_of(text[:9000]), 6)
    x, y = getattr(datasets, f"load_{base}")(return_X_y=True)
    if kind == "auto":
        return x, standard_columns(x)
    if kind == "regression":
        return x, standard(y)[:, None]
    if base == "diabetes":
        return x, np.searchsorted(np.quantile(y, [1 / 3, 2 / 3]), y)      # low, middle, high
    return x, y


def reported(name: str) -> tuple[Any, Any]:
    if name == "manual":
        from pydoc_data.topics import topics

        return contexts(letters_of("".join(topics[key] for key in sorted(topics))[:12000]), 6)
    if name in ("temple", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image("china.jpg" if name == "temple" else "flower.jpg")[::8, ::8].astype(float) / 255
        at = np.indices(image.shape[:2]).reshape(2, -1).T / 40.0
        waves = np.concatenate([fn(at * 2**k) for k in range(4) for fn in (np.sin, np.cos)], axis=1)
        return waves, standard_columns(image.reshape(-1, 3))
    if name == "patches":
        from sklearn.datasets import load_sample_image

        rows, labels = [], []
        rng = np.random.default_rng(0)
        for label, file in enumerate(("china.jpg", "flower.jpg")):
            image = load_sample_image(file).mean(axis=2)
            for i, j in zip(rng.integers(0, 410, 600), rng.integers(0, 620, 600), strict=True):
                patch = image[i:i + 10, j:j + 10]
                rows.append(((patch - patch.mean()) / (patch.std() + 5)).ravel())
                labels.append(label)
        return np.array(rows), np.array(labels)
    if name.startswith("penguins"):
        from palmerpenguins import load_penguins

        table = load_penguins().dropna()
        measured = table[["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]].to_numpy(float)
        if name == "penguins-regression":
            return np.c_[measured[:, :3], table["sex"] == "male"].astype(float), standard(measured[:, 3])[:, None]
        island = np.stack([table["island"] == one for one in ("Biscoe", "Dream")], axis=1)
        return np.c_[measured[:, 1:], island], np.unique(table["species"], return_inverse=True)[1]
    import statsmodels.datasets as tables

    base, _, kind = name.partition("-")
    table = getattr(tables, base).load_pandas().data.astype(float)
    if base == "fair":
        table = table.iloc[::3]              # (it is sorted by the class)
        return table.drop(columns="affairs").to_numpy(), (table["affairs"].to_numpy() > 0).astype(int)
    if base == "anes96":
        if kind == "regression":
            return table.drop(columns=["PID", "vote"]).to_numpy(), standard(table["PID"].to_numpy())[:, None]
        return table.drop(columns=["PID", "vote", "popul"]).to_numpy(), table["PID"].to_numpy().astype(int)
    if base == "modechoice":
        wide = table[["ttme", "invc", "invt", "gc"]].to_numpy().reshape(210, 16)
        return (np.c_[wide, table[["hinc", "psize"]].to_numpy()[::4]],
                table["choice"].to_numpy().reshape(210, 4).argmax(axis=1))
    if base == "star98":
        share = (table["NABOVE"] / (table["NABOVE"] + table["NBELOW"])).to_numpy()
        rest = table.drop(columns=["NABOVE", "NBELOW"]).to_numpy()
        thirds = np.searchsorted(np.quantile(share, [1 / 3, 2 / 3]), share)
        return rest, standard(share)[:, None] if kind else thirds
    if base == "randhie":
        visits = np.log1p(table["mdvis"].to_numpy()[:3000])
        return table.drop(columns="mdvis").to_numpy()[:3000], standard(visits)[:, None]
    raise KeyError(name)


MADE = ("mixture", "moons", "shells", "spirals", "teacher", "blobs",
        "coins", "friedman", "heavy", "scales", "chain", "bars",
        "ordered", "rare", "counts", "categories", "surface", "textures", "words")
SKLEARN = ("digits", "wine", "breast_cancer", "iris", "diabetes", "linnerud", "descriptions")


def standard(y: Any) -> Any:
    return (y - y.mean()) / y.std()


def standard_columns(x: Any) -> Any:
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12)


def letters_of(text: str) -> Any:
    """Lower-case letters and the blank as numbers; all else is a blank."""
    codes = np.frombuffer(text.lower().encode("ascii", "replace"), np.uint8).astype(int) - 96
    return np.where((codes >= 1) & (codes <= 26), codes, 0)


def contexts(letters: Any, n: int) -> tuple[Any, Any]:
    """Each n letters, and the one after them."""
    return np.lib.stride_tricks.sliding_window_view(letters, n + 1)[:, :n].copy(), letters[n:].astype(int)


@cache
def splits(name: str, train: int = 0) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Rows that are trained on, and rows that are not; features standardized unless they are letters."""
    x, y = (made if name in MADE else chosen if name.split("-")[0] in SKLEARN else reported)(name)
    order = np.random.default_rng(0).permutation(len(y))
    if x.dtype.kind == "f" and name != "scales":
        x = standard_columns(x)
    if x.dtype.kind == "f" or name in ("digits", "digits-auto"):
        x = x.astype(np.float32)
    y = y.astype(np.float32) if y.ndim == 2 else y.astype(np.int64)
    x, y = x[order], y[order]
    cut = train or 3 * len(y) // 4
    return (x[:cut], y[:cut]), (x[cut:cut + 1000], y[cut:cut + 1000])


# Models

class Model(Network):
    """A `Network` whose loss may be a squared error, and which may read its rows by another layer first.

    "conv8-32-relu" is 8 filters of 3 x 3, a rectifier and the mean of 2 x 2 pixels; "embed8-64-relu" is a table of 8
    numbers for each letter; "rnn24-relu" is a recurrent layer over the letters (its activation is tanh).
    """

    def __init__(self, text: str, x: Any, y: Any, seed: int = 0) -> None:
        *parts, activation = text.split("-")
        rng = np.random.default_rng((seed, 1))
        self.reader, extra, inputs = "", {}, x.shape[1]
        outputs = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        if parts and not parts[0].isdigit() and parts[0] != "linear":
            self.reader = parts[0].rstrip("0123456789")
            size = int(parts[0][len(self.reader):])
            if self.reader == "conv":
                self.side = math.isqrt(inputs)
                extra = {"conv.weight": rng.normal(0, math.sqrt(2 / 9), (9, size)), "conv.bias": np.zeros(size)}
                inputs = size * ((self.side - 2) // 2) ** 2
            elif self.reader == "embed":
                extra = {"embed.weight": rng.normal(0, 1 / math.sqrt(inputs), (27, size))}
                inputs = size * inputs
            else:
                extra = {"rnn.input": rng.normal(0, 0.5, (27, size)),
                         "rnn.weight": rng.normal(0, 1 / math.sqrt(size), (size, size)), "rnn.bias": np.zeros(size)}
                inputs = size
            parts = parts[1:]
        widths = [] if parts == ["linear"] else map(int, parts)
        super().__init__((inputs, *widths, outputs), activation if activation in ACTIVATIONS else "relu", seed)
        self.params |= {name: value.astype(np.float32) for name, value in extra.items()}
        self.grads |= {name: np.zeros_like(self.params[name]) for name in extra}
        self.squares = y.ndim == 2

    def read(self, x: Any) -> tuple[Any, Any]:
        """The features of rows, and what the gradient needs."""
        p = self.params
        if self.reader == "embed":
            return p["embed.weight"][x].reshape(len(x), -1), None
        if self.reader == "rnn":
            h = [np.zeros((len(x), p["rnn.bias"].size), np.float32)]
            for t in range(x.shape[1]):
                h.append(np.tanh(p["rnn.input"][x[:, t]] + h[-1] @ p["rnn.weight"] + p["rnn.bias"]))
            return h[-1], h
        if self.reader == "conv":
            images = x.reshape(-1, self.side, self.side)
            windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
            n = (self.side - 2) // 2 * 2
            windows = windows[:, :n, :n].reshape(-1, 9)
            z = np.maximum(windows @ p["conv.weight"] + p["conv.bias"], 0)
            pooled = z.reshape(len(x), n // 2, 2, n // 2, 2, -1).mean(axis=(2, 4))
            return pooled.reshape(len(x), -1), (windows, z, n)
        return x, None

    def loss(self, batch: Any) -> float:
        x, y = batch
        out = self._forward(self.read(x)[0])[-1]
        if self.squares:
            return float(np.square(out - y, dtype=np.float64).mean() / 2)
        return -float(log_softmax(out)[np.arange(len(y)), y].mean())

    def loss_and_grad(self, batch: Any) -> tuple[float, Any]:
        x, y = batch
        features, kept = self.read(x)
        h = self._forward(features)
        if self.squares:
            delta = h[-1] - y
            loss = float(np.square(delta, dtype=np.float64).mean() / 2)
            delta /= delta.size
        else:
            log_p = log_softmax(h[-1])
            at = np.arange(len(y)), y
            loss = -float(log_p[at].mean())
            delta = np.exp(log_p)
            delta[at] -= 1
            delta /= len(y)
        for k in range(self.depth, 0, -1):
            np.matmul(h[k - 1].T, delta, out=self.grads[f"fc{k}.weight"])
            np.sum(delta, axis=0, out=self.grads[f"fc{k}.bias"])
            if k > 1 or self.reader:
                delta = delta @ self.params[f"fc{k}.weight"].T
            if k > 1:
                delta = delta * self.activation.slope(h[k - 1])
        if self.reader:
            self.backward(x, delta, kept)
        return loss, self.grads

    def backward(self, x: Any, delta: Any, kept: Any) -> None:
        """The gradients of the layer that reads."""
        p, g = self.params, self.grads
        if self.reader == "embed":
            g["embed.weight"][...] = 0
            np.add.at(g["embed.weight"], x, delta.reshape(*x.shape, -1))
        elif self.reader == "rnn":
            for name in ("rnn.input", "rnn.weight", "rnn.bias"):
                g[name][...] = 0
            for t in range(x.shape[1], 0, -1):
                delta = delta * (1 - kept[t] ** 2)
                g["rnn.weight"] += kept[t - 1].T @ delta
                g["rnn.bias"] += delta.sum(axis=0)
                np.add.at(g["rnn.input"], x[:, t - 1], delta)
                delta = delta @ p["rnn.weight"].T
        else:
            windows, z, n = kept
            spread = delta.reshape(len(x), n // 2, 1, n // 2, 1, -1) / 4
            dz = np.broadcast_to(spread, (len(x), n // 2, 2, n // 2, 2, z.shape[1])).reshape(z.shape) * (z > 0)
            np.matmul(windows.T, dz, out=g["conv.weight"])
            np.sum(dz, axis=0, out=g["conv.bias"])


class Training:
    """A problem at its start."""

    def __init__(self, problem: Problem, lr: float = 1e-3, seed: int = 0) -> None:
        self.problem = problem
        self.train, self.valid = splits(problem.data, problem.train)
        self.model = Model(problem.model, *self.train, seed=seed)
        self.opt = fastlr.create_optimizer(problem.optimizer, self.model.params, grads=self.model.grads, lr=lr)

    def batches(self, order: int) -> Iterator[Any]:
        """Batches without end; another order of the rows in each pass over them."""
        (x, y), rng = self.train, np.random.default_rng((order, 1))
        if not self.problem.rows:
            while True:
                yield x, y
        size = min(self.problem.rows, len(y))
        while True:
            rows = rng.permutation(len(y))
            for end in range(size, len(y) + 1, size):
                yield x[rows[end - size:end]], y[rows[end - size:end]]

    def steps(self, order: int, count: int) -> Iterator[float]:
        """So many updates: the loss before each; NaN, and the end, where it is not finite."""
        for _, batch in zip(range(count), self.batches(order), strict=False):
            loss, _ = self.model.loss_and_grad(batch)
            yield loss
            if not math.isfinite(loss):
                return
            self.opt.step()


def gradient_error(problem: Problem) -> float:
    """The largest error of the model's gradients beside differences of the loss, over the largest gradient."""
    one = Training(problem)
    batch = next(one.batches(1))
    for params in (one.model.params, one.model.grads):
        for name in params:
            params[name] = params[name].astype(np.float64)
    batch = batch[0].astype(np.float64) if batch[0].dtype.kind == "f" else batch[0], batch[1]
    grads = {name: g.copy() for name, g in one.model.loss_and_grad(batch)[1].items()}
    worst, rng = 0.0, np.random.default_rng(0)
    for name, p in one.model.params.items():
        for k in rng.integers(0, p.size, 5):
            at = np.unravel_index(k, p.shape)
            value, losses = p[at], []
            for shift in (1e-6, -1e-6):
                p[at] = value + shift
                losses.append(one.model.loss(batch))
            p[at] = value
            worst = max(worst, abs((losses[0] - losses[1]) / 2e-6 - grads[name][at]))
    return worst / max(float(np.abs(g).max()) for g in grads.values())


# Sets

def triples(data: tuple[str, ...], networks: tuple[str, ...]) -> list[Problem]:
    """Every data set with every optimizer, the networks in turn."""
    return [Problem(name, networks[(i + j) % len(networks)], optimizer)
            for i, name in enumerate(data) for j, optimizer in enumerate(OPTIMIZERS)]


def tables(which: str) -> list[Problem]:
    """Small classifiers of tables, 200 updates of 32 rows: 36, 30 and 30."""
    if which == "develop":
        return triples(MADE[:6], ("32-relu", "48-48-tanh", "24-sigmoid", "32-32-relu", "24-tanh", "32-32-sigmoid"))
    data = SKLEARN[:5] if which == "choose" else ("fair", "anes96", "penguins", "modechoice", "star98")
    return triples(data, ("32-relu", "64-32-tanh", "16-sigmoid", "64-32-relu", "32-tanh", "48-24-sigmoid"))


def longer() -> list[Problem]:
    """More of the set `develop`: tables with noise, waves, textures and words; 100 to 3,000 updates."""
    data = {"ordered": ("32-relu", "linear-relu", "16-sigmoid"), "rare": ("24-tanh", "32-relu", "linear-relu"),
            "counts": ("32-tanh", "linear-relu", "32-relu"), "categories": ("32-relu", "24-16-tanh", "16-sigmoid"),
            "surface": ("48-tanh", "64-relu", "32-32-tanh"), "textures": ("conv8-relu", "48-relu", "conv8-16-relu"),
            "words": ("embed8-48-tanh", "rnn24-relu", "embed8-32-relu")}
    rows, updates = (32, 8, 64, 16, 128), (200, 400, 100, 800, 300, 1500, 600)
    return [Problem(name, networks[k % 3], optimizer, rows[(i + k) % 5], updates[(2 * i + k) % 7])
            for i, (name, networks) in enumerate(data.items())
            for k, optimizer in enumerate(OPTIMIZERS)]


def others(which: str) -> list[Problem]:
    """Regression, text, images; 10 to 270,000 numbers in a network, 8 to 512 rows, 100 to 2,000 updates."""
    if which == "develop":
        return [
            Problem("friedman", "32-relu", "adam", 16, 400),
            Problem("heavy", "linear-relu", "sgd", 8, 300),
            Problem("scales", "linear-relu", "momentum", 32, 200),
            Problem("scales", "16-tanh", "adam", 64, 600),
            Problem("coins", "64-relu", "adamw", 8, 500),
            Problem("coins", "linear-relu", "sgd", 512, 100),
            Problem("chain", "embed8-32-relu", "adam", 32, 800),
            Problem("chain", "rnn24-relu", "sgd", 32, 400),
            Problem("chain", "rnn16-relu", "rmsprop", 16, 1500),
            Problem("bars", "conv8-32-relu", "momentum", 32, 300),
            Problem("bars", "conv6-relu", "adam", 64, 200),
            Problem("teacher", "256-256-relu", "lion", 64, 300),
            Problem("mixture", "64-tanh", "nadam", 128, 1000),
            Problem("friedman", "64-64-tanh", "nesterov", 0, 300), *longer()]
    if which == "choose":
        return [
            Problem("diabetes-regression", "32-relu", "adam", 16, 400),
            Problem("diabetes-regression", "linear-relu", "sgd", 8, 300),
            Problem("linnerud-auto", "16-tanh", "momentum", 8, 200),
            Problem("digits-auto", "32-12-32-tanh", "adam", 64, 600),
            Problem("digits-auto", "48-relu", "sgd", 32, 400),
            Problem("digits", "conv8-relu", "adam", 32, 300),
            Problem("digits", "conv8-32-relu", "momentum", 16, 300),
            Problem("digits", "512-256-relu", "adamw", 128, 200),
            Problem("descriptions", "embed8-64-tanh", "adam", 32, 1000),
            Problem("descriptions", "embed8-32-relu", "sgd", 64, 500),
            Problem("descriptions", "rnn32-relu", "rmsprop", 32, 500),
            Problem("diabetes", "32-relu", "lion", 64, 300),
            Problem("wine", "16-tanh", "nesterov", 512, 100),
            Problem("breast_cancer", "32-32-relu", "nadam", 8, 1500)]
    return [
        Problem("penguins-regression", "24-relu", "adam", 16, 400),
        Problem("star98-regression", "linear-relu", "momentum", 16, 300),
        Problem("randhie", "32-tanh", "adamw", 64, 500),
        Problem("anes96-regression", "32-relu", "sgd", 8, 400),
        Problem("temple", "48-48-tanh", "adam", 256, 600),
        Problem("flower", "64-relu", "momentum", 128, 400),
        Problem("patches", "conv8-relu", "adam", 32, 400),
        Problem("patches", "conv8-24-relu", "sgd", 32, 300),
        Problem("manual", "embed8-64-tanh", "adam", 32, 1000),
        Problem("manual", "embed12-48-relu", "adagrad", 64, 500),
        Problem("manual", "rnn32-relu", "adamw", 32, 600),
        Problem("manual", "rnn24-relu", "momentum", 16, 500),
        Problem("fair", "512-512-relu", "lion", 512, 100),
        Problem("modechoice", "32-relu", "nadam", 8, 2000)]
