# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Route:
    cdef public str endpoint
    cdef public Link link
    cdef public double open_at
    cdef public long long failures
    cdef public str reason
    cdef public bint wanted

cdef class Link:
    cdef public long long number
    cdef public Route route
    cdef public int state
    cdef public long long open
    cdef public double latency
    cdef public double heartbeat
    cdef public double opened_at
    cdef public double heard_at
    cdef public double beat_at
    cdef public double asked_at

    cpdef begin(self, double now)
    cpdef double due_at(self)
    cpdef double silent_at(self, long long beats)

cdef class Links:
    cdef public list routes
    cdef public dict by_number
    cdef public list usable
    cdef public list actions
    cdef public object _settings
    cdef public object _greeting
    cdef public object _rng
    cdef public object _out
    cdef public long long _last_number
    cdef public str _trouble

    cpdef Link choose(self, long long avoid)
    cpdef double next_at(self)
    cpdef list watch(self, double now)
