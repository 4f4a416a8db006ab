# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Arrays without a copy: NumPy's directly, anything else through the buffer protocol or DLPack.

NumPy is not needed to build. The layout of its array object has been part of its binary interface since 1.7 and
is read here directly (0.01 us an array, where `PyObject_GetBuffer` takes 0.07; see bench_overhead): on import it is
held against what NumPy says of the same array, and should they ever differ, fastlr refuses to start.
"""
import numpy as np

from libc.stdint cimport uintptr_t

cdef extern from *:
    """
    typedef struct {
        PyObject ob_base;
        char *data;
        int nd;
        Py_ssize_t *dimensions, *strides;
        PyObject *base, *descr;
        int flags;
    } fastlr_array;
    """
    ctypedef struct fastlr_array:
        char* data
        int nd
        Py_ssize_t* dimensions
        Py_ssize_t* strides
        void* descr
        int flags

cdef extern from "Python.h":
    ctypedef struct PyTypeObject
    bint PyObject_TypeCheck(object, PyTypeObject*)

cdef object ndarray = np.ndarray
cdef object float32 = np.dtype(np.float32)
cdef object float64 = np.dtype(np.float64)


cdef bint look(object array, Seen* seen) except -1:
    """See an array; False if it is no NumPy array of float32 or float64 in this machine's byte order."""
    cdef fastlr_array* a
    if not PyObject_TypeCheck(array, <PyTypeObject*>ndarray):
        return False
    a = <fastlr_array*><void*>array
    if a.descr == <void*>float32:
        seen.wide = 0
    elif a.descr == <void*>float64:
        seen.wide = 1
    elif array.dtype == float32:          # the same type in another object
        seen.wide = 0
    elif array.dtype == float64:
        seen.wide = 1
    else:
        return False
    seen.data, seen.ndim, seen.flags = a.data, a.nd, a.flags
    seen.shape, seen.strides = a.dimensions, a.strides
    return True


cdef bint lay(Walk* walk, const Seen* seen, const int* axes) noexcept:
    """Describe the way through an array, axis by axis; False if it is one aligned run of elements."""
    cdef Py_ssize_t itemsize = 8 if seen.wide else 4
    cdef Py_ssize_t size, stride
    cdef int k, d = 0
    for k in range(seen.ndim):
        size, stride = seen.shape[axes[k]], seen.strides[axes[k]]
        if size == 1:
            continue
        if d > 0 and walk.stride[d - 1] == size * stride:
            walk.shape[d - 1] *= size
            walk.stride[d - 1] = stride
        else:
            walk.shape[d], walk.stride[d] = size, stride
            d += 1
    if d == 0:
        walk.shape[0], walk.stride[0], d = 1, itemsize, 1
    walk.ndim = d
    return d > 1 or walk.stride[0] != itemsize or <uintptr_t>seen.data % itemsize != 0


cdef void extent(const Seen* seen, char** low, char** high) noexcept:
    """The bytes from the first to behind the last that an array touches; equal if it has no element."""
    cdef int k
    low[0] = high[0] = seen.data
    for k in range(seen.ndim):
        if seen.shape[k] == 0:
            low[0] = high[0] = seen.data
            return
        if seen.strides[k] > 0:
            high[0] += (seen.shape[k] - 1) * seen.strides[k]
        else:
            low[0] += (seen.shape[k] - 1) * seen.strides[k]
    high[0] += 8 if seen.wide else 4


def dimensions(array):
    """What is read of an array: (address, shape, strides, whether float64, writable), or None."""
    cdef Seen seen
    if not look(array, &seen):
        return None
    shape = tuple([seen.shape[k] for k in range(seen.ndim)])
    strides = tuple([seen.strides[k] for k in range(seen.ndim)])
    return <uintptr_t>seen.data, shape, strides, bool(seen.wide), bool(seen.flags & WRITEABLE)


def as_array(x, who):
    """Any CPU array, tensor or buffer as a NumPy array over the same memory; never a copy."""
    if isinstance(x, ndarray):
        return x
    try:
        view = memoryview(x)
    except TypeError:
        pass
    else:
        return np.asarray(view)
    if hasattr(x, "__dlpack__"):
        if getattr(x, "requires_grad", False):
            x = x.detach()
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{who}: this {type(x).__name__} gives no CPU memory to write to ({error}); "
                            f"move it to the CPU") from None
    raise TypeError(f"{who}: expected an array (NumPy, buffer protocol or DLPack), got {type(x).__name__}")


def overlaps_itself(array):
    """Whether two elements of an array may share memory (as in a broadcast view)."""
    extents = sorted((abs(step), size) for size, step in zip(array.shape, array.strides, strict=True) if size > 1)
    reach = array.itemsize
    for step, size in extents:
        if step < reach:
            return True
        reach += step * (size - 1)
    return False


probe = np.zeros((3, 5), np.float32)[::-1, 1::2]
if dimensions(probe) != (probe.__array_interface__["data"][0], probe.shape, probe.strides, False, True):
    raise ImportError("fastlr: NumPy's array object is not laid out as expected; "
                      f"please report this with NumPy's version, {np.__version__}")
del probe
