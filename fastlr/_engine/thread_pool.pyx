# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Threads that help the caller: any thread that is awake takes the next task.

They are Python threads that wait on Python's own locks without the interpreter lock: no OpenMP, so nothing to link,
nothing that spins between steps, nothing that hangs after a fork. The calling thread takes tasks too, so a step is
never slower than a serial one by more than the wake-up, and it returns when all *tasks* are done, not when all threads
have arrived. A second caller at the same time does its own tasks itself. Which thread takes which task does not change
the result, because tasks do not depend on the number of threads.

The claim is one word: the run's number in its upper half, the next task in its lower. A helper that wakes late finds
another run's number or no task left, and sleeps again; nobody waits for it. (The number is the same again after 2**31
runs, hours of them: a helper that sleeps between two instructions for exactly that long is not provided for.) The
caller's last read of `tasks_done` comes after every helper's last write.

A wake-up takes tens of microseconds: a caller that has something else to do first calls `wake()` before it, and helpers
wait for its run awake, for about as long as that and no longer.
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
    #define fastlr_yield() SwitchToThread()
    #else
    #include <sched.h>
    #define fastlr_yield() sched_yield()
    #endif
    static int fastlr_claim(atomic_ullong *claim, unsigned long long seen) {
        return atomic_compare_exchange_strong(claim, &seen, seen + 1);
    }
    """
    ctypedef unsigned long long word "atomic_ullong"
    unsigned long long add "atomic_fetch_add"(word*, unsigned long long) nogil
    unsigned long long load "atomic_load"(word*) nogil
    void store "atomic_store"(word*, unsigned long long) nogil
    unsigned long long swap "atomic_exchange"(word*, unsigned long long) nogil
    bint claim_one "fastlr_claim"(word*, unsigned long long) nogil
    void relax "fastlr_relax"() nogil
    void yield_thread "fastlr_yield"() nogil

cdef enum:
    MAX_HELPERS = 255
    MAX_PAUSES = 4000          # pauses of a waiting thread before it yields its core (the caller) or sleeps (a helper)

cdef unsigned long long NO_TASK = 0xffffffff       # in a claim's lower half: nothing can be claimed

cdef word claim, current_work, current_context, task_count, tasks_done, pool_busy, run_expected
cdef word called[MAX_HELPERS]  # whether a helper has been called and has not woken yet
cdef PyThread_type_lock wake_lock[MAX_HELPERS]
cdef word helper_count         # threads that run; written with the interpreter lock, read without
cdef word helpers_wanted       # threads that should help, set_num_threads() - 1; likewise
cdef bint starting = False     # whether a thread is in prepare()


cdef void do_tasks() noexcept nogil:
    """Take tasks of the current run until there are none."""
    cdef unsigned long long seen, task
    cdef Work work
    cdef void* context
    while True:
        seen = load(&claim)
        task = seen & NO_TASK
        work = <Work><uintptr_t>load(&current_work)
        context = <void*><uintptr_t>load(&current_context)
        if task >= load(&task_count):
            return
        # (work, context and number belong to the run of `seen` if the claim has not changed since, and the task is ours
        # only if it has not)
        if claim_one(&claim, seen):
            work(context, <Py_ssize_t>task)
            add(&tasks_done, 1)


cdef int available() noexcept nogil:
    """How many helpers may help."""
    return <int>min(load(&helper_count), load(&helpers_wanted))


cdef void call(int n) noexcept nogil:
    """Wake the first n helpers."""
    cdef int w
    for w in range(n):
        if not swap(&called[w], 1):
            PyThread_release_lock(wake_lock[w])


cdef void wake() noexcept nogil:
    """Wake the helpers for a run that comes soon. (Call `prepare()` before, with the interpreter lock.)"""
    store(&run_expected, 1)
    call(available())


cdef void run(Work work, void* context, Py_ssize_t tasks) noexcept nogil:
    """Do every task once, by this thread and the helpers. (Call `prepare()` before, with the interpreter lock.)"""
    cdef Py_ssize_t k
    cdef int n = available()
    cdef long pauses = 0
    cdef unsigned long long number
    if tasks < 2 or n == 0 or swap(&pool_busy, 1):
        store(&run_expected, 0)
        for k in range(tasks):
            work(context, k)
        return
    number = (load(&claim) | NO_TASK) + 1
    store(&claim, number | NO_TASK)    # nobody can claim while the words below change
    store(&current_work, <uintptr_t>work)
    store(&current_context, <uintptr_t>context)
    store(&task_count, tasks)
    store(&tasks_done, 0)
    store(&claim, number + NO_TASK + 1)
    call(<int>min(n, tasks - 1))
    do_tasks()
    while load(&tasks_done) != <unsigned long long>tasks:
        pauses += 1
        if pauses < MAX_PAUSES:
            relax()
        else:
            yield_thread()
    store(&run_expected, 0)
    store(&pool_busy, 0)


cdef int run_tasks(Work work, void* context, Py_ssize_t tasks, Py_ssize_t elements) except -1:
    """Do every task once, by this thread alone if they are over few elements; without the interpreter lock."""
    prepare_for(elements)
    with nogil:
        do_all(work, context, tasks, elements)
    return 0


cdef void do_all(Work work, void* context, Py_ssize_t tasks, Py_ssize_t elements) noexcept nogil:
    """The same for a caller without the interpreter lock, who has called `prepare_for(elements)` with it."""
    cdef Py_ssize_t k
    if elements < MIN_THREADED:
        for k in range(tasks):
            work(context, k)
    else:
        run(work, context, tasks)


def serve(int w):
    """What helper w does as long as the process lives."""
    cdef long pauses
    with nogil:
        while True:
            PyThread_acquire_lock(wake_lock[w], WAIT_LOCK)
            store(&called[w], 0)
            do_tasks()
            pauses = MAX_PAUSES
            while pauses and load(&run_expected):
                pauses -= 1
                relax()
                if load(&claim) & NO_TASK < load(&task_count):
                    do_tasks()


cdef int prepare() except -1:
    """Start the helpers that are wanted and missing; how many may help."""
    global starting
    if load(&helper_count) < load(&helpers_wanted) and not starting:   # (starting a thread lets others in here)
        starting = True
        try:
            while load(&helper_count) < load(&helpers_wanted) and start(<int>load(&helper_count)):
                add(&helper_count, 1)
        finally:
            starting = False
    return available()


cdef int prepare_for(Py_ssize_t elements) except -1:
    """Start the helpers that a run over so many elements needs."""
    return prepare() if elements >= MIN_THREADED else 0


cdef bint start(int w) except -1:
    """Start helper w; False if the system gives no thread (or the interpreter ends): then fewer help."""
    if wake_lock[w] == NULL:
        wake_lock[w] = PyThread_allocate_lock()
        if wake_lock[w] == NULL:
            raise MemoryError
        PyThread_acquire_lock(wake_lock[w], WAIT_LOCK)
    store(&called[w], 0)
    try:
        threading.Thread(target=serve, args=(w,), name=f"fastlr-{w}", daemon=True).start()
    except RuntimeError:
        return False
    return True


def set_thread_limit(threads):
    """Let a step use at most so many threads, the caller's included."""
    store(&helpers_wanted, min(threads, MAX_HELPERS + 1) - 1)


def running() -> int:
    """How many helpers have been started."""
    return load(&helper_count)


def forget_helpers():
    """In a forked child no helper lives; the next large step starts new ones."""
    global starting
    cdef int w
    for w in range(MAX_HELPERS):
        wake_lock[w] = NULL            # (whether it is held, only the parent's threads know)
    starting = False
    store(&helper_count, 0)
    store(&claim, 0)
    store(&task_count, 0)
    store(&pool_busy, 0)
    store(&run_expected, 0)


def stop():
    """At exit: later steps run in the calling thread alone; waiting helpers hold no lock and end with the process."""
    set_thread_limit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_helpers)
atexit.register(stop)
