# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Arrays without a copy: NumPy's directly, anything else through the buffer protocol or DLPack.

NumPy is not needed to build. The layout of its array object has been part of its binary interface since 1.7 and is
read here directly (0.01 us an array, where `PyObject_GetBuffer` takes 0.07). On import, what is read is compared with
what NumPy says of the same array: if they differ, fastlr refuses to start.
"""
import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uintptr_t
from fastlr._engine.dlpack cimport (
    DL_CPU, DL_READ_ONLY, DLPACK_MAJOR, DLManagedTensorVersioned, DLTensor, storage_of,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.structs cimport BFLOAT16, FLOAT16, FLOAT32, FLOAT64, REST16, UNSIGNED8, SIGNED8, UNKNOWN, Storage

from fastlr._engine.tensor_versions import is_torch_tensor

build_id = FASTLR_LAYOUT.decode()

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
cdef object float16 = np.dtype(np.float16)
cdef object uint16 = np.dtype(np.uint16)
cdef object int8 = np.dtype(np.int8)
cdef object int16 = np.dtype(np.int16)
cdef object uint8 = np.dtype(np.uint8)


class BFloat16(np.ndarray):
    """bfloat16 numbers, as the uint16 that hold their bits: NumPy has no type for them.

    >>> import numpy as np
    >>> from fastlr._engine.arrays import BFloat16
    >>> np.zeros(3, np.uint16).view(BFloat16).shape
    (3,)
    """


cdef Storage storage(object array, object dtype) except? UNKNOWN:
    """How the elements of an array of this type are stored."""
    if dtype == uint16:
        return BFLOAT16 if isinstance(array, BFloat16) else UNKNOWN
    for known, stored in ((float32, FLOAT32), (float64, FLOAT64), (float16, FLOAT16), (int8, SIGNED8),
                          (uint8, UNSIGNED8), (int16, REST16)):
        if dtype == known:
            return stored
    # (ml_dtypes registers its type with NumPy under this name)
    return BFLOAT16 if dtype.name == "bfloat16" and dtype.itemsize == 2 else UNKNOWN


cdef bint read_array(object array, ArrayView* array_view) except -1:
    """Read an array; False if it is no NumPy array of a type that holds parameters or states."""
    cdef fastlr_array* a
    if not PyObject_TypeCheck(array, <PyTypeObject*>ndarray):
        return False
    a = <fastlr_array*><void*>array
    if a.descr == <void*>float32:
        array_view.stored, array_view.itemsize = FLOAT32, 4
    elif a.descr == <void*>float64:
        array_view.stored, array_view.itemsize = FLOAT64, 8
    else:
        array_view.stored, array_view.itemsize = storage(array, array.dtype), array.itemsize
        if array_view.stored == UNKNOWN:
            return False
    array_view.data, array_view.ndim, array_view.flags = a.data, a.nd, a.flags
    array_view.shape, array_view.strides = a.dimensions, a.strides
    return True


cdef dict STORED_NAMES = {FLOAT32: "float32", FLOAT64: "float64", FLOAT16: "float16", BFLOAT16: "bfloat16",
                          SIGNED8: "int8", UNSIGNED8: "uint8", REST16: "int16"}


def stored_as(array):
    """The name of how an array's elements are stored, or None."""
    cdef ArrayView array_view
    if not read_array(array, &array_view):
        return None
    return STORED_NAMES[array_view.stored]


cdef bint strided_layout(StridedLayout* layout, const ArrayView* array_view, const int* axes) noexcept nogil:
    """Describe how an array is traversed, axis by axis in the order of `axes` (NULL: their own).

    False if its elements follow one another, aligned, in that order.
    """
    cdef Py_ssize_t itemsize = array_view.itemsize
    cdef Py_ssize_t size, stride
    cdef int k, axis, d = 0
    for k in range(array_view.ndim):
        axis = axes[k] if axes != NULL else k
        size, stride = array_view.shape[axis], array_view.strides[axis]
        if size == 1:
            continue
        if d > 0 and layout.stride[d - 1] == size * stride:
            layout.shape[d - 1] *= size
            layout.stride[d - 1] = stride
        else:
            layout.shape[d], layout.stride[d] = size, stride
            d += 1
    if d == 0:
        layout.shape[0], layout.stride[0], d = 1, itemsize, 1
    layout.ndim = d
    return d > 1 or layout.stride[0] != itemsize or <uintptr_t>array_view.data % itemsize != 0


cdef void memory_range(const ArrayView* array_view, char** low, char** high) noexcept nogil:
    """From the first byte of an array to the end of the last; equal if it has no element."""
    cdef int k
    low[0] = high[0] = array_view.data
    for k in range(array_view.ndim):
        if array_view.shape[k] == 0:
            low[0] = high[0] = array_view.data
            return
        if array_view.strides[k] > 0:
            high[0] += (array_view.shape[k] - 1) * array_view.strides[k]
        else:
            low[0] += (array_view.shape[k] - 1) * array_view.strides[k]
    high[0] += array_view.itemsize


def dimensions(array):
    """What is read of an array: (address, shape, strides, whether float64, writable), or None."""
    cdef ArrayView array_view
    if not read_array(array, &array_view):
        return None
    shape = tuple([array_view.shape[k] for k in range(array_view.ndim)])
    strides = tuple([array_view.strides[k] for k in range(array_view.ndim)])
    return <uintptr_t>array_view.data, shape, strides, array_view.stored == FLOAT64, bool(array_view.flags & WRITEABLE)


cdef class DLPackBuffer:
    """The memory of a DLPack capsule, as a buffer of bytes from its lowest element to its highest."""
    cdef object capsule
    cdef char* low
    cdef Py_ssize_t size
    cdef bint read_only

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.low, self.size, self.read_only, flags)


def dlpack_array(x):
    """A tensor of floats on the CPU over its own memory: also of bfloat16, and writable before NumPy 2.2.5.

    It can be written where its maker says so, or is PyTorch (a capsule without a version does not say).
    """
    cdef DLTensor* tensor
    cdef DLManagedTensorVersioned* versioned
    cdef Storage stored
    cdef DLPackBuffer buffer = DLPackBuffer()
    cdef int k
    if tuple(x.__dlpack_device__())[0] != DL_CPU:
        raise BufferError("not on the CPU")
    try:
        buffer.capsule = x.__dlpack__(max_version=(1, 0))
    except TypeError:
        buffer.capsule = x.__dlpack__()
    if PyCapsule_IsValid(buffer.capsule, "dltensor_versioned"):
        versioned = <DLManagedTensorVersioned*>PyCapsule_GetPointer(buffer.capsule, "dltensor_versioned")
        if versioned.version.major != DLPACK_MAJOR:
            raise BufferError(f"DLPack of version {versioned.version.major}")
        tensor, buffer.read_only = &versioned.dl_tensor, versioned.flags & DL_READ_ONLY
    else:
        tensor = <DLTensor*>PyCapsule_GetPointer(buffer.capsule, "dltensor")
        buffer.read_only = not is_torch_tensor(x)
    stored = storage_of(tensor) if tensor.device.device_type == DL_CPU else UNKNOWN
    if stored == UNKNOWN:
        raise TypeError("not float16, bfloat16, float32 or float64")
    dtype = np.dtype(np.uint16) if stored == BFLOAT16 else np.dtype(f"f{tensor.dtype.bits // 8}")
    shape = [tensor.shape[k] for k in range(tensor.ndim)]
    if tensor.strides != NULL:
        strides = [dtype.itemsize * tensor.strides[k] for k in range(tensor.ndim)]
    else:
        strides = list(np.empty(shape, dtype).strides)
    if 0 in shape:
        array = np.empty(shape, dtype)
    else:
        below = sum([step * (n - 1) for n, step in zip(shape, strides, strict=True) if step < 0])
        buffer.low = <char*>tensor.data + tensor.byte_offset + <Py_ssize_t>below
        buffer.size = dtype.itemsize + sum([abs(step) * (n - 1) for n, step in zip(shape, strides, strict=True)])
        array = np.ndarray(shape, dtype, buffer, -below, strides)
    return array.view(BFloat16) if stored == BFLOAT16 else array


def as_array(x, caller, bint writable=False):
    """Any CPU array, tensor or buffer as a NumPy array over the same memory; never a copy.

    `writable`: one that can be written, if there is any.
    """
    if isinstance(x, ndarray):
        return x
    try:
        view = memoryview(x)
    except (TypeError, BufferError):       # (JAX has no buffer of bfloat16, and says so as BufferError)
        pass
    else:
        return np.asarray(view)
    if hasattr(x, "__dlpack__"):
        if getattr(x, "requires_grad", False):
            x = x.detach()
        reason, array = "", None
        for take in (np.from_dlpack, dlpack_array):
            try:
                array = take(x)
            except (BufferError, RuntimeError, TypeError, ValueError) as error:
                reason = reason or str(error)
                continue
            if not writable or array.flags.writeable:      # (before NumPy 2.2.5 its own cannot be written)
                break
        if array is not None:
            return array
        raise TypeError(f"{caller}: this {type(x).__name__} gives no CPU memory ({reason}); it must be dense, on the "
                        f"CPU, and float16, bfloat16, float32 or float64 (of a parameter the model's own tensor, not "
                        f"a copy)")
    raise TypeError(f"{caller}: expected an array (NumPy, buffer protocol or DLPack), got {type(x).__name__}")


def overlaps_itself(array):
    """Whether two elements of an array may share memory (as in a broadcast view)."""
    axes = sorted((abs(step), size) for size, step in zip(array.shape, array.strides, strict=True) if size > 1)
    extent = array.itemsize            # bytes that the axes so far reach over
    for step, size in axes:
        if step < extent:
            return True
        extent += step * (size - 1)
    return False


if tuple([int(number) for number in np.__version__.split(".")[:2]]) < (2, 1):      # (its DLPack cannot be written)
    raise ImportError(f"fastlr needs NumPy 2.1 or newer, found {np.__version__}: pip install 'numpy>=2.1'")
probe = np.zeros((3, 5), np.float32)[::-1, 1::2]
if dimensions(probe) != (probe.__array_interface__["data"][0], probe.shape, probe.strides, False, True):
    raise ImportError("fastlr: NumPy's array object is not laid out as expected; "
                      f"please report this with NumPy's version, {np.__version__}")
del probe
