# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.base cimport Options, begin
from mesh.client.calls cimport Call
from mesh.client.core cimport ClientCore
from mesh.ending cimport Ending

cdef class LoopDriver:
    cdef object __weakref__
    cdef public ClientCore core
    cdef public object wire
    cdef public object loop
    cdef public object _abandoned
    cdef public object _woken
    cdef object _clock
    cdef object _ended
    cdef public bint _scheduled
    cdef public object _timer
    cdef public double _timer_at
    cdef public bint _forked

    cpdef Call begin(self, Options options, object target, bytes frame, int flags=*)
    cpdef Ending ended(self, Call call)
    cpdef soon(self)
    @cython.locals(core=ClientCore, call=Call, at=double, unread=bint)
    cpdef _turn(self)
    @cython.locals(ending=Ending, before=bint)
    cpdef _step(self)
