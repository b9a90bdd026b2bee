# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.core cimport ClientCore
from mesh.protocol.messages cimport Message

cdef class Wire:
    cdef public ClientCore core
    cdef public object clock
    cdef public long long changed
    cdef public double turned_at
    cdef public object on_open
    cdef public object on_close
    cdef public dict _links
    cdef public dict _held_back

    @cython.locals(core=ClientCore)
    cpdef bint turn(self, int rounds=*)
    cpdef bint flush(self)
    @cython.locals(core=ClientCore, portion=Py_ssize_t)
    cpdef bint _receive(self, double now)
    @cython.locals(core=ClientCore, message=object)
    cpdef _feed(self, long long number, list found, double now)
    @cython.locals(core=ClientCore, out=list)
    cpdef bint _send(self, double now)
    cpdef _send_over(self, object number, list entries, double now)
    cpdef _push(self, object number, list entries)
