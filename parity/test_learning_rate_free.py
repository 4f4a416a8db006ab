"""Learning-rate-free rules against their authors' code and optax, in float64."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trajectories.apart import apart, flat  # noqa: E402

import fastlr  # noqa: E402

STEPS = 200
ENOUGH = 1e-10
SHAPES = ((3, 4), (5,), ())
FAR = 3.0


@pytest.fixture(autouse=True)
def scalars_in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def start():
    rng = np.random.default_rng(0)
    return [np.array(rng.normal(size=shape)) for shape in SHAPES]


def gradients(params, t, noise):
    """Of a badly scaled bowl far from the start, with noise; and its loss."""
    rng = np.random.default_rng(100 + t)
    loss, found = 0.0, []
    for k, p in enumerate(params):
        scales = np.logspace(-1, 0.5, p.size).reshape(p.shape)
        found.append(scales * (p - FAR - k) + noise * rng.normal(size=p.shape))
        loss += 0.5 * float((scales * (p - FAR - k) ** 2).sum())
    return found, loss


def ours(cls, steps=STEPS, noise=0.1, **hyper):
    params = start()
    opt = cls(params, **hyper)
    trail = [flat(params)]
    for t in range(steps):
        found, loss = gradients(params, t, noise)
        opt.step(found, **({"loss": loss} if cls.needs_loss else {}))
        trail.append(flat(params))
    return trail, opt


def of_torch(make, steps=STEPS, noise=0.1, coupled=0.0):
    params = [torch.tensor(p, requires_grad=True) for p in start()]
    opt = make(params)
    trail = [flat(p.detach().numpy() for p in params)]
    for t in range(steps):
        found, _ = gradients([p.detach().numpy() for p in params], t, noise)
        for p, g in zip(params, found, strict=True):
            p.grad = torch.tensor(g) + coupled * p.detach()
        opt.step()
        trail.append(flat(p.detach().numpy() for p in params))
    return trail, opt.param_groups[0].get("d")


def of_optax(make, steps=STEPS, noise=0.1):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    opt = make(optax)
    params = [jax.numpy.asarray(p) for p in start()]
    state = opt.init(params)
    update = jax.jit(opt.update)
    trail = [flat(params)]
    for t in range(steps):
        found, loss = gradients([np.asarray(p) for p in params], t, noise)
        updates, state = update([jax.numpy.asarray(g) for g in found], state, params, value=loss)
        params = optax.apply_updates(params, updates)
        trail.append(flat(params))
    return trail


every_decay = pytest.mark.parametrize("decay", [0.0, 0.1])


@every_decay
@pytest.mark.parametrize("cls", [fastlr.DAdaptSGD, fastlr.DAdaptAdaGrad, fastlr.DAdaptAdam, fastlr.DAdaptLion],
                         ids=lambda cls: cls.__name__)
def test_dadaptation(cls, decay):
    peer = getattr(pytest.importorskip("dadaptation"), cls.__name__)
    for hyper in ({}, {"lr": 0.5, "d0": 1e-4}):
        trail, opt = ours(cls, weight_decay=decay, **hyper)
        # (its DAdaptSGD leaves weight decay out of g0_norm, as an `add` there is none in place: here it is in)
        own, coupled = (0.0, decay) if cls is fastlr.DAdaptSGD else (decay, 0.0)
        want, d = of_torch(lambda x, hyper=hyper, own=own: peer(x, weight_decay=own, **hyper), coupled=coupled)
        assert apart(trail, want) <= ENOUGH
        assert opt.d == pytest.approx(float(d), rel=ENOUGH)
        assert opt.d > 100 * opt.d0


@pytest.mark.parametrize("cls", [fastlr.DAdaptSGD, fastlr.DAdaptAdaGrad], ids=lambda cls: cls.__name__)
def test_dadaptation_with_momentum(cls):
    peer = getattr(pytest.importorskip("dadaptation"), cls.__name__)
    assert apart(ours(cls, momentum=0.9)[0], of_torch(lambda x: peer(x, momentum=0.9))[0]) <= ENOUGH


@every_decay
def test_dadapt_adam_decoupled_and_debiased(decay):
    peer = pytest.importorskip("dadaptation").DAdaptAdam
    for ours_, theirs_ in (({"decay": "decoupled"}, {"decouple": True}), ({"convention": "optax"},
                                                                       {"use_bias_correction": True})):
        trail, _ = ours(fastlr.DAdaptAdam, weight_decay=decay, **ours_)
        assert apart(trail, of_torch(lambda x, k=theirs_: peer(x, weight_decay=decay, **k))[0]) <= ENOUGH


@every_decay
def test_dadapt_adam_of_optax(decay):
    trail, _ = ours(fastlr.DAdaptAdam, weight_decay=decay, decay="decoupled", convention="optax")
    assert apart(trail, of_optax(lambda o: o.contrib.dadapt_adamw(1.0, weight_decay=decay))) <= ENOUGH


@every_decay
def test_prodigy_of_prodigyopt(decay, capsys):
    peer = pytest.importorskip("prodigyopt").Prodigy
    for hyper in ({}, {"lr": 0.5, "d0": 1e-4, "d_coef": 2.0}):
        trail, opt = ours(fastlr.Prodigy, weight_decay=decay, **hyper)
        want, d = of_torch(lambda x, hyper=hyper: peer(x, weight_decay=decay, **hyper))
        assert apart(trail, want) <= ENOUGH
        assert opt.d == pytest.approx(d, rel=ENOUGH)
        assert opt.d > 100 * opt.d0
    trail, _ = ours(fastlr.Prodigy, weight_decay=decay, decay="coupled")
    assert apart(trail, of_torch(lambda x: peer(x, weight_decay=decay, decouple=False))[0]) <= ENOUGH


@every_decay
def test_prodigy_of_optax(decay):
    trail, _ = ours(fastlr.Prodigy, weight_decay=decay, convention="optax")
    assert apart(trail, of_optax(lambda o: o.contrib.prodigy(1.0, weight_decay=decay))) <= ENOUGH
    assert apart(ours(fastlr.Prodigy, weight_decay=decay)[0], trail) > 1e-3


def test_dog_and_dowg_of_optax():
    assert apart(ours(fastlr.DoG)[0], of_optax(lambda o: o.contrib.dog())) <= ENOUGH
    assert apart(ours(fastlr.DoG, reps_rel=1e-3, lr=0.5, weight_decay=0.1)[0], of_optax(
        lambda o: o.contrib.dog(0.5, init_step=("heuristic", 1e-3), weight_decay=0.1))) <= ENOUGH
    assert apart(ours(fastlr.DoWG)[0], of_optax(lambda o: o.contrib.dowg())) <= ENOUGH
    assert apart(ours(fastlr.DoWG, initial_square_distance=1e-2, weight_decay=0.1)[0], of_optax(
        lambda o: o.contrib.dowg(init_estim_sq_dist=1e-2, weight_decay=0.1))) <= ENOUGH


def test_polyak_of_optax():
    for lr in (0.3, 100.0):
        assert apart(ours(fastlr.PolyakSGD, lr=lr)[0],
                     of_optax(lambda o, lr=lr: o.polyak_sgd(lr, variant="sps+"))) <= ENOUGH
    # their default climbs where the loss is below what is said to be the least
    bound = {"lr": 0.1, "f_min": 1e3}
    theirs = of_optax(lambda o: o.polyak_sgd(0.1, f_min=1e3))
    assert apart(ours(fastlr.PolyakSGD, **bound)[0], theirs) > 1e-3


@every_decay
def test_momo_of_optax(decay):
    for lr in (1.0, 0.05):
        assert apart(ours(fastlr.MoMo, lr=lr, weight_decay=decay, lower_bound=0.5)[0], of_optax(
            lambda o, lr=lr: o.contrib.momo(lr, lower_bound=0.5, weight_decay=decay))) <= ENOUGH
        assert apart(ours(fastlr.MoMoAdam, lr=lr, weight_decay=decay, lower_bound=0.5)[0], of_optax(
            lambda o, lr=lr: o.contrib.momo_adam(lr, lower_bound=0.5, weight_decay=decay))) <= ENOUGH


def test_a_first_gradient_of_zero_is_nan_in_dadaptation_not_here():
    peer = pytest.importorskip("dadaptation").DAdaptSGD
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.zeros(3)
    theirs = peer([p])
    with pytest.raises(ZeroDivisionError):
        theirs.step()
    q = np.ones(3)
    opt = fastlr.DAdaptSGD(q)
    opt.step(np.zeros(3))
    assert (q == 1).all()
    opt.step(np.ones(3))
    assert (q < 1).all()
    assert opt.d > 0


def test_two_learning_rates_are_refused_there():
    for peer in (pytest.importorskip("dadaptation").DAdaptAdam, pytest.importorskip("prodigyopt").Prodigy):
        p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
        p.grad = q.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="different lr values"):
            peer([{"params": [p], "lr": 1.0}, {"params": [q], "lr": 0.5}]).step()
