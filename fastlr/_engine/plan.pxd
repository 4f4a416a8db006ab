# cython: language_level=3

cdef enum:
    CHUNK = 32768              # elements a thread takes at a time: four float32 streams of it stay in its cache
    ALONE = 32768              # a step over fewer elements wakes nobody
