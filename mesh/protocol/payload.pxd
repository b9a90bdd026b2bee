# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef list _packers

@cython.locals(data=bytes)
cpdef bytes encode(object value, str root=*)

cpdef object decode(object data)
