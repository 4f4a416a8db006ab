# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A loop of one's own over fastlr's rules, and memory of one's own for its doors."""
from fastlr cimport AdamW, StepScalars, at, real, update
from libc.stdlib cimport calloc, free


def train(real[::1] p, real[:, ::1] gradients, real[::1] m, real[::1] v, double lr, double beta1,
          double beta2, double eps, double weight_decay):
    """One AdamW step for each row of gradients."""
    cdef AdamW h = AdamW(beta1, beta2, eps, weight_decay)
    cdef StepScalars now
    cdef Py_ssize_t t, i
    with nogil:
        for t in range(gradients.shape[0]):
            now = at(h, lr, t + 1)
            for i in range(p.shape[0]):
                update(h, now, &p[i], gradients[t, i], &m[i], &v[i], <real*>NULL, <real*>NULL)


cdef class Weights:
    """Memory that NumPy has never seen."""
    cdef float* memory
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.memory, self.size = <float*>calloc(size, sizeof(float)), size
        if self.memory == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.memory)

    def step(self, kernel, float[::1] g, float[::1] m, float[::1] v, int t, double lr):
        """Move them by a function of fastlr.kernels, all as typed memoryviews."""
        cdef float[::1] p = <float[:self.size]>self.memory
        kernel(p, g, m, v, t=t, lr=lr)

    def view(self):
        """The weights as a typed memoryview."""
        cdef float[::1] p = <float[:self.size]>self.memory
        return p
