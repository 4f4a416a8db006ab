# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Adaptive clipping: the units of each tensor (the weights of one output), and the factors of their gradients."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, ldexp, sqrt
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport CHUNK, Layout
from fastlr._engine.memory cimport Memory
from fastlr._kernels.scaled_sum cimport smallest_squares
from fastlr._kernels.structs cimport (
    TILE, StepJob, TaskFunction, TensorView, UnitFactorFunction, UnitRange, UnitSquaresFunction, UnitSums,
    is_unit_lost, unit_clip_factor,
)

build_id = FASTLR_LAYOUT.decode()


cdef inline Py_ssize_t smaller(Py_ssize_t x, Py_ssize_t y) noexcept nogil:
    return x if x < y else y


cdef Py_ssize_t slice_length(const TensorView* view) noexcept nogil:
    """How much of a unit is measured at a time: elements, or rows of a tile of columns."""
    return max(1, CHUNK // smaller(TILE, view.unit_count)) if view.unit_length == 1 else CHUNK


cdef Py_ssize_t cut_tensor(const TensorView* view, UnitRange* out, int tensor, Py_ssize_t* sums) noexcept:
    """Cut one tensor's units into ranges of about CHUNK elements, or (`out` NULL) count those."""
    cdef Py_ssize_t ranges = 0, first, begin = 0, together, length, slice_
    if view.size == 0:
        return 0
    length, slice_ = view.size // view.unit_count, slice_length(view)
    together = smaller(TILE, view.unit_count) if view.unit_length == 1 else max(1, CHUNK // view.unit_length)
    while begin < length:                          # slices, and in each all units
        first = 0
        while first < view.unit_count:
            if out != NULL:
                out[ranges] = UnitRange(tensor, first, smaller(together, view.unit_count - first), begin,
                                        smaller(begin + slice_, length), sums[0] + first)
            ranges += 1
            first += together
        sums[0] += view.unit_count
        begin += slice_
    return ranges


cdef class UnitNorms:
    """Units along an axis: the norm of a unit's gradient is at most `clip` times that of its parameters.

    `alone`: no other stage measures gradients. Then tensors of one chunk are measured while they are stepped, in cache.
    """

    def __cinit__(self, Layout layout, kernels, int axis, double clip, double eps, bint alone):
        self.memory, self.layout, self.clip, self.eps, self.alone = Memory(), layout, clip, eps, alone
        self.task = <TaskFunction>PyCapsule_GetPointer(kernels.unit_norms_task, "fastlr.task")
        self.scaled_factor = <UnitFactorFunction>PyCapsule_GetPointer(kernels.unit_factor, "fastlr.unit_factor")
        self.scaled_squares = <UnitSquaresFunction>PyCapsule_GetPointer(kernels.unit_squares, "fastlr.unit_squares")
        self.squares = <double*>self.memory.take(layout.count, sizeof(double))
        self.exponents = <int*>self.memory.take(layout.count, sizeof(int))
        self.nonfinite = <double*>self.memory.take(layout.count, sizeof(double))
        self.cut(axis)

    cdef int cut(self, int axis) except -1:
        """Find the units of each tensor, and cut them for measuring."""
        cdef Py_ssize_t i, units = 0, ranges = 0, sums = 0
        cdef Layout layout = self.layout
        cdef TensorView* view
        for i in range(layout.count):                  # (first how many there are)
            view = &layout.views[i]
            view.unit_count, view.unit_length, view.staged = 1, view.size, True
            if layout.ndims[i] > 1 and view.size:
                view.unit_count = layout.shapes[layout.first_axis[i] + (0 if axis == 0 else layout.ndims[i] - 1)]
                view.unit_length = 1 if axis else view.size // view.unit_count
                if view.unit_count == 1:
                    view.unit_length = view.size
            # (units of one element are the columns of one row; a unit that is the whole tensor is one run of elements)
            if view.unit_length == 1 and axis == 0:
                view.unit_count = view.size
            units += view.unit_count
            if not self.measured_in_step(view):
                ranges += cut_tensor(view, NULL, 0, &sums)
        self.ranges = <UnitRange*>self.memory.take(ranges, sizeof(UnitRange))
        self.sums = <UnitSums*>self.memory.take(sums, sizeof(UnitSums))
        self.factors = <double*>self.memory.take(units, sizeof(double))
        units = ranges = sums = 0
        for i in range(layout.count):
            view = &layout.views[i]
            view.unit_factors = self.factors + units
            units += view.unit_count
            if not self.measured_in_step(view):
                ranges += cut_tensor(view, self.ranges + ranges, <int>i, &sums)
        self.range_count = ranges
        return 0

    cdef bint measured_in_step(self, const TensorView* view) noexcept nogil:
        """Whether a tensor's units are measured while it is stepped."""
        return self.alone and view.size <= CHUNK

    cdef void measure(self, StepJob* job) noexcept nogil:
        """Measure all units that are measured before the step: their factors, and what they leave of the gradients.

        (Call `prepare_for` of thread_pool before.)
        """
        cdef Py_ssize_t i, k, slices, unit, first = 0
        cdef double factor
        cdef const UnitSums* sums
        cdef UnitSums whole
        cdef TensorView* view
        job.units, job.shares = self.ranges, self.sums
        if self.range_count:
            thread_pool.do_all(self.task, job, self.range_count, self.layout.elements)
        for i in range(self.layout.count):
            view = &self.layout.views[i]
            self.squares[i], self.nonfinite[i], self.exponents[i] = 0, 0, 0
            if view.size == 0 or self.measured_in_step(view):
                continue
            k = slice_length(view)
            slices = (view.size // view.unit_count + k - 1) // k
            for unit in range(view.unit_count):
                whole.gradient = whole.parameter = whole.nonfinite = 0
                for k in range(slices):
                    sums = &self.sums[first + k * view.unit_count + unit]
                    whole.gradient += sums.gradient
                    whole.parameter += sums.parameter
                    whole.nonfinite += sums.nonfinite
                factor = unit_clip_factor(whole.gradient, whole.parameter, self.clip, self.eps)
                if view.is_double and is_unit_lost(&whole, self.eps) and job.gradients[i].g != NULL:
                    factor = self.scaled_factor(job, i, unit, self.clip, self.eps)
                view.unit_factors[unit] = factor
                self.squares[i] += factor * factor * whole.gradient
                self.nonfinite[i] += whole.nonfinite
            first += slices * view.unit_count
            if view.is_double and job.gradients[i].g != NULL and self.nonfinite[i] == 0:
                if not self.squares[i] < INFINITY or self.squares[i] < smallest_squares():
                    self.exponents[i] = self.scaled_squares(job, i, &self.squares[i])

    cdef void measure_alone(self, StepJob* job) noexcept nogil:
        """Measure where no other stage does; small tensors are still to be measured by the step."""
        self.measure(job)
        job.unit_squares, job.unit_exponents = self.squares, self.exponents
        job.unit_clip, job.unit_eps = self.clip, self.eps

    cdef int exponent(self) noexcept nogil:
        """The power of two with which the squares of all tensors are added; 0 unless they overflow or vanish."""
        cdef Py_ssize_t i
        cdef int exponent = 0
        cdef double total = 0
        cdef bint found = False
        for i in range(self.layout.count):
            total += self.squares[i]
            if self.squares[i] > 0 and (not found or self.exponents[i] < exponent):
                exponent, found = self.exponents[i], True
        return -540 if exponent == 0 and total == INFINITY else exponent

    cdef double norm(self) noexcept nogil:
        """The norm of all gradients, after a step that measured the small tensors."""
        cdef Py_ssize_t i
        cdef double total = 0
        cdef int exponent = self.exponent()
        for i in range(self.layout.count):
            total += ldexp(self.squares[i], 2 * (exponent - self.exponents[i]))
        return ldexp(sqrt(total), -exponent)
