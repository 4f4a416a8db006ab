# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One update of one tensor, nothing kept: what the functional door and the C door share."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastlr._kernels.sweep cimport FLOAT32, FLOAT64, Gradient, Instant, Job, Opened, Piece, Run, Span
from fastlr._core cimport pool
from fastlr._core.instant cimport COUPLED, DECOUPLED, fix
from fastlr._core.plan cimport CHUNK

from fastlr._core.dispatch import door, one_build

include "layout.pxi"

one_build("fastlr._core.single", layout)


cdef int learn(Known* known, object rule) except -1:
    """What a class declares of its rule."""
    cdef int k
    fields = rule._fields
    memset(known, 0, sizeof(Known))
    known.terms.rule = <const Opened*>PyCapsule_GetPointer(rule._rule, "fastlr.rule")
    known.terms.hyper_at = <int>len(fields) - known.terms.rule.fields
    known.terms.decay_at = fields.index("weight_decay")
    known.decay = DECOUPLED if rule.decay_mode == "decoupled" else COUPLED
    known.terms.clip = INFINITY
    known.run_chunk = <Run>PyCapsule_GetPointer(door.runner, "fastlr.run")
    known.width = <int>len(fields)
    for k in range(known.width):
        hyper = rule.hypers.get(fields[k])         # (`_`, which fills an empty struct, is none)
        if hyper is not None:
            known.defaults[k], known.low[k], known.high[k] = hyper.default, hyper.low, hyper.high
    return 0


cdef bint move(const Known* known, const double* values, int64_t t, int wide, Py_ssize_t size, void* p,
               const void* g, void** slots) noexcept nogil:
    """Update `t` of contiguous, checked arrays, by the threads that there are; False if memory is short."""
    cdef Span span
    cdef Gradient gradient
    cdef Instant now
    cdef Job job
    cdef Py_ssize_t k, chunks = (size + CHUNK - 1) // CHUNK
    cdef Piece* pieces = <Piece*>malloc((chunks + 1) * sizeof(Piece))
    cdef Py_ssize_t* edges = <Py_ssize_t*>malloc((chunks + 1) * sizeof(Py_ssize_t))
    if pieces == NULL or edges == NULL:
        free(pieces)
        free(edges)
        return False
    memset(&span, 0, sizeof(span))             # (no walk, no factors, no mean; nor below)
    memset(&gradient, 0, sizeof(gradient))
    memset(&job, 0, sizeof(job))
    span.p, span.size, span.wide, span.shrink = <char*>p, size, wide, 1
    span.stored = gradient.stored = FLOAT64 if wide else FLOAT32
    for k in range(known.terms.rule.slots):
        span.slot[k], span.slot_stored[k] = <char*>slots[k], span.stored
    gradient.g = <const char*>g
    fix(&now, &known.terms, values, 1, known.decay, 1, t, 1)
    if known.terms.rule.memories:
        known.terms.rule.recall(now.hyper, &now.now, <double*>slots[known.terms.rule.slots], NULL)
    edges[0] = 0
    for k in range(chunks):
        pieces[k].start, pieces[k].span = k * CHUNK, 0
        pieces[k].size = size - k * CHUNK if k == chunks - 1 else CHUNK
        edges[k + 1] = k + 1
    job.spans, job.gradients, job.instants, job.pieces, job.edges = &span, &gradient, &now, pieces, edges
    job.sweep[0], job.sweep[1] = known.terms.rule.sweep[0], known.terms.rule.sweep[1]
    job.slots = known.terms.rule.slots
    pool.run(known.run_chunk, &job, chunks)
    free(pieces)
    free(edges)
    return True
