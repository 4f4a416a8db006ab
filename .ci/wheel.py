"""A wheel holds all that users need and others compile against, nothing generated, and what is installed is the same.

    python .ci/wheel.py WHEEL [--installed]
"""
import sys
import tomllib
import zipfile
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

KEPT = (".py", ".pyi", ".pxd", ".h", ".jinja", ".pc", ".cmake", "py.typed")
LEFT = (".c", ".cpp", ".pyx", ".pxi")
OWN = {package.replace(".", "/"): patterns for package, patterns in tomllib.loads(Path("pyproject.toml").read_text())[
    "tool"]["setuptools"]["exclude-package-data"].items()}  # what only fastlr itself is compiled with
TEMPLATES = {"fastlr/_kernels/storage_loop.pxi"}        # what rules from outside are built with


def files(names):
    """Those of the package itself."""
    return {name for name in names if name.startswith("fastlr/") and not name.endswith((".pyc", "/"))}


def is_own(name):
    folder, _, file = name.rpartition("/")
    return any(fnmatchcase(file, pattern) for pattern in OWN.get(folder, ()))


def wrong(path, installed):
    found = files(zipfile.ZipFile(path).namelist())
    source = [file.as_posix() for file in Path("fastlr").rglob("*")]
    modules = [name for name in found if name.endswith(".so")]
    needed = {name for name in source if name.endswith(KEPT) and not is_own(name)} | TEMPLATES
    yield from (f"lacks {name}" for name in sorted(needed - found))
    yield from (f"holds {name}" for name in sorted(found - TEMPLATES) if name.endswith(LEFT) or is_own(name))
    yield from (f"holds {name}, which is no abi3 module" for name in modules if not name.endswith(".abi3.so"))
    if len(modules) < sum(name.endswith(".pyx") for name in source):
        yield f"holds {len(modules)} compiled modules, fewer than there are .pyx files"
    if installed:
        here = files(map(str, metadata.files("fastlr-core")))
        yield from (f"differs from what is installed in {name}" for name in sorted(found ^ here))
    print(f"{path}: {len(found)} files, {len(modules)} of them compiled")


path, *installed = sys.argv[1:]
if found := list(wrong(path, installed)):
    sys.exit("\n".join(f"{path}: {what}" for what in found))
