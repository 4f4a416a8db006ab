# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Threads that help the caller: whoever is awake takes the next chunk.

Python threads, parked without the interpreter lock on Python's own locks: no OpenMP, so nothing to link, nothing
that spins between steps, nothing that hangs after a fork. The caller takes chunks too, so a step is never slower
than a serial one by more than the wake-up, and it returns when all *chunks* are done, not when all threads have
arrived. A second caller at the same time runs its own chunks itself. Which thread takes which chunk does not
matter to the result, because chunks do not depend on the number of threads.

The claim is one word: the run's number in its upper half, the next chunk in its lower. A helper that wakes late
finds another run's number or no chunk left, and goes back to sleep; nobody waits for it. (The number would come
round to the same after 2**31 runs, hours of them: a helper that sleeps between two instructions for exactly that
long is not provided for.) The caller's last look at `the_done` comes after every helper's last write.

To wake takes tens of microseconds: a caller that has something to do by itself says `rouse()` before it, and helpers
await its run awake, for about as long as that and no longer.
"""
import atexit
import os
import threading

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK,
)
from libc.stdint cimport uintptr_t

cdef extern from *:
    """
    #include <stdatomic.h>
    #if defined(__x86_64__) || defined(_M_X64)
    #include <immintrin.h>
    #define fastlr_relax() _mm_pause()
    #elif defined(__aarch64__)
    #define fastlr_relax() __asm__ __volatile__("yield")
    #else
    #define fastlr_relax() ((void)0)
    #endif
    #if defined(_WIN32)
    #include <windows.h>
    #define fastlr_give_way() SwitchToThread()
    #else
    #include <sched.h>
    #define fastlr_give_way() sched_yield()
    #endif
    static int fastlr_claim(atomic_ullong *claim, unsigned long long seen) {
        return atomic_compare_exchange_strong(claim, &seen, seen + 1);
    }
    """
    ctypedef unsigned long long word "atomic_ullong"
    unsigned long long add "atomic_fetch_add"(word*, unsigned long long) nogil
    unsigned long long peek "atomic_load"(word*) nogil
    void put "atomic_store"(word*, unsigned long long) nogil
    unsigned long long swap "atomic_exchange"(word*, unsigned long long) nogil
    bint claim_one "fastlr_claim"(word*, unsigned long long) nogil
    void relax "fastlr_relax"() nogil
    void give_way "fastlr_give_way"() nogil

cdef enum:
    MOST_HELPERS = 255
    PATIENCE = 4000            # pauses before one who waits gives up: a caller its core, a roused helper being awake

cdef unsigned long long CLOSED = 0xffffffff

cdef word the_claim, the_work, the_context, the_chunks, the_done, is_busy, is_near
cdef word rung[MOST_HELPERS]   # whether a helper has been called and has not woken yet
cdef PyThread_type_lock bell[MOST_HELPERS]
cdef word helpers              # threads that run; written with the interpreter lock, read without
cdef word wanted               # threads that should help, set_num_threads() - 1; likewise
cdef bint starting = False     # whether a thread is in prepare()


cdef void help() noexcept nogil:
    cdef unsigned long long array_view, task
    cdef Work work
    cdef void* context
    while True:
        array_view = peek(&the_claim)
        task = array_view & CLOSED
        work = <Work><uintptr_t>peek(&the_work)
        context = <void*><uintptr_t>peek(&the_context)
        if task >= peek(&the_chunks):
            return
        # (work, context and number belong to `seen`'s run if the claim has not moved since, and it counts as
        # ours only if it has not)
        if claim_one(&the_claim, array_view):
            work(context, <Py_ssize_t>task)
            add(&the_done, 1)


cdef void call(int n) noexcept nogil:
    """The first n helpers."""
    cdef int w
    for w in range(n):
        if not swap(&rung[w], 1):
            PyThread_release_lock(bell[w])


cdef void wake() noexcept nogil:
    """Wake those who will help in a run that comes soon; `prepare()` was called with the lock."""
    put(&is_near, 1)
    call(<int>min(peek(&helpers), peek(&wanted)))


cdef void run(Work work, void* context, Py_ssize_t tasks) noexcept nogil:
    """Every chunk once, by this thread and those that help; `prepare()` was called with the lock."""
    cdef Py_ssize_t k
    cdef int n
    cdef long patience = 0
    cdef unsigned long long number
    n = <int>min(peek(&helpers), peek(&wanted))
    if tasks < 2 or n == 0 or swap(&is_busy, 1):
        put(&is_near, 0)
        for k in range(tasks):
            work(context, k)
        return
    number = (peek(&the_claim) | CLOSED) + 1
    put(&the_claim, number | CLOSED)       # nobody can claim while the three words below change
    put(&the_work, <uintptr_t>work)
    put(&the_context, <uintptr_t>context)
    put(&the_chunks, tasks)
    put(&the_done, 0)
    put(&the_claim, number + CLOSED + 1)
    call(<int>min(n, tasks - 1))
    help()
    while peek(&the_done) != <unsigned long long>tasks:
        patience += 1
        if patience < PATIENCE:
            relax()
        else:
            give_way()
    put(&is_near, 0)
    put(&is_busy, 0)


def serve(int w):
    """The life of a helper."""
    cdef long patience
    with nogil:
        while True:
            PyThread_acquire_lock(bell[w], WAIT_LOCK)
            put(&rung[w], 0)
            help()
            patience = PATIENCE
            while patience and peek(&is_near):
                patience -= 1
                relax()
                if peek(&the_claim) & CLOSED < peek(&the_chunks):
                    help()


cdef int prepare() except -1:
    """Start the helpers that are wanted and missing; how many may help."""
    global starting
    if peek(&helpers) < peek(&wanted) and not starting:    # (starting a thread lets others in here)
        starting = True
        try:
            while peek(&helpers) < peek(&wanted) and start(<int>peek(&helpers)):
                add(&helpers, 1)
        finally:
            starting = False
    return <int>min(peek(&helpers), peek(&wanted))


cdef bint start(int w) except -1:
    """Start helper w; False if there is no thread to be had (or the interpreter ends): go on with fewer."""
    if bell[w] == NULL:
        bell[w] = PyThread_allocate_lock()
        if bell[w] == NULL:
            raise MemoryError
        PyThread_acquire_lock(bell[w], WAIT_LOCK)
    put(&rung[w], 0)
    try:
        threading.Thread(target=serve, args=(w,), name=f"fastlr-{w}", daemon=True).start()
    except RuntimeError:
        return False
    return True


def want(threads):
    """How many threads a step may use, the caller's included."""
    put(&wanted, min(threads, MOST_HELPERS + 1) - 1)


def running() -> int:
    """How many helpers have been started."""
    return peek(&helpers)


def forked():
    """In a forked child no helper lives: forget them; the next large step starts new ones."""
    global starting
    cdef int w
    for w in range(MOST_HELPERS):
        bell[w] = NULL                 # (whether it hangs silent is known to the parent's threads alone)
    starting = False
    put(&helpers, 0)
    put(&the_claim, 0)
    put(&the_chunks, 0)
    put(&is_busy, 0)
    put(&is_near, 0)


def stop():
    """At exit, later steps run by themselves; the parked helpers hold no lock and end with the process."""
    want(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)
atexit.register(stop)
