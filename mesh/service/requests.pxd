# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.context cimport Call
from mesh.protocol.messages cimport Message
from mesh.service.links cimport Link

cdef class Lane:
    cdef public str name
    cdef public long long capacity
    cdef public object epoch
    cdef public long long in_hand

cdef class Entry:
    cdef public object method
    cdef public Lane lane
    cdef public long long limit
    cdef public long long running
    cdef public object waiting
    cdef public object timers
    cdef public bint streams
    cdef public object timeout

cdef class Flow:
    cdef public long long granted
    cdef public long long sent
    cdef public long long allowed
    cdef public long long arrived
    cdef public object inbox
    cdef public object credit_waker
    cdef public object chunk_waker

cdef class Request(Call):
    cdef public int flags
    cdef public object frames
    cdef public object tag
    cdef public Link link
    cdef public Entry entry
    cdef public Flow flow
    cdef public object handle
    cdef public bint done

    cpdef int refusal(self, double now)

@cython.locals(request=Request, flags=int, frames=object)
cpdef Request accept(Message message, Link link, Entry entry, double deadline)
