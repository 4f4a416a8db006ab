# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t, uint64_t
from fastlr._engine.clipping cimport Clipping, Verdict
from fastlr._engine.curvature cimport Curvature
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Workspace
from fastlr._engine.row_index cimport RowIndex
from fastlr._engine.row_journal cimport RowJournal
from fastlr._engine.step_scalars cimport ScalarGroups
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport ConstrainFunction, GradientView, StepJob, TaskFunction
from fastlr._matrix.matrix_step cimport MatrixStep

cdef extern from *:
    """
    #include <stdatomic.h>
    /* What one thread can have at a time. */
    static inline int fastlr_take(atomic_int *flag) { return !atomic_exchange(flag, 1); }
    static inline void fastlr_give(atomic_int *flag) { atomic_store(flag, 0); }
    static inline int fastlr_taken(atomic_int *flag) { return atomic_load(flag); }
    """
    ctypedef int Flag "atomic_int"
    bint take_flag "fastlr_take"(Flag* flag) nogil
    void give_flag "fastlr_give"(Flag* flag) nogil
    bint is_taken "fastlr_taken"(Flag* flag) nogil


@cython.final
cdef class Plan:
    cdef Layout layout
    cdef ScalarGroups scalars
    cdef Clipping clipping
    cdef Curvature curvature           # of rules that are given estimates, else None
    cdef Gradients given               # of this step
    cdef Gradients bound               # of every step that is given none, or None
    cdef Gradients current             # those that the step in progress uses
    cdef MatrixStep matrix_step        # makes the updates of a rule that is not elementwise, or None
    cdef RowIndex row_index            # the rows of the latest step over rows
    cdef Workspace row_sums            # ... and what its gradients add up to, chunk by chunk
    cdef public list journals          # per tensor: the updates that its rows catch up with, or None; None without any
    cdef RowJournal journal            # of the tensor whose rows are stepped, or None
    cdef public object torch_parameters    # a TorchParameters, or None
    cdef public tuple watched          # what says whether parameters were replaced, or None
    cdef bint* frozen                  # which tensors take no gradient, or NULL: for steps from C, past the class
    cdef object kernels
    cdef const RuleTable* rule
    cdef TaskFunction step_task
    cdef TaskFunction finish_task      # what comes after a step of matrices, or NULL
    cdef ConstrainFunction constrain_elements      # of a plan with constraints
    cdef bint* holds                   # which tensors have what was accumulated since the latest step, or NULL
    cdef int64_t* clipped              # of a plan that measures: of each tensor the clipped steps, and all
    cdef bint* moved_by_rows           # ... and whether rows of it moved in the step under way, which is not measured
    cdef public double clipped_by      # clipping over several plans: by how much it enlarged the coming grad_scale
    cdef double measured_scale         # by which the latest step that was measured divided gradients, but for that
    cdef StepJob job                   # what all steps have in common
    cdef bint stochastic               # whether 16-bit values are rounded by random bits
    cdef uint64_t seed
    cdef Flag stepping
    cdef list replaced                 # schedules that a step of another thread may still be reading
    cdef public int64_t t              # updates done
    cdef public int64_t skipped        # steps that were not done, as gradients were not finite
    cdef public int64_t accumulated    # gradients that were added to the moments since the latest step

    cpdef int begin(self) except -1
    cpdef int end(self) except -1
    cpdef int refuse_replaced(self) except -1
    cdef int read_curvature(self, list gradients, list estimates) except -1
    cpdef double checked_scale(self, grad_scale) except? -1
    cdef int read_gradients(self, StepJob* job, list gradients, bint zero_grads, str call) except -1
    cdef int compute_scalars(self, StepJob* job, double grad_scale, double loss) except -1
    cdef int reserve_holds(self) except -1
    cdef void count_accumulated(self, const GradientView* gradients) noexcept nogil
    cdef Py_ssize_t without_last(self, const GradientView* gradients) noexcept nogil
    cdef int refuse_without_last(self, const GradientView* gradients) except -1
    cdef int run_tasks(self, StepJob* job) except -1
    cdef int skip(self, StepJob* job) except -1
    cdef int release(self) except -1
    cdef Verdict advance(self, StepJob* job, double grad_scale, double loss) noexcept nogil
    cdef void begin_measuring(self, double grad_scale) noexcept nogil
    cdef void forget_measured(self) noexcept nogil
    cdef void count_rows(self, Py_ssize_t i, bint ends_step) noexcept nogil
    cdef list measure_before(self, const StepJob* job)
    cdef object given_gradient(self, const StepJob* job, Py_ssize_t i)
    cdef int measure_after(self, list before) except -1
    cdef void count_clipped(self, const StepJob* job) noexcept nogil
    cdef void count_update(self, StepJob* job) noexcept nogil
    cdef uint64_t random_key(self) noexcept nogil
    cdef uint64_t accumulation_key(self) noexcept nogil
