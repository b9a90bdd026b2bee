# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.payload cimport decode, encode
from mesh.protocol.search cimport check_documents
from workers.search.operations cimport Given

@cython.locals(bodies=list, checked=list, found=list, octets=Py_ssize_t, index=Py_ssize_t, name=str, key=bytes, values=dict, body=bytes)
cpdef list _given(documents, packed)
cpdef _unpacked(body, index)
