"""Rules as other libraries have them: their formulas, their defaults, and all that holds of any rule."""
import ml_dtypes
import numpy as np
import pytest
from registry import (
    CONVENTIONS,
    GIVEN,
    arrays,
    bits,
    every_convention,
    every_decay,
    every_dtype,
    everything_changed,
    full,
    run,
    snapshot,
)
from test_rules import allowed, follows

import fastlr
from fastlr.optimizers.base import REGISTRY

CHUNK = 32768
# Those whose formula is another than the class's.
DIFFERENT = [(cls, name) for cls, name in CONVENTIONS if cls.conventions[name].rule != cls._default_rule]
every_different = pytest.mark.parametrize(("cls", "convention"), [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, name in DIFFERENT])
every_different_separate = pytest.mark.parametrize(("cls", "convention"), [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, name in DIFFERENT if not cls.shared])
every_different_unplaced = pytest.mark.parametrize(("cls", "convention"), [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, name in DIFFERENT if not cls.depends_on_param])

# RpropLate's step waits a step, which LAMB's bound and the largest of AMSGrad do not. The squares under Adan's root have
# an epsilon of a quotient; corrections move above the line of a root (RAdamCorrected: below it), one rounding each.
TOLERANCE = {"AMSGradCorrected": 6, "DAdaptAdamDebiased": 8, "ProdigyDebiased": 8, "LAMBUncorrected": 8}


def tolerance(cls, convention):
    return max(allowed(cls), TOLERANCE.get(cls.conventions[convention].rule, 0))


def other(cls):
    return {name: value for name, value in everything_changed(cls).items() if name in cls.hypers}


# Formulas (tests/reference.py)

@every_different
@every_dtype
@pytest.mark.parametrize("changed", [False, True], ids=["as declared", "everything"])
def test_follows_its_formula(cls, convention, dtype, changed):
    assert follows(cls, dtype, other(cls) if changed else {}, convention=convention) <= tolerance(cls, convention)


@every_different
@every_decay
def test_weight_decay_follows_its_mode(cls, convention, decay):
    most = {"lr_max": 4 * full(cls, {}, convention)["lr"]} if decay == "corrected" else {}
    assert follows(cls, np.float64, {"weight_decay": 0.25}, steps=12, decay=decay, convention=convention, **most) \
        <= tolerance(cls, convention)


@every_different
def test_the_formula_is_another(cls, convention):
    hyper = full(cls, {}) | {"weight_decay": 0.1} | ({"eps": 0.03} if "eps" in cls.hypers else {})
    trails = []
    for whose in (None, convention):
        p, = arrays(np.float64, [50])
        opt = cls([p], convention=whose, decay="decoupled", **hyper)
        if cls in GIVEN:
            opt.state["0"][GIVEN[cls]][...] = 1
        for t in range(12):
            opt.lr = hyper["lr"] * (1 + t % 3)             # (where it is in the velocity, only this tells)
            opt.step([0.05 * g for g in arrays(np.float64, [50], seed=t)])      # (MARS bounds the norm of larger ones)
        trails.append(p)
    assert abs(trails[0] - trails[1]).max() > 1e-5 * abs(trails[0] - arrays(np.float64, [50])[0]).max()


# What they begin with

DEFAULTS = [
    (fastlr.Adam, "keras", "decoupled", {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.0}),
    (fastlr.Adam, "optax", "coupled", {"lr": 1e-3, "eps": 1e-8}),
    (fastlr.AdamW, "optax", "decoupled", {"weight_decay": 1e-4, "eps": 1e-8}),
    (fastlr.AdamW, "keras", "decoupled", {"weight_decay": 4e-3, "eps": 1e-7}),
    (fastlr.NAdam, "keras", "decoupled", {"lr": 1e-3, "momentum_decay": 1.0, "eps": 1e-7}),
    (fastlr.AdaGrad, "keras", "decoupled", {"lr": 1e-3, "eps": 1e-7}),
    (fastlr.AdaDelta, "keras", "decoupled", {"lr": 1e-3, "rho": 0.95, "eps": 1e-7}),
    (fastlr.RMSprop, "optax", "coupled", {"alpha": 0.9, "eps": 1e-8}),
    (fastlr.RMSprop, "timm", "coupled", {"lr": 1e-2, "alpha": 0.9, "eps": 1e-10}),
    (fastlr.NovoGrad, "optax", "decoupled", {"beta1": 0.9, "beta2": 0.25, "eps": 1e-6}),
    (fastlr.Lion, "keras", "decoupled", {"lr": 1e-3}),
]


@pytest.mark.parametrize(("cls", "convention", "decay", "expected"), DEFAULTS)
def test_defaults_are_theirs(cls, convention, decay, expected):
    opt = cls(np.zeros(3), convention=convention)
    assert {name: getattr(opt, name) for name in expected} == expected
    assert opt._decay == decay
    assert repr(opt).startswith(f"{cls.__name__}(convention='{convention}'; 1 tensor")
    opt.add_group(np.ones(2))
    assert {name: getattr(opt, name) for name in expected} == expected


def test_what_is_given_stands_above_a_conventions_defaults():
    p = np.zeros(3)
    opt = fastlr.Adam([{"params": p, "eps": 0.5}, {"params": np.zeros(2)}], lr=0.1, weight_decay=0.2, decay="coupled",
                      convention="keras")
    assert (opt.lr, opt.weight_decay, opt._decay) == (0.1, 0.2, "coupled")
    assert [group.eps for group in opt.groups] == [0.5, 1e-7]
    assert repr(opt).startswith("Adam(lr=0.1 in groups[0], weight_decay=0.2 in groups[0], eps=0.5 in groups[0]") \
        or "eps=0.5 in groups[0]" in repr(opt)
    assert fastlr.AdaGrad(p, convention="optax", initial_accumulator_value=0.0).state["0"]["s"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("cls", "convention", "slot", "value"), [
    (fastlr.AdaGrad, "optax", "s", 0.1), (fastlr.AdaGrad, "keras", "s", 0.1), (fastlr.AdaGrad, "torch", "s", 0.0),
    (fastlr.RMSprop, "timm", "v", 1.0), (fastlr.RMSpropCenteredMomentum, "timm", "v", 1.0),
    (fastlr.RMSprop, "keras", "v", 0.0),
])
def test_slots_begin_as_theirs(cls, convention, slot, value):
    assert cls(np.zeros(3), convention=convention).state["0"][slot].tolist() == [value] * 3


def test_a_conventions_defaults_are_checked_when_it_is_declared():
    from fastlr.optimizers.declaration import Convention

    for wrong, error in (({"lr": -1.0}, ValueError), ({"epsilon": 1.0}, TypeError)):
        with pytest.raises(error):
            type("Wrong", (fastlr.SGD,), {}, rule="SGD", conventions={"a": "SGD", "b": Convention("SGD", **wrong)})
        assert "wrong" not in REGISTRY


# What holds of any rule

@every_different_separate
def test_threads_and_cuts_do_not_matter(cls, convention):
    sizes = [1, 65, 257, CHUNK + 1, 2 * CHUNK + 5]
    want = run(cls, arrays(np.float32, sizes), convention=convention)
    for threads in (2, 3):
        assert run(cls, arrays(np.float32, sizes), threads=threads, convention=convention) == want


@every_different
def test_the_layout_does_not_matter(cls, convention):
    shape, results = (40, 9), []
    for p in (np.zeros(shape), np.zeros((9, 40)).T, np.zeros((81, 28))[1::2, 1::3]):
        p[...] = arrays(np.float64, [shape])[0]
        opt = cls([p], convention=convention)
        for t in range(3):
            opt.step(arrays(np.float64, [shape], seed=t + 1))
        results.append(bits([p, *opt.state["0"].values()]))
    if cls.reduces:                    # (sums are made in the order of elements in memory)
        results = [np.frombuffer(result[0]).round(9).tolist() for result in results]
    assert results[0] == results[1] == results[2]


@every_different_unplaced
def test_rows_move_as_in_a_step_and_others_stay(cls, convention):
    p, = arrays(np.float32, [(30, 8)])
    q, before = p.copy(), p.copy()
    g, = arrays(np.float32, [(30, 8)], seed=1)
    whole, rows = cls([p], convention=convention), cls([q], convention=convention)
    for seed in (1, 2, 3):
        g, = arrays(np.float32, [(30, 8)], seed=seed)
        whole.step([g])
        rows.step_rows("0", np.arange(5, 20), g[5:20])
    assert bits([q[5:20]]) == bits([p[5:20]])
    assert bits([np.delete(q, range(5, 20), 0)]) == bits([np.delete(before, range(5, 20), 0)])
    for slot in cls.slots:
        assert bits([rows.state["0"][slot][5:20]]) == bits([whole.state["0"][slot][5:20]])


@every_different_separate
@pytest.mark.parametrize("stored", ["bfloat16", "float16", "int8"])
def test_states_of_few_bits_do_not_change_which_rule_runs(cls, convention, stored):
    start, = arrays(np.float32, [4096])
    p, q = start.copy(), start.copy()
    opt, other = cls([p], convention=convention, state_dtype=stored), cls([q], convention=convention)
    for t in range(3):                 # (two and more: Rprop of optax waits for one, ADOPT too)
        g = 100 * arrays(np.float32, [4096], seed=t)[0]         # (whose squares float16 can hold)
        opt.step([g])
        other.step([g])
    moved, apart = abs(q - start), abs(p - q)
    assert apart.sum() <= (0.25 if stored == "int8" else 0.02) * moved.sum()


@every_different
def test_parameters_of_16_bits_with_a_split_master_train_as_float32(cls, convention):
    halves = arrays(np.float32, [500])[0].astype(ml_dtypes.bfloat16)
    whole = halves.astype(np.float32)
    opt = cls([halves], convention=convention, master="split")
    plain = cls([whole], convention=convention)
    for t in range(4):
        g = arrays(np.float32, [500], seed=t)
        opt.step(g)
        plain.step(g)
    assert bits([opt.master["0"]]) == bits([whole])


@every_convention
def test_a_run_resumes_by_its_convention_and_no_other(cls, convention, tmp_path):
    hyper = {"lr": 0.03}

    def fresh(whose=convention):
        return cls({"w": arrays(np.float64, [(5, 4)])[0]}, convention=whose, **hyper)

    def steps(opt, seeds):
        for seed in seeds:
            opt.step({"w": arrays(np.float64, [(5, 4)], seed=seed)[0]})

    once, first, second = fresh(), fresh(), fresh()
    steps(once, range(6))
    steps(first, range(3))
    assert first.state_dict()["convention"] == convention
    fastlr.save(tmp_path / "run", first)
    fastlr.load(tmp_path / "run", second)
    second._plan.tensors[0].array[...] = first._plan.tensors[0].array
    steps(second, range(3, 6))
    assert bits([second._plan.tensors[0].array]) == bits([once._plan.tensors[0].array])
    own = next(iter(cls.conventions))
    for into, state in ((fresh(None), first.state_dict()), (fresh(), fresh(None).state_dict())):
        before = snapshot(into, [into._plan.tensors[0].array])
        with pytest.raises(ValueError, match=f"expected convention '({own}|{convention})'"):
            into.load_state_dict(state)
        assert snapshot(into, [into._plan.tensors[0].array]) == before


@pytest.mark.parametrize(("cls", "given", "message"), [
    (fastlr.Adam, "kreas", r"^Adam: convention must be 'torch', 'optax', 'keras', got 'kreas'; did you mean 'keras'\?$"),
    (fastlr.Rprop, "keras", r"^Rprop: convention must be 'torch', 'optax', got 'keras'$"),
    (fastlr.QHM, "torch", r"^QHM: convention must be nothing, as peers do not differ in this rule, got 'torch'$"),
])
def test_unknown_conventions_are_refused(cls, given, message):
    with pytest.raises(ValueError, match=message):
        cls(np.zeros(3), convention=given)


def test_accumulation_is_refused_where_a_velocity_holds_the_rate():
    p = np.ones(3)
    opt = fastlr.Momentum(p, convention="keras")
    before = snapshot(opt, [p])
    with pytest.raises(TypeError, match=r"^Momentum: accumulate needs a rule that sees gradients through its moments"):
        opt.accumulate(np.ones(3))
    assert snapshot(opt, [p]) == before
    for cls, convention in ((fastlr.AMSGrad, "optax"), (fastlr.Adam, "keras")):
        opt = cls(np.ones(3), convention=convention)
        opt.accumulate(np.ones(3))
        opt.step(np.ones(3))
        assert opt.state["0"]["m"] == pytest.approx(0.2)


def test_the_catalogue_has_a_row_for_each_convention():
    from fastlr.optimizers import catalogue

    rows = [line for line in catalogue.catalogue().splitlines() if line.startswith("| `") and "convention=" in line]
    assert len(rows) == sum(len(cls.conventions) - 1 for cls in REGISTRY.values() if cls.conventions)
    assert '| `Adam(convention="keras")` | formula | eps 1e-07 | decoupled |' in rows


# What is known of peers, one by one

def test_a_velocity_of_keras_keeps_the_rate_of_its_time():
    p, q = np.zeros(1), np.zeros(1)
    torch, keras = (fastlr.Momentum(x, lr=1.0, momentum=0.5, convention=whose)
                    for x, whose in ((p, "torch"), (q, "keras")))
    for opt in (torch, keras):
        opt.step(np.ones(1))
        opt.lr = 0.0
        opt.step(np.ones(1))
    assert (p, q) == (-1, -1.5)


def test_adam_of_keras_feels_epsilon_most_at_the_first_step():
    p = np.zeros(1)
    fastlr.Adam(p, lr=1.0, eps=1.0, convention="keras").step(np.ones(1))
    assert p[0] == pytest.approx(-1 / (1 + 1 / np.sqrt(1e-3)), rel=1e-12)
    p = np.zeros(1)
    fastlr.Adam(p, lr=1.0, eps=1.0).step(np.ones(1))
    assert p[0] == pytest.approx(-1 / 2, rel=1e-12)


def test_bfloat16_parameters_move_by_keras_adam_which_keras_own_do_not():
    # (it casts beta2 to bfloat16, where 0.999 is 1, and so sqrt(1 - beta2**t) is 0)
    p = np.ones(8, ml_dtypes.bfloat16)
    opt = fastlr.Adam([p], lr=0.1, convention="keras")
    for _ in range(3):
        opt.step([np.ones(8, np.float32)])
    assert abs(p.astype(np.float32) - 0.7).max() < 0.01


def test_rprop_moves_at_once_and_only_by_optaxs_convention_late():
    trails = {}
    for whose in ("torch", "optax"):
        p = np.zeros(1)
        opt = fastlr.Rprop(p, lr=0.1, convention=whose)
        trails[whose] = []
        for g in (1.0, 1.0, 1.0, -1.0, -1.0, -1.0):
            opt.step(np.array([g]))
            trails[whose].append(round(float(p[0]), 6))
    assert trails["torch"][:3] == [-0.1, -0.22, -0.364]
    assert trails["optax"][:3] == [0.0, -0.1, -0.22]
    # (the step that waits when the sign turns is lost)
    assert trails["optax"][3:] == [-0.22, -0.22, -0.148]


def test_lamb_steps_as_far_as_its_rate_and_ten_times_by_pytorch_optimizers_convention():
    lengths = {}
    for whose in ("paper", "pytorch-optimizer"):
        p = np.array([3.0, 4.0])
        fastlr.LAMB(p, lr=0.01, eps=0.0, convention=whose).step(np.array([1.0, -2.0]))
        lengths[whose] = np.hypot(*(p - [3, 4])) / 5
    assert lengths["paper"] == pytest.approx(0.01, rel=1e-12)
    assert lengths["pytorch-optimizer"] == pytest.approx(0.1, rel=1e-12)


def test_adopt_clips_its_first_step_at_1_and_wider_by_pytorch_optimizers_convention():
    for whose, first in (("optax", 1.0), ("timm", 1.0), ("pytorch-optimizer", 2**0.25)):
        p = np.zeros(1)
        opt = fastlr.ADOPT(p, lr=1.0, beta1=0.0, convention=whose)
        opt.step(np.ones(1))
        opt.step(np.full(1, 100.0))
        assert -p[0] == pytest.approx(first, rel=1e-12)


def test_adagrad_without_epsilon_leaves_what_has_had_no_gradient():
    p = np.array([1.0, 2.0])
    opt = fastlr.AdaGrad(p, lr=1.0, eps=0.0, initial_accumulator_value=0.0, convention="optax")
    opt.step(np.array([0.0, 3.0]))
    assert p.tolist() == [1, 1]
