# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Call:
    cdef public object target
    cdef public double deadline
    cdef public object incarnation
    cdef public object sequence
    cdef public object metadata_body
    cdef public int cancel_code
