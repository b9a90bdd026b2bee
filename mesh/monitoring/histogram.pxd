# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef double FIRST
cdef Py_ssize_t LAST

cdef class Histogram:
    cdef public list counts
    cdef public double sum

    @cython.locals(end=double, bucket=Py_ssize_t)
    cpdef observe(self, double seconds)

cdef class Latency:
    cdef public Histogram _straight
    cdef public Histogram _queue
    cdef public Histogram _service
    cdef public Histogram _total

    cpdef observe(self, double queued_at, double given_at, double now)
