"""What 16- and 8-bit states hold, as numbers, and the other way: the codecs of the kernels in NumPy, bit for bit.

For what reads or loads a whole state at a time; steps use `_kernels/codecs.pxd`.
"""
from __future__ import annotations

import numpy as np

from .arrays import BFloat16
from .tensors import SCALED_TOGETHER, Array, bfloat16_bits, values

SIGN = np.uint32(0x80000000)
TINY = np.finfo(np.float32).tiny
#: Of signed and unsigned codes: the shift, its bits, the largest number, and the bits of the scale's factor.
SIGNED = 2.0**-3, 0x3e000000, 1.84375, 0x3f8ad8f0
UNSIGNED = 2.0**-15, 0x38000000, 1.875, 0x3f864ca2
LARGEST_SCALE = np.float32(2.0**126)


def decoded(codes: Array, scales: Array | None) -> Array:
    """The numbers of an array of a state, as float32 (float64 where it is stored so); 8-bit codes need their scales."""
    if scales is None:
        return np.array(values(codes))
    flat = np.ascontiguousarray(codes).reshape(-1)
    scale = np.repeat(scales, SCALED_TOGETHER)[:flat.size]
    with np.errstate(all="ignore"):
        if codes.dtype == np.int8:
            shift, bits, *_ = SIGNED
            u = flat.astype(np.int32).view(np.uint32) << np.uint32(18)
            magnitude = ((u & np.uint32(0x81fc0000)) | np.uint32(bits)).view(np.float32)
            less = ((scale * np.float32(shift)).view(np.uint32) | (u & SIGN)).view(np.float32)
        else:
            shift, bits, *_ = UNSIGNED
            magnitude = ((flat.astype(np.uint32) << np.uint32(19)) | np.uint32(bits)).view(np.float32)
            less = scale * np.float32(shift)
        found: Array = (magnitude * scale - less).reshape(codes.shape)
    return found


def encoded8(x: Array, kind: str) -> tuple[Array, Array]:
    """Numbers as codes, "int8" or "uint8" (for those that are never negative), and the scale of every group."""
    shift, _, most, span = SIGNED if kind == "int8" else UNSIGNED
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    groups = -(-flat.size // SCALED_TOGETHER)
    padded = np.zeros(groups * SCALED_TOGETHER, np.float32)
    padded[:flat.size] = flat
    padded[np.abs(padded) < TINY] *= np.float32(0)             # (as kernels flush what is below normal numbers)
    rows = padded.reshape(groups, SCALED_TOGETHER)
    with np.errstate(all="ignore"):
        largest = (rows.view(np.uint32) & ~SIGN).max(axis=1, initial=0).view(np.float32)
        scale = ((largest * np.uint32(span).view(np.float32)).view(np.uint32) & np.uint32(0x7f800000)).view(np.float32)
        cut = scale.view(np.uint32) > LARGEST_SCALE.view(np.uint32)
        scale[cut] = LARGEST_SCALE
        bound = LARGEST_SCALE * np.float32(most)
        rows = np.where(cut[:, None], np.clip(rows, -bound, bound), rows)
        inverse = (np.uint32(0x7f000000) - scale.view(np.uint32)).view(np.float32)[:, None]
        signs = rows.view(np.uint32) & SIGN
        if kind == "int8":
            u = (rows * inverse + (signs | np.uint32(SIGNED[1])).view(np.float32)).view(np.uint32) + np.uint32(0x20000)
            codes = (((u >> np.uint32(24)) & np.uint32(0x80)) | ((u >> np.uint32(18)) & np.uint32(0x7f))) \
                .astype(np.uint8).view(np.int8)
        else:
            u = (rows * inverse + np.float32(shift)).view(np.uint32) + np.uint32(0x40000)
            least = np.where(rows.view(np.uint32) != 0, np.uint32(UNSIGNED[1] + 0x80000), np.uint32(0))
            codes = (np.maximum(u, least) >> np.uint32(19)).astype(np.uint8)
    lost = np.isnan(largest)
    scale[lost], codes[lost] = np.nan, 0
    return codes.reshape(-1)[:flat.size].reshape(x.shape), scale


def stored(x: Array, like: Array) -> Array:
    """Numbers as an array is stored that is no array of codes: rounded to nearest."""
    if isinstance(like, BFloat16):
        return bfloat16_bits(x).view(BFloat16)
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(like.dtype)
