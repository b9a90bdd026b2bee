# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.messages cimport Message, make
from mesh.service.links cimport Link
from mesh.service.requests cimport Entry, Flow, Lane, Request, accept

cdef class SessionCore:
    cdef public bytes service
    cdef public double heartbeat
    cdef public object incarnation
    cdef public dict lanes
    cdef public dict entries
    cdef public long long ended
    cdef public dict counters
    cdef public list notices
    cdef public bint draining
    cdef public dict _facts
    cdef public object _uniform
    cdef public list _timed
    cdef public dict links
    cdef public list _slots
    cdef public long long _next_link
    cdef public long long _live
    cdef public list _out
    cdef public list _starts
    cdef public list _signals
    cdef public list _link_actions
    cdef public dict _on

    @cython.locals(known=Link)
    cpdef receive(self, long long link, Message message, double now)
    @cython.locals(malformed="long long", message=object)
    cpdef long long receive_all(self, long long link, list found, double now)
    @cython.locals(link=Link, entry=Entry)
    cpdef tick(self, double now)
    @cython.locals(link=Link, entry=Entry, at=double)
    cpdef double next_deadline(self)
    cpdef list take(self)
    cpdef list take_starts(self)
    cpdef list take_signals(self)
    @cython.locals(link=Link)
    cpdef finish(self, Request request, frames, int flags=*)
    @cython.locals(entry=Entry, lane=Lane, request=Request, flags=int, deadline=double)
    cpdef _on_request(self, Link link, Message message, double now)
    @cython.locals(entry=Entry, link=Link)
    cpdef Link _end(self, Request request)
    @cython.locals(entry=Entry)
    cpdef _forget(self, Request request)
