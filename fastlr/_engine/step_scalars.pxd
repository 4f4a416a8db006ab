# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t, uint64_t
from fastlr._engine.compiled_schedule cimport Node
from fastlr._engine.layout cimport Layout
from fastlr._engine.memory cimport Memory
from fastlr._kernels.rule_table cimport RuleTable
from fastlr._kernels.structs cimport MAX_HYPERS, GradientView, NormsFunction, ScalarGroup, StepJob, TaskFunction

cdef enum:
    MAX_VALUES = MAX_HYPERS + 2       # of a group: lr and weight decay, which a rule's own hyper-parameters may lack

cdef enum Decay:
    COUPLED, DECOUPLED, INDEPENDENT, CORRECTED

cdef struct StepConstants:
    # What holds for all steps and tensors of an optimizer.
    const RuleTable* rule
    int first_hyper            # where the rule's own hyper-parameters begin among a group's values
    int weight_decay           # where weight decay is among them
    int eps                    # where the rule has its eps, which is not taken as 0, or -1
    bint maximize
    double clip_value          # bounds each element of a gradient
    double ema_decay           # what a step leaves of the running mean of a parameter

cdef struct ScalarGroupKey:
    # What tensors have in common that share all scalars of a step.
    int group
    Decay decay
    bint decays                # whether weight decay applies to them
    bint is_double
    double lr_factor
    int64_t skipped_steps      # steps without a gradient

cdef void fill_scalar_group(ScalarGroup* now, const StepConstants* constants, const double* values, bint is_double,
                            double lr_factor, Decay decay, double decay_share, int64_t t,
                            double grad_scale) noexcept nogil

cdef inline uint64_t random_step() noexcept nogil:
    """By how much the keys of random bits of two successive updates differ."""
    return <uint64_t>0xbf58476d1ce4e5b9


@cython.final
cdef class ScalarGroups:
    cdef Memory memory
    cdef Layout layout
    cdef StepConstants constants
    # Hyper-parameters: `width` values of each group of parameters, in the order of `names`.
    cdef readonly tuple names
    cdef int width, group_count
    cdef double* values
    cdef double* max_lrs               # per group: the largest learning rate, if decay is corrected by it, or 0
    cdef bint corrected                # whether some group's decay is
    cdef double[MAX_VALUES] low, high  # low <= value < high
    cdef dict schedules                # (group, index) -> schedule or callable
    cdef const Node** nodes            # of those that C evaluates, at group * width + index; else NULL
    cdef Py_ssize_t callables          # how many of them C cannot evaluate
    cdef double nodes_gave             # what a schedule gave that is out of bounds
    cdef bint evaluating
    # Scalar groups: those that tensors with the same key share.
    cdef int64_t* skipped_steps        # per tensor: steps without a gradient
    cdef ScalarGroupKey* tensor_keys   # of each tensor; the steps that it skipped are beside
    cdef ScalarGroupKey* keys          # the different ones
    cdef int* key_of                   # of each tensor
    cdef int key_count
    cdef int* hash_table               # which of the different ones, or -1; a power of two of entries
    cdef size_t hash_mask
    cdef bint stale                    # whether keys have to be found again ...
    cdef bint skips_changed            # ... or may have to be, as some tensor skipped a step
    cdef ScalarGroup* groups           # those of this step: per key, or per tensor
    cdef ScalarGroup* shared_groups    # per key, before the rule adds what it remembers or sums
    # What a rule remembers beside its slots, or sums over a tensor.
    cdef bint per_tensor               # whether every tensor has scalars of its own, which come from its sums
    cdef bint remembers                # whether scalars of a step depend on those of earlier ones
    cdef bint split                    # whether tensors with the same key had remembered different things
    cdef object shared_array
    cdef double* shared                # numbers of the rule for all tensors together
    cdef Py_ssize_t* first_with_key    # of each key: its first tensor in this step
    cdef double* memory_before         # ... and what was remembered of it
    cdef double* chunk_terms           # MAX_SUMS per chunk: what a reducing rule sums
    cdef TaskFunction terms_task
    cdef NormsFunction norms           # of a rule that needs norms, where squares were lost

    cpdef assign(self, int group, int index, value)
    cdef double bounded(self, int index, value) except? -1
    cdef int evaluate(self, int64_t t) except -1
    cdef double value_at(self, int index, object schedule, int64_t t) except? -1
    cdef Py_ssize_t evaluate_nodes(self, int64_t t) noexcept nogil
    cdef int refuse_rates(self, int64_t t) except -1
    cdef int rate_above_peak(self) noexcept nogil
    cdef double decay_share(self, int group, int decay, bint decays) noexcept nogil
    cdef dict values_by_name(self, int group)
    cdef int prepare(self, const GradientView* gradients, int64_t t, double grad_scale) except -1
    cdef void fill_all(self, const GradientView* gradients, int64_t t, double grad_scale) noexcept nogil
    cdef void find_keys(self) noexcept nogil
    cdef int entry(self, const ScalarGroupKey* key) noexcept nogil
    cdef bint keys_differ(self, const GradientView* gradients) noexcept nogil
    cdef void fill(self, int64_t t, double grad_scale) noexcept nogil
    cdef void fill_tensor(self, Py_ssize_t i, ScalarGroup* now, int64_t t, double grad_scale) noexcept nogil
    cdef int count(self) noexcept nogil
    cdef const ScalarGroupKey* key(self, Py_ssize_t i) noexcept nogil
    cdef void stage_all(self) noexcept nogil
    cdef void begin(self, double loss) noexcept nogil
    cdef void begin_tensors(self, const GradientView* gradients) noexcept nogil
    cdef void reduce_terms(self, StepJob* job) noexcept nogil
    cdef void finish_all(self, const GradientView* gradients) noexcept nogil
    cdef void count_step(self, const GradientView* gradients) noexcept nogil
    cdef void skip(self, Py_ssize_t i, int64_t steps) noexcept nogil
