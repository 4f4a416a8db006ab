# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tensors of torch, read without NumPy and without being compiled against torch.

Where torch has `__dlpack_c_exchange_api__`, a function of it fills a C struct with a tensor's address, shape and
strides (0.02 us); otherwise they come from the tensor's Python methods.
"""
import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uintptr_t
from fastlr._engine.dlpack cimport (
    DL_BFLOAT, DL_COMPLEX, DL_CPU, DL_FLOAT, DLPACK_MAJOR, DLPackExchangeAPI, DLTensor, DLTensorFromPyObject,
    storage_of,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.structs cimport BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MAX_DIMENSIONS, UNKNOWN, Storage

from fastlr._engine.arrays import BFloat16

build_id = FASTLR_LAYOUT.decode()

cdef DLTensorFromPyObject export = NULL
cdef PyTypeObject* tensor_type = NULL
cdef PyTypeObject* parameter_type = NULL
cdef list kept_alive = []


def use_torch(tensor, parameter, bint exchange=True):
    """Learn torch's types, `torch.Tensor` and `torch.nn.Parameter`; without `exchange`, as with a torch that has none.
    """
    global export, tensor_type, parameter_type
    cdef const DLPackExchangeAPI* interface
    kept_alive[:] = [tensor, parameter]
    tensor_type, parameter_type, export = <PyTypeObject*>tensor, <PyTypeObject*>parameter, NULL
    capsule = getattr(tensor, "__dlpack_c_exchange_api__", None)
    if exchange and capsule is not None:
        interface = <const DLPackExchangeAPI*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        if interface.version.major == DLPACK_MAJOR:
            export = interface.dltensor_from_py_object_no_sync


cdef class Described:
    """A tensor's shape and strides, as its Python methods say: for a torch without the exchange interface."""
    cdef int64_t[2 * MAX_DIMENSIONS] lengths

    cdef int read(self, object tensor, DLTensor* out) except -1:
        cdef int k
        cdef tuple strides
        if str(tensor.layout) != "torch.strided":
            raise RuntimeError(f"a tensor of layout {tensor.layout} has no strides")
        strides = tuple(tensor.stride())
        out.data, out.byte_offset = <void*><uintptr_t>tensor.data_ptr(), 0
        out.device.device_type = DL_CPU if tensor.device.type == "cpu" else 0
        out.ndim = <int>len(strides)
        out.shape, out.strides = self.lengths, self.lengths + MAX_DIMENSIONS
        for k in range(out.ndim):
            out.shape[k], out.strides[k] = tensor.shape[k], strides[k]
        out.dtype.lanes = 1
        out.dtype.code, out.dtype.bits = DTYPES.get(str(tensor.dtype), (0, 0))
        return 0

DTYPES = {"torch.float32": (DL_FLOAT, 32), "torch.float64": (DL_FLOAT, 64), "torch.float16": (DL_FLOAT, 16),
          "torch.bfloat16": (DL_BFLOAT, 16), "torch.complex64": (DL_COMPLEX, 64), "torch.complex128": (DL_COMPLEX, 128)}
cdef Described described = Described()


cdef int describe_by_methods(PyObject* tensor, DLTensor* out) except -1:
    return described.read(<object>tensor, out)


cdef bint says_the_same(const DLTensor* found, object tensor) except -1:
    """Whether this is what a tensor's own methods say."""
    return <uintptr_t>found.data == tensor.data_ptr() and found.ndim == tensor.ndim \
        and [found.shape[k] for k in range(found.ndim)] == list(tensor.shape) \
        and [found.strides[k] for k in range(found.ndim)] == list(tensor.stride()) \
        and DTYPES.get(str(tensor.dtype)) == (found.dtype.code, found.dtype.bits)


cdef class TensorMemory:
    """The memory of a tensor, from its lowest element to its highest, as a buffer of bytes that keeps the tensor."""
    cdef object tensor
    cdef char* low
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.low, self.size, 0, flags)


cdef object INTEGERS = {8: np.dtype(np.int8), 16: np.dtype(np.int16), 32: np.dtype(np.int32), 64: np.dtype(np.int64)}


cpdef object array_over(tensor):
    """A NumPy array over the memory of a strided tensor on the CPU; its storage can still be resized by its owner.

    (`Tensor.numpy` forbids that for good, and FSDP does it.)
    """
    cdef DLTensor found
    cdef TensorMemory memory = TensorMemory()
    cdef Storage stored
    cdef int k
    describe(<PyObject*>tensor, &found)
    stored = storage_of(&found)
    if found.device.device_type != DL_CPU:
        raise TypeError(f"expected a tensor on the CPU, got one on {tensor.device}")
    if stored != UNKNOWN:
        dtype = np.dtype({FLOAT32: np.float32, FLOAT64: np.float64, FLOAT16: np.float16, BFLOAT16: np.uint16}[stored])
    elif found.dtype.code <= 1 and found.dtype.bits in INTEGERS:
        dtype = INTEGERS[found.dtype.bits] if found.dtype.code == 0 else np.dtype(f"u{found.dtype.bits // 8}")
    else:
        raise TypeError(f"expected float16, bfloat16, float32 or float64, got {tensor.dtype}")
    itemsize = dtype.itemsize
    shape = [found.shape[k] for k in range(found.ndim)]
    strides = [itemsize * found.strides[k] for k in range(found.ndim)]
    if 0 in shape:
        array = np.empty(shape, dtype)
    else:
        memory.tensor, memory.low = tensor, <char*>found.data + found.byte_offset
        memory.size = itemsize + sum([step * (n - 1) for n, step in zip(shape, strides, strict=True)])
        array = np.ndarray(shape, dtype, memory, 0, strides)
    return array.view(BFloat16) if stored == BFLOAT16 else array


cpdef object address_of(tensor):
    """The address of a tensor's first element, None where it has no memory of its own."""
    cdef DLTensor found
    try:
        describe(<PyObject*>tensor, &found)
    except (BufferError, RuntimeError):
        return None
    return <uintptr_t>found.data + found.byte_offset
