"""Options from text: a literal of Python, a schedule, a constraint, or else a word."""
from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from .. import constraints
from ..optimizers.declaration import nearest
from ..schedules.expression import LENGTH, excerpt, parse

CONSTRAINTS: dict[str, Callable[..., constraints.Constraint]] = {
    name: getattr(constraints, name) for name in constraints.__all__ if name != "Constraint"}


def read_option(name: str, text: str) -> Any:
    """The value of an option.

    >>> read_option("lr", "linear(0.1, steps=10)")(5)
    0.05
    >>> read_option("constraint", "{'w': max_norm(3, axis=None), 'b': nonnegative()}")
    {'w': max_norm(3, axis=None), 'b': box(0, inf)}
    """
    if name == "constraint":
        return read_constraint(text)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return parse(text) if "(" in text else text


def read_constraint(text: str) -> Any:
    """A constraint, or several in a dict or list: calls of the functions of `fastlr.constraints`, of literals alone."""
    if len(text) > LENGTH:
        raise ValueError(f"constraint: at most {LENGTH} characters, got {len(text)}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"constraint: expected a call such as max_norm(3.0), got {excerpt(text)}") from None
    if isinstance(node, ast.Dict):
        return {literal(key): constraint(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [constraint(item) for item in node.elts]
    return constraint(node)


def constraint(node: ast.expr) -> constraints.Constraint | None:
    """What a call says; None of None."""
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"constraint: expected a call such as max_norm(3.0), got {excerpt(ast.unparse(node))}")
    called = node.func.id
    if called not in CONSTRAINTS:
        raise ValueError(f"constraint: no constraint {called!r}{nearest(called, CONSTRAINTS)}")
    arguments = [literal(argument) for argument in node.args]
    if any(each.arg is None for each in node.keywords):
        raise ValueError("constraint: ** before arguments is not allowed")
    return CONSTRAINTS[called](*arguments, **{str(each.arg): literal(each.value) for each in node.keywords})


def literal(node: ast.expr | None) -> Any:
    """A number, also `inf` and `-inf`, a word or None."""
    text = "**" if node is None else ast.unparse(node)
    if text in ("inf", "-inf"):
        return float(text)
    try:
        if node is not None:
            return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError(f"constraint: expected a literal, got {excerpt(text)}")
