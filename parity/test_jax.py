"""`fastlr.jax` inside `jax.jit`: the bits of `fastlr.kernels`, in donated memory, and the numbers of optax."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")

import jax
import jax.numpy as jnp
import optax

import fastlr
import fastlr.jax
from fastlr import kernels, schedules
from fastlr.jax import handler
from fastlr.optimizers.rule_class import REGISTRY

NAMES = fastlr.jax.optimizer.names()
every_name = pytest.mark.parametrize("name", NAMES)
SHAPES = [(7, 5), (), (33,), (0,), (2, 3, 4)]


def arrays(seed, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def tree(values):
    """Arrays of JAX in a nested structure, whose leaves are in the order of the values."""
    x = [jnp.array(value) for value in values]
    return {"a": x[0], "b": [x[1], (x[2], x[3])], "c": {"d": x[4]}}


def by_kernels(name, steps, dtype=np.float32, rate=lambda t: 0.01, gradients=arrays, **hyper):
    """Parameters and state after some steps of the functional interface."""
    cls, kernel, values = REGISTRY[name.lower()], getattr(kernels, name.lower()), arrays(0, dtype)
    starts = {state.slot: state.default for state in cls.initial_states.values()}
    slots = [[np.full_like(p, starts.get(slot, 0.0)) for slot in cls.slots] for p in values]
    memories = [np.array([starts.get(one, 0.0) for one in cls.memory]) for _ in values]
    for t in range(steps):
        for p, g, own, memory in zip(values, gradients(1 + t, dtype), slots, memories, strict=True):
            kernel(p, g, *own, *([memory] if cls.memory else ()), t=t + 1, lr=rate(t), **hyper)
    return values, slots, memories


def steps_of(opt, steps, dtype=np.float32, jit=True, **hyper):
    """The same inside compiled programs."""
    params = tree(arrays(0, dtype))
    state = opt.init(params)
    step = jax.jit(opt.step, donate_argnums=(0, 2)) if jit else opt.step
    for t in range(steps):
        params, state = step(params, tree(arrays(1 + t, dtype)), state, **hyper)
    return params, state


def assert_same(opt, found, want):
    params, state = found
    values, slots, memories = want
    cls = opt._rule_class
    shown = opt.state_of(state, params)
    assert [np.asarray(p).tobytes() for p in jax.tree.leaves(params)] == [p.tobytes() for p in values]
    for k, slot in enumerate(cls.slots):
        assert [np.asarray(x).tobytes() for x in jax.tree.leaves(shown[slot])] == [own[k].tobytes() for own in slots]
    for k, name in enumerate(cls.memory):
        assert [float(x) for x, p in zip(jax.tree.leaves(shown[name]), values, strict=True) if p.size] \
            == [memory[k] for memory, p in zip(memories, values, strict=True) if p.size]


@every_name
def test_the_bits_are_those_of_the_kernels(name):
    opt = getattr(fastlr.jax, name)(0.01)
    params, state = steps_of(opt, 5)
    assert int(state.count) == 5
    assert_same(opt, (params, state), by_kernels(name, 5))


@every_name
def test_the_bits_of_float64_are_those_of_the_kernels(name):
    with jax.enable_x64(True):
        opt = getattr(fastlr.jax, name)(0.01)
        assert_same(opt, steps_of(opt, 3, np.float64), by_kernels(name, 3, np.float64))


def test_both_precisions_in_one_call():
    with jax.enable_x64(True):
        opt = fastlr.jax.NAdam(0.01)
        params = [jnp.array(arrays(0, kind)[k]) for k, kind in ((0, np.float64), (2, np.float32), (4, np.float64))]
        state = opt.init(params)
        assert [x.dtype for x in state.slots["m"]] == [np.float32, np.float64]
        for t in range(3):
            grads = [jnp.array(arrays(1 + t)[k]) for k in (0, 2, 4)]           # (of float32, for either)
            params, state = jax.jit(opt.step, donate_argnums=(0, 2))(params, grads, state)
        for k, p, kind in zip((0, 2, 4), params, (np.float64, np.float32, np.float64), strict=True):
            want = by_kernels("NAdam", 3, kind, gradients=lambda t, kind: [g.astype(kind) for g in arrays(t)])[0]
            assert np.asarray(p).tobytes() == want[k].tobytes()


def test_schedules_of_fastlr_are_evaluated_in_double_also_in_a_compiled_loop():
    rate, beta = schedules.cosine(0.1, steps=20).warmup(3), schedules.linear(0.5, steps=10, final=0.9)
    opt = fastlr.jax.AdamW(rate, beta1=beta)
    p = arrays(0)
    own = fastlr.AdamW(p, lr=rate, beta1=beta)
    for t in range(12):
        own.step(arrays(1 + t))
    params, _ = steps_of(opt, 12)
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(params)] == [x.tobytes() for x in p]

    grads = tree(arrays(1))
    want = tree(arrays(0)), opt.init(tree(arrays(0)))
    for _ in range(12):
        want = opt.step(want[0], grads, want[1])
    loop = jax.jit(lambda params, state: jax.lax.fori_loop(0, 12, lambda _, c: opt.step(c[0], grads, c[1]), (params, state)))
    found = loop(tree(arrays(0)), opt.init(tree(arrays(0))))
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(found)] == [np.asarray(x).tobytes()
                                                                         for x in jax.tree.leaves(want)]


@pytest.mark.parametrize("jit", [False, True])
def test_values_that_jax_computes(jit):
    rates = optax.linear_schedule(0.1, 0.0, 10)
    opt = fastlr.jax.SGD(rates)
    assert_same(opt, steps_of(opt, 4, jit=jit), by_kernels("SGD", 4, rate=lambda t: float(rates(jnp.int32(t)))))
    opt = fastlr.jax.Momentum(0.5)
    found = steps_of(opt, 4, jit=jit, lr=jnp.float32(0.25), momentum=jnp.float32(0.5))
    assert_same(opt, found, by_kernels("Momentum", 4, rate=lambda t: 0.25, momentum=0.5))
    assert_same(opt, steps_of(opt, 2, jit=False, lr=0.125), by_kernels("Momentum", 2, rate=lambda t: 0.125))


@pytest.mark.parametrize("shapes", [[(1000,)] * 100, [(40_000,), (3,)] * 3, [(64,)] * 700])
def test_no_bit_depends_on_threads(shapes):
    found = []
    for threads in (1, 3):
        fastlr.set_num_threads(threads)
        opt = fastlr.jax.NAdam(0.01)
        params = [jnp.array(x) for x in arrays(0, shapes=shapes)]
        state = opt.init(params)
        for t in range(3):
            params, state = jax.jit(opt.step)(params, [jnp.array(x) for x in arrays(1 + t, shapes=shapes)], state)
        found.append([np.asarray(x).tobytes() for x in jax.tree.leaves((params, state))])
    assert found[0] == found[1]
    p = arrays(0, shapes=shapes)
    own = fastlr.NAdam(p, lr=0.01)
    for t in range(3):
        own.step(arrays(1 + t, shapes=shapes))
    assert found[0][:len(p)] == [x.tobytes() for x in p]


def test_donated_memory_is_written_and_other_is_not():
    opt = fastlr.jax.AdamW(0.1)
    params = [jnp.arange(1000.0)]
    state = opt.init(params)
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    after = jax.jit(opt.step, donate_argnums=(0, 2))(params, [jnp.ones(1000)], state)
    assert sorted(x.unsafe_buffer_pointer() for x in jax.tree.leaves(after)) == sorted(before)
    params, state = after
    kept = [np.array(x) for x in jax.tree.leaves((params, state))]
    moved = jax.jit(opt.step)(params, [jnp.ones(1000)], state)
    assert all(map(np.array_equal, kept, jax.tree.leaves((params, state))))
    assert not any(map(np.array_equal, kept, jax.tree.leaves(moved)))
    same = jax.jit(opt.step)(params, params, state)        # (gradients that are the parameters)
    assert not np.array_equal(same[0][0], params[0])


PEERS = {
    "AdamW": optax.adamw(0.01, weight_decay=0.1), "Adam": optax.adam(0.01), "SGD": optax.sgd(0.01), "Lion": optax.lion(0.01),
    "Momentum": optax.sgd(0.01, momentum=0.9), "Nesterov": optax.sgd(0.01, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("name", PEERS)
def test_update_is_that_of_optax(name):
    """In float32: some units in the last place of each of ten updates of at most about 0.01 to 0.1."""
    keywords = {"weight_decay": 0.1} if name == "AdamW" else {"weight_decay": 0.001} if name == "Lion" else {}
    ours, theirs = getattr(fastlr.jax, name)(0.01, **keywords), PEERS[name]
    found = []
    for tx in (ours, theirs):
        params = tree(arrays(0))
        state = tx.init(params)

        @jax.jit
        def apply(params, grads, state, tx=tx):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for t in range(10):
            params, state = apply(params, tree(arrays(1 + t)), state)
        found.append(params)
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


def test_it_stands_in_a_chain_and_in_vmap():
    tx = optax.chain(optax.clip_by_global_norm(1.0), fastlr.jax.SGD(1.0))
    params = {"w": jnp.zeros(4)}
    updates, _ = jax.jit(tx.update)({"w": jnp.full(4, 5.0)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5, rtol=1e-6)

    opt = fastlr.jax.AdamW(0.1)
    many = jnp.stack([jnp.arange(3.0) + k for k in range(4)])
    state = jax.vmap(opt.init)(many)
    found, after = jax.jit(jax.vmap(opt.step))(many, many, state)
    for k in range(4):
        p, _ = opt.step(many[k], many[k], opt.init(many[k]))
        assert np.asarray(found[k]).tobytes() == np.asarray(p).tobytes()
    assert after.count.tolist() == [1] * 4


def test_what_is_wrong_is_refused():
    opt, params = fastlr.jax.AdamW(0.1), [jnp.ones(3), jnp.ones(2)]
    state = opt.init(params)
    with pytest.raises(TypeError, match="AdamW: unknown keyword 'betas'"):
        fastlr.jax.AdamW(0.1, betas=(0.9, 0.99))
    with pytest.raises(ValueError, match=r"AdamW: beta1 must be in \[0, 1\), got 1.5"):
        fastlr.jax.AdamW(0.1, beta1=1.5)
    with pytest.raises(TypeError, match="AdamW: unknown keyword 'beta'; did you mean"):
        opt.step(params, params, state, beta=0.1)
    with pytest.raises(ValueError, match=r"AdamW: lr: expected one number, got shape \(2,\)"):
        opt.step(params, params, state, lr=jnp.ones(2))
    with pytest.raises(TypeError, match="params: leaf 0: expected an array of float32 or float64, got int32"):
        opt.init([jnp.arange(3, dtype=jnp.int32)])
    with pytest.raises(TypeError, match="params: leaf 0: expected an array of float32 or float64, got bfloat16"):
        opt.init([jnp.ones(3, jnp.bfloat16)])
    with pytest.raises(ValueError, match="grads: expected the structure of the parameters"):
        opt.step(params, params[:1], state)
    with pytest.raises(ValueError, match=r"grads: leaf 1: expected shape \(2,\) like the parameter, got \(3,\)"):
        opt.step(params, [params[0], params[0]], state)
    for other in (opt.init(params[:1]), fastlr.jax.AMSGrad(0.1).init(params), opt.init([jnp.ones(300), jnp.ones(2)])):
        with pytest.raises(ValueError, match=r"state: expected the state that init makes of these parameters.*; call init"):
            jax.jit(opt.step)(params, params, other)
    with pytest.raises(ValueError, match=r"update needs the parameters: update\(grads, state, params\)"):
        opt.update(params, state)
    with pytest.raises(AttributeError, match="no attribute 'AdamV'; did you mean"):
        fastlr.jax.AdamV  # noqa: B018
    with pytest.raises(AttributeError, match="no LAMB: its rule is not elementwise"):
        fastlr.jax.LAMB  # noqa: B018
    with pytest.raises(Exception, match=r"lr must be finite and >= 0"):
        jax.block_until_ready(jax.jit(opt.step)(params, params, state, lr=jnp.float32(-1)))
    ending = fastlr.jax.SGD(schedules.linear(0.1, steps=2, end="error"))
    with pytest.raises(Exception, match=r"lr must be finite and >= 0"):
        params, state = [jnp.ones(3)], ending.init([jnp.ones(3)])
        for _ in range(4):
            params, state = jax.block_until_ready(jax.jit(ending.step)(params, params, state))
    assert handler.version() is None or handler.version()[0] == 0


def test_gradients_of_other_types():
    """Of other floating-point numbers they are converted; of others, which would lose something, refused."""
    opt, p = fastlr.jax.AdamW(0.1), jnp.arange(3, dtype=jnp.float32)
    state = opt.init(p)
    want = opt.step(p, jnp.full(3, 0.5, jnp.float32), state)
    for kind in (jnp.bfloat16, jnp.float16):
        found = jax.jit(opt.step)(p, jnp.full(3, 0.5, kind), state)
        assert [x.tobytes() for x in map(np.asarray, jax.tree.leaves(found))] \
            == [x.tobytes() for x in map(np.asarray, jax.tree.leaves(want))]
    for g, kind in ((jnp.ones(3, jnp.int32), "int32"), (jnp.ones(3, jnp.complex64), "complex64"), (jnp.ones(3, bool), "bool"),
                    (np.zeros(3, jax.dtypes.float0), ".*float0.*")):
        with pytest.raises(TypeError, match=f"AdamW: grads: leaf 0: expected an array of floating-point numbers, got {kind}"):
            jax.jit(opt.step)(p, g, state)


def test_float64_needs_that_jax_has_it():
    """Its gradients would be converted to float32, and read as float64."""
    opt = fastlr.jax.AdamW(0.1)
    with jax.enable_x64(True):
        p = jnp.arange(3, dtype=jnp.float64)
        state = opt.init(p)
    with jax.enable_x64(False):
        for refused in (lambda: opt.init(p), lambda: opt.step(p, p, state), lambda: opt.init(np.ones(3))):
            with pytest.raises(TypeError, match=r"AdamW: params: leaf 0: JAX computes in float64 only with jax_enable_x64"):
                refused()


def test_a_step_has_no_derivative():
    opt, p = fastlr.jax.AdamW(0.1), jnp.ones(3)
    state = opt.init(p)
    for differentiated in (lambda p: opt.step(p, p, state)[0].sum(), lambda p: opt.update(p, state, p)[0].sum(),
                           lambda p: opt.step(jnp.ones(3), jnp.ones(3), state, lr=p[0])[0].sum()):
        for wrap in (lambda f: f, jax.jit, jax.checkpoint):
            with pytest.raises(TypeError, match="AdamW: a step of fastlr has no derivative; call step and update outside"):
                jax.grad(wrap(differentiated))(p)
    # (beside what is differentiated, it may stand)
    slope, moved = jax.grad(lambda p: (p.sum(), opt.step(jnp.ones(3), jnp.ones(3), state)[0]), has_aux=True)(p)
    assert slope.tolist() == [1, 1, 1] and np.all(moved != 1)


EXPORTED = """
import sys
import jax, jax.numpy as jnp, numpy as np
import fastlr.jax
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
opt = fastlr.jax.SGD(0.5)
params, state = [jnp.ones(3)], opt.init([jnp.ones(3)])
for _ in range(3):
    params, state = program.call(params, [jnp.ones(3)], tuple(state))
    state = fastlr.jax.State(*state)
print(np.asarray(params[0]).tobytes().hex())
"""


def test_a_program_of_another_process_finds_rule_and_schedule(tmp_path):
    opt = fastlr.jax.SGD(schedules.exponential(0.25, 0.1))

    def step(params, grads, state):
        params, state = opt.step(params, grads, fastlr.jax.State(*state))
        return params, tuple(state)

    # (float32 by name: other tests of this process may have made float64 the usual type)
    params, state = [jnp.ones(3, jnp.float32)], opt.init([jnp.ones(3, jnp.float32)])
    pytest.importorskip("flatbuffers")
    allowed = [jax.export.DisabledSafetyCheck.custom_call("fastlr_step")]
    exported = jax.export.export(jax.jit(step), disabled_checks=allowed)(params, params, tuple(state))
    (tmp_path / "program").write_bytes(exported.serialize())
    done = subprocess.run([sys.executable, "-c", EXPORTED, str(tmp_path / "program")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for _ in range(3):
        params, state = opt.step(params, [jnp.ones(3, jnp.float32)], state)
    assert done.stdout.strip() == np.asarray(params[0]).tobytes().hex()


def test_the_page_is_so(capsys):
    """docs/jax.md"""
    page = (Path(__file__).parents[1] / "docs" / "jax.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "jax.md", "exec"), {})
    assert float(capsys.readouterr().out) < 1e-3
