"""Schedules to look at and to write down: expressions, SVG, the gallery, `fastlr plot`; and what is imported when."""
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlr import cli, schedules
from fastlr.schedules import gallery, picture
from fastlr.schedules.base import Schedule
from fastlr.schedules.expression import DEPTH, LENGTH, METHODS, parse
from fastlr.schedules.registry import REGISTRY

GALLERY = Path(__file__).parent.parent / "docs" / "schedules.svg"
every_schedule = pytest.mark.parametrize("name", sorted(REGISTRY))


class TestExpressions:
    @every_schedule
    def test_a_repr_is_an_expression(self, name):
        schedule = gallery.EXAMPLES[name]
        assert parse(repr(schedule)) == schedule

    def test_gives_what_python_evaluates(self):
        for text in (
            "cosine(1e-3, steps=1000).warmup(50)",
            "linear(lr=1/3, steps=10**3, final=-1 + 1.5) * 0.5 * constant(+2)",
            "join([constant(1), linear(2, 3)], at=(5,)).shift(-2).every(k=3).clip(0, 1)",
            "2 * polynomial(1, 5, 2.0, cycle=True).then(wsd(1, 1, 1, 1, shape='1-sqrt'), at=7)",
            "one_cycle(1, 50).momentum(high=0.9).k_decay(50, 2).noise(0.1, seed=3)",
            "triangular(0, 1, 5, None)",
        ):
            assert parse(f"  {text}\n") == eval(text, dict(vars(schedules)))

    HOSTILE = {
        "": "invalid syntax: ",
        "cosine(1": "'(' was never closed at character 7: cosine(1",
        "__import__('os')": "unknown schedule '__import__' (did you mean ",
        "__import__('os').system('true')": "unknown method 'system'",
        "cosine.__class__": "not allowed: cosine.__class__",
        "cosine(1, 2).__class__": "not allowed: cosine(1, 2).__class__",
        "cosine(1, 2).__init__(3)": "unknown method '__init__'",
        "cosine(1, 2).to_torch(3)": "unknown method 'to_torch'",
        "cosine(1, 2).steps": "not allowed: cosine(1, 2).steps",
        "cosine(1, 2).momentum()": "cosine(1, 2) has no method momentum",
        "one_cycle(1, 9).momentum": "not allowed",
        "(1).warmup(5)": "1 has no method warmup",
        "constant(1)(3)": "not allowed: constant(1)(3)",
        "[x for x in y]": "not allowed",
        "lambda: 1": "not allowed",
        "f'{1}'": "not allowed",
        "b'1'": "not allowed",
        "1j": "not allowed",
        "(x := 1)": "not allowed",
        "cosine if 1 else 2": "not allowed",
        "cosine": "cosine needs its arguments in brackets",
        "Schedule(1)": "unknown schedule 'Schedule'",
        "Curve(1)": "unknown schedule 'Curve'",
        "1": "expected a schedule, got 1",
        "'cosine'": "expected a schedule, got 'cosine'",
        "cosine(1, 2) + 1": "schedules can be multiplied, numbers calculated, got cosine(1, 2) + 1",
        "cosine(1, 2) * 'x'": "schedules can be multiplied",
        "cosine(1, 2) * True": "schedules can be multiplied",
        "-cosine(1, 2)": "not allowed: -cosine(1, 2)",
        "constant(9**9**9**9)": "no finite number: 9 ** 9 ** 9",
        "constant(1/0)": "no finite number: 1 / 0",
        "constant((-1)**0.5)": "no finite number",
        "constant(1 % 2)": "not allowed: 1 % 2",
        "cosine(*[1, 2])": "* and ** before arguments are not allowed",
        "cosine(**{})": "* and ** before arguments are not allowed",
        "linear(1, 2": "was never closed",
        "linear(1, 2) linear": "invalid syntax",
        "linear(1, 0)": "linear: steps must be a positive integer, got 0",
        "linear(1, stepz=3)": "linear: unknown argument 'stepz' (did you mean 'steps'?)",
        "linear(1)": "linear: missing steps",
        "constant(1).warmup()": "missing 1 required positional argument: 'steps'",
        "(" * 300 + "1" + ")" * 300: "too many nested parentheses",
        "constant(" + "-" * 2000 + "1)": "",
        "a" + ".b" * 4000: "",
        "constant(1)" + " * constant(1)" * 700: "nested at most 100 deep",
        "constant(1)" + ".clip(0, 1)" * 800: "nested at most 100 deep",
        "[" * 150 + "]" * 150: f"nested at most {DEPTH} deep",
        "9" * 6000: "",
        "linear(1, " + "9" * 400 + ")": "linear: steps must be a positive integer",
        "constant(" + "1" * LENGTH + ")": f"at most {LENGTH} characters, got {LENGTH + 10}",
        "constant(1)\0": "",
        "constant(1); import os": "invalid syntax",
        "import os": "invalid syntax",
    }

    @pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30] or "nothing")
    def test_one_clear_error(self, text, capsys):
        with pytest.raises(ValueError) as caught:
            parse(text)
        assert self.HOSTILE[text] in str(caught.value) and "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
        assert cli.main(["plot", "--", text]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith("fastlr plot: ")

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=60) | st.text("cosine(1,2).warmup*5[]'=-", max_size=60))
    def test_any_text_gives_a_schedule_or_a_value_error(self, text):
        try:
            assert isinstance(parse(text), Schedule)
        except ValueError:
            pass

    def test_no_other_type_and_no_other_method(self):
        with pytest.raises(TypeError, match="expected text, got int"):
            parse(3)
        assert all(callable(getattr(schedules.one_cycle, method)) for method in METHODS)


class TestSvg:
    @every_schedule
    def test_is_a_small_document_of_every_schedule(self, name):
        schedule = gallery.EXAMPLES[name]
        text = picture.svg(schedule, title="a < b & 'c'")
        points = xml.fromstring(text).find("{http://www.w3.org/2000/svg}polyline").get("points")
        assert len(text) < 20_000 and len(points.split()) >= 2
        x, y = np.array([p.split(",") for p in points.split()], float).T
        assert (np.diff(x) >= 0).all() and 24 <= y.min() <= y.max() <= 176

    def test_a_notebook_shows_the_curve_and_the_call(self):
        html = schedules.wsd(1, 1, 1, 1, shape="1-sqrt")._repr_html_()
        assert html.startswith("<svg") and "shape='1-sqrt'" in html and "<script" not in html

    def test_a_thinned_line_keeps_its_shape(self):
        t = np.arange(1000.0)
        y = 100 * schedules.cosine_restarts(1.0, 100, cycle_factor=2)(t)
        kept = picture.thinned(t, y, 0.2)
        assert len(kept) < 120
        assert abs(np.interp(t, t[kept], y[kept]) - y).max() <= 0.2

    def test_where_there_is_no_rate_the_line_ends(self):
        for schedule in (schedules.linear(1, 10, end="error"), schedules.geometric(1.0, 1e200)):
            t, rates = picture.sampled(schedule, 30)
            assert 2 <= len(t) == len(rates) <= 11 and picture.svg(schedule, 30)

    def test_how_long_a_schedule_is(self):
        s = schedules
        assert picture.horizon(s.cosine(1, 1000).warmup(200)) == pytest.approx(1260, abs=2)
        assert picture.horizon(s.linear(1, 30).every(10)) == pytest.approx(315, abs=2)
        assert picture.horizon(s.constant(1)) > 10
        assert all(2 <= picture.horizon(example) <= 10**4 for example in gallery.EXAMPLES.values())


class TestGallery:
    def test_every_schedule_declares_the_expression_that_shows_it(self):
        assert list(gallery.SHOWN) == list(REGISTRY)
        for name, schedule in gallery.EXAMPLES.items():
            assert f'"name": "{name}"' in json.dumps(schedule.to_dict()) or type(schedule).__name__ == name
            assert np.isfinite(schedule(np.arange(2 * gallery.UPDATES))).all()

    def test_the_picture_shows_the_schedules_as_they_are(self):
        """If not: python -m fastlr.schedules.gallery docs/schedules.svg"""
        shown = dict(re.findall(r"<!-- (\w+) (\w+) -->", GALLERY.read_text()))
        assert shown == {name: gallery.digest(name) for name in gallery.SHOWN}
        assert list(shown) == list(gallery.SHOWN)
        titles = re.findall(r'font-weight="600" fill="#1f2328">([^<]+)<', GALLERY.read_text())
        assert titles[1:] == list(shown) and titles[0].startswith(f"The {len(shown)} schedules")
        assert GALLERY.stat().st_size < 300_000
        assert xml.parse(GALLERY).getroot().tag.endswith("svg")

    def test_is_written_by_its_module(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["gallery", str(tmp_path / "it.svg")])
        gallery.main()
        assert re.findall(r"<!-- (\w+)", (tmp_path / "it.svg").read_text()) == list(REGISTRY)
        monkeypatch.setattr(sys, "argv", ["gallery"])
        with pytest.raises(SystemExit, match="usage"):
            gallery.main()


class TestPlot:
    EXPRESSION = "cosine(1e-3, steps=1000).warmup(50)"

    def test_as_text(self, capsys):
        assert cli.main(["plot", self.EXPRESSION]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == repr(parse(self.EXPRESSION)) and len(lines) == 10
        assert "highest 0.001, last 0" in lines[-1]
        heights = [sum(row[2:].ljust(72)[k] != " " for row in lines[1:9]) for k in range(72)]
        assert heights[0] == 0 and max(heights) == 8 and heights[71] == 0

    def test_as_json(self, capsys):
        assert cli.main(["plot", self.EXPRESSION, "--steps", "100", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        schedule = schedules.from_dict(document["schedule"])
        assert document["rates"] == schedule(document["t"]).tolist() and document["steps"] == len(document["t"]) == 100

    def test_to_a_file(self, tmp_path, capsys):
        assert cli.main(["plot", self.EXPRESSION, "--out", str(tmp_path / "a.svg")]) == 0
        assert self.EXPRESSION in (tmp_path / "a.svg").read_text()
        pytest.importorskip("matplotlib")
        assert cli.main(["plot", self.EXPRESSION, "--out", str(tmp_path / "a.png")]) == 0
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("arguments, message", [
        (["--out", "x.gif"], "--out must end in .svg or .png, got 'x.gif'"),
        (["--out", "no/such/folder/x.svg"], "No such file or directory"),
        (["--steps", "0"], "must be a whole number from 1 up, got '0'"),
    ])
    def test_a_wrong_argument_is_one_line(self, arguments, message, capsys):
        assert cli.main(["plot", self.EXPRESSION, *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and message in err and len(err.splitlines()) == 1

    def test_one_update(self, capsys):
        assert cli.main(["plot", "constant(0)", "--steps", "1"]) == 0
        assert cli.main(["plot", "linear(1, 10, end='error')", "--steps", "50"]) == 0


class TestLayerwise:
    NAMES = ["emb.w", "block.0.w", "block.0.b", "block.1.w", "block.1.b", "out"]

    def test_each_layer_further_from_the_output_is_slower(self):
        factors = schedules.layerwise(self.NAMES, 0.5)
        assert list(factors.values()) == [0.125, 0.25, 0.25, 0.5, 0.5, 1.0] and list(factors) == self.NAMES
        assert schedules.layerwise(self.NAMES, 0.5, layer=lambda name: name[0]) == dict(
            zip(self.NAMES, [0.25, 0.5, 0.5, 0.5, 0.5, 1.0], strict=True))
        assert schedules.layerwise([], 0.5) == {}

    def test_as_lr_scale(self):
        import fastlr

        params = {name: np.ones(2) for name in self.NAMES}
        opt = fastlr.SGD(params, lr=schedules.constant(0.1), lr_scale=schedules.layerwise(params, 0.5))
        opt.step({name: np.ones(2) for name in self.NAMES})
        assert [params[name][0] for name in self.NAMES] == pytest.approx(
            [1 - 0.1 * f for f in (0.125, 0.25, 0.25, 0.5, 0.5, 1.0)], rel=1e-15)


class TestManyHyperparameters:
    def test_several_at_once_per_group_and_resumed(self):
        import fastlr

        def start(at=None):
            p = [np.full(3, 1.0), np.full(2, -1.0)] if at is None else [x.copy() for x in at]
            cycle = schedules.one_cycle(0.1, 40)
            groups = [{"params": [p[0]]}, {"params": [p[1]], "lr": schedules.sine(0.01, 0.1, 5).noise(0.2),
                                           "weight_decay": schedules.linear(0.0, 20, 0.1)}]
            return p, fastlr.AdamW(groups, lr=cycle, beta1=cycle.momentum(), beta2=lambda t: 1 - 0.1 / (t + 1))
        def run(opt, p, n):
            for _ in range(n):
                opt.step([[np.sin(p[0])], [np.cos(p[1])]])
        p, opt = start()
        run(opt, p, 9)
        saved, at = opt.state_dict(), [x.copy() for x in p]
        run(opt, p, 20)
        q, again = start(at)
        again.load_state_dict(saved)
        run(again, q, 20)
        assert [x.tobytes() for x in p] == [x.tobytes() for x in q]


def test_other_frameworks_are_imported_at_first_use():
    code = (
        "import sys, fastlr; from fastlr import schedules; schedules.cosine(1, 10).warmup(3)(2); "
        "late = {'ast', 'torch', 'jax', 'keras', 'xml', 'hashlib', 'matplotlib'}; "
        "print([m for m in sys.modules if m in late - {'ast', 'hashlib'} "
        "or m.startswith('fastlr.schedules.') and m.split('.')[-1] in "
        "('traced', 'export', 'interchange', 'gallery', 'picture', 'expression')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert schedules.from_torch.__name__ == "from_torch" and schedules.parse is parse
    with pytest.raises(AttributeError, match="has no attribute 'cosin'"):
        _ = schedules.cosin
