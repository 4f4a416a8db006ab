"""Imports inside a package go one way: a module never imports, at its top or in a function, what imports it."""
import ast
from pathlib import Path

import pytest

import fastlr

ROOT = Path(fastlr.__file__).parent
#: The packages whose modules are in layers; add a package here when its circles are gone.
LAYERED = ("commands", "monitor", "optimizers", "schedules", "study", "tuning")


def imports(source, module, modules):
    """The modules of a package that the text of one of them imports, wherever in it."""
    package = module if module in {m.rpartition(".")[0] for m in modules} else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            named = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        else:
            continue
        found.update(name for name in named if name in modules)
    return found


def graph(package):
    """The modules of a package, each with those that it imports; importing any runs the package's `__init__` first."""
    root = f"fastlr.{package}"
    files = {root if path.stem == "__init__" else f"{root}.{path.stem}": path for path in (ROOT / package).glob("*.py")}
    return {name: imports(path.read_text(encoding="utf-8"), name, files) for name, path in files.items()}


def circle(edges):
    """The modules of a circle of imports, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name):], name]
        if name in done:
            return None
        path.append(name)
        for target in sorted(edges[name]):
            if found := visit(target):
                return found
        done.add(path.pop())
        return None
    return next(filter(None, map(visit, sorted(edges))), None)


@pytest.mark.parametrize("package", LAYERED)
def test_the_modules_of_a_package_are_in_layers(package):
    edges = graph(package)
    assert len(edges) > 2
    found = circle(edges)
    assert found is None, " imports ".join(found)


def test_a_circle_is_found_wherever_the_import_stands():
    modules = {"p": "from .a import x\n", "p.a": "def f():\n    from . import b\n",
               "p.b": "import typing\nif typing.TYPE_CHECKING:\n    from p.c import y\n", "p.c": "import p.a\n", "p.d": ""}
    edges = {name: imports(source, name, modules) for name, source in modules.items()}
    assert edges == {"p": {"p.a"}, "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p.d": set()}
    assert circle(edges) == ["p.a", "p.b", "p.c", "p.a"]
    assert circle({**edges, "p.b": set()}) is None
