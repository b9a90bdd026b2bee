# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.checks cimport check_key

@cython.locals(octets=bytes, fields=dict)
cpdef tuple check_document(document, str what=*)
cpdef list check_documents(documents)
