# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcmp
from fastlr._engine.torch_tensors cimport PyObject

cdef enum:
    NATIVE_AXES = 5            # a tensor of more has its shape elsewhere
    NATIVE_STORAGE = 72        # bytes of a `StorageImpl` that may be read: it has 80 or more
    STORAGE_WORDS = NATIVE_STORAGE // 8

cdef struct NativeLayout:
    # Where torch's objects have what is read, in bytes from their beginning.
    Py_ssize_t impl            # of a Python object: its `TensorImpl*`
    Py_ssize_t keys            # of a `TensorImpl`: its dispatch keys,
    Py_ssize_t dtype           # ... torch's number of its type, two bytes,
    Py_ssize_t shape           # ... the number of axes, NATIVE_AXES lengths, as many strides,
    Py_ssize_t first           # ... its first element in the storage,
    Py_ssize_t storage         # ... its `StorageImpl*`,
    Py_ssize_t autograd        # ... its `AutogradMeta*`,
    Py_ssize_t version         # ... the address of its version
    Py_ssize_t grad            # of an `AutogradMeta`: the `TensorImpl*` of the gradient
    Py_ssize_t data            # of a `StorageImpl`: the address of its memory; whose that is comes behind
    Py_ssize_t count           # of a version: its four bytes
    void* no_tensor            # the `TensorImpl*` of a gradient that is not there
    uint64_t plain_keys        # the dispatch keys of a strided tensor on the CPU, neither conjugate nor negative
    int storage_words          # from `data` on
    uint64_t[STORAGE_WORDS] storage_mask, storage_value    # ... the bytes that tell plain tensors from special ones

cdef struct NativeFunctions:
    int (*new_handle)(void*** handle) noexcept                 # of no tensor
    int (*assign)(void** tensor, void** handle) noexcept       # let a handle keep this tensor
    int (*delete_handle)(void** handle) noexcept

cdef NativeLayout at
cdef NativeFunctions native
cdef bint has_native           # whether all was found, and compared with what Python says

cpdef count_writes(list tensors)

cdef inline void* pointer_at(const void* x, Py_ssize_t offset) noexcept:
    return (<void**>(<const char*>x + offset))[0]

cdef inline uint64_t word_at(const void* x, Py_ssize_t offset) noexcept:
    return (<const uint64_t*>(<const char*>x + offset))[0]

cdef inline uint16_t dtype_of(const void* impl) noexcept:
    return (<const uint16_t*>(<const char*>impl + at.dtype))[0]

cdef inline void* gradient_of(const void* impl) noexcept:
    """The `TensorImpl` of a parameter's gradient, or NULL."""
    cdef void* autograd = pointer_at(impl, at.autograd)
    cdef void* found
    if autograd == NULL:
        return NULL
    found = pointer_at(autograd, at.grad)
    return NULL if found == at.no_tensor else found

cdef inline bint has_layout(const void* impl, int ndim, const int64_t* shape, const int64_t* strides) noexcept:
    """Whether a plain tensor has this shape and these strides."""
    cdef const int64_t* own = <const int64_t*>(<const char*>impl + at.shape)
    cdef int k
    if word_at(impl, at.keys) != at.plain_keys or own[0] != ndim:
        return False
    for k in range(ndim):
        if own[1 + k] != shape[k] or (own[1 + NATIVE_AXES + k] != strides[k] and shape[k] != 1):
            return False
    return True

cdef inline bint is_plain_storage(const void* storage) noexcept:
    """Whether memory may be read as it is: neither shared until somebody writes there, nor refused."""
    cdef const uint64_t* words = <const uint64_t*>(<const char*>storage + at.data)
    cdef uint64_t differences = 0
    cdef int k
    for k in range(at.storage_words):
        differences |= (words[k] & at.storage_mask[k]) ^ at.storage_value[k]
    return differences == 0

cdef inline bint same_storage(const void* storage, const uint64_t* words) noexcept:
    """Whether all that a storage says of its memory is what it said when these words were copied."""
    return memcmp(<const char*>storage + at.data, words, at.storage_words * sizeof(uint64_t)) == 0
