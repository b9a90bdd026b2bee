# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class RetryBudget:
    cdef public double ratio
    cdef public double rate
    cdef public double cap
    cdef public double _saved
    cdef public double _at

    cpdef called(self, long long count=*)
