# cython: language_level=3, cdivision=True
"""The scalars of one step, in double: the same for all elements of a tensor."""
from libc.math cimport NAN, expm1, log

cdef enum:
    MAX_SCALARS = 8            # of a rule's own

cdef struct StepScalars:
    double t                   # which update of the tensor this is: 1, 2, ...
    double lr                  # the learning rate of this step
    double max_lr              # the largest learning rate of any tensor in this step
    double decay_factor        # by which decoupled weight decay multiplies a parameter: 1 - lr * weight_decay, or 1
    double weight_decay        # decoupled weight decay that a rule adds to its own step, to be multiplied by lr, or 0
    double first_update        # 1 at a tensor's first update, 0 after
    double loss                # of this step, for rules that are given it
    double[MAX_SCALARS] own    # the rule's own scalars: by name in its struct

cdef inline StepScalars step_scalars(double lr, double t) noexcept nogil:
    """Of update t = 1, 2, ... without weight decay; a rule's own scalars are filled by its functions."""
    cdef StepScalars now
    cdef int k
    now.t, now.lr, now.max_lr, now.decay_factor, now.weight_decay = t, lr, lr, 1, 0
    now.first_update, now.loss = t == 1, NAN
    for k in range(MAX_SCALARS):
        now.own[k] = 0
    return now

cdef inline double debias(double beta, double t) noexcept nogil:
    """1 / (1 - beta**t), without the cancellation, which at beta = 0.999, t = 2 costs 100 ulp."""
    return -1 / expm1(t * log(beta))
