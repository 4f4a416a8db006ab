# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A loop of one's own over fastlr's rules, and memory of one's own for its interfaces."""
from fastlr.rules.element cimport real
from fastlr.rules.moments cimport AdamScalars, AdamW, adam, adam_scalars
from fastlr.rules.scalars cimport StepScalars, step_scalars
from libc.stdlib cimport calloc, free


def train(real[::1] p, real[:, ::1] gradients, real[::1] m, real[::1] v, double lr, double beta1,
          double beta2, double eps, double weight_decay):
    """One AdamW step for each row of gradients."""
    cdef AdamW h = AdamW(beta1, beta2, eps, weight_decay)
    cdef StepScalars now
    cdef AdamScalars s
    cdef Py_ssize_t t, i
    with nogil:
        for t in range(gradients.shape[0]):
            now = step_scalars(lr, t + 1)
            now.decay_factor = 1 - lr * weight_decay
            adam_scalars(beta1, beta2, &now, &s)
            for i in range(p.shape[0]):
                p[i] = <real>now.decay_factor * p[i]
                adam(h, now, s, &p[i], gradients[t, i], &m[i], &v[i])


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
