"""Rules against their papers, one step at a time from the same state."""
import numpy as np
import pytest
import reference
from registry import (
    DTYPES,
    GIVEN,
    LOSS,
    REGISTRY,
    RULES,
    arrays,
    bits,
    every_decay,
    every_dtype,
    every_elementwise,
    every_rule,
    every_variant,
    full,
    other_value,
)

import fastlr
from fastlr.rules.signatures import SIGNATURES

SIZE = 331                             # (whole vectors of any instruction set, and eleven elements more)

# Every hyper-parameter and every operation of an expression is rounded once, half an ulp each: 4 ulp. AdaDelta's step d
# is an expression of its own that is not stored, and u takes its square, which doubles the error that it has.
# Adan squares a sum of two rounded differences, MARS one of five roundings; NAdam adds two products, whose scalars are
# rounded too, and AdEMAMix two means. LaProp averages what it has divided; RAdam's rectification is a product of six
# differences. DiffGrad takes an exponential, within 1.2 ulp. ScheduleFreeSGD's decay may cancel z, which hides its size.
TOLERANCE = {fastlr.AdaDelta: 10, fastlr.MARS: 12, fastlr.Adan: 8, fastlr.NAdam: 8, fastlr.NAdamW: 8, fastlr.LaProp: 6,
             fastlr.RAdam: 8, fastlr.RAdamW: 8, fastlr.DiffGrad: 6, fastlr.AdEMAMix: 6, fastlr.MADGRAD: 6,
             fastlr.ScheduleFreeSGD: 10}

# What it takes for a hyper-parameter to be felt: LARC's own rates only below lr, a bound of the loss only where lr does not bind,
# DAdaptLion's m only where d is not small.
TELLING = {fastlr.LARC: {"lr": 1.0}, fastlr.MoMoAdam: {"lr": 100.0}, fastlr.DAdaptLion: {"d0": 1.0},
           fastlr.PolyakSGD: {"lr": 0.03}, fastlr.MoMo: {"lr": 0.03}}
# Values of hyper-parameters that weigh within a dozen steps, where three times the default would not.
WEIGHS = {("ASGD", "t0"): 3.0, ("Rprop", "step_min"): 0.009, ("Rprop", "step_max"): 0.011,
          ("ADOPT", "eps"): 1.0, ("Sophia", "eps"): 3.0, ("AdEMAMix", "alpha_warmup"): 50.0, ("AdEMAMix", "beta3_warmup"): 50.0,
          ("ScheduleFreeSGD", "warmup_steps"): 8.0, ("ScheduleFreeAdamW", "warmup_steps"): 8.0}
# What must be set for another to weigh: how much a larger rate counts, where all are the same, and where 0 is passed.
BESIDE = {"weight_lr_power": {"warmup_steps": 8.0}, "l1": {"lr": 1.0}}
# Rules by signs, bounds and maxima, in which a hyper-parameter may leave an element as it is for a while.
COARSE = {fastlr.SignSGD, fastlr.Signum, fastlr.Tiger, fastlr.Rprop, fastlr.AdaMax, fastlr.Lion, fastlr.FTRL,
          fastlr.ADOPT, fastlr.CautiousLion, fastlr.DAdaptLion, fastlr.Sophia}
# Rates, where 0.02 is none: AdaDelta's is a factor, LARS multiplies it by 0.001.
RATES = {fastlr.AdaDelta: 1.0, fastlr.LARS: 20.0}
RATES |= {cls: 1.0 for cls in RULES if "d" in cls.shared or ("x0" in cls.slots and cls.reduces)}      # they find it
RATES[fastlr.DAdaptSGD] = 0.5         # (which has no bound that holds it back in a smooth bowl)


# Slots that are where a parameter is or was, or a gradient to subtract: their sign among the sizes is the other one.
DESCENDING = {(fastlr.Adan, "g_prev"), (fastlr.MARS, "g_prev"), (fastlr.ScheduleFreeSGD, "z"),
              (fastlr.ScheduleFreeAdamW, "z"), (fastlr.ScheduleFreeRAdam, "z")}


def allowed(cls):
    """A rule that sums takes one more scalar, of its own roundings."""
    return TOLERANCE.get(cls, 6 if cls.reduces else 4)


def condition(cls, slots):
    """By how much a difference of the stored values magnifies their errors: v - a**2 of the centered rules."""
    return slots["v"] / (slots["v"] - slots["a"] ** 2) if "a" in cls.slots else 1


def stored_by(opt, p):
    """The parameter, its slots, the numbers of the tensor, and those of all."""
    return [np.array(x, np.longdouble) for x in (p, *opt.state["0"].values(), *opt._shared)]


def follows(cls, dtype, hyper, steps=24, start=1, **keywords):
    """Step kernel and reference from the same state; the largest error of any expression, in ulps of its largest term.

    A stored value is one expression of the stored values before it, so each is compared given what the kernel
    itself stored. The same formula over magnitudes, -|p| against |g|, adds up the sizes of its terms; over zeros in
    place of what was stored before, it gives the second term alone.
    """
    p, = arrays(dtype, [SIZE])
    p *= start
    opt = cls([p], **hyper, **keywords)
    if cls in GIVEN:                   # (of both signs)
        opt.state["0"][GIVEN[cls]][...] = 100 * arrays(dtype, [SIZE], seed=99)[0]
    convention = keywords.get("convention")
    whose = cls.conventions.get(convention)
    named = whose.rule if whose else cls.__name__
    decay = keywords.get("decay") or (whose.decay if whose else None) or cls.decay_mode
    values = {name: np.longdouble(value) for name, value in full(cls, hyper, convention).items()}
    worst = 0.0
    # (what is subtracted from the gradient adds to the sizes with the other sign)
    names = [*cls.slots, *cls.memory, *cls.shared]
    added = [lambda x, sign=-1 if (cls, slot) in DESCENDING or slot == "x0" else 1: sign * abs(x) for slot in names]
    if cls.needs_loss:
        values["loss"] = np.longdouble(LOSS)
    if "lr_max" in keywords:
        values["lr_max"] = np.longdouble(keywords["lr_max"])
    for t in range(1, steps + 1):
        g, = arrays(dtype, [SIZE], seed=t)
        before = stored_by(opt, p)
        given = g.astype(np.longdouble)
        rule_decay = values["weight_decay"]
        if decay == "coupled":       # a stage before the rule, and an exact one in the element's own precision
            given = (g + dtype(rule_decay) * p).astype(np.longdouble)
            rule_decay = np.longdouble(0)
        elif decay == "independent" and cls.shared:        # likewise, as sums take what is left
            before[0], rule_decay = (dtype(1 - rule_decay) * p).astype(np.longdouble), np.longdouble(0)
        opt.step([g])
        after = stored_by(opt, p)
        exact, sizes, second = {}, {}, {}
        magnitudes, zeros = [abs(after[0]), *(size(x) for size, x in zip(added, after[1:], strict=True))], \
            [0 * x for x in before]
        for store, theta, gradient, slots, stored in (
            (exact, before[0], given, before[1:], after),
            (sizes, -abs(before[0]), abs(given), [size(x) for size, x in zip(added, before[1:], strict=True)], magnitudes),
            (second, zeros[0], abs(given), zeros[1:], magnitudes),
        ):
            def see(k, value, store=store, stored=stored):
                store[k] = value
                return stored[k]
            # (a decay that is a term of the step adds to the sizes with the other sign, too)
            share = -rule_decay if store is sizes and reference.decays_inside(named) else rule_decay
            reference.step(named, decay, theta, gradient, t, slots, values | {"weight_decay": share}, see)
        ill = condition(cls, dict(zip(names, after[1:], strict=True)))
        for k, got in enumerate(after):
            if k > len(names) - len(cls.shared):       # (sums over all elements, which may cancel)
                near = 200 * np.finfo(dtype).eps + (1e-10 if names[k - 1] == "step_size" else 0)
                assert abs(got - exact[k]) <= near * max(abs(exact[k]), abs(before[k])), names[k - 1]
                continue
            largest = np.maximum(abs(second[k]), abs(sizes[k]) - abs(second[k]))
            if k == 0:
                largest = np.maximum(largest, abs(before[0]))
            largest = np.maximum(largest, abs(exact[k]))
            ulp = np.spacing(np.maximum(largest, np.finfo(dtype).tiny).astype(dtype))
            worst = max(worst, float((abs(got - exact[k]) / ulp / ill).max()))
    return worst


@every_variant
@every_dtype
def test_follows_its_paper_within_4_ulp(cls, hyper, dtype):
    assert follows(cls, dtype, hyper, steps=12 if hyper else 24) <= allowed(cls)


@every_dtype
@pytest.mark.parametrize(("cls", "convention"), [
    (fastlr.Fromage, None), (fastlr.LARS, None), (fastlr.LARC, None), (fastlr.LAMB, None),
    *((fastlr.LAMB, name) for name in list(fastlr.LAMB.conventions)[1:])])
def test_the_trust_ratio_of_a_parameter_of_zeros_is_1(cls, convention, dtype):
    assert follows(cls, dtype, {}, steps=2, start=0, convention=convention) <= allowed(cls)


@every_rule
@every_dtype
@every_decay
def test_weight_decay_follows_its_mode_within_4_ulp(cls, dtype, decay):
    most = {"lr_max": 4 * cls.hypers["lr"].default} if decay == "corrected" else {}
    assert follows(cls, dtype, {"weight_decay": 0.25}, steps=12, decay=decay, **most) <= allowed(cls)


@every_variant
def test_every_hyper_parameter_changes_the_result(cls, hyper):
    if not hyper:
        return
    hyper = {name: WEIGHS.get((cls.__name__, name), 0.03 if name == "eps" else value) for name, value in hyper.items()}
    beside = {name: value for changed in hyper for name, value in BESIDE.get(changed, {}).items() if name in cls.hypers}
    results = []
    for given in (beside, beside | hyper):
        p, = arrays(np.float64, [50])
        opt = cls([p], **(TELLING.get(cls, {}) | given))
        for t in range(12):
            # (an estimate of the way grows where gradients agree)
            grads = arrays(np.float64, [50], seed=0 if cls is fastlr.Prodigy else t)
            opt.step(grads, **{"curvature": [np.full(50, 800.0)]} if cls is fastlr.Sophia else {})
        results.append(opt.averaged["0"] if "ax" in cls.slots else p)
    different = results[0] != results[1]
    assert different.any() if cls in COARSE else different.all()


@every_elementwise
@every_dtype
def test_an_element_does_not_know_its_position(cls, dtype):
    p, g = arrays(dtype, [67, 67])
    whole = cls([p.copy()])
    whole.step([g])
    moved = whole._plan.tensors[0].array
    for i in range(67):
        alone = p[i:i + 1].copy()
        cls([alone]).step([g[i:i + 1]])
        assert alone[0] == moved[i]


def test_every_rule_is_declared_and_every_declaration_has_a_rule_and_a_reference():
    assert set(SIGNATURES) == {rule for cls in RULES for rule in cls._rules}
    assert all(callable(getattr(reference, name)) for cls in RULES for name in (cls.__name__, *cls._rules))


@every_rule
def test_slots_are_those_of_the_rule(cls):
    p, = arrays(np.float64, [4])
    opt = cls([p], **({"t0": 0.0} if cls is fastlr.ASGD else {}))      # (whose mean begins late)
    opt.step(arrays(np.float64, [4], seed=1))
    assert list(opt.state["0"]) == [*cls.slots, *cls.memory]
    for k in range(2, 7):          # (a difference of gradients is 0 at first; a rate may begin at 0)
        opt.step([k * g for g in arrays(np.float64, [4], seed=1)])
    assert all((array != 0).all() for slot, array in opt.state["0"].items() if slot != GIVEN.get(cls))


@every_rule
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_a_zero_gradient_moves_nothing_at_the_first_step(cls, dtype):
    p, = arrays(dtype, [33])
    before = p.copy()
    own_decay = {"lambd": 0.0} if "lambd" in cls.hypers else {}
    opt = cls([p], weight_decay=0.0, **own_decay)
    opt.step([np.zeros_like(p)])
    if cls is fastlr.Fromage:           # (which shrinks a tensor by as much as a step would make it grow)
        before *= dtype(1 / np.sqrt(1 + opt.lr**2))
    assert (p == before).all()


@every_rule
def test_goes_downhill(cls):
    scales = np.logspace(-1, 0.5, 20)

    def left(rate):
        """The loss after 400 steps, as a part of the first one."""
        p = np.random.default_rng(0).normal(size=20)
        first = (scales * p**2).sum()
        opt = cls([p], lr=rate)
        for _ in range(400):
            opt.step([scales * p])
        return (scales * p**2).sum() / first

    assert any(left(rate) < 0.5 for rate in ([RATES[cls]] if cls in RATES else [0.02, 1e-3]))


def test_adagrad_starts_where_it_is_told():
    p = np.zeros(3)
    opt = fastlr.AdaGrad([p], lr=1.0, eps=0.0, initial_accumulator_value=9.0)
    opt.step([np.array([4.0, -4.0, 0.0])])
    assert (p == [-4 / 5, 4 / 5, 0]).all()
    assert (opt.state["0"]["s"] == [25, 25, 9]).all()


def test_centered_rmsprop_survives_a_constant_gradient():
    # v - a**2 tends to 0 and rounding makes it negative now and then: a NaN in torch
    p = np.zeros(64, np.float32)
    opt = fastlr.RMSpropCentered([p], lr=1e-3, alpha=0.5, eps=1e-3)
    for _ in range(200):
        opt.step([np.linspace(0.1, 7, 64, dtype=np.float32)])
    assert np.isfinite(p).all()


def test_subnormal_moments_are_flushed_and_the_host_mode_stays():
    m = np.full(8, 1e-39, np.float32)
    p = np.zeros(8, np.float32)
    opt = fastlr.Momentum([p])
    opt.state["0"]["m"][...] = m
    opt.step([np.zeros(8, np.float32)])
    assert (opt.state["0"]["m"] == 0).all()
    assert (m * np.float32(0.5) != 0).all()          # subnormals still live outside the kernel


@every_rule
def test_other_values_are_within_bounds(cls):
    for bound in cls.hypers.values():
        assert bound.low <= other_value(bound) < bound.high
        assert other_value(bound) != bound.default


RATIO_OF_NORMS = [(cls, convention) for cls in (fastlr.LAMB, fastlr.LARS, fastlr.LARC, fastlr.Fromage)
                  for convention in (cls.conventions or [None])]


@pytest.mark.parametrize(("cls", "convention"), RATIO_OF_NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_a_trust_ratio_is_1_where_a_norm_is_0(cls, convention, dtype):
    """A tensor of zeros moves as by the step itself; and where the step is zero, nothing moves and nothing is NaN."""
    g, = arrays(dtype, [33])
    p, zero = np.zeros(33, dtype), np.ones(33, dtype)
    cls([p], lr=0.25, weight_decay=0.0, convention=convention).step([g])
    if cls is fastlr.LAMB:
        beta1, beta2 = (0.9, 0.999)
        m, v = (1 - beta1) * g.astype(float), (1 - beta2) * g.astype(float) ** 2
        # (of pytorch-optimizer the ratio alone is corrected for the start, and means are not)
        step = m / (1 - beta1) / (np.sqrt(v) if convention == "pytorch-optimizer" else np.sqrt(v / (1 - beta2)))
    else:
        step = g if cls is not fastlr.Fromage else g / np.sqrt(1 + 0.25**2)
    np.testing.assert_allclose(p, -0.25 * step, rtol=2e-3 if cls is fastlr.LAMB else 1e-6)
    cls([zero], lr=0.25, weight_decay=0.0, convention=convention).step([np.zeros(33, dtype)])
    np.testing.assert_allclose(zero, 1 / np.sqrt(1 + 0.25**2) if cls is fastlr.Fromage else 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize(("cls", "convention"), [
    (cls, convention) for cls in REGISTRY.values() if "eps" in cls.hypers for convention in (cls.conventions or [None])],
    ids=lambda x: getattr(x, "__name__", str(x)))
def test_with_an_eps_of_0_what_has_no_gradient_stays_or_is_nan_as_in_torch(cls, convention, dtype):
    """0 / 0 moves nothing, in rows, elements and tensors without a gradient, and whatever stands beside it moves."""
    params = [np.ones((4, 6), dtype), np.ones(5, dtype), np.ones((3, 3), dtype)]
    assert "eps=0" in cls.__doc__ or cls.hypers["eps"].default == 0, cls.__doc__
    opt = cls(params, eps=0.0, weight_decay=0.0, convention=convention)
    half = arrays(dtype, [(4, 6), (5,)], 3)
    half[0][2:] = 0
    half[0][:, 4:] = 0
    half[1][2:] = 0
    for _ in range(8):
        opt.step([*half, np.zeros((3, 3), dtype)])
    where_torch = convention == "torch" and cls.kind == "elementwise"
    if where_torch:
        # (RAdam's first steps divide by nothing)
        assert np.isnan(params[1][2:]).all()
        assert np.isfinite(params[1][:2]).all()
        return
    for p in params:
        assert np.isfinite(p).all(), p
    if not cls.depends_on_param and cls.kind == "elementwise":
        assert (params[2] == 1).all()
        assert (params[1][2:] == 1).all()
    assert opt.groups[0].eps == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_an_eps_of_0_changes_no_other_element(dtype):
    """The number in place of it is lost in every root of a mean square that is not 0."""
    g = arrays(dtype, [4000])[0] * np.logspace(-12, 12, 4000).astype(dtype)
    found = []
    for convention in ("optax", "torch"):          # (the same formula, of which torch's takes 0 as it is)
        p = np.zeros(4000, dtype)
        fastlr.Adam([p], eps=0.0, convention=convention).step([g])
        found.append(bits([p]))
    assert found[0] == found[1]
