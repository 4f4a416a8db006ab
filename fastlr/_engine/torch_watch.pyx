# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What an optimizer of torch had when it was last read: its groups, its state, and where the tensors of that are."""
from libc.stdint cimport uintptr_t
from fastlr._engine.dlpack cimport DLTensor
from fastlr._engine.memory cimport Memory
from fastlr._engine.torch_tensors cimport PyList_GetItem, PyList_Size, PyObject, address_of, describe
from fastlr._kernels.build_id cimport FASTLR_LAYOUT

build_id = FASTLR_LAYOUT.decode()

cdef extern from "Python.h":
    bint PyDict_Next(object, Py_ssize_t*, PyObject**, PyObject**)
    Py_ssize_t PyDict_Size(object)
    bint PyDict_Check(object)
    PyObject* Py_None


cdef class StateWatch:
    """Tensors of state, whose memory a plan writes, to notice if the memory of one is another."""
    cdef list tensors, addresses
    cdef PyObject** watched
    cdef char** data
    cdef Py_ssize_t count              # -1: not noted yet
    cdef Memory memory

    def __init__(self):
        self.tensors, self.addresses, self.count = [], [], 0

    def add(self, list tensors):
        """Notice, from now on, if the memory of these tensors is another than it is now."""
        self.tensors += tensors
        self.addresses += [address_of(tensor) for tensor in tensors]
        self.count = -1

    cdef int note(self) except -1:
        """Make arrays of the tensors and their addresses, once all of them are known."""
        cdef Py_ssize_t k, count = len(self.tensors)
        self.memory = Memory()
        self.watched = <PyObject**>self.memory.take(count + 1, sizeof(PyObject*))
        self.data = <char**>self.memory.take(count + 1, sizeof(char*))
        for k in range(count):
            self.watched[k] = <PyObject*>self.tensors[k]
            self.data[k] = <char*><uintptr_t>self.addresses[k]
        self.count = count
        return 0

    def moved(self):
        """Whether one of the tensors is in other memory than when it was taken."""
        cdef DLTensor found
        cdef Py_ssize_t k
        if self.count < 0:
            self.note()
        for k in range(self.count):
            describe(self.watched[k], &found)
            if <char*>found.data + found.byte_offset != self.data[k]:
                return True
        return False


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
                               for name, value in group.items() if name not in ("params", "param_names", "constraint")])

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
