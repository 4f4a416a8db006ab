"""Build rules of your own: read the rules of a `.pxd` file, write the loops round them, name the compiler flags.

A rule is stated once, as a struct of hyper-parameters and a function that moves one element; see `fastlr/rules/*.pxd`.
`generate(text, module)` reads every rule of such a file from its signatures alone and returns the Cython source of the
loops over it, for float32 and float64, with a table of function pointers for each rule
(`fastlr/_kernels/rule_table.pxd`). fastlr's own families are built by the same functions as a stranger's package:

    # setup.py
    from setuptools import setup
    from fastlr.build import rules_extension
    setup(name="mypkg", packages=["mypkg"], ext_modules=[rules_extension("mypkg._rules", "mypkg/rules.pxd")])

This module imports neither NumPy nor fastlr's compiled modules; `rules_extension` needs Cython and setuptools.

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

import os
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Of `RuleTable`; a table of another version is refused.
TABLE_VERSION = 1
MAX_SLOTS, MAX_HYPERS, MAX_SUMS, MAX_SCALARS = 4, 12, 4, 8

FLAGS = {"depends_on_param", "decay_inside_update", "prefetch", "storage_loop"}
LISTS = {"nonnegative", "position"}

STRUCT = re.compile(r"^cdef struct (\w+):[^\n]*\n((?:[ \t]+[^\n]*\n|\n(?=[ \t]))+)", re.M)
FUSED = re.compile(r"^ctypedef fused (\w+):[^\n]*\n((?:[ \t]+[^\n]*\n)+)", re.M)
FUNCTION = re.compile(r"^cdef inline ([\w ]+?) (\w+)\(([^)]*)\)", re.M)
DECLARATION = re.compile(r"^cdef (?:struct|enum|class)\b[^\n]*\n(?:[ \t]+[^\n]*\n|\n(?=[ \t]))*", re.M)
TRAITS = re.compile(r"^# traits of ([\w, ]+): (.*)$", re.M)
MISPLACED = re.compile(r"^(?!# traits of [\w, ]+: ).*#.*\btraits of \w.*:.*$", re.M)
#: What the names of structs end in that are no rules but belong to one.
PARTS = ("Scalars", "Memory", "Shared", "Terms")
PIECES = ("scalars", "begin", "terms", "finish_all", "finish", "skips_state")
#: The kinds of parameters that a rule's functions may have, by piece ("": the function of an element).
TAKES = {
    "": {"hypers", "now", "scalars", "p", "g", "slot"},
    "scalars": {"hypers", "value", "now", "scalars"},
    "begin": {"hypers", "value", "now", "scalars", "memory", "shared"},
    "terms": {"hypers", "now", "scalars", "p", "g", "slot", "terms"},
    "finish_all": {"hypers", "value", "now", "scalars", "shared", "terms", "size"},
    "finish": {"hypers", "value", "now", "scalars", "memory", "shared", "terms", "size"},
    "skips_state": {"hypers", "now", "scalars"},
}


class RuleError(ValueError):
    """A `.pxd` file holds a rule that cannot be read; the message says which, and what must hold."""


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


# Reading

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
        if piece == "terms" and parameter.kind in ("p", "g") and parameter.pointer:
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
    if ("terms" in rule.pieces) != ("terms" in rule.structs) or (
            "terms" in rule.pieces and not any(p.kind == "terms" and p.pointer for p in rule.pieces["terms"][1])):
        raise RuleError(f"{rule.name}: needs both {rule.function}_terms and the struct of its sums, or neither")
    if "scalars" in rule.structs and not any(p.kind == "scalars" and p.pointer
                                             for _, taken in rule.pieces.values() for p in taken):
        raise RuleError(f"{rule.name}: nothing fills {rule.types['scalars']}; write {rule.function}_scalars")
    for kind, slots in rule.lists.items():
        for slot in slots:
            if slot not in names:
                raise RuleError(f"{rule.name}: {kind}({slot}): has no slot {slot!r}; "
                                f"it has {', '.join(names) or 'none'}")
    if "terms" in rule.pieces:
        taken = [p for p in rule.pieces["terms"][1] if p.kind == "slot"]
        for parameter in taken:
            if parameter.name not in names:
                raise RuleError(f"{rule.pieces['terms'][0]}: takes the slot {parameter.name!r}, "
                                f"which {rule.function} has not")
        if any(each.pointer for each in taken) and any(each.pointer for each in rule.slots):
            raise RuleError(f"{rule.name}: slots move either in {rule.pieces['terms'][0]} or in {rule.function}, "
                            f"not in both")


def updates_state_while_reducing(rule: Rule) -> bool:
    """Whether slots move in the pass that sums."""
    return "terms" in rule.pieces and any(p.kind == "slot" and p.pointer for p in rule.pieces["terms"][1])


# Writing

HEAD = """# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Generated by fastlr/build.py from {source}: the loops round its rules.
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memset
from fastlr._kernels.lanes cimport LANES, fold_lanes
from fastlr._kernels.prefetch cimport EARLY, STRIDE, prefetch_ahead
from fastlr._kernels.rule_table cimport (
    TABLE_VERSION, RuleTable, StepFunction, StorageLoop, TermsFunction,
)
from fastlr._kernels.structs cimport TILE
from fastlr.rules.scalars cimport StepScalars
from {source} cimport (
    {names},
)

RULES = {{}}
"""
C_TYPES = ("float", "double")


def generate(text: str, source: str) -> str:
    """The Cython source of the loops round the rules of `text`, the `.pxd` that is cimported as `source`."""
    rules = read_rules(text)
    if not rules:
        raise RuleError(f"{source}: holds no rule: no `cdef struct` with a function of its name in lower case")
    used = {rule.name for rule in rules}
    used |= {type_ for rule in rules for type_ in rule.types.values()}
    used |= {f"{rule.function}_{half}" for rule in rules if "storage_loop" in rule.flags
             for half in ("moments", "apply")}
    used |= {rule.function for rule in rules} | {name for rule in rules for name, _ in rule.pieces.values()}
    lines = [HEAD.format(source=source, names=wrapped(sorted(used)))]
    if any("storage_loop" in rule.flags for rule in rules):
        lines += storage_loops([rule for rule in rules if "storage_loop" in rule.flags])
    for rule in rules:
        lines += loops_of(rule)
    return "\n".join(lines) + "\n"


def wrapped(names: list[str]) -> str:
    import textwrap

    return "\n    ".join(textwrap.wrap(", ".join(names), 110))


def call(function: str, parameters: list[Parameter], given: dict[str, str]) -> str:
    """A call that passes what a function's parameters ask for, by kind, and slots by name."""
    return f"{function}({', '.join(given.get(f'{p.kind} {p.name}') or given[p.kind] for p in parameters)})"


def slot_arguments(slots: list[Parameter], form: str) -> dict[str, str]:
    """What is passed for each slot: the number, or its address."""
    return {f"slot {slot.name}": "&" * slot.pointer + form.format(slot.name) for slot in slots}


def loops_of(rule: Rule) -> Iterator[str]:
    """The functions of one rule, and its table."""
    r, stem = rule, rule.name.lower()
    for c in C_TYPES:
        slots = "".join(f", {c}* restrict slot_{slot.name}" for slot in r.slots)
        yield (f"cdef inline void {stem}_elements_{c}({r.name} h, StepScalars now{own_parameter(r)}, {c}* restrict p, "
               f"const {c}* restrict g{slots}, Py_ssize_t size) noexcept nogil:")
        yield "    cdef Py_ssize_t i"
        yield f"    cdef {c} p_i" + "".join(f", slot_{slot.name}_i" for slot in r.slots)
        yield "    for i in range(size):"
        yield f"        p_i = <{c}>now.decay_factor * p[i]"
        yield from (f"        slot_{slot.name}_i = slot_{slot.name}[i]" for slot in r.slots)
        given = {"hypers": "h", "now": "now", "scalars": "s", "p": "&p_i", "g": "g[i]",
                 **slot_arguments(r.slots, "slot_{}_i")}
        yield "        " + call(r.function, r.parameters, given)
        yield "        p[i] = p_i"
        yield from (f"        slot_{slot.name}[i] = slot_{slot.name}_i" for slot in r.slots if slot.pointer)
        yield ""
        yield from step_function(r, stem, c)
        if "terms" in r.pieces:
            yield from terms_function(r, stem, c)
    yield from scalar_functions(r, stem)
    yield from table(r, stem)


# A rule's own scalars are read where the step's are, and passed on: in a copy of those a compiler may take what is read
# as another type for not yet written.

def own_parameter(r: Rule) -> str:
    return f", {r.types['scalars']} s" if "scalars" in r.types else ""


def own_argument(r: Rule) -> str:
    """Of the pointer `now`."""
    return f", (<const {r.types['scalars']}*>now.own)[0]" if "scalars" in r.types else ""


def step_function(r: Rule, stem: str, c: str) -> Iterator[str]:
    """The loop over contiguous elements that the table has."""
    yield (f"cdef void {stem}_step_{c}(const double* hyper, const StepScalars* now, {c}* restrict p, "
           f"const {c}* restrict g, void** slots, Py_ssize_t size) noexcept nogil:")
    yield f"    cdef {r.name} h = (<const {r.name}*>hyper)[0]"
    for k, slot in enumerate(r.slots):
        yield f"    cdef {c}* slot_{slot.name} = <{c}*>slots[{k}]"
    names = "".join(f", slot_{slot.name}" for slot in r.slots)
    moved = "".join(f", slot_{slot.name} + i" for slot in r.slots)
    if "skips_state" in r.pieces:
        yield "    cdef Py_ssize_t e"
        yield f"    cdef {c} p_e, nothing = 0"
        function, taken = r.pieces["skips_state"]
        own = own_argument(r).removeprefix(", ")
        yield f"    if {call(function, taken, {'hypers': 'h', 'now': 'now[0]', 'scalars': own})}:"
        yield "        for e in range(size):"
        yield f"            p_e = <{c}>now.decay_factor * p[e]"
        given = {"hypers": "h", "now": "now[0]", "scalars": own, "p": "&p_e", "g": "g[e]",
                 **slot_arguments(r.slots, "nothing")}
        yield "            " + call(r.function, r.parameters, given)
        yield "            p[e] = p_e"
        yield "        return"
    if "prefetch" in r.flags:
        yield "    cdef Py_ssize_t i = 0"
        yield "    while i + STRIDE + EARLY <= size:"
        for name in ("p", "g", *(f"slot_{slot.name}" for slot in r.slots)):
            yield f"        prefetch_ahead({name} + i)"
        yield f"        {stem}_elements_{c}(h, now[0]{own_argument(r)}, p + i, g + i{moved}, STRIDE)"
        yield "        i += STRIDE"
        yield f"    {stem}_elements_{c}(h, now[0]{own_argument(r)}, p + i, g + i{moved}, size - i)"
    else:
        yield f"    {stem}_elements_{c}(h, now[0]{own_argument(r)}, p, g{names}, size)"
    yield ""


def terms_function(r: Rule, stem: str, c: str) -> Iterator[str]:
    """The pass of a reducing rule that sums, over at most TILE elements: sixteen lanes, folded in one order."""
    function, taken = r.pieces["terms"]
    sums = r.structs["terms"]
    mine = [p for p in taken if p.kind == "slot"]
    moves = any(p.pointer for p in mine)
    yield (f"cdef void {stem}_terms_{c}(const double* hyper, const StepScalars* now, const {c}* restrict p, "
           f"const {c}* restrict g, void** slots, double* totals, Py_ssize_t size) noexcept nogil:")
    yield f"    {stem}_sum_{c}((<const {r.name}*>hyper)[0], now[0]{own_argument(r)}, p, g" + "".join(
        f", <{c}*>slots[{[slot.name for slot in r.slots].index(p.name)}]" for p in mine) + ", totals, size)"
    yield ""
    yield (f"cdef void {stem}_sum_{c}({r.name} h, StepScalars now{own_parameter(r)}, const {c}* restrict p, "
           f"const {c}* restrict g"
           + "".join(f", {'' if p.pointer else 'const '}{c}* restrict slot_{p.name}" for p in mine)
           + ", double* totals, Py_ssize_t size) noexcept nogil:")
    for k in range(len(sums)):
        yield f"    cdef double[TILE] term{k}"
    yield "    cdef double[LANES] lane"
    yield f"    cdef {r.types['terms']} terms"
    yield "    cdef Py_ssize_t i, j, whole = (size + LANES - 1) // LANES * LANES"
    if moves:
        yield f"    cdef {c} " + ", ".join(f"slot_{p.name}_i" for p in mine if p.pointer)
    yield "    for i in range(size):"
    yield from (f"        slot_{p.name}_i = slot_{p.name}[i]" for p in mine if p.pointer)
    given = {"hypers": "h", "now": "now", "scalars": "s", "p": f"<{c}>now.decay_factor * p[i]", "g": "g[i]",
             "terms": "&terms",
             **{f"slot {p.name}": f"&slot_{p.name}_i" if p.pointer else f"slot_{p.name}[i]" for p in mine}}
    yield "        " + call(function, taken, given)
    yield from (f"        term{k}[i] = terms.{name}" for k, name in enumerate(sums))
    yield from (f"        slot_{p.name}[i] = slot_{p.name}_i" for p in mine if p.pointer)
    for k in range(len(sums)):
        yield "    for i in range(size, whole):"
        yield f"        term{k}[i] = 0"
        yield "    for j in range(LANES):"
        yield "        lane[j] = 0"
        yield "    for i in range(whole // LANES):"
        yield "        for j in range(LANES):"
        yield f"            lane[j] = lane[j] + term{k}[i * LANES + j]"
        yield f"    totals[{k}] += fold_lanes(lane)"
    yield ""


def scalar_functions(r: Rule, stem: str) -> Iterator[str]:
    """What a step computes once, with the types of the table."""
    def structs(function: str, parameters: list[Parameter], now: str) -> str:
        given = {"hypers": f"(<const {r.name}*>hyper)[0]", "size": "size"}
        given |= {f"value {name}": f"(<const {r.name}*>hyper).{name}" for name in r.hypers}
        for p in parameters:
            if p.kind == "now":
                given["now"] = now if p.pointer else f"{now}[0]"
            elif p.kind == "scalars":
                given["scalars"] = f"<{p.type}*>now.own" if p.pointer else f"(<{p.type}*>now.own)[0]"
            elif p.kind in ("memory", "shared", "terms"):
                source = "totals" if p.kind == "terms" else p.kind
                given[p.kind] = f"<{p.type}*>{source}" if p.pointer else f"(<{p.type}*>{source})[0]"
        return call(function, parameters, given)

    for piece, signature in (
            ("scalars", "StepScalars* now"),
            ("begin", "StepScalars* now, double* memory, const double* shared"),
            ("finish_all", "const StepScalars* now, double* shared, const double* totals, double size"),
            ("finish", "StepScalars* now, double* memory, const double* shared, const double* totals, double size")):
        if piece in r.pieces:
            yield f"cdef void {stem}_{piece}_of(const double* hyper, {signature}) noexcept nogil:"
            yield "    " + structs(*r.pieces[piece], "now")
            yield ""


def table(r: Rule, stem: str) -> Iterator[str]:
    """The table of one rule, its capsule, and what it says of itself."""
    t = f"{stem}_table"
    yield f"cdef RuleTable {t}"
    yield f"memset(&{t}, 0, sizeof(RuleTable))"
    yield f"{t}.version, {t}.size = TABLE_VERSION, sizeof(RuleTable)"
    for k, c in enumerate(C_TYPES):
        yield f"{t}.step[{k}] = <StepFunction>&{stem}_step_{c}"
        if "terms" in r.pieces:
            yield f"{t}.terms[{k}] = <TermsFunction>&{stem}_terms_{c}"
    for piece in ("scalars", "begin", "finish_all", "finish"):
        if piece in r.pieces:
            yield f"{t}.{piece} = &{stem}_{piece}_of"
    if "storage_loop" in r.flags:
        yield from storage_entries(r, t)
    yield (f"{t}.hypers, {t}.slots, {t}.memories, {t}.shared, {t}.sums = {len(r.hypers)}, {len(r.slots)}, "
           f"{len(r.structs.get('memory', ()))}, {len(r.structs.get('shared', ()))}, {len(r.structs.get('terms', ()))}")
    yield (f"{t}.updates_state_while_reducing, {t}.decay_inside_update = {updates_state_while_reducing(r)}, "
           f"{'decay_inside_update' in r.flags}")
    yield f'RULES["{r.name}"] = PyCapsule_New(&{t}, "fastlr.rule", NULL), {signature(r)!r}'
    yield ""


STORED = (("float", "float"), ("float", "uint16_t"), ("float", "uint8_t"),
          ("uint16_t", "float"), ("uint16_t", "uint16_t"), ("uint16_t", "uint8_t"))


def storage_loops(rules: list[Rule]) -> Iterator[str]:
    """The template that decodes, steps and encodes in one loop, for the rules that ask for it."""
    for rule in rules:
        if [slot.name for slot in rule.slots] != ["m", "v"] or rule.lists.get("nonnegative") != ("v",):
            raise RuleError(f"{rule.name}: storage_loop is for rules of the slots m and v, of which v is nonnegative")
        if rule.function != rules[0].function:
            raise RuleError(f"{rule.name}: storage_loop is for one function in a file; {rules[0].name} has another")
    yield "ctypedef fused InStorageLoop:"
    yield from (f"    {rule.name}" for rule in rules)
    yield ""
    template = (Path(__file__).parent / "_kernels" / "storage_loop.pxi").read_text(encoding="utf-8")
    for name, value in (("moments", f"{rules[0].function}_moments"), ("apply", f"{rules[0].function}_apply"),
                        ("scalars", rules[0].types["scalars"])):
        template = template.replace("{" + name + "}", value)
    yield template


def storage_entries(rule: Rule, t: str) -> Iterator[str]:
    for k, (weight, moment) in enumerate(STORED):
        yield f"{t}.storage_loop[{k}] = <StorageLoop>&step_stored[{rule.name}, {weight}, {moment}]"


def signature(rule: Rule) -> dict[str, Any]:
    """What a `.pxd` says of a rule, for Python: names and traits."""
    return {"hypers": tuple(rule.hypers), "slots": tuple(slot.name for slot in rule.slots),
            "memory": tuple(rule.structs.get("memory", ())), "shared": tuple(rule.structs.get("shared", ())),
            "sums": tuple(rule.structs.get("terms", ())), "depends_on_param": "depends_on_param" in rule.flags,
            "nonnegative": rule.lists.get("nonnegative", ()), "position": rule.lists.get("position", ())}


# Building

#: Instruction sets of x86-64 beside the plainest, in which a kernel source is compiled once more each.
VARIANTS = ("v3", "v4")


def compile_flags() -> list[str]:
    """The flags that keep speed and bits: for loops of your own, and for what `rules_extension` builds.

    -fno-math-errno lets square roots vectorise (7.6 times as fast), -ffp-contract=off keeps the same bits on every
    instruction set. Never -ffast-math (it changes the host's floating-point mode) nor -march=native (it changes bits).

    >>> from fastlr.build import compile_flags
    >>> "-ffp-contract=off" in compile_flags() or "/fp:precise" in compile_flags()
    True
    """
    if os.name == "nt" and "GCC" not in sys.version:
        return ["/O2", "/fp:precise"]
    flags = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    return flags + (["-Wno-maybe-uninitialized"] if "clang" not in os.environ.get("CC", "gcc") else [])


def built_variants() -> tuple[str, ...]:
    """Which instruction sets a kernel is compiled for beside the plainest, on the platform that is built for."""
    target = sysconfig.get_platform() + " " + os.environ.get("ARCHFLAGS", "")
    if os.name == "nt" or not ("x86_64" in target or "amd64" in target):
        return ()
    asked = os.environ.get("FASTLR_VARIANTS")
    return VARIANTS if asked is None else tuple(variant for variant in VARIANTS if variant in asked.split(","))


def declarations_id(texts: Iterable[str]) -> str:
    """A checksum of the structs, enums and classes that these sources declare: it changes with the layout of memory."""
    found = [block[0] for text in texts for block in DECLARATION.finditer(text)]
    plain = "\n".join(" ".join(line.split("#")[0].split()) for block in found for line in block.splitlines())
    return f"{zlib.crc32(plain.encode()):08x}"


def write_if_changed(path: Path, text: str) -> None:
    """Leave a file that is as it should be untouched, so that what depends on it is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


VARIANT = """/* {name}, compiled for x86-64-{variant}: the same source, another module name. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-{variant}"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("arch=x86-64-{variant}")
#endif
#define FASTLR_VARIANT "{variant}"
#define PyInit_{last} PyInit_{last}_{variant}
#define __pyx_module_is_main_{mangled} __pyx_module_is_main_{mangled}_{variant}
#include "{last}.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
"""


def variant_sources(name: str, c_source: str) -> list[str]:
    """Write the sources that compile the translated module `name` once more for each instruction set."""
    source, made = Path(c_source), []
    for variant in built_variants():
        path = source.with_name(f"{source.stem}_{variant}.c")
        write_if_changed(path, VARIANT.format(name=name, variant=variant, last=source.stem,
                                              mangled=name.replace(".", "__")))
        made.append(str(path))
    return made


def write_rules(name: str, pxd: str | os.PathLike[str]) -> str:
    """Write the Cython source of the module `name`, the loops round the rules of a `.pxd` file; its path."""
    path = Path(pxd)
    if path.suffix != ".pxd" or path.is_absolute() or ".." in path.parts:
        raise RuleError(f"rules_extension({name!r}): expected the path of a .pxd file from the folder of setup.py, as "
                        f"'mypkg/rules.pxd', got {str(pxd)!r}")
    if not path.is_file():
        raise RuleError(f"rules_extension({name!r}): there is no file {pxd} in {Path.cwd()}")
    generated = Path("build", "generated", *name.split(".")).with_suffix(".pyx")
    source = ".".join(path.with_suffix("").parts)
    try:
        text = generate(path.read_text(encoding="utf-8"), source)
    except RuleError as error:
        raise RuleError(f"{pxd}: {error}") from None
    write_if_changed(generated, text)
    return str(generated)


def with_variants(extension: Any) -> Any:
    """Add the sources that compile a translated extension once more for each instruction set."""
    extension.sources += variant_sources(extension.name, extension.sources[0])
    return extension


def rules_extension(name: str, pxd: str | os.PathLike[str], **keywords: Any) -> Any:
    """A setuptools Extension of the loops round the rules of a `.pxd` file, for every instruction set.

    Parameters
    ----------
    name
        The module to be built, ``"mypkg._rules"``: what a class names as its ``rule``.
    pxd
        The path of the file from the folder of setup.py, ``"mypkg/rules.pxd"``.
    keywords
        Passed on to Extension.

    Raises
    ------
    RuleError
        If the file holds a rule that cannot be read; the message says which and why.
    """
    from Cython.Build import cythonize
    from setuptools import Extension

    include = [str(Path(__file__).parents[1]), ".", *keywords.pop("include_path", [])]
    extension = Extension(name, [write_rules(name, pxd)], depends=[str(pxd)],
                          extra_compile_args=compile_flags() + keywords.pop("extra_compile_args", []), **keywords)
    (translated,) = cythonize([extension], include_path=include, language_level=3, quiet=True)
    return with_variants(translated)


def write_signatures(path: str | os.PathLike[str], pxds: dict[str, Path], build_id: str) -> None:
    """Write the module that says of every rule what its signature says; `pxds`: the file of each compiled module."""
    lines = ['"""Generated by setup.py from fastlr/rules/*.pxd: what the signature of each rule says."""',
             "from . import RuleSignature", "",
             f"BUILD_ID = {build_id!r}",
             f"VARIANTS: tuple[str, ...] = {built_variants()!r}",
             "SIGNATURES = {"]
    for module, pxd in pxds.items():
        for rule in read_rules(pxd.read_text(encoding="utf-8")):
            values = ", ".join(repr(value) for value in signature(rule).values())
            lines.append(f"    {rule.name!r}: RuleSignature({module!r}, {values}),")
    write_if_changed(Path(path), "\n".join([*lines, "}", ""]))
