# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.calls cimport Call

cdef class Timers:
    cdef public object _queue
    cdef public list _heap
    cdef public double _last_at
    cdef public Py_ssize_t _dead

    cpdef add(self, double at, Call call)
    cpdef list due(self, double now)
    @cython.locals(entry=tuple, call=Call, first=double)
    cpdef double next_at(self)
    cpdef ended(self)
    cpdef Call _take(self)
    cpdef _forget(self)
