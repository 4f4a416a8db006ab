"""What every optimizer of `fastlr.jax` is: pure functions of parameters, gradients and state, computed in C."""
from __future__ import annotations

import inspect
import json
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..kernels import is_elementwise
from ..optimizers.declaration import nearest, own_arguments
from ..optimizers.rule_class import REGISTRY, RuleClass
from ..schedules.base import Schedule
from . import handler

TARGET = "fastlr_step"
MADE: dict[type[RuleClass], type[Optimizer]] = {}

jax.ffi.register_ffi_target(TARGET, handler.handler(), platform="cpu")
if (handler.version() or (0, 0))[0] != 0:
    raise ImportError(f"fastlr.jax: XLA's foreign function interface has version {handler.version()}, fastlr knows "
                      f"0.x; update fastlr, or take an older jaxlib")


class State(NamedTuple):
    """The state of an optimizer: a tree of arrays, as `jax.jit` takes it.

    `count` is the number of updates done, an int32. `slots` has for each slot of the rule one array for all parameters
    (of two precisions, two), as a call of a compiled program takes 0.7 us for each array; `Optimizer.state_of` shows it
    in the structure of the parameters. A rule that remembers doubles of each parameter has them as ``slots["memory"]``,
    two uint32 a number.
    """

    count: Any
    slots: dict[str, Any]


class Optimizer:
    """An elementwise rule of fastlr for JAX.

    Parameters
    ----------
    lr and the hyper-parameters of the rule
        A number; a schedule of fastlr, which C evaluates at each step, in double; or another callable of the number of
        updates done, as a schedule of optax, which JAX traces.
    initial states
        What slots hold before the first update, as in fastlr's class.

    Parameters are float32 or float64 (``jax_enable_x64``), on the CPU; gradients of other floating-point numbers are
    converted. Give `jax.jit` what is replaced as `donate_argnums`:
    steps then write into that memory, otherwise XLA copies first.

    Raises
    ------
    TypeError, ValueError
        While JAX traces. What only a step knows (a learning rate that is computed) raises JAX's runtime error.
    """

    _rule_class: ClassVar[type[RuleClass]]
    __slots__ = ("_initial", "_values")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        cls, owner = self._rule_class, type(self).__name__
        signature = inspect.signature(type(self))
        unknown = next((name for name in keywords if name not in signature.parameters), None)
        if unknown is not None:
            raise TypeError(f"{owner}: unknown keyword {unknown!r}{nearest(unknown, signature.parameters)}")
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        given = bound.arguments
        self._values: dict[str, Any] = {name: hyper.checked(given[name], owner) for name, hyper in cls.hypers.items()}
        self._initial = {state.slot: state.checked(given[name], owner) for name, state in cls.initial_states.items()}

    def __repr__(self) -> str:
        return f"fastlr.jax.{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    def init(self, params: Any) -> State:
        """The state before the first update."""
        cls = self._rule_class
        leaves = jax.tree.leaves(params)
        for k, p in enumerate(leaves):
            self._check(f"params: leaf {k}", p)
        slots: dict[str, Any] = {}
        for slot in cls.slots:
            start = self._initial.get(slot, 0.0)
            slots[slot] = tuple(jnp.full(size, start, kind) for kind, size in sizes(leaves).items())
        if cls.memory:
            numbers = np.array([self._initial.get(name, 0.0) for name in cls.memory] * len(leaves))
            slots["memory"] = (jnp.array(numbers.view(np.uint32)),)
        return State(jnp.zeros((), jnp.int32), slots)

    def state_of(self, state: State, params: Any) -> dict[str, Any]:
        """The state by slot, in the structure of the parameters: copies, to be looked at."""
        cls = self._rule_class
        leaves, structure = jax.tree.flatten(params)
        found: dict[str, Any] = {}
        for slot in cls.slots:
            arrays = dict(zip(sizes(leaves), state.slots[slot], strict=True))
            found[slot] = structure.unflatten([arrays[kind][begin:begin + p.size].reshape(p.shape)
                                               for p, (kind, begin) in zip(leaves, places(leaves), strict=True)])
        if cls.memory:
            numbers = np.asarray(state.slots["memory"][0]).view(np.float64).reshape(len(leaves), len(cls.memory))
            for k, name in enumerate(cls.memory):
                found[name] = structure.unflatten(list(numbers[:, k]))
        return found

    def step(self, params: Any, grads: Any, state: State, **hyper: Any) -> tuple[Any, State]:
        """The parameters and the state after an update; `hyper` are numbers for this step, which may be traced.

        The bits are those of `fastlr.kernels`.
        """
        cls, owner = self._rule_class, type(self).__name__
        leaves, structure = jax.tree.flatten(params)
        gradients = self._like(structure, grads, "grads")
        for k, p in enumerate(leaves):
            self._check(f"params: leaf {k}", p)
        gradients = [self._gradient(k, p, g) for k, (p, g) in enumerate(zip(leaves, gradients, strict=True))]
        if not leaves:
            return params, State(state.count + 1, state.slots)
        self._check_slots(state, leaves)
        names = [*cls.slots, *(("memory",) if cls.memory else ())]     # (JAX would take them in alphabetical order)
        slots = [x for name in names for x in state.slots[name]]
        values, schedules, computed = self._read(state.count, hyper)
        count = jnp.asarray(state.count, jnp.int32)
        operands = [count, *computed, *leaves, *gradients, *slots]
        written = [count, *leaves, *slots]
        first, first_slot = 1 + len(computed), 1 + len(computed) + 2 * len(leaves)
        replaced = [0, *range(first, first + len(leaves)), *range(first_slot, len(operands))]
        call = jax.ffi.ffi_call(TARGET, [jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for x in written],
                                input_output_aliases={place: k for k, place in enumerate(replaced)},
                                vmap_method="sequential")
        undifferentiated = jax.custom_jvp(partial(call, rule=cls.__name__.lower(), schedules="\n".join(schedules),
                                                  values=values))
        undifferentiated.defjvp(partial(refuse_derivative, owner))
        count, *results = undifferentiated(*operands)
        rest = iter(results[len(leaves):])
        return (structure.unflatten(results[:len(leaves)]),
                State(count, {name: tuple(next(rest) for _ in state.slots[name]) for name in names}))

    def update(self, grads: Any, state: State, params: Any = None, **hyper: Any) -> tuple[Any, State]:
        """What is to be added to the parameters, and the state: as a transformation of optax.

        The difference of the parameters after and before is rounded once more: `step` has the bits of fastlr.
        """
        if params is None:
            raise ValueError(f"{type(self).__name__}: update needs the parameters: update(grads, state, params)")
        moved, state = self.step(params, grads, state, **hyper)
        return jax.tree.map(lambda after, before: after - before, moved, params), state

    def _check(self, label: str, p: Any) -> None:
        if getattr(p, "dtype", None) not in (np.float32, np.float64):
            raise TypeError(f"{type(self).__name__}: {label}: expected an array of float32 or float64, got "
                            f"{getattr(p, 'dtype', type(p).__name__)}")
        if p.dtype == np.float64 and not jax.config.jax_enable_x64:
            raise TypeError(f"{type(self).__name__}: {label}: JAX computes in float64 only with jax_enable_x64, which "
                            f"is off; set it, or give parameters of float32")

    def _gradient(self, k: int, p: Any, g: Any) -> Any:
        """A parameter's gradient as an array of the same precision."""
        owner, kind = type(self).__name__, getattr(g, "dtype", None)
        if not jnp.issubdtype(jnp.result_type(g) if kind is None else kind, jnp.floating):
            raise TypeError(f"{owner}: grads: leaf {k}: expected an array of floating-point numbers, got "
                            f"{type(g).__name__ if kind is None else kind}")
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(f"{owner}: grads: leaf {k}: expected shape {jnp.shape(p)} like the parameter, got "
                             f"{jnp.shape(g)}")
        return jnp.asarray(g, p.dtype)

    def _check_slots(self, state: State, leaves: list[Any]) -> None:
        """ValueError unless this is the state of these parameters: C would write beyond it."""
        cls = self._rule_class
        want = {slot: [(size, np.dtype(kind)) for kind, size in sizes(leaves).items()] for slot in cls.slots}
        if cls.memory:
            want["memory"] = [(2 * len(cls.memory) * len(leaves), np.dtype(np.uint32))]
        found = {slot: [(x.size, x.dtype) for x in arrays] for slot, arrays in state.slots.items()}
        if found != want:
            raise ValueError(f"{type(self).__name__}: state: expected the state that init makes of these parameters, "
                             f"{want}, got {found}; call init(params)")

    def _like(self, structure: Any, tree: Any, label: str) -> list[Any]:
        """The leaves of a tree that has the structure of the parameters."""
        leaves, found = jax.tree.flatten(tree)
        if found != structure:
            raise ValueError(f"{type(self).__name__}: {label}: expected the structure of the parameters, {structure}, "
                             f"got {found}")
        return list(leaves)

    def _read(self, count: Any, hyper: dict[str, Any]) -> tuple[Any, list[str], list[Any]]:
        """Of lr and the hyper-parameters: numbers, NaN where there is none; schedules as text; what JAX computes."""
        cls, owner = self._rule_class, type(self).__name__
        for name in hyper:
            if name not in cls.hypers:
                raise TypeError(f"{owner}: unknown keyword {name!r}{nearest(name, cls.hypers)}")
        numbers: list[Any] = []
        schedules: list[str] = []
        computed: list[Any] = []
        for name, declared in cls.hypers.items():
            value = hyper.get(name, self._values[name])
            schedules.append("")
            if isinstance(value, Schedule):
                schedules[-1] = json.dumps(value.to_dict())
                handler.know(schedules[-1])
            elif callable(value):
                value = value(count)
            if isinstance(value, jax.Array) and not schedules[-1]:
                if jnp.shape(value) != ():
                    raise ValueError(f"{owner}: {name}: expected one number, got shape {jnp.shape(value)}")
                computed.append(value if value.dtype == np.float64 else value.astype(jnp.float32))
                numbers.append(np.nan)
            else:
                numbers.append(np.nan if schedules[-1] else declared.checked(value, owner))
        return np.array(numbers), schedules, computed


def refuse_derivative(owner: str, primals: Any, tangents: Any) -> Any:
    """TypeError: what `jax.custom_jvp` calls for the derivative of a step."""
    raise TypeError(f"{owner}: a step of fastlr has no derivative; call step and update outside of what jax.grad "
                    f"differentiates, or use optax's transformations there")


def places(leaves: list[Any]) -> list[tuple[str, int]]:
    """Where each parameter is in a slot: its precision, and its first element."""
    found, ends = [], {"float32": 0, "float64": 0}
    for p in leaves:
        kind = p.dtype.name
        found.append((kind, ends[kind]))
        ends[kind] += -(-p.size // handler.aligned) * handler.aligned
    return found


def sizes(leaves: list[Any]) -> dict[str, int]:
    """How many elements a slot has of each precision that occurs."""
    ends = {"float32": 0, "float64": 0}
    for p in leaves:
        ends[p.dtype.name] += -(-p.size // handler.aligned) * handler.aligned
    present = {p.dtype.name for p in leaves}
    return {kind: end for kind, end in ends.items() if kind in present}


def names() -> list[str]:
    """The names of all optimizers that there are here."""
    return sorted(cls.__name__ for cls in REGISTRY.values() if is_elementwise(cls) and not cls.needs_curvature)


def class_of(name: str) -> type[Optimizer]:
    """The class of this name; AttributeError if there is none, or none for JAX."""
    cls = REGISTRY.get(name.lower())
    if cls is None or cls.__name__ != name:
        raise AttributeError(f"module 'fastlr.jax' has no attribute {name!r}{nearest(name, names())}")
    if name not in names():
        raise AttributeError(f"module 'fastlr.jax' has no {name}: its rule is not elementwise; choose another "
                             f"optimizer, or step it from Python")
    if cls not in MADE:
        MADE[cls] = made(cls)
    return MADE[cls]


def made(cls: type[RuleClass]) -> type[Optimizer]:
    """The class for JAX, with the arguments of fastlr's own."""
    own = own_arguments({**cls.hypers, **cls.initial_states})

    class Made(Optimizer):
        __slots__ = ()
        _rule_class = cls
        __signature__ = inspect.Signature(own)

    Made.__name__ = Made.__qualname__ = cls.__name__
    Made.__module__ = "fastlr.jax"
    Made.__doc__ = cls.__doc__
    return Made
