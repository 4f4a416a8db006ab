"""`find_lr`, `tune_lr` and `History` for models of torch; everything is restored, whatever happens."""
import copy
import doctest
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastlr
import fastlr.torch
import fastlr.torch.tuning

FAST = {"steps": 40, "trial_steps": 20}
mse = torch.nn.functional.mse_loss


class Counting(torch.nn.Module):
    """A layer with all that a batch may change: a buffer that is not saved, one that is replaced, an extra state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sum", torch.zeros(2), persistent=False)
        self.register_buffer("latest", None)
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.sum += 1
            self.latest = x.detach().mean()
            self.calls += 1
        return x

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def problem(seed=0, batch=16):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), Counting(),
                                torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
    x = torch.randn(128, 5)
    y = x @ torch.arange(5.0)[:, None] + 0.1 * torch.randn(128, 1)
    return model, DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True,
                             generator=torch.Generator().manual_seed(3)), (x, y)


def everything(model, opt, loader):
    """Plain copies of all that training changes."""
    return copy.deepcopy({
        "params": [(id(p), p.data_ptr(), p.detach().clone()) for p in model.parameters()],
        "buffers": [(name, id(b), b.clone()) for name, b in model.named_buffers()],
        "none": model[3].latest is None, "calls": model[3].calls,
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "groups": [(id(group), {name: value for name, value in group.items() if name != "params"})
                   for group in opt.param_groups],
        "state": [[(name, torch.as_tensor(value).clone()) for name, value in vars(opt)["state"].get(p, {}).items()
                   if value is not None] for p in model.parameters()],
        "saved": {name: value for name, value in opt.state_dict().items() if name != "param_groups"},
        "left": [getattr(opt, name, None) for name in ("grad_norm", "skipped", "count")],
        "torch": torch.get_rng_state(), "python": random.getstate(), "numpy": np.random.get_state(),  # noqa: NPY002
        "loader": loader.generator.get_state()})


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def train(model, opt, x, y, steps=2):
    for _ in range(steps):
        opt.zero_grad()
        mse(model(x), y).backward()
        opt.step()


def trained_on(model, opt, x, y):
    """The parameters after further training, by which state that is hidden shows."""
    torch.manual_seed(5)
    train(model, opt, x, y, 3)
    return [param.detach().clone() for param in model.parameters()]


class OfOnesOwn(torch.optim.SGD):
    """An optimizer with a number of its own."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] *= 1.0 + 0.1 * (self.count % 2)
        return super().step(closure)


OPTIMIZERS = {
    "of one's own": lambda params: OfOnesOwn(params, lr=1e-3),
    "torch.SGD": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    "torch.AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3, amsgrad=True),
    "tensor rate": lambda params: torch.optim.Adam(params, lr=torch.tensor(1e-3), foreach=False),
    "SGD": lambda params: fastlr.torch.SGD(params, lr=1e-3),
    "AdamW": lambda params: fastlr.torch.AdamW(params, lr=1e-3, clip_norm=1.0, ema_decay=0.9),
    "Lion": lambda params: fastlr.torch.Lion(params, lr=1e-3, state_dtype="int8"),
    "zscore": lambda params: fastlr.torch.Adam(params, lr=1e-3, clip_zscore=2.0, zero_grads=True),
    "rounded": lambda params: fastlr.torch.Adam(params, lr=1e-3, state_dtype="bfloat16", rounding="stochastic"),
    "Muon": lambda params: fastlr.torch.Muon([p for p in params if p.ndim == 2], lr=1e-3),
    "Prodigy": lambda params: fastlr.torch.Prodigy(params),
    "offloaded": lambda params: fastlr.torch.offload(params, fastlr.torch.AdamW, lr=1e-3, ema_decay=0.9),
}


@pytest.mark.parametrize("before", [0, 2], ids=["fresh", "after updates"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_restored(name, before):
    results = []
    for search in (False, True):
        model, loader, (x, y) = problem()
        opt = OPTIMIZERS[name](list(model.parameters()))
        train(model, opt, x, y, before)
        model[1].eval()
        seen = everything(model, opt, loader)
        if search:
            found = fastlr.torch.find_lr(model, opt, mse, loader, **FAST)
            assert found.updates > 100 and 1e-7 <= found.lr <= 10
            assert equal(everything(model, opt, loader), seen)
        results.append(trained_on(model, opt, x, y))
    assert equal(*results)


@pytest.mark.parametrize("after", [0, 1, 30, 70])
def test_everything_is_restored_after_an_exception(after):
    model, loader, (x, y) = problem()
    opt = fastlr.torch.AdamW(model.parameters())
    train(model, opt, x, y)
    model.eval()
    before, calls = everything(model, opt, loader), []

    def loss_fn(output, target):
        calls.append(random.random() + np.random.rand())  # noqa: NPY002
        if len(calls) > after:
            raise RuntimeError("broken")
        return mse(output, target)

    with pytest.raises(RuntimeError, match="broken"):
        fastlr.torch.find_lr(model, opt, loss_fn, loader, **FAST)
    assert len(calls) == after + 1 and equal(everything(model, opt, loader), before)


@pytest.mark.parametrize("name", ["torch.SGD", "torch.AdamW", "tensor rate", "AdamW", "Lion", "rounded", "of one's own"])
def test_a_continued_trial_has_the_bits_of_one_that_was_begun_anew(name):
    """With dropout, batch normalization, an extra state and a shuffling loader."""
    results = []
    for copy_bytes in (2**30, 0):
        model, loader, (x, y) = problem()
        opt = OPTIMIZERS[name](list(model.parameters()))
        train(model, opt, x, y)
        results.append(fastlr.torch.find_lr(model, opt, mse, loader, steps=40, trial_steps=40, copy_bytes=copy_bytes))
    continued, anew = results
    assert [(t["lr"], t["updates"], t["loss"]) for t in continued.trials] == [
        (t["lr"], t["updates"], t["loss"]) for t in anew.trials]
    assert continued.updates < anew.updates and any("begun anew" in note for note in anew.notes)


def test_it_is_the_range_test_of_fastlr():
    x = torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batches = [(part, part.sum(dim=1, keepdim=True)) for part in x]
    model = torch.nn.Linear(4, 1, dtype=torch.float64)
    found = fastlr.torch.find_lr(model, torch.optim.SGD(model.parameters(), lr=0.1), mse, batches)
    w, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()

    def loss_and_grad(batch):
        x, y = (part.numpy() for part in batch)
        error = x @ w.T + b - y
        return float(np.mean(error**2)), {"w": 2 * error.T @ x / len(x), "b": 2 * error.mean(axis=0)}

    ours = fastlr.find_lr(fastlr.SGD({"w": w, "b": b}, lr=0.1), loss_and_grad, batches)
    np.testing.assert_allclose(found.losses, ours.losses, rtol=1e-6, atol=1e-12)
    assert found.lr == pytest.approx(ours.lr) and found.updates == ours.updates


def test_groups_keep_the_ratios_of_their_rates():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    opt = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters()}], lr=0.4)
    rates = []
    opt.register_step_pre_hook(lambda opt, *_: rates.append([group["lr"] for group in opt.param_groups]))
    x = torch.randn(32, 4)
    found = fastlr.torch.find_lr(model, opt, mse, [(x, x[:, :1])], **FAST)
    assert found.ratios == [0.25, 1.0] and rates
    assert all(low == pytest.approx(high / 4) for low, high in rates)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.4]


ONES = torch.ones(4, 3, dtype=torch.float32)       # (another module may set the default while this is collected)


@pytest.mark.parametrize("batch, loss_fn", [
    ((ONES, ONES, torch.zeros(4, 1, dtype=torch.float32)), mse),
    ({"a": ONES, "b": ONES}, lambda output, batch: (output - batch["a"][:, :1]).square().mean()),
    ({"a": ONES, "b": ONES, "as_loss": torch.tensor(True)}, None),
], ids=["inputs and a target", "mapping", "the model's loss"])
def test_batches_of_several_kinds(batch, loss_fn):
    class Model(torch.nn.Linear):
        def forward(self, a, b, as_loss=None):
            output = super().forward(a + b)
            return {"loss": output.square().mean()} if as_loss is not None else output

    model = Model(3, 1)
    opt = fastlr.torch.SGD(model.parameters(), lr=0.1)
    found = fastlr.torch.find_lr(model, opt, loss_fn, [batch], **FAST)
    assert found.smoothed[np.isfinite(found.smoothed)].min() < found.before


def test_one_tensor_is_its_own_target():
    model = torch.nn.Linear(3, 3)
    opt = fastlr.torch.SGD(model.parameters(), lr=0.1)
    assert fastlr.torch.find_lr(model, opt, mse, [torch.ones(4, 3)], **FAST).updates > 40


def test_a_rule_that_is_given_the_loss():
    model = torch.nn.Linear(3, 3)
    opt = fastlr.torch.PolyakSGD(model.parameters())
    assert fastlr.torch.find_lr(model, opt, mse, [torch.ones(4, 3)], **FAST).updates > 40


def test_validation_is_in_evaluation_mode_and_weighted_by_size():
    model, loader, (x, y) = problem()
    training = fastlr.torch.tuning.Training("find_lr", model, torch.optim.SGD(model.parameters(), lr=0.1), mse, loader)
    model.train()
    uneven = [(x[:100], y[:100]), (x[100:], y[100:])]
    model.eval()
    whole = mse(model(x), y).item()
    model.train()
    assert training.validated(uneven) == pytest.approx(whole, rel=1e-5)
    assert all(module.training for module in model.modules())
    opt = fastlr.torch.AdamW(model.parameters())
    before = everything(model, opt, loader)
    found = fastlr.torch.find_lr(model, opt, mse, loader, validation=uneven, **FAST)
    assert found.lr == found.suggestions["trials"] and equal(everything(model, opt, loader), before)


@pytest.mark.parametrize("search", ["find_lr", "tune_lr"])
def test_generators_of_both_loaders_are_restored(search):
    model, _, (x, y) = problem()
    validation = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(9))
    drawn = DataLoader(TensorDataset(x, y), batch_size=16, sampler=torch.utils.data.RandomSampler(
        range(128), generator=torch.Generator().manual_seed(8)))
    opt = fastlr.torch.AdamW(model.parameters())
    before = [generator.get_state() for generator in (validation.generator, drawn.sampler.generator)]
    if search == "find_lr":
        fastlr.torch.find_lr(model, opt, mse, drawn, validation=validation, **FAST)
    else:
        fastlr.torch.tune_lr(model, opt, mse, drawn, validation, 1e-3, 1.0, budget=9)
    assert equal([generator.get_state() for generator in (validation.generator, drawn.sampler.generator)], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_masters_of_offloaded_parameters_are_restored(dtype):
    results = []
    for search in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3).to(dtype)
        x = torch.randn(32, 5).to(dtype)
        opt = fastlr.torch.offload(model.parameters(), fastlr.torch.AdamW, lr=1e-4)
        train(model, opt, x, x[:, :3])
        if search:
            fastlr.torch.find_lr(model, opt, mse, [(x, x[:, :3])], **FAST)
        train(model, opt, x, x[:, :3], 3)
        results.append([param.detach() for param in model.parameters()])
    assert equal(*results)


@pytest.mark.parametrize("change, error, message", [
    ({"model": 3}, TypeError, "find_lr: model must be a torch.nn.Module, got int"),
    ({"optimizer": fastlr.SGD(np.ones(3), lr=0.1)}, TypeError, "find_lr: optimizer must be a torch.optim.Optimizer"),
    ({"loss_fn": 3}, TypeError, "find_lr: loss_fn must be callable"),
    ({"loss_fn": lambda output, target: output}, TypeError, r"find_lr: the loss must be one number, got shape \(4, 3\)"),
    ({"loader": []}, ValueError, "find_lr: batches must not be empty"),
    ({"validation": iter([])}, TypeError, "find_lr: validation must be a DataLoader, a list of batches"),
    ({"validation": []}, ValueError, "find_lr: validation must not be empty"),
    ({"lr_min": 1.0, "lr_max": 0.1}, ValueError, "find_lr: 0 < lr_min < lr_max"),
    ({"loss_fn": lambda output, target: output.sum() * float("nan")}, ValueError, "the loss must be finite before"),
])
def test_bad_arguments(change, error, message):
    model = torch.nn.Linear(3, 3)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss_fn": mse,
             "loader": [torch.ones(4, 3)]} | change
    with pytest.raises(error, match=message):
        fastlr.torch.find_lr(**given, **FAST)


def test_optimizers_that_cannot_be_used():
    model = torch.nn.Linear(3, 3)
    with pytest.raises(TypeError, match="find_lr: LBFGS computes the loss several times in a step"):
        fastlr.torch.find_lr(model, torch.optim.LBFGS(model.parameters()), mse, [torch.ones(4, 3)])
    with pytest.raises(TypeError, match="find_lr: in_backward=True moves parameters before the loss"):
        fastlr.torch.find_lr(model, fastlr.torch.SGD(model.parameters(), in_backward=True), mse, [torch.ones(4, 3)])
    lazy = torch.nn.LazyLinear(3)
    with pytest.raises(TypeError, match="find_lr: the model has parameters without a shape"):
        fastlr.torch.find_lr(lazy, torch.optim.SGD(lazy.parameters(), lr=0.1), mse, [torch.ones(4, 3)])


# tune_lr

@pytest.mark.parametrize("name", ["torch.AdamW", "AdamW"])
def test_tune_lr_restores_everything_and_finds_the_rate_of_a_grid(name):
    model, loader, (x, y) = problem()
    opt = OPTIMIZERS[name](list(model.parameters()))
    train(model, opt, x, y)
    model.eval()
    before = everything(model, opt, loader)
    options = {"budget": 24, "points": 7, "refine": 1}
    found = fastlr.torch.tune_lr(model, opt, mse, loader, [(x, y)], 1e-5, 1.0, **options)
    assert equal(everything(model, opt, loader), before)
    again = fastlr.torch.tune_lr(model, opt, mse, loader, [(x, y)], 1e-5, 1.0, **options)
    assert [trial.score for trial in again.trials] == [trial.score for trial in found.trials]
    assert all(trial.status == "done" for trial in found.trials) and 1e-3 < found.lr < 1


@pytest.mark.parametrize("name", ["torch.AdamW", "AdamW"])
def test_tune_lr_sets_a_second_value_and_restores_it(name):
    model, loader, (x, y) = problem()
    opt = OPTIMIZERS[name](list(model.parameters()))
    seen = []

    def score(output, target):
        seen.append([group["weight_decay"] for group in opt.param_groups])
        return mse(output, target)

    before = everything(model, opt, loader)
    found = fastlr.torch.tune_lr(model, opt, mse, loader, [(x, y)], 1e-5, 1.0, budget=12, points=6, refine=0, score_fn=score,
                                 also={"weight_decay": (1e-6, 1.0)})
    assert equal(everything(model, opt, loader), before)
    assert [values[0] for values in seen] == [trial.also["weight_decay"] for trial in found.trials]
    assert len({trial.score for trial in found.trials}) == len(found.trials)


def test_tune_lr_with_a_warmup():
    """SGD on one parameter whose gradient is 1: it moves by the sum of the rates."""
    p = torch.nn.Parameter(torch.zeros(()))
    model = torch.nn.Module()
    model.p = p
    model.forward = lambda x: p * x
    opt = torch.optim.SGD([p], lr=1.0)
    one = [torch.ones(1)]
    found = fastlr.torch.tune_lr(model, opt, lambda output, target: output.sum(), one, one, 1e-2, 1.0, budget=20, rungs=1,
                                 points=6, refine=0, also={"warmup": (0.0, 0.5)})
    for trial in found.trials:
        rising = 20 * trial.also["warmup"]
        rates = [trial.lr * min((t + 1) / (rising + 1), 1) for t in range(20)]
        assert trial.score == pytest.approx(-sum(rates), rel=1e-5)


def test_tune_lr_by_a_score_that_rises():
    model, loader, (x, y) = problem()
    opt = fastlr.torch.AdamW(model.parameters())
    given = (model, opt, mse, loader, [(x, y)], 1e-4, 1.0)
    options = {"budget": 12, "points": 5, "refine": 0, "rungs": 2}
    low = fastlr.torch.tune_lr(*given, **options)
    high = fastlr.torch.tune_lr(*given, mode="max", score_fn=lambda output, target: -mse(output, target), **options)
    assert high.lr == low.lr and high.score == -low.score


@pytest.mark.parametrize("change, error, message", [
    ({"loader": iter([])}, TypeError, "tune_lr: loader must be a DataLoader, a list of batches .* got list_iterator"),
    ({"loader": []}, RuntimeError, "tune_lr: no trial had a score; .* loader must not be empty"),
    ({"budget": 2.5}, TypeError, "tune_lr: budget must be an integer, the updates of a full trial, got 2.5"),
    ({"executor": 3}, TypeError, "tune_lr: trials of one model run one after another"),
    ({"points": 1}, ValueError, "tune_lr: points must be at least 3"),
    ({"also": {"beta9": (0.1, 0.9)}}, ValueError,
     r"tune_lr: also must name 'warmup' or a number that every group of SGD has \(dampening, momentum, weight_decay\), got"),
])
def test_tune_lr_refuses(change, error, message):
    model = torch.nn.Linear(3, 3)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss_fn": mse,
             "loader": [torch.ones(4, 3)], "validation": [torch.ones(4, 3)], "low": 1e-3, "high": 1.0, "budget": 9} | change
    with pytest.raises(error, match=message):
        fastlr.torch.tune_lr(**given)


# History

@pytest.mark.parametrize("name, counts", [("torch.AdamW", True), ("torch.SGD", False), ("AdamW", True), ("SGD", False), ("offloaded", True)])
def test_history_records_a_torch_optimizer(name, counts):
    model, _, (x, y) = problem()
    opt = OPTIMIZERS[name](list(model.parameters()))
    train(model, opt, x, y, 4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    history = fastlr.History()
    for _ in range(3):
        opt.zero_grad()
        loss = mse(model(x), y)
        loss.backward()
        opt.step()
        history.record(loss=loss, opt=opt)
        scheduler.step()
    assert history.t("loss").tolist() == ([5, 6, 7] if counts else [1, 2, 3])
    assert history["lr"].tolist() == pytest.approx([1e-3, 5e-4, 2.5e-4])
    assert ("grad_norm" in history.names) == (name == "AdamW")
    assert not getattr(opt, "_state_shown", False)


def test_diagnose_reads_such_a_history():
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    model, history = torch.nn.Linear(3, 1), fastlr.History()
    opt = torch.optim.SGD(model.parameters(), lr=1e-6)
    for _ in range(100):
        opt.zero_grad()
        loss = mse(model(x), x[:, :1])
        loss.backward()
        opt.step()
        history.record(loss=loss, opt=opt)
    assert "rate" in str(fastlr.diagnose(history)).lower()


def test_examples_run():
    assert doctest.testmod(fastlr.torch.tuning).failed == 0
