"""What is saved of an optimizer, as plain values and arrays by name; all of it is checked before any is taken on."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from .._engine.plan import Plan
from .._engine.tensors import Array, Tensor
from .binding import BoundParameters
from .declaration import Hyper
from .groups import Group
from .plain_values import as_plain, from_plain, keeps_state
from .stages import AS_USUAL
from .structure import same_names

Arrays = Mapping[str, Mapping[str, Array]]     # by parameter and slot

FORMAT = 1
MAX_STEPS = 2**62 - 1


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


class Prepared(NamedTuple):
    """A state that was checked: what writes it, and the plans that must not step meanwhile."""

    plans: list[Plan]
    write: Callable[[], None]
    differences: list[str]             # what did not fit, where that is no error


def write_all(prepared: Sequence[Prepared], after: Callable[[], None] | None = None) -> None:
    """Write these states, all of them or none, while nobody can step their optimizers."""
    def write() -> None:
        for each in prepared:
            each.write()
        if after is not None:
            after()

    exclusively(list({id(plan): plan for each in prepared for plan in each.plans}.values()), write)


def exclusively(plans: list[Plan], write: Callable[[], None]) -> None:
    """Write while nobody can step any of these."""
    if plans:
        plans[0].exclusively(lambda: exclusively(plans[1:], write))
    else:
        completed(write)


# Values

def count(value: Any, owner: str, what: str, most: int = MAX_STEPS, least: int = 0) -> int:
    """A count of steps, from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{owner}: {what} must be a count from {least} to {most}, got {value!r}")
    return value


# Arrays

def copies(arrays: Arrays) -> dict[str, dict[str, Array]]:
    return {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in arrays.items()}


def refuse_others(arrays: Arrays, given: Any, owner: str) -> None:
    """ValueError unless `given` has arrays of the same names, shapes and dtypes."""
    same_names(arrays, given, f"{owner}: state")
    for name, slots in arrays.items():
        found = given[name]
        if type(found) is not dict or found.keys() != slots.keys():    # (a label costs as much as the rest)
            same_names(slots, found, f"{owner}: state[{name!r}]")
        for slot, array in slots.items():
            new = np.asarray(found[slot])
            if new.shape != array.shape or new.dtype != array.dtype:
                raise ValueError(f"{owner}: state[{name!r}][{slot!r}]: expected {array.dtype} {array.shape}, "
                                 f"got {new.dtype} {new.shape}")


def fill(arrays: Arrays, given: Arrays) -> None:
    for name, slots in arrays.items():
        for slot, array in slots.items():
            array[...] = given[name][slot]


# Options

def options_of(opt: BoundParameters) -> dict[str, Any]:
    """What the coming steps depend on beside state and hyper-parameters, where it is not as usual, as plain values."""
    stages = opt._stages
    options: dict[str, Any] = {}
    if stages != AS_USUAL:
        options |= {name: value for name, value in stages._asdict().items() if value != getattr(AS_USUAL, name)}
    if stages.rounding == "nearest":
        options.pop("seed", None)
    for name, option in opt.options.items():
        value, usual = opt._options[name], opt._peer.defaults.get(name, option.default)
        if value != usual and is_plain(value):
            options[name] = [list(x) if isinstance(x, tuple) else x for x in value] \
                if isinstance(value, list | tuple) else value
    tensors = opt._plan.tensors
    by_name: dict[str, dict[str, Any]] = {}
    if opt._decay is not opt._usual_decay:             # (where nothing was given, no tensor needs to be looked at)
        by_name["decay"] = {tensor.name: tensor.decay for tensor in tensors if tensor.decay != opt._usual_decay}
    if opt._decay_mask is not None:
        by_name["decay_mask"] = {tensor.name: False for tensor in tensors if not tensor.decays}
    if opt._lr_scale is not None:
        scales = {tensor.name: lr_scale_of(tensor) for tensor in tensors}
        by_name["lr_scale"] = {name: scale for name, scale in scales.items() if scale != 1}
    if opt._constraint is not None:
        by_name["constraint"] = {tensor.name: list(tensor.constraint) for tensor in tensors if tensor.constraint}
    if opt._catch_up_rows is not None:
        by_name["catch_up_rows"] = {tensor.name: True for tensor in tensors if tensor.journal is not None}
    return options | {name: value for name, value in by_name.items() if value}


def is_plain(value: Any) -> bool:
    """Whether JSON has this value."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def lr_scale_of(tensor: Tensor) -> float | str:
    """A tensor's factor of the learning rate, or a checksum of those of its elements."""
    if tensor.lr_scales is None:
        return tensor.lr_scale
    return f"array, crc32 {crc32(tensor.lr_scales.tobytes()):08x}"


def other_options(opt: BoundParameters, saved: Any, owner: str) -> list[str]:
    """In which options what was saved differs from this optimizer; ValueError if they are none."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"{owner}: options must be a mapping, got {saved!r}")
    own = options_of(opt)
    differences = []
    for name in {**saved, **own}:
        if saved.get(name) != own.get(name):
            usual = getattr(AS_USUAL, name, "as usual")
            there, here = (str(options.get(name, usual))[:200] for options in (saved, own))
            differences.append(f"saved with {name} = {there}, this optimizer has {here}")
    return differences


# An optimizer's state

def described(opt: BoundParameters) -> dict[str, Any]:
    """`state_dict` without its arrays."""
    opt._require_own_values()
    opt._require_all_updates("state_dict")
    plan = opt._plan
    skipped = zip(plan.tensors, plan.read_skipped_steps(), strict=True)
    plain = {
        "format": FORMAT,
        "optimizer": opt._saved_as,
        "t": plan.t,
        "missed": {tensor.name: steps for tensor, steps in skipped if steps},
        "groups": [{"params": group.params} | {name: as_plain(value) for name, value in group._values.items()}
                   for group in opt.groups],
        "options": options_of(opt),
    }
    if opt._stages.clip_zscore is not None:
        plain["norms"] = dict(zip(("count", "mean", "variance"), plan.norms, strict=True))
    if any(group._lr_max is not None for group in opt.groups):
        plain["lr_max"] = [group._lr_max for group in opt.groups]
    if opt.shared:
        plain["shared"] = dict(zip(opt.shared, opt._shared.tolist(), strict=True))
    if opt.conventions and opt.convention != next(iter(opt.conventions)):
        plain["convention"] = opt.convention
    if plan.accumulated:
        plain["folded"] = plan.accumulated
    if opt._frozen:
        plain["frozen"] = sorted(opt._frozen)
    if plan.skipped:
        plain["skipped"] = plan.skipped
    return plain


def prepared(opt: BoundParameters, d: Mapping[str, Any], strict: bool) -> Prepared:
    """Check the state that `state_dict` described, before anything of it is taken on.

    Where the options of the optimizer that was saved differ, or something does not fit, `strict` says whether that is
    refused.
    """
    owner, plan = f"{type(opt).__name__}.load_state_dict", opt._plan
    opt._require_own_values()
    refuse_foreign(opt, d, owner)
    report: list[str] = []
    if not strict:
        opt._require_all_updates("load_state_dict(strict=False)")
        from .fitting import fitted  # (imported where it is needed, as few programs do)

        d = fitted(opt, d, report)
    # (files of version 0.1.0 have no options)
    differences = other_options(opt, d["options"], owner) if "options" in d else []
    if differences and strict:
        raise ValueError(f"{owner}: {differences[0]}, and would step otherwise; make it with that, or give "
                         f"strict=False to go on with its own")
    t, missed = read_clock(opt, d, owner)
    values = read_values(opt, d["groups"], owner)
    shared = d.get("shared", {})
    same_names(opt.shared, shared, f"{owner}: shared")
    if not all(isinstance(value, float) for value in shared.values()):
        raise ValueError(f"{owner}: shared must map names to numbers, got {shared!r}")
    refuse_others(opt.state, d["state"], owner)
    norms = read_norms(opt, d, owner, strict)
    largest = read_largest_rates(opt, d, values, owner)
    frozen = read_frozen(opt, d, owner)
    accumulated, skipped = (count(d.get(name, 0), owner, name) for name in ("folded", "skipped"))

    def write() -> None:
        for tensor in plan.tensors:
            if tensor.journal is not None:
                tensor.journal.discard()
        fill(opt.state, d["state"])
        for group, new, saved in zip(opt.groups, values, d["groups"], strict=True):
            for name, value in new.items():
                if keeps_state(value):
                    value.load_state_dict(saved[name]["state"])     # type: ignore[union-attr]
                opt._set_hyper([group], name, value)
        for group, lr_max in zip(opt.groups, largest, strict=True):
            group._keep_lr_max(lr_max)
        opt._shared[...] = [shared[name] for name in opt.shared]
        plan.set_clock(t, missed)
        plan.norms = norms
        plan.accumulated, plan.skipped = accumulated, skipped
        if frozen != opt._frozen:
            opt._set_frozen(frozen)
        opt.cast()

    return Prepared([plan], write, report + differences)


def refuse_foreign(opt: BoundParameters, d: Mapping[str, Any], owner: str) -> None:
    """ValueError unless this describes an optimizer of the same class and convention."""
    missing = {"format", "optimizer", "t", "groups", "state"} - d.keys()
    if missing:
        raise ValueError(f"{owner}: no entry {min(missing)!r}")
    if d["format"] != FORMAT:
        raise ValueError(f"{owner}: expected format {FORMAT}, got {d['format']!r}")
    if d["optimizer"] != opt._saved_as:
        raise ValueError(f"{owner}: this is the state of {d['optimizer']}, load it into one")
    if opt.conventions and d.get("convention", next(iter(opt.conventions))) != opt.convention:
        raise ValueError(f"{owner}: expected convention {opt.convention!r}, got {d.get('convention')!r}; make this "
                         f"optimizer with that")


def read_clock(opt: BoundParameters, d: Mapping[str, Any], owner: str) -> tuple[int, list[int]]:
    """The number of updates in a state, and how many of them each tensor had no gradient in."""
    t = count(d["t"], owner, "t")
    names = [tensor.name for tensor in opt._plan.tensors]
    missed = d.get("missed", {})
    if not isinstance(missed, Mapping) or not set(missed) <= set(names):
        raise ValueError(f"{owner}: missed must map names of parameters to counts, got {missed!r}")
    # (less than 0 where rows have had more updates than steps have ended)
    return t, [count(missed.get(name, 0), owner, f"missed[{name!r}]", t, t - MAX_STEPS) for name in names]


def read_values(opt: BoundParameters, groups: Any, owner: str) -> list[dict[str, Hyper]]:
    """The hyper-parameters of each group in a state."""
    if not isinstance(groups, Sequence):
        raise ValueError(f"{owner}: groups must be a sequence, got {groups!r}")
    if len(groups) != len(opt.groups):
        raise ValueError(f"{owner}: expected {len(opt.groups)} groups, got {len(groups)}")
    return [read_group_values(opt, group, saved, owner) for group, saved in zip(opt.groups, groups, strict=True)]


def read_group_values(opt: BoundParameters, group: Group, saved: Mapping[str, Any], owner: str) -> dict[str, Hyper]:
    where = f"{owner}: groups[{group._index}]"
    same_names(["params", *opt.hypers], saved, where)
    if list(saved["params"]) != group.params:
        raise ValueError(f"{where}: expected the parameters {group.params}, got {list(saved['params'])}")
    return {name: bounded.checked(from_plain(saved[name], group._values[name], name, owner), type(opt).__name__)
            for name, bounded in opt.hypers.items()}


def read_frozen(opt: BoundParameters, d: Mapping[str, Any], owner: str) -> frozenset[str]:
    """The frozen parameters in a state."""
    names, frozen = {tensor.name for tensor in opt._plan.tensors}, d.get("frozen", [])
    if not isinstance(frozen, list) or not all(isinstance(name, str) and name in names for name in frozen):
        raise ValueError(f"{owner}: frozen must list names of parameters, got {frozen!r}")
    return frozenset(frozen)


def read_norms(opt: BoundParameters, d: Mapping[str, Any], owner: str, strict: bool) -> tuple[int, float, float]:
    """The mean and variance of past norms in a state."""
    if not strict and opt._stages.clip_zscore is None:
        return 0, 0.0, 0.0
    if strict and (opt._stages.clip_zscore is not None) != ("norms" in d):
        raise ValueError(f"{owner}: no entry 'norms', which clip_zscore needs" if "norms" not in d else
                         f"{owner}: entry 'norms' is of an optimizer with clip_zscore, which this has not")
    norms = d.get("norms", {"count": 0, "mean": 0.0, "variance": 0.0})
    same_names(["count", "mean", "variance"], norms, f"{owner}: norms")
    for name in ("mean", "variance"):
        if type(norms[name]) not in (float, int) or not 0 <= norms[name] < inf:
            raise ValueError(f"{owner}: norms[{name!r}] must be finite and >= 0, got {norms[name]!r}")
    seen = count(norms["count"], owner, "norms['count']")
    return seen, float(norms["mean"]), float(norms["variance"])


def read_largest_rates(opt: BoundParameters, d: Mapping[str, Any], values: list[dict[str, Hyper]],
                       owner: str) -> list[float | None]:
    """The largest learning rates in a state; where it has none, those of its learning rates."""
    saved = d.get("lr_max", [None] * len(opt.groups))
    if not isinstance(saved, Sequence) or len(saved) != len(opt.groups) or not all(
            lr_max is None or (type(lr_max) in (float, int) and 0 <= lr_max < inf) for lr_max in saved):
        raise ValueError(f"{owner}: lr_max must have a finite number >= 0 or None for each group, got {saved!r}")
    found = [None if group._lr_max is None else group._lr_max_with(new["lr"])
             for group, new in zip(opt.groups, values, strict=True)]
    return [lr_max if at_present is None or lr_max is None or group._given_lr_max is not None else float(at_present)
            for lr_max, at_present, group in zip(found, saved, opt.groups, strict=True)]
