"""Rules that find their own step size: without a rate near the tuned one, groups of several rates, the loss they need."""
import numpy as np
import pytest
from registry import OPTIMIZERS, bits
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

import fastlr
from fastlr.optimizers.learning_rate_free import WithLoss

ESTIMATING = [fastlr.Prodigy, fastlr.DAdaptAdam, fastlr.DAdaptAdaGrad, fastlr.DAdaptLion, fastlr.DAdaptSGD]
PACED = [fastlr.DoG, fastlr.DoWG, fastlr.MoMo, fastlr.MoMoAdam, fastlr.PolyakSGD]
# How a parameter in other units, x = scale * y, has to be given its rate: Adam's and Lion's step does not see them.
ROOTED = {fastlr.DAdaptSGD, fastlr.DoG, fastlr.DoWG, fastlr.MoMo, fastlr.PolyakSGD}

every_free = pytest.mark.parametrize("cls", ESTIMATING + PACED, ids=lambda cls: cls.__name__)


def loss_of(cls, loss):
    return {"loss": loss} if cls.needs_loss else {}


def bowl(p, q):
    """A loss and its gradients."""
    a, b = np.array([1.0, 3.0, 0.3]), np.array([0.5, 2.0])
    loss = 0.5 * (a * (p - 2) ** 2).sum() + 0.5 * (b * (q + 1) ** 2).sum() + 0.1 * (p.sum() * q.sum()) ** 2
    inner = 0.2 * p.sum() * q.sum()
    return loss, a * (p - 2) + inner * q.sum(), b * (q + 1) + inner * p.sum()


@every_free
@pytest.mark.parametrize("part", [0.25, 4.0])
def test_a_group_with_another_rate_moves_as_if_in_other_units(cls, part):
    # q = scale * y: y alone, all at the larger rate, is the same problem with no group of another rate
    scale = np.sqrt(part) if cls in ROOTED else part
    eps = {"eps": 0.0} if "eps" in cls.hypers else {}
    start = {"initial_accumulator_value": 0.0} if cls is fastlr.DAdaptAdaGrad else {}
    p, q = np.array([0.3, -0.2, 0.5]), np.array([0.7, 0.1])
    r, y = p.copy(), q / scale
    rate = 0.5 if cls is fastlr.DAdaptSGD else 1.0       # (it would leave this bowl at 1)
    if part > 1:                                   # (the second is the larger)
        opt = cls([{"params": [p], "lr": rate / part}, {"params": [q], "lr": rate}], **eps, **start)
        scales = (1 / scale, 1.0)
        r, y = p * scale, q.copy()
    else:
        opt = cls([{"params": [p], "lr": rate}, {"params": [q], "lr": rate * part}], **eps, **start)
        scales = (1.0, scale)
    other = cls([r, y], lr=rate, **eps, **start)
    for _ in range(60):
        loss, gp, gq = bowl(p, q)
        opt.step([[gp], [gq]], **loss_of(cls, loss))
        loss, gp, gq = bowl(scales[0] * r, scales[1] * y)
        other.step([scales[0] * gp, scales[1] * gq], **loss_of(cls, loss))
    assert np.abs(p - 0.3).max() > 1e-6                # it did move
    np.testing.assert_allclose(p, scales[0] * r, rtol=1e-7)
    np.testing.assert_allclose(q, scales[1] * y, rtol=1e-7)


@every_free
def test_a_frozen_group_is_not_there(cls):
    p, q, r = np.array([0.3, -0.2, 0.5]), np.array([0.7, 0.1]), np.array([0.3, -0.2, 0.5])
    opt = cls([{"params": [p], "lr": 1.0}, {"params": [q], "lr": 0.0}])
    other = cls([{"params": [r], "lr": 1.0}])
    for _ in range(30):
        loss, gp, gq = bowl(p, q)
        opt.step([[gp], [gq]], **loss_of(cls, loss))
        loss, gp, _ = bowl(r, q)
        other.step([[gp]], **loss_of(cls, loss))
    assert bits([q]) == bits([np.array([0.7, 0.1])])
    if cls not in (fastlr.MoMo, fastlr.MoMoAdam):      # (whose model of the loss is of all parameters)
        np.testing.assert_allclose(p, r, rtol=1e-12)


# Near the tuned loss

def logistic(load):
    """A classification of real data: the number of parameters' shape, and loss and gradient at one."""
    x, y = load(return_X_y=True)
    x, y = x[:570], y[:570]
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    x = np.hstack([x, np.ones((len(x), 1))])
    hot = np.eye(y.max() + 1)[y]

    def at(w):
        z = x @ w
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        share = e / e.sum(1, keepdims=True)
        loss = -np.mean((z * hot).sum(1) - np.log(e.sum(1))) + 0.005 * (w * w).sum()
        return loss, x.T @ (share - hot) / len(x) + 0.01 * w
    return (x.shape[1], hot.shape[1]), at


def trained(cls, shape, at, steps, **hyper):
    w = np.zeros(shape)
    opt = cls([w], **hyper)
    for _ in range(steps):
        loss, g = at(w)
        opt.step([g], **loss_of(cls, loss))
    return at(w)[0]


PROBLEMS = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
STEPS = 500
# Steps of Lion are as long at the end as ever, so that it needs a schedule that ends at 0: of the factor 1, not a rate.
SHAPED = {fastlr.DAdaptLion: {"lr": fastlr.schedules.cosine(1.0, STEPS)}}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request):
    shape, at = logistic(PROBLEMS[request.param])
    tuned = min(trained(fastlr.Adam, shape, at, STEPS, lr=lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.3))
    return shape, at, tuned


@every_free
def test_without_a_rate_it_comes_within_10_percent_of_the_tuned_loss(cls, problem):
    shape, at, tuned = problem
    assert trained(cls, shape, at, STEPS, **SHAPED.get(cls, {})) <= 1.1 * tuned


# The loss

NEEDY = [cls for cls in OPTIMIZERS if cls.needs_loss]
real_step = WithLoss.step.__wrapped__


@pytest.mark.parametrize("cls", NEEDY, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(("loss", "error", "says"), [
    (None, TypeError, "step needs loss=, the value of what is minimised"),
    ("1", TypeError, "loss must be a number, got '1'"),
    (float("nan"), ValueError, "loss must be finite, got nan"),
    (float("-inf"), ValueError, "loss must be finite, got -inf"),
])
def test_a_step_without_a_loss_is_refused_and_changes_nothing(cls, loss, error, says):
    p = np.ones(3)
    opt = cls([p])
    with pytest.raises(error, match=f"^{cls.__name__}: {says}"):
        real_step(opt, [np.ones(3)], loss=loss)
    assert opt.t == 0
    assert (p == 1).all()
    assert not any(array.any() for array in opt.state["0"].values())


def test_needy_are_those_that_take_a_loss():
    assert {cls.__name__ for cls in NEEDY} == {"PolyakSGD", "MoMo", "MoMoAdam"}


@pytest.mark.parametrize("cls", NEEDY, ids=lambda cls: cls.__name__)
def test_upwards_the_loss_is_what_grows(cls):
    p, q = np.array([4.0, 2.0]), np.array([4.0, 2.0])
    down, up = cls([p]), cls([q], maximize=True)
    for _ in range(5):
        down.step([p.copy()], loss=0.5 * (p @ p))
        up.step([-q], loss=-0.5 * (q @ q))
    assert bits([p]) == bits([q])
    assert (p < 4).any()


@pytest.mark.parametrize("cls", NEEDY, ids=lambda cls: cls.__name__)
def test_a_loss_scale_scales_gradients_alone(cls):
    p, q = np.array([4.0, 2.0]), np.array([4.0, 2.0])
    scale = fastlr.LossScale(1024.0)
    scaled, plain = cls([p], nonfinite="skip"), cls([q])
    for _ in range(5):
        scaled.step([p * scale.value], scale, loss=0.5 * (p @ p))
        plain.step([q.copy()], loss=0.5 * (q @ q))
    assert bits([p]) == bits([q])
    scaled.step([p * np.inf], scale, loss=0.5 * (p @ p))
    assert scaled.skipped == 1
    assert bits([p]) == bits([q])


def test_polyak_finds_the_least_of_a_bowl_in_one_step_of_its_full_length():
    p = np.array([3.0, -4.0])
    opt = fastlr.PolyakSGD([p], lr=10.0, f_min=7.0)
    opt.step([2 * p], loss=p @ p + 7.0)
    assert opt.step_size == 0.25
    assert (p == [1.5, -2.0]).all()
    opt.step([2 * p], loss=6.0)                        # below the least: it stays
    assert (p == [1.5, -2.0]).all()


# Their state

@every_free
def test_what_all_tensors_share_is_saved_and_resumed(cls):
    def fresh():
        params = [np.array([0.3, -0.2, 0.5]), np.array([0.7, 0.1])]
        return cls(params), params

    def go(opt, params, steps):
        for _ in range(steps):
            loss, *found = bowl(*params)
            opt.step(found, **loss_of(cls, loss))

    opt, params = fresh()
    go(opt, params, 20)
    resumed, again = fresh()
    resumed.load_state_dict(opt.state_dict())
    for p, q in zip(again, params, strict=True):
        p[...] = q
    go(opt, params, 20)
    go(resumed, again, 20)
    assert bits(params) == bits(again)
    shown = "d" if cls in ESTIMATING else "step_size"
    assert getattr(opt, shown) == getattr(resumed, shown) > 0


@pytest.mark.parametrize("cls", ESTIMATING, ids=lambda cls: cls.__name__)
def test_d_begins_at_d0_and_does_not_shrink(cls):
    p, q = np.array([0.3, -0.2, 0.5]), np.array([0.7, 0.1])
    opt = cls([p, q], d0=1e-5)
    assert opt.d == 1e-5
    before = 0.0
    for _ in range(50):
        _, gp, gq = bowl(p, q)
        opt.step([gp, gq])
        assert opt.d >= before
        before = opt.d
    assert opt.d > 1e-4
