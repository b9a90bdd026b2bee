# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from mesh.client.calls cimport Call

cdef class Timers:
    cdef public list _heap
    cdef public Py_ssize_t _dead

    cpdef add(self, double at, Call call)
    cpdef list due(self, double now)
    cpdef double next_at(self)
    cpdef ended(self)
