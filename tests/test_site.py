"""The documentation site: its sources link to what exists; its own checks see what is wrong; and where Sphinx is, it is built.

CI builds it in an environment of its own: `pip install '.[docs]'`, `sphinx-build -W -b html docs build/site`.
"""
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlr
from fastlr.optimizers.rule_class import REGISTRY

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.glob("*.md"))]
HAS_SPHINX = all(importlib.util.find_spec(name) for name in ("sphinx", "furo", "myst_parser", "math_core", "contourpy"))
PARSER = r"(?<!!)\[[^\]]*\]\(<?([^)>\s]+)>?\)"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(text):
    """The names that GitHub and MyST give to headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_what_exists(page):
    for target in re.findall(PARSER, without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", target) or "generated/" in target:       # (those: test_the_site_is_built)
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_every_page_is_in_the_contents():
    listed = re.findall(r"^([\w/]+)$", "".join(re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S)),
                        re.M)
    assert sorted(name for name in listed if "/" not in name) == sorted(path.stem for path in DOCS.glob("*.md")
                                                                        if path.stem != "index")


def test_every_convention_of_a_library_is_in_its_table():
    names = loaded("peer_names")
    for library, peers in names.OPTIMIZERS.items():
        assert sorted(peers.values()) == sorted(cls.__name__ for cls in REGISTRY.values() if library in cls.conventions
                                                and cls.__module__.startswith("fastlr.")), library
        assert {key for lib, key in names.EXCEPT if lib == library} <= set(peers)


def test_names_of_another_library_are_those_of_hyper_parameters():
    names = loaded("peer_names")
    assert names.renamed("keras", "Adam()", fastlr.Adam) == {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2",
                                                             "eps": "epsilon"}
    assert names.renamed("torch", "Muon()", fastlr.Muon)["norm_eps"] == "eps"
    assert "beta1" not in names.renamed("torch", "Muon()", fastlr.Muon)


def test_the_page_on_rates_has_every_kind_of_finding():
    from fastlr.monitor.diagnosis import KINDS

    text = (DOCS / "learning_rate.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_the_rates_to_begin_with_are_the_defaults():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([\d.]+) \|", (DOCS / "learning_rate.md").read_text(), re.M)
    found = {name: float(rate) for names, rate in rows for name in re.findall(r"\w+", names)}
    assert len(found) == 14
    assert found == {name: getattr(fastlr, name).hypers["lr"].default for name in found}


@pytest.mark.parametrize(("latex", "parts"), [
    (r"a \quad b", ["a", "b"]), (r"a, \\ b", ["a,", "b"]), ("a\n\nb", ["a", "b"]), (r"x_{a \quad b}", [r"x_{a \quad b}"]),
    (r"\left( a \quad b \right) \quad c", [r"\left( a \quad b \right)", "c"]), (r"\{ a \quad b", [r"\{ a", "b"]),
    (r"\begin{cases} a \\ b \end{cases}", [r"\begin{cases} a \\ b \end{cases}"]),
])
def test_a_formula_is_cut_between_its_parts(latex, parts):
    pytest.importorskip("sphinx")
    pytest.importorskip("math_core")
    assert loaded("mathml").parts(latex) == parts


GOOD = '<html><body><a href="b.html#there">b</a><a href="https://example.org/x">out</a><img src="data:,"></body></html>'


@pytest.mark.parametrize(("page", "said"), [
    (GOOD, None),
    ('<a href="c.html">c</a>', "a.html: c.html leads to no file"),
    ('<a href="b.html#nowhere">b</a>', "a.html: b.html#nowhere leads to no element of that name"),
    ('<a href="#nowhere">b</a>', "a.html: #nowhere leads to no element of that name"),
    ('<script src="https://example.org/x.js"></script>', "a.html: loads https://example.org/x.js"),
    ('<link rel="stylesheet" href="//example.org/x.css">', "a.html: loads //example.org/x.css"),
    ('<img src="missing.png">', "a.html: missing.png leads to no file"),
])
def test_the_check_of_links_sees_what_is_wrong(tmp_path, page, said):
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    assert loaded("check_links").faults(tmp_path) == ([] if said is None else [said])


def test_the_check_of_links_reads_styles(tmp_path):
    (tmp_path / "a.html").write_text("<p>a")
    (tmp_path / "a.css").write_text('a { background: url("b.png") } @import "https://example.org/x.css";')
    assert loaded("check_links").faults(tmp_path) == ["a.css: loads https://example.org/x.css"]
    assert loaded("check_links").faults(tmp_path / "none") == [f"{tmp_path / 'none'} has no pages"]


def rows(*cells):
    return "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)


CODE = '<code class="docutils">{}</code>'
#: As on the pages: an optimizer's arguments, names of another library, figures; each with a picture of a whole page.
TABLES = [
    rows(*((CODE.format(name), "0.001", "[0, inf)", "0.001", "1e-08", "0.001") for name in ("lr", "weight_decay"))),
    rows((CODE.format("NAdam(decoupled_weight_decay=True)"), CODE.format("NAdamW"),
          f"kept with {CODE.format('convention=')}: {CODE.format('weight_decay')} 0.01, there 0")),
    rows(("10,000 rows of a million by 64", "18 times as fast as SparseAdam", CODE.format("python benchmarks/rows.py"))),
    rows((CODE.format("adjust"), CODE.format("'match_rms_adamw'"), CODE.format("'match_rms_adamw', 'original', 'spectral'"),
          CODE.format("'match_rms_adamw'"))),
]


@pytest.mark.parametrize("table", TABLES, ids=["arguments", "names", "figures", "words"])
def test_tables_and_pictures_fit_a_phone(browser, tmp_path, table):
    style = (DOCS / "static" / "site.css").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(
        f'<meta name="viewport" content="width=device-width"><style>body {{ margin: 13px; font: 16px sans-serif }} '
        f'code {{ font: 81% monospace }} table {{ border-spacing: 0 }} {style}</style>'
        f'<table class="docutils">{table}</table><p><img width="1240" height="904" src="data:image/svg+xml,'
        f"<svg xmlns='http://www.w3.org/2000/svg'/>\"></p>")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})
    browser.get((tmp_path / "page.html").as_uri())
    sizes = browser.execute_script("return ['table', 'img', 'html'].map(name => document.querySelector(name).scrollWidth)")
    assert sizes[0] <= 364 and sizes[1] == 364 and sizes[2] == 390, sizes
    assert browser.execute_script("return getComputedStyle(document.querySelector('td')).position") == "sticky"


@pytest.mark.skipif(not HAS_SPHINX, reason="needs pip install '.[docs]'")
def test_the_site_is_built(tmp_path):
    site = tmp_path / "site"
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", tmp_path / "trees",
                           DOCS, site], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert loaded("check_links").faults(site) == []
    for name in fastlr.list_optimizers():
        if REGISTRY[name].__module__.startswith("fastlr."):
            page = (site / "generated" / "optimizers" / f"{name}.html").read_text()
            assert "<math" in page and page.count('class="picture"') == 2
            assert re.search(r"<dt><code[^>]*><span[^>]*>state_dtype</span>", page)           # (an entry, not a line of prose)
            assert ".. code-block" not in re.sub(r"<[^>]*>", "", page)
    for name in fastlr.schedules.list_schedules():
        assert (site / "generated" / "schedules" / f"{name}.html").exists()
