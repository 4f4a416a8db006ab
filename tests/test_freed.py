"""What an optimizer holds is freed with its last name: nothing in it refers back to it."""
import gc
import weakref

import numpy as np
import pytest
from registry import arrays, every_optimizer

import fastlr

WRAPPERS = {
    "SAM": fastlr.SAM, "Lookahead": fastlr.Lookahead, "GradientCentralization": fastlr.GradientCentralization,
    "GradientAccumulation": lambda opt: fastlr.GradientAccumulation(opt, 2), "EMA": fastlr.EMA, "SWA": fastlr.SWA,
}


@pytest.fixture(autouse=True)
def no_collection():
    """Objects that refer to each other stay until somebody collects them."""
    gc.disable()
    yield
    gc.enable()


def is_freed(make):
    """Whether what was made is gone, with the parameters, once nothing names it."""
    params = arrays(np.float32, [(4, 3), (3,)])
    made = make(params)
    references = [weakref.ref(x) for x in (made, *params)]
    del made, params
    return all(reference() is None for reference in references)


@every_optimizer
def test_an_optimizer(cls):
    def make(params):
        opt = cls(params, ema_decay=0.9, clip_norm=1.0)
        opt.step([np.ones_like(p) for p in params])
        opt.groups[0].lr = 0.5
        opt.load_state_dict(opt.state_dict())
        return opt

    assert is_freed(make)


def test_a_schedule_that_a_load_replaces():
    saved = fastlr.SGD(np.ones(2), lr=0.1).state_dict()
    opt = fastlr.SGD(np.ones(2))
    opt.lr = lambda t: 0.2
    reference = weakref.ref(opt.lr)
    opt.load_state_dict(saved)
    assert opt.lr == 0.1 and reference() is None


def test_an_optimizer_whose_rows_catch_up():
    def make(params):
        opt = fastlr.Momentum(params, catch_up_rows=True)
        opt.step_rows("0", [1], np.ones((1, 3), np.float32))
        opt.step([np.ones_like(p) for p in params])
        return opt

    assert is_freed(make)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper(name):
    assert is_freed(lambda params: WRAPPERS[name](fastlr.AdamW(params)))


def test_several_as_one():
    assert is_freed(lambda params: fastlr.Partition({"w": params[0], "b": params[1]}, {"w": fastlr.Muon},
                                                    rest=fastlr.AdamW))


def test_a_quasi_newton_optimizer():
    def make(params):
        opt = fastlr.LBFGS(params)
        opt.step(lambda: (1.0, [np.ones_like(p) for p in params]))
        return opt

    assert is_freed(make)


def test_a_history_with_what_it_watched():
    def make(params):
        opt = fastlr.AdamW(params)
        opt.measure()
        opt.add_callback(after=lambda opt: None)
        opt.step([np.ones_like(p) for p in params])
        fastlr.History().record(loss=1.0, opt=opt)
        return opt

    assert is_freed(make)
