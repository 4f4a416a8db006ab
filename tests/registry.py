"""What the tests know of every optimizer, taken from its declaration."""
import functools
from math import inf

import numpy as np
import pytest

import fastlr
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.curvature import Sophia
from fastlr.optimizers.learning_rate_free import WithLoss
from fastlr.optimizers.matrix import WithFallback

OPTIMIZERS = list(REGISTRY.values())
DTYPES = (np.float32, np.float64)

# Those that see whole matrices (`test_matrix.py` knows them), and those with a rule of elements in rules.pxd or beside.
MATRIX = [cls for cls in OPTIMIZERS if cls.kind == "matrix"]
RULES = [cls for cls in OPTIMIZERS if cls.kind != "matrix"]
# Those whose bits are fastlr's own: not those that multiply matrices by a BLAS.
BITWISE = [cls for cls in OPTIMIZERS if not issubclass(cls, WithFallback)]
# Rules whose step takes an element's gradient alone, so that each element may have a learning rate of its own.
UNPLACED = [cls for cls in RULES if not cls.depends_on_param]
# Those that move some rows of a table alone.
BY_ROWS = [*UNPLACED, fastlr.RowwiseAdaGrad]
ELEMENTWISE = [cls for cls in RULES if not (cls.reduces or cls.shared)]
# Rules in which no tensor knows of the others.
SEPARATE = [cls for cls in OPTIMIZERS if not cls.shared]

LOSS = 1.5


def given_a_loss(step):
    """Steps of those that need a loss are given one, where a test is of all optimizers and has none."""
    @functools.wraps(step)
    def stepped(self, *arguments, loss=LOSS, **keywords):
        return step(self, *arguments, loss=loss, **keywords)
    return stepped


if not hasattr(WithLoss.step, "__wrapped__"):
    WithLoss.step = given_a_loss(WithLoss.step)

def without_a_curvature(step):
    """Likewise for what needs a curvature: h stays as it is."""
    @functools.wraps(step)
    def stepped(self, *arguments, **keywords):
        if keywords.get("curvature") is None:
            keywords.pop("curvature", None)
            return getattr(fastlr.Optimizer, step.__name__)(self, *arguments, **keywords)
        return step(self, *arguments, **keywords)
    return stepped


if not hasattr(Sophia.step, "__wrapped__"):
    Sophia.step, Sophia.step_rows = without_a_curvature(Sophia.step), without_a_curvature(Sophia.step_rows)

# Slots that no gradient moves, but what is given beside it.
GIVEN = {Sophia: "h"}

every_rule = pytest.mark.parametrize("cls", RULES, ids=lambda cls: cls.__name__)
# Which update is the first to move anything, where it is not the first.
BEGINS = {"ADOPT": 2, "ScheduleFreeRAdam": 5}

# Conventions that are not a class's own.
CONVENTIONS = [(cls, name) for cls in RULES for name in list(cls.conventions)[1:]]
every_convention = pytest.mark.parametrize(("cls", "convention"), [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, name in CONVENTIONS])

every_optimizer = pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
every_elementwise = pytest.mark.parametrize("cls", ELEMENTWISE, ids=lambda cls: cls.__name__)
every_separate = pytest.mark.parametrize("cls", SEPARATE, ids=lambda cls: cls.__name__)
every_unplaced = pytest.mark.parametrize("cls", UNPLACED, ids=lambda cls: cls.__name__)
every_by_rows = pytest.mark.parametrize("cls", BY_ROWS, ids=lambda cls: cls.__name__)
every_bitwise = pytest.mark.parametrize("cls", BITWISE, ids=lambda cls: cls.__name__)
every_matrix = pytest.mark.parametrize("cls", MATRIX, ids=lambda cls: cls.__name__)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
every_decay = pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent", "corrected"])


def other_value(bound):
    """A value of a hyper-parameter that is not its default."""
    if bound.high < inf:
        return (bound.default + bound.low) / 2 if bound.default > bound.low else (bound.low + bound.high) / 4
    return bound.default * 3 if bound.default else 0.125


def variants(cls):
    """Hyper-parameters as declared, then with each one of them changed alone."""
    yield "as declared", {}
    for name, bound in cls.hypers.items():
        yield name, {name: other_value(bound)}


every_variant = pytest.mark.parametrize(
    ("cls", "hyper"),
    [pytest.param(cls, hyper, id=f"{cls.__name__}-{what}") for cls in RULES
     for what, hyper in variants(cls)],
)


@functools.lru_cache(maxsize=32)
def normal(shapes, seed):
    """Normal random numbers, which are only read: many tests want the same ones, and making them takes longer than a step."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def arrays(dtype, shapes, seed=0):
    """Normal random numbers, new arrays each time."""
    return [np.array(x, dtype) for x in normal(tuple(shapes), seed)]


def full(cls, hyper, convention=None):
    """All hyper-parameters of an optimizer, given some."""
    theirs = cls.conventions[convention].defaults if convention else {}
    return {name: theirs.get(name, bound.default) for name, bound in cls.hypers.items()} | hyper


def operands(opt, name="0"):
    """The state of a tensor as the functional interface takes it: slots, then the numbers of the whole tensor as one array."""
    slots = [opt.state[name][slot].copy() for slot in opt.slots]
    return [*slots, np.array([opt.state[name][k] for k in opt.memory])] if opt.memory else slots


def snapshot(opt, params):
    """All that a step may change, as bytes and numbers."""
    return (
        [p.tobytes() for p in params],
        {name: {slot: array.tobytes() for slot, array in slots.items()} for name, slots in opt.state.items()},
        opt.t,
        opt._plan.read_skipped_steps(),
        [{name: getattr(group, name) for name in type(opt).hypers} for group in opt.groups],
    )


def bits(arrays):
    """Arrays as bytes."""
    return [np.ascontiguousarray(a).tobytes() for a in arrays]


def to_the_bit(value):
    """A state, to be compared: of each array its type, shape and bytes."""
    if isinstance(value, dict):
        return [(name, to_the_bit(each)) for name, each in value.items()]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [to_the_bit(each) for each in value] if isinstance(value, list | tuple) else repr(value)


def run(cls, params, steps=3, seed=1, threads=1, **hyper):
    """Parameters and state after some steps with random gradients of the parameters' shapes, as bytes."""
    before = fastlr.get_num_threads()
    fastlr.set_num_threads(threads)
    try:
        opt = cls(params, **hyper)
        for t in range(steps):
            opt.step(arrays(params[0].dtype, [p.shape for p in params], seed + t))
    finally:
        fastlr.set_num_threads(before)
    return bits(params), bits([array for slots in opt.state.values() for array in slots.values()])


def everything_changed(cls):
    """No hyper-parameter at its default, and an epsilon that weighs."""
    return {name: 0.03 if name == "eps" else other_value(bound) for name, bound in (cls.hypers | cls.initial_states).items()}
