# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

@cython.locals(stem=bytes, packed=bytes, at=Py_ssize_t)
cpdef list row_keys(number, rows)
@cython.locals(head=bytes)
cpdef bytes pack_document(bytes key, bytes body, vectors=*)
@cython.locals(name_size=int, body_size=int, begin=int, end=int, size=int)
cpdef read_document(bytes record)
