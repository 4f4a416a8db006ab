# cython: language_level=3
"""The part of DLPack's C interface that is read here: github.com/dmlc/dlpack, include/dlpack/dlpack.h, version 1.2."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastlr._kernels.structs cimport BFLOAT16, FLOAT16, FLOAT32, FLOAT64, UNKNOWN, Storage

cdef enum:
    DLPACK_MAJOR = 1           # of the versions whose structs are those below
    DL_CPU = 1                 # the device
    DL_FLOAT = 2               # dtype codes
    DL_BFLOAT = 4
    DL_COMPLEX = 5
    DL_READ_ONLY = 1           # a flag

cdef struct DLDevice:
    int32_t device_type, device_id

cdef struct DLDataType:
    uint8_t code, bits
    uint16_t lanes

cdef struct DLTensor:
    void* data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t* shape
    int64_t* strides           # in elements; NULL: C order
    uint64_t byte_offset

ctypedef int (*DLTensorFromPyObject)(void* tensor, DLTensor* out) except -1

cdef struct DLPackVersion:
    uint32_t major, minor

cdef struct DLManagedTensorVersioned:
    DLPackVersion version
    void* manager_ctx
    void (*deleter)(DLManagedTensorVersioned*) noexcept
    uint64_t flags
    DLTensor dl_tensor

cdef struct DLPackExchangeAPI:
    # What the capsule `__dlpack_c_exchange_api__` of a tensor type points to.
    DLPackVersion version
    void* previous
    void* managed_tensor_allocator
    void* managed_tensor_from_py_object_no_sync
    void* managed_tensor_to_py_object_no_sync
    DLTensorFromPyObject dltensor_from_py_object_no_sync
    void* current_work_stream

cdef inline Storage storage_of(const DLTensor* tensor) noexcept:
    """How the elements of a tensor are stored."""
    if tensor.dtype.lanes != 1:
        return UNKNOWN
    if tensor.dtype.code == DL_FLOAT:
        return FLOAT32 if tensor.dtype.bits == 32 else FLOAT64 if tensor.dtype.bits == 64 else \
            FLOAT16 if tensor.dtype.bits == 16 else UNKNOWN
    return BFLOAT16 if tensor.dtype.code == DL_BFLOAT and tensor.dtype.bits == 16 else UNKNOWN
