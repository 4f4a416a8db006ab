# cython: language_level=3
"""Where the compiler is told what to inline: return types of functions without a value."""

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define FASTLR_INLINED inline __attribute__((always_inline)) void
    #define FASTLR_RARE __attribute__((noinline, cold)) void
    #elif defined(_MSC_VER)
    #define FASTLR_INLINED __forceinline void
    #define FASTLR_RARE __declspec(noinline) void
    #else
    #define FASTLR_INLINED void
    #define FASTLR_RARE void
    #endif
    """
    ctypedef void inlined "FASTLR_INLINED"         # always inlined
    ctypedef void rare "FASTLR_RARE"               # never inlined, and placed apart from what is called often
