"""What `fastlr.build` reads in a `.pxd` file, what it writes, and in which words it refuses what it cannot read."""
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlr
from fastlr import build, build_loops, build_rules, build_schedules
from fastlr.rules.signatures import SIGNATURES

STRANGERS = (Path(__file__).with_name("stranger_rules") / "mypkg" / "rules.pxd").read_text()
HEAD = """# cython: language_level=3, cdivision=True
from fastlr.rules.element cimport real
from fastlr.rules.scalars cimport StepScalars

"""
PLAIN = HEAD + """cdef struct Plain:
    double rate

cdef inline void plain(Plain h, StepScalars now, real* p, real g, real* m) noexcept nogil:
    m[0] = <real>h.rate * m[0] + g
    p[0] = p[0] - <real>now.lr * m[0]
"""
SUMMED = PLAIN + """
cdef struct PlainTerms:
    double squares

cdef struct PlainScalars:
    double factor

cdef inline void plain_terms(Plain h, real g, PlainTerms* terms) noexcept nogil:
    terms.squares = <double>g * <double>g

cdef inline void plain_finish(Plain h, PlainScalars* s, const PlainTerms* sums) noexcept nogil:
    s.factor = sums.squares
"""


def only(text):
    rule, = build_rules.read_rules(text)
    return rule


def changed(text, *pairs):
    """A text with parts of it replaced, each of which is there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


# What is read

def test_a_rule_is_read_from_its_struct_and_functions():
    heavyball, layerwise = build_rules.read_rules(STRANGERS)
    assert (heavyball.name, heavyball.hypers, heavyball.function) == ("HeavyBall", ["momentum", "dampening"], "heavyball")
    assert [slot.name for slot in heavyball.slots] == ["m"]
    assert {piece: name for piece, (name, _) in heavyball.pieces.items()} == {"scalars": "heavyball_scalars"}
    assert heavyball.structs == {"scalars": ["grad_weight"]} and not heavyball.flags
    assert set(layerwise.pieces) == {"terms", "finish"}
    assert layerwise.structs == {"scalars": ["rate"], "terms": ["param_squares", "grad_squares"]}
    assert layerwise.flags == {"depends_on_param", "decay_inside_update"}
    assert build_rules.signature(layerwise) == {
        "hypers": ("momentum", "trust_coefficient", "eps", "weight_decay"), "slots": ("m",), "memory": (), "shared": (),
        "sums": ("param_squares", "grad_squares"), "depends_on_param": True, "nonnegative": (), "position": ()}


def test_parameters_may_stand_in_any_order_over_several_lines_and_be_left_out():
    text = changed(PLAIN, ("plain(Plain h, StepScalars now, real* p, real g, real* m)",
                           "plain(Plain h, real* m,\n                   real g, real v, const StepScalars *now,\n real *p)"))
    rule = only(text)
    assert [(p.kind, p.name, p.pointer) for p in rule.parameters] == [
        ("hypers", "h", False), ("slot", "m", True), ("g", "g", False), ("slot", "v", False), ("now", "now", True),
        ("p", "p", True)]
    assert [slot.name for slot in rule.slots] == ["m", "v"]


def test_a_struct_that_is_empty_but_for_an_underscore_has_no_hyper_parameters():
    assert only(changed(PLAIN, ("double rate", "double _"))).hypers == []


def test_functions_are_shared_through_a_fused_type():
    text = changed(PLAIN, ("cdef inline void plain(Plain h", """cdef struct PlainLate:
    double rate

ctypedef fused AnyPlain:
    Plain
    PlainLate

cdef inline void plain(AnyPlain h"""))
    assert [(rule.name, rule.function) for rule in build_rules.read_rules(text)] == [("Plain", "plain"), ("PlainLate", "plain")]


def test_traits_are_one_line_for_some_rules():
    rule = only("# traits of Plain: nonnegative(m), prefetch, depends_on_param\n" + PLAIN)
    assert (rule.flags, rule.lists) == ({"prefetch", "depends_on_param"}, {"nonnegative": ("m",)})


def test_the_rules_of_fastlr_are_what_its_signatures_say():
    found = {}
    for path in (Path(fastlr.__file__).parent / "rules").glob("*.pxd"):
        if path.stem not in ("__init__", "element", "scalars"):
            found |= {rule.name: build_rules.signature(rule) for rule in build_rules.read_rules(path.read_text())}
    assert found == {name: {field: getattr(rule, field) for field in rule.__slots__ if field != "module"}
                     for name, rule in SIGNATURES.items()}


# What is written

def test_the_loops_of_a_rule_hold_its_call_and_its_table():
    text = build_loops.generate(STRANGERS, "mypkg.rules")
    assert "from mypkg.rules cimport (" in text
    for c in ("float", "double"):
        assert f"cdef void heavyball_step_{c}(const double* hyper, const StepScalars* now, {c}* restrict p, " in text
        assert f"p_i = <{c}>now.decay_factor * p[i]" in text
        assert f"cdef void layerwise_terms_{c}(" in text
    assert "heavyball(h, now, s, &p_i, g[i], &slot_m_i)" in text
    assert "slot_m[i] = slot_m_i" in text and "p[i] = p_i" in text
    assert "layerwise_table.hypers, layerwise_table.slots, layerwise_table.memories, layerwise_table.shared, " \
           "layerwise_table.sums = 4, 1, 0, 0, 2" in text
    assert "heavyball_table.scalars = &heavyball_scalars_of" in text and "heavyball_table.finish =" not in text
    assert "layerwise_table.finish = &layerwise_finish_of" in text and "layerwise_table.scalars =" not in text
    assert "totals[1] += fold_lanes(lane)" in text
    assert text.count('PyCapsule_New(&') == 2 and "prefetch_ahead(" not in text


def test_a_slot_that_is_only_read_is_not_written():
    text = build_loops.generate(changed(PLAIN, ("real* m)", "real m)"), ("m[0] = <real>h.rate * m[0] + g", "pass"),
                                  ("* m[0]", "* m")), "rules")
    assert "plain(h, now, &p_i, g[i], slot_m_i)" in text and "slot_m[i] = slot_m_i" not in text


def test_prefetching_is_a_trait():
    assert "prefetch_ahead(slot_m + i)" in build_loops.generate("# traits of Plain: prefetch\n" + PLAIN, "rules")


def test_the_checksum_of_declarations_changes_with_them_and_with_nothing_else():
    text = "cdef struct A:\n    int x      # a comment\n    double y\n\ncdef int f() noexcept:\n    return 1\n"
    same = [text.replace("# a comment", "# another"), text.replace("return 1", "return 2"), "# before\n" + text,
            text.replace("int x   ", "int  x ")]
    other = [text.replace("int x", "long x"), text.replace("double y", "double z"), text.replace("struct A", "struct B"),
             text.replace("    int x      # a comment\n    double y", "    double y\n    int x")]
    known = build.declarations_id([text])
    assert re.fullmatch("[0-9a-f]{8}", known)
    assert {build.declarations_id([each]) for each in same} == {known}
    assert known not in {build.declarations_id([each]) for each in other}


def test_cython_sees_what_a_module_depends_on():
    """Of `from package cimport module` it does not see the module, and would not build again when that changes."""
    root = Path(fastlr.__file__).parent
    texts = {path: path.read_text() for path in root.rglob("*.p[xy][dxi]")}
    texts["curve_table.pxi"] = build_schedules.table_of(
        build_schedules.curves_of(texts[root / "curves.pxd"]), "curves.pxd")
    assert len(texts) > 20 and "cimport fastlr.curves as curves" in texts["curve_table.pxi"]
    for path, text in texts.items():
        for package, name in re.findall(r"^from ([\w.]+) cimport (\w+)$", text, re.M):
            assert not (root.parent / package.replace(".", "/") / f"{name}.pxd").exists(), (path, package, name)


def test_a_file_that_is_as_it_should_be_is_left_untouched(tmp_path):
    path = tmp_path / "deep" / "file"
    build.write_if_changed(path, "text")
    before = path.stat().st_mtime_ns
    build.write_if_changed(path, "text")
    assert path.stat().st_mtime_ns == before
    build.write_if_changed(path, "other")
    assert path.read_text() == "other"


# What is refused

WRONG = [
    (changed(PLAIN, ("cdef inline void plain", "cdef inline void plane")),
     "Plain: needs a function plain(Plain h, ..., real* p, real g, ...) that moves one element; a struct that is no rule"),
    (changed(PLAIN, ("double rate", "float rate")), "Plain: hyper-parameters must be double, got float"),
    (changed(PLAIN, ("double rate", "double rate[2]")), "Plain: hyper-parameters must be double, got double rate[2]"),
    (changed(PLAIN, ("double rate", "double rate, lr")), "Plain: lr is of every rule; leave it out of the struct and take now.lr"),
    (changed(PLAIN, ("double rate", "pass")), "Plain: hyper-parameters must be double, got pass"),
    (changed(SUMMED, ("double squares", "float squares")), "PlainTerms: members must be double, got float squares"),
    (changed(SUMMED, ("double factor", "int factor")), "PlainScalars: members must be double, got int factor"),
    (changed(PLAIN, ("real g,", "real* g,")), "plain: must take `real* p` and `real g`"),
    (changed(SUMMED, ("terms(Plain h, real g", "terms(Plain h, real* g")), "plain_terms: must take `real g`"),
    (changed(SUMMED, ("terms(Plain h,", "terms(Plain h, double size,")), "plain_terms: cannot read the parameter `double size`"),
    (changed(PLAIN, ("real* p", "real p")), "plain: must take `real* p` and `real g`"),
    (changed(PLAIN, (", real g", "")), "plain: must take `real* p` and `real g`"),
    (changed(PLAIN, ("StepScalars now", "long now")), "plain: cannot read the parameter `long now`"),
    (changed(PLAIN, ("real* m)", "real[4] m)")), "plain: cannot read the parameter `real[4] m`"),
    (changed(PLAIN, ("real* m)", "real*)")), "plain: cannot read the parameter `real* *`"),
    (changed(PLAIN, ("real* m)", "real* m, real* m)")), "plain: has two parameters named m"),
    (changed(PLAIN, ("real* m)", "real* m, double rest)")), "plain: cannot read the parameter `double rest`"),
    (changed(PLAIN, ("real* m)", "real* a, real* b, real* c, real* d, real* e)")),
     "Plain: has 5 slots (a, b, c, d, e), at most 4 are possible"),
    (changed(PLAIN, ("double rate", "double " + ", ".join(f"h{k}" for k in range(13)))),
     "Plain: has 13 hyper-parameters (h0, h1, "),
    (changed(SUMMED, ("double squares", "double squares, b, c, d, e")),
     "Plain: has 5 sums (squares, b, c, d, e), at most 4 are possible"),
    (changed(SUMMED, ("double factor", "double " + ", ".join(f"s{k}" for k in range(9)))), "Plain: has 9 scalars (s0, "),
    (changed(SUMMED, ("real g, PlainTerms* terms", "real g")),
     "Plain: needs both plain_terms and the struct of its sums, or neither"),
    (changed(SUMMED, ("plain_terms(", "plain_sums(")), "Plain: needs both plain_terms and the struct of its sums"),
    (changed(SUMMED, ("real g, PlainTerms* terms", "real g, real* w, PlainTerms* terms")),
     "plain_terms: takes the slot 'w', which plain has not"),
    (changed(SUMMED, ("real g, PlainTerms* terms", "real g, real* m, PlainTerms* terms")),
     "Plain: slots move either in plain_terms or in plain, not in both"),
    (changed(SUMMED, ("plain_terms(Plain h, real g", "plain_normed(Plain h, real g, real* m")),
     "plain_normed: must take `real m`, which does not move there"),
    (changed(SUMMED, ("plain_terms(", "plain_normed("), ("plain_finish(", "plain_finish_all(")),
     "Plain: plain_finish_all is given sums, not norms; leave out plain_normed"),
    (changed(SUMMED, ("cdef struct PlainTerms", "cdef struct OtherTerms")), "there is no struct PlainTerms"),
    (changed(PLAIN, ("StepScalars now,", "StepScalars now, LostScalars s,")), "plain: there is no struct LostScalars"),
    (changed(PLAIN, ("StepScalars now,", "StepScalars now, PlainScalars s,")) + "\ncdef struct PlainScalars:\n    double a\n",
     "Plain: nothing fills PlainScalars; write plain_scalars"),
    (changed(SUMMED, ("PlainScalars* s", "PlainScalars s"), ("    s.factor = sums.squares", "    pass")),
     "Plain: nothing fills PlainScalars; write plain_scalars"),
    ("# traits of Plain: fast\n" + PLAIN, "traits of Plain: unknown trait 'fast'; known: decay_inside_update, depends_on_param"),
    ("# traits of Plain: nonnegative\n" + PLAIN, "traits of Plain: unknown trait 'nonnegative'"),
    ("# traits of Plain: nonnegative(v)\n" + PLAIN, "Plain: nonnegative(v): has no slot 'v'; it has m"),
    ("# traits of Plane: prefetch\n" + PLAIN, "traits of Plane: there is no struct of that name"),
    ("# of a rule traits of Plain: prefetch\n" + PLAIN, "'# of a rule traits of Plain: prefetch': traits stand on a line of"),
    (PLAIN.replace("    double rate", "    double rate    # traits of Plain: prefetch"), "traits stand on a line of their own"),
    (HEAD, "mypkg.rules: holds no rule: no `cdef struct` with a function of its name in lower case"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_what_cannot_be_read_is_refused_in_words(text, says):
    with pytest.raises(build.RuleError, match=re.escape(says)):
        build_loops.generate(text, "mypkg.rules")


def test_a_package_that_cannot_be_built_says_why_in_one_line(tmp_path, environment):
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").touch()
    (tmp_path / "mypkg" / "rules.pxd").write_text(WRONG[0][0])
    (tmp_path / "setup.py").write_text("from setuptools import setup\nfrom fastlr.build import rules_extension\n"
                                       "setup(ext_modules=[rules_extension('mypkg._rules', 'mypkg/rules.pxd')])\n")
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "-i"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("fastlr.build.RuleError: mypkg/rules.pxd: Plain: needs a function plain(")


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(build.RuleError, match=r"rules_extension\('mypkg._rules'\): there is no file mypkg/rules.pxd"):
        build.rules_extension("mypkg._rules", "mypkg/rules.pxd")
    (tmp_path / "rules.txt").write_text(PLAIN)
    with pytest.raises(build.RuleError, match=r"rules_extension\('x'\): expected the path of a \.pxd file"):
        build.rules_extension("x", "rules.txt")
    with pytest.raises(build.RuleError, match=r"from the folder of setup\.py"):
        build.rules_extension("x", tmp_path / "rules.pxd")


# Which instruction sets the compiler compiles for

X86 = pytest.mark.skipif("x86_64" not in platform.machine(), reason="asks a compiler of x86-64")


@pytest.fixture
def compilable(monkeypatch):
    """What is compiled for, with another compiler."""
    def asked(compiler, variants=build.VARIANTS):
        monkeypatch.setenv("CC", compiler)
        build.compilable.cache_clear()
        return build.compilable(variants)

    yield asked
    build.compilable.cache_clear()


@X86
def test_the_compiler_is_asked_for_which_instruction_sets_it_compiles(compilable, capfd):
    assert compilable("cc") == build.VARIANTS and compilable("cc", ("v4",)) == ("v4",)
    assert capfd.readouterr() == ("", "")


@X86
def test_a_compiler_for_another_processor_has_none_and_says_nothing(compilable, capfd):
    assert compilable("cc -U__x86_64__") == ()
    assert capfd.readouterr() == ("", "")


@X86
def test_an_instruction_set_that_the_compiler_lacks_is_left_out_in_one_line(compilable, tmp_path, capfd):
    old = tmp_path / "old-cc"
    old.write_text('#!/bin/sh\nfor file; do case "$file" in *.c) grep -q x86-64-v4 "$file" && exit 1;; esac; done\n'
                   'exec cc "$@"\n')
    old.chmod(0o755)
    assert compilable(str(old)) == ("v3",)
    assert capfd.readouterr() == ("", f"fastlr: {old} does not compile for x86-64-v4; that variant is left out\n")


def test_fewer_instruction_sets_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(build, "compilable", lambda variants: variants)
    for asked, found in (("v4", ("v4",)), ("", ()), ("v4,v3", ("v3", "v4"))):
        monkeypatch.setenv("FASTLR_VARIANTS", asked)
        assert build.built_variants() == found
    monkeypatch.delenv("FASTLR_VARIANTS")
    assert build.built_variants() == build.VARIANTS
