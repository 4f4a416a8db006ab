"""What a whole run consists of: each kind of object as plain values and arrays by name, and how it is loaded again.

A node describes one object: ``{"kind": ..., ...}``. Arrays are named by the way to the object, as "opt/state/w/m".
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import deepcopy
from random import Random
from typing import Any

import numpy as np

from ._engine.arrays import BFloat16, as_array, stored_as
from ._engine.compiled_schedule import CompiledSchedule
from ._engine.plan import Plan
from ._engine.safetensors import brief, code_of
from ._engine.tensor_versions import is_torch_tensor, mark_written
from ._engine.tensors import Array, is_array
from .monitor.history import History
from .optimizers.base import Optimizer
from .optimizers.declaration import nearest
from .optimizers.fitting import Rename, fitted_array, new_names, with_names
from .optimizers.loss_scale import LossScale
from .optimizers.partition import description
from .optimizers.plain_values import as_plain
from .optimizers.resumable import Resumable, parameters_written, prepared, tensors_of
from .optimizers.state import Prepared

Node = dict[str, Any]
Arrays = Mapping[str, Array]

DEPTH = 16             # of mappings and sequences in one another
HEX = "hex"            # an integer of more than 64 bits, as the state of some generators has


# An optimizer's arrays

def arrays_of(opt: Optimizer | Resumable, params: bool) -> dict[str, Array]:
    """The arrays by their names in a file; those of large elements first, so that each is aligned there."""
    arrays = {f"param/{tensor.name}": tensor.array for tensor in tensors_of(opt)} if params else {}
    for prefix, states in layers(opt):
        for name, slots in states.items():
            arrays |= {f"{prefix}/{name}/{slot}": array for slot, array in slots.items()}
    return largest_first(arrays)


def largest_first(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))


def layers(opt: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Mapping[str, Array]]]]:
    """The arrays of each wrapper, from the outermost, then of the optimizer or its parts; each with its prefix."""
    depth = 0
    while isinstance(opt, Resumable) and opt.inner is not None:
        yield f"{prefix}wrapper/{depth}", opt._arrays()
        opt, depth = opt.inner, depth + 1
    yield f"{prefix}state", opt._arrays() if isinstance(opt, Resumable) else opt.state
    for k, part in enumerate(opt._saved_parts if isinstance(opt, Resumable) else ()):
        yield from layers(part, f"{prefix}part/{k}/")


def levels(described: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """What is described of each of those, with the same prefixes."""
    depth = 0
    while isinstance(described.get("inner"), dict):
        yield f"{prefix}wrapper/{depth}", described
        described, depth = described["inner"], depth + 1
    yield f"{prefix}state", described
    for k, part in enumerate(described.get("parts", ())):
        yield from levels(part, f"{prefix}part/{k}/")


def with_arrays(described: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    """The `state_dict` that a file describes, with its arrays."""
    whole = deepcopy(described)
    for prefix, level in levels(whole):
        names = [name for group in level.get("groups", ()) for name in group["params"]]
        state: dict[str, dict[str, Array]] = {name: {} for name in names}
        for name, array in arrays.items():
            if name.startswith(f"{prefix}/"):
                parameter, _, slot = name[len(prefix) + 1:].rpartition("/")
                state.setdefault(parameter, {})[slot] = array
        level["state"] = state
    return whole


def well_formed(state: dict[str, Any]) -> bool:
    """Whether a state has the entries and types that `load_state_dict` does not check."""
    if "groups" not in state:              # (of a wrapper or an average, which checks all else)
        inner, parts = state.get("inner"), state.get("parts", [])
        return (isinstance(state.get("optimizer"), str) and type(state.get("t")) is int and isinstance(parts, list)
                and (inner is None or (isinstance(inner, dict) and well_formed(inner)))
                and all(isinstance(part, dict) and well_formed(part) for part in parts))
    if state.keys() - {"norms", "folded", "skipped", "shared", "convention", "lr_max", "options", "frozen"} \
            != {"format", "optimizer", "t", "missed", "groups"}:
        return False
    if not (isinstance(state.get("shared", {}), dict) and isinstance(state.get("options", {}), dict)):
        return False
    t, missed, groups = state["t"], state["missed"], state["groups"]
    if not (isinstance(state["optimizer"], str) and type(t) is int and isinstance(missed, dict)
            and isinstance(groups, list)):
        return False
    known: list[Any] = []
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            return False
        known += group["params"]
    return all(isinstance(name, str) for name in known) and missed.keys() <= set(known) and all(
        type(steps) is int and steps <= t for steps in missed.values())


def prepared_optimizer(opt: Any, described: dict[str, Any], arrays: Arrays, params: bool | None, strict: bool,
                       rename: Rename | None, who: str) -> Prepared:
    """The state of an optimizer, and its parameters, checked before anything is written."""
    if described["optimizer"] != type(opt).__name__:
        raise ValueError(f"this is the state of {brief(described['optimizer'])}, got an optimizer "
                         f"of class {type(opt).__name__}; load it into one of the class saved")
    given = {name.removeprefix("param/"): array for name, array in arrays.items() if name.startswith("param/")}
    if params and not given:
        raise ValueError("expected parameters, it was saved with params=False; load them from where they were saved, "
                         "and this with params=False")
    state = with_arrays(described, arrays)
    if rename is not None:
        new = new_names(saved_names(state, arrays), rename, who)
        state, given = with_names(state, new), {new[name]: array for name, array in given.items()}
    ready = prepared(opt, state, strict)
    report: list[str] = []
    wanted = {tensor.name: np.asarray(tensor.array).view(type(tensor.array)) for tensor in tensors_of(opt)}
    fitting = fitted_parameters(wanted, given, strict, report) if given and params is not False else {}

    def write() -> None:
        ready.write()
        for name, array in fitting.items():
            wanted[name][...] = array
        if fitting:
            parameters_written(opt)

    return Prepared(ready.plans, write, ready.differences + report)


def saved_names(state: dict[str, Any], arrays: Arrays) -> list[str]:
    """The names of the parameters that were saved."""
    given = {name.removeprefix("param/") for name in arrays if name.startswith("param/")}
    return sorted(given | {name for _, level in levels(state) for name in level["state"]})


def fitted_parameters(wanted: Arrays, given: Arrays, strict: bool, report: list[str]) -> dict[str, Array]:
    """The saved parameters as they are stored here; ValueError where they do not fit, or a text of the report."""
    report += [f"{name!r} was saved, and there is no such parameter{nearest(name, wanted)}" for name in given
               if name not in wanted]
    report += [f"{name!r} was not saved: it keeps its values" for name in wanted if name not in given]
    made = {}
    for name in wanted.keys() & given.keys():
        own = wanted[name]
        if not own.flags.writeable:
            raise ValueError(f"{brief(name)}: must be writable, but the array is read-only now")
        if stored_as(own) == stored_as(given[name]) and own.shape == given[name].shape:
            made[name] = given[name]
        else:
            made[name], = fitted_array(own, None, given[name], None, f"params[{name!r}]", report)
    if strict and report:
        raise ValueError(report[0])
    return made


# Kinds of objects

def described_run(x: Any, name: str, params: bool, arrays: dict[str, Array], depth: int = 0) -> Node:
    """The node of an object, whose arrays are added to `arrays`; TypeError for what cannot be saved."""
    who = f"save: {name or 'the run'}"
    if depth > DEPTH:
        raise ValueError(f"{who}: is nested more than {DEPTH} deep")
    if isinstance(x, Optimizer | Resumable):
        # (an average of an optimizer's parameters, or a second optimizer of the same, needs them no second time)
        held = {memory_of(array) for key, array in arrays.items() if "/param/" in key}
        again = bool(held) and all(memory_of(tensor.array) in held for tensor in tensors_of(x))
        add(arrays, {f"{name}/{key}": array for key, array in arrays_of(x, params and not again).items()}, who)
        return {"kind": "optimizer", "state": description(x)} | ({"params": "elsewhere"} if again else {})
    if isinstance(x, LossScale):
        return {"kind": "loss scale", "state": x.state_dict()}
    if isinstance(x, History):
        rows = x._saved()
        add(arrays, {f"{name}/{k}/{what}": array for k, (_, pair) in enumerate(rows) for what, array in pair.items()},
            who)
        return {"kind": "history", "names": [key for key, _ in rows], "counts": x._saved_counts()}
    if isinstance(x, np.random.Generator | np.random.BitGenerator | np.random.RandomState | Random):
        return {"kind": "generator", "class": generator_class(x), "state": plain_state(generator_state(x))}
    if isinstance(x, CompiledSchedule):
        return {"kind": "schedule", "schedule": as_plain(x)}
    if hasattr(x, "observe") and hasattr(x, "state_dict"):
        return {"kind": "plateau", "state": x.state_dict()}
    if is_array(x) and not isinstance(x, bytes):
        add(arrays, {name: checked_array(x, who)}, who)
        return {"kind": "array"}
    if depth and is_value(x):
        return {"kind": "value", "value": x}
    if isinstance(x, Mapping):
        for key in x:
            if not isinstance(key, str) or not key:
                raise TypeError(f"{who}: keys must be text, got {key!r}")
        return {"kind": "mapping", "entries": {
            key: described_run(entry, f"{name}/{key}" if name else key, params, arrays, depth + 1)
            for key, entry in x.items()}}
    if isinstance(x, list | tuple):
        return {"kind": "sequence", "entries": [
            described_run(entry, f"{name}/{k}" if name else str(k), params, arrays, depth + 1)
            for k, entry in enumerate(x)]}
    raise TypeError(f"{who}: cannot save a {type(x).__name__}; give optimizers, wrappers, LossScale, Plateau, History, "
                    f"schedules, random generators, arrays and JSON values, or a dict or list of them")


def add(arrays: dict[str, Array], more: Mapping[str, Array], who: str) -> None:
    for name, array in more.items():
        if name in arrays:
            raise ValueError(f"{who}: two arrays would be named {name!r} in the file; choose other keys")
        arrays[name] = array


def memory_of(array: Array) -> tuple[Any, ...]:
    """Where an array is, and how its elements follow one another."""
    return array.ctypes.data, array.shape, array.strides, array.dtype


def checked_array(x: Any, who: str) -> Array:
    """An array as it can be written; TypeError for one of another type than the format has."""
    array: Array = as_array(x, who)
    if (not isinstance(array, BFloat16) and stored_as(array) != "bfloat16" and array.dtype.kind not in "fiub") \
            or array.itemsize > 8:
        raise TypeError(f"{who}: cannot save an array of {array.dtype}; save one of floats, integers or booleans of at "
                        f"most 64 bits")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def is_value(x: Any) -> bool:
    """Whether JSON has this value, and all that is in it."""
    if isinstance(x, Mapping):
        return all(isinstance(key, str) and is_value(entry) for key, entry in x.items())
    if isinstance(x, list | tuple):
        return all(map(is_value, x))
    if isinstance(x, int) and not isinstance(x, bool) and not -2**63 <= x < 2**64:
        return False
    return x is None or isinstance(x, str | bool | int | float)


def generator_class(x: Any) -> str:
    return type(x.bit_generator if isinstance(x, np.random.Generator) else x).__name__


def generator_state(x: Any) -> Any:
    if isinstance(x, np.random.Generator):
        return x.bit_generator.state
    if isinstance(x, np.random.BitGenerator):
        return x.state
    return x.get_state(legacy=False) if isinstance(x, np.random.RandomState) else x.getstate()


def set_generator_state(x: Any, state: Any) -> None:
    if isinstance(x, np.random.Generator):
        x.bit_generator.state = state
    elif isinstance(x, np.random.BitGenerator):
        x.state = state
    elif isinstance(x, np.random.RandomState):
        x.set_state(state)
    else:
        version, numbers, gauss = state
        x.setstate((version, tuple(numbers), gauss))


def plain_state(x: Any) -> Any:
    """The state of a generator as JSON; arrays as lists, and integers of any size."""
    if isinstance(x, Mapping):
        return {key: plain_state(value) for key, value in x.items()}
    if isinstance(x, np.ndarray):
        return {"array": str(x.dtype), "values": [plain_state(value) for value in x.reshape(-1).tolist()]}
    if isinstance(x, list | tuple):
        return [plain_state(value) for value in x]
    if isinstance(x, int | np.integer) and not isinstance(x, bool) and not -2**63 <= x < 2**64:
        return {HEX: f"{int(x):x}"}
    return int(x) if isinstance(x, np.integer) else float(x) if isinstance(x, np.floating) else x


def state_of(x: Any) -> Any:
    """The state that `plain_state` made plain."""
    if isinstance(x, Mapping):
        if x.keys() == {HEX}:
            return int(x[HEX], 16)
        if x.keys() == {"array", "values"}:
            return np.array(state_of(x["values"]), dtype=x["array"])
        return {key: state_of(value) for key, value in x.items()}
    return [state_of(value) for value in x] if isinstance(x, list) else x


# Loading

class Refused(ValueError):
    """What does not fit, by its whole name."""


class Loading:
    """The objects of a run, each checked against its node; `writes` are then done together."""

    def __init__(self, arrays: Arrays, params: bool | None, strict: bool, rename: Rename | None) -> None:
        self.arrays, self.params, self.strict, self.rename = arrays, params, strict, rename
        self.ready: list[Prepared] = []
        self.named: set[str] = set()           # parameters of the optimizers so far
        if rename is not None and not callable(rename) and not isinstance(rename, Mapping):
            raise TypeError(f"load: rename must map old names to new, or be a function of a name, got "
                            f"{type(rename).__name__}")

    def finish(self) -> list[Prepared]:
        """All that is to be written; ValueError where `rename` names parameters that none of the optimizers had."""
        unknown = [name for name in self.rename if name not in self.named] if isinstance(self.rename, Mapping) else []
        if unknown:
            raise ValueError(f"load: rename: no parameter {unknown[0]!r} was saved{nearest(unknown[0], self.named)}")
        return self.ready

    def refuse(self, text: str) -> None:
        """What does not fit: an error, or a text of the report."""
        if self.strict:
            raise Refused(text)
        self.ready.append(Prepared([], lambda: None, [text]))

    def prepare(self, x: Any, node: Any, name: str, put: Callable[[Any], None] | None) -> None:
        """Check one object; `put` replaces a value where it stands, None where nothing can."""
        label = repr(name) if name else "the run"
        if not isinstance(node, dict) or not isinstance(node.get("kind"), str):
            raise ValueError(f"{label}: expected a description, got {brief(node)}")
        kind, own = node["kind"], kind_of(x)
        if kind != own and not (kind in ("value", "schedule") and own in ("value", "schedule", "mapping", "sequence")):
            self.refuse(f"{label}: a {kind} was saved, got {described_type(x)}; load it into one of the kind saved")
            return
        try:
            if kind in ("mapping", "sequence"):
                self.prepare_entries(x, node, name, kind)
            else:
                prepare = getattr(self, f"prepare_{kind.replace(' ', '_')}")
                write, plans, report = prepare(x, node, name, put)
                # (a history rewinds its file, which may fail: before anything else is written)
                self.ready.insert(0 if kind == "history" else len(self.ready),
                                  Prepared(plans, write, [f"{name}: {text}" for text in report]))
        except Refused:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            text = str(error) if not isinstance(error, KeyError) else f"no entry {error}"
            if self.strict:
                raise Refused(f"{label}: {text}") from error
            self.ready.append(Prepared([], lambda: None, [f"{name}: {text}"]))

    def prepare_entries(self, x: Any, node: Node, name: str, kind: str) -> None:
        entries = node["entries"]
        saved = entries if kind == "mapping" else dict(enumerate(entries))
        own = x if kind == "mapping" else dict(enumerate(x))
        inside = f"{name}: " if name else ""
        for key in saved:
            if key not in own:
                self.refuse(f"{inside}{key!r} is in the file, and there is no such entry"
                            f"{nearest(str(key), map(str, own))}")
        for key, entry in own.items():
            if key not in saved:
                self.refuse(f"{inside}{key!r} is not in the file{nearest(str(key), map(str, saved))}")
            else:
                self.prepare(entry, saved[key], f"{name}/{key}" if name else str(key),
                             putting(x, key) if isinstance(x, MutableMapping | list) else None)

    def own_arrays(self, name: str) -> dict[str, Array]:
        return {key[len(name) + 1:]: array for key, array in self.arrays.items() if key.startswith(f"{name}/")}

    def prepare_optimizer(self, x: Any, node: Node, name: str, put: Any) -> Any:
        if not isinstance(node["state"], dict) or not well_formed(node["state"]):
            raise ValueError(f"expected the state of an optimizer, got {brief(node['state'])}")
        arrays = self.own_arrays(name)
        params = None if node.get("params") == "elsewhere" else self.params
        names = saved_names(with_arrays(node["state"], arrays), arrays)
        self.named.update(names)
        rename = {old: new for old, new in self.rename.items() if old in names} \
            if isinstance(self.rename, Mapping) else self.rename
        ready = prepared_optimizer(x, node["state"], arrays, params, self.strict, rename, f"load: {name}")
        return ready.write, ready.plans, ready.differences

    def prepare_loss_scale(self, x: LossScale, node: Node, name: str, put: Any) -> Any:
        deepcopy(x).load_state_dict(node["state"])
        return (lambda: x.load_state_dict(node["state"])), NO_PLANS, ()

    def prepare_plateau(self, x: Any, node: Node, name: str, put: Any) -> Any:
        deepcopy(x).load_state_dict(node["state"])
        return (lambda: x.load_state_dict(node["state"])), NO_PLANS, ()

    def prepare_history(self, x: History, node: Node, name: str, put: Any) -> Any:
        arrays = self.own_arrays(name)
        rows = [(key, {what: arrays[f"{k}/{what}"] for what in ("t", "values")}) for k, key in enumerate(node["names"])]
        return x._loading(rows, node["counts"]), NO_PLANS, ()

    def prepare_generator(self, x: Any, node: Node, name: str, put: Any) -> Any:
        if node["class"] != generator_class(x):
            raise ValueError(f"a generator {brief(node['class'])} was saved, got {generator_class(x)}")
        state = state_of(node["state"])
        set_generator_state(deepcopy(x), state)
        return (lambda: set_generator_state(x, state)), NO_PLANS, ()

    def prepare_array(self, x: Any, node: Node, name: str, put: Any) -> Any:
        array, given = as_array(x, name, True), self.arrays[name]
        if given.shape != array.shape or code_of(given) != code_of(array):
            raise ValueError(f"expected {array.dtype} {array.shape}, got {given.dtype} {given.shape}")
        if not array.flags.writeable:
            raise ValueError("must be writable, got a read-only array")

        def write() -> None:
            if isinstance(given, BFloat16):
                array.view(np.uint16)[...] = given.view(np.uint16)
            else:
                array[...] = given
            if is_torch_tensor(x):
                mark_written([x])

        return write, NO_PLANS, ()

    def prepare_value(self, x: Any, node: Node, name: str, put: Any) -> Any:
        if put is None:
            raise ValueError("a value cannot be replaced in a tuple; keep it in a dict or a list")
        return (lambda: put(node["value"])), NO_PLANS, ()

    def prepare_schedule(self, x: Any, node: Node, name: str, put: Any) -> Any:
        from .schedules import from_dict

        schedule = from_dict(node["schedule"])
        return self.prepare_value(x, {"value": schedule}, name, put)


NO_PLANS: list[Plan] = []


def putting(container: Any, key: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        container[key] = value

    return put


def kind_of(x: Any) -> str:
    """The kind of an object that stands where one is loaded."""
    for kind, types in (("optimizer", (Optimizer, Resumable)), ("loss scale", (LossScale,)), ("history", (History,)),
                        ("generator", (np.random.Generator, np.random.BitGenerator, np.random.RandomState, Random)),
                        ("schedule", (CompiledSchedule,))):
        if isinstance(x, types):
            return kind
    if hasattr(x, "observe") and hasattr(x, "state_dict"):
        return "plateau"
    if is_array(x) and not isinstance(x, bytes):
        return "array"
    if isinstance(x, Mapping) and not (x and is_value(x)):
        return "mapping"
    if isinstance(x, list | tuple) and not (x and is_value(x)):
        return "sequence"
    return "value" if is_value(x) else type(x).__name__


def described_type(x: Any) -> str:
    return f"a {kind_of(x)}" if kind_of(x) != type(x).__name__ else type(x).__name__


