"""docs/migration.md: each call of another library has the arguments that its table names, and the defaults that it says."""
import importlib.util
import inspect
import os
import re
from pathlib import Path

import pytest

from fastlr.optimizers.rule_class import REGISTRY

spec = importlib.util.spec_from_file_location("peer_names", Path(__file__).parents[1] / "docs" / "peer_names.py")
peer_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer_names)

CALLS = [(library, call, name) for library, calls in peer_names.OPTIMIZERS.items() for call, name in calls.items()
         if not call.startswith("chain(")]
def signature(library, call):
    """The parameters of a peer's class or function."""
    if library == "torch":
        home = pytest.importorskip("torch").optim
    elif library == "optax":
        home = pytest.importorskip("optax")
    else:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        home = pytest.importorskip("keras").optimizers
    found = home
    for part in re.match(r"[\w.]+", call)[0].split("."):
        found = getattr(found, part)
    return inspect.signature(found).parameters


@pytest.mark.parametrize(("library", "call", "name"), CALLS, ids=lambda text: text)
def test_names_and_defaults_are_those_of_the_library(library, call, name):
    theirs, cls = signature(library, call), REGISTRY[name.lower()]
    given = dict(re.findall(r"(\w+)=([\w.]+)", call))
    assert set(given) <= set(theirs)
    renamed, differ = peer_names.renamed(library, call, cls), {}
    for ours, hyper in {**cls.hypers, **cls.initial_states, **cls.options}.items():
        written = renamed.get(ours, ours)
        key, _, index = written.partition("[")
        assert ours not in renamed or key in theirs, written
        if key not in theirs or key in given or peer_names.EXCEPT.get((library, call), {}).get(ours, ours) is None:
            continue
        default = theirs[key].default
        if default is inspect.Parameter.empty or (default is None and ours == "lr"):
            continue                           # (it has to be given)
        default = default[int(index.rstrip("]"))] if index else default
        if default == (3.4445, -4.775, 2.0315):
            default = "original"               # (what these are called here)
        mine = cls.conventions[library].defaults.get(ours, hyper.default)
        if mine != (default or 0.0):
            differ[ours] = default
    assert differ == peer_names.DEFAULTS.get((library, call), {})
