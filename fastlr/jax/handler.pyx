# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A handler of XLA's foreign function interface: a step of many tensors inside a compiled program of JAX, on the CPU.

The structs are those of XLA's `xla/ffi/api/c_api.h`, version 0.x, whose layout XLA keeps: fastlr is built without JAX.
XLA refuses a handler of a version that it does not know when the handler is registered, and `version()` says which it
has. A compiled program may come from JAX's cache on disk: so it names the rule and schedules by text, not by address.
"""
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
cimport fastlr._engine.thread_pool as thread_pool
from fastlr._engine.step_scalars cimport MAX_VALUES
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.structs cimport MAX_SLOTS
from fastlr.c_api cimport (
    FASTLR_FLOAT32, FASTLR_FLOAT64, FASTLR_OK, fastlr_api, fastlr_rule, fastlr_schedule,
)

from fastlr._engine.c_api import _C_API
from fastlr.schedules import from_dict

import json

build_id = FASTLR_LAYOUT.decode()

cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stddef.h>
    #include <stdint.h>

    typedef struct Xla_Extension { size_t struct_size; int type; struct Xla_Extension *next; } Xla_Extension;
    typedef struct { size_t struct_size; Xla_Extension *start; int major_version, minor_version; } Xla_Version;
    typedef struct { size_t struct_size; Xla_Extension *start; const char *message; int code; } Xla_Error_Create_Args;
    typedef void *(*Xla_Error_Create)(Xla_Error_Create_Args *args);
    typedef struct {
        size_t struct_size; Xla_Extension *start; Xla_Version version; const void *internal;
        Xla_Error_Create create_error;
    } Xla_Api;
    typedef struct {
        size_t struct_size; Xla_Extension *start; int dtype; void *data; int64_t rank; int64_t *dims;
    } Xla_Buffer;
    typedef struct { const char *ptr; size_t len; } Xla_Span;
    typedef struct { int dtype; size_t size; void *data; } Xla_Array;
    typedef struct { size_t struct_size; Xla_Extension *start; int64_t size; int *types; void **items; } Xla_Items;
    typedef struct {
        size_t struct_size; Xla_Extension *start; int64_t size; int *types; Xla_Span **names; void **items;
    } Xla_Attributes;
    typedef struct {
        size_t struct_size; Xla_Extension *start; const Xla_Api *api; void *context; int stage;
        Xla_Items arguments, results; Xla_Attributes attributes; void *future;
    } Xla_Frame;
    typedef struct { size_t struct_size; Xla_Version version; uint32_t traits; int64_t state_type; } Xla_Metadata;
    typedef struct { Xla_Extension base; Xla_Metadata *metadata; } Xla_Metadata_Extension;
    #define XLA_METADATA_WITH_STATE (offsetof(Xla_Metadata, state_type) + sizeof(int64_t))
    #define XLA_ERROR_ARGS (offsetof(Xla_Error_Create_Args, code) + sizeof(int))

    /* The schedules that programs name: added by one thread at a time, read by all. */
    static _Atomic(void *) fastlr_known;
    static void *fastlr_first_known(void) { return atomic_load_explicit(&fastlr_known, memory_order_acquire); }
    static void fastlr_add_known(void *entry) { atomic_store_explicit(&fastlr_known, entry, memory_order_release); }
    """
    ctypedef struct Xla_Extension:
        size_t struct_size
        int type
        Xla_Extension* next
    ctypedef struct Xla_Version:
        size_t struct_size
        Xla_Extension* start
        int major_version, minor_version
    ctypedef struct Xla_Error_Create_Args:
        size_t struct_size
        Xla_Extension* start
        const char* message
        int code
    ctypedef void* (*Xla_Error_Create)(Xla_Error_Create_Args* args) noexcept nogil
    ctypedef struct Xla_Api:
        size_t struct_size
        Xla_Version version
        Xla_Error_Create create_error
    ctypedef struct Xla_Buffer:
        int dtype
        void* data
        int64_t rank
        int64_t* dims
    ctypedef struct Xla_Span:
        const char* ptr
        size_t len
    ctypedef struct Xla_Array:
        int dtype
        size_t size
        void* data
    ctypedef struct Xla_Items:
        int64_t size
        void** items
    ctypedef struct Xla_Attributes:
        int64_t size
        int* types
        Xla_Span** names
        void** items
    ctypedef struct Xla_Frame:
        Xla_Extension* start
        const Xla_Api* api
        int stage
        Xla_Items arguments, results
        Xla_Attributes attributes
    ctypedef struct Xla_Metadata:
        size_t struct_size
        Xla_Version version
        int64_t state_type
    ctypedef struct Xla_Metadata_Extension:
        Xla_Metadata* metadata
    size_t XLA_METADATA_WITH_STATE, XLA_ERROR_ARGS
    void* first_known "fastlr_first_known"() noexcept nogil
    void publish_known "fastlr_add_known"(void* entry) noexcept nogil

cdef enum:
    # Of XLA: extension, stage, types of numbers, error codes; the version that this was written for.
    METADATA = 1
    EXECUTE = 3
    S32 = 4
    F32 = 11
    F64 = 12
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    MAJOR = 0
    MINOR = 1
    ALIGNED = 16                       # elements at whose multiples tensors begin in a slot
    BLOCK = 8192                       # elements of a task of small tensors

cdef struct KnownSchedule:
    char* text
    size_t size
    const fastlr_schedule* schedule
    KnownSchedule* next

cdef struct TensorPlace:
    Py_ssize_t size
    Py_ssize_t offset                  # in the slots of its precision, in elements
    bint is_double

cdef struct Tensors:
    # What one call steps.
    const fastlr_rule* rule
    const double* values
    int64_t t
    void** items                       # the buffers of parameters, gradients and slots
    Py_ssize_t tensors, arrays         # how many parameters, and arrays of their state
    int kinds                          # of precision
    TensorPlace* places
    Py_ssize_t block                   # tensors of a task
    int failed                         # the error of one of them

cdef struct Settings:
    # What the attributes of a call say.
    const fastlr_rule* rule
    const double* values               # of lr and the hyper-parameters in the order of the class; NaN: elsewhere
    Xla_Span[MAX_VALUES] schedules     # ... of each, the text of its schedule, or nothing
    int width                          # how many

cdef const fastlr_api* table = <const fastlr_api*>PyCapsule_GetPointer(_C_API, "fastlr._C_API")
cdef dict kept = {}                    # text -> schedule: as long as the process, as programs may run until then
cdef int xla_major = -1
cdef int xla_minor = -1


aligned = ALIGNED


def version():
    """The version of the interface that XLA said it has when it registered the handler; None before."""
    return (xla_major, xla_minor) if xla_major >= 0 else None


def handler():
    """What `jax.ffi.register_ffi_target` takes."""
    table.start_threads()
    return PyCapsule_New(<void*>&handle, "xla._CUSTOM_CALL_TARGET", NULL)


def know(str text not None):
    """Make a schedule, as `json.dumps(schedule.to_dict())`, known to the handler."""
    cdef bytes encoded = text.encode()
    cdef KnownSchedule* entry
    if text in kept:
        return
    schedule = from_dict(json.loads(text))
    entry = <KnownSchedule*>calloc(1, sizeof(KnownSchedule) + len(encoded))
    if entry == NULL:
        raise MemoryError
    entry.schedule = table.schedule(<PyObject*>schedule)
    entry.text, entry.size = <char*>(entry + 1), len(encoded)
    memcpy(entry.text, <const char*>encoded, entry.size)
    entry.next = <KnownSchedule*>first_known()
    kept[text] = schedule
    publish_known(entry)


cdef const fastlr_schedule* found_schedule(const Xla_Span* text) noexcept nogil:
    """The schedule that a program names, or NULL."""
    cdef KnownSchedule* entry = <KnownSchedule*>first_known()
    while entry != NULL:
        if entry.size == text.len and memcmp(entry.text, text.ptr, text.len) == 0:
            return entry.schedule
        entry = entry.next
    return learned(text.ptr, text.len)


cdef const fastlr_schedule* learned(const char* text, size_t size) noexcept with gil:
    """The same of a program that another process compiled."""
    try:
        know(text[:size].decode())
        return (<KnownSchedule*>first_known()).schedule
    except Exception:
        return NULL


cdef void* error(const Xla_Frame* frame, int code, const char* message) noexcept nogil:
    cdef Xla_Error_Create_Args args
    args.struct_size, args.start, args.message, args.code = XLA_ERROR_ARGS, NULL, message, code
    return frame.api.create_error(&args)


cdef void* handle(Xla_Frame* frame) noexcept nogil:
    """Called by XLA: to say which version this is, and to step."""
    cdef Xla_Metadata* metadata
    global xla_major, xla_minor
    if frame.start != NULL and frame.start.type == METADATA:
        metadata = (<Xla_Metadata_Extension*>frame.start).metadata
        metadata.version.major_version, metadata.version.minor_version = MAJOR, MINOR
        if metadata.struct_size >= XLA_METADATA_WITH_STATE:
            metadata.state_type = 0
        if frame.api != NULL:
            xla_major, xla_minor = frame.api.version.major_version, frame.api.version.minor_version
        return NULL
    return step(frame) if frame.stage == EXECUTE else NULL


cdef void* step(const Xla_Frame* frame) noexcept nogil:
    """Step all tensors. Arguments: the updates done, the hyper-parameters that the program computes, then parameters,
    gradients, and each slot of all tensors, float32 before float64, whose tensors begin at multiples of ALIGNED
    elements; at last the memory of all. Results: the same without hyper-parameters and gradients, in the memory of the
    arguments.
    """
    cdef Settings settings
    cdef double[MAX_VALUES] values
    cdef void** items = frame.arguments.items
    cdef void** results = frame.results.items
    cdef Xla_Buffer* buffer
    cdef int64_t count = (<int32_t*>(<Xla_Buffer*>items[0]).data)[0]
    cdef int64_t i, tensors, arrays
    cdef int k, given = 0
    cdef Tensors job
    if not read_settings(frame, &settings):
        return error(frame, INVALID_ARGUMENT, "fastlr: no such rule here; import the module that states it")
    for k in range(settings.width):
        values[k] = value_at(&settings, k, count, items, &given)
    tensors = frame.arguments.size - frame.results.size - given
    arrays = frame.results.size - 1 - tensors
    items, results = items + 1 + given, results + 1
    for i in range(tensors + arrays):
        buffer = <Xla_Buffer*>items[i if i < tensors else i + tensors]
        if (<Xla_Buffer*>results[i]).data != buffer.data:
            return error(frame, INTERNAL, "fastlr: XLA gave a result other memory than the argument that it replaces")
        if i < tensors and (<Xla_Buffer*>items[i + tensors]).dtype != buffer.dtype:
            return error(frame, INVALID_ARGUMENT, "fastlr: a gradient has another precision than its parameter")
    job.rule, job.values, job.t, job.items = settings.rule, values, count + 1, items
    job.tensors, job.arrays = tensors, arrays
    if not step_all(&job):
        return error(frame, RESOURCE_EXHAUSTED, "fastlr: out of memory")
    if job.failed != FASTLR_OK:
        return error(frame, INVALID_ARGUMENT, table.message(job.failed))
    (<int32_t*>(<Xla_Buffer*>frame.results.items[0]).data)[0] = <int32_t>(count + 1)
    return NULL


cdef bint step_all(Tensors* job) noexcept nogil:
    """Step all tensors, side by side where many small ones add up; False without memory."""
    cdef Py_ssize_t i, n, total = 0, largest = 0
    cdef Py_ssize_t[2] end                     # of the tensors so far in slots of float32, and of float64
    cdef const Xla_Buffer* buffer
    cdef int k, wide
    job.failed, job.kinds, end[0], end[1] = FASTLR_OK, 1, 0, 0
    if job.rule.slots > 0:
        job.kinds = <int>((job.arrays - (job.rule.memories > 0)) // job.rule.slots)
    job.places = <TensorPlace*>malloc((job.tensors + 1) * sizeof(TensorPlace))
    if job.places == NULL:
        return False
    for i in range(job.tensors):
        buffer = <const Xla_Buffer*>job.items[i]
        wide, n = buffer.dtype == F64, 1
        for k in range(<int>buffer.rank):
            n *= buffer.dims[k]
        job.places[i].size, job.places[i].offset, job.places[i].is_double = n, end[wide], wide
        end[wide] += (n + ALIGNED - 1) // ALIGNED * ALIGNED
        total += n
        largest = n if n > largest else largest
    job.block = job.tensors
    if total >= thread_pool.MIN_THREADED > largest:        # (a larger one has its chunks done side by side)
        job.block = <Py_ssize_t>(job.tensors * BLOCK // total)
        job.block = 1 if job.block < 1 else job.block
    if job.tensors > 0:
        thread_pool.run(step_block, job, (job.tensors + job.block - 1) // job.block)
    free(job.places)
    return True


cdef void step_block(void* context, Py_ssize_t task) noexcept nogil:
    """Some successive tensors."""
    cdef Tensors* job = <Tensors*>context
    cdef Py_ssize_t i, last = (task + 1) * job.block
    cdef void* slots[MAX_SLOTS + 1]
    cdef const TensorPlace* place
    cdef int k, second, failed
    for i in range(task * job.block, last if last < job.tensors else job.tensors):
        place = &job.places[i]
        second = place.is_double if job.kinds == 2 else 0
        for k in range(job.rule.slots):
            slots[k] = <char*>(<Xla_Buffer*>job.items[2 * job.tensors + k * job.kinds + second]).data \
                + place.offset * (8 if place.is_double else 4)
        if job.rule.memories > 0:
            slots[job.rule.slots] = <double*>(<Xla_Buffer*>job.items[2 * job.tensors + job.arrays - 1]).data \
                + i * job.rule.memories
        failed = table.step(job.rule, FASTLR_FLOAT64 if place.is_double else FASTLR_FLOAT32, job.t, job.values[0],
                            job.values + 1, place.size, (<Xla_Buffer*>job.items[i]).data,
                            (<Xla_Buffer*>job.items[job.tensors + i]).data, slots)
        if failed != FASTLR_OK:
            job.failed = failed


cdef double value_at(const Settings* settings, int k, int64_t t, void** items, int* given) noexcept nogil:
    """lr or a hyper-parameter at t: a number, what a schedule gives, or the next of those that the program computes."""
    cdef const fastlr_schedule* schedule
    cdef const Xla_Buffer* buffer
    if settings.schedules[k].len > 0:
        schedule = found_schedule(&settings.schedules[k])
        return NAN if schedule == NULL else table.rate(schedule, <double>t)
    if settings.values[k] == settings.values[k]:
        return settings.values[k]
    given[0] += 1
    buffer = <const Xla_Buffer*>items[given[0]]
    return (<double*>buffer.data)[0] if buffer.dtype == F64 else <double>(<float*>buffer.data)[0]


cdef bint read_settings(const Xla_Frame* frame, Settings* settings) noexcept nogil:
    """Read the attributes, which come in the order of their names: `rule`, `schedules` (texts, one a line),
    `values`."""
    cdef Xla_Span* rule
    cdef Xla_Span* texts
    cdef Xla_Array* values
    cdef char[256] name
    cdef size_t begin = 0, end
    cdef int k
    if frame.attributes.size != 3:
        return False
    rule, texts = <Xla_Span*>frame.attributes.items[0], <Xla_Span*>frame.attributes.items[1]
    values = <Xla_Array*>frame.attributes.items[2]
    if rule.len >= sizeof(name) or values.dtype != F64:
        return False
    memcpy(name, rule.ptr, rule.len)
    name[rule.len] = 0
    settings.rule = table.rule(name)
    if settings.rule == NULL or values.size != <size_t>settings.rule.hypers + 1:
        return False
    settings.values, settings.width = <const double*>values.data, <int>values.size
    for k in range(settings.width):
        end = begin
        while end < texts.len and texts.ptr[end] != 10:
            end += 1
        settings.schedules[k].ptr, settings.schedules[k].len = texts.ptr + begin, end - begin
        begin = end + 1
    return True
