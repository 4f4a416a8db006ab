"""An exception at any line of a wrapper, an average or a load leaves the parameters whole.

A trace function raises KeyboardInterrupt or MemoryError at the n-th line that is executed in the modules concerned,
for every n, as an interrupt of the user may come at each of them.
"""
import sys

import numpy as np
import pytest
from registry import arrays, bits, to_the_bit

import fastlr

SHAPES = ((3, 4), (5,), (2, 3))
FILES = ("wrappers.py", "sharpness.py", "accumulation.py", "averages.py", "resumable.py", "checkpoint.py", "state.py")


def parameters():
    """Two that are updated where they are, and two that are updated through copies."""
    first, second, third = arrays(np.float32, SHAPES)
    return [first, second.astype(np.float16), np.asfortranarray(third), np.ones(4, np.float32)]


def gradients(step):
    first, second, third = arrays(np.float32, SHAPES, seed=10 + step)
    return [first, second, third, np.full(4, step, np.float32)]


class Interrupt:
    """Raises an exception at the n-th line executed in the files above; `raised` tells whether there were so many."""

    def __init__(self, n, error, files=FILES):
        self.left, self.error, self.files, self.raised = n, error, files, False

    def __enter__(self):
        sys.settrace(self.enter)

    def __exit__(self, kind, error, traceback):
        sys.settrace(None)
        return kind is self.error

    def enter(self, frame, event, argument):
        return self.line if frame.f_code.co_filename.endswith(self.files) else None

    def line(self, frame, event, argument):
        if event == "line" and not self.raised:
            self.left -= 1
            if self.left < 0:
                self.raised = True
                raise self.error
        return self.line


def every_line(make, call, check, error, files=FILES):
    """Call `call` on what `make` made, interrupted at each of its lines in turn; at least ten lines."""
    for n in range(10_000):
        made = make()
        interrupt = Interrupt(n, error, files)
        with interrupt:
            call(*made)
        if not interrupt.raised:
            assert n >= 10
            return
        check(*made)
    raise AssertionError("it never ended")


every_error = pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])


@every_error
@pytest.mark.parametrize("shadow", [None, "bfloat16"])
def test_sam_is_perturbed_and_says_so_or_is_not(error, shadow):
    def make():
        params = parameters()
        return params, fastlr.SAM(fastlr.Momentum(params, lr=0.1, shadow=shadow))

    params, sam = make()
    origin = bits(params)
    sam.ascend(gradients(0))
    perturbed = bits(params)
    sam.step(gradients(1))
    stepped = bits(params)

    def copies_follow(sam):
        for tensor in sam._tensors:
            if tensor.shadow is not None:
                before = bits([tensor.shadow])
                tensor.cast()
                assert bits([tensor.shadow]) == before

    def after_ascend(params, sam):
        assert bits(params) == (perturbed if sam.ascended else origin)
        copies_follow(sam)
        sam.retreat()
        assert bits(params) == origin
        sam.ascend(gradients(0))
        sam.step(gradients(1))
        assert bits(params) == stepped

    every_line(make, lambda params, sam: sam.ascend(gradients(0)), after_ascend, error)

    def ascended():
        params, sam = make()
        sam.ascend(gradients(0))
        return params, sam

    def after_step(params, sam):
        if sam.t:
            assert bits(params) == stepped and not sam.ascended
        else:
            assert bits(params) == perturbed and sam.ascended
        copies_follow(sam)
        sam.retreat()
        assert bits(params) == (stepped if sam.t else origin)
        sam.ascend(gradients(0))
        sam.retreat()
        assert bits(params) == (stepped if sam.t else origin)

    every_line(ascended, lambda params, sam: sam.step(gradients(1)), after_step, error)

    def after_retreat(params, sam):
        sam.retreat()
        assert bits(params) == origin and not sam.ascended
        copies_follow(sam)

    every_line(ascended, lambda params, sam: sam.retreat(), after_retreat, error)


@every_error
def test_lookahead_pulls_all_parameters_or_none(error):
    def make():
        params = parameters()
        opt = fastlr.Lookahead(fastlr.Momentum(params, lr=0.1), k=2, alpha=0.5)
        opt.step(gradients(0))
        return params, opt

    params, opt = make()
    before = bits(params)
    fast = [p.copy(order="K") for p in params]
    plain = fastlr.Momentum(fast, lr=0.1)
    plain.load_state_dict(opt.inner.state_dict())
    plain.step(gradients(1))
    stepped = bits(fast)
    opt.step(gradients(1))
    pulled = bits(params)
    opt.step(gradients(2))
    later = bits(params)
    assert len({*map(str, (before, stepped, pulled, later))}) == 4

    def check(params, opt):
        assert bits(params) in (before, stepped, pulled)
        assert (opt.t == 1) == (bits(params) == before)
        if opt.t == 2 and opt._progress[0] != 1:         # (an interrupt just before the step is counted delays the pull)
            opt.step(gradients(2))
            assert bits(params) == later

    every_line(make, lambda params, opt: opt.step(gradients(1)), check, error)


@every_error
def test_accumulation_adds_a_batch_or_not_and_steps_once(error):
    def make():
        params = parameters()
        acc = fastlr.GradientAccumulation(fastlr.Momentum(params, lr=0.1), k=3)
        acc.add(gradients(0))
        acc.add(gradients(1), 2)
        return params, acc

    def sums(acc):
        return bits([slots["sum"] for slots in acc._arrays().values()])

    params, acc = make()
    before, two = bits(params), sums(acc)
    acc.k = None
    acc.add(gradients(2))
    three = sums(acc)
    acc.step()
    after = bits(params)

    def check(params, acc):
        if acc.t:
            assert bits(params) == after and acc.batches == 0
        else:
            assert bits(params) == before
            assert (acc.batches, acc.count, sums(acc)) in ((2, 3, two), (3, 4, three))
            if acc.batches == 2:
                acc.add(gradients(2))
            else:
                acc.step()
            assert (acc.t, bits(params)) == (1, after)
        acc.add(gradients(3))
        assert acc.batches == 1

    every_line(make, lambda params, acc: acc.add(gradients(2)), check, error)


@every_error
@pytest.mark.parametrize("make_mean", [fastlr.EMA, fastlr.SWA])
def test_means_are_updated_and_swapped_whole(error, make_mean):
    def make():
        params = parameters()
        mean = make_mean(fastlr.SGD(params, shadow="float16"))
        for p in params:
            p += 1
        mean.update()
        for p in params:
            p += 2
        mean._opt.cast()
        return params, mean

    def state(mean):
        return bits([slots["mean"] for slots in mean._arrays().values()]), mean.t

    params, mean = make()
    before, old = bits(params), state(mean)
    mean.update()
    new = state(mean)

    def updated(params, mean):
        assert state(mean) in (old, new)

    every_line(make, lambda params, mean: mean.update(), updated, error)

    def swap(params, mean):
        with mean.swapped():
            pass

    def returned(params, mean):
        assert bits(params) == before
        assert bits([mean._opt.shadow["0"]]) == bits([params[0].astype(np.float16)])
        with mean.swapped():
            assert bits(params) != before
        assert bits(params) == before

    every_line(make, swap, returned, error)


def holders(params):
    momentum = fastlr.Momentum(params, lr=0.1, shadow="float16")
    return {
        "optimizer": lambda: momentum,
        "wrappers": lambda: fastlr.GradientAccumulation(fastlr.Lookahead(momentum, k=2)),
        "average": lambda: fastlr.EMA(momentum),
    }


@every_error
@pytest.mark.parametrize("kind", ["optimizer", "wrappers", "average"])
@pytest.mark.parametrize("through", ["load_state_dict", "load"])
def test_a_load_is_done_or_nothing_has_changed(error, kind, through, tmp_path):
    def make():
        params = parameters()
        return params, holders(params)[kind]()

    def advance(opt, step):
        if kind == "average":
            opt.update()
        (opt.add if kind == "wrappers" else fastlr.Momentum.step if kind == "optimizer" else lambda *_: None)(
            *([opt] if kind == "optimizer" else []), gradients(step))

    def everything(params, opt):
        return to_the_bit(opt.state_dict()), bits(params), bits(opt.shadow.values() if kind != "average" else [])

    other, saved = make()
    for step in range(3):
        advance(saved, step)
    for p in other:
        p += 1
    fastlr.optimizers.resumable.parameters_written(saved)
    fastlr.save(tmp_path / "run", saved)
    d = saved.state_dict()
    params, fresh = make()
    untouched = everything(params, fresh)

    def call(params, opt):
        if through == "load":
            fastlr.load(tmp_path / "run", opt)
        else:
            opt.load_state_dict(d)

    params, loaded = make()
    call(params, loaded)
    wanted = everything(params, loaded)
    assert wanted != untouched

    def check(params, opt):
        assert everything(params, opt) in (untouched, wanted)

    every_line(make, call, check, error)


@every_error
@pytest.mark.parametrize("change", ["add_group", "clip_norm"])
def test_a_group_joins_or_an_option_is_set_or_nothing_has_changed(error, change):
    """The optimizer steps after it, all of what it had or all of that and more."""
    files = ("binding.py", "groups.py", "structure.py", "tensors.py", "stages.py", "rule_class.py")

    def make():
        params = parameters()
        opt = fastlr.Adam(params, lr=0.1, weight_decay=0.1, decay="corrected", grads=gradients(0), ema_decay=0.5)
        opt.step()
        return params, opt, np.ones(3, np.float32)

    def call(params, opt, more):
        if change == "add_group":
            opt.add_group({"more": more}, lr=0.05)
        else:
            opt.clip_norm = 0.1

    def check(params, opt, more):
        twin_params, twin, twin_more = make()
        assert opt.t == 1
        joined = len(opt.groups) == 2
        if joined or opt.clip_norm is not None:
            call(twin_params, twin, twin_more)
        assert opt.state.keys() == twin.state.keys()
        assert [group.params for group in opt.groups] == [group.params for group in twin.groups]
        for each, own in ((opt, more), (twin, twin_more)):
            if not joined:
                each.step()                                      # (bound gradients are there still)
            each.step([gradients(1), {"more": np.ones_like(own)}] if joined else gradients(1))
        assert bits([*params, more]) == bits([*twin_params, twin_more])
        with pytest.raises(ValueError, match=r"grads(\[0\])?\[0\]: expected"):
            wrong = [np.ones(99, np.float32)] * 4
            opt.step([wrong, {"more": None}] if joined else wrong)

    every_line(make, call, check, error, files)
