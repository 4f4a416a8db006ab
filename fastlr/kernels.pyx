# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The functional door: one call moves one tensor, in place; whoever calls keeps the state.

There is one function per elementwise rule, of the rule's name in lower case, and all are called alike:

    fastlr.kernels.adamw(p, g, m, v, t=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)

First the parameter, its gradient, and the state in the order of the class's `slots`: contiguous buffers (typed
memoryviews, NumPy arrays, `array.array`, ...) of one shape, all float32 or all float64; only the gradient is not
written. Then, by keyword, `t` (1 at the first update) and `lr`; a hyper-parameter that is not given is as in the
class. The bits are those of the optimizer of that name.

>>> import numpy as np, fastlr
>>> p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
>>> fastlr.kernels.adam(p, np.array([1.0, -2.0, 0.0]), m, v, t=1, lr=0.1)
>>> p.round(6)
array([0.9, 1.1, 1. ])
"""
from inspect import Parameter, Signature

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from fastlr._kernels.sweep cimport MOST_FIELDS, MOST_SLOTS, Gradient, Instant, Job, Opened, Piece, Run, Span
from fastlr._core cimport pool
from fastlr._core.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, Seen, extent, look
from fastlr._core.plan cimport ALONE, CHUNK, COUPLED, DECOUPLED, Terms, fix

from fastlr._core.arrays import as_array
from fastlr._core.dispatch import door
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.declaration import nearest


cdef object MOST_STEPS = 2**62


cdef class Kernel:
    """One rule over one tensor."""
    cdef Terms terms
    cdef Run run_chunk
    cdef double[MOST_FIELDS + 2] defaults, low, high
    cdef tuple fields, bounded, operands
    cdef dict position
    cdef readonly str __name__
    cdef readonly str __doc__

    def __init__(self, rule):
        fields = rule._fields
        self.terms.rule = <const Opened*>PyCapsule_GetPointer(rule._rule, "fastlr.rule")
        self.terms.hyper_at = <int>len(fields) - self.terms.rule.fields
        self.terms.decay_at = fields.index("weight_decay")
        self.terms.decay = DECOUPLED if rule.decay_mode == "decoupled" else COUPLED
        self.terms.clip = INFINITY
        self.run_chunk = <Run>PyCapsule_GetPointer(door.runner, "fastlr.run")
        self.fields, self.operands = fields, ("p", "g", *rule.slots)
        self.position = {name: k for k, name in enumerate(fields) if name != "_"}
        self.bounded = tuple([rule.hypers.get(name) for name in fields])
        for k, hyper in enumerate(self.bounded):
            if hyper is not None:
                self.defaults[k], self.low[k], self.high[k] = hyper.default, hyper.low, hyper.high
        self.__name__ = rule.__name__.lower()
        self.__doc__ = f"Move one tensor by the rule of `fastlr.{rule.__name__}`; see the module's text."

    @property
    def __signature__(self):
        """p, g and the state; then t, lr and what else the rule has, by keyword."""
        hypers = [Parameter("t", Parameter.KEYWORD_ONLY), Parameter("lr", Parameter.KEYWORD_ONLY)]
        hypers += [Parameter(name, Parameter.KEYWORD_ONLY, default=self.defaults[k])
                   for name, k in self.position.items() if name != "lr"]
        return Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in self.operands] + hypers)

    def __repr__(self):
        return f"<fastlr.kernels.{self.__name__}{self.__signature__}>"

    def __call__(self, *operands, **hyper):
        cdef double[MOST_FIELDS + 2] values
        cdef Seen[MOST_SLOTS + 2] seen
        cdef Span span
        cdef Gradient gradient
        cdef Instant now
        cdef int64_t t
        cdef int k
        cdef Py_ssize_t size
        t = self.read_values(values, hyper)
        kept = self.read_operands(seen, operands)      # (keeps the arrays alive)
        size = 1
        for k in range(seen[0].ndim):
            size *= seen[0].shape[k]
        span.p, span.size, span.wide, span.instant = seen[0].data, size, seen[0].wide, 0
        span.walk, span.scale, span.ema, span.shrink = NULL, NULL, NULL, 1
        gradient.walk, gradient.measured, gradient.g = NULL, NULL, seen[1].data
        for k in range(self.terms.rule.slots):
            span.slot[k] = seen[2 + k].data
        fix(&now, &self.terms, values, 1, True, t, 1)
        self.move(&span, &gradient, &now)

    cdef int64_t read_values(self, double* values, dict hyper) except -1:
        cdef int k
        cdef int64_t t
        for k in range(<int>len(self.fields)):
            values[k] = self.defaults[k]
        for name in ("t", "lr"):
            if name not in hyper:
                raise TypeError(f"{self.__name__}: {name} must be given, by keyword")
        given_t = hyper.pop("t")
        if type(given_t) is not int and (isinstance(given_t, bool) or not hasattr(given_t, "__index__")) \
                or not 1 <= given_t < MOST_STEPS:
            raise ValueError(f"{self.__name__}: t must be a positive integer, 1 at the first update, got {given_t!r}")
        t = given_t
        for name, value in hyper.items():
            if name not in self.position:
                raise TypeError(f"{self.__name__}: unknown keyword {name!r}{nearest(name, self.position)}")
            k = self.position[name]
            if type(value) is float and self.low[k] <= <double>value < self.high[k]:
                values[k] = value
            elif callable(value):
                raise TypeError(f"{self.__name__}: {name} must be a number, got {value!r}; call the schedule with t - 1")
            else:
                values[k] = self.bounded[k].checked(value, self.__name__)
        return t

    cdef list read_operands(self, Seen* seen, tuple operands):
        """See every array; all are checked here. Returns what keeps them alive."""
        cdef int k, other
        cdef char* low[MOST_SLOTS + 2]
        cdef char* high[MOST_SLOTS + 2]
        if len(operands) != len(self.operands):
            raise TypeError(f"{self.__name__}: expected {len(self.operands)} arrays ({', '.join(self.operands)}), "
                            f"got {len(operands)}")
        kept = list(operands)
        for k in range(<int>len(kept)):
            if not look(kept[k], &seen[k]):
                array = as_array(kept[k], f"{self.__name__}: {self.operands[k]}")
                if not look(array, &seen[k]):
                    raise TypeError(f"{self.__name__}: {self.operands[k]}: expected float32 or float64, got {array.dtype}")
                kept[k] = array
            if not self.fits(k, seen):
                self.refuse(k, kept[k], kept[0])
            extent(&seen[k], &low[k], &high[k])
            for other in range(k):
                if low[k] < high[other] and low[other] < high[k]:
                    raise ValueError(f"{self.__name__}: {self.operands[k]}: shares memory with {self.operands[other]}")
        return kept

    cdef bint fits(self, int k, const Seen* seen) noexcept:
        cdef int d
        cdef int needed = C_CONTIGUOUS | ALIGNED | (WRITEABLE if k != 1 else 0)
        if seen[k].wide != seen[0].wide or seen[k].ndim != seen[0].ndim or seen[k].flags & needed != needed:
            return False
        for d in range(seen[k].ndim):
            if seen[k].shape[d] != seen[0].shape[d]:
                return False
        return True

    cdef int refuse(self, int k, object array, object first) except -1:
        who = f"{self.__name__}: {self.operands[k]}"
        if array.dtype != first.dtype or array.shape != first.shape:
            raise ValueError(f"{who}: expected {first.dtype} {first.shape} like p, got {array.dtype} {array.shape}")
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"{who}: must be contiguous and aligned; pass a copy, or use an optimizer, which takes any "
                             f"strides")
        raise ValueError(f"{who}: must be writable, got a read-only array")

    cdef int move(self, Span* span, Gradient* gradient, Instant* now) except -1:
        cdef Job job
        cdef Py_ssize_t k, chunks = (span.size + CHUNK - 1) // CHUNK
        cdef Piece* pieces = <Piece*>malloc((chunks + 1) * sizeof(Piece))
        cdef Py_ssize_t* edges = <Py_ssize_t*>malloc((chunks + 1) * sizeof(Py_ssize_t))
        if pieces == NULL or edges == NULL:
            free(pieces)
            free(edges)
            raise MemoryError
        for k in range(chunks):
            pieces[k] = Piece(k * CHUNK, min(<Py_ssize_t>CHUNK, span.size - k * CHUNK), 0)
            edges[k], edges[k + 1] = k, k + 1
        job.spans, job.gradients, job.instants, job.pieces, job.edges = span, gradient, now, pieces, edges
        job.sweep[0], job.sweep[1], job.slots = (self.terms.rule.sweep[0], self.terms.rule.sweep[1],
                                                 self.terms.rule.slots)
        job.zero_grads = False
        try:
            if span.size >= ALONE:
                pool.prepare()
            with nogil:
                pool.run(self.run_chunk, &job, chunks)
        finally:
            free(pieces)
            free(edges)
        return 0


for rule in REGISTRY.values():
    globals()[rule.__name__.lower()] = Kernel(rule)
del rule
__all__ = sorted(REGISTRY)
