# cython: language_level=3
"""What this CPU can do. Compiled for the plainest one, like everything outside `_kernels`."""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
    static int fastlr_cpu(int level) {
        __builtin_cpu_init();
        int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
        int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl");
        return level == 3 ? v3 : v4;
    }
    #else
    static int fastlr_cpu(int level) { (void)level; return 0; }
    #endif
    """
    bint fastlr_cpu(int level)


def supports(str level) -> bool:
    """Whether code of this level ("baseline", "v3", "v4") runs here."""
    return level == "baseline" or (level in ("v3", "v4") and fastlr_cpu(int(level[1:])))
