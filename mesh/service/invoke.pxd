# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.payload cimport decode, encode
from mesh.service.requests cimport Request
from mesh.service.session cimport SessionCore

cdef class Outbox:
    cdef public object rouse
    cdef object _outcomes

    cpdef add(self, tuple outcome)
    cpdef post(self, tuple outcome)

@cython.locals(operation=int, request=Request, streaming=Request)
cpdef apply(SessionCore session, object outcomes)

@cython.locals(request=Request, code=int, args=list, kwargs=dict)
cpdef run_ready(object queue, Outbox outbox, object clock, object task)

cpdef tuple arguments(Request request, object incoming=*)

@cython.locals(items=list)
cpdef tuple _split(object value)

cpdef tuple outcome(Request request, object value)
