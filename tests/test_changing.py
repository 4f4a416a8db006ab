"""What changes between steps: frozen parameters, dropped groups, means in the parameters' place; and what can be read."""
import gc

import numpy as np
import pytest
import registry  # noqa: F401  (it gives steps the loss or the curvature that some rules need)
from registry import every_optimizer

import fastlr
from fastlr import schedules


def normal(seed, shapes=(("a", (4, 3)), ("b", (5,)), ("c", (6, 2)))):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes}


# Freezing

@every_optimizer
def test_a_frozen_parameter_stays_and_goes_on_as_if_it_had_been_skipped(cls):
    p, q = normal(0), normal(0)
    opt, other = cls(p), cls(q)
    opt.step(normal(1))
    other.step(normal(1))
    opt.freeze("a", "b*")
    assert opt.frozen == ("a", "b")
    for k in (2, 3):
        g = {**normal(k), "a": None, "b": None}
        opt.step(g)
        other.step(g)
    opt.unfreeze("b")
    opt.step({**normal(4), "a": None})
    other.step({**normal(4), "a": None})
    opt.unfreeze()
    opt.step(normal(5))
    other.step(normal(5))
    assert [x.tobytes() for x in p.values()] == [x.tobytes() for x in q.values()] and opt.frozen == ()


def test_a_gradient_for_a_frozen_parameter_is_refused_and_nothing_changes():
    p = normal(0)
    opt = fastlr.Adam(p)
    opt.freeze("a")
    before = {name: x.tobytes() for name, x in p.items()}
    for call in (lambda: opt.step(normal(1)), lambda: opt.accumulate(normal(1)),
                 lambda: fastlr.Lookahead(opt).step(normal(1)),
                 lambda: fastlr.GradientAccumulation(opt).add(normal(1)),
                 lambda: opt.step_rows("a", [0], np.ones((1, 3)))):
        with pytest.raises(ValueError, match=r"the parameter 'a' is frozen.*unfreeze\('a'\)"):
            call()
    listed = fastlr.SGD([np.zeros(2), np.zeros(2)])
    listed.freeze("1")
    with pytest.raises(ValueError, match="SGD: grads: the parameter '1' is frozen"):
        listed.step([np.ones(2), np.ones(2)])
    listed.step([np.ones(2), None])
    assert {name: x.tobytes() for name, x in p.items()} == before and opt.t == 0


def test_bound_gradients_of_frozen_parameters_are_not_read():
    p, g = normal(0), normal(1)
    opt = fastlr.SGD(p, lr=1.0, grads=g)
    opt.freeze("a")
    a, b = p["a"].copy(), p["b"].copy()
    opt.step()
    assert (p["a"] == a).all() and (p["b"] == b - g["b"]).all()
    opt.clip_norm = 1e9                        # (another plan)
    opt.step()
    opt.bind(g)
    opt.step()
    assert (p["a"] == a).all()
    opt.unfreeze("a")
    opt.step()
    assert (p["a"] == a - g["a"]).all()


def test_groups_patterns_and_what_is_refused():
    opt = fastlr.SGD([{"params": {"x/1": np.zeros(1), "x/2": np.zeros(1)}}, {"params": {"y": np.zeros(1)}}])
    opt.freeze(opt.groups[0])
    assert opt.frozen == ("x/1", "x/2")
    opt.add_group({"z": np.zeros(1)})
    with pytest.raises(ValueError, match="the parameter 'x/1' is frozen"):
        opt.step([{"x/1": np.ones(1), "x/2": None}, {"y": None}, {"z": None}])
    for what, error, reason in (("x1", ValueError, "freeze: 'x1' matches no parameter; did you mean 'x/1'"),
                                (3, TypeError, "expected names, patterns or groups, got int"),
                                (fastlr.SGD(np.zeros(1)).groups[0], ValueError, "this group is of another optimizer")):
        with pytest.raises(error, match=reason):
            opt.freeze(what)
    assert opt.frozen == ("x/1", "x/2")


def test_what_is_frozen_is_saved_and_loaded(tmp_path):
    opt, other = fastlr.Adam(normal(0)), fastlr.Adam(normal(1), grads=normal(2))
    opt.freeze("b")
    fastlr.save(tmp_path / "run", opt)
    fastlr.load(tmp_path / "run", other)
    assert other.frozen == ("b",)
    b = other.params["b"].copy()
    other.step()
    assert (other.params["b"] == b).all() and other.t == 1
    opt.unfreeze()
    other.load_state_dict(opt.state_dict())
    other.step()
    assert other.frozen == () and (other.params["b"] != b).any()
    with pytest.raises(ValueError, match="frozen must list names of parameters"):
        other.load_state_dict(opt.state_dict() | {"frozen": ["x"]})


def test_a_partition_freezes_in_its_parts():
    opt = fastlr.Partition(normal(0), {"a": fastlr.AdamW}, rest=fastlr.SGD)
    opt.freeze("[ab]")
    assert opt.frozen == ("a", "b")
    with pytest.raises(ValueError, match="the parameter 'b' is frozen"):
        opt.step(normal(1) | {"a": None})
    opt.unfreeze("a")
    opt.step(normal(1) | {"b": None})
    with pytest.raises(ValueError, match="freeze: 'x' matches no parameter"):
        opt.freeze("x")


# Dropping

def grouped(seed):
    p = normal(seed)
    return p, [{"params": {"a": p["a"]}, "lr": 0.1}, {"params": {"b": p["b"]}, "lr": 0.2}, {"params": {"c": p["c"]}, "lr": 0.3}]


@every_optimizer
@pytest.mark.parametrize("index", [0, 1, -1])
def test_the_groups_that_stay_go_on_as_if_nothing_was(cls, index):
    if cls.shared:
        return                                 # (whose tensors know of each other)
    (p, groups), (q, others) = grouped(0), grouped(0)
    options = {"lr_scale": {"a": 0.5, "c": 2.0}, "decay_mask": {"b": False}}
    opt, other = cls(groups, **options), cls(others, **options)
    for k in range(3):
        g = [{name: None if k == 1 and name != "b" else x} for name, x in normal(10 + k).items()]
        opt.step(g)
        other.step(g)
    kept = [name for name in "abc" if name != "abc"[index]]
    opt.drop_group(index)
    assert list(opt.state) == kept and [group.params for group in opt.groups] == [[name] for name in kept]
    for k in range(2):
        g = normal(20 + k)
        opt.step([{name: g[name]} for name in kept])
        other.step([{name: g[name]} for name in "abc"])
    assert [p[name].tobytes() for name in kept] == [q[name].tobytes() for name in kept]
    assert [group.lr for group in opt.groups] == [group.lr for group in other.groups if group.params[0] in kept]
    opt.groups[1].lr = 0.7
    opt.add_group({"d": np.zeros(3)})
    opt.step([*({name: g[name]} for name in kept), {"d": np.ones(3)}])


def test_the_memory_of_a_dropped_group_is_freed():
    tracemalloc = pytest.importorskip("tracemalloc")
    big = np.zeros(2_000_000)
    opt = fastlr.Adam([{"params": {"a": np.zeros(10)}}, {"params": {"big": big}}])
    gc.collect()
    tracemalloc.start()
    opt2 = fastlr.Adam([{"params": {"a": np.zeros(10)}}, {"params": {"big": big}}])
    held = tracemalloc.get_traced_memory()[0]
    opt2.drop_group(1)
    gc.collect()
    freed = held - tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert freed > 0.95 * 2 * big.nbytes
    assert opt.t == opt2.t


def test_bound_gradients_frozen_names_watched_containers_and_wrappers_follow():
    p, groups = grouped(0)
    g = [{name: x} for name, x in normal(1).items()]
    opt = fastlr.Momentum(groups, grads=g)
    opt.freeze("a", "c")
    outer = fastlr.Lookahead(opt, k=2)
    group = opt.groups[0]
    outer.drop_group(group)
    assert set(outer.slow) == {"b", "c"} and opt.frozen == ("c",)
    b, c = p["b"].copy(), p["c"].copy()
    outer.step()
    assert (p["b"] != b).any() and (p["c"] == c).all()
    groups[0]["params"]["a"] = np.zeros((4, 3))        # (nobody watches it any more)
    outer.step()
    groups[1]["params"]["b"] = np.zeros(5)
    with pytest.raises(RuntimeError, match=r"params\['b'\] was replaced"):
        outer.step()
    with pytest.raises(RuntimeError, match="Momentum: this group was dropped"):
        group.lr = 0.5
    with pytest.raises(RuntimeError, match="make a new EMA"):
        ema = fastlr.EMA(fastlr.SGD(grouped(0)[1]))
        ema._opt.drop_group(0)
        ema.update()


@pytest.mark.parametrize("through", ["wrapper", "optimizer"])
@pytest.mark.parametrize("new", [("c", (4, 3), np.float32), ("b", (60, 50), np.float32), ("b", (4, 3), np.float64)])
@pytest.mark.parametrize("wrap", [fastlr.Lookahead, fastlr.GradientAccumulation, fastlr.GradientCentralization, fastlr.SAM])
def test_wrappers_keep_nothing_of_what_was_dropped(wrap, new, through):
    """A group that joins after another was dropped is treated as in a new wrapper, also under the old name."""
    name, shape, dtype = new

    def step(opt, *grads):
        if wrap is fastlr.SAM:
            opt.ascend(list(grads))
        if wrap is fastlr.GradientAccumulation:
            opt.add(list(grads))
        opt.step(*(() if wrap is fastlr.GradientAccumulation else (list(grads),)))

    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(4, 3)).astype(np.float32) for _ in "ab")
    first, given, other = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype), None
    options = {"k": 1} if wrap is fastlr.Lookahead else {}
    inner = fastlr.SGD([{"params": {"a": a}}, {"params": {"b": b}}], lr=0.5)
    opt = wrap(inner, **options)
    step(opt, {"a": None}, {"b": b.copy()})
    if wrap is fastlr.GradientAccumulation:
        opt.add([{"a": None}, {"b": b.copy()}])
    p, other = first.copy(), first.copy()
    changed = opt if through == "wrapper" else inner
    changed.drop_group(1)
    changed.add_group({name: p})
    if wrap is fastlr.GradientAccumulation:
        assert opt.state_dict()["given"] == []         # (what was added for the old one is no gradient of this)
        opt.reset()
    step(opt, {"a": None}, {name: given})
    step(wrap(fastlr.SGD([{"params": {"a": a.copy()}}, {"params": {name: other}}], lr=0.5), **options), {"a": None},
         {name: given})
    assert p.tobytes() == other.tobytes() and (p != first).any()
    assert set(opt.state_dict()["state"]) <= {"a", name}


def test_a_mean_is_not_of_groups_that_came_for_others():
    opt = fastlr.SGD([{"params": {"a": np.zeros(2)}}, {"params": {"b": np.zeros(2)}}])
    ema = fastlr.EMA(opt)
    opt.drop_group(1)
    opt.add_group({"c": np.zeros(2)})
    for call in (ema.update, ema.state_dict, lambda: ema.swapped().__enter__()):
        with pytest.raises(RuntimeError, match="has other parameters than those of which this has means"):
            call()


@pytest.mark.parametrize("cls", [fastlr.Muon, fastlr.SOAP, fastlr.Shampoo, fastlr.AdamW])
def test_stages_can_be_set_after_a_group_was_refused(cls):
    p, q = (np.ones((4, 3), np.float32) for _ in "pq")
    opt, other = cls({"w": p}), cls({"w": q})
    with pytest.raises(ValueError):
        opt.add_group({"v": np.zeros((4, 3), np.float32)}, lr=-1.0)
    with pytest.raises(ValueError):
        opt.add_group({"v": np.zeros((4, 3), np.float32), "w2": p})
    opt.clip_value = other.clip_value = 0.5
    for each in (opt, other):
        each.step({"w": np.eye(4, 3, dtype=np.float32)})
    assert p.tobytes() == q.tobytes()


def test_what_cannot_be_dropped_is_refused():
    opt = fastlr.SGD(normal(0))
    for what, error, reason in ((0, ValueError, "this is the only group"), (1, ValueError, "there are 1 groups, got 1"),
                                ("a", TypeError, "expected a group or its index, got 'a'"),
                                (fastlr.SGD(np.zeros(1)).groups[0], ValueError, "of another optimizer, or was dropped")):
        with pytest.raises(error, match=reason):
            opt.drop_group(what)
    assert len(opt.state) == 3


def test_unnamed_parameters_keep_their_numbers_and_new_ones_get_others():
    opt = fastlr.SGD([{"params": [np.zeros(1), np.zeros(1)]}, {"params": [np.zeros(1)]}])
    opt.drop_group(0)
    assert list(opt.params) == ["2"]
    opt.add_group([np.zeros(1), np.zeros(1)])
    assert list(opt.params) == ["2", "3", "4"]


# Means in the parameters' place

@pytest.mark.parametrize("stored", ["float32", "float64", "float16", "bfloat16", "split"])
def test_swapped_puts_the_means_in_place_and_takes_them_out_bit_for_bit(stored):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    options = {"dtype": "bfloat16"} if stored in ("bfloat16", "split") else {}
    options |= {"master": "split"} if stored == "split" else {}
    p = (x.view(np.uint32) >> 16).astype(np.uint16) if options else x.astype(stored)
    opt = fastlr.SGD({"w": np.asfortranarray(p)}, lr=0.5, ema_decay=0.5, shadow="bfloat16", **options)
    opt.step({"w": np.ones((3, 4), np.float64 if stored == "float64" else np.float32)})
    before, shadow = opt.params["w"].tobytes(), opt.shadow["w"].tobytes()
    master = opt.master["w"].tobytes()
    with pytest.raises(KeyError), opt.swapped():
        found = opt.master["w"] if stored != "split" else None
        if found is not None:
            np.testing.assert_allclose(found, opt.ema["w"], rtol=2.0**-8 if options else 1e-3)
        assert opt.shadow["w"].tobytes() != shadow
        for call in (lambda: opt.step({"w": np.ones((3, 4), np.float32)}), opt.state_dict,
                     lambda: opt.load_state_dict({}), lambda: opt.swapped().__enter__(),
                     lambda: opt.step_rows("w", [0], np.ones((1, 4)))):
            with pytest.raises((RuntimeError, ValueError), match="the parameters hold the means|no entry"):
                call()
        raise KeyError
    assert opt.params["w"].tobytes() == before and opt.shadow["w"].tobytes() == shadow
    assert opt.master["w"].tobytes() == master
    opt.step({"w": np.ones((3, 4), np.float64 if stored == "float64" else np.float32)})
    with pytest.raises(AttributeError, match="no running mean is kept; give ema_decay"), fastlr.SGD(np.ones(1)).swapped():
        pass


@pytest.mark.parametrize("change", [
    lambda opt: opt.freeze("a"), lambda opt: opt.unfreeze(), lambda opt: opt.drop_group(0),
    lambda opt: opt.add_group({"d": np.zeros(2)}),
], ids=["freeze", "unfreeze", "drop_group", "add_group"])
def test_a_change_in_a_block_of_swapped_is_refused(change):
    """(It would let steps move the means, which are lost at the end of the block.)"""
    p = normal(0)
    opt = fastlr.SGD([{"params": {"a": p["a"]}}, {"params": {"b": p["b"]}}], ema_decay=0.5)
    g = [{"a": np.ones((4, 3))}, {"b": np.ones(5)}]
    opt.step(g)
    before = p["a"].tobytes(), p["b"].tobytes()
    with opt.swapped():
        with pytest.raises(RuntimeError, match="SGD: the parameters hold the means; leave the with block of swapped"):
            change(opt)
        with pytest.raises(RuntimeError, match="SGD: the parameters hold the means"):
            opt.step(g)
    assert (p["a"].tobytes(), p["b"].tobytes()) == before and opt.frozen == () and list(opt.state) == ["a", "b"]
    opt.step(g)
    change(opt)


def test_nothing_around_takes_the_means_for_the_parameters():
    p = np.zeros(3)
    opt = fastlr.SGD(p, lr=1.0, ema_decay=0.5)
    sam, ema = fastlr.SAM(opt), fastlr.EMA(opt)
    opt.step(np.ones(3))
    before, mean = p.copy(), ema.params["0"].copy()
    with opt.swapped():
        for call in (lambda: sam.ascend(np.ones(3)), ema.update, ema.state_dict, lambda: ema.swapped().__enter__()):
            with pytest.raises(RuntimeError, match="SGD: the parameters hold the means"):
                call()
    assert (p == before).all() and not sam.ascended and (ema.params["0"] == mean).all()
    ema.update()


@pytest.mark.parametrize("around", [lambda p, **given: fastlr.SGD(p, **given),
                                    lambda p, **given: fastlr.Partition(p, {"*": lambda q: fastlr.SGD(q, **given)})],
                         ids=["optimizer", "partition"])
def test_lookahead_leaves_parameters_within_their_constraint(around):
    rng = np.random.default_rng(0)
    p = {"w": rng.normal(size=(4, 3))}
    opt = fastlr.Lookahead(around(p, lr=0.5, constraint=fastlr.constraints.unit_norm()), k=2)
    for k in range(4):
        before = opt.slow["w"].copy()
        opt.step({"w": rng.normal(size=(4, 3))})
        np.testing.assert_allclose(np.linalg.norm(p["w"], axis=1), 1, rtol=1e-14)
        if k % 2:
            slow = opt.slow["w"]
            assert (slow != before).any()
            np.testing.assert_allclose(p["w"], slow / np.linalg.norm(slow, axis=1, keepdims=True), rtol=1e-14)


# What can be read

def test_current_is_what_the_next_step_uses():
    opt = fastlr.SGD({"w": np.zeros(1)}, lr=schedules.linear(1.0, steps=4))
    for k in range(4):
        now, before = opt.current, opt.params["w"].copy()
        assert now == {"lr": 1 - k / 4, "weight_decay": 0.0} == opt.groups[0].current
        opt.step({"w": np.ones(1)})
        assert opt.params["w"] == before - now["lr"]
    two = fastlr.SGD([{"params": [np.zeros(1)], "lr": 1}, {"params": [np.zeros(1)], "lr": 2}])
    with pytest.raises(ValueError, match=r"lr differs between groups; read opt.groups\[i\].current"):
        two.current  # noqa: B018
    assert [group.current["lr"] for group in two.groups] == [1, 2]
    assert fastlr.Lookahead(opt).current == opt.current


def test_params_are_the_arrays_that_move():
    p = normal(0)
    opt = fastlr.SGD(p)
    assert all(opt.params[name] is p[name] for name in p) and list(opt.params) == list(p)
    with pytest.raises(TypeError, match="params: what there is cannot be changed"):
        opt.params.clear()


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "int8"])
def test_decoded_states_are_numbers(stored):
    g = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    opt = fastlr.Adam(np.zeros(5000, np.float32), beta1=0.0, state_dtype=stored)
    opt.step(g)
    found = opt.state["0"].decoded()
    assert list(found) == ["m", "v"] and found["m"].dtype == np.float32
    np.testing.assert_allclose(found["m"], g, rtol=2**-8 if stored != "int8" else 2**-5, atol=2**-7 if stored == "int8" else 0)
    found["m"][:] = 7
    assert not (opt.state["0"].decoded()["m"] == 7).any()


@pytest.mark.parametrize("change", [
    lambda opt: setattr(opt, "clip_norm", 1.0),
    lambda opt: opt.place_state({"w": {"m": np.zeros(3)}}),
    lambda opt: opt.freeze("b"),
    lambda opt: opt.measure(),
    lambda opt: opt.add_group({"c": np.ones(2)}),
], ids=["stage", "place", "freeze", "measure", "add_group"])
def test_a_parameter_that_was_replaced_is_noticed_after_a_change(change):
    params = {"w": np.ones(3), "b": np.ones(2)}
    opt = fastlr.Momentum(params, grads={"w": np.ones(3), "b": np.ones(2)})
    change(opt)
    params["w"] = np.ones(3)
    with pytest.raises(RuntimeError, match=r"params\['w'\] was replaced by another array"):
        opt.step([{"w": np.ones(3), "b": None}, {"c": np.ones(2)}] if len(opt.groups) == 2 else None)
