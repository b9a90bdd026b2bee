# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.calls cimport Call
from mesh.client.core cimport ClientCore

cdef class LoopDriver:
    cdef object __weakref__
    cdef public ClientCore core
    cdef public object wire
    cdef public object loop
    cdef public object _abandoned
    cdef public bint _scheduled
    cdef public object _timer
    cdef public double _timer_at
    cdef public bint _forked

    cpdef Call begin(self, object options, object target, bytes frame, int flags=*)
    cpdef ended(self, Call call)
    cpdef soon(self)
    @cython.locals(core=ClientCore, call=Call, at=double)
    cpdef _turn(self)
