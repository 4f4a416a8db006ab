"""A thinc optimizer for each rule that moves one tensor at a time, made from the declarations when it is asked for."""
from __future__ import annotations

import inspect

from ..optimizers.declaration import nearest, own_arguments
from ..optimizers.rule_class import REGISTRY, RuleClass
from ..optimizers.thinc_names import moves_alone
from .optimizer import COMMON, Optimizer, named

MADE: dict[type[RuleClass], type[Optimizer]] = {}


def names() -> list[str]:
    """The names of all optimizers that there are here."""
    return sorted(cls.__name__ for cls in REGISTRY.values() if moves_alone(cls))


def class_of(name: str) -> type[Optimizer]:
    """The class of this name; AttributeError if there is none, or none for thinc."""
    cls = REGISTRY.get(name.lower())
    if cls is None or cls.__name__ != name:
        raise AttributeError(f"module 'fastlr.thinc' has no attribute {name!r}{nearest(name, names())}")
    if not moves_alone(cls):
        given = ("the loss" if cls.needs_loss else "estimates of the curvature" if cls.needs_curvature else
                 "sums over all parameters")
        raise AttributeError(f"module 'fastlr.thinc' has no {name}: its rule needs {given}, and thinc gives an "
                             f"optimizer one parameter and its gradient at a time; choose another optimizer")
    if cls not in MADE:
        MADE[cls] = made(cls)
    return MADE[cls]


def made(cls: type[RuleClass]) -> type[Optimizer]:
    """The class for thinc: its arguments are thinc's where thinc has them, and the rule's own."""
    own = own_arguments({**cls.hypers, **cls.initial_states, **cls.options}, named)
    own += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in COMMON.items()]

    class Made(Optimizer):
        __slots__ = ()
        _rule_class = cls
        __signature__ = inspect.Signature(own)

    for name in cls.hypers:
        if not isinstance(getattr(Optimizer, named(name), None), property):
            setattr(Made, named(name), Optimizer.value(name))
    Made.__name__ = Made.__qualname__ = cls.__name__
    Made.__module__ = "fastlr.thinc"
    Made.__doc__ = cls.__doc__
    return Made
