# cython: language_level=3
from fastlr.c_api cimport fastlr_plan

cdef enum:
    MESSAGE_SIZE = 1024        # bytes

cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stdint.h>
    /* A place for one plan. It is never freed, and serves another plan after its own. */
    typedef struct {
        atomic_ullong state;           /* twice its generation, plus 1 while a thread has it */
        void *plan;                    /* a CPlan that this refers to, or NULL */
        char message[1024];
    } fastlr_place;
    """
    ctypedef struct Place "fastlr_place":
        void* plan
        char* message

cdef fastlr_plan* add(object plan) except NULL
cdef int take(fastlr_plan* handle, Place** place) noexcept nogil
cdef void give(Place* place) noexcept nogil
cdef Place* find(fastlr_plan* handle) noexcept nogil
cdef object remove(fastlr_plan* handle, Place* place)
