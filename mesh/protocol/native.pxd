# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.messages cimport Message, make

cdef object _pack
cdef object _unpack

@cython.locals(microseconds=object, service=bytes, method=bytes, header=bytes, timeout=double)
cpdef list encode(Message message, peer=*)

@cython.locals(count=Py_ssize_t, magic=int, version=int, command=int, flags=int, priority=int, code=int, service_size=int, method_size=int, tag=object, microseconds=double, credit="long long", incarnation=object, sequence=object, service=bytes, method=bytes, middle=Py_ssize_t, body_frames=Py_ssize_t)
cpdef Message decode(object frames, Py_ssize_t start=*)
