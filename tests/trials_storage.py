"""What stored arrays stand for, and how far from what was computed they may be."""
import numpy as np
from trials_programs import BFLOAT16, DTYPES


class Wrong(AssertionError):
    """What was observed is not what the documentation says."""


def wrong(*parts):
    raise Wrong(" ".join(map(str, parts)))


# Storage

def decoded(slots, name):
    """A stored array as float64."""
    x = np.asarray(slots[name])
    if x.dtype in (np.int8, np.uint8) and name + "_scale" in slots:
        scale = np.repeat(np.asarray(slots[name + "_scale"], np.float64).ravel(), 64)[:x.size].reshape(x.shape)
        code = x.view(np.uint8).astype(np.float64)
        if x.dtype == np.uint8:
            return scale / 32768 * ((1 + code % 16 / 16) * 2 ** (code // 16) - 1)
        m = code % 128
        return np.where(code > 127, -1, 1) * scale / 8 * ((1 + m % 32 / 32) * 2 ** (m // 32) - 1)
    return number(x)


def number(x):
    x = np.asarray(x)
    return x.view(BFLOAT16).astype(np.float64) if x.dtype == np.uint16 else x.astype(np.float64)


def unit(x, kind):
    """The distance from x to the next number of its storage."""
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "bfloat16":
            return np.spacing(abs(x).astype(np.float32)).astype(np.float64) * 65536
        return np.spacing(abs(x).astype(DTYPES[kind])).astype(np.float64)


def stored_bound(x, slots, name, stochastic):
    """How far a stored array may be from what was computed."""
    kept = np.asarray(slots[name])
    if kept.dtype in (np.int8, np.uint8) and name + "_scale" in slots:
        scale = np.repeat(np.asarray(slots[name + "_scale"], np.float64).ravel(), 64)[:x.size].reshape(x.shape)
        if kept.dtype == np.int8:
            return (abs(x) + scale / 8) / 64 + scale * 1e-6
        return (abs(x) + scale / 32768) / 32 + scale * 1e-6 * 2.0**-10 + scale / 32768 / 16
    kind = "bfloat16" if kept.dtype == np.uint16 else kept.dtype.name
    if kind == "float64":
        return 0.0
    return unit(x, kind) * (1.01 if stochastic and kind in ("bfloat16", "float16") else 0.51)


def with_groups(x, slots, name):
    """What is computed; of 8 bits, NaN in one element reaches the 64 that share its scale."""
    if name + "_scale" not in slots or not np.isnan(x).any():
        return x
    flat = np.ravel(x).copy()
    for k in set((np.flatnonzero(np.isnan(flat)) // 64).tolist()):
        flat[64 * k:64 * k + 64] = np.nan
    return flat.reshape(np.shape(x))


def centred(g):
    """A gradient less the means of its rows, as GradientCentralization keeps it: in float32 or float64."""
    if g.ndim < 2 or not g.size:
        return g
    wide = g.astype(np.float64)
    kept = np.float64 if g.dtype == np.float64 else np.float32
    return wide.astype(kept) - wide.mean(axis=tuple(range(1, g.ndim)), keepdims=True).astype(kept)


def summed(g, h):
    """What GradientAccumulation keeps of two gradients, the second of three examples: in float32 or float64."""
    wide = np.float64 if g.dtype == np.float64 else np.float32
    return g.astype(wide) + wide(3) * h.astype(wide)
