# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from broker.state cimport Call, Client, Seat

cdef class FairQueue:
    cdef public list _classes
    cdef public list _lengths
    cdef public Py_ssize_t _passed
    cdef public Py_ssize_t length
    cpdef push(self, Call call)
    cpdef push_front(self, Call call)
    @cython.locals(priority=Py_ssize_t, call=Call)
    cpdef Call pop(self)
    @cython.locals(lengths=list, top=Py_ssize_t, found=Py_ssize_t, priority=Py_ssize_t, since=double, first=Call)
    cpdef Py_ssize_t _turn(self)
    cpdef Py_ssize_t ahead(self, Py_ssize_t priority)
    cpdef remove(self, Call call)

cdef class CreditPool:
    cdef public list _buckets
    cdef public Py_ssize_t _top
    cdef public Py_ssize_t size
    @cython.locals(free=Py_ssize_t)
    cpdef put(self, Seat seat)
    cpdef discard(self, Seat seat)
    @cython.locals(top=Py_ssize_t, last=Seat, seat=Seat)
    cpdef Seat take(self)
    @cython.locals(last=Seat, first=Seat)
    cpdef _link(self, Seat seat, Py_ssize_t bucket)
    @cython.locals(before=Seat, after=Seat)
    cpdef _unlink(self, Seat seat)
    @cython.locals(top=Py_ssize_t, buckets=list)
    cpdef _settle(self)

cdef class ExpiryWheel:
    cdef public dict _slots
    cdef public list _order
    @cython.locals(number="long long", slot=dict)
    cpdef add(self, Call call, double due_at)
    @cython.locals(number="long long", slot=dict)
    cpdef discard(self, Call call)
    cpdef list due(self, double now)
    cpdef double next_at(self)
