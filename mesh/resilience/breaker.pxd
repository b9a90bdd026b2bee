# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Breaker:
    cdef public object _settings
    cdef public object _rng
    cdef public str state
    cdef public double open_until
    cdef public long long _generation
    cdef public long long _openings
    cdef public long long _passed
    cdef public long long _probing
    cdef public double _probing_until
    cdef public long long _successes
    cdef public long long _failures
    cdef public list _past_successes
    cdef public list _past_failures
    cdef public double _slice_ends_at

    cpdef long long allow(self, double now)
    cpdef success(self, long long ticket, double now)
    cpdef failure(self, long long ticket, double now)
    cpdef abandoned(self, long long ticket)
