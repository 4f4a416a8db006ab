# cython: language_level=3
"""A checksum of the declarations that modules share: modules of different builds could read structs differently."""

cdef extern from *:
    const char* FASTLR_LAYOUT          # set by setup.py
