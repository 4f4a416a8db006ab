# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Tensors of torch, read without NumPy and without being compiled against torch.

Where torch has `__dlpack_c_exchange_api__`, a function of it fills a C struct with a tensor's address, shape and
strides (0.02 us); otherwise they come from the tensor's Python methods. What is read is checked here, as gradients.pyx
does for arrays: all of it before the first write.
"""
import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.float cimport DBL_MAX
from libc.math cimport NAN, sqrt
from libc.stdint cimport int64_t, uintptr_t
from fastlr._engine.arrays cimport ArrayView, memory_range
from fastlr._engine.dlpack cimport (
    DL_BFLOAT, DL_COMPLEX, DL_CPU, DL_FLOAT, DLPACK_MAJOR, DLPackExchangeAPI, DLTensor, DLTensorFromPyObject,
)
from fastlr._engine.gradients cimport Gradients
from fastlr._engine.layout cimport Layout, MemoryRange, same_precision, same_shape, sort_by_address
from fastlr._engine.memory cimport Memory
from fastlr._engine.plan cimport Plan
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._kernels.prefetch cimport prefetch_read
from fastlr._kernels.structs cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, MAX_DIMENSIONS, UNKNOWN, GradientView, Storage,
)

from fastlr._engine.arrays import BFloat16, stored_as
from fastlr._engine.rows import step_rows

build_id = FASTLR_LAYOUT.decode()

cdef extern from "Python.h":
    ctypedef struct PyObject
    ctypedef struct PyTypeObject
    ctypedef PyObject* (*descrgetfunc)(PyObject*, PyObject*, PyObject*)
    ctypedef int (*descrsetfunc)(PyObject*, PyObject*, PyObject*) except -1
    int Py_tp_descr_get
    int Py_tp_descr_set
    void* PyType_GetSlot(PyTypeObject*, int) except? NULL
    PyTypeObject* Py_TYPE(PyObject*)
    PyObject* PyObject_GetAttr(PyObject*, PyObject*)
    int PyObject_SetAttr(PyObject*, PyObject*, PyObject*) except -1
    bint PyDict_Next(object, Py_ssize_t*, PyObject**, PyObject**)
    Py_ssize_t PyDict_Size(object)
    bint PyDict_Check(object)
    PyObject* PyList_GetItem(object, Py_ssize_t) except NULL
    Py_ssize_t PyList_Size(object)
    void Py_DECREF(PyObject*)
    PyObject* Py_None

cdef DLTensorFromPyObject export = NULL        # fills a DLTensor of a tensor of torch; NULL: torch has none
cdef descrgetfunc get_grad = NULL              # the getter of `Tensor.grad`, or NULL
cdef descrsetfunc set_grad = NULL              # the setter, or NULL
cdef PyObject* grad_attribute = NULL
cdef PyTypeObject* tensor_type = NULL
cdef PyTypeObject* parameter_type = NULL
cdef object grad_name = "grad"
cdef list kept_alive = []


# Gradients without Python objects. Each backward pass makes new gradients, and a Python object for each costs 0.15 to
# 0.5 us, as much as all else of a step of 64 elements. libtorch's C interface (torch/csrc/inductor/aoti_torch/c/shim.h,
# kept stable by torch) describes and holds a tensor; that of a parameter's gradient is found by one function of its C++
# interface, `const Tensor& c10::TensorImpl::grad() const`. A handle is the address of a `Tensor`, which holds a
# `TensorImpl*`; where that is in torch's Python object is found by comparing it with `_cdata`. All of this is compared
# with what Python says of some tensors first, and left alone if anything differs.

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
cdef bint has_native = False
cdef Py_ssize_t impl_offset = 0        # in bytes, of the `Tensor` in torch's Python object
cdef void* no_tensor = NULL            # the `TensorImpl*` of a parameter's gradient where it has none
cdef int cpu_device, strided_layout_code
cdef int[4] native_dtypes              # torch's codes of float32, float64, float16, bfloat16


cdef enum:
    AHEAD = 12                 # parameters from which on memory is requested


cdef inline void prefetch_lines(const void* x) noexcept:
    prefetch_read(x)
    prefetch_read(<const char*>x + 64)
    prefetch_read(<const char*>x + 128)


cdef inline void** native_tensor(PyObject* tensor) noexcept:
    return <void**>(<char*>tensor + impl_offset)


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

    `addresses` has the functions, `codes` torch's numbers; `samples` are parameters, some with gradients.
    """
    global has_native, impl_offset, no_tensor, cpu_device, strided_layout_code
    cdef Py_ssize_t offset
    cdef DLTensor found
    cdef void** gradient
    cdef int k
    has_native = False
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


cdef bint says_the_same(const DLTensor* found, object tensor) except -1:
    """Whether this is what a tensor's own methods say."""
    return <uintptr_t>found.data == tensor.data_ptr() and found.ndim == tensor.ndim \
        and [found.shape[k] for k in range(found.ndim)] == list(tensor.shape) \
        and [found.strides[k] for k in range(found.ndim)] == list(tensor.stride()) \
        and DTYPES.get(str(tensor.dtype)) == (found.dtype.code, found.dtype.bits)


def use_torch(tensor, parameter, bint exchange=True):
    """Learn torch's types, `torch.Tensor` and `torch.nn.Parameter`; without `exchange`, as with a torch that has none.
    """
    global export, get_grad, set_grad, grad_attribute, tensor_type, parameter_type, has_native
    cdef const DLPackExchangeAPI* interface
    kept_alive[:] = [tensor, parameter]
    tensor_type, parameter_type = <PyTypeObject*>tensor, <PyTypeObject*>parameter
    export, get_grad, set_grad, has_native = NULL, NULL, NULL, False
    capsule = getattr(tensor, "__dlpack_c_exchange_api__", None)
    if exchange and capsule is not None:
        interface = <const DLPackExchangeAPI*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        if interface.version.major == DLPACK_MAJOR:
            export = interface.dltensor_from_py_object_no_sync
    attribute = next((vars(base)["grad"] for base in tensor.__mro__ if "grad" in vars(base)), None)
    if type(attribute).__name__ == "getset_descriptor":        # (found once, not in each step for each parameter)
        get_grad = <descrgetfunc>PyType_GetSlot(Py_TYPE(<PyObject*>attribute), Py_tp_descr_get)
        set_grad = <descrsetfunc>PyType_GetSlot(Py_TYPE(<PyObject*>attribute), Py_tp_descr_set)
        kept_alive.append(attribute)
        grad_attribute = <PyObject*>attribute


cdef inline object grad_of(PyObject* parameter):
    """A parameter's gradient."""
    cdef PyTypeObject* kind = Py_TYPE(parameter)
    cdef PyObject* found
    if get_grad != NULL and (kind == parameter_type or kind == tensor_type):
        found = get_grad(grad_attribute, parameter, <PyObject*>kind)
    else:
        found = PyObject_GetAttr(parameter, <PyObject*>grad_name)
    if found == NULL:
        raise
    result = <object>found
    Py_DECREF(found)
    return result


def any_gradient(list params):
    """Whether a parameter has a gradient."""
    cdef Py_ssize_t k
    for k in range(PyList_Size(params)):
        if grad_of(PyList_GetItem(params, k)) is not None:
            return True
    return False


def forget_gradients(list params):
    """Set `grad` of parameters to None."""
    cdef Py_ssize_t k
    cdef PyObject* param
    for k in range(PyList_Size(params)):
        param = PyList_GetItem(params, k)
        if set_grad != NULL and (Py_TYPE(param) == parameter_type or Py_TYPE(param) == tensor_type):
            set_grad(grad_attribute, param, Py_None)
        else:
            PyObject_SetAttr(param, <PyObject*>grad_name, Py_None)


cdef double sum_of_squares32(const float* x, Py_ssize_t size) noexcept nogil:
    cdef double[8] sums
    cdef double rest = 0
    cdef Py_ssize_t i, k
    for k in range(8):
        sums[k] = 0
    for i in range(size // 8):
        for k in range(8):
            sums[k] += <double>x[8 * i + k] * <double>x[8 * i + k]
    for i in range(size // 8 * 8, size):
        rest += <double>x[i] * <double>x[i]
    for k in range(8):
        rest += sums[k]
    return rest


cdef double sum_of_squares64(const double* x, Py_ssize_t size) noexcept nogil:
    cdef double[8] sums
    cdef double rest = 0
    cdef Py_ssize_t i, k
    for k in range(8):
        sums[k] = 0
    for i in range(size // 8):
        for k in range(8):
            sums[k] += x[8 * i + k] * x[8 * i + k]
    for i in range(size // 8 * 8, size):
        rest += x[i] * x[i]
    for k in range(8):
        rest += sums[k]
    return rest


cdef struct ContiguousGradient:
    void* data
    Py_ssize_t size
    bint is_double


def clip_gradients(list params, double max_norm, Py_ssize_t most):
    """Scale gradients to a norm of at most `max_norm`: (norm, gradients that were written, whether all are float64).

    None, with nothing done, where one is not contiguous, of another type or device, or all have more than `most`
    elements: for torch's own function.
    """
    cdef Memory memory = Memory()
    cdef Py_ssize_t k, i, count = 0, total = 0, length, given = PyList_Size(params)
    cdef ContiguousGradient* found = <ContiguousGradient*>memory.take(given + 1, sizeof(ContiguousGradient))
    cdef DLTensor tensor
    cdef Storage stored
    cdef int axis
    cdef double squares = 0, norm, factor
    cdef float factor32
    cdef list gradients = []
    cdef bint doubles = False, singles = False
    for k in range(given):
        gradient = grad_of(PyList_GetItem(params, k))
        if gradient is None:
            continue
        if Py_TYPE(<PyObject*>gradient) != tensor_type:
            return None
        try:
            describe(<PyObject*>gradient, &tensor)
        except (BufferError, RuntimeError):
            return None
        stored, length = storage_of(&tensor), 1
        if tensor.device.device_type != DL_CPU or stored not in (FLOAT32, FLOAT64):
            return None
        for axis in range(tensor.ndim - 1, -1, -1):
            if tensor.shape[axis] != 1 and tensor.strides[axis] != length:
                return None
            length *= tensor.shape[axis]
        if length == 1 and gradient.is_neg():
            return None
        found[count].data, found[count].size = <char*>tensor.data + tensor.byte_offset, length
        found[count].is_double = stored == FLOAT64
        doubles, singles = doubles or stored == FLOAT64, singles or stored == FLOAT32
        total += length
        if total > most or (length and tensor.data == NULL):
            return None
        gradients.append(gradient)
        count += 1
    for k in range(count):
        if found[k].is_double:
            squares += sum_of_squares64(<double*>found[k].data, found[k].size)
        else:
            squares += sum_of_squares32(<float*>found[k].data, found[k].size)
    norm = sqrt(squares)
    if not norm <= DBL_MAX:
        return None
    if norm + 1e-6 <= max_norm:
        return norm, [], doubles and not singles
    factor = max_norm / (norm + 1e-6)
    factor32 = <float>factor
    for k in range(count):
        for i in range(found[k].size):
            if found[k].is_double:
                (<double*>found[k].data)[i] *= factor
            else:
                (<float*>found[k].data)[i] *= factor32
    return norm, gradients, doubles and not singles


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


cdef inline int describe(PyObject* tensor, DLTensor* out) except -1:
    """Where a tensor is: RuntimeError or BufferError where it has no memory."""
    if export != NULL:
        return export(tensor, out)
    return described.read(<object>tensor, out)


cdef inline Storage storage_of(const DLTensor* tensor) noexcept:
    """How the elements of a tensor are stored."""
    if tensor.dtype.lanes != 1:
        return UNKNOWN
    if tensor.dtype.code == DL_FLOAT:
        return FLOAT32 if tensor.dtype.bits == 32 else FLOAT64 if tensor.dtype.bits == 64 else \
            FLOAT16 if tensor.dtype.bits == 16 else UNKNOWN
    return BFLOAT16 if tensor.dtype.code == DL_BFLOAT and tensor.dtype.bits == 16 else UNKNOWN


cdef class TensorMemory:
    """The memory of a tensor, from its lowest element to its highest, as a buffer of bytes that keeps the tensor."""
    cdef object tensor
    cdef char* low
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.low, self.size, 0, flags)


cdef object INTEGERS = {8: np.dtype(np.int8), 16: np.dtype(np.int16), 32: np.dtype(np.int32), 64: np.dtype(np.int64)}


def array_over(tensor):
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


def address_of(tensor):
    """The address of a tensor's first element, None where it has no memory of its own."""
    cdef DLTensor found
    try:
        describe(<PyObject*>tensor, &found)
    except (BufferError, RuntimeError):
        return None
    return <uintptr_t>found.data + found.byte_offset


cdef struct SeenTensor:
    # A parameter as it was when the plan was made.
    char* data
    int ndim
    bint special               # its gradient and memory are found by Python: complex, or of a type of its own
    bint plain                 # contiguous in C order
    bint native                # its gradient may be read without a Python object
    void* impl                 # where its `TensorImpl` and its gradient's `Tensor` were: a hint
    void* slot
    Py_ssize_t size, bytes
    int64_t* shape
    int64_t* strides


cdef class TorchTensors:
    """The tensors of torch that one plan moves, their gradients, and how many updates each has had.

    `owners` are the parameters, as groups have them; `locals` the strided tensors over the same memory that the plan
    was made with; `steps` has the count of updates of each, as torch keeps it; `of_special` gives, for an owner that is
    complex or of a type of its own, its local tensor; `convert_gradient` makes a strided tensor on the CPU, or a sparse
    one, of a gradient that is neither. `step_elements` moves some elements of a parameter.
    """

    cdef readonly Plan plan
    cdef readonly list owners
    cdef list locals
    cdef object of_special
    cdef object convert_gradient
    cdef object step_elements
    cdef Gradients source
    cdef Memory memory
    cdef SeenTensor* seen
    cdef PyObject** owner
    cdef Py_ssize_t count
    cdef object steps_array
    cdef float* steps32
    cdef double* steps64
    cdef char** low                    # what a step writes, by address
    cdef char** high
    cdef Py_ssize_t ranges
    cdef bint native                   # whether gradients may be read without Python objects
    cdef void*** held                  # ... those of the step in progress
    cdef list gradients                # of the step in progress
    cdef readonly list sparse          # ... of those, (index, gradient) of sparse ones
    cdef list kept_watched             # tensors of state, whose memory the plan writes
    cdef list kept_addresses
    cdef PyObject** watched
    cdef char** watched_data
    cdef Py_ssize_t watched_count
    cdef Memory watched_memory

    def __init__(self, Plan plan, list owners, list local_tensors, steps, of_special, convert_gradient,
                 step_elements, bint native):
        cdef Py_ssize_t i
        cdef int k
        cdef DLTensor found
        cdef SeenTensor* seen
        cdef int64_t length
        self.plan, self.owners, self.locals = plan, owners, local_tensors
        self.of_special, self.convert_gradient, self.step_elements = of_special, convert_gradient, step_elements
        self.memory, self.count, self.native = Memory(), len(owners), native
        self.held = <void***>self.memory.take(self.count, sizeof(void**))
        self.seen = <SeenTensor*>self.memory.take(self.count, sizeof(SeenTensor))
        self.owner = <PyObject**>self.memory.take(self.count, sizeof(PyObject*))
        self.source = Gradients(plan.layout)
        self.source.read_elsewhere = True
        self.gradients, self.sparse = [None] * self.count, []
        self.kept_watched, self.kept_addresses = [], []
        self.take_steps(steps)
        self.merge_written()
        for i in range(self.count):
            seen = &self.seen[i]
            self.owner[i] = <PyObject*>owners[i]
            describe(<PyObject*>local_tensors[i], &found)
            seen.data, seen.ndim = <char*>found.data + found.byte_offset, found.ndim
            seen.special = owners[i] is not local_tensors[i]
            seen.native = native and not seen.special and Py_TYPE(self.owner[i]) in (tensor_type, parameter_type)
            seen.shape = <int64_t*>self.memory.take(max(2 * found.ndim, 1), sizeof(int64_t))
            seen.strides = seen.shape + found.ndim
            seen.size, seen.plain, length = 1, True, 1
            for k in range(found.ndim):
                seen.shape[k], seen.strides[k] = found.shape[k], found.strides[k]
                seen.size *= found.shape[k]
            for k in range(found.ndim - 1, -1, -1):
                if found.shape[k] != 1 and found.strides[k] != length:
                    seen.plain = False
                length *= found.shape[k]
            seen.plain = seen.plain or seen.size == 0
            seen.bytes = seen.size * found.dtype.bits // 8

    cdef int take_steps(self, steps) except -1:
        """`steps`: a tensor of one float32 or float64 for each parameter."""
        cdef DLTensor found
        describe(<PyObject*>steps, &found)
        self.steps_array = steps
        self.steps32 = self.steps64 = NULL
        if found.dtype.bits == 32:
            self.steps32 = <float*>found.data
        else:
            self.steps64 = <double*>found.data
        return 0

    def watch(self, list tensors):
        """Notice, from now on, if the memory of these tensors is another than it is now."""
        self.kept_watched += tensors
        self.kept_addresses += [address_of(tensor) for tensor in tensors]
        self.watched_count = -1

    cdef int note_watched(self) except -1:
        """Make arrays of the watched tensors and their addresses, once all of them are known."""
        cdef Py_ssize_t k, count = len(self.kept_watched)
        self.watched_memory = Memory()
        self.watched = <PyObject**>self.watched_memory.take(count + 1, sizeof(PyObject*))
        self.watched_data = <char**>self.watched_memory.take(count + 1, sizeof(char*))
        for k in range(count):
            self.watched[k] = <PyObject*>self.kept_watched[k]
            self.watched_data[k] = <char*><uintptr_t>self.kept_addresses[k]
        self.watched_count = count
        return 0

    # Reading

    cdef bint is_as_seen(self, Py_ssize_t i, const DLTensor* tensor) noexcept:
        """Whether a tensor has the parameter's shape and strides."""
        cdef const SeenTensor* seen = &self.seen[i]
        cdef int k
        if tensor.ndim != seen.ndim:
            return False
        for k in range(seen.ndim):
            if tensor.shape[k] != seen.shape[k] or (tensor.strides[k] != seen.strides[k] and seen.shape[k] != 1):
                return False
        return True

    cdef bint is_moved(self, Py_ssize_t i) except -1:
        """Whether a parameter is in other memory, or of another shape, than when the plan was made."""
        cdef DLTensor found
        cdef object tensor
        if self.seen[i].special:
            tensor = self.of_special(<object>self.owner[i])
            return tensor is not self.locals[i] and not self.same_memory(i, tensor)
        if not (has_native and self.seen[i].native and describe_native(native_tensor(self.owner[i]), &found)):
            describe(self.owner[i], &found)
        return <char*>found.data + found.byte_offset != self.seen[i].data or not self.is_as_seen(i, &found)

    def state_moved(self):
        """Whether a tensor of state is in other memory than when the plan was made."""
        cdef DLTensor found
        cdef Py_ssize_t k
        if self.watched_count < 0:
            self.note_watched()
        for k in range(self.watched_count):
            describe(self.watched[k], &found)
            if <char*>found.data + found.byte_offset != self.watched_data[k]:
                return True
        return False

    cdef bint same_memory(self, Py_ssize_t i, object tensor) except -1:
        cdef DLTensor found
        describe(<PyObject*>tensor, &found)
        return <char*>found.data + found.byte_offset == self.seen[i].data and self.is_as_seen(i, &found)

    def read(self, bint as_objects=False):
        """Read where the gradients are; TypeError or ValueError unless all of them can be used as they are.

        Returns how many there are, -1 where a parameter is in other memory than the plan's. Sparse ones are put aside,
        in `sparse`. `as_objects`: as Python objects, as is needed to set all of them to zero.
        """
        cdef DLTensor found
        cdef GradientView* view
        cdef const SeenTensor* seen
        cdef Layout layout = self.plan.layout
        cdef Py_ssize_t i, present = 0
        cdef int found_native
        cdef Storage stored
        cdef object gradient
        cdef list gradients = [None] * self.count
        self.gradients = gradients
        if self.sparse:
            self.sparse = []
        if self.native:
            self.release_held()
        for i in range(self.count):
            view, seen = &self.source.views[i], &self.seen[i]
            view.g = NULL
            if has_native and self.native and not as_objects:
                self.prefetch_ahead(i)
            if self.is_moved(i):
                self.forget()
                return -1
            if has_native and seen.native and not as_objects:
                found_native = self.read_native(i)
                if found_native >= 0:
                    present += found_native
                    continue
            gradient = grad_of(self.owner[i])
            if gradient is None:
                continue
            present += 1
            if seen.special or Py_TYPE(<PyObject*>gradient) != tensor_type:
                gradient = self.converted(i, gradient)
                if gradient is None:
                    continue
            gradients[i] = gradient
            try:
                describe(<PyObject*>gradient, &found)
            except (BufferError, RuntimeError):            # (no strides: sparse, or no memory: of another device)
                gradients[i] = gradient = self.converted(i, gradient)
                if gradient is None:
                    continue
                describe(<PyObject*>gradient, &found)
            stored = storage_of(&found)
            if found.device.device_type == DL_CPU and seen.plain and seen.size != 1 and found.data != NULL \
                    and self.is_as_seen(i, &found) and same_precision(&layout.views[i], stored):
                view.g, view.stored = <char*>found.data + found.byte_offset, stored
                view.layout = view.measured_layout = NULL
                if self.may_be_written(view.g, view.g + seen.bytes):
                    self.refuse_overlap(i, gradient, view.g, view.g + seen.bytes)
            else:
                self.read_other(i, gradient)
        return present

    cdef void prefetch_ahead(self, Py_ssize_t i) noexcept:
        """Request what the next parameters and their gradients are read from: some ten lines of the cache each.

        Where those were is remembered, as a hint; nothing is read there but by torch's own functions.
        """
        cdef Py_ssize_t k = i + AHEAD
        cdef void** gradient
        if k < self.count and self.seen[k].native:
            prefetch_read(self.owner[k])
            prefetch_lines(self.seen[k].impl)
            prefetch_read(self.seen[k].slot)
        k = i + AHEAD // 2
        if k < self.count and self.seen[k].native:
            gradient = native.grad(native_tensor(self.owner[k])[0])
            self.seen[k].impl, self.seen[k].slot = native_tensor(self.owner[k])[0], <void*>gradient
            prefetch_lines(gradient[0])

    cdef int read_native(self, Py_ssize_t i) noexcept:
        """Read a gradient of the parameter's own layout: 1, 0 if there is none, -1 if it has to be read otherwise."""
        cdef DLTensor found
        cdef GradientView* view = &self.source.views[i]
        cdef const SeenTensor* seen = &self.seen[i]
        cdef void** gradient = native.grad(native_tensor(self.owner[i])[0])
        cdef Storage stored
        if gradient[0] == no_tensor:
            return 0
        if not seen.plain or seen.size <= 1 or not describe_native(gradient, &found) or found.data == NULL \
                or not self.is_as_seen(i, &found):
            return -1
        stored = storage_of(&found)
        if not same_precision(&self.plan.layout.views[i], stored) \
                or self.may_be_written(<char*>found.data, <char*>found.data + seen.bytes) \
                or native.new_handle(gradient, &self.held[i]) != 0:
            return -1
        view.g, view.stored, view.layout, view.measured_layout = <char*>found.data, stored, NULL, NULL
        return 1

    cdef void release_held(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.held[i] != NULL:
                native.delete_handle(self.held[i])
                self.held[i] = NULL

    def __dealloc__(self):
        if self.held != NULL and self.memory is not None:
            self.release_held()

    cdef object converted(self, Py_ssize_t i, object gradient):
        """A gradient of another type, layout or device as a strided tensor on the CPU; None if it is sparse."""
        gradient = self.convert_gradient(<object>self.owner[i], gradient, self.plan.layout.tensors[i].name)
        if gradient is not None and gradient.is_sparse:
            self.sparse.append((i, gradient))
            return None
        return gradient

    cdef int read_other(self, Py_ssize_t i, object gradient) except -1:
        """Read a gradient whose layout is not the parameter's own."""
        cdef DLTensor found
        cdef ArrayView array_view
        cdef Py_ssize_t[2 * MAX_DIMENSIONS] lengths
        cdef Layout layout = self.plan.layout
        cdef GradientView* view = &self.source.views[i]
        cdef char* low
        cdef char* high
        cdef int k
        cdef bint contiguous = True
        cdef Py_ssize_t length
        if gradient.is_neg() or (gradient.numel() and not gradient.data_ptr()):
            self.gradients[i] = gradient = gradient.resolve_neg().clone()
        describe(<PyObject*>gradient, &found)
        array_view.stored, array_view.ndim = storage_of(&found), found.ndim
        array_view.itemsize = found.dtype.bits // 8
        array_view.data, array_view.flags = <char*>found.data + found.byte_offset, 0
        array_view.shape, array_view.strides = lengths, lengths + MAX_DIMENSIONS
        length = array_view.itemsize
        for k in range(found.ndim - 1, -1, -1):
            lengths[k], lengths[MAX_DIMENSIONS + k] = found.shape[k], found.strides[k] * array_view.itemsize
            contiguous = contiguous and (found.shape[k] == 1 or lengths[MAX_DIMENSIONS + k] == length)
            length *= found.shape[k]
        if array_view.stored == UNKNOWN or not same_precision(&layout.views[i], array_view.stored) \
                or not same_shape(layout, i, &array_view):
            raise ValueError(f"{layout.caller}: the gradient of parameter {layout.tensors[i].name}: expected "
                             f"{stored_as(layout.tensors[i].array)} {tuple(layout.tensors[i].array.shape)} like the "
                             f"parameter, got {str(gradient.dtype).removeprefix('torch.')} {tuple(gradient.shape)}")
        view.stored, view.layout, view.measured_layout = array_view.stored, NULL, NULL
        # (an empty tensor has no address, and NULL would skip it)
        view.g = array_view.data if array_view.data != NULL else <char*>self.seen
        if not (contiguous and layout.in_order[i] and <uintptr_t>array_view.data % array_view.itemsize == 0):
            self.source.read_strided(i, &array_view)
        memory_range(&array_view, &low, &high)
        if low < high and self.may_be_written(low, high):
            self.refuse_overlap(i, gradient, low, high)
        return 0

    cdef int merge_written(self) except -1:
        """What a step writes, by address, as few ranges: those that nearly touch are one."""
        cdef const MemoryRange* written = self.plan.layout.written
        cdef Py_ssize_t k, count = self.plan.layout.written_count
        self.low = <char**>self.memory.take(count + 1, sizeof(char*))
        self.high = <char**>self.memory.take(count + 1, sizeof(char*))
        for k in range(count):
            if self.ranges > 0 and written[k].low <= self.high[self.ranges - 1] + 64:
                if written[k].high > self.high[self.ranges - 1]:
                    self.high[self.ranges - 1] = written[k].high
            else:
                self.low[self.ranges], self.high[self.ranges] = written[k].low, written[k].high
                self.ranges += 1
        return 0

    cdef inline bint may_be_written(self, const char* begin, const char* end) noexcept:
        """Whether a step may write in this range."""
        cdef Py_ssize_t half, n = self.ranges
        cdef char** low = self.low
        if n == 0:
            return False
        while n > 1:                   # (without a branch that depends on addresses, which are hard to predict)
            half = n >> 1
            low = low + half if low[half] < end else low
            n -= half
        return low[0] < end and self.high[low - self.low] > begin

    cdef int refuse_overlap(self, Py_ssize_t i, object gradient, const char* begin, const char* end) except -1:
        """ValueError if a step writes where a gradient is."""
        cdef Layout layout = self.plan.layout
        cdef const MemoryRange* written = layout.written
        cdef Py_ssize_t k
        array = array_over(gradient)
        for k in range(layout.written_count):
            if written[k].low < end and written[k].high > begin:
                tensor = layout.tensors[written[k].tensor]
                for other in tensor.written():
                    if np.shares_memory(other, array):
                        raise ValueError(f"{layout.caller}: the gradient of parameter {layout.tensors[i].name} shares "
                                         f"memory with parameter {tensor.name} or its state, which the step writes; "
                                         f"pass a copy")
        return 0

    # Stepping

    cdef void match_steps(self) noexcept:
        """Take on the counts of updates, which may have been set."""
        cdef Py_ssize_t i
        cdef int64_t present, t = self.plan.t
        cdef double counted
        for i in range(self.count):
            present = t - self.plan.scalars.skipped_steps[i]
            if self.steps32 != NULL:
                if self.steps32[i] == <float>present:
                    continue
                counted = self.steps32[i]
            else:
                counted = self.steps64[i]
            if counted != <double>present and 0 <= counted < 2.0**53:
                self.plan.scalars.skip(i, present - <int64_t>counted)

    cdef inline void count_update(self, Py_ssize_t i) noexcept:
        if self.steps32 != NULL:
            self.steps32[i] += 1
        else:
            self.steps64[i] += 1

    def step(self, grad_scale=1.0, bint zero_grads=False, double loss=NAN, dict curvature=None, keeps=None):
        """Move what has a gradient, as `read` found it. Returns the parameters that moved; None if none did.

        For a rule with `keeps` (see `Plan.step`), `curvature` has an array for some owners, by their id.
        """
        cdef Plan plan = self.plan
        cdef Py_ssize_t i, moved = 0
        cdef int64_t skipped = plan.skipped
        self.match_steps()
        for i, gradient in self.sparse:
            if gradient.sparse_dim() == 1:
                rows, values = gradient._indices()[0].contiguous(), gradient._values()
                step_rows(plan, i, array_over(rows), array_over(values), grad_scale, False)
            else:
                self.step_elements(i, gradient, grad_scale)
                plan.scalars.skip(i, -1)           # (the step that ends below counts it as skipped)
        self.source.arrays = self.gradients
        plan.bound = self.source
        if zero_grads:
            self.refuse_shared_gradients()
        try:
            plan.step(None, grad_scale, zero_grads, loss, None if curvature is None else
                      [curvature.get(id(owner)) for owner in self.owners], keeps)
        finally:
            self.source.arrays = None
            self.gradients = None
            if self.native:
                self.release_held()
        if plan.skipped != skipped:
            return None
        for i in range(self.count):
            if self.source.views[i].g != NULL:
                self.count_update(i)
                moved += 1
        for i, _ in self.sparse:
            self.count_update(i)
        if moved == self.count:
            return self.owners
        sparse = {i for i, _ in self.sparse}
        return [owner for i, owner in enumerate(self.owners) if self.source.views[i].g != NULL or i in sparse]

    def forget(self):
        """Keep no gradient that was read for a step which was not done."""
        self.gradients, self.sparse = None, []
        if self.native:
            self.release_held()

    cdef int refuse_shared_gradients(self) except -1:
        """ValueError if gradients that are set to zero share memory: one would be zero before it is read."""
        cdef Memory memory = Memory()
        cdef MemoryRange* ranges = <MemoryRange*>memory.take(self.count, sizeof(MemoryRange))
        cdef Py_ssize_t i, count = 0
        for i in range(self.count):
            if self.source.views[i].g != NULL:
                if self.source.views[i].layout != NULL:
                    gradient = self.gradients[i]
                    if any([n > 1 and step == 0 for n, step in zip(gradient.shape, gradient.stride())]):
                        raise ValueError(f"{self.plan.layout.caller}: zero_grads needs gradients whose elements do "
                                         f"not share memory")
                ranges[count].low = <char*>self.source.views[i].g
                ranges[count].high = ranges[count].low + (self.seen[i].bytes if self.seen[i].plain else 1)
                count += ranges[count].low < ranges[count].high
        sort_by_address(ranges, count)
        for i in range(count - 1):
            if ranges[i].high > ranges[i + 1].low:
                raise ValueError(f"{self.plan.layout.caller}: zero_grads needs gradients that do not share memory")
        return 0

    def has_gradient(self, Py_ssize_t i):
        """Whether the latest `read` found a gradient of this parameter."""
        return self.source.views[i].g != NULL or any([k == i for k, _ in self.sparse])


cdef class GroupWatch:
    """`param_groups` and `state` of an optimizer as they were when they were last read, to notice what has changed."""
    cdef list groups, params, values, kept
    cdef list mutable
    cdef PyObject** members            # the parameters of all groups
    cdef Memory members_memory
    cdef object state
    cdef PyObject** entries            # of state: the dictionary of each parameter, and behind it what that has
    cdef Memory memory
    cdef Py_ssize_t entry_count
    cdef list kept_entries

    def __init__(self, list groups, state):
        cdef Py_ssize_t k
        self.groups, self.kept = groups, list(groups)
        self.params = [list(group["params"]) for group in groups]
        self.values = [None] * len(groups)
        self.mutable = [False] * len(groups)
        members = [param for params in self.params for param in params]
        self.members_memory = Memory()
        self.members = <PyObject**>self.members_memory.take(len(members) + 1, sizeof(PyObject*))
        for k in range(len(members)):
            self.members[k] = <PyObject*>members[k]
        for i in range(len(groups)):
            self.take(i)
        self.take_state(state)

    def take(self, Py_ssize_t i):
        """Remember the values of a group as they are now."""
        group = self.kept[i]
        self.values[i] = [value for value in group.values()]
        self.mutable[i] = any([not isinstance(value, (int, float, str, type(None))) and not (isinstance(value, tuple)
                               and all([isinstance(item, (int, float, type(None))) for item in value]))
                               for name, value in group.items() if name not in ("params", "param_names")])

    def take_state(self, state):
        """Remember which dictionaries `state` has now."""
        cdef Py_ssize_t k
        self.state, self.kept_entries, self.memory = state, [], Memory()
        self.entry_count = len(state)
        for entry in state.values():
            self.kept_entries.append(entry)
            if isinstance(entry, dict):
                self.kept_entries += [*entry.values(), None]   # (None: the end)
        self.entries = <PyObject**>self.memory.take(len(self.kept_entries) + 1, sizeof(PyObject*))
        for k in range(len(self.kept_entries)):
            self.entries[k] = <PyObject*>self.kept_entries[k]

    def same_state(self, state):
        """Whether `state` has the same dictionaries, and those the same tensors."""
        cdef Py_ssize_t k = 0, position = 0, within
        cdef PyObject* key
        cdef PyObject* value
        cdef PyObject* item
        if state is not self.state or PyDict_Size(state) != self.entry_count:
            return False
        while PyDict_Next(state, &position, &key, &value):
            if value != self.entries[k]:
                return False
            k += 1
            if not PyDict_Check(<object>value):
                continue
            within = 0
            while PyDict_Next(<object>value, &within, &key, &item):
                if item != self.entries[k]:
                    return False
                k += 1
            if self.entries[k] != Py_None:
                return False
            k += 1
        return True

    def same_params(self, groups):
        """Whether groups are the same and hold the same parameters."""
        cdef Py_ssize_t i, k, count, first = 0
        cdef list params
        if len(groups) != len(self.kept):
            return False
        for i in range(len(self.kept)):
            group = groups[i]
            if group is not self.kept[i]:
                return False
            found = group["params"]
            if type(found) is not list:
                return False
            params = found
            count = PyList_Size(params)
            if count != PyList_Size(self.params[i]):
                return False
            for k in range(count):
                if PyList_GetItem(params, k) != self.members[first + k]:
                    return False
            first += count
        return True

    def changed_groups(self):
        """The groups whose values are others than when they were taken, or may be."""
        cdef Py_ssize_t i, k, position, count
        cdef PyObject* key
        cdef PyObject* value
        cdef list values, changed = None
        for i in range(len(self.kept)):
            values = self.values[i]
            position, k, count = 0, 0, PyList_Size(values)
            same = PyDict_Size(self.kept[i]) == count and not self.mutable[i]
            while same and PyDict_Next(self.kept[i], &position, &key, &value):
                same = value == PyList_GetItem(values, k)
                k += 1
            if not same:
                changed = [] if changed is None else changed
                changed.append(i)
        return changed
