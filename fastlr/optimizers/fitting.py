"""A saved state as one that fits: under other names, and where not all of it fits, with what the optimizer has.

`renamed` and `fitted` make such a state of one that `state_dict` returned; loading then checks it as any other.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._engine.arrays import stored_as
from .._engine.stored_numbers import decoded, encoded8, stored
from .._engine.tensors import Array
from .binding import BoundParameters
from .declaration import nearest
from .plain_values import as_plain

#: New names by old ones, or a function old -> new.
Rename = Mapping[str, str] | Callable[[str], str]

SCALE = "_scale"                       # the end of a slot's name that has the scales of 8-bit codes
#: Options that differ between parameters.
BY_NAME = ("catch_up_rows", "constraint", "decay", "decay_mask", "lr_scale")


# Other names

def renamed(d: Mapping[str, Any], rename: Rename, who: str) -> dict[str, Any]:
    """A state under other names of parameters; ValueError where two then have the same, or none has an old name."""
    names = sorted(names_in(d))
    new = new_names(names, rename, who)
    return with_names(d, new)


def new_names(names: Sequence[str], rename: Rename, who: str) -> dict[str, str]:
    """The new name of each."""
    if not (callable(rename) or isinstance(rename, Mapping)):
        raise TypeError(f"{who}: rename must map old names to new, or be a function of a name, got "
                        f"{type(rename).__name__}")
    if isinstance(rename, Mapping):
        unknown = [name for name in rename if name not in names]
        if unknown:
            raise ValueError(f"{who}: rename: no parameter {unknown[0]!r} was saved{nearest(str(unknown[0]), names)}")
    new = {name: rename(name) if callable(rename) else rename.get(name, name) for name in names}
    before: dict[str, str] = {}
    for name, other in new.items():
        if not isinstance(other, str):
            raise TypeError(f"{who}: rename: the new name of {name!r} must be text, got {other!r}")
        if other in before:
            raise ValueError(f"{who}: rename: {before[other]!r} and {name!r} would both be named {other!r}")
        before[other] = name
    return new


def names_in(d: Mapping[str, Any]) -> set[str]:
    """The names of parameters in a state."""
    found: set[str] = set(d.get("state", ()))
    for group in d.get("groups", ()):
        found.update(group["params"])
    for part in d.get("parts", ()):
        found |= names_in(part)
    return found | names_in(d["inner"]) if isinstance(d.get("inner"), Mapping) else found


def with_names(d: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    made = dict(d)

    def keys(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {new.get(name, name): value for name, value in entries.items()}

    for name in ("state", "missed"):
        if name in d:
            made[name] = keys(d[name])
    if "groups" in d:
        made["groups"] = [{**group, "params": [new.get(name, name) for name in group["params"]]}
                          for group in d["groups"]]
    if "options" in d:
        made["options"] = {name: keys(value) if name in BY_NAME and isinstance(value, Mapping) else value
                           for name, value in d["options"].items()}
    for name in ("given", "frozen"):
        if name in d:
            made[name] = sorted(new.get(each, each) for each in d[name])
    if "parts" in d:
        made["parts"] = [with_names(part, new) for part in d["parts"]]
    if isinstance(d.get("inner"), Mapping):
        made["inner"] = with_names(d["inner"], new)
    return made


# What fits of it

def fitted_arrays(own: Mapping[str, Mapping[str, Array]], given: Mapping[str, Mapping[str, Array]],
                  report: list[str], what: str = "state") -> dict[str, dict[str, Array]]:
    """Arrays as `own` has them: the given ones where they fit, else its own."""
    for name in given:
        if name not in own:
            report.append(f"{name!r} was saved, and there is no such parameter{nearest(name, own)}")
    made: dict[str, dict[str, Array]] = {}
    for name, slots in own.items():
        if name not in given:
            report.append(f"{name!r} was not saved: it keeps its {what}")
            made[name] = dict(slots)
        else:
            made[name] = fitted_slots(slots, given[name], f"{what}[{name!r}]", report)
    return made


def fitted_slots(own: Mapping[str, Array], given: Mapping[str, Array], where: str, report: list[str],
                 ) -> dict[str, Array]:
    """The slots of one parameter."""
    made = dict(own)
    for slot in given:
        if slot not in own and not is_scale(slot, given):
            report.append(f"{where}: {slot!r} was saved, and there is no such slot{nearest(slot, own)}")
    for slot in own:
        if is_scale(slot, own):
            continue
        label = f"{where}[{slot!r}]"
        if slot not in given:
            report.append(f"{label} was not saved: it keeps its values")
        elif same_kind(slot, own, given):
            made |= {key: np.asarray(given[key]) for key in (slot, slot + SCALE) if key in given and key in own}
        else:
            fitted = fitted_array(own[slot], own.get(slot + SCALE), given[slot],
                                  given.get(slot + SCALE) if is_scale(slot + SCALE, given) else None, label, report)
            made |= dict(zip((slot, slot + SCALE), fitted, strict=False))
    return made


def is_scale(slot: str, slots: Mapping[str, Array]) -> bool:
    """Whether a slot has the scales of another."""
    return slot.endswith(SCALE) and slot.removesuffix(SCALE) in slots


def same_kind(slot: str, own: Mapping[str, Array], given: Mapping[str, Array]) -> bool:
    """Whether a slot was saved as it is stored here."""
    return all(key in given and np.asarray(given[key]).dtype == own[key].dtype and given[key].shape == own[key].shape
               and stored_as(given[key]) == stored_as(own[key])
               for key in (slot, slot + SCALE) if key in own)


def fitted_array(own: Array, own_scale: Array | None, given: Array, scale: Array | None, label: str,
                 report: list[str]) -> tuple[Array, ...]:
    """One array of another type or with fewer rows, as it is stored here."""
    kept = (own,) if own_scale is None else (own, own_scale)
    given = given if isinstance(given, np.ndarray) else np.asarray(given)
    grown = own.ndim == given.ndim > 0 and own.shape[1:] == given.shape[1:] and given.shape[0] < own.shape[0]
    if own.shape != given.shape and not grown:
        report.append(f"{label}: shape {given.shape} was saved, and here it is {own.shape}: it keeps its values")
        return kept
    types = stored_as(own), stored_as(given)
    if types[1] is None or (types[1] in ("int8", "uint8")) != (scale is not None) or \
            (types[0] != types[1] and "int16" in types):       # (which is the lower half of a split number)
        report.append(f"{label}: {given.dtype} was saved, which cannot become {own.dtype}: it keeps its values")
        return kept
    if stored_as(own) != stored_as(given):
        report.append(f"{label}: saved as {stored_as(given)}, kept as {stored_as(own)}")
    if grown:
        report.append(f"{label}: {given.shape[0]} of {own.shape[0]} rows were saved, the others keep their values")
    if stored_as(own) == stored_as(given) and own_scale is None:
        numbers: Array = np.array(own)
        numbers[:len(given)] = given
        return (numbers.view(type(own)),)
    numbers = decoded(given, scale)
    if grown:
        whole = decoded(own, own_scale).astype(np.result_type(numbers, np.float32))
        whole[:len(given)] = numbers
        numbers = whole
    if own_scale is None:
        return (stored(numbers, own),)
    return encoded8(numbers, "int8" if own.dtype == np.int8 else "uint8")


def fitted(opt: BoundParameters, d: Mapping[str, Any], report: list[str]) -> dict[str, Any]:
    """The state of an optimizer as one that fits this: see `load_state_dict` with ``strict=False``."""
    made = dict(d)
    plan = opt._plan
    names = [tensor.name for tensor in plan.tensors]
    made["state"] = fitted_arrays(opt.state, d["state"], report)
    known = d["state"].keys()
    t, missed = d["t"], d.get("missed", {})
    # (what was not saved, or not as it would fit, has had as many updates as here)
    skipped = zip(names, plan.read_skipped_steps(), strict=True)
    made["missed"] = {name: t - (plan.t - steps) if name not in known or keeps_all(opt.state[name], made["state"][name])
                      else missed.get(name, 0) for name, steps in skipped}
    made["groups"] = fitted_groups(opt, d["groups"], report)
    if len(d["groups"]) != len(opt.groups) or any(saved["params"] != group["params"] for saved, group in
                                                  zip(d["groups"], made["groups"], strict=True)):
        made.pop("lr_max", None)
    if set(d.get("shared", ())) != set(opt.shared):
        made["shared"] = dict(zip(opt.shared, opt._shared.tolist(), strict=True))
    made["frozen"] = [name for name in d.get("frozen", ()) if name in names] \
        + [name for name in names if name in opt._frozen and name not in known]
    return made


def keeps_all(own: Mapping[str, Array], fitted: Mapping[str, Array]) -> bool:
    """Whether a parameter has state, and none of what was saved of it fits."""
    return bool(own) and all(fitted[slot] is array for slot, array in own.items())


def fitted_groups(opt: BoundParameters, saved: Sequence[Mapping[str, Any]], report: list[str]) -> list[dict[str, Any]]:
    """Hyper-parameters for these groups: those of the one saved group that held all of a group's parameters."""
    made = []
    for group in opt.groups:
        sources = [k for k, other in enumerate(saved) if not {*group.params}.isdisjoint(other["params"])]
        values = {name: as_plain(value) for name, value in group._values.items()}
        if len(sources) == 1:
            values |= {name: value for name, value in saved[sources[0]].items() if name in values}
        else:
            where = f"groups[{group._index}]"
            report.append(f"{where}: its parameters were in {len(sources)} groups, "
                          f"{', '.join(map(str, sources))}: it keeps its hyper-parameters" if sources else
                          f"{where}: none of its parameters was saved: it keeps its hyper-parameters")
        made.append({"params": group.params} | values)
    return made


