# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The updates of a table that some of its rows have not had yet, and how many of them each row has had.

An update is kept as the scalars with which it was done: rates, corrections, clipping, the key of random bits. So a row
catches up with the bits that it would have, whatever was set or scheduled since.
"""
from libc.math cimport INFINITY, log, sqrt
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.rows cimport STAYS, UNKNOWN_RULE
from fastlr._kernels.rule_table cimport StepFunction
from fastlr._kernels.structs cimport MAX_SLOTS
from fastlr.rules.element cimport real

build_id = FASTLR_LAYOUT.decode()

cdef enum:
    FIRST_CAPACITY = 16        # updates
    PROBES = 6                 # elements by which it is seen whether an update moves anything

# A move that is followed by one of less than FADING times its size fades: roundings, of 1e-7 each, change nothing in
# that, as those moves that are compared are normal numbers.
cdef double FADING = 1 - 1e-4
cdef double SMALLEST = 1e-30


cdef class RowJournal:
    """`limit` updates at most, of a table of so many rows, each of so many elements.

    `fades` is the slot with which the moves of rows fade whose gradient is zero, STAYS or UNKNOWN_RULE.
    """

    def __cinit__(self, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t limit, int fades=UNKNOWN_RULE):
        self.rows, self.width, self.limit, self.fades = rows, width, limit, fades

    def __dealloc__(self):
        free(self.updates)
        free(self.done)
        free(self.zeros)

    cdef bint reserve(self) noexcept nogil:
        """Let there be memory for one more update; False if there is none."""
        cdef Py_ssize_t capacity = max(2 * self.capacity, <Py_ssize_t>FIRST_CAPACITY)
        cdef void* updates
        if self.done == NULL:
            self.done = <int32_t*>calloc(self.rows + 1, sizeof(int32_t))
        if self.zeros == NULL:
            self.zeros = calloc(self.width + 1, sizeof(double))
        if self.done == NULL or self.zeros == NULL:
            return False
        if self.count == self.capacity:
            updates = realloc(self.updates, capacity * sizeof(PastUpdate))
            if updates == NULL:
                return False
            self.updates, self.capacity = <PastUpdate*>updates, capacity
        return True

    cdef void add(self, const RuleTable* rule, bint is_double, const ScalarGroup* group, double clip_factor,
                  uint64_t random_key) noexcept nogil:
        """One more update, for which there is memory."""
        cdef PastUpdate* update = &self.updates[self.count]
        update.group, update.clip_factor, update.random_key = group[0], clip_factor, random_key
        update.moving = self.moving
        self.moving += moves_at_zero(rule, is_double, group, clip_factor)
        update.scaling = self.scaling
        if self.fades != UNKNOWN_RULE:
            self.add_fading(rule, is_double, update)
        self.count += 1

    cdef void add_fading(self, const RuleTable* rule, bint is_double, PastUpdate* update) noexcept nogil:
        """What the update multiplies by, and whether it moves elements less than the update before."""
        cdef Fading now, before = self.latest
        cdef double decay = update.group.now.decay_factor, gain
        cdef bint multiplies = update.group.l2 == 0 and update.group.now.weight_decay == 0 and 0 < decay <= 1
        cdef bint scales = decay != 1
        cdef int k
        if is_double:
            measure_fading(rule.step[1], update, rule.slots, self.fades, &now, <double*>NULL)
        else:
            measure_fading(rule.step[0], update, rule.slots, self.fades, &now, <float*>NULL)
        for k in range(rule.slots):
            multiplies = multiplies and 0 <= update.factor[k] <= 1 and update.zero[k] == 0
            scales = scales or update.factor[k] != 1
        gain = 1
        if self.fades == STAYS:
            multiplies = multiplies and now.from_zero == 0 and now.from_large == 0
        elif multiplies:
            # (x / (a s + b) grows at most as one of x / (a s) and x / b does)
            gain = max(now.from_zero / before.from_zero, now.from_large / (before.from_large * sqrt(before.others)))
            gain *= before.own / decay
            multiplies = 0 < gain < FADING and is_normal(&now) and is_normal(&before)
        self.scaling += scales
        self.rising += not multiplies
        if multiplies:
            self.log_gain += log(gain)
            self.log_decay += log(decay)
        update.rising, update.log_gain, update.log_decay = self.rising, self.log_gain, self.log_decay
        self.latest = now

    cdef void mark(self, const int64_t* row, Py_ssize_t count) noexcept nogil:
        """These rows have had all updates."""
        cdef Py_ssize_t k
        for k in range(count):
            self.done[row[k]] = <int32_t>self.count

    cdef void restart(self) noexcept nogil:
        """Forget all updates, as every row has had them."""
        if self.count:
            memset(self.done, 0, self.rows * sizeof(int32_t))
        self.count = self.moving = self.scaling = self.rising = 0
        self.log_gain = self.log_decay = 0
        memset(&self.latest, 0, sizeof(Fading))

    def behind(self) -> int:
        """The largest number of updates that a row has not had."""
        cdef Py_ssize_t k, most = 0
        for k in range(self.rows if self.count else 0):
            most = max(most, self.count - self.done[k])
        return most

    def discard(self):
        """Forget all updates: parameters and state are others now."""
        self.restart()


cdef bint changes_zeros(StepFunction step, const ScalarGroup* group, double clip_factor, int slots,
                        real* also_typed) noexcept nogil:
    cdef real[PROBES] p
    cdef real[PROBES] before
    cdef real[PROBES] g
    cdef real[MAX_SLOTS][PROBES] state
    cdef real[PROBES] nothing
    cdef void* slot[MAX_SLOTS]
    cdef double zero = 0
    cdef bint changes
    cdef int k
    for k in range(PROBES):
        p[k] = <real>(1 if k % 3 == 2 else 0)
        p[k] = -p[k] if k % 3 == 1 else p[k]
        g[k] = <real>(zero * group.grad_factor * clip_factor)
        g[k] = -g[k] if k >= 3 else g[k]
    memcpy(before, p, sizeof(before))
    memset(state, 0, sizeof(state))
    memset(nothing, 0, sizeof(nothing))
    for k in range(MAX_SLOTS):
        slot[k] = state[k] if k < slots else NULL
    step(group.hyper, &group.now, p, g, slot, PROBES)
    changes = memcmp(before, p, sizeof(before)) != 0
    for k in range(slots):
        changes |= memcmp(state[k], nothing, sizeof(nothing)) != 0
    return changes


cdef bint moves_at_zero(const RuleTable* rule, bint is_double, const ScalarGroup* group,
                        double clip_factor) noexcept nogil:
    """Whether an update of no gradient changes an element whose state is zero, or that state.

    It is tried: on elements of 0, -0 and 1. A rule whose step does not depend on the parameter adds the same to any
    other, and weight decay changes the 1.
    """
    if group.l2 != 0 or group.now.weight_decay != 0 or group.now.decay_factor != 1:
        return True
    if is_double:
        return changes_zeros(rule.step[1], group, clip_factor, rule.slots, <double*>NULL)
    return changes_zeros(rule.step[0], group, clip_factor, rule.slots, <float*>NULL)


cdef void measure_fading(StepFunction step, PastUpdate* update, int slots, int fades, Fading* found,
                         real* also_typed) noexcept nogil:
    """Try an update on elements of 0: slots of 1 and -0 show by what they are multiplied."""
    cdef real[4] p
    cdef real[4] g
    cdef real[MAX_SLOTS][4] state
    cdef void* slot[MAX_SLOTS]
    cdef double zero = 0
    cdef int k, j
    for k in range(4):
        p[k], g[k] = <real>0, <real>(zero * update.group.grad_factor * update.clip_factor)
    for j in range(MAX_SLOTS):
        state[j][0], state[j][1], state[j][2], state[j][3] = <real>0, <real>1e30, <real>1, -<real>zero
        if j == fades:
            state[j][0] = state[j][1] = <real>1
        slot[j] = <void*>state[j] if j < slots else NULL
    step(update.group.hyper, &update.group.now, p, g, slot, 4)
    found.from_zero, found.from_large, found.own, found.others = size_of(p[0]), size_of(p[1]), 1, 1
    for j in range(slots):
        update.factor[j], update.zero[j] = state[j][2], state[j][3]
        if j == fades:
            found.own = state[j][2]
        else:
            found.others = min(found.others, <double>state[j][2])


cdef bint is_normal(const Fading* found) noexcept nogil:
    """Whether moves can be compared."""
    return SMALLEST < found.from_zero < INFINITY and SMALLEST < found.from_large < INFINITY


cdef double size_of(double x) noexcept nogil:
    return x if x > 0 else -x
