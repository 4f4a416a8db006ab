# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The functional interface: one call updates one tensor, in place; the caller keeps the state.

There is one function per elementwise rule, of the rule's name in lower case, and all are called alike:

    fastlr.kernels.adamw(p, g, m, v, t=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)

First the parameter, its gradient, and the state in the order of the class's `slots`: contiguous buffers (typed
memoryviews, NumPy arrays, `array.array`, ...) of one shape, all float32 or all float64; only the gradient is not
written. A rule that remembers numbers of the tensor as a whole (the class's `memory`) takes them last, as one float64
array. Then, by keyword, `t` (1 at the first update) and `lr`; a hyper-parameter that is not given is as in the
class. The bits are those of the optimizer of that name. A class of another package that stands for an elementwise rule
has its function here, too, from its class statement on (`fastlr.kernels.halving`); `__all__` names fastlr's own.

>>> import numpy as np, fastlr
>>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
>>> fastlr.kernels.adam(p, np.array([1.0, -2.0, 0.0]), m, v, t=1, lr=0.1)
>>> p.round(6)
array([0.9, 1.1, 1. ])
"""
from importlib import import_module
from inspect import Parameter, Signature

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t
from fastlr._kernels.structs cimport FLOAT64, MAX_SLOTS
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, ArrayView, memory_range, read_array
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.functional_step cimport RuleCall, read_rule, update_tensor
from fastlr._engine.step_scalars cimport MAX_VALUES
from fastlr.c_api cimport FASTLR_FLOAT32, FASTLR_FLOAT64, FASTLR_NO_RULE, fastlr_api, fastlr_rule

from fastlr._engine.arrays import as_array
from fastlr._engine.instruction_set import one_build
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.declaration import nearest
from fastlr.optimizers.rule_class import WHEN_REGISTERED

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr.kernels", build_id)

cdef object MAX_STEPS = 2**62


cdef class Kernel:
    # One rule over one tensor. (A docstring here would hide each function's own.)
    cdef RuleCall call
    cdef tuple bounded, operands
    cdef dict position
    cdef readonly str __name__
    cdef readonly str __doc__

    def __init__(self, rule):
        fields = rule._fields
        read_rule(&self.call, rule)
        self.operands = ("p", "g", *rule.slots, *(("memory",) if rule.memory else ()))
        self.position = {name: fields.index(name) for name in rule.hypers}      # (in the order of the class)
        self.bounded = tuple([rule.hypers.get(name) for name in fields])
        self.__name__ = rule.__name__.lower()
        self.__doc__ = f"Update one tensor by the rule of `fastlr.{rule.__name__}`; see the module's text."

    @property
    def __signature__(self):
        """p, g and the state; then t, lr and what else the rule has, by keyword."""
        hypers = [Parameter("t", Parameter.KEYWORD_ONLY), Parameter("lr", Parameter.KEYWORD_ONLY)]
        hypers += [Parameter(name, Parameter.KEYWORD_ONLY, default=self.call.defaults[k])
                   for name, k in self.position.items() if name != "lr"]
        return Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in self.operands] + hypers)

    def __reduce__(self):
        return self.__name__           # (pickled as functions are, by name)

    def __repr__(self):
        return f"<fastlr.kernels.{self.__name__}{self.__signature__}>"

    def __call__(self, *operands, **hyper):
        cdef double[MAX_VALUES] values
        cdef ArrayView[MAX_SLOTS + 3] views
        cdef void* slots[MAX_SLOTS + 1]
        cdef int64_t t
        cdef int k
        cdef Py_ssize_t size = 1
        t = self.read_values(values, hyper)
        _kept = self.read_operands(views, operands)     # (keeps the arrays alive)
        for k in range(views[0].ndim):
            size *= views[0].shape[k]
        for k in range(<int>len(self.operands) - 2):
            slots[k] = views[2 + k].data
        if size >= thread_pool.MIN_THREADED:
            thread_pool.prepare()
        with nogil:
            update_tensor(&self.call, values, t, views[0].stored == FLOAT64, size, views[0].data, views[1].data, slots)

    cdef int64_t read_values(self, double* values, dict hyper) except -1:
        cdef int k
        cdef int64_t t
        for k in range(self.call.width):
            values[k] = self.call.defaults[k]
        for name in ("t", "lr"):
            if name not in hyper:
                raise TypeError(f"{self.__name__}: {name} must be given, by keyword")
        given_t = hyper.pop("t")
        if type(given_t) is not int and (isinstance(given_t, bool) or not hasattr(given_t, "__index__")) \
                or not 1 <= given_t < MAX_STEPS:
            raise ValueError(f"{self.__name__}: t must be a positive integer, 1 at the first update, got {given_t!r}")
        t = given_t
        for name, value in hyper.items():
            if name not in self.position:
                raise TypeError(f"{self.__name__}: unknown keyword {name!r}{nearest(name, self.position)}")
            k = self.position[name]
            if type(value) is float and self.call.low[k] <= <double>value < self.call.high[k]:
                values[k] = value
            elif callable(value):
                raise TypeError(f"{self.__name__}: {name} must be a number, got {value!r}; call the schedule with "
                                f"t - 1")
            else:
                values[k] = self.bounded[k].checked(value, self.__name__)
        return t

    cdef list read_operands(self, ArrayView* views, tuple operands):
        """Read where every array is; all is checked here. Returns what keeps them alive."""
        cdef int k, other
        cdef char* low[MAX_SLOTS + 3]
        cdef char* high[MAX_SLOTS + 3]
        if len(operands) != len(self.operands):
            raise TypeError(f"{self.__name__}: expected {len(self.operands)} arrays ({', '.join(self.operands)}), "
                            f"got {len(operands)}")
        kept = list(operands)
        for k in range(<int>len(kept)):
            if not read_array(kept[k], &views[k]) or views[k].stored > FLOAT64:
                array = as_array(kept[k], f"{self.__name__}: {self.operands[k]}")
                if not read_array(array, &views[k]) or views[k].stored > FLOAT64:
                    raise TypeError(f"{self.__name__}: {self.operands[k]}: expected float32 or float64, "
                                    f"got {array.dtype}")
                kept[k] = array
            if k == 0 and self.call.constants.rule.step[views[0].stored == FLOAT64] == NULL:
                raise TypeError(f"{self.__name__}: p: the rule computes in "
                                f"{'float32' if views[0].stored == FLOAT64 else 'float64'} alone; pass arrays of that "
                                f"type")
            if not self.fits(k, views):
                self.refuse(k, kept[k], kept[0])
            memory_range(&views[k], &low[k], &high[k])
            for other in range(k):
                if low[k] < high[other] and low[other] < high[k]:
                    raise ValueError(f"{self.__name__}: {self.operands[k]}: shares memory with {self.operands[other]}")
        return kept

    cdef bint fits(self, int k, const ArrayView* views) noexcept:
        cdef int d
        cdef int needed = C_CONTIGUOUS | ALIGNED | (WRITEABLE if k != 1 else 0)
        if k == self.call.constants.rule.slots + 2:       # memory
            return views[k].stored == FLOAT64 and views[k].ndim == 1 \
                and views[k].shape[0] == self.call.constants.rule.memories and views[k].flags & needed == needed
        if views[k].stored != views[0].stored or views[k].ndim != views[0].ndim or views[k].flags & needed != needed:
            return False
        for d in range(views[k].ndim):
            if views[k].shape[d] != views[0].shape[d]:
                return False
        return True

    cdef int refuse(self, int k, object array, object first) except -1:
        caller = f"{self.__name__}: {self.operands[k]}"
        if k == self.call.constants.rule.slots + 2:
            raise ValueError(f"{caller}: expected a contiguous, writable float64 array of shape "
                             f"({self.call.constants.rule.memories},), got {array.dtype} {array.shape}")
        if array.dtype != first.dtype or array.shape != first.shape:
            raise ValueError(f"{caller}: expected {first.dtype} {first.shape} like p, got {array.dtype} {array.shape}")
        if not (array.flags.c_contiguous and array.flags.aligned):
            # (a copy of the gradient serves as well; one of anything else would be updated in its place)
            copy = "pass a copy, or " if k == 1 else ""
            raise ValueError(f"{caller}: must be contiguous and aligned; {copy}use an optimizer, which takes any "
                             f"strides")
        raise ValueError(f"{caller}: must be writable, got a read-only array")


# What the functions of kernels.pxd call.

cdef const fastlr_api* table = NULL
cdef bint threads_started = False


cdef int step_typed(const fastlr_rule** rule, const char* name, bint is_double, int64_t t, double lr,
                    const double* hyper, int64_t n, void* p, const void* g, void** slots) noexcept nogil:
    """The step of the C table, of a rule that is found by its name once."""
    if rule[0] == NULL:
        rule[0] = found_rule(name)
        if rule[0] == NULL:
            return FASTLR_NO_RULE
    if n >= thread_pool.MIN_THREADED and not threads_started:
        start_threads()
    return table.step(rule[0], FASTLR_FLOAT64 if is_double else FASTLR_FLOAT32, t, lr, hyper, n, p, g, slots)


cdef const fastlr_rule* found_rule(const char* name) noexcept with gil:
    """A rule of the C table, or NULL."""
    global table
    try:
        # (c_api imports this module: it comes when it is first needed)
        table = <const fastlr_api*>PyCapsule_GetPointer(import_module("fastlr._engine.c_api")._C_API, "fastlr._C_API")
        return table.rule(name)
    except Exception:
        return NULL


cdef void start_threads() noexcept with gil:
    global threads_started
    try:
        thread_pool.prepare()
    except Exception:                  # (then fewer help)
        pass
    threads_started = True


def is_elementwise(rule):
    """Whether a rule moves an element by what it knows of that alone, so that it has a function."""
    return rule.kind != "matrix" and not (rule.reduces or rule.shared)


def forget(name, rule):
    """Of a class that is stated once more: the function of the one before."""
    if isinstance(globals().get(name), Kernel):
        del globals()[name]


__all__ = sorted([name for name, rule in REGISTRY.items()
                  if rule.__module__.startswith("fastlr.") and is_elementwise(rule)])
WHEN_REGISTERED.append(forget)


def __getattr__(name):
    """The function of a rule, made and its compiled table loaded when it is first asked for."""
    rule = REGISTRY.get(name)
    if rule is None or not is_elementwise(rule):
        hint = nearest(name, __all__) if rule is None else \
            f"; what {rule.__name__} does to an element depends on others, so it has a class alone, {rule.__name__}"
        raise AttributeError(f"module 'fastlr.kernels' has no attribute {name!r}{hint}")
    globals()[name] = Kernel(rule)
    return globals()[name]


def __dir__():
    return sorted({*globals(), *__all__})
