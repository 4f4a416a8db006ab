"""Reads the rules of a `.pxd` file from their signatures alone.

A rule is stated once, as a struct of hyper-parameters and a function that moves one element; see `fastlr/rules/*.pxd`.
This module imports no other of fastlr.

What is read
------------
For a rule `Name`, whose struct holds doubles alone (its hyper-parameters; a struct that is empty but for `double _` has
none), functions are found by the name in lower case, or by that of another member of the `ctypedef fused` type that
their first parameter has:

==================  ==================================================================================================
`name`              moves one element: `real* p`, `real g`, then the slots: `real* m` is read and written, `real m` only
                    read. Required.
`name_scalars`      fills the rule's own scalars `NameScalars* s`, once per step, group and age of a tensor
`name_begin`        changes them by what is remembered: `NameMemory* memory` of each tensor, `const NameShared* shared`
                    of all tensors; once per tensor, before any element
`name_terms`        what an element adds to each sum: `NameTerms* terms`; slots as pointers move here, not in `name`
`name_normed`       in its place, or beside it where slots move there: `NameTerms* x` takes the elements whose norms the
                    rule needs. The sums are of their squares, and `name_finish` is given the roots of those: the norms,
                    also where squares of float64 overflow or vanish. Slots are only read
`name_finish_all`   what the sums over all tensors do to `NameShared* shared`
`name_finish`       what the sums over a tensor do to its scalars and its memory
`name_skips_state`  1 where a step neither reads nor writes any slot
==================  ==================================================================================================

Parameters are recognised by their types and names, in any order, and may be left out: `h` (the struct), `now`
(`StepScalars` or a pointer to it), `s`, `memory`, `shared`, `terms`, `size` (elements summed over), `p`, `g`, slots.

What no signature says is one line beside the rule:

    # traits of Adan: depends_on_param, decay_inside_update, nonnegative(n)
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

MAX_SLOTS, MAX_HYPERS, MAX_SUMS, MAX_SCALARS = 4, 12, 4, 8

FLAGS = {"depends_on_param", "decay_inside_update", "prefetch", "storage_loop"}
LISTS = {"nonnegative", "position"}

STRUCT = re.compile(r"^cdef struct (\w+):[^\n]*\n((?:[ \t]+[^\n]*\n|\n(?=[ \t]))+)", re.M)
FUSED = re.compile(r"^ctypedef fused (\w+):[^\n]*\n((?:[ \t]+[^\n]*\n)+)", re.M)
FUNCTION = re.compile(r"^cdef inline ([\w ]+?) (\w+)\(([^)]*)\)", re.M)
TRAITS = re.compile(r"^# traits of ([\w, ]+): (.*)$", re.M)
MISPLACED = re.compile(r"^(?!# traits of [\w, ]+: ).*#.*\btraits of \w.*:.*$", re.M)
#: What the names of structs end in that are no rules but belong to one.
PARTS = ("Scalars", "Memory", "Shared", "Terms")
PIECES = ("scalars", "begin", "terms", "normed", "finish_all", "finish", "skips_state")
#: The kinds of parameters that a rule's functions may have, by piece ("": the function of an element).
TAKES = {
    "": {"hypers", "now", "scalars", "p", "g", "slot"},
    "scalars": {"hypers", "value", "now", "scalars"},
    "begin": {"hypers", "value", "now", "scalars", "memory", "shared"},
    "terms": {"hypers", "now", "scalars", "p", "g", "slot", "terms"},
    "normed": {"hypers", "now", "scalars", "p", "g", "slot", "terms"},
    "finish_all": {"hypers", "value", "now", "scalars", "shared", "terms", "size"},
    "finish": {"hypers", "value", "now", "scalars", "memory", "shared", "terms", "size"},
    "skips_state": {"hypers", "now", "scalars"},
}


class RuleError(ValueError):
    """A `.pxd` file holds a rule that cannot be read; the message says which, and what must hold."""

    __module__ = "fastlr.build"        # where it is public


@dataclass
class Parameter:
    """A parameter of one of a rule's functions."""

    kind: str               # hypers, value (one of them), now, scalars, memory, shared, terms, size, p, g, slot
    type: str
    name: str
    pointer: bool


@dataclass
class Rule:
    """All that a `.pxd` says of one rule."""

    name: str
    hypers: list[str]
    function: str
    parameters: list[Parameter]                                     # of `function`
    pieces: dict[str, tuple[str, list[Parameter]]]
    structs: dict[str, list[str]] = field(default_factory=dict)     # Scalars, Memory, Shared, Terms: fields
    types: dict[str, str] = field(default_factory=dict)             # ... and the names of those structs
    flags: set[str] = field(default_factory=set)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def slots(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.kind == "slot"]


def read_rules(text: str) -> list[Rule]:
    """Every rule of a `.pxd`, in its order; RuleError where one cannot be read."""
    structs = {m[1]: members(m[2]) for m in STRUCT.finditer(text)}
    fused = {m[1]: [line.split("#")[0].strip() for line in m[2].splitlines() if line.split("#")[0].strip()]
             for m in FUSED.finditer(text)}
    functions = {m[2]: (m[1].split()[-1], parameters(m[2], m[3], structs, fused)) for m in FUNCTION.finditer(text)}
    traits = read_traits(text, structs)
    found = []
    for name, fields in structs.items():
        if not name.endswith(PARTS):
            found.append(read_rule(name, fields, structs, fused, functions, *traits.get(name, (set(), {}))))
    return found


def members(body: str) -> list[tuple[str, str]]:
    """(type, name) of each member of a struct."""
    lines = [line.split("#")[0].strip() for line in body.splitlines()]
    return [(line.split()[0], name.strip()) for line in lines if line
            for name in line.partition(" ")[2].split(",")]


def parameters(function: str, text: str, structs: dict[str, Any], fused: dict[str, list[str]]) -> list[Parameter]:
    """The parameters of one function; those of a kind that no rule has are of kind "other"."""
    made = []
    for k, part in enumerate(text.replace("\n", " ").split(",")):
        words = part.replace("*", " * ").split()
        if not words:
            continue
        words = [word for word in words if word != "const"]
        pointer, name, type_ = "*" in words, words[-1], words[0]
        if not name.isidentifier():
            kind = "other"
        elif k == 0 and (type_ in structs or type_ in fused):
            kind = "hypers"
        elif type_ == "StepScalars":
            kind = "now"
        elif type_.endswith(PARTS):
            kind = next(part for part in PARTS if type_.endswith(part)).lower()
        elif type_ == "real":
            kind = name if name in ("p", "g") else "slot"
        elif type_ == "double":
            kind = "size" if name == "size" else "value"
        else:
            kind = "other"
        made.append(Parameter(kind, type_, name, pointer))
    return made


def read_traits(text: str, structs: dict[str, Any]) -> dict[str, tuple[set[str], dict[str, tuple[str, ...]]]]:
    """What the lines `# traits of ...` declare, by rule."""
    found: dict[str, tuple[set[str], dict[str, tuple[str, ...]]]] = {}
    if misplaced := MISPLACED.search(text):
        raise RuleError(f"{misplaced[0]!r}: traits stand on a line of their own that begins with '# traits of Name: '")
    for match in TRAITS.finditer(text):
        for name in (name.strip() for name in match[1].split(",")):
            if name not in structs:
                raise RuleError(f"traits of {name}: there is no struct of that name")
            flags, lists = found.setdefault(name, (set(), {}))
            for word, _, arguments in re.findall(r"(\w+)(\(([^)]*)\))?", match[2]):
                if word in LISTS and arguments:
                    lists[word] = tuple(slot.strip() for slot in arguments.split(","))
                elif word in FLAGS and not arguments:
                    flags.add(word)
                else:
                    raise RuleError(f"traits of {name}: unknown trait {word!r}; known: {', '.join(sorted(FLAGS))}, "
                                    f"{', '.join(f'{kind}(slot, ...)' for kind in sorted(LISTS))}")
    return found


def read_rule(name: str, fields: list[tuple[str, str]], structs: dict[str, Any], fused: dict[str, list[str]],
              functions: dict[str, tuple[str, list[Parameter]]], flags: set[str],
              lists: dict[str, tuple[str, ...]]) -> Rule:
    """One rule from its struct and functions."""
    own_names = [field for _, field in fields]

    def serves(function: str) -> bool:
        """Whether a function is for this struct, or for every rule that has the hyper-parameters it takes."""
        taken = functions[function][1]
        if any(parameter.kind == "hypers" for parameter in taken):
            return taken[0].type == name or name in fused.get(taken[0].type, ())
        return all(parameter.name in own_names for parameter in taken if parameter.kind == "value")

    kin = [name, *(other for group in fused.values() if name in group for other in group)]
    stems = list(dict.fromkeys(other.lower() for other in kin))

    def named(piece: str) -> str | None:
        return next((stem + piece for stem in stems if stem + piece in functions and serves(stem + piece)), None)

    check_members(name, "hyper-parameters", fields)
    function = named("")
    if function is None:
        raise RuleError(f"{name}: needs a function {name.lower()}({name} h, ..., real* p, real g, ...) that moves one "
                        f"element; a struct that is no rule must not stand in this file")
    own = functions[function][1]
    kinds = [parameter.kind for parameter in own]
    check_parameters(function, own, "")
    if "p" not in kinds or "g" not in kinds or not own[kinds.index("p")].pointer or own[kinds.index("g")].pointer:
        raise RuleError(f"{function}: must take `real* p` and `real g`")
    rule = Rule(name, [field for _, field in fields if field != "_"], function, own, {}, flags=flags, lists=lists)
    scalars = next((parameter.type for parameter in own if parameter.kind == "scalars"), None)
    if scalars is not None:                    # (functions of the scalars' own name serve every rule that takes those)
        stems.append(scalars.removesuffix("Scalars").lower())
    for piece in PIECES:
        found = named(f"_{piece}")
        if found is not None:
            rule.pieces[piece] = found, functions[found][1]
            check_parameters(found, functions[found][1], piece)
    for owner in (function, *(piece for piece, _ in rule.pieces.values())):
        for parameter in functions[owner][1]:
            if parameter.kind in ("scalars", "memory", "shared", "terms"):
                if parameter.type not in structs:
                    raise RuleError(f"{owner}: there is no struct {parameter.type}")
                if rule.types.setdefault(parameter.kind, parameter.type) != parameter.type:
                    raise RuleError(f"{owner}: takes {parameter.type}, other functions of {name} take "
                                    f"{rule.types[parameter.kind]}")
                check_members(parameter.type, "members", structs[parameter.type])
                rule.structs[parameter.kind] = [field for _, field in structs[parameter.type]]
    check(rule)
    return rule


def check_members(name: str, what: str, fields: list[tuple[str, str]]) -> None:
    """RuleError unless a struct is of doubles alone, which the engine keeps in arrays."""
    for type_, member in fields:
        if type_ != "double" or not member.isidentifier():
            raise RuleError(f"{name}: {what} must be double, got {f'{type_} {member}'.strip()}")


def check_parameters(function: str, parameters: list[Parameter], piece: str) -> None:
    """RuleError unless the loops can pass what a function takes."""
    for k, parameter in enumerate(parameters):
        if parameter.kind not in TAKES[piece]:
            raise RuleError(f"{function}: cannot read the parameter `{parameter.type}{'*' * parameter.pointer} "
                            f"{parameter.name}`; it may take {', '.join(sorted(TAKES[piece]))}")
        if parameter.name in [other.name for other in parameters[:k]]:
            raise RuleError(f"{function}: has two parameters named {parameter.name}")
        if parameter.pointer and parameter.kind in {"terms": ("p", "g"), "normed": ("p", "g", "slot")}.get(piece, ()):
            raise RuleError(f"{function}: must take `real {parameter.name}`, which does not move there")


def check(rule: Rule) -> None:
    """RuleError unless the engine can take the rule."""
    names = [slot.name for slot in rule.slots]
    for what, have, most in (("slots", names, MAX_SLOTS), ("hyper-parameters", rule.hypers, MAX_HYPERS),
                             ("sums", rule.structs.get("terms", []), MAX_SUMS),
                             ("scalars", rule.structs.get("scalars", []), MAX_SCALARS)):
        if len(have) > most:
            raise RuleError(f"{rule.name}: has {len(have)} {what} ({', '.join(have)}), at most {most} are possible")
    if "lr" in rule.hypers:
        raise RuleError(f"{rule.name}: lr is of every rule; leave it out of the struct and take now.lr")
    sums = [rule.pieces[piece] for piece in ("terms", "normed") if piece in rule.pieces]
    if bool(sums) != ("terms" in rule.structs) or not all(any(p.kind == "terms" and p.pointer for p in taken)
                                                          for _, taken in sums):
        raise RuleError(f"{rule.name}: needs both {rule.function}_terms and the struct of its sums, or neither")
    if "normed" in rule.pieces and "finish_all" in rule.pieces:
        raise RuleError(f"{rule.name}: {rule.pieces['finish_all'][0]} is given sums, not norms; leave out "
                        f"{rule.pieces['normed'][0]}")
    if "scalars" in rule.structs and not any(p.kind == "scalars" and p.pointer
                                             for _, taken in rule.pieces.values() for p in taken):
        raise RuleError(f"{rule.name}: nothing fills {rule.types['scalars']}; write {rule.function}_scalars")
    for kind, slots in rule.lists.items():
        for slot in slots:
            if slot not in names:
                raise RuleError(f"{rule.name}: {kind}({slot}): has no slot {slot!r}; "
                                f"it has {', '.join(names) or 'none'}")
    for function, parameters in sums:
        taken = [p for p in parameters if p.kind == "slot"]
        for parameter in taken:
            if parameter.name not in names:
                raise RuleError(f"{function}: takes the slot {parameter.name!r}, which {rule.function} has not")
        if any(each.pointer for each in taken) and any(each.pointer for each in rule.slots):
            raise RuleError(f"{rule.name}: slots move either in {function} or in {rule.function}, not in both")


def updates_state_while_reducing(rule: Rule) -> bool:
    """Whether slots move in the pass that sums."""
    return "terms" in rule.pieces and any(p.kind == "slot" and p.pointer for p in rule.pieces["terms"][1])


def signature(rule: Rule) -> dict[str, Any]:
    """What a `.pxd` says of a rule, for Python: names and traits."""
    return {"hypers": tuple(rule.hypers), "slots": tuple(slot.name for slot in rule.slots),
            "memory": tuple(rule.structs.get("memory", ())), "shared": tuple(rule.structs.get("shared", ())),
            "sums": tuple(rule.structs.get("terms", ())), "depends_on_param": "depends_on_param" in rule.flags,
            "nonnegative": rule.lists.get("nonnegative", ()), "position": rule.lists.get("position", ())}
