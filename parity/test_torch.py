"""Every optimizer against torch's, live: parameters after each of 200 steps, then state."""
import functools
import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from registry import REGISTRY, full, other_value  # noqa: E402
from torch_twins import FOLLOWS, LACKS, LATER, NEVER_SET, OTHER_DEFAULTS, PLAIN, SLOTS, TWINS, all_changed, variants  # noqa: E402
from trajectories import make_torch  # noqa: E402
from trajectories.apart import SAME, apart, flat  # noqa: E402
from trajectories.stream import read  # noqa: E402

import fastlr  # noqa: E402
from fastlr import schedules  # noqa: E402

STEPS = 200
LR = 0.05


@pytest.fixture(autouse=True)
def scalars_in_double():
    """torch keeps some scalars of its state (NAdam's mu_product) in its default dtype: 1e-8 of each would be lost."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


every_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
every_fused_twin = pytest.mark.parametrize("twin", [t for t in TWINS if t.fused], ids=lambda twin: twin.name)
every_plain_twin = pytest.mark.parametrize("twin", PLAIN, ids=lambda twin: twin.name)
every_variant = pytest.mark.parametrize(
    ("twin", "hyper", "maximize"),
    [pytest.param(twin, *variant, id=f"{twin.name}-{what}")
     for twin in TWINS for what, *variant in variants(twin.ours)],
)
most_different_variants = pytest.mark.parametrize(
    ("hyper_of", "maximize"),
    [(lambda cls: {}, False), (all_changed, False), (all_changed, True)],
    ids=["as declared", "everything", "everything-maximize"],
)


def contiguous(values):
    return values.copy()


def transposed(values):
    return values.T.copy().T


def strided(values):
    """Every second row, every third column, ... of something larger."""
    larger = np.full([size * (step + 2) for step, size in enumerate(values.shape)], np.nan, values.dtype)
    view = larger[..., *(slice(None, None, step + 2) for step in range(values.ndim))]
    view[...] = values
    return view


def middle(values):
    """Rows of something wider."""
    wider = np.full((*values.shape[:-1], values.shape[-1] + 3), np.nan, values.dtype)
    view = wider[..., 1:-2]
    view[...] = values
    return view


PLAIN_TENSORS = tuple((shape, contiguous) for shape in ((13,), (2, 3), (), (0,), (1,)))
TENSORS = (*PLAIN_TENSORS, ((4, 3), transposed), ((9,), strided), ((3, 2, 4), strided), ((5, 7), middle))
GRADIENT_LAYOUTS = (contiguous, transposed, strided, contiguous)     # in turn


@functools.cache
def gradients(tensors, seed=0):
    """STEPS lists of gradients over four magnitudes, contiguous and read-only."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(STEPS):
        one = [np.array(rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 1, size=shape))
               for shape, _ in tensors]
        for g in one:
            g.flags.writeable = False
        made.append(one)
    return made


def beginnings(tensors, dtype=np.float64):
    """Two sets of equal parameters in their layouts, for one side each."""
    rng = np.random.default_rng(99)
    values = [np.array(rng.normal(size=shape), dtype) for shape, _ in tensors]
    return tuple([lay(v) for v, (_, lay) in zip(values, tensors, strict=True)] for _ in range(2))


def grouped(given, sizes):
    """A flat list cut into lists of these sizes; itself if there are none."""
    if sizes is None:
        return given
    it = iter(given)
    return [list(itertools.islice(it, size)) for size in sizes]


def race(ours, theirs, params, tensors_there, given, sizes=None, layouts=(contiguous,), before=None):
    """Step both STEPS times; how far apart they ever were. `given(t)`: arrays, None where there is none."""
    trails = [flat(params)], [flat(x.numpy() for x in tensors_there)]
    for t in range(STEPS):
        if before is not None:
            before(t)
        wanted = [None if g is None else layouts[(t + k) % len(layouts)](g.astype(params[k].dtype))
                  for k, g in enumerate(given(t))]
        ours.step(grouped(wanted, sizes))              # (first: torch's foreach Nesterov writes to gradients)
        for p, g in zip(tensors_there, wanted, strict=True):
            p.grad = None if g is None else torch.from_numpy(g)
        theirs.step()
        trails[0].append(flat(params))
        trails[1].append(flat(x.numpy() for x in tensors_there))
    return apart(*trails)


def compare(twin, hyper, tensors, layouts=(contiguous,), given=None, dtype=np.float64, **how):
    """One optimizer of each, 200 steps; how far apart the parameters ever were, and the state at last."""
    mine, other = beginnings(tensors, dtype)
    there = [torch.from_numpy(p) for p in other]
    maximize = how.get("maximize", False)
    theirs = twin.torch(there, hyper, **how)
    ours = twin.fastlr(mine, hyper, maximize=maximize)
    worst = race(ours, theirs, mine, there, given or gradients(tensors).__getitem__, layouts=layouts)
    return worst, state_apart(ours, theirs, there)


def state_apart(ours, theirs, there):
    """The largest difference of any slot, relative to the largest element of that slot of that tensor.

    (A moment forgets: its errors are those of its own recent values, and a first moment crosses zero.)
    """
    worst = 0.0
    for (name, slots), p in zip(ours.state.items(), there, strict=True):
        for called, x in theirs.state[p].items():
            if called in LATER:
                scale = max(float(abs(x).max()) if x.numel() else 0, np.finfo(np.float64).tiny)
                worst = max(worst, float(abs(ours.averaged[name] - x.numpy()).max(initial=0) / scale))
            if called in SLOTS and SLOTS[called] in slots and x is not None:
                x = x.numpy()
                scale = max(abs(x).max(initial=0), np.finfo(np.float64).tiny)
                worst = max(worst, float(abs(slots[SLOTS[called]] - x).max(initial=0) / scale))
    return worst


# Every optimizer, every hyper-parameter

def test_every_twin_is_of_the_registry():
    compared = {twin.ours.__name__.lower() for twin in TWINS}
    assert compared <= REGISTRY.keys()
    assert {twin.ours for twin in PLAIN} == {twin.ours for twin in TWINS} and len(PLAIN) == len(compared)


@every_twin
def test_all_state_has_a_name_there(twin):
    tensor = torch.zeros(3, dtype=torch.float64)
    theirs = twin.torch([tensor], {})
    tensor.grad = torch.ones(3, dtype=torch.float64)
    theirs.step()
    names = [LATER.get(name) or (SLOTS[name],) for name in theirs.state[tensor] if name not in FOLLOWS]
    assert {ours for several in names for ours in several} == {*twin.ours.slots, *twin.ours.memory}


@every_plain_twin
def test_defaults_are_torchs(twin):
    theirs = {name: list(p.default) if isinstance(p.default, tuple) else p.default
              for name, p in inspect.signature(twin.theirs).parameters.items()}
    ours = full(twin.ours, {}) | {name: start.default for name, start in twin.ours.initial_states.items()}
    for name, value in twin.spoken(ours).items():
        if name != "momentum":                         # there it is off, here it is in the name
            other = (twin.ours.__name__, name) in OTHER_DEFAULTS
            assert (value != theirs[name]) if other else (value == theirs[name]), name


@every_variant
def test_one_tensor_at_a_time(twin, hyper, maximize):
    worst, state = compare(twin, hyper, TENSORS, GRADIENT_LAYOUTS, foreach=False, maximize=maximize)
    assert worst <= SAME
    assert state <= SAME


@every_twin
@most_different_variants
def test_foreach(twin, hyper_of, maximize):
    hyper = hyper_of(twin.ours)
    worst, state = compare(twin, hyper, TENSORS, GRADIENT_LAYOUTS, foreach=True, maximize=maximize)
    assert worst <= SAME
    assert state <= SAME


@every_fused_twin
@most_different_variants
def test_fused(twin, hyper_of, maximize):
    # (contiguous only: torch's fused CPU kernels walk parameter and gradient as they lie in memory)
    worst, state = compare(twin, hyper_of(twin.ours), PLAIN_TENSORS, fused=True, maximize=maximize)
    assert worst <= SAME
    assert state <= SAME


# Float32. Each side rounds p once a step, by 0.29 ulp (the standard deviation), both by 0.41: after 200 steps
# they are 0.41 * sqrt(200) = 6 ulp apart, of the largest value that p has had, if it stays that large. The
# step itself is smaller than p, and its errors with it. 16 ulp are nearly three deviations. (Found: 6.)
DRIFT = 16 * 2.0**-23


@every_twin
@most_different_variants
def test_float32(twin, hyper_of, maximize):
    hyper = hyper_of(twin.ours)
    worst, _ = compare(twin, hyper, PLAIN_TENSORS, dtype=np.float32, foreach=False, maximize=maximize)
    assert worst <= DRIFT


@every_fused_twin
@most_different_variants
def test_float32_fused(twin, hyper_of, maximize):
    hyper = hyper_of(twin.ours)
    worst, _ = compare(twin, hyper, PLAIN_TENSORS, dtype=np.float32, fused=True, maximize=maximize)
    assert worst <= DRIFT


# What changes while it runs

def holes(tensors):
    """Gradients of which each tensor lacks some; one lacks the first ones, one all but the last few."""
    def given(t):
        return [None if (t + k) % (k + 3) == 0 or t < 7 * (k % 3) or (k == 1 and t < STEPS - 9) else g
                for k, g in enumerate(gradients(tensors)[t])]
    return given


@every_twin
@pytest.mark.parametrize("foreach", [False, True], ids=["one", "foreach"])
@pytest.mark.parametrize("changed", [False, True], ids=["as declared", "everything"])
def test_a_tensor_without_a_gradient_keeps_its_own_count(twin, foreach, changed):
    hyper = all_changed(twin.ours) if changed else {}
    worst, state = compare(twin, hyper, TENSORS, given=holes(TENSORS), foreach=foreach)
    assert worst <= SAME
    assert state <= SAME


def in_groups(twin, hypers, sizes, tensors, **how):
    mine, other = beginnings(tensors)
    there = [torch.from_numpy(p) for p in other]
    ours = twin.fastlr([{"params": part} | hyper
                        for part, hyper in zip(grouped(mine, sizes), hypers, strict=True)], {})
    theirs = twin.torch([{"params": part} | twin.spoken(full(twin.ours, hyper))
                         for part, hyper in zip(grouped(there, sizes), hypers, strict=True)], {}, **how)
    return ours, theirs, mine, there


@every_twin
@pytest.mark.parametrize("foreach", [False, True], ids=["one", "foreach"])
def test_groups_with_hyper_parameters_of_their_own(twin, foreach):
    changed = {name: x for name, x in all_changed(twin.ours).items() if name in twin.ours.hypers}
    sizes, hypers = (3, 4, 2), ({"lr": LR}, changed, {"lr": LR / 2} | ({"weight_decay": 0.25} if "weight_decay" in changed else {}))
    ours, theirs, mine, there = in_groups(twin, hypers, sizes, TENSORS, foreach=foreach)
    assert race(ours, theirs, mine, there, holes(TENSORS), sizes, GRADIENT_LAYOUTS) <= SAME


@every_twin
def test_hyper_parameters_set_on_the_way(twin):
    # (what starts a slot cannot be set later; every other one is, on one group, each at a step of its own)
    names = [name for name in twin.ours.hypers if (twin.ours.__name__, name) not in LACKS | NEVER_SET]
    sizes = (4, 5)
    ours, theirs, mine, there = in_groups(twin, ({}, {}), sizes, TENSORS)
    values = full(twin.ours, {})
    late = {}

    def before(t):
        for name in [*late]:
            setattr(ours.groups[1], name, late.pop(name))
        if t % 15 == 14:
            name = names[t // 15 % len(names)]
            bound = twin.ours.hypers[name]
            values[name] = bound.default if values[name] != bound.default else other_value(bound)
            if name in twin.late:
                late[name] = values[name]
            else:
                setattr(ours.groups[1], name, values[name])
            theirs.param_groups[1].update(twin.spoken(values))

    assert race(ours, theirs, mine, there, gradients(TENSORS).__getitem__, sizes, before=before) <= SAME


# Schedules

SCHEDULES = {
    "StepLR": (
        lambda opt: torch.optim.lr_scheduler.StepLR(opt, 30, gamma=0.1),
        lambda: schedules.step_decay(LR, every=30, factor=0.1)),
    "ExponentialLR": (
        lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.98),
        lambda: schedules.geometric(LR, factor=0.98)),
    "CosineAnnealingLR": (
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS, eta_min=LR / 100),
        lambda: schedules.cosine(LR, steps=STEPS, final=LR / 100)),
    "LinearLR": (
        lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 0.25, 1.0, total_iters=50),
        lambda: schedules.linear(LR / 4, steps=50, final=LR)),
    "SequentialLR": (
        lambda opt: torch.optim.lr_scheduler.SequentialLR(opt, [
            torch.optim.lr_scheduler.LinearLR(opt, 0.25, 1.0, total_iters=40),
            torch.optim.lr_scheduler.CosineAnnealingLR(opt, 60),
            torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)], milestones=[40, 100]),
        lambda: schedules.linear(LR / 4, steps=40, final=LR)
        .then(schedules.cosine(LR, steps=60), at=40)
        .then(schedules.geometric(LR, factor=0.9), at=100)),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_twin
@every_schedule
def test_a_scheduler_there_is_a_schedule_here(twin, name):
    scheduler, schedule = SCHEDULES[name]
    mine, other = beginnings(PLAIN_TENSORS)
    there = [torch.from_numpy(p) for p in other]
    theirs = twin.torch(there, {"lr": LR})
    driver = scheduler(theirs)
    rate = schedule()
    ours = twin.fastlr(mine, {"lr": (lambda t: rate(max(t - 1, 0))) if "lr" in twin.late else rate})
    worst = race(ours, theirs, mine, there, gradients(PLAIN_TENSORS).__getitem__,
                 before=lambda t: driver.step() if t else None)
    assert worst <= SAME


def driven(scheduler, lr=LR, steps=STEPS):
    """The rates that a torch scheduler gives the updates 0, 1, ..."""
    opt = torch.optim.SGD([torch.zeros(1)], lr)
    driver = scheduler(opt)
    rates = []
    for _ in range(steps + 1):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        driver.step()
    return np.array(rates)


def closed(scheduler, steps=STEPS):
    """The rates of a torch scheduler's closed form."""
    driver = scheduler(torch.optim.SGD([torch.zeros(1)], LR))
    rates = []
    for driver.last_epoch in range(steps + 1):
        rates += driver._get_closed_form_lr()
    return np.array(rates)


def ulps(ours, theirs, of):
    return float((abs(ours - theirs) / np.spacing(of)).max())


@pytest.mark.parametrize(("name", "scale"), [("StepLR", "now"), ("ExponentialLR", "now"), ("LinearLR", "now"),
                                             ("CosineAnnealingLR", "first")])
def test_schedules_are_torchs_closed_forms_within_2_ulp(name, scale):
    # Of the rate now; of the first rate for the cosine, whose 1 + cos cancels near the end in torch.
    scheduler, schedule = SCHEDULES[name]
    theirs = closed(scheduler)
    of = theirs if scale == "now" else np.full_like(theirs, LR)
    assert ulps(schedule()(range(STEPS + 1)), theirs, of) <= 2


@every_schedule
def test_schedules_are_what_torchs_recursions_drift_around(name):
    # torch multiplies its last rate by a factor: a rounding or two that stay, 2 ulp a step at most.
    scheduler, schedule = SCHEDULES[name]
    theirs = driven(scheduler)
    assert ulps(schedule()(range(STEPS + 1)), theirs, np.full_like(theirs, LR)) <= 16
    falling = {"StepLR", "ExponentialLR"}
    if name in falling:
        assert ulps(schedule()(range(STEPS + 1)), theirs, theirs) <= 2 * STEPS


def test_past_its_end_torchs_cosine_climbs_and_ours_holds():
    theirs = driven(lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 50, eta_min=0.01), steps=100)
    ours = schedules.cosine(LR, steps=50, final=0.01)(range(101))
    assert ulps(ours[:51], theirs[:51], np.full(51, LR)) <= 16
    assert (np.diff(theirs[50:]) > 0).all() and theirs[100] == pytest.approx(LR, rel=1e-12)
    assert (ours[50:] == 0.01).all()


# torch tensors in our hands

def a_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.ReLU(),
        torch.nn.Linear(16, 3),
    ).double()


def trained(network, step, clear):
    """The loss of each of 200 updates on one batch after another."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 6, dtype=torch.float64, generator=generator)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x[:, 3] - x[:, 4] ** 2], 1)
    losses = []
    for t in range(STEPS):
        batch = slice(32 * (t % 8), 32 * (t % 8) + 32)
        clear()
        loss = torch.nn.functional.mse_loss(network(x[batch]), y[batch])
        loss.backward()
        step()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.parametrize("named", [False, True], ids=["sequence", "mapping"])
def test_a_training_loop_has_the_same_loss_curve(named):
    there = a_network()
    theirs = torch.optim.AdamW(there.parameters(), lr=1e-3)
    expected = trained(there, theirs.step, theirs.zero_grad)
    here = a_network()
    if named:
        ours = fastlr.AdamW(dict(here.named_parameters()), lr=1e-3)
        losses = trained(here, lambda: ours.step({n: p.grad for n, p in here.named_parameters()}),
                         here.zero_grad)
    else:
        ours = fastlr.AdamW(list(here.parameters()), lr=1e-3)
        losses = trained(here, lambda: ours.step([p.grad for p in here.parameters()]), here.zero_grad)
    assert (abs(losses - expected) / expected).max() <= SAME
    assert losses[-1] < 0.6 * losses[0]


def test_a_parameter_of_torch_is_updated_where_it_lies():
    tensors = [torch.nn.Parameter(torch.ones(3)), torch.ones(2, 3, dtype=torch.float64).T,
               torch.ones(4, dtype=torch.float32, requires_grad=True), torch.tensor(1.0)]
    places = [t.data_ptr() for t in tensors]
    opt = fastlr.SGD(tensors, lr=0.5)
    opt.step([torch.ones(3), torch.ones(3, 2, dtype=torch.float64), np.ones(4, np.float32),
              torch.tensor(1.0)])
    assert [t.data_ptr() for t in tensors] == places
    assert all((t == 0.5).all() for t in tensors)


def test_gradients_that_require_gradients_are_read():
    p = torch.zeros(3)
    fastlr.SGD(p, lr=1.0).step(torch.ones(3, requires_grad=True))
    assert (p == -1).all()


def test_gradients_are_bound_once_and_zeroed_in_the_same_pass():
    p, g = torch.zeros(3), torch.ones(3)
    opt = fastlr.SGD([p], lr=1.0, grads=[g])
    opt.step()
    opt.step(zero_grads=True)
    opt.step()
    assert (p == -2).all() and (g == 0).all()


class OnAnotherDevice:
    """What a CUDA tensor says of itself through DLPack."""

    shape, dtype = (3,), "float32"

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **how):
        raise BufferError("this tensor is on CUDA device 0")


REFUSED = {
    "meta": (lambda: torch.zeros(3, device="meta"), "gives no CPU memory"),
    "cuda": (OnAnotherDevice, "gives no CPU memory"),
    "sparse": (lambda: torch.zeros(3).to_sparse(), "gives no CPU memory"),
    "integer": (lambda: torch.zeros(3, dtype=torch.int32), "expected float32, float64, float16 or bfloat16, got int32"),
    "complex": (lambda: torch.zeros(3, dtype=torch.complex64), "expected float32, float64, float16 or bfloat16, got complex64"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_parameter_that_cannot_be_updated_is_a_clear_error(what):
    make, says = REFUSED[what]
    with pytest.raises(TypeError, match=rf"^SGD: params\[0\]: .*{says}"):
        fastlr.SGD([make()])


@pytest.mark.parametrize("what", ["meta", "cuda", "sparse"])
def test_a_gradient_that_cannot_be_read_is_a_clear_error(what):
    make, says = REFUSED[what]
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    opt = fastlr.SGD([p, q])
    with pytest.raises(TypeError, match=rf"grads\[1\]: .*{says}"):
        opt.step([np.ones(3, np.float32), make()])
    assert (p == 1).all() and (q == 1).all() and opt.t == 0


@pytest.mark.parametrize("laid", [lambda t: t, lambda t: t.t().contiguous().t(), lambda t: t.flip(0)[::2]],
                         ids=["rows", "columns", "every second"])
def test_bfloat16_tensors_are_updated_in_place(laid):
    torch.manual_seed(0)
    p, g = (laid(torch.randn(6, 5).bfloat16()) for _ in range(2))
    want = (p.float() - 0.5 * g.float()).bfloat16()
    opt = fastlr.SGD([torch.nn.Parameter(p)], lr=0.5)
    opt.step([g])
    assert torch.equal(p, want)
    for _ in range(1000):              # nothing is lost and nothing is freed twice
        opt.step([g.clone()])
    assert torch.isfinite(p).all()


def test_an_expanded_tensor_is_refused():
    with pytest.raises(ValueError, match="elements overlap in memory"):
        fastlr.SGD([torch.zeros(1).expand(3)])


# The frozen trajectories

@pytest.mark.parametrize("ours", {twin.ours: None for twin in TWINS}, ids=lambda cls: cls.__name__)
def test_frozen_trajectories_are_what_torch_gives_today(ours):
    frozen = json.loads((Path(make_torch.__file__).parent / "torch" / f"{ours.__name__.lower()}.json").read_text())
    assert frozen["torch"].split("+")[0] == torch.__version__.split("+")[0]
    for was, is_now in zip(frozen["runs"], make_torch.runs(ours)["runs"], strict=True):
        assert was | {"params": None} == is_now | {"params": None}
        # (a CPU of another instruction set may round a step of torch otherwise)
        assert apart(read(is_now["params"]), read(was["params"])) <= SAME
