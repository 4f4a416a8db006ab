"""Schedules from text: a grammar of its own, read from Python's syntax tree and never evaluated as Python.

    cosine(1e-3, steps=1000).warmup(50) * 0.5
"""
from __future__ import annotations

import ast
from collections.abc import Callable
from math import inf
from typing import Any

from .base import Schedule
from .declaration import unknown
from .registry import REGISTRY

LENGTH = 10_000            # the most characters
DEPTH = 100                # the most levels of nesting
METHODS = ("warmup", "then", "clip", "shift", "every", "k_decay", "noise", "momentum")

ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: float(a) ** float(b),          # of floats: integers could grow without limit
}


def parse(text: str) -> Schedule:
    """The schedule that an expression describes; ValueError, with what is wrong in one line, if it describes none.

    There are the schedules by name, their methods (`warmup`, `then`, `clip`, `shift`, `every`, `k_decay`, `noise`,
    `momentum`), numbers with + - * / **, words, True, False, None, lists, and nothing else.

    >>> parse("linear(0.1, steps=10**2).warmup(5) * 0.5")
    linear(lr=0.1, steps=100, final=0.0, end='hold').warmup(steps=5, start=0.0, kind='linear') * 0.5
    """
    if not isinstance(text, str):
        raise TypeError(f"expression: expected text, got {type(text).__name__}")
    if len(text) > LENGTH:
        raise ValueError(f"expression: at most {LENGTH} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = getattr(error, "msg", "") or "nested too deep"
        where = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise ValueError(f"expression: {reason}{where}: {excerpt(text)}") from None
    try:
        made = value(tree.body, DEPTH)
    except RecursionError:                     # in unparsing what is not allowed
        raise ValueError(f"expression: nested at most {DEPTH} deep") from None
    if not isinstance(made, Schedule):
        raise ValueError(f"expression: expected a schedule, got {excerpt(repr(made))}")
    return made


def value(node: ast.expr, depth: int) -> Any:
    """The value of a part of the expression: a schedule, a number, a word or a list."""
    if depth == 0:
        raise ValueError(f"expression: nested at most {DEPTH} deep")
    if isinstance(node, ast.Constant) and (node.value is None or type(node.value) in (int, float, str, bool)):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [value(item, depth - 1) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        x = value(node.operand, depth - 1)
        if number(x):
            return -x if isinstance(node.op, ast.USub) else x
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        return combined(node, value(node.left, depth - 1), value(node.right, depth - 1))
    if isinstance(node, ast.Call):
        return called(node, depth)
    if isinstance(node, ast.Name):
        raise ValueError(f"expression: {unknown('schedule', node.id, REGISTRY)}" if node.id not in REGISTRY
                         else f"expression: {node.id} needs its arguments in brackets")
    raise ValueError(f"expression: not allowed: {excerpt(ast.unparse(node))}")


def combined(node: ast.BinOp, a: Any, b: Any) -> Any:
    """Two schedules multiplied, or a calculation with two numbers."""
    if isinstance(node.op, ast.Mult) and (isinstance(a, Schedule) or isinstance(b, Schedule)):
        if all(isinstance(x, Schedule) or number(x) for x in (a, b)):
            return checked(lambda: a * b)
    elif number(a) and number(b):
        try:
            result = ARITHMETIC[type(node.op)](a, b)
        except (OverflowError, ZeroDivisionError):
            result = inf
        if isinstance(result, int | float) and abs(result) < inf:
            return result
        raise ValueError(f"expression: no finite number: {excerpt(ast.unparse(node))}")
    raise ValueError(f"expression: schedules can be multiplied, numbers calculated, got {excerpt(ast.unparse(node))}")


def called(node: ast.Call, depth: int) -> Schedule:
    """A schedule by name, or a method of one."""
    function = node.func
    if isinstance(function, ast.Name):
        if function.id not in REGISTRY:
            raise ValueError(f"expression: {unknown('schedule', function.id, REGISTRY)}")
        make: Any = REGISTRY[function.id]
    elif isinstance(function, ast.Attribute):
        if function.attr not in METHODS:
            raise ValueError(f"expression: {unknown('method', function.attr, dict.fromkeys(METHODS))}")
        of = value(function.value, depth - 1)
        make = getattr(of, function.attr, None) if isinstance(of, Schedule) else None
        if make is None or isinstance(make, float | int):
            raise ValueError(f"expression: {excerpt(ast.unparse(function.value))} has no method {function.attr}")
    else:
        raise ValueError(f"expression: not allowed: {excerpt(ast.unparse(node))}")
    if any(isinstance(argument, ast.Starred) for argument in node.args) or any(k.arg is None for k in node.keywords):
        raise ValueError("expression: * and ** before arguments are not allowed")
    arguments = [value(argument, depth - 1) for argument in node.args]
    keywords = {str(k.arg): value(k.value, depth - 1) for k in node.keywords}
    return checked(lambda: make(*arguments, **keywords))


def checked(make: Callable[[], Schedule]) -> Schedule:
    """A schedule; a TypeError of its own check as a ValueError."""
    try:
        return make()
    except TypeError as error:
        raise ValueError(str(error)) from None


def number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
