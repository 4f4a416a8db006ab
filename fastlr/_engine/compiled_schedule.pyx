"""Schedules as flat data that C evaluates: an array of nodes, the root first.

Nodes that only change the time (branch, shift, every, k-decay, limit) are followed in a loop; those that change the
rate (scale, clip, product, noise) recurse, and nesting is bounded. So an evaluation allocates no memory and cannot
overflow the stack, and one function serves a number and the optimizers. An array passes through the nodes in blocks of
64 times, each node a loop with its formula compiled into it: three times as fast, with the same bits.
"""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, NAN, floor, fmod, isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.thread_pool cimport prepare, run
from fastlr.powers cimport floor_of, power_of

from functools import lru_cache
from math import frexp, ldexp
from numbers import Real

import numpy

DEPTH = 100                # well within what Python's own recursion allows to repr, pickle and ==
SIZE = 1 << 16

cdef enum:
    CHUNK = 1 << 14            # times that one thread evaluates: 0.1 to 0.3 ms of work
    BLOCK = 64                 # times that pass through a node at once; a block on the stack per node that changes them

cdef dict KIND_NAMES = {
    CURVE: "curve", LIMIT: "limit", BRANCH: "branch", SHIFT: "shift", EVERY: "every", K_DECAY: "k_decay",
    SCALE: "scale", CLIP: "clip", PRODUCT: "product", NOISE: "noise",
}

ctypedef void (*BasesFunction)(const double* h, double* base) noexcept nogil

cdef struct CurveEntry:
    CurveFunction curve
    CurveBlockFunction block
    BasesFunction bases        # writes the numbers that the curve raises to powers, three at most; NULL if none


# CURVES, a table of entries, and CURVE_FIELDS, name -> fields of the struct in the same order: by build_schedules.py
include "curve_table.pxi"

cdef dict POSITIONS = {name: k for k, name in enumerate(CURVE_FIELDS)}
cdef list FIELDS = list(CURVE_FIELDS.values())


cdef uint32_t hashed(uint32_t x) noexcept nogil:
    """A hash in which every bit depends on every bit of x (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * <uint32_t>0x85ebca6b
    x = (x ^ (x >> 13)) * <uint32_t>0xc2b2ae35
    return x ^ (x >> 16)


cdef inline double random_of(const double* h, double t) noexcept nogil:
    """A number of [-1, 1) that depends on the seed (two 32-bit words h[1], h[2]) and on floor(t) alone."""
    cdef double n = floor_of(t)
    cdef uint32_t high, low, x = hashed(<uint32_t>h[1] + <uint32_t>0x9e3779b9)
    if n < 9007199254740992.0:
        high, low = <uint32_t>(<uint64_t>n >> 32), <uint32_t>(<uint64_t>n & <uint64_t>0xffffffff)
    else:
        high, low = <uint32_t>fmod(floor(n / 4294967296.0), 4294967296.0), <uint32_t>fmod(n, 4294967296.0)
    x = hashed(x ^ <uint32_t>h[2])
    x = hashed(x ^ high)
    x = hashed(x ^ low)
    return x / 2147483648.0 - 1


# What a node does to a rate or to a time: the same functions for a number and for a block.

cdef inline double with_noise(const double* h, double y, double t) noexcept nogil:
    return y * (1 + h[0] * random_of(h, t))

cdef inline double clipped(const double* h, double y) noexcept nogil:
    return h[0] if y < h[0] else h[1] if y > h[1] else y           # NaN stays

cdef inline double changed_time(NodeKind kind, const double* h, double t) noexcept nogil:
    if kind == SHIFT:
        return t - h[0] if t > h[0] else 0
    if kind == EVERY:
        return floor_of(t / h[0])
    t = h[0] * power_of(t / h[0], h[1])
    return t if t <= DBL_MAX else DBL_MAX


cdef double evaluate(const Node* nodes, int i, double t) noexcept nogil:
    cdef const Node* node
    while True:
        node = &nodes[i]
        if node.kind == CURVE:
            return node.curve(node.h, node.powers, t)
        if node.kind == SCALE:
            return node.h[0] * evaluate(nodes, node.left, t)
        if node.kind == PRODUCT:
            return evaluate(nodes, node.left, t) * evaluate(nodes, node.right, t)
        if node.kind == CLIP:
            return clipped(node.h, evaluate(nodes, node.left, t))
        if node.kind == NOISE:
            return with_noise(node.h, evaluate(nodes, node.left, t), t)
        if node.kind == LIMIT:
            if t > node.h[0]:
                return NAN
        elif node.kind != BRANCH:
            t = changed_time(node.kind, node.h, t)
        i = node.right if node.kind == BRANCH and t >= node.h[0] else node.left


# The same for n <= BLOCK times.

cdef void evaluate_block(const Node* nodes, int i, const double* t, double* y, int n) noexcept nogil:
    cdef const Node* node = &nodes[i]
    cdef int k, end
    if node.kind == CURVE:
        node.block(node.h, node.powers, t, y, n)
    elif node.kind == BRANCH:
        k = 0
        while k < n:                       # each run of times that take the same branch
            end = k + 1
            while end < n and (t[end] >= node.h[0]) == (t[k] >= node.h[0]):
                end += 1
            evaluate_block(nodes, node.right if t[k] >= node.h[0] else node.left, t + k, y + k, end - k)
            k = end
    elif node.kind == PRODUCT:
        multiply_block(nodes, node, t, y, n)
    elif node.kind == SHIFT or node.kind == EVERY or node.kind == K_DECAY:
        change_time_block(nodes, node, t, y, n)
    else:
        evaluate_block(nodes, node.left, t, y, n)
        if node.kind == SCALE:
            for k in range(n):
                y[k] = node.h[0] * y[k]
        elif node.kind == CLIP:
            for k in range(n):
                y[k] = clipped(node.h, y[k])
        elif node.kind == NOISE:
            for k in range(n):
                y[k] = with_noise(node.h, y[k], t[k])
        else:                              # LIMIT
            for k in range(n):
                y[k] = NAN if t[k] > node.h[0] else y[k]


cdef void multiply_block(const Node* nodes, const Node* node, const double* t, double* y, int n) noexcept nogil:
    cdef double[BLOCK] right
    cdef int k
    evaluate_block(nodes, node.left, t, y, n)
    evaluate_block(nodes, node.right, t, right, n)
    for k in range(n):
        y[k] *= right[k]


cdef void change_time_block(const Node* nodes, const Node* node, const double* t, double* y, int n) noexcept nogil:
    cdef double[BLOCK] times
    cdef int k
    if node.kind == SHIFT:                 # (a loop for each kind, without a branch in it)
        for k in range(n):
            times[k] = changed_time(SHIFT, node.h, t[k])
    elif node.kind == EVERY:
        for k in range(n):
            times[k] = changed_time(EVERY, node.h, t[k])
    else:
        for k in range(n):
            times[k] = changed_time(K_DECAY, node.h, t[k])
    evaluate_block(nodes, node.left, times, y, n)


cdef double rate(const Node* nodes, double t) noexcept nogil:
    """The rate of update t; NaN if t is negative or NaN, or where a part with end="error" is over."""
    if nodes == NULL or not t >= 0:
        return NAN
    return evaluate(nodes, 0, t if t <= DBL_MAX else DBL_MAX)


cdef struct Batch:
    const Node* nodes
    const double* t
    double* y
    Py_ssize_t size
    bint refused               # set by any chunk that has a time without a rate; none reads it


cdef extern from *:
    """
    #define MAGNITUDE_BITS UINT64_C(0x7FFFFFFFFFFFFFFF)
    #define INFINITY_BITS UINT64_C(0x7FF0000000000000)
    """
    uint64_t MAGNITUDE_BITS, INFINITY_BITS         # of a double: all but its sign, and those of infinity

cdef inline uint64_t bits_of(double x) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &x, sizeof(bits))
    return bits


# What follows is of bits, as compilers make vectors of integers' operations, and not of `refused |= not x >= 0`.

cdef inline bint read_times(const double* t, double* times, int n) noexcept nogil:
    """Copy times, each at most the largest double; whether one is negative or NaN."""
    cdef uint64_t refused = 0, bits
    cdef double x
    cdef int i
    for i in range(n):
        x = t[i] + 0.0                     # (-0.0 is 0)
        bits = bits_of(x)
        refused |= bits | (INFINITY_BITS - bits)       # (the sign: of x, or where it is NaN)
        times[i] = x if x <= DBL_MAX else DBL_MAX
    return refused >> 63


cdef inline bint has_no_rate(const double* y, int n) noexcept nogil:
    """Whether one of these is infinite or NaN. (No rate is below 0.)"""
    cdef uint64_t refused = 0, bits
    cdef int i
    for i in range(n):
        bits = bits_of(y[i])
        refused |= INFINITY_BITS - 1 - (bits & MAGNITUDE_BITS)
    return refused >> 63


cdef void evaluate_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    """The rates of one chunk of an array of times, at least up to the first time that has none."""
    cdef Batch* batch = <Batch*>context
    cdef Py_ssize_t begin = chunk * CHUNK, last = min(begin + CHUNK, batch.size)
    cdef double[BLOCK] times
    cdef const double* t
    cdef double* y
    cdef int i, n
    cdef bint refused
    while begin < last:
        n = <int>min(last - begin, BLOCK)
        t, y = batch.t + begin, batch.y + begin
        refused = read_times(t, times, n)
        if refused:
            for i in range(n):
                times[i] = t[i] if 0 <= t[i] <= DBL_MAX else DBL_MAX
        evaluate_block(batch.nodes, 0, times, y, n)
        if refused:
            for i in range(n):
                if not t[i] >= 0:
                    y[i] = NAN
        if refused or has_no_rate(y, n):
            batch.refused = True
            return
        begin += n


cdef class CompiledSchedule:
    """A schedule: called with t (0 is the first update), a number or an array, it gives the rate."""

    def __dealloc__(self):
        free(self.nodes)

    cdef double at(self, double t) noexcept nogil:
        return rate(self.nodes, t)

    def __call__(self, t):
        cdef double y
        if PyFloat_CheckExact(t):
            y = self.at(t)
        elif PyLong_CheckExact(t) or isinstance(t, Real) and not isinstance(t, bool):
            y = self.at(number(t))
        else:
            return self._array(t)
        if not y <= DBL_MAX:
            raise self._refusal(t, "")
        return y

    def _array(self, t):
        cdef Py_buffer source, target
        cdef Batch batch
        cdef Py_ssize_t i = 0
        if self.nodes == NULL:
            raise ValueError(f"{type(self).__name__}: there is no schedule in it")
        given = numpy.asarray(t)
        if given.dtype.kind not in "iuf":
            raise TypeError(f"{type(self).__name__}: t must be a number or an array of numbers, got "
                            + (f"an array of {given.dtype}" if isinstance(t, numpy.ndarray) else repr(t)))
        times = numpy.ascontiguousarray(given, dtype=numpy.float64)
        if not times.flags.aligned:
            times = times.copy()
        rates = numpy.empty(given.shape)
        PyObject_GetBuffer(times, &source, PyBUF_C_CONTIGUOUS)
        try:
            PyObject_GetBuffer(rates, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
            try:
                batch.nodes, batch.refused, batch.size = self.nodes, False, times.size
                batch.t, batch.y = <const double*>source.buf, <double*>target.buf
                if batch.size > 2 * CHUNK:
                    prepare()
                with nogil:
                    run(evaluate_chunk, &batch, (batch.size + CHUNK - 1) // CHUNK)
                    while batch.refused and i + 1 < batch.size and batch.y[i] <= DBL_MAX:
                        i += 1             # chunks before the first refusal are complete
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)
        if batch.refused:
            where = tuple(int(k) for k in numpy.unravel_index(i, given.shape))
            raise self._refusal(given[where].item(), f" at t[{', '.join(map(str, where))}]" if where else "")
        return rates

    def _refusal(self, t, where):
        """Why there is no rate at t."""
        who = type(self).__name__
        if not t >= 0:
            return ValueError(f"{who}: t must be >= 0, got {t}{where}")
        if self.has_end and self.at(number(t)) != self.at(number(t)):
            return ValueError(f'{who}: t={t}{where} is past the end of a schedule with end="error"')
        return ValueError(f"{who}: the rate at t={t}{where} is not a finite number")

    def _nodes(self):
        """The nodes, for evaluation elsewhere: (kind, left, right, name of a curve or "", numbers)."""
        names = list(CURVE_FIELDS)
        cdef Py_ssize_t i, k, numbers = sizeof(self.nodes.h) // sizeof(double)
        return [
            (KIND_NAMES[self.nodes[i].kind], self.nodes[i].left, self.nodes[i].right,
             names[self.nodes[i].which] if self.nodes[i].kind == CURVE else "",
             [self.nodes[i].h[k] for k in range(numbers)])
            for i in range(self.size)
        ]

    def _set_nodes(self, CompiledSchedule other not None):
        """Copy what `other` computes; once."""
        if self.nodes != NULL:
            raise TypeError(f"{type(self).__name__} is immutable")
        self.allocate(other.size, other.depth)
        self.copy_nodes(other, 0)

    cdef Node* allocate(self, int size, int depth) except NULL:
        """Allocate `size` nodes."""
        if depth > DEPTH:
            raise ValueError(f"a schedule can be nested at most {DEPTH} deep")
        if size > SIZE:
            raise ValueError(f"a schedule can have at most {SIZE} parts, got {size}")
        self.nodes = <Node*>calloc(size, sizeof(Node))
        if self.nodes == NULL:
            raise MemoryError
        self.size, self.depth = size, depth
        return self.nodes

    cdef int copy_nodes(self, CompiledSchedule child, int position) except -1:
        """Copy a child's nodes to `position`; the position after them."""
        cdef int i
        if child is None or child.nodes == NULL:
            raise TypeError(f"expected a schedule, got {child!r}")
        memcpy(&self.nodes[position], child.nodes, child.size * sizeof(Node))
        for i in range(position, position + child.size):
            self.nodes[i].left += position
            self.nodes[i].right += position
        self.has_end |= child.has_end
        return position + child.size

    cdef int branch_tree(self, int low, int high, int* free_slot, list at) except -1:
        """A balanced tree of branches over the pieces low <= i < high; its root."""
        cdef int i, middle = (low + high) // 2
        if high - low == 1:
            return len(at) + low
        i = free_slot[0]
        free_slot[0] += 1
        self.nodes[i].kind = BRANCH
        self.nodes[i].h[0] = at[middle - 1]
        self.nodes[i].left = self.branch_tree(low, middle, free_slot, at)
        self.nodes[i].right = self.branch_tree(middle, high, free_slot, at)
        return i


cdef double number(t) except? -1:
    """t as a double; an integer too large for one is infinite."""
    try:
        return float(t)
    except OverflowError:
        return DBL_MAX if t > 0 else -DBL_MAX


cdef CompiledSchedule unary(NodeKind kind, CompiledSchedule child, double a, double b=0, double c=0):
    cdef CompiledSchedule made = CompiledSchedule.__new__(CompiledSchedule)
    made.allocate(1 + child.size, 1 + child.depth)
    made.nodes[0].kind, made.nodes[0].left = kind, 1
    made.nodes[0].h[0], made.nodes[0].h[1], made.nodes[0].h[2] = a, b, c
    made.copy_nodes(child, 1)
    return made


@lru_cache(1024)
def binary_logarithm(double x):
    """log2 of a positive number in two doubles, the first of at most 26 bits; zeros where there is none."""
    if not (x > 0 and isfinite(x)):
        return 0.0, 0.0
    mantissa, exponent = frexp(x)
    if mantissa < 0.7071:
        mantissa, exponent = 2 * mantissa, exponent - 1
    units, one = int(ldexp(mantissa, 54)), 1 << 54
    total = (exponent << 200) + (inverse_tanh(units - one, units + one) << 200) // inverse_tanh(1, 3)
    spare = max(abs(total).bit_length() - 26, 0)
    head = total >> spare
    return ldexp(head, spare - 200), (total - (head << spare)) / (1 << 200)


def inverse_tanh(above, below):
    """200 binary digits of artanh(above / below) = ln((1 + s) / (1 - s)) / 2, all in integers."""
    s = (above << 200) // below
    y, total = s * s >> 200, s
    for k in range(3, 135, 2):             # enough for s = 1/3
        s = s * y >> 200
        if s in (0, -1):
            break
        total += s // k
    return total


def curve(str name not None, dict arguments not None):
    """A curve of curves.pxd by its name, with its numbers: `curve("linear", {"lr": 0.1, "steps": 9, "final": 0})`."""
    cdef CompiledSchedule made = CompiledSchedule.__new__(CompiledSchedule)
    cdef Node* node = made.allocate(1, 1)
    cdef double[3] base
    cdef int i, which = POSITIONS[name]
    cdef tuple fields = FIELDS[which]
    node.kind, node.which = CURVE, which
    node.curve, node.block = CURVES[which].curve, CURVES[which].block
    for i in range(<int>len(fields)):
        node.h[i] = arguments[fields[i]]
    base[0] = base[1] = base[2] = 1
    if CURVES[which].bases != NULL:
        CURVES[which].bases(node.h, base)
    for i in range(3):
        node.powers[i].base = base[i]
        node.powers[i].log2_high, node.powers[i].log2_low = binary_logarithm(base[i]) if base[i] != 1 else (0, 0)
    return made


def limit(CompiledSchedule child not None, double last):
    cdef CompiledSchedule made = unary(LIMIT, child, last)
    made.has_end = True
    return made


def highest(CompiledSchedule schedule not None, int64_t updates):
    """The largest rate of so many updates, or -inf; those where there is none do not count."""
    cdef double[BLOCK] times, rates
    cdef double most = -INFINITY
    cdef int64_t t = 0
    cdef int i, n
    with nogil:
        while t < updates and schedule.nodes != NULL:
            n = <int>min(updates - t, <int64_t>BLOCK)
            for i in range(n):
                times[i] = <double>(t + i)
            evaluate_block(schedule.nodes, 0, times, rates, n)
            for i in range(n):
                most = rates[i] if rates[i] > most else most
            t += n
    return most


def shift(CompiledSchedule child not None, double n):
    return unary(SHIFT, child, n)


def every(CompiledSchedule child not None, double k):
    return unary(EVERY, child, k)


def k_decay(CompiledSchedule child not None, double steps, double k):
    return unary(K_DECAY, child, steps, k)


def noise(CompiledSchedule child not None, double amount, unsigned long long seed):
    return unary(NOISE, child, amount, <double>(seed & 0xffffffff), <double>(seed >> 32))


def scale(CompiledSchedule child not None, double factor):
    return unary(SCALE, child, factor)


def clip(CompiledSchedule child not None, double low, double high):
    return unary(CLIP, child, low, high)


def product(CompiledSchedule left not None, CompiledSchedule right not None):
    cdef CompiledSchedule made = CompiledSchedule.__new__(CompiledSchedule)
    made.allocate(1 + left.size + right.size, 1 + max(left.depth, right.depth))
    made.nodes[0].kind, made.nodes[0].left = PRODUCT, 1
    made.nodes[0].right = made.copy_nodes(left, 1)
    made.copy_nodes(right, made.nodes[0].right)
    return made


def join(children, at):
    """children[i] from at[i - 1] on, each counting from its own 0."""
    cdef CompiledSchedule made = CompiledSchedule.__new__(CompiledSchedule)
    cdef CompiledSchedule child
    cdef list bounds = list(at)
    cdef Py_ssize_t size = 2 * len(bounds) + 1
    cdef int i, slot = 0, position = 2 * <int>len(bounds) + 1, depth = 0
    for child in children:
        size, depth = size + child.size, max(depth, child.depth)
    if size > SIZE:                        # (before it is an int)
        raise ValueError(f"a schedule can have at most {SIZE} parts, got {size}")
    made.allocate(<int>size, 1 + depth)
    made.branch_tree(0, len(bounds) + 1, &slot, bounds)
    for i, child in enumerate(children):
        made.nodes[slot + i].kind = SHIFT
        made.nodes[slot + i].h[0] = bounds[i - 1] if i else 0
        made.nodes[slot + i].left = position
        position = made.copy_nodes(child, position)
    return made


build_id = FASTLR_LAYOUT.decode()
