# What a module was built from, see `one_build` in instruction_set.py. Included by those that share structs.

cdef extern from *:
    const char* FASTLR_LAYOUT          # by setup.py: a sum over all declarations

build_id = FASTLR_LAYOUT.decode()
