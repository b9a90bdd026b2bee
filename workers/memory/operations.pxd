# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class Op:
    cdef public str verb
    cdef public str ns
    cdef public dict arguments
    cdef public tuple call

    cpdef parts(self)
    @cython.locals(op=Op)
    cpdef bint grows(self)
    @cython.locals(op=Op)
    cpdef bint reads(self)
    @cython.locals(op=Op)
    cpdef long long octets(self)

@cython.locals(op=Op, part=Op)
cpdef set verbs_in(ops)
