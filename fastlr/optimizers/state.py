"""What is saved of an optimizer, as plain values and arrays by name; all of it is checked before any is taken on."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from .._engine.tensors import Array
from ..schedules import Schedule, from_dict
from .declaration import Hyper
from .groups import Group, same_names

if TYPE_CHECKING:
    from .base import Optimizer

Arrays = Mapping[str, Mapping[str, Array]]     # by parameter and slot

FORMAT = 1
MOST_STEPS = 2**62 - 1


def completed(write: Callable[[], None]) -> None:
    """Call `write`; where an interrupt or a lack of memory stops it half-way, call it once more, then raise.

    For writes of values that were checked, and that may be repeated: so all of them are done, or none.
    """
    try:
        write()
    except (TypeError, ValueError, RuntimeError):      # refused before the first write
        raise
    except BaseException:
        write()
        raise


# Values

def spelled(value: Any) -> Any:
    """A hyper-parameter as plain data."""
    if isinstance(value, Schedule):
        return value.to_dict()
    if not callable(value):
        return value
    described = {"callable": getattr(value, "__qualname__", type(value).__name__)}
    return described | {"state": value.state_dict()} if keeps_state(value) else described


def revived(saved: Any, present: Any, name: str, who: str) -> Any:
    """What `spelled` made plain; of a function, which is not saved, the one that is there, if its state fits."""
    if not isinstance(saved, Mapping):
        return saved
    if "callable" not in saved:
        return from_dict(saved)
    if not callable(present) or isinstance(present, Schedule) or keeps_state(present) != ("state" in saved):
        raise ValueError(f"{who}: {name} was a function ({saved['callable']}), which is not saved; "
                         f"set opt.{name} to it before loading")
    if keeps_state(present):
        from copy import deepcopy

        deepcopy(present).load_state_dict(saved["state"])
    return present


def keeps_state(value: Any) -> bool:
    """Whether this is a callable that remembers something between its calls, as a Plateau does, and can save it."""
    return callable(value) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def count(value: Any, who: str, what: str, most: int = MOST_STEPS, least: int = 0) -> int:
    """A count of steps, from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{who}: {what} must be a count from {least} to {most}, got {value!r}")
    return value


# Arrays

def copies(arrays: Arrays) -> dict[str, dict[str, Array]]:
    return {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in arrays.items()}


def refuse_others(arrays: Arrays, given: Any, who: str) -> None:
    """ValueError unless `given` has arrays of the same names, shapes and dtypes."""
    same_names(arrays, given, f"{who}: state")
    for name, slots in arrays.items():
        same_names(slots, given[name], f"{who}: state[{name!r}]")
        for slot, array in slots.items():
            new = np.asarray(given[name][slot])
            if new.shape != array.shape or new.dtype != array.dtype:
                raise ValueError(f"{who}: state[{name!r}][{slot!r}]: expected {array.dtype} {array.shape}, "
                                 f"got {new.dtype} {new.shape}")


def fill(arrays: Arrays, given: Arrays) -> None:
    for name, slots in arrays.items():
        for slot, array in slots.items():
            array[...] = given[name][slot]


# An optimizer's

def described(opt: Optimizer) -> dict[str, Any]:
    """`state_dict` without its arrays."""
    plan = opt._plan
    missed = zip(plan.tensors, plan.read_skipped_steps(), strict=True)
    plain = {
        "format": FORMAT,
        "optimizer": type(opt).__name__,
        "t": opt.t,
        "missed": {tensor.name: steps for tensor, steps in missed if steps},
        "groups": [{"params": group.params} | {name: spelled(value) for name, value in group._values.items()}
                   for group in opt.groups],
    }
    if opt._stages.clip_zscore is not None:
        plain["norms"] = opt.norms
    if any(group._peak is not None for group in opt.groups):
        plain["lr_max"] = [group._peak for group in opt.groups]
    if opt.shared:
        plain["shared"] = dict(zip(opt.shared, opt._shared.tolist(), strict=True))
    if opt.conventions and opt.convention != next(iter(opt.conventions)):
        plain["convention"] = opt.convention
    if plan.accumulated:
        plain["folded"] = plan.accumulated
    return plain


def load(opt: Optimizer, d: Mapping[str, Any]) -> None:
    """Become what `state_dict` described."""
    who, plan = f"{type(opt).__name__}.load_state_dict", opt._plan
    refuse_foreign(opt, d, who)
    t, missed = clock_of(opt, d, who)
    values = values_of(opt, d["groups"], who)
    shared = d.get("shared", {})
    same_names(opt.shared, shared, f"{who}: shared")
    if not all(isinstance(value, float) for value in shared.values()):
        raise ValueError(f"{who}: shared must map names to numbers, got {shared!r}")
    refuse_others(opt.state, d["state"], who)
    norms = norms_of(opt, d, who)
    peaks = peaks_of(opt, d, values, who)
    folded = count(d.get("folded", 0), who, "folded")

    def write() -> None:
        fill(opt.state, d["state"])
        for group, new, saved in zip(opt.groups, values, d["groups"], strict=True):
            for name, value in new.items():
                if keeps_state(value):
                    value.load_state_dict(saved[name]["state"])     # type: ignore[union-attr]
                opt._assign(group, name, value)
        for group, peak in zip(opt.groups, peaks, strict=True):
            opt._set_peak(group, peak)
        opt._shared[...] = [shared[name] for name in opt.shared]
        plan.set_clock(t, missed)
        plan.norms = norms
        plan.accumulated = folded
        opt.cast()

    plan.exclusively(lambda: completed(write))


def refuse_foreign(opt: Optimizer, d: Mapping[str, Any], who: str) -> None:
    """ValueError unless this describes an optimizer of the same class and convention."""
    missing = {"format", "optimizer", "t", "groups", "state"} - d.keys()
    if missing:
        raise ValueError(f"{who}: no entry {min(missing)!r}")
    if d["format"] != FORMAT:
        raise ValueError(f"{who}: expected format {FORMAT}, got {d['format']!r}")
    if d["optimizer"] != type(opt).__name__:
        raise ValueError(f"{who}: this is the state of {d['optimizer']}, load it into one")
    if opt.conventions and d.get("convention", next(iter(opt.conventions))) != opt.convention:
        raise ValueError(f"{who}: expected convention {opt.convention!r}, got {d.get('convention')!r}; make this "
                         f"optimizer with that")


def clock_of(opt: Optimizer, d: Mapping[str, Any], who: str) -> tuple[int, list[int]]:
    """What a state says of updates done, and of how many of them each tensor missed."""
    t = count(d["t"], who, "t")
    names = [tensor.name for tensor in opt._plan.tensors]
    missed = d.get("missed", {})
    if not isinstance(missed, Mapping) or not set(missed) <= set(names):
        raise ValueError(f"{who}: missed must map names of parameters to counts, got {missed!r}")
    # (less than 0 where rows have had more updates than steps have ended)
    return t, [count(missed.get(name, 0), who, f"missed[{name!r}]", t, t - MOST_STEPS) for name in names]


def values_of(opt: Optimizer, groups: Any, who: str) -> list[dict[str, Hyper]]:
    """What a state says of each group's hyper-parameters."""
    if not isinstance(groups, Sequence):
        raise ValueError(f"{who}: groups must be a sequence, got {groups!r}")
    if len(groups) != len(opt.groups):
        raise ValueError(f"{who}: expected {len(opt.groups)} groups, got {len(groups)}")
    return [group_values_of(opt, group, saved, who) for group, saved in zip(opt.groups, groups, strict=True)]


def group_values_of(opt: Optimizer, group: Group, saved: Mapping[str, Any], who: str) -> dict[str, Hyper]:
    where = f"{who}: groups[{group._index}]"
    same_names(["params", *opt.hypers], saved, where)
    if list(saved["params"]) != group.params:
        raise ValueError(f"{where}: expected the parameters {group.params}, got {list(saved['params'])}")
    return {name: bounded.checked(revived(saved[name], group._values[name], name, who), type(opt).__name__)
            for name, bounded in opt.hypers.items()}


def norms_of(opt: Optimizer, d: Mapping[str, Any], who: str) -> tuple[int, float, float]:
    """What a state says of past norms."""
    if (opt._stages.clip_zscore is not None) != ("norms" in d):
        raise ValueError(f"{who}: no entry 'norms', which clip_zscore needs" if "norms" not in d else
                         f"{who}: entry 'norms' is of an optimizer with clip_zscore, which this has not")
    norms = d.get("norms", {"count": 0, "mean": 0.0, "variance": 0.0})
    same_names(["count", "mean", "variance"], norms, f"{who}: norms")
    for name in ("mean", "variance"):
        if type(norms[name]) not in (float, int) or not 0 <= norms[name] < inf:
            raise ValueError(f"{who}: norms[{name!r}] must be finite and >= 0, got {norms[name]!r}")
    seen = count(norms["count"], who, "norms['count']")
    return seen, float(norms["mean"]), float(norms["variance"])


def peaks_of(opt: Optimizer, d: Mapping[str, Any], values: list[dict[str, Hyper]], who: str) -> list[float | None]:
    """What a state says of the largest learning rates; where it says nothing, what its rates say."""
    saved = d.get("lr_max", [None] * len(opt.groups))
    if not isinstance(saved, Sequence) or len(saved) != len(opt.groups) or not all(
            peak is None or (type(peak) in (float, int) and 0 <= peak < inf) for peak in saved):
        raise ValueError(f"{who}: lr_max must have a finite number >= 0 or None for each group, got {saved!r}")
    found = [None if group._peak is None else group._peak_at(new["lr"])
             for group, new in zip(opt.groups, values, strict=True)]
    return [peak if at_present is None or peak is None or group._most is not None else float(at_present)
            for peak, at_present, group in zip(found, saved, opt.groups, strict=True)]
