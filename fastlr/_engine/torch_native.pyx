# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Functions of libtorch by which gradients are read without Python objects.

Each backward pass makes new gradients, and a Python object for each costs 0.15 to 0.5 us, as much as all else of a step
of 64 elements. libtorch's C interface (torch/csrc/inductor/aoti_torch/c/shim.h, kept stable by torch) describes and
holds a tensor; that of a parameter's gradient is found by one function of its C++ interface, `const Tensor&
c10::TensorImpl::grad() const`. A handle is the address of a `Tensor`, which holds a `TensorImpl*`; where that is in
torch's Python object is found by comparing it with `_cdata`. All of this is compared with what Python says of some
tensors first, and not used if anything differs, or if a function is missing.
"""
from libc.stdint cimport int64_t, uintptr_t
from fastlr._engine.dlpack cimport DL_BFLOAT, DL_CPU, DL_FLOAT, DLTensor
from fastlr._engine.torch_tensors cimport PyObject, says_the_same
from fastlr._kernels.build_id cimport FASTLR_LAYOUT

build_id = FASTLR_LAYOUT.decode()

cdef NativeFunctions native
cdef bint has_native = False
cdef Py_ssize_t impl_offset = 0
cdef void* no_tensor = NULL
cdef int cpu_device, strided_layout_code
cdef int[4] native_dtypes              # torch's codes of float32, float64, float16, bfloat16


cdef bint describe_native(void** tensor, DLTensor* out) noexcept:
    """Where a tensor is; False if it is no strided tensor of floating-point numbers on the CPU."""
    cdef int code = -1, kind
    cdef int64_t ndim
    if native.layout(tensor, &code) != 0 or code != strided_layout_code:
        return False
    if native.device(tensor, &code) != 0 or code != cpu_device or native.dtype(tensor, &code) != 0:
        return False
    for kind in range(4):
        if code == native_dtypes[kind]:
            break
    else:
        return False
    if native.dim(tensor, &ndim) != 0 or native.sizes(tensor, &out.shape) != 0 \
            or native.strides(tensor, &out.strides) != 0 or native.data(tensor, &out.data) != 0:
        return False
    out.ndim, out.byte_offset = <int>ndim, 0
    out.device.device_type, out.dtype.lanes = DL_CPU, 1
    out.dtype.code = DL_BFLOAT if kind == 3 else DL_FLOAT
    out.dtype.bits = 64 if kind == 1 else 32 if kind == 0 else 16
    return True


def use_native(dict addresses, dict codes, samples, Py_ssize_t object_size):
    """Read gradients by libtorch's own functions from now on, if what they say of samples is what Python says.

    `addresses` has the functions, none if one is missing, `codes` torch's numbers; `samples` are parameters, some with
    gradients.
    """
    global has_native, impl_offset, no_tensor, cpu_device, strided_layout_code
    cdef Py_ssize_t offset
    cdef DLTensor found
    cdef void** gradient
    cdef int k
    has_native = False
    if not addresses:
        return False
    native.grad = <void** (*)(void*) noexcept><uintptr_t>addresses["grad"]
    native.new_handle = <int (*)(void**, void***) noexcept><uintptr_t>addresses["new_handle"]
    native.delete_handle = <int (*)(void**) noexcept><uintptr_t>addresses["delete_handle"]
    native.dim = <int (*)(void**, int64_t*) noexcept><uintptr_t>addresses["dim"]
    native.sizes = <int (*)(void**, int64_t**) noexcept><uintptr_t>addresses["sizes"]
    native.strides = <int (*)(void**, int64_t**) noexcept><uintptr_t>addresses["strides"]
    native.dtype = <int (*)(void**, int*) noexcept><uintptr_t>addresses["dtype"]
    native.device = <int (*)(void**, int*) noexcept><uintptr_t>addresses["device"]
    native.layout = <int (*)(void**, int*) noexcept><uintptr_t>addresses["layout"]
    native.data = <int (*)(void**, void**) noexcept><uintptr_t>addresses["data"]
    cpu_device, strided_layout_code = codes["cpu"], codes["strided"]
    for k, name in enumerate(("float32", "float64", "float16", "bfloat16")):
        native_dtypes[k] = codes[name]
    for offset in range(16, object_size - 7, 8):
        if all([(<uintptr_t*>(<char*><PyObject*>sample + offset))[0] == <uintptr_t>sample._cdata
                for sample in samples]):
            break
    else:
        return False
    impl_offset, no_tensor = offset, NULL
    for sample in samples:             # (those without a gradient have the same)
        if sample.grad is None:
            gradient = native.grad(native_tensor(<PyObject*>sample)[0])
            if no_tensor != NULL and no_tensor != gradient[0]:
                return False
            no_tensor = gradient[0]
    for sample in samples:
        if not describe_native(native_tensor(<PyObject*>sample), &found) or not says_the_same(&found, sample):
            return False
        if sample.grad is not None:
            gradient = native.grad(native_tensor(<PyObject*>sample)[0])
            if gradient[0] == no_tensor or gradient[0] != <void*><uintptr_t>sample.grad._cdata \
                    or not describe_native(gradient, &found) or not says_the_same(&found, sample.grad):
                return False
    has_native = no_tensor != NULL
    return has_native
