"""`import fastlr` imports what a training step needs, and the rest at first use."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastlr

#: Of the standard library, beside what NumPy imports.
NEEDED = {"__future__", "atexit", "fnmatch", "importlib._abc", "importlib.util", "threading", "zlib"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_is_rarely_used_is_imported_at_first_use():
    code = """
import sys
import numpy
before = set(sys.modules)
import fastlr
print(*sorted(set(sys.modules) - before))
"""
    found = set(run(code).split())
    later = {f"fastlr.{module}" for module in fastlr._LATER.values()}
    assert later and not later & found
    assert {name for name in found if not name.startswith("fastlr") and "cython" not in name} <= NEEDED


@pytest.mark.parametrize("name", sorted(fastlr._LATER))
def test_each_name_is_there_at_first_use(name):
    module = f"fastlr.{fastlr._LATER[name]}"
    if name == fastlr._LATER[name]:
        assert getattr(fastlr, name) is sys.modules[module]
    else:
        assert getattr(fastlr, name) is getattr(sys.modules.get(module) or __import__(module, fromlist=[""]), name)
    assert name in dir(fastlr)


def test_a_name_that_is_not_there():
    for module in (fastlr, fastlr.optimizers):
        with pytest.raises(AttributeError, match=rf"module '{module.__name__}' has no attribute 'nothing'"):
            module.nothing  # noqa: B018


@pytest.mark.parametrize("is_source", [True, False], ids=["source folder", "torn installation"])
def test_what_is_not_compiled_says_what_to_do(tmp_path, is_source):
    """`import fastlr` in the project's folder; where the project is not there, Python's own error is the right one."""
    shutil.copytree(Path(fastlr.__file__).parent, tmp_path / "fastlr", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    if is_source:
        (tmp_path / "setup.py").touch()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run([sys.executable, "-c", "import fastlr"], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    says = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    if is_source:
        assert says.startswith(f"ImportError: fastlr: {tmp_path} is the source folder, where fastlr.")
        assert says.endswith("start Python in another folder or set PYTHONSAFEPATH=1; to compile the source, "
                             "run `pip install -e .` there")
    else:
        assert says.startswith("ModuleNotFoundError: No module named 'fastlr.")


def test_the_c_interface_is_imported_without_anything_else():
    """PyCapsule_Import reads the attribute of the module, as C programs do."""
    assert run("""
import ctypes
capsule_import = ctypes.pythonapi.PyCapsule_Import
capsule_import.restype, capsule_import.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
print(capsule_import(b"fastlr._C_API", 0) is not None)
""").strip() == "True"


def test_the_functional_interface_has_the_package_s_own_rules():
    """A class of one's own, made before the interface is imported, adds no function to it."""
    assert run("""
import fastlr
class Own(fastlr.AdamW, decay="decoupled", rule="AdamW"):
    pass
print("own" in fastlr.list_optimizers(), "own" in fastlr.kernels.__all__, "adamw" in fastlr.kernels.__all__)
""").split() == ["True", "False", "True"]


def test_a_numpy_that_is_too_old_is_named_with_the_cure():
    run = "import numpy; numpy.__version__ = '2.0.2'; import fastlr"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: fastlr needs NumPy 2.1 or newer, found 2.0.2: pip install 'numpy>=2.1'" in done.stderr


@pytest.mark.parametrize(("name", "advice"), [
    ("torch", "fastlr.torch needs PyTorch: pip install torch"),
    ("thinc", "fastlr.thinc needs thinc, which comes with spaCy: pip install spacy"),
    ("jax", "fastlr.jax needs JAX 0.5 or later: pip install -U jax"),
])
def test_a_library_that_is_not_installed_is_named(name, advice):
    code = f"""
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError("no " + name, name=name)

sys.meta_path.insert(0, Nowhere())
import fastlr
try:
    import fastlr.{name}
except ImportError as error:
    print(error)
"""
    assert run(code).strip() == advice
