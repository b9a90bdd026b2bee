# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class Op:
    cdef public str verb
    cdef public str bucket
    cdef public dict arguments
    cdef public tuple call
    cdef public tuple once

    cpdef parts(self)
    @cython.locals(part=Op)
    cpdef long long octets(self)
