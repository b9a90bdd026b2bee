# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.aio_driver cimport LoopDriver
from mesh.client.base cimport Options, pack, result
from mesh.client.calls cimport Call
from mesh.ending cimport Ending

cdef class Connection:
    cdef readonly object settings
    cdef object _make
    cdef LoopDriver _driver

    cpdef LoopDriver driver(self)

cdef class AwaitedCall(Ending):
    cdef Connection _connection
    cdef Options _options
    cdef object _target
    cdef tuple _args
    cdef dict _kwargs
    cdef Call _call
    cdef object _streaming

    @cython.locals(args=tuple, driver=LoopDriver, call=Call)
    cpdef _begin(self)
    cpdef _give_up(self)
