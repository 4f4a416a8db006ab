"""The names of what a study trains: widths and an activation, or a function that makes a model of torch."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..optimizers.declaration import nearest
from .networks import parse_network

Make = Callable[[], Any]  # returns a torch.nn.Module


def is_model(network: str) -> bool:
    """Whether a text names a function that makes a model, "module:function"."""
    return re.fullmatch(r"[^:\s]+:[^:\s]+", network) is not None


def check_name(network: str) -> None:
    """Raise `ValueError` unless the text names a network or a model."""
    if not is_model(network):
        parse_network(network)


def name_of(make: Make) -> str:
    """The name that results have for a function that makes a model."""
    if not callable(make):
        raise TypeError(f"study: model must be a function that returns a new torch.nn.Module, got {make!r:.60}")
    name = getattr(make, "__qualname__", None) or type(make).__qualname__
    return re.sub(r"\s", "_", f"{getattr(make, '__module__', None) or 'model'}:{name}")


_given: dict[str, Make] = {}  # functions of callers that are in use, by their names


@contextmanager
def given(make: Make) -> Iterator[str]:
    """In this with block, the function is found by its name, which is returned: it need not be one of a module."""
    name = name_of(make)
    before = _given.get(name)
    _given[name] = make
    try:
        yield name
    finally:
        if before is None:
            del _given[name]
        else:
            _given[name] = before


def find_model(text: str) -> Make:
    """The function of a text like "module:function"; the module is imported, unless the function is `given`.

    Raises `ValueError`, one line, for a module that is missing or cannot be imported, or a name that it lacks or that
    is no function.
    """
    if text in _given:
        return _given[text]
    module_name, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"study: {text}: {module_name} needs {error.name}, which is missing") from error
        raise ValueError(f"study: {text}: there is no module {module_name!r} in the current folder or where Python "
                         f"looks for modules") from error
    except Exception as error:
        raise ValueError(f"study: {text}: {module_name} cannot be imported: {told(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"study: {text}: there is no {name!r} in {getattr(found, '__name__', found)}"
                             f"{nearest(name, dir(found))}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"study: {text} is not callable: a model is given by a function without arguments that "
                         f"returns a new torch.nn.Module, got {type(found).__name__}")
    make: Make = found
    return make


def told(error: BaseException) -> str:
    """An error of the user's code, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.200}" if text else type(error).__name__
