# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cpdef bytes seal(bytes key, value)
@cython.locals(copy=bytes, value=bytes, stored=bytes)
cpdef bytes unseal(bytes key, sealed, str table=*)
