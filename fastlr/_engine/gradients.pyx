# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where gradients are, and all that is checked of them before the first write."""
import numpy as np

from fastlr._engine.arrays cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, ArrayView, memory_range, read_array, strided_layout
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr._engine.layout cimport Layout, MemoryRange, same_precision, same_shape, sort_by_address
from fastlr._engine.memory cimport Memory
from fastlr._kernels.structs cimport BFLOAT16, GradientView

from fastlr._engine.arrays import BFloat16, as_array, overlaps_itself, stored_as
from fastlr._engine.tensor_versions import is_torch_tensor

build_id = FASTLR_LAYOUT.decode()


cdef object overlap_error(str label, object tensor):
    return ValueError(f"{label}: shares memory with parameter {tensor.name!r} or its state, which the step writes; "
                      f"pass a copy")


cdef class Gradients:
    """One array per tensor, in the tensors' order; None skips a tensor."""

    def __cinit__(self, Layout layout, str noun="grads"):
        self.memory, self.layout, self.noun = Memory(), layout, noun
        self.views = <GradientView*>self.memory.take(layout.count, sizeof(GradientView))
        self.checked = <char**>self.memory.take(layout.count, sizeof(char*))

    cdef int read(self, list arrays, bint writable) except -1:
        """Read where gradients are; ValueError or TypeError unless all of them can be used as they are."""
        cdef Layout layout = self.layout
        cdef GradientView* gradient
        cdef ArrayView array_view
        cdef Py_ssize_t i
        if arrays is not self.arrays:
            self.torch_tensors = None
        arrays = list(arrays)          # (another thread may be changing the caller's)
        if len(arrays) != layout.count:
            raise ValueError(f"{layout.caller}: expected {layout.count} gradients, got {len(arrays)}")
        self.arrays = arrays
        for i in range(layout.count):
            array = arrays[i]
            gradient = &self.views[i]
            if self.objects != NULL:
                self.other_objects |= self.objects[i] != <void*>array
                self.objects[i] = <void*>array
            if array is None:
                gradient.g = NULL
                continue
            if not read_array(array, &array_view):
                arrays[i] = array = self.converted(i, array, writable)
                read_array(array, &array_view)
            if not same_precision(&layout.views[i], array_view.stored) or not same_shape(layout, i, &array_view):
                raise self.mismatch(i, array)
            if writable and not array_view.flags & WRITEABLE:
                raise ValueError(f"{self.label(i)}: zero_grads needs gradients that may be written, this is read-only")
            gradient.g, gradient.stored = array_view.data, array_view.stored
            gradient.layout = gradient.measured_layout = NULL
            if not (array_view.flags & C_CONTIGUOUS and array_view.flags & ALIGNED and layout.in_order[i]):
                self.read_strided(i, &array_view)
            elif array_view.data == self.checked[i]:
                continue
            tensor = layout.overlapped(array, &array_view)
            if tensor is not None:
                raise overlap_error(self.label(i), tensor)
            # (checked for the widest type that may come: from the same address, others reach no further)
            self.checked[i] = NULL
            if gradient.layout == NULL and layout.in_order[i] and array_view.itemsize >= 4:
                self.checked[i] = array_view.data
        if writable:
            self.refuse_shared(arrays)
        return 0

    cdef int read_strided(self, Py_ssize_t i, const ArrayView* array_view) except -1:
        """Find how a gradient is traversed in the order of the parameter, and in its own."""
        cdef Layout layout = self.layout
        cdef GradientView* gradient = &self.views[i]
        if self.layouts == NULL:
            self.measured_layouts = layout.strided_layouts(self.memory)
            self.layouts = layout.strided_layouts(self.memory)
        if strided_layout(&self.layouts[i], array_view, layout.axes + layout.first_axis[i]):
            gradient.layout = &self.layouts[i]
        if layout.in_order[i]:
            gradient.measured_layout = gradient.layout
        elif strided_layout(&self.measured_layouts[i], array_view, NULL):
            gradient.measured_layout = &self.measured_layouts[i]
        return 0

    cdef int refuse_shared(self, list arrays) except -1:
        """ValueError if gradients that are set to zero share memory: one would be zero before it is read."""
        cdef Py_ssize_t i, k, count = 0
        cdef ArrayView array_view
        cdef MemoryRange* zeroed
        cdef char* end = NULL
        if self.zeroed == NULL:
            self.zeroed = <MemoryRange*>self.memory.take(self.layout.count, sizeof(MemoryRange))
        zeroed = self.zeroed
        for i in range(self.layout.count):
            if self.views[i].g != NULL:
                if self.views[i].layout != NULL and overlaps_itself(arrays[i]):
                    raise ValueError(f"{self.label(i)}: zero_grads needs a gradient whose elements do not share memory")
                read_array(arrays[i], &array_view)
                memory_range(&array_view, &zeroed[count].low, &zeroed[count].high)
                zeroed[count].tensor = i
                count += zeroed[count].low < zeroed[count].high
        sort_by_address(zeroed, count)
        for i in range(count):
            for k in range(i if zeroed[i].low < end else 0):
                if np.shares_memory(arrays[zeroed[k].tensor], arrays[zeroed[i].tensor]):
                    raise ValueError(f"{self.label(zeroed[i].tensor)}: zero_grads needs gradients of their own, this "
                                     f"shares memory with {self.label(zeroed[k].tensor)}")
            end = max(end, zeroed[i].high)
        return 0

    cdef object converted(self, Py_ssize_t i, object array, bint writable):
        """A gradient that is not a NumPy array of a known type, as one over the same memory."""
        cdef ArrayView array_view
        if is_torch_tensor(array):
            if self.torch_tensors is None:
                self.torch_tensors = []
            self.torch_tensors.append(array)
        array = as_array(array, self.label(i), writable)
        if array.dtype == np.uint16 and self.layout.views[i].stored == BFLOAT16:
            array = array.view(BFloat16)
        if not read_array(array, &array_view):
            raise self.mismatch(i, array)
        return array

    cdef object mismatch(self, Py_ssize_t i, object array):
        parameter = self.layout.tensors[i].array
        return ValueError(f"{self.label(i)}: expected {stored_as(parameter)} {parameter.shape} like the parameter, "
                          f"got {stored_as(array) or array.dtype} {array.shape}")

    cdef str label(self, Py_ssize_t i):
        """What errors call the gradient of a tensor."""
        called = self.layout.tensors[i].label
        return called if self.noun == "grads" else called.replace("grads", self.noun, 1)

    cdef int set_to_zero(self) except -1:
        for array in self.arrays:
            if array is not None:
                array[...] = 0
        return 0
