"""The face: parameters, groups, gradients, hyper-parameters that change, and what is said when something is wrong."""
import inspect
import re

import numpy as np
import pytest
from registry import (
    BEGINS,
    OPTIMIZERS,
    arrays,
    bits,
    every_decay,
    every_dtype,
    every_optimizer,
    every_separate,
    every_unplaced,
    full,
    other_value,
    snapshot,
)

import fastlr
from fastlr import schedules
from fastlr.optimizers.base import REGISTRY


def stepped(params, grads, cls=fastlr.AdamW, steps=2, **keywords):
    opt = cls(params, **keywords)
    for _ in range(steps):
        opt.step(grads)
    return opt


# Structures

def test_an_array_a_sequence_a_mapping_and_groups_step_alike():
    a, b, ga, gb = arrays(np.float32, [(3, 4), (5,)] * 2)
    want = [a.copy(), b.copy()]
    stepped(want, [ga, gb])
    for params, grads, moved in (
        ((x := [a.copy(), b.copy()]), (ga, gb), x),
        ({"w": (x := [a.copy(), b.copy()])[0], "b": x[1]}, {"b": gb, "w": ga}, x),
        ([{"params": (x := [a.copy(), b.copy()])[:1]}, {"params": x[1:]}], [[ga], [gb]], x),
        ([{"params": (x := [a.copy(), b.copy()])[0]}, {"params": {"b": x[1]}}], [ga, {"b": gb}], x),
        ([{"params": (x := [a.copy(), b.copy()])}], [{"params": [ga, gb]}], x),
    ):
        stepped(params, grads)
        assert bits(moved) == bits(want)
    moved = [a.copy(), b.copy()]
    opt = fastlr.AdamW(iter(moved))
    for _ in range(2):
        opt.step(iter([ga, gb]))
    assert bits(moved) == bits(want)
    alone = a.copy()
    stepped(alone, ga)
    assert bits([alone]) == bits(want[:1])


def test_groups_are_several_optimizers():
    a, b, ga, gb = arrays(np.float64, [(3,), (4,)] * 2)
    one, two = a.copy(), b.copy()
    stepped([one], [ga], lr=0.1, beta1=0.5)
    stepped([two], [gb], lr=0.2, weight_decay=0.3)
    opt = stepped([{"params": [a], "lr": 0.1, "beta1": 0.5}, {"params": [b], "weight_decay": 0.3}],
                  [[ga], [gb]], lr=0.2)
    assert bits([a, b]) == bits([one, two])
    assert [group.lr for group in opt.groups] == [0.1, 0.2]
    assert opt.groups[1].params == ["1"]
    with pytest.raises(ValueError, match=r"AdamW: lr differs between groups; read opt\.groups\[i\]\.lr"):
        _ = opt.lr
    opt.lr = 0.5
    assert opt.lr == opt.groups[0].lr == opt.groups[1].lr == 0.5


def test_names_and_state_are_where_they_are_said_to_be():
    opt = fastlr.AdamW({"fc.weight": np.zeros((2, 3), np.float32), "fc.bias": np.zeros(3)})
    assert list(opt.state) == ["fc.weight", "fc.bias"]
    assert opt.state["fc.weight"]["m"].shape == (2, 3)
    assert opt.state["fc.bias"]["v"].dtype == np.float64
    assert list(fastlr.AdamW([np.zeros(1), np.zeros(1)]).state) == ["0", "1"]


def test_state_has_the_shape_of_a_parameter_in_any_layout():
    p = np.zeros((4, 3, 2)).transpose(1, 2, 0)
    g, = arrays(np.float64, [p.shape])
    opt = fastlr.Momentum([p])
    opt.step([g])
    assert (opt.state["0"]["m"] == g).all()


@every_optimizer
@every_dtype
def test_scalars_and_empty_arrays_step(cls, dtype):
    params = [np.array(2.0, dtype), np.zeros((0, 3), dtype), np.ones(1, dtype)]
    opt = cls(params)
    for _ in range(BEGINS.get(cls.__name__, 1)):
        opt.step([np.array(1.0, dtype), np.zeros((0, 3), dtype), np.ones(1, dtype)])
    assert params[0] < 2
    assert params[2] < 1
    assert opt.t == BEGINS.get(cls.__name__, 1)


@pytest.mark.parametrize(("options", "refused"), [
    ({"lr_scale": {"a": np.linspace(0.5, 2, 20_000)}}, {"lr_max": 5.0}),
    ({"lr_scale": {"a": np.linspace(0.5, 2, 20_000)}}, {"nonsense": 1}),
    ({"decay_mask": lambda name, array: name == "a", "weight_decay": 0.5}, {"lr_max": 5.0}),
])
def test_a_refused_group_leaves_the_others_as_they_were(options, refused):
    """The plan holds addresses of what its tensors had: what a refusal replaces and frees, the next step would read."""
    g, ends = np.ones(20_000), []
    for refuse in (False, True):
        a = np.ones(20_000)
        opt = fastlr.SGD({"a": a}, lr=0.1, **options)
        before = [id(tensor.lr_scales) for tensor in opt._plan.tensors]
        if refuse:
            with pytest.raises((TypeError, ValueError)):
                opt.add_group({"b": np.ones(3)}, **refused)
            assert [id(tensor.lr_scales) for tensor in opt._plan.tensors] == before
        opt.step({"a": g})
        ends.append(a.tobytes())
    assert ends[0] == ends[1]


def test_add_group_goes_on_where_the_others_are():
    a, b, ga, gb = arrays(np.float64, [(3,), (4,)] * 2)
    one, two = a.copy(), b.copy()
    first = stepped([one], [ga], steps=3)
    first.step([ga])
    stepped([two], [gb], steps=1, lr=0.5)
    opt = stepped([a], [ga], steps=3)
    group = opt.add_group({"late": b}, lr=0.5)
    opt.step([[ga], {"late": gb}])
    assert bits([a, b]) == bits([one, two])      # the late parameter is at its own first update
    assert (opt.t, group.lr, len(opt.groups)) == (4, 0.5, 2)
    before = snapshot(opt, [a, b])
    with pytest.raises(ValueError, match="two parameters are named 'late'"):
        opt.add_group({"late": np.zeros(2)})
    with pytest.raises(ValueError, match="share memory"):
        opt.add_group({"x": b[1:]})
    assert snapshot(opt, [a, b]) == before
    opt.step([[ga], {"late": gb}])


# Gradients

def test_bound_gradients_are_read_at_each_step():
    p, g = arrays(np.float32, [(5, 5)] * 2)
    passed, bound, buffer = p.copy(), p.copy(), np.empty_like(g)
    opt = fastlr.AdamW({"w": bound}, grads={"w": buffer})
    other = fastlr.AdamW([passed])
    for k in range(3):
        buffer[...] = g * k
        opt.step()
        other.step([g * k])
    assert bits([bound]) == bits([passed])
    opt.step({"w": g})                           # passed for once, and the bound ones stay bound
    other.step([g])
    opt.step()
    other.step([g * 2])
    assert bits([bound]) == bits([passed])
    opt.bind({"w": g})
    opt.step()
    other.step([g])
    assert bits([bound]) == bits([passed])


def test_a_tensor_without_a_gradient_is_skipped_and_keeps_its_own_count():
    a, b, ga, gb = arrays(np.float64, [(3,), (3,)] * 2)
    alone = b.copy()
    stepped([alone], [gb], steps=3)
    opt = fastlr.AdamW([a, b])
    for k in range(6):
        before = b.copy()
        opt.step([ga, gb if k % 2 else None])
        assert k % 2 or (b == before).all()
    assert bits([b]) == bits([alone])
    assert opt.t == 6


@every_separate
def test_tensors_that_skipped_other_steps_move_as_alone(cls):
    """Each remembers its own past, also where both have had as many updates."""
    def made(params):
        vary = {name: lambda t, value=bound.default: value * (1 - t % 3 / 4)
                for name, bound in cls.hypers.items() if name in ("lr", "beta1", "momentum")}
        return cls(params, **vary)
    together, alone = ({"a": a, "b": b} for a, b in (arrays(np.float64, [(3, 4)] * 2) for _ in range(2)))
    opt, own = made(together), {name: made({name: p}) for name, p in alone.items()}
    for t in range(6):
        given = dict(zip("ab", arrays(np.float64, [(3, 4)] * 2, seed=1 + t), strict=True))
        given |= {1: {"a": None}, 3: {"b": None}}.get(t, {})
        opt.step(given)
        for name in own:
            own[name].step({name: given[name]})
    assert bits(together.values()) == bits(alone.values())
    for name, slots in opt.state.items():
        assert bits(slots.values()) == bits(own[name].state[name].values())


def test_gradients_are_only_read():
    p, g = arrays(np.float32, [(50,)] * 2)
    g.flags.writeable = False
    before = g.copy()
    stepped([p], [g], weight_decay=0.1, decay="coupled", clip_value=0.1, maximize=True)
    assert (g == before).all()
    with pytest.raises(ValueError, match=r"grads\[0\]: zero_grads needs gradients that may be written"):
        fastlr.SGD([p]).step([g], zero_grads=True)


def test_zero_grads_zeroes_gradients_of_any_layout_in_the_same_step():
    shapes = [(3,), (300, 7), (40_000,)]
    params, others, grads = arrays(np.float32, shapes), arrays(np.float32, shapes), arrays(np.float32, shapes, 1)
    grads[1] = np.asfortranarray(grads[1])
    stepped(others, [g.copy() for g in grads], steps=1)
    opt = fastlr.AdamW(params, grads=grads)
    opt.step(zero_grads=True)
    assert bits(params) == bits(others)
    assert all((g == 0).all() for g in grads)


def test_grad_scale_divides():
    p, g = arrays(np.float64, [(9,)] * 2)
    other = p.copy()
    fastlr.SGD([p], lr=0.1).step([g * 1024], grad_scale=1024.0)
    fastlr.SGD([other], lr=0.1).step([g])
    assert bits([p]) == bits([other])


def test_maximize_ascends():
    p, g = arrays(np.float64, [(9,)] * 2)
    other = p.copy()
    stepped([p], [g], maximize=True, weight_decay=0.1)
    stepped([other], [-g], weight_decay=0.1)
    assert bits([p]) == bits([other])


# Hyper-parameters

@every_optimizer
def test_every_hyper_parameter_takes_a_schedule(cls):
    for name, bound in cls.hypers.items():
        values = [bound.default, other_value(bound), bound.default]
        scheduled, by_hand, gradient = arrays(np.float64, [(4,)] * 3)
        by_hand[...] = scheduled
        opt, other = cls([scheduled], **{name: lambda t, values=values: values[t]}), cls([by_hand])
        for value in values:
            setattr(other, name, value)
            opt.step([gradient])
            other.step([gradient])
        assert bits([scheduled]) == bits([by_hand])


def test_a_compiled_schedule_gives_what_it_gives_when_called():
    schedule = schedules.cosine(0.1, steps=5).warmup(3)
    p, q, g = arrays(np.float32, [(40,)] * 3)
    q[...] = p
    opt, other = fastlr.AdamW([p], lr=schedule), fastlr.AdamW([q], lr=lambda t: schedule(t))
    for _ in range(12):
        opt.step([g])
        other.step([g])
    assert bits([p]) == bits([q])
    assert opt.lr is schedule


def test_hyper_parameters_can_be_set_between_steps():
    p, g = arrays(np.float64, [(4,)] * 2)
    other = p.copy()
    opt = fastlr.SGD([p], lr=schedules.constant(0.5))
    opt.step([g])
    opt.lr = 0.25
    opt.step([g])
    opt.groups[0].lr = schedules.constant(0.125)
    opt.step([g])
    for lr in (0.5, 0.25, 0.125):
        fastlr.SGD([other], lr=lr).step([g])
    assert bits([p]) == bits([other])


@every_separate
@every_decay
def test_decay_mask_spares_what_it_names(cls, decay):
    a, b, ga, gb = arrays(np.float64, [(3,), (3,)] * 2)
    one, two = a.copy(), b.copy()
    stepped([one], [ga], cls, weight_decay=0.1, decay=decay)
    stepped([two], [gb], cls, weight_decay=0.0, decay=decay)
    for mask in ({"a": True, "b": False}, [True, False], lambda name, array: name == "a", {"b": False}):
        x, y = a.copy(), b.copy()
        stepped({"a": x, "b": y}, {"a": ga, "b": gb}, cls, weight_decay=0.1, decay=decay, decay_mask=mask)
        assert bits([x, y]) == bits([one, two])


@every_separate
def test_lr_scale_per_tensor_is_another_learning_rate(cls):
    a, b, ga, gb = arrays(np.float64, [(3,), (3,)] * 2)
    one, two = a.copy(), b.copy()
    stepped([one], [ga], cls, lr=0.5, weight_decay=0.1)
    stepped([two], [gb], cls, lr=0.125, weight_decay=0.1)
    stepped({"a": a, "b": b}, {"a": ga, "b": gb}, cls, lr=0.5, weight_decay=0.1, lr_scale={"b": 0.25})
    assert bits([a, b]) == bits([one, two])


@pytest.mark.parametrize("cls", [cls for cls in OPTIMIZERS if cls.depends_on_param], ids=lambda cls: cls.__name__)
def test_lr_scale_per_element_is_refused_where_it_would_mean_nothing(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__}: lr_scale of '0': must be a number, as a step of this rule"):
        cls(np.ones(3), lr_scale=[np.ones(3)])


@every_unplaced
@every_dtype
@every_decay
def test_lr_scale_per_element_is_a_learning_rate_per_element(cls, dtype, decay):
    shape = (6, 5)
    p, g = arrays(dtype, [shape] * 2)
    factors = np.array([1.0, 0.5, 0.0, 2.0, 0.25])
    want = p.copy()
    for k, factor in enumerate(factors):
        column = np.ascontiguousarray(p[:, k])
        stepped([column], [g[:, k]], cls, steps=3, lr=0.5 * factor, weight_decay=0.125, decay=decay)
        want[:, k] = column
    laid = np.asfortranarray(p)
    stepped([laid], [g], cls, steps=3, lr=0.5, weight_decay=0.125, decay=decay,
            lr_scale=[np.broadcast_to(factors, shape)])
    # (powers of two scale without rounding; what is left is the order of one product and one sum)
    tolerance = 4 * np.finfo(dtype).eps * (abs(want) + abs(p) + 1)
    assert (abs(laid - want) <= tolerance).all()
    ones = p.copy()
    plain = p.copy()
    stepped([ones], [g], cls, weight_decay=0.1, decay=decay, lr_scale=[np.ones(shape)])
    stepped([plain], [g], cls, weight_decay=0.1, decay=decay)
    assert bits([ones]) == bits([plain])


def test_float32_and_float64_tensors_share_an_optimizer():
    a, = arrays(np.float32, [(5,)])
    b, = arrays(np.float64, [(5,)], 1)
    one, two = a.copy(), b.copy()
    stepped([one], [np.ones(5, np.float32)])
    stepped([two], [np.ones(5)])
    stepped([a, b], [np.ones(5, np.float32), np.ones(5)])
    assert bits([a, b]) == bits([one, two])


# The registry

def test_optimizers_are_listed_and_created_by_name():
    assert fastlr.list_optimizers() == sorted(REGISTRY)
    assert fastlr.list_optimizers("RMS*") == [name for name in sorted(REGISTRY) if name.startswith("rms")]
    for name in fastlr.list_optimizers():
        cls = type(fastlr.create_optimizer(name.upper(), np.zeros(2), lr=0.5))
        assert cls is getattr(fastlr, cls.__name__)
        assert cls.__name__.lower() == name
    assert type(fastlr.create_optimizer("LBFGS", np.zeros(2), history=3)) is fastlr.LBFGS
    for wrong, near in (("adamww", "adamw"), ("l-bfgs", "lbfgs")):
        with pytest.raises(ValueError, match=rf"create_optimizer: no optimizer '{wrong}'; did you mean '{near}'\?"):
            fastlr.create_optimizer(wrong, np.zeros(2))


@every_optimizer
def test_the_signature_is_the_declaration(cls):
    parameters = inspect.signature(cls).parameters
    assert list(parameters)[:2] == ["params", "lr"]
    for name, bound in cls.hypers.items():
        assert parameters[name].default == bound.default == getattr(cls, name)
    for name in ("grads", "clip_value", "decay", "decay_mask", "lr_scale", "maximize"):
        assert name in parameters


@every_optimizer
def test_docstrings_say_what_the_field_wants_to_know(cls):
    text = " ".join(inspect.getdoc(cls).split())
    assert ".. math::" in text
    assert ">>> " in text
    assert "As ``" in text or "optax and Keras have none" in text      # (the peers it equals, and those it does not)
    assert re.search(r"(1|2)9\d\d|20\d\d", text)                 # a source with its year
    for name, bound in cls.hypers.items():
        assert bound.low <= bound.default < bound.high, name


def test_repr_says_what_it_is():
    fastlr.set_num_threads(1)
    isa = fastlr.show_config(mode="dicts")["isa"]
    opt = fastlr.AdamW([np.zeros((1000, 3), np.float32)], lr=schedules.constant(0.5))
    assert repr(opt) == (f"AdamW(lr=constant(lr=0.5); 1 tensor, 3,000 elements, 24,000 bytes of state, t=0, "
                         f"1 thread, {isa})")
    assert repr(fastlr.SGD(np.zeros(2))).startswith("SGD(1 tensor, 2 elements, 0 bytes of state")
    assert repr(opt.groups[0]) == ("Group(1 params, lr=constant(lr=0.5), beta1=0.9, beta2=0.999, eps=1e-08, "
                                   "weight_decay=0.01)")


# Errors: who, what must hold, what came, the cure; and nothing has changed

@every_optimizer
def test_bounds(cls):
    for name, bound in cls.hypers.items():
        below = bound.low - 1 if bound.low > -1e300 else float("-inf")
        for wrong in (below, bound.high, float("nan")):
            says = re.escape(f"{cls.__name__}: {name} must be in [{bound.low:g}, {bound.high:g}), got {wrong}")
            with pytest.raises(ValueError, match=says):
                cls(np.zeros(3), **{name: wrong})
            opt = cls(np.zeros(3))
            with pytest.raises(ValueError, match=says):
                setattr(opt, name, wrong)
            with pytest.raises(ValueError, match=says):
                setattr(opt.groups[0], name, wrong)
            assert getattr(opt, name) == bound.default
            p = np.zeros(3)
            opt = cls(p, **{name: lambda t, wrong=wrong, right=bound.default: wrong if t else right})
            opt.step(np.ones(3))
            before = snapshot(opt, [p])
            with pytest.raises(ValueError, match=rf"{cls.__name__}: {name} must be in .*, its schedule gave .* at t = 1"):
                opt.step(np.ones(3))
            assert snapshot(opt, [p]) == before
        for wrong in ("0.1", None, True, [0.1], 1j):
            if name == "lr" and wrong is None:
                continue
            with pytest.raises(TypeError, match=f"{cls.__name__}: {name} must be a number or a schedule, got "):
                cls(np.zeros(3), **{name: wrong})


def raises_by(schedule):
    raise ZeroDivisionError("from a schedule")


GOOD = {"w": ((4, 3), np.float32), "b": ((3,), np.float32)}


@pytest.mark.parametrize(("grads", "error", "says"), [
    (lambda w, b: None, TypeError, "AdamW: step() needs gradients: pass them, or bind them with grads="),
    (lambda w, b: {"w": w}, ValueError, "AdamW: grads: no entry 'b'; None leaves a parameter out"),
    (lambda w, b: {"w": w, "b": b, "c": b}, ValueError, "AdamW: grads: unknown entry 'c'"),
    (lambda w, b: [w, b], TypeError, "AdamW: grads: expected a mapping by parameter name, got list"),
    (lambda w, b: {"w": w.astype(np.float64), "b": b}, ValueError,
     "grads['w']: expected float32 (4, 3) like the parameter, got float64 (4, 3)"),
    (lambda w, b: {"w": w, "b": b.astype(np.int32)}, ValueError,
     "grads['b']: expected float32 (3,) like the parameter, got int32 (3,)"),
    (lambda w, b: {"w": w.T, "b": b}, ValueError,
     "grads['w']: expected float32 (4, 3) like the parameter, got float32 (3, 4)"),
    (lambda w, b: {"w": w.ravel(), "b": b}, ValueError,
     "grads['w']: expected float32 (4, 3) like the parameter, got float32 (12,)"),
    (lambda w, b: {"w": w, "b": [0.0, 0.0, 0.0]}, TypeError,
     "grads['b']: expected an array (NumPy, buffer protocol or DLPack), got list"),
    (lambda w, b: {"w": w.astype(">f4"), "b": b}, ValueError,
     "grads['w']: expected float32 (4, 3) like the parameter, got >f4 (4, 3)"),
])
def test_wrong_gradients_are_refused_and_nothing_changes(grads, error, says):
    params = {name: arrays(dtype, [shape])[0] for name, (shape, dtype) in GOOD.items()}
    opt = fastlr.AdamW(params)
    good = {name: np.ones(shape, dtype) for name, (shape, dtype) in GOOD.items()}
    opt.step(good)
    before = snapshot(opt, list(params.values()))
    with pytest.raises(error, match=re.escape(says)):
        opt.step(grads(good["w"], good["b"]))
    assert snapshot(opt, list(params.values())) == before
    opt.step(good)


def test_gradients_that_overlap_parameters_or_state_are_refused():
    buffer = np.zeros(40, np.float32)
    opt = fastlr.AdamW({"a": buffer[:10], "b": buffer[20:30:2]})
    fine = {"a": np.ones(10, np.float32), "b": np.ones(5, np.float32)}
    for wrong, who in (
        ({"a": buffer[5:15]}, "'a'"), ({"a": buffer[:10]}, "'a'"), ({"a": buffer[15:25]}, "'b'"),
        ({"b": buffer[20:30:2]}, "'b'"), ({"b": buffer[8:13]}, "'a'"), ({"a": opt.state["a"]["m"]}, "'a'"),
        ({"b": opt.state["a"]["v"][::2]}, "'a'"),
    ):
        before = snapshot(opt, [buffer])
        with pytest.raises(ValueError, match=rf"shares memory with parameter {who} or its state, which the step "
                                             "writes; pass a copy"):
            opt.step(fine | wrong)
        assert snapshot(opt, [buffer]) == before
    opt.step(fine | {"a": buffer[10:20], "b": buffer[21:31:2]})      # between and beside them is fine


def test_every_gradient_count_and_group_is_checked():
    opt = fastlr.AdamW([np.zeros(2), np.zeros(2)])
    with pytest.raises(ValueError, match=r"AdamW: grads: expected 2 gradients, one per parameter \(None skips one\), got 1"):
        opt.step([np.zeros(2)])
    with pytest.raises(TypeError, match="AdamW: grads: expected a sequence with one gradient per parameter, got dict"):
        opt.step({"0": np.zeros(2)})
    with pytest.raises(TypeError, match="got int"):
        opt.step(3)
    grouped = fastlr.AdamW([{"params": [np.zeros(2)]}, {"params": {"b": np.zeros(2)}}])
    with pytest.raises(ValueError, match="grads: expected a sequence with one entry for each of the 2 groups"):
        grouped.step([[np.zeros(2)]])
    with pytest.raises(ValueError, match=re.escape("grads[1]['b']: expected float64 (2,) like the parameter, got float64 (3,)")):
        grouped.step([[np.zeros(2)], {"b": np.zeros(3)}])
    with pytest.raises(ValueError, match=re.escape("grads[0][0]: expected float64 (2,)")):
        grouped.step([[np.zeros(3)], {"b": np.zeros(2)}])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_grad_scale_that_is_no_scale_is_refused(scale):
    p = np.ones(3)
    opt = fastlr.SGD(p)
    with pytest.raises(ValueError, match=rf"SGD: grad_scale must be positive and finite, got {scale}"):
        opt.step(np.ones(3), grad_scale=scale)
    assert (p == 1).all()


@pytest.mark.parametrize("how", ["step", "step_rows", "accumulate"])
@pytest.mark.parametrize(("dtype", "scale", "error", "says"), [
    (np.float32, 1e-39, ValueError, "must be in [2.94e-39, 8.51e+37], where its inverse is a normal number, got 1e-39"),
    (np.float32, 2.0**127, ValueError, "must be in [2.94e-39, 8.51e+37], where its inverse is a normal number, got 1.7"),
    (np.float64, 1e-320, ValueError, "must be in [5.56e-309, 4.49e+307], where its inverse is a normal number, got 1e-320"),
    (np.float64, -1.0, ValueError, "must be positive and finite, got -1.0"),
    (np.float64, "2", TypeError, "must be a number, got '2'"),
    (np.float64, None, TypeError, "must be a number, got None"),
    (np.float64, True, TypeError, "must be a number, got True"),
])
def test_a_scale_without_an_inverse_is_refused(how, dtype, scale, error, says):
    p, g = arrays(dtype, [(3, 2)] * 2)
    opt = fastlr.Momentum({"w": p})
    before = snapshot(opt, [p])
    arguments = ("w", [0, 1, 2], g) if how == "step_rows" else ({"w": g},)
    with pytest.raises(error, match=re.escape(f"Momentum: grad_scale {says}")):
        getattr(opt, how)(*arguments, grad_scale=scale)
    assert snapshot(opt, [p]) == before
    getattr(opt, how)(*arguments, grad_scale=2.0**126 if dtype == np.float32 else 1e300)


def test_a_storage_may_be_named_by_its_type():
    for dtype, stored in ((np.float16, "float16"), (np.dtype("float64"), "float64"), (np.float32, "float32")):
        assert fastlr.Adam(np.zeros(3, np.float32), state_dtype=dtype).state["0"]["m"].dtype == stored
    with pytest.raises(ValueError, match="Adam: state_dtype must be one of float32, .* or int8, got 'int64'"):
        fastlr.Adam(np.zeros(3, np.float32), state_dtype=int)
    with pytest.raises(ValueError, match="SM3: state_dtype must be 'float32' or 'float64', .*, got 'float16'"):
        fastlr.SM3(np.zeros(3, np.float32), state_dtype=np.float16)



READ_ONLY = np.zeros(3)
READ_ONLY.flags.writeable = False
SHARED = np.zeros(6)


@pytest.mark.parametrize(("params", "error", "says"), [
    (lambda: READ_ONLY, ValueError, "AdamW: params[0]: must be writable, got a read-only array"),
    (lambda: b"12345678", TypeError, "AdamW: params[0]: expected float32, float64, float16 or bfloat16, got uint8"),
    (lambda: [np.zeros(3, np.int64)], TypeError, "AdamW: params[0]: expected float32, float64, float16 or bfloat16, got int64"),
    (lambda: {"w": np.zeros(3, complex)}, TypeError, "AdamW: params['w']: expected float32, float64, float16 or bfloat16, got complex128"),
    (lambda: [np.zeros(3, ">f4")], TypeError, "AdamW: params[0]: expected float32, float64, float16 or bfloat16, got >f4"),
    (lambda: [np.broadcast_to(np.zeros(3), (2, 3))], ValueError, "AdamW: params[0]: "),
    (lambda: [np.lib.stride_tricks.as_strided(np.zeros(6), (4, 3), (8, 8))], ValueError,
     "AdamW: params[0]: elements overlap in memory (shape (4, 3), strides (8, 8)); let your model use a copy of it"),
    (lambda: [SHARED[:4], SHARED[3:]], ValueError, "AdamW: parameter '0' and parameter '1' share memory; pass each once"),
    (lambda: {"a": SHARED, "b": SHARED}, ValueError, "AdamW: parameter 'a' and parameter 'b' share memory; pass each once"),
    (lambda: [3.0], TypeError, "AdamW: params[0]: expected an array (NumPy, buffer protocol or DLPack), got float"),
    (lambda: 3.0, TypeError, "params: expected an array, a sequence or a mapping of arrays, or groups, got float"),
    (lambda: bytearray(8), TypeError,
     "expected float32, float64, float16 or bfloat16, got uint8; cast its memoryview, e.g. memoryview(buffer).cast('f')"),
    (lambda: [{"params": [np.zeros(2)], "lrr": 1}], TypeError, "AdamW: unknown keyword 'lrr'; did you mean 'lr'?"),
    (lambda: [{"params": {"a": np.zeros(2)}}, {"params": {"a": np.zeros(2)}}], ValueError,
     "AdamW: two parameters are named 'a'"),
])
def test_wrong_parameters_are_refused(params, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.AdamW(params())


def test_interleaved_parameters_do_not_share_memory():
    buffer = np.zeros(10)
    fastlr.SGD([buffer[::2], buffer[1::2]], lr=1.0).step([np.ones(5), np.full(5, 2.0)])
    assert (buffer == [-1, -2] * 5).all()


@pytest.mark.parametrize(("owner", "switch", "other"), [
    ("SGD", "momentum", "Momentum"), ("SGD", "nesterov", "Nesterov"), ("Momentum", "nesterov", "Nesterov"),
    ("Adam", "amsgrad", "AMSGrad"), ("RMSprop", "centered", "RMSpropCentered"), ("RMSprop", "momentum", "RMSpropMomentum")])
def test_a_switch_of_torch_names_the_class_that_it_is_here(owner, switch, other):
    with pytest.raises(TypeError, match=f"{owner}: unknown keyword '{switch}'; use fastlr.{other} "):
        getattr(fastlr, owner)([np.ones(3)], **{switch: 0.9})
    assert other.lower() in fastlr.list_optimizers()


@pytest.mark.parametrize(("keywords", "error", "says"), [
    ({"betas": (0.9, 0.99)}, TypeError, "AdamW: unknown keyword 'betas'; did you mean 'beta1'?"),
    ({"nonsense": 1}, TypeError, "(hyper-parameters: lr, beta1, beta2, eps, weight_decay)"),
    ({"decay": "l2"}, ValueError, "AdamW: decay must be 'coupled', 'decoupled', 'independent' or 'corrected', got 'l2'"),
    ({"clip_value": 0.0}, ValueError, "AdamW: clip_value must be positive and finite, got 0.0"),
    ({"lr_scale": {"x": 2.0}}, ValueError, "AdamW: lr_scale names no parameter: 'x'"),
    ({"lr_scale": [1.0, 2.0]}, ValueError, "AdamW: lr_scale: expected 1 entries, one per parameter, got 2"),
    ({"lr_scale": {"w": -1.0}}, ValueError, "AdamW: lr_scale of 'w' must be finite and >= 0"),
    ({"lr_scale": {"w": np.ones(4)}}, ValueError,
     "AdamW: lr_scale of 'w': expected a number or shape (3,), got shape (4,)"),
    ({"decay_mask": {"x": True}}, ValueError, "AdamW: decay_mask names no parameter: 'x'"),
    ({"grads": {"w": np.zeros(4)}}, ValueError, "grads['w']: expected float64 (3,) like the parameter"),
])
def test_wrong_keywords_are_refused(keywords, error, says):
    with pytest.raises(error, match=re.escape(says)):
        fastlr.AdamW({"w": np.zeros(3)}, **keywords)


def test_a_schedule_that_fails_changes_nothing():
    p = np.ones(3)
    opt = fastlr.SGD(p, lr=0.5)
    opt.step(np.ones(3))
    opt.lr = lambda t: 1 / (t - 1)
    before = snapshot(opt, [p])
    with pytest.raises(ZeroDivisionError):
        opt.step(np.ones(3))
    opt.lr = lambda t: "0.1"
    with pytest.raises(TypeError, match="SGD: the schedule of lr must give a number, gave '0.1' at t = 1"):
        opt.step(np.ones(3))
    opt.lr = schedules.linear(0.5, steps=1, end="error")
    opt.step(np.ones(3))
    with pytest.raises(ValueError, match="t"):
        opt.step(np.ones(3))
    opt.lr = 0.5
    opt.step(np.ones(3))
    assert opt.t == 3
    assert before[2] == 1


def test_groups_say_what_they_lack():
    opt = fastlr.AdamW(np.zeros(2))
    group = opt.groups[0]
    with pytest.raises(AttributeError, match="AdamW: a group has no 'momentum'"):
        _ = group.momentum
    with pytest.raises(AttributeError, match=r"AdamW: a group has no 'beta3'; did you mean 'beta2'\?"):
        group.beta3 = 1
    assert dir(group) == sorted({*full(fastlr.AdamW, {}), "current", "params"})


def test_optimizers_are_not_pickled():
    import pickle
    with pytest.raises(TypeError, match="AdamW cannot be pickled, as it points into its parameters' memory"):
        pickle.dumps(fastlr.AdamW(np.zeros(2)))
