"""What a class statement declares: the rule it stands for, its hyper-parameters, and how peers have the same rule."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from .declaration import (
    ConstructorOnly,
    Convention,
    Hyper,
    HyperParameter,
    InitialState,
    Option,
    common_keywords,
    nearest,
    within,
)
from .rule_lookup import FoundRule, find_rule

#: From a group's values, and whether this is a tensor's first update: slot -> (power of the gradient, share of it).
Accumulation = Callable[[dict[str, float], bool], dict[str, tuple[int, float]]]

#: Every optimizer that stands for a rule, by its name in lower case.
REGISTRY: dict[str, type[RuleClass]] = {}

#: Called with the name and the class of each that is registered: `fastlr.kernels` and the C interface follow.
WHEN_REGISTERED: list[Callable[[str, type[RuleClass]], None]] = []

Declaration = HyperParameter | InitialState | Option
DECLARATIONS = frozenset((HyperParameter, InitialState, Option))

PACKAGE = __name__.partition(".")[0]
COMMON_KEYWORDS = common_keywords()


class RuleClass:
    """An optimizer as a class: all that is known before one is made.

    A class statement in fastlr stands for the rule of the class's name, or for ``rule=``; one elsewhere that names no
    rule inherits its parent's, with its conventions. Only classes that stand for a rule are in the registry.
    """

    kind: ClassVar[Literal["elementwise", "matrix"]] = "elementwise"
    slots: ClassVar[tuple[str, ...]] = ()
    memory: ClassVar[tuple[str, ...]] = ()     # state of a tensor as a whole
    shared: ClassVar[tuple[str, ...]] = ()     # state of all tensors together
    reduces: ClassVar[bool] = False            # whether it sums over a tensor before it moves it
    depends_on_param: ClassVar[bool] = False   # whether its step depends on where the parameter is
    needs_loss: ClassVar[bool] = False         # whether a step is given the loss, too
    needs_curvature: ClassVar[bool] = False    # whether some steps are given estimates of the curvature, too
    #: The rule as each peer has it; the first is the default.
    conventions: ClassVar[dict[str, Convention]] = {}
    #: What `accumulate` adds to each slot; None where a rule needs the whole gradient at once.
    accumulation: ClassVar[Accumulation | None] = None
    #: By a gradient of zero every slot is multiplied, and an element moves by c * slot / (a * sqrt(others) + b): the
    #: name of that slot; "" where it does not move; None where neither holds. Rows that catch up then skip lost moves.
    fades: ClassVar[str | None] = None
    decay_mode: ClassVar[str] = "coupled"
    hypers: ClassVar[dict[str, HyperParameter]] = {}
    initial_states: ClassVar[dict[str, InitialState]] = {}
    options: ClassVar[dict[str, Option]] = {}
    _declared: ClassVar[dict[str, Declaration]]        # by the class body itself
    _default_rule: ClassVar[str] = ""
    _rules: ClassVar[dict[str, FoundRule]] = {}        # its own, and those of its conventions
    _saved_as: ClassVar[str]                   # the class that a saved state names: the one that stands for the rule
    _fields: ClassVar[tuple[str, ...]]         # hyper-parameters in the order in which the rule has them

    lr: Hyper = within(1e-3)
    weight_decay: Hyper = within(0.0)

    def __init_subclass__(cls, decay: str | None = None, rule: Any = None,
                          conventions: Mapping[str, str | Convention] | None = None,
                          accumulation: Accumulation | None = None, fades: str | None = None,
                          family: bool = False) -> None:
        declared = cls._read_declarations()
        if family:                     # (what optimizers derive from stands for no rule itself)
            return
        cls.hypers = {name: value for name, value in declared.items() if type(value) is HyperParameter}
        cls.initial_states = {name: value for name, value in declared.items() if type(value) is InitialState}
        cls.options = {name: value for name, value in declared.items() if type(value) is Option}
        own = rule is not None or cls.__module__.partition(".")[0] == PACKAGE
        if own:
            found = cls._find_rule(rule or cls.__name__)
            cls._default_rule, cls._rules = found.name, {found.name: found}
            cls.decay_mode, cls.accumulation, cls.fades, cls.conventions = "coupled", accumulation, fades, {}
            cls._saved_as = cls.__name__
        elif not cls._default_rule:
            raise TypeError(f"{cls.__name__}: stands for no rule; name it with rule=, or derive from an optimizer that "
                            f"has one")
        if decay is not None:
            cls.decay_mode = decay
        cls._read_signature()
        cls._read_conventions(cls.conventions if conventions is None else conventions)
        if own:
            cls._register()
            if cls.__doc__ and cls.__module__.partition(".")[0] == PACKAGE:
                cls.__doc__ = cls.__doc__.rstrip() + "\n" + COMMON_KEYWORDS

    @classmethod
    def _read_declarations(cls) -> dict[str, Declaration]:
        """What the class body and those of its bases declare; TypeError where one hides what a base declares.

        Of each optimizer's own body the declarations are kept: to look at all attributes of all bases would take 0.7
        ms of every import.
        """
        declared: dict[str, Declaration] = {}
        for base in cls.__mro__[-2::-1]:       # (from the most general; `object` declares nothing)
            body = vars(base)
            for name, value in body.get("_declared", body).items():
                if type(value) in DECLARATIONS:
                    declared[name] = value
                elif name in declared:
                    raise TypeError(f"{cls.__name__}: {name} = {value!r} in the class body would hide what {name} "
                                    f"declares; write {name} = within({value!r}), or give it to the constructor")
        cls._declared = {name: value for name, value in vars(cls).items() if type(value) in DECLARATIONS}
        return declared

    @classmethod
    def _find_rule(cls, rule: Any, beside: str = "") -> FoundRule:
        return find_rule(rule, cls.__name__, beside)

    @classmethod
    def _takes_eps_exactly(cls, convention: str | None) -> bool:
        """Whether an eps of 0 is 0: in torch's rules, whose 0 / 0 is NaN, and in those whose eps is 0 by default."""
        return convention == "torch" or ("eps" in cls.hypers and cls.hypers["eps"].default == 0)

    @classmethod
    def _table(cls, rule: str) -> Any:
        """The compiled table of one of the class's rules."""
        return cls._rules[rule].loaded()

    @classmethod
    def _read_signature(cls) -> None:
        """Take names and order from the rule; TypeError where the class body says otherwise."""
        signature = cls._rules[cls._default_rule].signature
        cls.slots, cls.memory, cls.shared = signature.slots, signature.memory, signature.shared
        cls.reduces = bool(signature.sums) or cls.kind == "matrix"
        cls.depends_on_param = signature.depends_on_param
        if cls.fades and cls.fades not in cls.slots:
            raise TypeError(f"{cls.__name__}: fades={cls.fades!r} names no slot of its rule {cls._default_rule}"
                            f"{nearest(cls.fades, cls.slots)}")
        common = ("lr", "weight_decay")
        if "lr" in signature.hypers:
            raise TypeError(f"{cls.__name__}: its rule {cls._default_rule} has a hyper-parameter 'lr', which every "
                            f"optimizer has; leave it out of the rule and take now.lr")
        for name in signature.hypers:
            if name not in cls.hypers:
                raise TypeError(f"{cls.__name__}: its rule {cls._default_rule} has a hyper-parameter {name!r} that the "
                                f"class does not declare; add {name}: Hyper = within(default, low, high)")
        for name in cls.hypers:
            if name not in signature.hypers and name not in common:
                raise TypeError(f"{cls.__name__}: declares {name!r}, which its rule {cls._default_rule} does not have"
                                f"{nearest(name, signature.hypers)}")
        for name, state in cls.initial_states.items():
            if cls.kind == "elementwise" and state.slot not in (*cls.slots, *cls.memory, *cls.shared):
                raise TypeError(f"{cls.__name__}: {name} is the initial value of {state.slot!r}, which its rule "
                                f"{cls._default_rule} does not keep")
        cls._fields = tuple(name for name in common if name not in signature.hypers) + signature.hypers
        order = {name: k for k, name in enumerate(("lr", *signature.hypers, "weight_decay"))}
        cls.hypers = dict(sorted(cls.hypers.items(), key=lambda item: order[item[0]]))

    @classmethod
    def _read_conventions(cls, conventions: Mapping[str, str | Convention]) -> None:
        """The rules of all conventions keep the same state, and their defaults are within bounds."""
        own = cls._rules[cls._default_rule].signature
        cls._rules = dict(cls._rules)
        cls.conventions = {name: Convention(peer) if isinstance(peer, str) else peer
                           for name, peer in conventions.items()}
        declared: dict[str, HyperParameter | ConstructorOnly] = {**cls.hypers, **cls.initial_states, **cls.options}
        for name, convention in cls.conventions.items():
            where = f"{cls.__name__}, convention {name!r}"
            if convention.rule not in cls._rules:
                beside = "" if own.module.partition(".")[0] == PACKAGE else own.module
                cls._rules[convention.rule] = cls._find_rule(convention.rule, beside)
            other = cls._rules[convention.rule].signature
            if (other.hypers, other.slots, other.memory, other.shared) != \
                    (own.hypers, own.slots, own.memory, own.shared):
                raise TypeError(f"{where}: the rule {convention.rule} has other hyper-parameters or state than "
                                f"{cls._default_rule}")
            for key, value in convention.defaults.items():
                if key not in declared:
                    raise TypeError(f"{where}: a default of {key!r}, which the class does not have"
                                    f"{nearest(key, declared)}")
                declared[key].checked(value, where)

    @classmethod
    def _register(cls) -> None:
        name = cls.__name__.lower()
        if name in REGISTRY and REGISTRY[name].__module__.partition(".")[0] == PACKAGE:
            raise TypeError(f"{cls.__name__}: fastlr has an optimizer of this name; choose another")
        REGISTRY[name] = cls
        for follow in WHEN_REGISTERED:
            follow(name, cls)


RuleClass._read_declarations()         # (of classes derived from it, the class statement does)
