"""What single elementwise rules promise beside their formula."""
import numpy as np
import pytest
from registry import arrays

import fastlr


def test_lion_leaves_alone_what_has_neither_momentum_nor_gradient():
    p = np.ones(3, np.float32)
    fastlr.Lion(p, lr=0.5).step(np.array([0.0, -0.0, 1.0], np.float32))
    assert (p == [1, 1, 0.5]).all()


def test_yogi_without_a_gradient_stays():
    # (in optax and pytorch_optimizer, m begins at 1e-6)
    p = np.ones(3)
    fastlr.Yogi(p, lr=0.1).step(np.zeros(3))
    assert (p == 1).all()
    moved = np.ones(3)
    fastlr.Yogi(moved, lr=0.1, initial_momentum=1e-6).step(np.zeros(3))
    assert (moved < 1).all()


def test_adopt_passes_on_what_is_no_number():
    p = np.zeros(2)
    opt = fastlr.ADOPT(p, lr=0.1)
    opt.step(np.ones(2))
    opt.step(np.array([np.nan, 1.0]))
    assert np.isnan(p[0]) and np.isfinite(p[1])


def test_adopt_by_timms_exponent():
    # from its paper's formula alone: the third update may go 2**(1/3) far
    p = np.zeros(1)
    opt = fastlr.ADOPT(p, lr=1.0, beta1=0.0, clip_exponent=1 / 3)
    moves = []
    for g in (1.0, 100.0, 100.0):
        before = p.copy()
        opt.step(np.array([g]))
        moves.append(float((before - p)[0]))
    assert moves == pytest.approx([0, 1, 2 ** (1 / 3)], rel=1e-14)


def test_ftrl_gives_exact_zeros_and_what_has_no_gradient_stays():
    p, = arrays(np.float64, [50])
    before = p.copy()
    opt = fastlr.FTRL(p, lr=0.1, beta=1.0, l1=5.0, l2=0.1)
    for t in range(30):
        g, = arrays(np.float64, [50], seed=t)
        g[:10] = 0
        opt.step(g + np.where(np.arange(50) < 10, 0, 0.3 * p))
    np.testing.assert_allclose(p[:10], before[:10], rtol=1e-14)
    assert (p[10:] == 0).any() and (p[10:] != 0).any()


def test_ftrl_with_a_rate_that_falls_scales_nothing():
    # (-z / D with the new rate alone would halve p)
    p = np.array([4.0])
    opt = fastlr.FTRL(p, lr=lambda t: 0.5 ** t, initial_accumulator_value=1.0)
    opt.step(np.array([0.5]))
    before = p.copy()
    opt.step(np.array([0.0]))
    np.testing.assert_allclose(p, before, rtol=1e-15)


@pytest.mark.parametrize("cls", [fastlr.FTRL, fastlr.MADGRAD, fastlr.ScheduleFreeAdamW], ids=lambda cls: cls.__name__)
def test_a_rate_of_zero_moves_nothing(cls):
    p, = arrays(np.float64, [20])
    before = p.copy()
    opt = cls(p, lr=lambda t: 0.0 if t < 3 else 0.1)
    for t in range(3):
        opt.step(arrays(np.float64, [20], seed=t)[0])
        assert (p == before).all()
    opt.step(np.ones(20))
    assert np.isfinite(p).all() and (p != before).all()


def test_adabounds_rate_is_in_the_end_one_for_all():
    p = np.zeros(2)
    opt = fastlr.AdaBound(p, lr=0.01, beta1=0.0, final_scale=10.0, gamma=1e9)
    opt.step(np.array([1.0, 1000.0]))
    np.testing.assert_allclose(p, [-0.1, -100.0], rtol=1e-8)


def test_ademamix_warms_up_to_the_authors_half_lives():
    # after a share of its warm-up, the half-life of m2 is that share of the way from beta1's to beta3's
    p = np.zeros(1)
    opt = fastlr.AdEMAMix(p, beta1=0.5, beta3=0.5 ** (1 / 9), beta3_warmup=4.0)
    m2 = 0.0
    for t in range(1, 7):
        half_life = min(1 + 8 * t / 4, 9)
        m2 = 0.5 ** (1 / half_life) * m2 + (1 - 0.5 ** (1 / half_life)) * t
        opt.step(np.array([float(t)]))
        assert float(opt.state["0"]["m2"][0]) == pytest.approx(m2, rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_madgrads_cube_root_over_all_magnitudes(dtype):
    exponents = np.linspace(*((-18, 18) if dtype == np.float32 else (-150, 150)), 2001)
    g = (10.0**exponents).astype(dtype)
    p = np.zeros_like(g)
    opt = fastlr.MADGRAD(p, lr=1.0, momentum=0.0, eps=0.0)
    opt.step(g)
    wide = g.astype(np.longdouble)
    exact = -wide / np.cbrt((wide * wide).astype(dtype).astype(np.longdouble))
    assert float((abs(p - exact) / np.spacing(abs(exact).astype(dtype))).max()) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_diffgrads_exponential_over_all_magnitudes(dtype):
    g = np.concatenate([[0], np.logspace(-6, 6, 4001)]).astype(dtype)
    p = np.zeros_like(g)
    opt = fastlr.DiffGrad(p, lr=1.0, beta1=0.0, beta2=0.0, eps=1.0)
    opt.step(g)
    wide = g.astype(np.longdouble)
    exact = -wide / (1 + np.exp(-wide)) / (wide + 1)
    assert float((abs(p - exact) / np.spacing(abs(exact).astype(dtype) + np.finfo(dtype).tiny)).max()) <= 3


# ASGD, whose mean is kept from where it differs from the parameter

def averaged_by_hand(p, t0s, lr=0.1, lambd=1e-4, alpha=0.75):
    """p and its mean after each update, as torch has them: the mean is written at all of them."""
    mean, trail = p.copy(), []
    for t, t0 in enumerate(t0s, 1):
        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        p = (1 - lambd * eta) * p - eta * arrays(np.float64, [p.shape], seed=t)[0]
        mu = 1 / max(1, t - 1 - t0)
        mean = mean + mu * (p - mean)
        trail.append((p, mean))
    return trail


@pytest.mark.parametrize("t0s", [[4.0] * 12, [2.5] * 12, [0.0] * 12, [1e6] * 12, [1e6] * 6 + [3.0] * 6,
                                 [2.0] * 6 + [1e6] * 3 + [7.0] * 6], ids=str)
def test_the_mean_of_asgd_is_torchs_at_every_update_also_where_t0_moves(t0s):
    p, = arrays(np.float64, [(70,)])
    opt = fastlr.ASGD([p], lr=0.1)
    for t, (want, mean) in enumerate(averaged_by_hand(p.copy(), t0s), 1):
        opt.t0 = t0s[t - 1]
        opt.step(arrays(np.float64, [(70,)], seed=t))
        np.testing.assert_allclose(p, want, rtol=0, atol=1e-14)
        np.testing.assert_allclose(opt.averaged["0"], mean, rtol=0, atol=1e-14)
        resumed = fastlr.ASGD([p.copy()], lr=0.1)
        resumed.load_state_dict(opt.state_dict())
        assert resumed.averaged["0"].tobytes() == opt.averaged["0"].tobytes()


@pytest.mark.parametrize("keywords", [{}, {"clip_value": 1e3}, {"state_dtype": "float64"}], ids=str)
def test_no_update_before_its_start_touches_the_mean_of_asgd(keywords):
    p, = arrays(np.float32, [(300,)])
    opt = fastlr.ASGD([p], t0=3.0, **keywords)
    opt.state["0"]["ax"][...] = np.nan
    for t in range(1, 7):
        opt.step(arrays(np.float32, [(300,)], seed=t))
        assert np.isnan(opt.state["0"]["ax"]).all() == (t <= 4) == (opt.state["0"]["averaging"] == 0)
        assert np.isfinite(opt.averaged["0"]).all()
