"""Releases: what is listed of them, the page of a made-up run, and the gate on made-up counts. Nothing is timed here."""
import json
import re
import subprocess
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def version():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def hashes():
    return (BENCHMARKS / "releases.txt").read_text().split()


# What is listed


def test_releases_are_hashes_of_commits_in_their_order():
    assert hashes() and all(re.fullmatch("[0-9a-f]{40}", line) for line in hashes())
    if not (ROOT / ".git").exists():
        pytest.skip("no history here")
    for older, newer in zip(hashes(), [*hashes()[1:], "HEAD"], strict=True):
        known = subprocess.run(["git", "-C", ROOT, "merge-base", "--is-ancestor", older, newer])
        if known.returncode == 128:
            pytest.skip("a shallow clone")
        assert known.returncode == 0, f"{older} is not before {newer}"


def test_the_version_is_said_once():
    assert f"## {version()}" in (ROOT / "CHANGELOG.md").read_text().splitlines()[2]
    citation = (ROOT / "CITATION.cff").read_text()
    assert not re.search(r"^(version|date-released|commit):", citation, re.M)        # (pyproject.toml has it)
    assert "license: BSD-3-Clause" in citation


def test_each_counts_file_is_of_a_listed_release():
    for path in (BENCHMARKS / "history").glob("counts-*.json"):
        found = json.loads(path.read_text())
        assert found["hash"] in hashes() and path.name == f"counts-{found['version']}.json"
        assert found["counts"] and all(count >= 1 for count in found["counts"].values())
        assert {"compiler", "python", "numpy", "libc", "valgrind", "machine"} <= set(found["tools"])


def test_workloads_say_what_a_call_does_and_run():
    from release_workloads import facts, workloads

    known = workloads()
    assert len(known) == len(set(known))
    for name in ("call/1 x 64 passed", "cache/adamw float64", "rows/adam", "storage/adamw split master, cache",
                 "stage/clip_norm", "schedule/cosine, 10,000", "construct/adamw, 1 tensors of 8 x 8"):
        call = known[name]()
        call()
        assert known[name].facts["amount"] >= 1 and known[name].facts["unit"]
    assert known["cache/adamw float64"].facts["bytes"] == 16_384 * 8 * 7          # g, p twice, m twice, v twice
    assert facts()["state bytes"]["adamw"] == 8 and facts()["state arrays"]["adamw"] == 2


def test_every_group_of_workloads_has_a_title():
    from release_page import GROUPS
    from release_workloads import workloads

    assert {name.partition("/")[0] for name in workloads()} | {"import"} == set(GROUPS)


def test_the_page_of_asv_loads_copies_and_says_what_it_has_no_copy_of():
    from asv_page import COPIES, LOADED, VENDOR, local

    assert {path.name for path in VENDOR.iterdir()} == {*COPIES.values(), "README.md"}
    page = ('<script src="https://x.org/jquery-3.3.1.min.js" integrity="sha256-a" crossorigin="anonymous" onerror="f()">'
            '</script><link rel="stylesheet" href="https://y.org/bootstrap.min.css" integrity="b">'
            '<script src="asv.js"></script><script src="https://x.org/new.js"></script>')
    made = local(page)
    assert made.startswith('<script src="vendor/jquery.min.js" onerror="f()"></script>'
                           '<link rel="stylesheet" href="vendor/bootstrap.min.css"><script src="asv.js">')
    assert [match[4] for match in LOADED.finditer(made)] == ["https://x.org/new.js"]


# The gate


OLD = {"call/1": 1000.0, "cache/sgd": 50_000.0, "rows/adam": 7.0}
EMPTY = "# Changes\n\n## 0.3.0 (unreleased)\n\n- A line.\n\n## 0.2.0\n\n**Slower**\n- `*`: up to 50 % more instructions\n"


def changelog(*lines):
    return EMPTY.replace("- A line.\n", "**Slower**\n" + "".join(f"- {line}\n" for line in lines) + "\n**Other**\n- `x`\n")


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (1.01, True), (1.0101, False), (1.02, False), (0.5, True)])
def test_the_gate_fails_above_one_percent(factor, holds):
    from gate import judge

    lines, held = judge(OLD, OLD | {"cache/sgd": 50_000.0 * factor}, EMPTY)
    assert held == holds
    assert any(line.startswith("FAIL cache/sgd: 50,000 -> ") for line in lines) != holds


def test_the_gate_allows_what_changelog_says_of_this_version_and_no_more():
    from gate import judge

    more = OLD | {"cache/sgd": 52_000.0}
    assert judge(OLD, more, changelog("`cache/*`, `other`: up to 4 % more\n  instructions, for a reason"))[1] is False
    assert judge(OLD, more, changelog("`cache/*`: up to 4 % more\n  instructions, for a reason"))[1]
    assert not judge(OLD, more, changelog("`cache/*`: up to 3.9 % more instructions"))[1]
    assert not judge(OLD, more, changelog("`rows/*`: up to 9 % more instructions"))[1]
    close = changelog("`cache/*`: up to 2 % more instructions")         # (counts differ a little between processors)
    assert judge(OLD, OLD | {"cache/sgd": 50_000.0 * 1.008}, close)[1]
    assert not judge(OLD, OLD | {"cache/sgd": 50_000.0 * 1.006}, close)[1]


def test_the_gate_refuses_a_line_that_names_no_limit():
    from gate import allowed

    with pytest.raises(SystemExit, match="must say `up to N % more instructions`"):
        allowed(changelog("`cache/*` is slower"))
    assert allowed(EMPTY) == {}
    assert allowed(changelog("`a/*`, `b`: up to 2.5 % more instructions")) == {"a/*": 0.025, "b": 0.025}


def test_the_gate_fails_where_a_workload_is_gone_and_passes_a_new_one():
    from gate import judge

    lines, held = judge(OLD, {**OLD, "new/one": 5.0}, EMPTY)
    assert held and "1 are new" in lines[-1]
    lines, held = judge(OLD, {name: OLD[name] for name in ("call/1", "cache/sgd")}, EMPTY)
    assert not held and lines[0] == "FAIL rows/adam: is no longer there"


def test_the_changelog_of_this_checkout_can_be_read():
    from gate import allowed

    assert all(0.01 < limit < 1 for limit in allowed((ROOT / "CHANGELOG.md").read_text()).values())


# The page


def run(old=(1.0, 1.0, 1.0), new=(0.5, 0.5, 0.5), torch=(2.0, 2.0, 2.0)):
    """What release.py writes, of one workload with these seconds a call in each attempt."""
    seconds = {"0.1.0": old, "0.2.0": new, "torch": torch}
    return {
        "date": "2026-01-02", "budget, minutes": 3.0, "attempts": len(old), "machine": "a <machine>", "platform": "p",
        "tools": {"python": "3.11"}, "peers": {"torch": "2.13"}, "facts": {
            "0.1.0": {"state bytes": {"adam": 8.0}}, "0.2.0": {"state bytes": {"adam": 8.0, "adams": 4.0}}},
        "releases": [{"version": version, "hash": "c" * 40, "date": "2026-01-01", "build seconds": 60.0,
                      "wheel bytes": 2_000_000, "installed bytes": 6_000_000} for version in ("0.1.0", "0.2.0")],
        "counts": {"0.1.0": {"cache/adam float32": 1000.0}, "0.2.0": {"cache/adam float32": 1100.0}},
        "workloads": {"cache/adam float32": {
            "unit": "elements", "amount": 1000.0, "bytes": {"0.1.0": 28_000.0, "0.2.0": 28_000.0}, "lacks": {},
            "seconds": {who: [[each] * 5 for each in found] for who, found in seconds.items()}}}}


def test_what_looks_slower_is_measured_until_that_can_be_said(monkeypatch):
    import release
    from ab_verdict import SLOWER, verdict

    def result(now):
        return release.Result(seconds={"0.1.0": [[1.0] * 5] * 3, "0.2.0": [[now] * 5] * 3})

    measured = release.Run([release.Release(each, "", "", None, 0.0) for each in ("0.1.0", "0.2.0")], None)
    measured.results = {"slower": result(1.3), "same": result(1.0), "faster": result(0.5)}
    monkeypatch.setattr(measured, "children", lambda stack, number: {})

    def attempt(children, name):
        for seconds in measured.results[name].seconds.values():
            seconds.append(seconds[0])

    monkeypatch.setattr(measured, "attempt", attempt)
    measured.decide(3)
    assert [len(found.seconds["0.2.0"]) for found in measured.results.values()] == [5, 3, 3]
    found = measured.results["slower"].seconds
    assert verdict(release.ratios(found["0.2.0"], found["0.1.0"]), 0.03) == SLOWER


class Loaded(HTMLParser):
    """What a page would load; whether its elements are closed."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [given[name] for name in ("src", "href") if name in given]
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_is_well_formed():
    from release_page import page

    made, parser = page(run()), Loaded()
    parser.feed(made)
    assert not parser.open
    assert all(link.startswith(("#", "data:,")) for link in parser.found) and "#cache" in parser.found
    assert not re.search(r"https?:|@import|url\(", made) and "a &lt;machine&gt;" in made
    assert "prefers-color-scheme:dark" in made and "width=device-width" in made


def test_a_row_is_what_was_measured():
    from release_page import rows_of

    row, = rows_of(run())
    assert (row.speed, row.verdict) == (2.0, "faster")
    assert row.rates == {"0.1.0": 1000.0, "0.2.0": 2000.0, "torch": 500.0} and row.peers == {"torch": 4.0}
    assert row.counts == {"0.1.0": 1.0, "0.2.0": 1.1} and row.flags == ["faster", "more"]


def test_losses_are_shown_as_wins_are():
    from release_page import page, rows_of

    slower = run(new=(2.0,) * 5, old=(1.0,) * 5, torch=(1.0,) * 5)
    row, = rows_of(slower)
    assert (row.speed, row.verdict, row.flags) == (0.5, "SLOWER", ["slower", "behind", "more"])
    assert "0.50x \u25bc slower" in page(slower) and "1 slower than torch" in page(slower)
    faster = page(run())
    assert "2.00x \u25b2 faster" in faster and "0 slower than torch" in faster and "1 faster than torch" in faster


@pytest.mark.parametrize(("attempts", "said"), [(1, "few attempts"), (3, "same")])
def test_few_attempts_are_no_verdict(attempts, said):
    from release_page import rows_of

    row, = rows_of(run(*[(1.0,) * attempts] * 3))
    assert row.verdict == said


def test_a_workload_that_a_release_lacks_is_named():
    from release_page import page

    document = run()
    found = document["workloads"]["cache/adam float32"]
    del found["seconds"]["0.2.0"]
    found["lacks"] = {"0.2.0": "RuntimeError: <gone>"}
    assert "not in 0.2.0: RuntimeError: &lt;gone&gt;" in page(document)


@pytest.mark.parametrize(("value", "text"), [(7.18e9, "7.18\u202fG"), (999.0, "999"), (0.012, "0.012"), (1234.0, "1.23\u202fk")])
def test_amounts(value, text):
    from release_page import amount

    assert amount(value) == text


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, tmp_path, scheme, width):
    """No request, no message, nothing wider than the screen, the reader's colours, and a search that finds."""
    from release_page import page

    path = tmp_path / "releases.html"
    path.write_text(page(run()), encoding="utf-8")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    for kind in ("performance", "browser"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]

    def found(words):
        find = browser.find_element("id", "find")
        find.clear()
        find.send_keys(words)
        return browser.find_element("id", "said").text

    assert [found(words) for words in ("adam", "float32 adam", "state adams", "nothing")] == [
        f"{count} of 3 rows" for count in (3, 1, 1, 0)]
