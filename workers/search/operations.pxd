# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Given:
    cdef public str id
    cdef public bytes key
    cdef public dict values
    cdef public bytes body
