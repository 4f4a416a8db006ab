"""The table of curves that is written when fastlr is built: what it reads, what it refuses."""
import importlib.util
import re
from pathlib import Path

import pytest

import fastlr
from fastlr import build_schedules as build
from fastlr._engine.compiled_schedule import CURVE_FIELDS

CURVES = Path(fastlr.__file__).with_name("curves.pxd")
SCALED = """
cdef struct Scaled:
    double lr, steps       # a comment
    double final

cdef inline double scaled({arguments}) noexcept nogil:
    return h.lr
"""


def test_the_compiled_table_is_that_of_the_file():
    curves = build.curves_of(CURVES.read_text())
    assert {curve.name: curve.fields for curve in curves} == CURVE_FIELDS
    text = build.table_of(curves, "curves.pxd")
    for curve in curves:
        assert len(re.findall(rf"curves\.{curve.name}\(h, ", text)) == 2, curve.name       # a number, a block
    assert [curve.name for curve in curves if curve.cached] == ["cosine_restarts"]


def test_a_curve_has_as_many_numbers_and_powers_as_a_node_has_room_for():
    curves = build.curves_of(CURVES.read_text())
    assert {len(numbers) for *_, numbers in fastlr.schedules.cosine(0.1, steps=9).warmup(3)._nodes()} == \
        {build.MAX_NUMBERS}
    assert max(len(curve.bases) for curve in curves) <= build.MAX_POWERS < build.MAX_NUMBERS


def test_a_signature_says_the_powers_and_where_their_bases_are():
    text = SCALED.format(arguments="Scaled h, const Power* ratio,\n    const Power* final, Cycle* cache, double t")
    text += "\ncdef inline double scaled_ratio(Scaled h) noexcept nogil:\n    return h.final / h.lr\n"
    (curve,) = build.curves_of(text)
    assert curve.fields == ("lr", "steps", "final") and curve.bases == ("curves.scaled_ratio(h)", "h.final")
    assert curve.cached and "curves.scaled(h, &known[0], &known[1], &cache, t[k])" in build.functions_for(curve)


@pytest.mark.parametrize("arguments, message", [
    ("Scaled h, double t, int n", r"scaled must have the arguments \(Scaled h, \[const Power\* X, ...\] \[Cycle\* cache,\] "
                                  r"double t\), got \(Scaled h, double t, int n\)"),
    ("Scaled h, double power, double t", "scaled must have the arguments"),
    ("double t, Scaled h", "struct Scaled needs the function `cdef inline double scaled"),
    ("Scaled h, const Power* ratio, double t", r"a Power ratio: its struct needs a field of this name, or the file a "
                                               r"function scaled_ratio\(Scaled h\)"),
    ("Scaled h, const Power* lr, const Power* lr, const Power* lr, const Power* lr, double t", "at most 3 of lr"),
])
def test_a_signature_that_cannot_be_read_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=f"^curves.pxd: .*{message}"):
        build.curves_of(SCALED.format(arguments=arguments))


def test_a_struct_that_cannot_be_read_is_one_clear_error():
    text = SCALED.format(arguments="Scaled h, double t")
    with pytest.raises(ValueError, match="struct Scaled must hold doubles only, got 'int steps'"):
        build.curves_of(text.replace("double final", "int steps"))
    with pytest.raises(ValueError, match="scaled may have at most 8 of"):
        build.curves_of(text.replace("final", "a, b, c, d, e, f, g"))
    with pytest.raises(ValueError, match="struct Scaled needs the function"):
        build.curves_of(text.replace("double scaled(", "double misspelt("))
    assert build.curves_of("cdef struct Cycle:\n    double begin, end\n\n") == []


def test_a_table_that_would_not_change_is_not_written(tmp_path):
    target = tmp_path / "new" / "table.pxi"
    build.write_table(CURVES, target)
    before = target.stat().st_mtime_ns
    build.write_table(CURVES, target)
    assert target.stat().st_mtime_ns == before
    target.write_text("other")
    build.write_table(CURVES, target)
    assert "cdef double constant_at" in target.read_text()


def test_the_module_needs_no_other_of_fastlr():
    """setup.py runs it before anything is built."""
    spec = importlib.util.spec_from_file_location("alone", build.__file__)
    alone = importlib.util.module_from_spec(spec)
    assert not re.search(r"^(from|import) (\.|fastlr)", Path(build.__file__).read_text(), re.MULTILINE)
    import sys

    sys.modules["alone"] = alone       # (dataclasses look their module up)
    try:
        spec.loader.exec_module(alone)
    finally:
        del sys.modules["alone"]
    assert len(alone.curves_of(CURVES.read_text())) == len(CURVE_FIELDS)
