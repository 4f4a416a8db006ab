"""Schedules as objects, over the registry: composed, compared, stored, refused, drawn."""
import copy
import doctest
import inspect
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule_examples import CURVES, EXAMPLES, arguments_of, bits, drawn, each, each_curve, r, s

from fastlr import schedules
from fastlr._engine import compiled_schedule
from fastlr._engine.compiled_schedule import CompiledSchedule
from fastlr.schedules import constant, cosine, geometric, inverse_time, linear, log_linear, step_decay, time_based
from fastlr.schedules.base import Curve, Schedule
from fastlr.schedules.registry import REGISTRY
from fastlr.schedules.traced import traced


class TestValueSemantics:
    @each
    def test_there_is_an_example_of_every_schedule(self, name):
        assert type(EXAMPLES[name]).__name__ == name

    @each
    def test_round_trips(self, name):
        schedule, t = EXAMPLES[name], np.arange(150)
        namespace = {k: getattr(schedules, k) for k in schedules.__all__}
        for back in (
            eval(repr(schedule), namespace),
            schedules.from_dict(schedule.to_dict()),
            schedules.from_dict(json.loads(json.dumps(schedule.to_dict(), allow_nan=False))),
            schedules.create_schedule(name, **arguments_of(schedule)),
            *(pickle.loads(pickle.dumps(schedule, k)) for k in range(pickle.HIGHEST_PROTOCOL + 1)),
            copy.copy(schedule),
            copy.deepcopy(schedule),
        ):
            assert back == schedule and hash(back) == hash(schedule) and repr(back) == repr(schedule)
            assert bits(back(t)) == bits(schedule(t))

    @each_curve
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_curves_with_any_numbers_round_trip(self, name, data):
        curve = drawn(data, name)
        assert eval(repr(curve), vars(schedules)) == curve == schedules.from_dict(curve.to_dict())

    def test_the_repr_is_the_call(self):
        assert repr(cosine(1e-3, 10_000)) == "cosine(lr=0.001, steps=10000, final=0.0, end='hold')"
        assert repr(constant(1).warmup(5)) == "constant(lr=1.0).warmup(steps=5, start=0.0, kind='linear')"
        assert repr(constant(1) * (constant(2) * 3)) == "constant(lr=1.0) * (constant(lr=2.0) * 3.0)"
        assert repr((constant(1) * 3).clip(0, 1)) == "(constant(lr=1.0) * 3.0).clip(lo=0.0, hi=1.0)"

    def test_equal_is_same_class_and_same_arguments(self):
        everything = list(EXAMPLES.values())
        assert len(set(everything)) == len(everything)
        assert all((a == b) == (a is b) for a in everything for b in everything)
        assert constant(0.0) == constant(-0.0) and repr(constant(-0.0)) == repr(constant(0.0))
        assert constant(1.0) != 1.0 and cosine(1, 5) != linear(1, 5)

    @each
    def test_cannot_be_changed(self, name):
        schedule = EXAMPLES[name]
        before = repr(schedule), bits(schedule(np.arange(20)))
        for attribute in [*type(schedule)._fields, "_values", "warmup", "new"]:
            with pytest.raises(AttributeError, match=f"{name} is immutable"):
                setattr(schedule, attribute, 1)
            with pytest.raises(AttributeError, match=f"{name} is immutable"):
                delattr(schedule, attribute)
        schedule.__init__(1, 2, 3)
        with pytest.raises(TypeError, match=f"{name} is immutable"):
            schedule._set_nodes(constant(1.0))
        assert before == (repr(schedule), bits(schedule(np.arange(20))))

    @each
    def test_the_signature_is_the_class_body(self, name):
        cls = REGISTRY[name]
        assert list(inspect.signature(cls).parameters) == list(cls._fields)
        assert list(inspect.signature(EXAMPLES[name]).parameters) == ["t"]
        for k, p in inspect.signature(cls).parameters.items():
            assert f"\n    {k}: " in inspect.getdoc(cls)
            if p.default is not p.empty:
                assert cls._fields[k].default == p.default

    def test_an_argument_with_the_name_of_a_method(self):
        assert step_decay(1.0, every=3).interval == 3
        assert bits(step_decay(1.0, every=3).every(2)(range(20))) == bits(step_decay(1.0, every=6)(range(20)))

    @each
    def test_its_example_runs(self, name):
        finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
        tests = finder.find(REGISTRY[name], name, globs={"schedules": schedules})
        assert sum(len(test.examples) for test in tests) > 0
        for test in tests:
            assert runner.run(test).failed == 0

    def test_the_examples_of_the_functions_run(self):
        finder = doctest.DocTestFinder(recurse=False)
        for thing in (schedules, schedules.from_dict, schedules.create_schedule, schedules.list_schedules):
            for test in finder.find(thing, "it", globs={"schedules": schedules}):
                assert test.examples and doctest.DocTestRunner().run(test).failed == 0


    def test_an_attribute_that_does_nothing_is_refused_with_the_nearest_name(self):
        with pytest.raises(AttributeError, match=r"cosine is immutable: unknown attribute 'stepz' \(did you mean 'steps'\?\)"):
            s.stepz = 3

    def test_a_class_of_ones_own_derives_from_a_curve(self):
        try:
            class Slow(cosine):
                """A cosine."""

            slow = Slow(0.1, steps=100, final=0.01)
            assert bits(slow(np.arange(120))) == bits(s(np.arange(120))) and slow != s and slow == Slow(0.1, 100, 0.01)
            assert schedules.from_dict(slow.to_dict()) == slow and repr(slow).startswith("Slow(lr=0.1")
            with np.errstate(all="ignore"):
                assert traced(slow, np)(np.array([5.0])) == pytest.approx(s(5), rel=1e-14)
        finally:
            REGISTRY.pop("Slow", None)


class TestRegistry:
    @each
    def test_is_public(self, name):
        assert getattr(schedules, name) is REGISTRY[name]
        assert name in schedules.__all__ and name in dir(schedules) and name in schedules.list_schedules()

    def test_patterns(self):
        assert schedules.list_schedules("step_*") == ["step_based", "step_decay"]
        assert schedules.list_schedules("no such") == []

    def test_a_class_that_its_struct_does_not_fit(self):
        from fastlr.schedules.declaration import rate

        with pytest.raises(TypeError, match="there is a schedule named 'cosine' already"):
            type("cosine", (Curve,), {})
        with pytest.raises(TypeError, match=r"nowhere: curves.pxd has no function nowhere with a struct of its own"):
            type("nowhere", (Curve,), {})
        saved = dict(REGISTRY)         # (whose order is that of the gallery)
        del REGISTRY["constant"]
        try:
            with pytest.raises(TypeError, match=r"declares \['lr', 'more'\], the struct of constant in curves.pxd \['lr'\]"):
                type("constant", (Curve,), {"lr": rate(), "more": rate()})
            with pytest.raises(TypeError, match=r"declares \[\], the struct"):
                type("constant", (Curve,), {})
        finally:
            REGISTRY.clear()
            REGISTRY.update(saved)
        assert "nowhere" not in REGISTRY

    def test_abstract_classes_cannot_be_made(self):
        for cls in (Schedule, Curve):
            with pytest.raises(TypeError, match="is abstract"):
                cls()

    def test_importing_imports_no_large_module(self):
        heavy = "{'inspect', 'difflib', 'matplotlib', 'ast', 'torch', 'fastlr.schedules.interchange', 'fastlr.schedules.export'}"
        code = (
            "import sys, numpy; before = set(sys.modules); import fastlr.schedules; "
            f"print(sorted({heavy} & (set(sys.modules) - before)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestComposition:
    t = np.arange(300)

    def test_join_follows_its_pieces(self):
        pieces, at = [s, r, constant(0.3), s], [5, 6, 100]
        whole = schedules.join(pieces, at=at)
        for t in self.t:
            i = sum(t >= b for b in at)
            assert whole(t) == pieces[i](t - ([0, *at][i]))

    @settings(max_examples=100, deadline=None)
    @given(lengths=st.lists(st.integers(1, 9), max_size=40))
    def test_join_of_any_number(self, lengths):
        at = np.cumsum(lengths, dtype=int).tolist()
        pieces = [linear(i + 1.0, steps=9) for i in range(len(at) + 1)]
        want = [pieces[i](t - start) for i, start in enumerate([0, *at]) for t in range(start, [*at, 400][i])]
        assert schedules.join(pieces, at=at)(range(400)).tolist() == want

    def test_then_is_join(self):
        assert s.then(r, at=10) == schedules.join([s, r], at=[10])
        assert s.then(r, at=10).then(s, at=20) == schedules.join([s, r, s], at=[10, 20])
        nested = s.then(r, at=10).then(s, at=7)
        assert nested(self.t).tolist() == s.then(s, at=7)(self.t).tolist()
        again = s.then(r, at=10).then(s, at=10)
        assert again(self.t).tolist() == s.then(s, at=10)(self.t).tolist()

    @pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
    def test_warmup_rises_then_follows(self, kind):
        warm = s.warmup(20, start=0.001, kind=kind)
        assert warm(0) == 0.001 and warm(20) == s(0)
        assert (np.diff(warm(range(21))) > 0).all()
        assert warm(self.t)[20:].tolist() == s(self.t)[:-20].tolist()
        middle = {"linear": (0.1 + 0.001) / 2, "cosine": (0.1 + 0.001) / 2, "exponential": 1e-2}
        assert warm(10) == pytest.approx(middle[kind], rel=1e-14)

    def test_warmup_from_nothing_is_the_default(self):
        assert s.warmup(4) == s.warmup(4, start=0.0, kind="linear")
        assert s.warmup(4)(range(5)).tolist() == [0, 0.025, 0.05, pytest.approx(0.075), 0.1]
        assert s.warmup(1)(range(2)).tolist() == [0, 0.1]

    @pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
    def test_a_warmup_of_no_length_is_the_schedule(self, kind):
        for none in (s.warmup(0, kind=kind), s.warmup(0, start=0.5, kind=kind), s.warmup(0, count_from_one=True)):
            assert bits(none(self.t)) == bits(s(self.t))
            assert schedules.from_dict(none.to_dict()) == none == eval(repr(none), vars(schedules))

    @pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
    def test_a_warmup_that_counts_from_one_moves_at_the_first_update(self, kind):
        early = s.warmup(20, start=0.001, kind=kind, count_from_one=True)
        late = s.warmup(20, start=0.001, kind=kind)
        assert bits(early(range(20))) == bits(late(range(1, 21))) and early(0) > 0.001 and early(19) == s(0)
        assert bits(early(self.t)[20:]) == bits(s(self.t)[:-20])
        assert bits(s.warmup(1, count_from_one=True)(range(3))) == bits([s(0), s(0), s(1)])
        assert bits(s.warmup(8, count_from_one=True)(range(8))) == bits(s(0) * (np.arange(8) + 1) / 8)
        assert late == schedules.from_dict(late.to_dict()) != early == schedules.from_dict(early.to_dict())

    def test_as_optax_counts_the_warmup_in(self):
        peak, warm, total = 1.0, 10, 50
        got = cosine(peak, steps=total - warm).warmup(warm)
        for t in range(total + 5):
            p = min((t - warm) / (total - warm), 1)
            want = t / warm if t < warm else (1 + math.cos(math.pi * p)) / 2
            assert got(t) == pytest.approx(want, abs=1e-15)

    def test_product_and_scale(self):
        assert bits((s * r)(self.t)) == bits(s(self.t) * r(self.t)) == bits((r * s)(self.t))
        assert bits((s * 0.5)(self.t)) == bits(0.5 * s(self.t))
        assert s * 0.5 == 0.5 * s == np.float64(0.5) * s == s * np.float32(0.5)

    def test_clip(self):
        assert bits(s.clip(0.02, 0.09)(self.t)) == bits(s(self.t).clip(0.02, 0.09))
        assert geometric(1e-6, factor=2.0).clip(0, 1)(1e300) == 1

    def test_shift(self):
        assert s.shift(7)(self.t).tolist() == [s(max(t - 7, 0)) for t in self.t]
        assert s.shift(-7)(self.t).tolist() == s(self.t + 7).tolist()
        assert s.shift(0)(self.t).tolist() == s(self.t).tolist()

    def test_every(self):
        assert s.every(3)(self.t).tolist() == s(self.t // 3).tolist()
        assert s.every(3)(5.9) == s(1)

    def test_a_time_after_the_end_is_an_error_only_with_end_error(self):
        strict = cosine(0.1, steps=10, end="error")
        assert strict(10) == 0 and strict([9, 10]).tolist() == [strict(9), 0]
        where = r"t=11 is past the end of a schedule with end=\"error\""
        with pytest.raises(ValueError, match="^cosine: " + where):
            strict(11)
        with pytest.raises(ValueError, match=r'^cosine: t=11.5 at t\[1\] is past the end'):
            strict([0, 11.5])
        assert strict.then(s, at=11)(11) == s(0)
        with pytest.raises(ValueError, match=r"^warmup: t=16 is past the end"):
            strict.warmup(5)(16)
        product, again = strict * s, s * strict
        for made in (strict * 0.0, product, again, strict.clip(0, 1), strict.shift(0), strict.every(1)):
            assert made(10) == 0
            with pytest.raises(ValueError, match=where):
                made(11)
        assert strict.shift(5)(15) == 0 and strict.every(5)(54) == 0

    def test_nesting_is_deep_enough_and_bounded(self):
        deep = s
        for _ in range(compiled_schedule.DEPTH - 1):
            deep = deep.clip(0.0, 1.0)
        assert deep.depth == compiled_schedule.DEPTH
        assert deep(3) == s(3)
        assert pickle.loads(pickle.dumps(deep)) == deep == eval(repr(deep), vars(schedules))
        assert schedules.from_dict(json.loads(json.dumps(deep.to_dict()))) == deep
        deeper = (lambda: deep * 1.0, lambda: deep.then(s, at=1), lambda: deep.warmup(1), lambda: s * deep)
        for too_much in deeper:
            with pytest.raises(ValueError, match="nested at most 100 deep"):
                too_much()
        hostile = s.to_dict()
        for _ in range(500):
            hostile = {"name": "scale", "schedule": hostile, "factor": 1.0}
        with pytest.raises(ValueError, match="nested at most 100 deep"):
            schedules.from_dict(hostile)

    def test_parts_are_bounded(self):
        big = s
        with pytest.raises(ValueError, match="at most 65536 parts, got 131071"):
            for _ in range(40):
                big = big * big
        chain = s
        for i in range(1, 500):
            chain = chain.then(r, at=i)
        assert chain.depth == 2 and chain(498.5) == r(0.5) and chain(520) == r(21)


class TestErrors:
    WRONG = {
        lambda: cosine(1, 0): "ValueError cosine: steps must be a positive integer, got 0",
        lambda: cosine(1, 2.5): "ValueError cosine: steps must be a positive integer, got 2.5",
        lambda: cosine(1, math.nan): "ValueError cosine: steps must be a positive integer, got nan",
        lambda: cosine(1, 2**53 + 1): f"ValueError cosine: steps must be a positive integer, got {2**53 + 1}",
        lambda: cosine(1, True): "TypeError cosine: steps must be a positive integer, got True",
        lambda: cosine(1, "10"): "TypeError cosine: steps must be a positive integer, got '10'",
        lambda: cosine(-1, 1): "ValueError cosine: lr must be a finite number >= 0, got -1",
        lambda: cosine(math.nan, 1): "ValueError cosine: lr must be a finite number >= 0, got nan",
        lambda: cosine(1, 1, math.inf): "ValueError cosine: final must be a finite number >= 0, got inf",
        lambda: cosine(None, 1): "TypeError cosine: lr must be a finite number >= 0, got None",
        lambda: cosine(True, 1): "TypeError cosine: lr must be a finite number >= 0, got True",
        lambda: cosine(np.True_, 1): "TypeError cosine: lr must be a finite number >= 0, got np.True_",
        lambda: cosine(1j, 1): "TypeError cosine: lr must be a finite number >= 0, got 1j",
        lambda: cosine(1, 1, end="stop"): "ValueError cosine: end must be 'hold' or 'error', got 'stop'",
        lambda: cosine(1, 1, end=1): "TypeError cosine: end must be 'hold' or 'error', got 1",
        lambda: cosine(1): "TypeError cosine: missing steps",
        lambda: cosine(): "TypeError cosine: missing lr, steps",
        lambda: cosine(1, 1, 1, "hold", 5): "TypeError cosine: takes at most 4 arguments, got 5",
        lambda: cosine(1, 1, lr=1): "TypeError cosine: lr was given twice",
        lambda: cosine(1, stepz=1): "TypeError cosine: unknown argument 'stepz' (did you mean 'steps'?)",
        lambda: time_based(1, -1e-9): "ValueError time_based: decay must be a finite number >= 0, got -1e-09",
        lambda: log_linear(0, 5, 1): "ValueError log_linear: lr must be a finite number > 0, got 0",
        lambda: inverse_time(1, 1, 1, 1): "TypeError inverse_time: staircase must be True or False, got 1",
        lambda: s.shift(0.5): "ValueError shift: n must be an integer, got 0.5",
        lambda: s.every(0): "ValueError every: k must be a positive integer, got 0",
        lambda: s.clip(2, 1): "ValueError clip: lo must be <= hi, got lo=2.0, hi=1.0",
        lambda: s * -1: "ValueError scale: factor must be a finite number >= 0, got -1",
        lambda: s * None: "TypeError unsupported operand type(s) for *: 'cosine' and 'NoneType'",
        lambda: s.warmup(-1): "ValueError warmup: steps must be an integer >= 0, got -1",
        lambda: s.warmup(2.5): "ValueError warmup: steps must be an integer >= 0, got 2.5",
        lambda: s.warmup(5, count_from_one=1): "TypeError warmup: count_from_one must be True or False, got 1",
        lambda: s.warmup(1, -1): "ValueError warmup: start must be a finite number >= 0, got -1",
        lambda: s.warmup(1, 0, "quick"):
            "ValueError warmup: kind must be 'linear' or 'exponential' or 'cosine', got 'quick'",
        lambda: s.warmup(1, kind="exponential"):
            "ValueError warmup: start must be > 0 for kind='exponential', got 0.0",
        lambda: constant(0).warmup(1, 1, "exponential"):
            "ValueError warmup: the schedule's first rate must be > 0 for kind='exponential', got 0.0",
        lambda: schedules.warmup(0.1, 5): "TypeError warmup: schedule must be a schedule, got 0.1",
        lambda: s.then(0.1, at=1):
            f"TypeError join: schedules must be a sequence of schedules, got ({s!r}, 0.1)",
        lambda: schedules.join([], at=[]):
            "ValueError join: schedules must be a sequence of schedules, got []",
        lambda: schedules.join([s], at=[1]):
            "ValueError join: at must have one entry fewer than schedules, got 1 for 1",
        lambda: schedules.join([s, s, s], at=[2, 2]):
            "ValueError join: at must be a strictly increasing sequence of positive integers, got [2, 2]",
        lambda: s.then(s, at=0):
            "ValueError join: at must be a strictly increasing sequence of positive integers, got (0,)",
        lambda: s.then(s, at="1"):
            "TypeError join: at must be a strictly increasing sequence of positive integers, got ('1',)",
        lambda: s(-1): "ValueError cosine: t must be >= 0, got -1",
        lambda: s(-1e-300): "ValueError cosine: t must be >= 0, got -1e-300",
        lambda: s(-(10**400)): f"ValueError cosine: t must be >= 0, got -1{'0' * 400}",
        lambda: s(math.nan): "ValueError cosine: t must be >= 0, got nan",
        lambda: s(np.int8(-3)): "ValueError cosine: t must be >= 0, got -3",
        lambda: s.warmup(5)(-1): "ValueError warmup: t must be >= 0, got -1",
        lambda: s([[0, 1], [2, -3]]): "ValueError cosine: t must be >= 0, got -3 at t[1, 1]",
        lambda: s([0, math.nan]): "ValueError cosine: t must be >= 0, got nan at t[1]",
        lambda: s(np.array(-1)): "ValueError cosine: t must be >= 0, got -1",
        lambda: s(True): "TypeError cosine: t must be a number or an array of numbers, got True",
        lambda: s(np.True_): "TypeError cosine: t must be a number or an array of numbers, got np.True_",
        lambda: s("3"): "TypeError cosine: t must be a number or an array of numbers, got '3'",
        lambda: s(None): "TypeError cosine: t must be a number or an array of numbers, got None",
        lambda: s(["3"]): "TypeError cosine: t must be a number or an array of numbers, got ['3']",
        lambda: s(np.array([True])):
            "TypeError cosine: t must be a number or an array of numbers, got an array of bool",
        lambda: s(np.array([1j])):
            "TypeError cosine: t must be a number or an array of numbers, got an array of complex128",
        lambda: geometric(1, 2)(2000): "ValueError geometric: the rate at t=2000 is not a finite number",
        lambda: geometric(1, 2)([0, 2000]):
            "ValueError geometric: the rate at t=2000 at t[1] is not a finite number",
        lambda: schedules.from_dict(3): "ValueError a schedule must be a dict as to_dict() makes it, got 3",
        lambda: schedules.from_dict({}): "ValueError a schedule needs a 'name', got {}",
        lambda: schedules.from_dict({"name": "cosin"}):
            "ValueError unknown schedule 'cosin' (did you mean 'cosine'?)",
        lambda: schedules.from_dict({"name": "cosine", "stepz": 1, "lr": 1}):
            "ValueError cosine: unknown key 'stepz' (did you mean 'steps'?); missing key 'steps'",
        lambda: schedules.from_dict({"name": "cosine", "lr": {"name": "constant", "lr": 1}, "steps": 1}):
            "TypeError cosine: lr must be a finite number >= 0, got constant(lr=1.0)",
        lambda: schedules.create_schedule("liner"):
            "ValueError unknown schedule 'liner' (did you mean 'linear'?)",
    }

    @pytest.mark.parametrize("call, message", WRONG.items(), ids=WRONG.values())
    def test_message(self, call, message):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert f"{caught.type.__name__} {caught.value}" == message

    @each_curve
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_every_bound_of_every_curve(self, name, data):
        cls = CURVES[name]
        k = data.draw(st.sampled_from(list(cls._fields)))
        wrong = data.draw(st.sampled_from([-1, -1e-300, math.nan, math.inf, -math.inf, "1", None, [1], b"1"]))
        allowed = {"a finite number": (-1, -1e-300), "a positive integer or None": (None,)}
        assume(wrong not in allowed.get(cls._fields[k].requirement, ()))
        with pytest.raises((TypeError, ValueError), match=f"^{name}: {k} must be "):
            schedules.create_schedule(name, **{**arguments_of(EXAMPLES[name]), k: wrong})

    def test_a_compiled_schedule_without_nodes_has_no_rate(self):
        with pytest.raises(ValueError, match="not a finite number"):
            CompiledSchedule()(0)
        for build in (compiled_schedule.clip, compiled_schedule.limit):
            with pytest.raises(TypeError, match="expected a schedule"):
                build(CompiledSchedule(), *(0.0, 1.0)[: 2 if build is compiled_schedule.clip else 1])
        with pytest.raises(TypeError):
            compiled_schedule.product(None, s)


class TestPictures:
    def test_sparkline(self):
        assert linear(1.0, steps=7).sparkline(8) == "█▇▆▅▄▃▂▁"
        assert constant(0.1).sparkline(1000, width=5) == "█████"
        assert constant(0.0).sparkline(3) == "▁▁▁"
        assert len(s.sparkline(10_000)) == 60
        with pytest.raises(ValueError, match="sparkline: n must be a positive integer, got 0"):
            s.sparkline(0)
        with pytest.raises(ValueError, match="sparkline: width must be a positive integer, got 0"):
            s.sparkline(5, width=0)

    def test_plot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        from matplotlib import pyplot

        ax = s.plot(100)
        assert r.plot(50, ax=ax) is ax
        first, second = ax.get_lines()
        assert first.get_ydata().tolist() == s(range(100)).tolist()
        assert second.get_label() == repr(r)
        assert len(s.plot(10**7, ax=ax).get_lines()[-1].get_xdata()) == 5000
        with pytest.raises(ValueError, match="plot: n must be a positive integer, got -1"):
            s.plot(-1)
        pyplot.close("all")
