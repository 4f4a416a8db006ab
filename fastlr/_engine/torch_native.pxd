# cython: language_level=3
from libc.stdint cimport int64_t
from fastlr._engine.dlpack cimport DLTensor
from fastlr._engine.torch_tensors cimport PyObject
from fastlr._kernels.prefetch cimport prefetch_read

cdef struct NativeFunctions:
    void** (*grad)(void* impl) noexcept
    int (*new_handle)(void** tensor, void*** handle) noexcept
    int (*delete_handle)(void** handle) noexcept
    int (*dim)(void** tensor, int64_t*) noexcept
    int (*sizes)(void** tensor, int64_t**) noexcept
    int (*strides)(void** tensor, int64_t**) noexcept
    int (*dtype)(void** tensor, int*) noexcept
    int (*device)(void** tensor, int*) noexcept
    int (*layout)(void** tensor, int*) noexcept
    int (*data)(void** tensor, void**) noexcept

cdef NativeFunctions native
cdef bint has_native                   # whether they were found, and say what Python says
cdef Py_ssize_t impl_offset            # in bytes, of the `Tensor` in torch's Python object
cdef void* no_tensor                   # the `TensorImpl*` of a parameter's gradient where it has none

cdef bint describe_native(void** tensor, DLTensor* out) noexcept

cdef inline void** native_tensor(PyObject* tensor) noexcept:
    return <void**>(<char*>tensor + impl_offset)

cdef inline void prefetch_lines(const void* x) noexcept:
    """Request the four lines of the cache that a `TensorImpl` may be in."""
    prefetch_read(x)
    prefetch_read(<const char*>x + 64)
    prefetch_read(<const char*>x + 128)
    prefetch_read(<const char*>x + 192)

cdef inline void prefetch_storage(const void* x) noexcept:
    """Request the two lines that the head of a `StorageImpl` may be in."""
    prefetch_read(x)
    prefetch_read(<const char*>x + 59)
