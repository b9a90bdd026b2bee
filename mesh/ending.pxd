# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class Ending:
    cdef public object _asyncio_future_blocking
    cdef object _loop
    cdef bint _done
    cdef bint _cancelled
    cdef object _reason
    cdef object _callback
    cdef object _context

    @cython.locals(callback=object, context=object)
    cpdef wake(self, object ended=*)
    cpdef result(self)
