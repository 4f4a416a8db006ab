# cython: language_level=3
"""The sweep, compiled for x86-64-v3 (AVX2)."""
include "tiles.pxi"
