"""What CONTRIBUTING.md says is so: its map is current, its paths exist, and its examples are built and run."""
import doctest
import importlib
import re
import runpy
import subprocess
import sys
from math import inf, log, log1p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
import reference_matrix
import reference_schedules
import test_rules

import fastlr
from fastlr import build_schedules
from fastlr.optimizers.base import REGISTRY
from fastlr.rules import RuleSignature
from fastlr.rules.signatures import BUILD_ID, SIGNATURES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = runpy.run_path(str(ROOT / "docs" / "module_map.py"))

RULES_HEAD = """# cython: language_level=3, cdivision=True
from libc.math cimport sqrt
from fastlr.rules.element cimport real, sign, square
from fastlr.rules.scalars cimport StepScalars

"""
SETUP = f"""
import gc
from Cython.Build import cythonize
from setuptools import Extension, setup
from fastlr.build import compile_flags, rules_extension

gc.disable()                           # (Cython takes half of the time)
matrix = Extension("row_normalized", ["row_normalized.pyx"], extra_compile_args=compile_flags(),
                   define_macros=[("FASTLR_LAYOUT", '"{BUILD_ID}"')])
setup(name="examples", packages=[], options={{"build_ext": {{"parallel": 2}}}},
      ext_modules=[rules_extension("contributed_rules", "contributed.pxd"), *cythonize([matrix], quiet=True)])
"""


def section(title, page=PAGE):
    """The text under a heading, to the next of its level or above."""
    level = title.partition(" ")[0]
    text = page.partition(f"\n{title}\n")[2]
    assert text, title
    return re.split(rf"^#{{2,{len(level)}}} ", text, maxsplit=1, flags=re.M)[0]         # (one # begins comments, too)


def blocks(text):
    """(language, code) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


# What it says of the files

def test_the_map_has_every_module_once_in_its_own_words():
    """python docs/module_map.py"""
    assert MAP["replaced"](PAGE) == PAGE
    names = [name for folder in MAP["modules"]().values() for name in folder]
    assert len(names) > 100 and {"plan", "moments", "tiles", "AdamW"} & set(names) == {"plan", "moments", "tiles"}
    lines = [line for folder in MAP["modules"]().values() for line in folder.values()]
    assert [line for line in lines if not line.endswith((".", "?")) or len(line) > 140] == []


@pytest.mark.parametrize("page", [PAGE, README], ids=["CONTRIBUTING", "README"])
def test_every_file_that_is_named_exists(page):
    named = set(re.findall(r"[`( ]((?:fastlr|tests|docs|benchmarks|parity|\.ci)/[\w./]*\w)", page))
    assert len(named) > 10
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_setting_up_takes_six_commands():
    commands = re.findall(r"^    (\S.*)$", section("## Set-up").partition("\nAfter a change")[0], re.M)
    assert len(commands) == 6
    shown = re.findall(r"^    (\S.*)$", section("## Developing", README), re.M)
    assert [line.partition("  ")[0] for line in shown] == commands


def test_a_gradient_passes_at_most_eight_files_none_twice():
    rows = re.findall(r"^\| `(fastlr/\S+)` \| `(\w+)` \|", section("## The path of a gradient"), re.M)
    files = [file for file, _ in rows]
    assert 6 <= len(files) <= 8 and len(set(files)) == len(files)
    for file, function in rows:
        assert re.search(rf"^\s*(?:def|cdef|cpdef)\b[^\n(]*\b{function}\(", (ROOT / file).read_text(), re.M), (file, function)


def test_a_stage_is_in_the_files_that_are_named():
    files = re.findall(r"^\| `(\S+)` \|", section("### ... a stage"), re.M)
    assert len(files) >= 6
    assert [file for file in files if "clip_value" not in (ROOT / file).read_text()] == []


# Its examples

@pytest.fixture(scope="module")
def built(tmp_path_factory, environment, compiler):
    """The compiled examples, as modules that can be imported."""
    folder = tmp_path_factory.mktemp("examples")
    rules = [dict(blocks(section(title)))["cython"] for title in ("### ... an elementwise rule", "### ... a reducing rule")]
    (folder / "contributed.pxd").write_text(RULES_HEAD + "\n\n".join(rules))
    (folder / "row_normalized.pyx").write_text(dict(blocks(section("### ... a matrix rule")))["cython"])
    (folder / "setup.py").write_text(SETUP)
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "-i", "-q"], cwd=folder, capture_output=True, text=True,
                          env=environment | {"FASTLR_VARIANTS": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    before = dict(REGISTRY)
    yield folder
    sys.path.remove(str(folder))
    REGISTRY.clear()
    REGISTRY.update(before)


def run_class(code, name, monkeypatch):
    """Execute a class statement as if it stood in fastlr/optimizers, and run its examples."""
    from fastlr.optimizers import matrix

    namespace = {"__name__": "fastlr.optimizers.example", "Optimizer": fastlr.Optimizer, "Matrix": matrix.Matrix,
                 "Hyper": fastlr.Hyper, "within": fastlr.within}
    exec(code, namespace)
    monkeypatch.setattr(fastlr, name, namespace[name], raising=False)
    test = doctest.DocTestParser().get_doctest(namespace[name].__doc__, {}, name, "CONTRIBUTING.md", 0)
    assert test.examples and doctest.DocTestRunner().run(test).failed == 0
    return namespace[name]


@pytest.mark.parametrize(("title", "name"), [
    ("### ... an elementwise rule", "AddSign"), ("### ... a reducing rule", "NormalizedSGD")])
def test_the_examples_of_rules_follow_their_references(built, title, name, monkeypatch):
    _, (_, statement), (_, formula) = blocks(section(title))
    monkeypatch.setitem(SIGNATURES, name, RuleSignature(
        "contributed_rules", **importlib.import_module("contributed_rules").RULES[name][1]))
    cls = run_class(statement, name, monkeypatch)
    written = dict(vars(reference))
    exec(formula, written)
    monkeypatch.setattr(reference, name, written[name], raising=False)
    for dtype in (np.float32, np.float64):
        assert 0 < test_rules.follows(cls, dtype, {}) <= test_rules.allowed(cls)


def test_the_example_of_a_matrix_rule_follows_its_reference(built, monkeypatch):
    _, (_, statement), (_, formula) = blocks(section("### ... a matrix rule"))
    cls = run_class(statement.replace("fastlr._matrix.row_normalized", "row_normalized"), "RowNormalizedSGD", monkeypatch)
    written = dict(vars(reference_matrix))
    exec(formula, written)
    rng = np.random.default_rng(0)
    for shape in ((7, 40), (300, 900), (6000,), (3, 4, 5)):
        p, g = rng.normal(size=(2, *shape))
        q = p.copy()
        cls(p, lr=0.1, eps=1e-3).step(g)
        assert np.allclose(p, written["RowNormalizedSGD"](q, g, 1, {}, lr=0.1, eps=1e-3), rtol=0, atol=1e-15)


def test_the_example_of_a_schedule_is_one():
    (_, curve), (_, statement), (_, formula) = blocks(section("### ... a schedule"))
    (read,) = build_schedules.curves_of(curve)

    class Curve:
        def __init_subclass__(cls, example):
            cls.example = example

    namespace = {"Curve": Curve, "Any": Any, "inf": inf, "rate": lambda: None, "within": lambda *bounds: None}
    exec(statement, namespace)
    cls = namespace[read.name]
    assert (read.struct, read.fields) == ("Logarithmic", tuple(cls.__annotations__))
    written = {"accurate": lambda ulps: lambda function: function, "log": log}
    exec(formula, written)
    h = SimpleNamespace(lr=0.1, decay=0.7)
    for t in (0, 1, 10, 1e6):
        assert cls._formula(h, np, t) == pytest.approx(written[read.name](t, 0.1, 0.7), rel=1e-14)
        assert 0.1 / (1 + 0.7 * log1p(t)) == pytest.approx(written[read.name](t, 0.1, 0.7), rel=1e-14)
    assert "log1p" in curve and hasattr(reference_schedules, "accurate")
