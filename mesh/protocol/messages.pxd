# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class Message:
    cdef public int command
    cdef public int flags
    cdef public int priority
    cdef public int code
    cdef public object tag
    cdef public double timeout
    cdef public long long credit
    cdef public object incarnation
    cdef public object sequence
    cdef public bytes service
    cdef public bytes method
    cdef public object frames


@cython.locals(message=Message)
cpdef Message make(int command, int flags, int priority, int code, object tag, double timeout, long long credit, object incarnation, object sequence, bytes service, bytes method, object frames)
