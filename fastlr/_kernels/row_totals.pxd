# cython: language_level=3, cdivision=True
"""AdaGrad with one number per row: what whole steps and steps over rows share."""
from libc.math cimport sqrt
from fastlr.rules.element cimport real

cdef inline real grown_total(real total, double squares, double size) noexcept nogil:
    """The sum of a row's mean squares, with those of this gradient."""
    return <real>(<double>total + squares / size)

cdef inline real rate_of_total(real total, double eps) noexcept nogil:
    return <real>(1 / (sqrt(<double>total) + eps))

cdef inline void scale_row(real* u, const real* g, real rate, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = g[j] * rate
