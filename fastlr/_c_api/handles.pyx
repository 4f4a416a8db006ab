# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Handles of plans: numbers that are looked up, so that a plan that was freed is refused, and no pointer is followed.

A handle has the number of a place in its lower bits, and above them which of the plans that had the place it is. A
thread takes a place, does something with its plan, and gives it back; a second one does not wait but is told.
"""
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.c_api cimport FASTLR_BUSY, FASTLR_NO_PLAN, FASTLR_OK, fastlr_plan

build_id = FASTLR_LAYOUT.decode()

cdef extern from *:
    """
    #define FASTLR_PLACES 64           /* of a block */
    #define FASTLR_BLOCKS 2048
    /* bits of a handle that are the place's number, from 1 on; more than there are places */
    #define FASTLR_PLACE_BITS 18
    static _Atomic(fastlr_place *) fastlr_blocks[FASTLR_BLOCKS];

    static fastlr_place *fastlr_place_of(uintptr_t handle) {
        uintptr_t number = handle & (((uintptr_t)1 << FASTLR_PLACE_BITS) - 1);
        fastlr_place *block = 0;
        if (number && --number < (uintptr_t)FASTLR_PLACES * FASTLR_BLOCKS)
            block = atomic_load(&fastlr_blocks[number / FASTLR_PLACES]);
        return block ? block + number % FASTLR_PLACES : 0;
    }
    static unsigned long long fastlr_generation(uintptr_t handle) { return handle >> FASTLR_PLACE_BITS; }
    /* 1 if the place is taken for this handle, 0 if its plan is no more, -1 if another thread has it */
    static int fastlr_take_place(fastlr_place *place, uintptr_t handle) {
        unsigned long long own = fastlr_generation(handle) * 2, seen = own;
        if (atomic_compare_exchange_strong(&place->state, &seen, own + 1))
            return 1;
        return seen == own + 1 ? -1 : 0;
    }
    static void fastlr_give_place(fastlr_place *place) { atomic_fetch_sub(&place->state, 1); }
    /* gives it back to the next generation, whose number fits into a handle and is not 0 */
    static void fastlr_retire_place(fastlr_place *place) {
        unsigned long long next = (atomic_load(&place->state) >> 1) + 1;
        if ((unsigned long long)(uintptr_t)(next << FASTLR_PLACE_BITS) >> FASTLR_PLACE_BITS != next)
            next = 1;
        atomic_store(&place->state, next * 2);
    }
    static uintptr_t fastlr_handle_of(fastlr_place *place, uintptr_t number) {
        return (uintptr_t)(atomic_load(&place->state) >> 1) << FASTLR_PLACE_BITS | (number + 1);
    }
    static void fastlr_add_block(int k, void *block) {
        for (int i = 0; i < FASTLR_PLACES; i++)
            atomic_store(&((fastlr_place *)block)[i].state, 2);
        atomic_store(&fastlr_blocks[k], (fastlr_place *)block);
    }
    """
    enum: FASTLR_PLACES
    enum: FASTLR_BLOCKS
    Place* place_of "fastlr_place_of"(uintptr_t handle) nogil
    unsigned long long generation "fastlr_generation"(uintptr_t handle) nogil
    int take_place "fastlr_take_place"(Place* place, uintptr_t handle) nogil
    void give_place "fastlr_give_place"(Place* place) nogil
    void retire_place "fastlr_retire_place"(Place* place) nogil
    uintptr_t handle_of "fastlr_handle_of"(Place* place, uintptr_t number) nogil
    void add_block "fastlr_add_block"(int k, void* block) nogil

cdef list free_numbers = []            # of places without a plan
cdef int blocks = 0


cdef fastlr_plan* add(object plan) except NULL:
    """A handle of this plan, with a reference to it."""
    global blocks
    cdef void* block
    cdef Place* place
    cdef uintptr_t number
    if not free_numbers:
        if blocks == FASTLR_BLOCKS:
            raise MemoryError(f"fastlr: more than {FASTLR_PLACES * FASTLR_BLOCKS} plans at a time; free some")
        block = calloc(FASTLR_PLACES, sizeof(Place))
        if block == NULL:
            raise MemoryError
        add_block(blocks, block)
        free_numbers.extend(range(FASTLR_PLACES * (blocks + 1) - 1, FASTLR_PLACES * blocks - 1, -1))
        blocks += 1
    number = free_numbers.pop()
    place = place_of(number + 1)
    memset(place.message, 0, MESSAGE_SIZE)
    Py_INCREF(plan)
    place.plan = <PyObject*>plan
    return <fastlr_plan*>handle_of(place, number)


cdef int take(fastlr_plan* handle, Place** place) noexcept nogil:
    """Let this thread alone have the plan of a handle, or an error."""
    cdef int taken
    place[0] = place_of(<uintptr_t>handle)
    if place[0] == NULL:
        return FASTLR_NO_PLAN
    taken = take_place(place[0], <uintptr_t>handle)
    if taken == 1 and place[0].plan == NULL:           # (a number that nobody was given)
        give_place(place[0])
        taken = 0
    return FASTLR_OK if taken == 1 else FASTLR_BUSY if taken else FASTLR_NO_PLAN


cdef void give(Place* place) noexcept nogil:
    give_place(place)


cdef Place* find(fastlr_plan* handle) noexcept nogil:
    """The place of a plan that exists, whoever has it, or NULL."""
    cdef Place* place = place_of(<uintptr_t>handle)
    if place == NULL or place.plan == NULL or handle_of(place, <uintptr_t>handle_number(handle)) != <uintptr_t>handle:
        return NULL
    return place


cdef uintptr_t handle_number(fastlr_plan* handle) noexcept nogil:
    return (<uintptr_t>handle & ((<uintptr_t>1 << 18) - 1)) - 1


cdef object remove(fastlr_plan* handle, Place* place):
    """Give back a place that was taken, without its plan, which is returned."""
    plan = <object>place.plan
    place.plan = NULL
    retire_place(place)
    free_numbers.append(handle_number(handle))
    Py_DECREF(plan)
    return plan
