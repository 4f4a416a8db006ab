# cython: language_level=3, cdivision=True
"""The floating-point mode in which kernels compute."""

cdef extern from *:
    """
    /* Moments that decay towards zero become subnormal, which costs 2 to 100 times as much per element: they are
       flushed to zero while a kernel runs, and the host's own floating-point mode is restored after it. No part of the
       host's mode applies inside: threads may differ in it, and bits must not depend on which thread does a task. */
    #if defined(__x86_64__) || defined(_M_X64)
    #include <immintrin.h>
    static inline unsigned int fastlr_enter(void) {
        unsigned int before = _mm_getcsr();
        _mm_setcsr(0x9fc0);                       /* round to nearest, flush to zero, denormals are zero, no traps */
        return before;
    }
    static inline void fastlr_leave(unsigned int before) { _mm_setcsr(before); }
    #elif defined(__aarch64__)
    static inline unsigned int fastlr_enter(void) {
        unsigned long before, inside = 1ul << 24;  /* the same */
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(before));
        __asm__ __volatile__("msr fpcr, %0" : : "r"(inside));
        return (unsigned int)before;
    }
    static inline void fastlr_leave(unsigned int before) {
        unsigned long back = before;
        __asm__ __volatile__("msr fpcr, %0" : : "r"(back));
    }
    #else
    static inline unsigned int fastlr_enter(void) { return 0; }
    static inline void fastlr_leave(unsigned int before) { (void)before; }
    #endif
    """
    unsigned int enter_kernel_mode "fastlr_enter"() noexcept nogil
    void leave_kernel_mode "fastlr_leave"(unsigned int before) noexcept nogil
