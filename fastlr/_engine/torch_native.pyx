# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Where torch's own objects have what a step reads: gradients are read, and writes counted, without Python objects.

Each backward pass makes new gradients. A Python object for each costs 0.15 to 0.5 us, and functions of libtorch 0.2 us,
as the core cannot load what the next gradients need while it executes so many instructions: 500 gradients that are not
in the caches take 100 us by them, 20 us by their addresses alone.

fastlr is not compiled against torch, so where an object has its parts is found when torch is imported: at which offset
some tensors of several types, shapes and storages have what Python says of each. Nothing is used unless each offset is
the only one that agrees with all of them, what is special about a tensor shows in the words that are compared, and
writes that are counted are those that Python sees.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from fastlr._engine.torch_tensors cimport (
    Py_TYPE, PyList_GetItem, PyList_Size, PyObject, parameter_type, tensor_type,
)
from fastlr._kernels.build_id cimport FASTLR_LAYOUT

import sys

build_id = FASTLR_LAYOUT.decode()

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(_MSC_VER)
    #include <intrin.h>
    #define fastlr_count_write(x) _InterlockedIncrement((volatile long *)(x))
    #else
    #define fastlr_count_write(x) __atomic_fetch_add((uint32_t *)(x), 1, __ATOMIC_RELAXED)
    #endif
    """
    void count_write "fastlr_count_write"(void* version) noexcept

cdef enum:
    TENSOR_BYTES = 176                 # of a `TensorImpl` that may be read: it has 184 or more
    VERSION_BYTES = 24                 # of what has a version

cdef NativeLayout at
cdef NativeFunctions native
cdef bint has_native = False
cdef object count_by_torch = None
STORAGE_BYTES = NATIVE_STORAGE


cpdef count_writes(list tensors):
    """Increment the version of each tensor, by which autograd notices that a value that it saved was written."""
    cdef Py_ssize_t k
    cdef PyObject* tensor
    cdef void* impl
    cdef void* version
    cdef list others = None
    for k in range(PyList_Size(tensors)):
        tensor = PyList_GetItem(tensors, k)
        if has_native and (Py_TYPE(tensor) == parameter_type or Py_TYPE(tensor) == tensor_type):
            impl = pointer_at(tensor, at.impl)
            version = pointer_at(impl, at.version)
            if word_at(impl, at.keys) == at.plain_keys and version != NULL:
                count_write(<char*>version + at.count)
                continue
        others = [] if others is None else others
        others.append(<object>tensor)
    if others is not None:
        count_by_torch(others)


cdef object value_at(uintptr_t address, Py_ssize_t offset, int width):
    cdef const char* x = <const char*>address + offset
    return (<const uint16_t*>x)[0] if width == 2 else (<const uint32_t*>x)[0] if width == 4 else (<const uint64_t*>x)[0]


cdef list offsets(list addresses, list values, Py_ssize_t begin, Py_ssize_t end, int width):
    """At which offsets all objects have their values."""
    return [offset for offset in range(begin, end - width + 1, width)
            if all([value_at(address, offset, width) == value
                    for address, value in zip(addresses, values, strict=True)])]


cdef Py_ssize_t only(list found) except -2:
    """The only offset; LookupError if there is none, or if there are several."""
    if len(found) != 1:
        raise LookupError
    return found[0]


def use_native(dict functions, list samples, list special, Py_ssize_t object_size, count):
    """Read gradients and count writes without Python objects from now on, if all offsets are found.

    `functions` has the addresses of libtorch's functions, none if one is missing. `samples` are pairs of a tensor and
    what Python says of it; `special` are tensors that must not be taken for plain ones, each with its keys and, where
    these are those of plain tensors, with its storage and the bytes which that had before. `count(tensors)` is torch's
    own way to count writes.
    """
    global has_native, count_by_torch
    has_native, count_by_torch = False, count
    if not functions:
        return False
    try:
        find(functions, samples, special, object_size)
        has_native = True
        confirm_counts(samples)
    except LookupError:
        has_native = False
    return has_native


cdef int find(dict functions, list samples, list special, Py_ssize_t object_size) except -1:
    """Find every offset; LookupError where that is not possible."""
    cdef Py_ssize_t offset
    cdef int k
    cdef void** (*grad)(void*) noexcept
    native.new_handle = <int (*)(void***) noexcept><uintptr_t>functions["new_handle"]
    native.assign = <int (*)(void**, void**) noexcept><uintptr_t>functions["assign"]
    native.delete_handle = <int (*)(void**) noexcept><uintptr_t>functions["delete_handle"]
    grad = <void** (*)(void*) noexcept><uintptr_t>functions["grad"]
    said = [facts for _, facts in samples]
    objects = [<uintptr_t><PyObject*>tensor for tensor, _ in samples]
    impls = [facts["impl"] for facts in said]
    storages = [facts["storage"] for facts in said]

    at.impl = only(offsets(objects, impls, 16, object_size, 8))
    at.keys = only(offsets(impls, [facts["keys"] for facts in said], 8, TENSOR_BYTES, 8))
    at.dtype = only(offsets(impls, [facts["dtype"] for facts in said], 8, TENSOR_BYTES, 2))
    at.first = only(offsets(impls, [facts["first"] for facts in said], 8, TENSOR_BYTES, 8))
    at.storage = only(offsets(impls, storages, 8, TENSOR_BYTES, 8))
    at.data = only(offsets(storages, [facts["data"] for facts in said], 8, NATIVE_STORAGE, 8))
    at.shape = only([offset for offset in offsets(impls, [len(facts["shape"]) for facts in said], 8,
                                                  TENSOR_BYTES - 16 * NATIVE_AXES, 8)
                     if all([[value_at(facts["impl"], offset + 8 * (1 + first + k), 8) for first, lengths in
                              ((0, facts["shape"]), (NATIVE_AXES, facts["strides"])) for k in range(len(lengths))]
                             == [*facts["shape"], *facts["strides"]] for facts in said])])

    # (a tensor that is detached has the same version, one that is `data` of another has its own)
    at.version = only([offset for offset in range(8, TENSOR_BYTES, 8)
                       if all([value_at(facts["impl"], offset, 8) == value_at(facts["detached"]._cdata, offset, 8)
                               != value_at(facts["other"]._cdata, offset, 8) != 0 for facts in said])])
    at.count = only(offsets([value_at(impl, at.version, 8) for impl in impls], [facts["version"] for facts in said],
                            8, VERSION_BYTES, 4))

    places = [<uintptr_t>grad(<void*><uintptr_t>facts["impl"]) if facts["leaf"] else None for facts in said]
    at.autograd = only([offset for offset in range(8, TENSOR_BYTES, 8)
                        if offset not in (at.storage, at.version)      # (which may have been allocated beside it)
                        and len({place - value_at(impl, offset, 8) for place, impl in zip(places, impls, strict=True)
                                 if place is not None}) == 1])
    at.grad = next(place - value_at(impl, at.autograd, 8) for place, impl in zip(places, impls, strict=True)
                   if place is not None)
    if not 0 < at.grad < 256:
        raise LookupError
    nothing = {value_at(place, 0, 8) for place, facts in zip(places, said, strict=True)
               if place is not None and facts["grad"] is None}
    if len(nothing) != 1:
        raise LookupError
    at.no_tensor = <void*><uintptr_t>nothing.pop()
    for place, facts in zip(places, said, strict=True):
        if place is not None and facts["grad"] is not None and (
                value_at(place, 0, 8) != facts["grad"] or facts["grad"] == <uintptr_t>at.no_tensor):
            raise LookupError

    # What is special about a tensor shows in its keys, or in bytes of its storage that plain tensors have in common
    if len({facts["keys"] for facts in said}) != 1:
        raise LookupError
    at.plain_keys, at.storage_words = said[0]["keys"], <int>((NATIVE_STORAGE - at.data) // 8)
    plain = [facts["storage"] for facts in said if facts["owned"]]
    for k in range(at.storage_words):
        offset = at.data + 8 * k
        changed = varied = 0
        for _, _, storage, before in special:
            if storage is not None:
                changed |= value_at(storage, offset, 8) ^ int.from_bytes(before[offset:offset + 8], sys.byteorder)
        for storage in plain:
            varied |= value_at(storage, offset, 8) ^ value_at(plain[0], offset, 8)
        at.storage_mask[k] = whole_bytes(changed) & ~whole_bytes(varied)
        at.storage_value[k] = value_at(plain[0], offset, 8) & at.storage_mask[k]
    for tensor, keys, storage, _ in special:
        if value_at(tensor._cdata, at.keys, 8) != keys:
            raise LookupError
        if keys == at.plain_keys and (storage is None or is_plain_storage(<void*><uintptr_t>storage)):
            raise LookupError
    return 0


cdef uint64_t whole_bytes(uint64_t bits) noexcept:
    """All bits of each byte that has one."""
    cdef uint64_t found = 0
    cdef int k
    for k in range(0, 64, 8):
        if bits >> k & 255:
            found |= <uint64_t>255 << k
    return found


cdef int confirm_counts(list samples) except -1:
    """LookupError unless Python sees each write that is counted, and no other."""
    before = [tensor._version for tensor, _ in samples]
    for k, (tensor, _) in enumerate(samples):
        count_writes([tensor])
        before[k] += 1
        if [other._version for other, _ in samples] != before:
            raise LookupError
    return 0
