"""Tensors of PyTorch as parameters, here in the form of a stand-in: `parity/test_tensor_versions.py` has the real ones.

Whatever writes a tensor moves its version first; a tensor that was given other memory is noticed.
"""
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import registry  # noqa: F401 (lets every optimizer step with gradients alone)
from test_c_plans import made, refused

import fastlr


class Tensor:
    """What fastlr knows of torch.Tensor."""

    def __init__(self, values, dtype=np.float32):
        self.data, self.version = np.array(values, dtype), 0

    def data_ptr(self):
        return self.data.ctypes.data

    def __dlpack__(self, **how):
        return self.data.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    module = ModuleType("torch")

    def increment_version(tensors):
        assert isinstance(tensors, list)
        for tensor in tensors:
            tensor.version += 1

    module.Tensor = Tensor
    module.autograd = SimpleNamespace(graph=SimpleNamespace(increment_version=increment_version))
    monkeypatch.setitem(sys.modules, "torch", module)


def gradient(p):
    return [Tensor(np.ones_like(p.data))]


def moves(p, write):
    """Whether `write()` moved the version of p, and whether it wrote to p."""
    version, before = p.version, p.data.copy()
    write()
    return p.version > version, not np.array_equal(p.data, before)


WRITERS = {
    "step": lambda p: fastlr.SGD([p], lr=1.0),
    "nested": lambda p: fastlr.Adam({"a": {"b": [p]}}, lr=1.0),
    "matrix": lambda p: fastlr.Muon([p], lr=1.0),
    "reducing": lambda p: fastlr.LARS([p], lr=1.0),
    "lookahead": lambda p: fastlr.Lookahead(fastlr.SGD([p], lr=1.0), k=1),
    "added later": lambda p: with_group(p),
    "after a setting": lambda p: with_setting(p),
}


def with_group(p):
    opt = fastlr.SGD([np.ones(3, np.float32)], lr=1.0)
    opt.add_group([p])
    opt.step([[None], gradient(p)])
    assert p.version == 1
    return opt


def with_setting(p):
    opt = fastlr.SGD([p], lr=1.0)
    opt.clip_norm = 0.5
    return opt


@pytest.mark.parametrize("kind", WRITERS)
def test_a_step_moves_the_version(kind):
    p = Tensor([[1.0, 2.0], [3.0, 4.0]])
    opt = WRITERS[kind](p)
    given = {"nested": lambda: {"a": {"b": gradient(p)}}, "added later": lambda: [[None], gradient(p)]}
    assert moves(p, lambda: opt.step(given.get(kind, lambda: gradient(p))())) == (True, True)


def test_steps_over_rows_and_of_bound_gradients_move_the_version():
    p, q = Tensor([[1.0], [2.0]]), Tensor([1.0, 2.0])
    opt = fastlr.SGD({"p": p}, lr=1.0)
    assert moves(p, lambda: opt.step_rows("p", [1], np.ones((1, 1), np.float32))) == (True, True)
    bound = fastlr.SGD([q], lr=1.0, grads=gradient(q))
    assert moves(q, bound.step) == (True, True)


def test_steps_from_c_move_the_version_and_refuse_other_memory():
    for given in (lambda p: [p], lambda p: {"p": p}):
        p = Tensor([[1.0, 2.0], [3.0, 4.0]])
        opt = fastlr.SGD(given(p), lr=1.0, nonfinite="skip")
        plan, g = made(opt), np.ones((2, 2), np.float32)
        assert moves(p, lambda: plan.done(plan.step([g]))) == (True, True)                 # noqa: B023
        assert moves(p, lambda: plan.done(plan.step_rows(0, [1], g[:1]))) == (True, True)  # noqa: B023
        bad = np.full((2, 2), np.nan, np.float32)
        assert moves(p, lambda: plan.done(plan.step([bad]))) == (False, False)             # noqa: B023
        assert moves(p, lambda: plan.step([p.data])) == (False, False)                     # noqa: B023
        memory, p.data = p.data, p.data.copy()
        before = memory.copy()
        for code in (plan.step([g]), plan.step_rows(0, [1], g[:1])):
            refused(plan, "REFUSED", "was given other memory since this optimizer took it", code)
        assert np.array_equal(memory, before) and opt.t == 2


def test_what_writes_between_steps_moves_the_version(tmp_path):
    p = Tensor([1.0, 2.0])
    sam = fastlr.SAM(fastlr.SGD([p], lr=1.0))
    assert moves(p, lambda: sam.ascend(gradient(p))) == (True, True)
    assert moves(p, sam.retreat) == (True, True)
    sam.ascend(gradient(p))
    assert moves(p, lambda: sam.step(gradient(p))) == (True, True)
    for mean in (fastlr.EMA([p]), fastlr.SWA(sam)):
        mean.update()
        p.data += 1
        version = p.version
        with mean.swapped():
            assert p.version > version
            version = p.version
        assert p.version > version
    opt = fastlr.SGD([p], lr=1.0)
    fastlr.save(tmp_path / "c", opt)
    p.data += 1
    assert moves(p, lambda: fastlr.load(tmp_path / "c", opt)) == (True, True)


def test_lbfgs_and_find_lr_move_the_version():
    p = Tensor([3.0, -4.0], np.float64)
    lbfgs = fastlr.LBFGS([p])
    assert moves(p, lambda: lbfgs.step(lambda: (float(p.data @ p.data), [2 * p.data]))) == (True, True)
    p, buffer = Tensor([3.0, -4.0], np.float64), Tensor([0.0])

    def loss_and_grad(batch):
        buffer.data += 1
        return float((p.data - batch) @ (p.data - batch)), [2 * (p.data - batch)]

    fastlr.find_lr(fastlr.SGD([p], lr=0.1), loss_and_grad, [np.ones(2)], steps=10, trial_steps=10, also_restore=[buffer])
    assert p.version > 5
    assert buffer.version > 0
    assert buffer.data.tolist() == [0]


def test_gradients_and_copies_that_are_written_move_their_versions():
    p, shadow, g = Tensor([1.0, 2.0]), Tensor([0, 0], np.float16), Tensor([1.0, 1.0])
    opt = fastlr.SGD([p], lr=1.0, shadow=[shadow])
    assert moves(shadow, lambda: opt.step([g])) == (True, True)
    assert g.version == 0                                # (it was read alone)
    for stepping in (lambda: opt.step([g], zero_grads=True), lambda: opt.step(zero_grads=True)):
        assert moves(g, stepping) == (True, True)
        g.data += 1
        opt.bind([g])
    momentum = fastlr.Momentum([p], lr=1.0)
    assert moves(g, lambda: momentum.accumulate([g], zero_grads=True)) == (True, True)
    g.data[:] = np.nan
    skipping = fastlr.SGD([p], lr=1.0, nonfinite="skip")
    assert moves(g, lambda: skipping.step([g], zero_grads=True)) == (True, True)
    p.data += 1
    assert moves(shadow, opt.cast) == (True, True)


def test_a_refused_or_skipped_step_moves_no_version():
    p = Tensor([1.0, 2.0])
    opt = fastlr.SGD([p], lr=1.0, nonfinite="skip")
    with pytest.raises(ValueError, match="like the parameter"):
        opt.step([np.ones(3, np.float32)])
    opt.step([np.array([np.nan, 1], np.float32)])
    assert p.version == 0


@pytest.mark.parametrize("cls", [fastlr.SGD, fastlr.MoMo, fastlr.Muon])
def test_a_tensor_that_was_given_other_memory_is_noticed(cls):
    p = Tensor(np.ones((2, 2)))
    opt = cls({"w": p}, lr=1.0)
    opt.step({"w": np.ones((2, 2), np.float32)})
    p.data = p.data + 1
    with pytest.raises(RuntimeError, match=rf"{cls.__name__}: params\['w'\] was given other memory since this optimizer "
                                           r"took it, as by p\.data = x; write into the memory that it had, "):
        opt.step({"w": np.ones((2, 2), np.float32)})
    assert opt.t == 1
