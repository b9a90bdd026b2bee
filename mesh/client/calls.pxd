# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.messages cimport Message
from mesh.resilience.breaker cimport Breaker

cdef class Target:
    cdef public bytes name
    cdef public object incarnation
    cdef public Breaker breaker
    cdef public set idempotent

cdef class Reader:
    cdef public object inbox
    cdef public long long window
    cdef public long long unread
    cdef public long long unseen
    cdef public bint fixed
    cdef public double item_size
    cdef public long long step

cdef class Writer:
    cdef public long long granted
    cdef public long long sent
    cdef public bint ended

cdef class Call:
    cdef public object sequence
    cdef public Target target
    cdef public bytes method
    cdef public object frames
    cdef public long long size
    cdef public int flags
    cdef public int priority
    cdef public double expires_at
    cdef public long long retries
    cdef public object idempotent
    cdef public long long ticket
    cdef public int state
    cdef public long long link
    cdef public long long credit
    cdef public long long attempts
    cdef public double retry_at
    cdef public int retry_code
    cdef public double sent_at
    cdef public bint touched
    cdef public bint maybe_executed
    cdef public Reader reader
    cdef public Writer writer
    cdef public Message reply
    cdef public object error
    cdef public object last_error
    cdef public object handle

    cpdef forget_body(self)

@cython.locals(call=Call)
cpdef Call open_call(object sequence, Target target, bytes method, object frames, long long size, int flags, int priority, double expires_at, long long retries, object idempotent, long long ticket)
