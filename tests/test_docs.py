"""Every example runs, and what README says of the code is so."""
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import pydoc
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from registry import OPTIMIZERS

import fastlr

TORCH = importlib.util.find_spec("torch") is not None
ABSENT = {name for name in ("torch", "thinc", "jax") if importlib.util.find_spec(name) is None}
MODULES = sorted(module.name for module in pkgutil.walk_packages(fastlr.__path__, "fastlr.")
                 if "._" not in module.name and not module.name.endswith("__main__")
                 and module.name.split(".")[1] not in ABSENT and (TORCH or module.name != "fastlr.study.torch_models"))
ROOT = Path(__file__).parent.parent
NEEDED = {"muon": ["torch"], "torch_steps": ["torch"], "torch_training": ["torch"],
          "spacy_training": ["spacy"], "jax_steps": ["jax", "optax"]}
#: What other tests run: c.md, cffi.md, ctypes.md, numba.md and rust.md (their own), rules.md and runs.md (below), the
#: rest in parity/ and tests/pytorch/ (callbacks.md in both).
ELSEWHERE = {"c", "callbacks", "cffi", "ctypes", "numba", "rust", "rules", "runs", "jax", "spacy", "torch"}
WITHOUT_EXAMPLES = {"benchmarks", "changes", "contributing", "optimizers", "performance", "pictures"}
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.stem not in ELSEWHERE)]
PROGRAMS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("name", ["fastlr", *MODULES])
def test_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in finder.find(module, name, extraglobs={"fastlr": fastlr, "schedules": fastlr.schedules}):
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_pages_run(page, monkeypatch):
    """In one session for each page; what imports torch runs where that is (tests/pytorch)."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks or page.stem in WITHOUT_EXAMPLES
    monkeypatch.syspath_prepend(ROOT / "examples")
    names: dict = {}
    for block in blocks:
        if "torch" in "".join(re.findall(r"^(?:import|from) .*", block, re.M)) and not TORCH:
            continue
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, {}, page.name, page.name, 0)
            assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
        else:
            exec(compile(block, page.name, "exec"), names)


def test_commands_of_pages_are_there():
    """Commands of fastlr, programs of benchmarks: each exists; that benchmarks run is another test."""
    from fastlr import commands

    known = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        said = re.findall(r"(?:`|^(?:    )?|&& |bin/)fastlr ([a-z]+)", text, re.M)
        assert [name for name in said if name not in known] == [], page.name
        programs = re.findall(r"python ((?:benchmarks|docs|examples|tests)/\w+\.py)", text)
        assert [name for name in programs if not (ROOT / name).exists()] == [], page.name


def test_the_page_of_a_whole_run_is_so():
    page = ROOT / "docs" / "runs.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, page.name, 0)
    assert len(test.examples) > 50
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_help_lists_what_there_is_and_the_keywords_of_every_optimizer():
    from fastlr.optimizers.declaration import COMMON
    named = set(re.findall(r"\w+", fastlr.__doc__))
    assert {name for name in dir(fastlr) if name[0].isupper() and name not in ("Any", "TYPE_CHECKING", "Iterable")} <= named
    assert {*fastlr.list_optimizers()} <= {name.lower() for name in named}
    common = {*inspect.signature(fastlr.SGD).parameters} - {*fastlr.SGD.hypers}
    said = " ".join(f"{name} {text}" for name, text in COMMON.items())
    assert {name for name in common if not re.search(rf"\b{name}\b", said)} == set()
    assert COMMON.keys() <= common
    text = pydoc.plain(pydoc.render_doc(fastlr.AdamW))
    assert all(f"{name}: {line}" in text for name, line in COMMON.items())
    assert "Partition" in pydoc.plain(pydoc.render_doc(fastlr))[:4000]


class OfTorch:
    """What tells an optimizer of torch."""

    param_groups = ()


@pytest.mark.parametrize(("call", "hint"), [
    (lambda: fastlr.Adam(np.zeros(1), betas=(0.9, 0.999)), "did you mean 'beta1'"),
    (lambda: fastlr.Adam(np.zeros(1), learning_rate=0.1), "did you mean 'lr'"),
    (lambda: fastlr.SGD(np.zeros(1), max_grad_norm=0.1), "did you mean 'clip_norm'"),
    (lambda: fastlr.schedules.cosine(0.1, T_max=10), "did you mean 'steps'"),
    (lambda: fastlr.schedules.cosine(learning_rate=0.1, steps=10), "did you mean 'lr'"),
    (lambda: fastlr.schedules.cosine(0.1, steps=10, eta_min=0.1), "did you mean 'final'"),
    (lambda: fastlr.schedules.cosine(0.1, steps=10, warmup_steps=3), r"has it as a method: .warmup\(steps\)"),
    (lambda: fastlr.schedules.step_decay(0.1, step_size=3), "did you mean 'every'"),
    (lambda: fastlr.Plateau(0.1, min_lr=3), "unexpected keyword"),
    (lambda: fastlr.SGD(), r"^SGD: params: expected an array, a sequence or a mapping of arrays, or groups, got NoneType$"),
    (lambda: fastlr.SGD(np.zeros(1), lr="cosine(0.1, steps=9)"),
     "^SGD: lr must be a number or a schedule, got 'cosine.*'; a schedule in words is read by fastlr.schedules.parse$"),
    (lambda: fastlr.SGD(np.zeros(1), lr=fastlr.schedules.cosine),
     r"^SGD: lr must be a number or a schedule, got the class cosine; call it: cosine\(...\)$"),
    (lambda: fastlr.Plateau(fastlr.schedules.cosine), r"got the class cosine; call it: cosine\(...\)$"),
    (lambda: fastlr.SGD(np.zeros(1), decay_mask={"w": True}),
     "^SGD: decay_mask names no parameter: 'w'; they are called '0', as they were given without names$"),
    (lambda: fastlr.SGD(dict.fromkeys("abcdef", np.zeros(0)), decay_mask={"w": True}),
     "names no parameter: 'w'; they are called 'a', 'b', 'c', 'd', ...$"),
    (lambda: fastlr.schedules.cosine(0.1, steps=9).to_torch(fastlr.SGD(np.zeros(1))),
     "^to_torch: optimizer must be one of torch or fastlr.torch, got SGD; give its lr the schedule itself: opt.lr = sch"),
    (lambda: fastlr.Plateau(0.1).to_torch(np.zeros(1)), "^to_torch: optimizer must be one of torch .*, got ndarray$"),
    (lambda: fastlr.diagnose("run.csv"), r"got str; read a file by fastlr.History.from_csv\(path\) or from_jsonl\(path\)$"),
    (lambda: fastlr.find_lr(OfTorch(), lambda batch: 0, [1]),
     r"got OfTorch; of torch: fastlr.torch.find_lr\(model, optimizer, loss_fn, loader\)$"),
    (lambda: fastlr.save("run.safetensors", OfTorch()), r"an optimizer of torch, OfTorch; save it by torch.save\(opt.state_d"),
    (lambda: fastlr.find_lr(fastlr.SGD(np.ones(3)), lambda batch: (np.ones(3), 0.5), [1]),
     r"must return the loss, one number, and then the gradients; the first that it returned is an array of shape \(3,\)$"),
])
def test_errors_know_what_others_call_it(call, hint):
    with pytest.raises((TypeError, ValueError), match=hint):
        call()


@pytest.mark.parametrize(("module", "name", "hint"), [
    (fastlr.schedules, "cos", "did you mean 'cosine'"), (fastlr.schedules, "Cosine", "did you mean 'cosine'"),
    (fastlr.kernels, "adamW", "did you mean 'adamw'"), (fastlr.kernels, "muon", "so it has a class alone, Muon"),
    (fastlr.kernels, "lamb", "so it has a class alone, LAMB"), (fastlr.schedules, "WSD", "did you mean 'wsd'"),
    (fastlr.schedules, "zzz", "list_schedules() has the names of all")])
def test_a_name_that_is_not_there_has_a_hint(module, name, hint):
    with pytest.raises(AttributeError, match=re.escape(hint)):
        getattr(module, name)


def test_readme_shows_pictures_that_are_there_and_small():
    """python docs/make_pictures.py"""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
        assert shown or page.name != "README.md"
        for name in shown:
            picture = page.parent / name
            assert 1_000 < picture.stat().st_size < 150_000, name
            if picture.suffix == ".png":
                assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_public_names_are_what_the_package_shows():
    for name in ("AdamW", "SGD", "schedules", "kernels", "save", "load", "CheckpointError", "list_optimizers",
                 "create_optimizer", "set_num_threads", "get_num_threads", "show_config", "get_include"):
        assert name in dir(fastlr)


def test_stubs_name_every_kernel():
    stub = (ROOT / "fastlr" / "kernels.pyi").read_text()
    assert sorted(re.findall(r"^(\w+): Kernel$", stub, re.MULTILINE)) == fastlr.kernels.__all__


def test_entry_points_for_thinc_are_current():
    """python -m fastlr.optimizers.thinc_names"""
    from fastlr.optimizers import thinc_names

    assert thinc_names.entry_points() in (ROOT / "pyproject.toml").read_text()


def test_every_optimizer_is_benchmarked():
    spec = importlib.util.spec_from_file_location("arrays", ROOT / "benchmarks" / "benchmarks" / "arrays.py")
    arrays = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arrays)
    kinds = {name: [cls.__name__ for cls in OPTIMIZERS if test(cls)] for name, test in (
        ("ELEMENTWISE", lambda cls: cls.kind != "matrix" and not cls.reduces),
        ("REDUCING", lambda cls: cls.kind != "matrix" and cls.reduces),
        ("MATRICES", lambda cls: cls.kind == "matrix"))}
    for name, classes in kinds.items():
        assert sorted(getattr(arrays, name)) == sorted(classes)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_says_how_it_is_called(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(path.parent)
    for needed in NEEDED.get(path.stem, ()):
        pytest.importorskip(needed)
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(path), run_name="__main__")
    assert done.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {path.name}")


def test_the_catalogue_is_current_and_knows_every_source():
    from fastlr.optimizers import catalogue
    from fastlr.optimizers.registry import by_closure
    page = (ROOT / "docs" / "optimizers.md").read_text()
    assert page == catalogue.catalogue()        # python -m fastlr.optimizers.catalogue
    lines = [line for line in page.splitlines() if line.startswith("| `") and "convention=" not in line]
    assert len(lines) == len(fastlr.list_optimizers()) + len(by_closure())
    assert [line for line in lines if line.split("|")[2].strip() == ""] == []


def files_of(page):
    """{name: text} of the files that a page shows, each after a line that ends with its name; the rest under None."""
    found = {}
    for before, _, text in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", page.read_text(), re.DOTALL):
        name = re.search(r"`([\w/]+\.\w+)`[^`]*:$", before)
        found.setdefault(name and name[1], []).append(text)
    return found


def beside_files_of(page, names, folder, environment):
    """A function that runs code in a folder which has a page's files and nothing else, and returns what it printed; what
    it raised with `fails`."""
    found = files_of(page)
    assert set(found) == names
    for name, texts in found.items():
        (folder / name).write_text(texts[0])
    env = environment | {"PYTHONPATH": os.pathsep.join([str(folder), environment["PYTHONPATH"]])}

    def run(code, fails=False):
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


# All ways to state the same rule, and the loop, after the page's own example.
ALSO = """
import importlib.util
import by_pointers
import loop

def moved(cls):
    p = np.linspace(-1, 1, 1000, dtype=np.float32)
    opt = cls([p], lr=0.1, rate=0.3, weight_decay=0.1, decay="decoupled")
    for t in range(3):
        opt.step([p * np.float32(t + 1)])
    return p.tobytes()

classes = [by_pointers.HalvingInC]
if importlib.util.find_spec("numba"):
    import by_numba
    classes.append(by_numba.HalvingInNumba)
assert {moved(cls) for cls in classes} == {moved(mypkg.Halving)}

p, gradients = np.linspace(-1, 1, 1000), np.random.default_rng(0).normal(size=(5, 1000))
q, m, v = p.copy(), np.zeros(1000), np.zeros(1000)
opt = fastlr.AdamW([q], lr=0.1, weight_decay=0.1)
for g in gradients:
    opt.step([g])
loop.train(p, gradients, m, v, 0.1, 0.1)
assert p.tobytes() == q.tobytes()
print("done", len(classes))
"""


def test_the_rules_of_your_own_are_built_and_run_as_the_page_shows_them(tmp_path, compiler, environment):
    files = files_of(ROOT / "docs" / "rules.md")
    assert set(files) == {"mypkg/rules.pxd", "setup.py", "pyproject.toml", "mypkg/__init__.py", "rules.c",
                          "by_pointers.py", "by_numba.py", "loop.pyx", None}
    needed = tomllib.loads(files["pyproject.toml"][0])["build-system"]["requires"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] in needed
    command, example, rust = sorted(files.pop(None), key=lambda text: ("cc $(" not in text, "extern" in text))
    assert 'pub unsafe extern "C" fn halving_float' in rust
    for name, (text,) in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with (tmp_path / "setup.py").open("a") as setup:
        setup.write("\nfrom setuptools import Extension\nfrom Cython.Build import cythonize\n"
                    "from fastlr.build import compile_flags\n"
                    "setup(name='loop', ext_modules=cythonize("
                    "[Extension('loop', ['loop.pyx'], extra_compile_args=compile_flags())]))\n")
    command = command.replace("cc $", f"{shlex.join(compiler)} $").replace("$(python", f"$({shlex.quote(sys.executable)}")
    for each in (command, shlex.join([sys.executable, "setup.py", "build_ext", "-i"])):
        # (tests/stranger_rules is built for every instruction set, as here a user builds it)
        done = subprocess.run(each, shell=True, cwd=tmp_path, env=environment | {"FASTLR_VARIANTS": ""},
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{example}{ALSO}"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("done"), done.stdout + done.stderr
