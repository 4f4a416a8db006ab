# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What rules for matrices compute on blocks of rows and columns."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.lanes cimport LANES, fold_half, fold_lanes, sum_of_squares
from fastlr._kernels.row_totals cimport grown_total, rate_of_total, scale_row
from fastlr._kernels.structs cimport MAX_SLOTS, TILE
from fastlr.rules.element cimport real, root

include "matrix_blocks.pxi"

build_id = FASTLR_LAYOUT.decode()
