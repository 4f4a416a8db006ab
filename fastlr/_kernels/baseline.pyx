# cython: language_level=3
"""The sweep, compiled for the plainest CPU of its family."""
include "tiles.pxi"
