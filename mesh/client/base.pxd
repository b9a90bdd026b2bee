# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.calls cimport Call
from mesh.client.core cimport ClientCore
from mesh.protocol.messages cimport Message
from mesh.protocol.payload cimport decode, encode

cdef class Options:
    cdef readonly object timeout
    cdef readonly object retries
    cdef readonly object idempotent
    cdef readonly int priority
    cdef readonly object credit
    cdef readonly bytes metadata

cdef dict _resolved

cpdef tuple resolve(object target)

@cython.locals(service=bytes, method=bytes, expires_at=double, metadata=bytes)
cpdef Call begin(ClientCore core, Options options, object target, bytes frame, double now, int flags=*)

@cython.locals(index=Py_ssize_t)
cpdef tuple pack(tuple args, dict kwargs)

cpdef object result(Call call)

cpdef object value_of(Call call, Message message)
