# cython: language_level=3
"""The sweep, compiled for x86-64-v4 (AVX-512)."""
include "tiles.pxi"
