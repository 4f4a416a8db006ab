"""fastlr.interchange: optax's state comes over bit for bit, and back; both then train on alike."""
import jax
import numpy as np
import optax
import pytest

import fastlr
from fastlr.interchange import from_optax, to_optax

jax.config.update("jax_enable_x64", True)

CASES = {
    "Adam": ({}, optax.adam(0.01)),
    "AdamW": ({"weight_decay": 1e-4}, optax.adamw(0.01)),
    "AMSGrad": ({}, optax.amsgrad(0.01)),
    "AdaMax": ({}, optax.adamax(0.01)),
    "RAdam": ({}, optax.radam(0.01)),
    "AdaBelief": ({}, optax.adabelief(0.01)),
    "Lion": ({}, optax.lion(0.01)),
    "Momentum": ({"momentum": 0.9}, optax.sgd(0.01, momentum=0.9)),
    "Nesterov": ({"momentum": 0.9}, optax.sgd(0.01, momentum=0.9, nesterov=True)),
    "RMSprop": ({}, optax.chain(optax.clip_by_global_norm(1e9), optax.rmsprop(0.01))),
    "AdaGrad": ({}, optax.adagrad(0.01)),
    "AdaDelta": ({}, optax.adadelta(0.01)),
}
COMPARED = {"Adam", "AdamW", "AMSGrad", "Momentum", "Nesterov", "RMSprop", "AdaDelta", "AdaMax"}     # with the same defaults


def params():
    rng = np.random.default_rng(0)
    return {"layer": {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}, "list": [rng.normal(size=2)]}


def grads(k):
    rng = np.random.default_rng(100 + k)
    return jax.tree.map(lambda p: rng.normal(size=p.shape), params())


@pytest.mark.parametrize("name", CASES)
def test_optaxs_state_comes_over_and_goes_back_bit_for_bit(name):
    options, tx = CASES[name]
    p = params()
    state = tx.init(p)
    for k in range(4):
        updates, state = tx.update(grads(k), state, p)
        p = optax.apply_updates(p, updates)
    mine = jax.tree.map(lambda x: np.array(x), p)
    cls = getattr(fastlr, name)
    opt = cls(mine, lr=0.01, **({"convention": "optax"} if "optax" in cls.conventions else {}), **options)
    from_optax(opt, state)
    again = to_optax(opt, tx.init(p))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    slots = {leaf.tobytes() for slots in opt.state.values() for leaf in slots.values()}
    theirs = {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state) if np.ndim(leaf)}
    assert theirs == slots == {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(again) if np.ndim(leaf)}
    q, other = p, again
    for k in range(4, 8):
        updates, state = tx.update(grads(k), state, p)
        p = optax.apply_updates(p, updates)
        updates, other = tx.update(grads(k), other, q)
        q = optax.apply_updates(q, updates)
        opt.step(grads(k))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), p, q))
    if name in COMPARED:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), mine, p)


def test_what_does_not_fit_is_refused():
    opt = fastlr.Adam(params())
    opt.step(grads(0))
    before = repr(opt.state_dict())
    with pytest.raises(ValueError, match="there is no 'mu' in this state, which Adam needs"):
        from_optax(opt, optax.sgd(0.1, momentum=0.9).init(params()))
    with pytest.raises(ValueError, match="no parameter 'layer/v'; did you mean 'layer/"):
        from_optax(opt, optax.adam(0.1).init({"layer": {"v": np.zeros(2)}}))
    with pytest.raises(ValueError, match="there is no 'mu' in this state, which Adam has"):
        to_optax(opt, optax.sgd(0.1).init(params()))
    with pytest.raises(TypeError, match="Tiger has no state in optax"):
        to_optax(fastlr.Tiger(params()), optax.adam(0.1).init(params()))
    opt.step({"layer": None, "list": [np.ones(2)]})
    with pytest.raises(ValueError, match="parameters have had 1 to 2 updates"):
        to_optax(opt, optax.adam(0.1).init(params()))
    assert repr(opt.state_dict()) != before
