"""docs/numba.md: compiled functions of numba step by the C table, with the bits of Python."""
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from registry import bits
from test_docs import files_of

import fastlr

pytest.importorskip("numba")

PAGE = Path(__file__).parent.parent / "docs" / "numba.md"


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The page's files, imported."""
    found, folder = files_of(PAGE), tmp_path_factory.mktemp("numba")
    names = ["fastlr_table", "plans", "rules"]
    assert set(found) == {None, *(f"{name}.py" for name in names)}
    for name in names:
        (folder / f"{name}.py").write_text(found[f"{name}.py"][0])
    sys.path.insert(0, str(folder))
    try:
        yield folder, {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(folder))
        for name in names:
            del sys.modules[name]


def test_a_plan_is_stepped_by_compiled_code_with_the_bits_of_python(modules):
    table, descend = modules[1]["fastlr_table"].table, modules[1]["plans"].descend
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    found = []
    for compiled in (True, False):
        w, b = np.zeros(3), np.zeros(1)
        g_w, g_b = np.zeros(3), np.zeros(1)
        opt = fastlr.AdamW([w, b], lr=fastlr.schedules.cosine(0.1, steps=40), clip_norm=0.5, ema_decay=0.9)
        if compiled:
            plan = table.plan_of(opt)
            assert descend(plan, w, b, g_w, g_b, x, y, 30) == 0
            assert table.plan_free(plan) == 0
            assert descend(plan, w, b, g_w, g_b, x, y, 30) != 0        # (a plan that was freed)
        else:
            for _ in range(30):
                gradients(w, b, g_w, g_b, x, y)
                opt.step([g_w, g_b])
        found.append((opt.t, opt.grad_norm, bits([w, b, *opt.ema.values(), *opt.state["0"].values()])))
    assert found[0] == found[1] and found[0][0] == 30


def gradients(w, b, g_w, g_b, x, y):
    """As the page computes them, sum by sum."""
    g_w[:] = g_b[:] = 0
    for i in range(len(y)):
        error = b[0] - y[i]
        for k in range(len(w)):
            error += w[k] * x[i, k]
        for k in range(len(w)):
            g_w[k] += error * x[i, k] / len(y)
        g_b[0] += error / len(y)


def test_a_rule_is_stepped_by_compiled_code_with_the_bits_of_python(modules):
    minimize, target = modules[1]["rules"].minimize, np.arange(5.0)
    p, m, v = np.ones(5), np.zeros(5), np.zeros(5)
    assert minimize(p, m, v, target, 0.1, 50) == 0
    q, n, w = np.ones(5), np.zeros(5), np.zeros(5)
    for t in range(50):
        fastlr.kernels.adamw(q, q - target, n, w, t=t + 1, lr=0.1, weight_decay=0.0)
    assert bits([p, m, v]) == bits([q, n, w])
    assert minimize(p, m, v, target, -1.0, 1) != 0 and bits([p]) == bits([q])


def test_the_program_prints_what_it_found(modules, environment):
    block = files_of(PAGE)[None][-1]
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, env=environment | {
        "PYTHONPATH": os.pathsep.join([str(modules[0]), environment["PYTHONPATH"]])})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "500 [1. 2. 3.] [0.5]\n[0. 1. 2. 3.]\n", done.stdout
