# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The C interface: the table of include/fastlr/fastlr.h, where every entry is described."""
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport strcmp
from fastlr._kernels.structs cimport MAX_SLOTS
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.functional_step cimport RuleCall, read_rule, update_tensor
from fastlr._engine.memory cimport Memory
from fastlr._engine.compiled_schedule cimport Node, CompiledSchedule, rate
from fastlr._c_api.plan_functions cimport fill_plans
from fastlr._engine.step_scalars cimport MAX_VALUES
from fastlr.c_api cimport (
    FASTLR_ABI_VERSION, FASTLR_BAD_DTYPE, FASTLR_BAD_HYPER, FASTLR_BAD_NAME, FASTLR_BAD_POINTER, FASTLR_BAD_SIZE,
    FASTLR_BAD_STRUCT, FASTLR_BAD_T, FASTLR_BUSY, FASTLR_FLOAT32, FASTLR_FLOAT64, FASTLR_NO_MEMORY, FASTLR_NO_PLAN,
    FASTLR_NO_PYTHON, FASTLR_NO_RULE, FASTLR_NOT_BUILT, FASTLR_NOT_FINITE, FASTLR_OK, FASTLR_OVERLAP, FASTLR_REFUSED,
    fastlr_api, fastlr_rule, fastlr_schedule,
)

from fastlr import kernels
from fastlr._engine.instruction_set import one_build
from fastlr.optimizers.base import REGISTRY
from fastlr.optimizers.rule_class import WHEN_REGISTERED

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._engine.c_api", build_id)

cdef extern from *:
    const char* FASTLR_VERSION         # by setup.py, from pyproject.toml (asking for metadata here would cost 30 ms)

cdef extern from *:
    """
    #include <stdatomic.h>
    /* The newest entry. A class statement adds one while other threads, without the GIL, may be looking rules up. */
    static _Atomic(void *) fastlr_newest;
    static void *fastlr_newest_entry(void) { return atomic_load_explicit(&fastlr_newest, memory_order_acquire); }
    static void fastlr_add_entry(void *entry) { atomic_store_explicit(&fastlr_newest, entry, memory_order_release); }
    """
    void* newest_entry "fastlr_newest_entry"() noexcept nogil
    void publish_entry "fastlr_add_entry"(void* entry) noexcept nogil

cdef struct Entry:
    fastlr_rule shown                  # what a program sees; its address is the entry's
    RuleCall call
    int[MAX_VALUES] position           # of hyper-parameter k among the values of the call
    double[MAX_VALUES] defaults, low, high
    double[MAX_SLOTS] starts
    const char* hyper_names[MAX_VALUES]
    const char* slot_names[MAX_SLOTS]
    Entry* older                       # the entry that was added before this one, or NULL

cdef fastlr_api api
cdef Memory memory = Memory()          # lives as long as the process, as all that the table points to
cdef list texts = []

cdef int64_t MAX_STEPS = <int64_t>1 << 62
cdef int64_t MAX_BYTES = <int64_t>((<size_t>-1) >> 1)


cdef const char* text(str s) except NULL:
    cdef bytes encoded = s.encode()
    texts.append(encoded)
    return encoded


cdef int fill_entry(Entry* entry, str name, object cls) except -1:
    """Fill the entry of one rule from its class."""
    cdef int k = 0, j
    read_rule(&entry.call, cls)
    for field in cls.hypers:           # (in the order of the class)
        if field != "lr":
            j = cls._fields.index(field)
            entry.position[k], entry.hyper_names[k], entry.defaults[k] = j, text(field), entry.call.defaults[j]
            entry.low[k], entry.high[k] = entry.call.low[j], entry.call.high[j]
            k += 1
    starts = {start.slot: start.default for start in cls.initial_states.values()}
    for j, slot in enumerate(cls.slots):
        entry.slot_names[j], entry.starts[j] = text(slot), starts.get(slot, 0.0)
    entry.shown.name, entry.shown.slots, entry.shown.hypers = text(name), entry.call.constants.rule.slots, k
    entry.shown.slot_names, entry.shown.hyper_names = entry.slot_names, entry.hyper_names
    entry.shown.defaults, entry.shown.low, entry.shown.high = entry.defaults, entry.low, entry.high
    entry.shown.starts = entry.starts
    entry.shown.memories = entry.call.constants.rule.memories
    return 0


def add_entry(str name, cls):
    """Make the rule of a class known to `rule`, if it is one of elements; of two of one name, the newest is found."""
    cdef Entry* entry
    if not kernels.is_elementwise(cls):
        return
    entry = <Entry*>memory.take(1, sizeof(Entry))
    fill_entry(entry, name, cls)
    entry.older = <Entry*>newest_entry()
    publish_entry(entry)


cdef const fastlr_rule* find(const char* name) noexcept nogil:
    cdef Entry* entry = <Entry*>newest_entry()
    while name != NULL and entry != NULL:
        if strcmp(entry.shown.name, name) == 0:
            return &entry.shown
        entry = entry.older
    return NULL


cdef int step(const fastlr_rule* rule, int dtype, int64_t t, double lr, const double* hyper, int64_t n,
              void* p, const void* g, void* const* slots) noexcept nogil:
    cdef const Entry* entry = <const Entry*>rule
    cdef double[MAX_VALUES] values
    cdef uintptr_t[MAX_SLOTS + 3] begin
    cdef int64_t itemsize, bytes
    cdef int k, other, count
    if rule == NULL:
        return FASTLR_NO_RULE
    if dtype != FASTLR_FLOAT32 and dtype != FASTLR_FLOAT64:
        return FASTLR_BAD_DTYPE
    if entry.call.constants.rule.step[dtype == FASTLR_FLOAT64] == NULL:
        return FASTLR_BAD_DTYPE
    if not 1 <= t < MAX_STEPS:
        return FASTLR_BAD_T
    for k in range(entry.call.width):
        values[k] = entry.call.defaults[k]
    values[0] = lr
    if not entry.call.low[0] <= lr < entry.call.high[0]:
        return FASTLR_BAD_HYPER
    if hyper != NULL:
        for k in range(entry.shown.hypers):
            if not entry.low[k] <= hyper[k] < entry.high[k]:
                return FASTLR_BAD_HYPER
            values[entry.position[k]] = hyper[k]
    itemsize = 8 if dtype == FASTLR_FLOAT64 else 4
    if not 0 <= n <= MAX_BYTES // itemsize:
        return FASTLR_BAD_SIZE
    if n == 0:
        return FASTLR_OK
    count = entry.shown.slots + (entry.shown.memories > 0)
    if slots == NULL and count > 0:
        return FASTLR_BAD_POINTER
    begin[0], begin[1] = <uintptr_t>p, <uintptr_t>g
    for k in range(count):
        begin[2 + k] = <uintptr_t>slots[k]
    for k in range(count + 2):
        bytes = n * itemsize if k < entry.shown.slots + 2 else 8 * entry.shown.memories
        if begin[k] == 0 or begin[k] % (itemsize if k < entry.shown.slots + 2 else 8):
            return FASTLR_BAD_POINTER
        for other in range(k):
            if begin[k] < begin[other] + n * itemsize and begin[other] < begin[k] + bytes:
                return FASTLR_OVERLAP
    update_tensor(&entry.call, values, t, dtype == FASTLR_FLOAT64, n, p, g, <void**>slots)
    return FASTLR_OK


cdef const char* message(int error) noexcept nogil:
    if error == FASTLR_OK:
        return "done"
    if error == FASTLR_NO_RULE:
        return "the rule must not be NULL"
    if error == FASTLR_BAD_DTYPE:
        return "dtype must be FASTLR_FLOAT32 or FASTLR_FLOAT64, and one that the rule computes in"
    if error == FASTLR_BAD_T:
        return "t must be 1 at the first update, and less than 2**62"
    if error == FASTLR_BAD_HYPER:
        return "lr must be finite and >= 0, and hyper[k] in [rule->low[k], rule->high[k])"
    if error == FASTLR_BAD_SIZE:
        return "n must be the number of elements, >= 0"
    if error == FASTLR_BAD_POINTER:
        return "p, g and slots must point to aligned arrays of n elements"
    if error == FASTLR_OVERLAP:
        return "p, g and slots must not share memory"
    if error == FASTLR_NO_MEMORY:
        return "out of memory"
    if error == FASTLR_NO_PLAN:
        return "this plan was freed, or never was one"
    if error == FASTLR_BUSY:
        return "another thread is using the plan"
    if error == FASTLR_NOT_BUILT:
        return "plan_build must be called first, and again after plan_add"
    if error == FASTLR_REFUSED:
        return "refused: plan_message says why"
    if error == FASTLR_NOT_FINITE:
        return "a gradient holds NaN or infinity"
    if error == FASTLR_NO_PYTHON:
        return "Python does not run"
    if error == FASTLR_BAD_NAME:
        return "there is no such name, or no tensor or group of this number"
    if error == FASTLR_BAD_STRUCT:
        return "struct_size must be sizeof(the struct), and what this fastlr does not know must be 0"
    return "unknown error"


cdef const char* rule_name(int64_t k) noexcept nogil:
    cdef const Entry* entry = <const Entry*>newest_entry()
    while entry != NULL and k > 0:
        entry, k = entry.older, k - 1
    return entry.shown.name if entry != NULL and k == 0 else NULL


cdef int start_threads() except -1:
    return thread_pool.prepare()


cdef const fastlr_schedule* schedule(PyObject* given) except NULL:
    if given == NULL or not isinstance(<object>given, CompiledSchedule) \
            or (<CompiledSchedule><object>given).nodes == NULL:
        raise TypeError("fastlr: expected a schedule of fastlr.schedules, got "
                        + (f"{<object>given!r}" if given != NULL else "NULL"))
    return <const fastlr_schedule*>(<CompiledSchedule><object>given).nodes


cdef double rate_at(const fastlr_schedule* given, double t) noexcept nogil:
    return rate(<const Node*>given, t)


for name, rule_class in REGISTRY.items():
    add_entry(name, rule_class)
WHEN_REGISTERED.append(add_entry)

api.abi_version, api.struct_size = FASTLR_ABI_VERSION, sizeof(fastlr_api)
api.version = FASTLR_VERSION
api.rule, api.step, api.message, api.start_threads = find, step, message, start_threads
api.schedule, api.rate, api.rule_name = schedule, rate_at, rule_name
fill_plans(&api)
_C_API = PyCapsule_New(&api, "fastlr._C_API", NULL)
