# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Link:
    cdef public str endpoint
    cdef public long long number
    cdef public int state
    cdef public double wake_at
    cdef public long long attempts
    cdef public dict requests
    cdef public dict announced
    cdef public str broker
    cdef public double heartbeat
    cdef public double opened_at
    cdef public double heard_at
    cdef public double beat_at
    cdef public double leave_at
    cdef public bint quiet
    cdef public bint wanted
