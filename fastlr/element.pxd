# cython: language_level=3, cdivision=True
"""What every rule is written in: the precision of an element, and what it may know of the instant."""
from libc.math cimport sqrt, sqrtf

ctypedef fused real:
    float
    double

cdef enum:
    MOST_EXTRA = 4         # scalars of an instant that a rule names itself


cdef struct Now:
    # What a rule may know of the instant: scalars of one step, the same for all elements of a tensor.
    double t               # which update of the tensor this is: 1, 2, ...
    double lr              # the learning rate of this step
    double peak            # the largest learning rate of any tensor in this step
    double keep            # what decoupled weight decay leaves of a parameter: 1 - lr * weight_decay, or 1
    double decay           # decoupled weight decay that a rule adds to its own step, to be multiplied by lr, or 0
    double fresh           # 1 at a tensor's first update, 0 after
    double debias1         # 1 / (1 - beta1**t)
    double debias2         # 1 / sqrt(1 - beta2**t)
    double loss            # of this step, for rules that ask for it
    double[MOST_EXTRA] extra   # what else the rule's own `at`, `recall` or `settle` found


cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)

cdef inline real larger(real x, real y) noexcept nogil:
    return x if x > y else y

cdef inline real smaller(real x, real y) noexcept nogil:
    return x if x < y else y

cdef inline real magnitude(real x) noexcept nogil:
    return x if x > <real>0 else -x

cdef inline real sign(real x) noexcept nogil:
    return <real>1 if x > <real>0 else <real>-1 if x < <real>0 else x      # (zero and NaN stay)
