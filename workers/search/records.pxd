# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

@cython.locals(name_size=int, body_size=int, begin=int, end=int, size=int)
cpdef read_document(bytes record)
