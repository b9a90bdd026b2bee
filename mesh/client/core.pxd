# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.client.calls cimport Call, Reader, Target, Writer, open_call
from mesh.client.links cimport Link, Links
from mesh.client.timers cimport Timers
from mesh.protocol.messages cimport Message, make
from mesh.resilience.breaker cimport Breaker
from mesh.resilience.budget cimport RetryBudget

cdef class ClientCore:
    cdef public object settings
    cdef public object incarnation
    cdef public dict calls
    cdef public dict counters
    cdef public long long bytes
    cdef public bint closed
    cdef public RetryBudget budget
    cdef public object _rng
    cdef public list _out
    cdef public Links _links
    cdef public dict _targets
    cdef public dict _unsent
    cdef public Timers _expiries
    cdef public Timers _pauses
    cdef public long long _last_sequence
    cdef public list _news
    cdef public dict _handlers
    cdef public long long _max_calls
    cdef public long long _max_bytes
    cdef public long long _max_body
    cdef public dict _body_limits
    cdef public double _max_timeout
    cdef public long long _retries
    cdef readonly double timeout

    @cython.locals(found=Link)
    cpdef receive(self, long long link, Message message, double now)
    cpdef tick(self, double now)
    cpdef double next_deadline(self)
    cpdef list take(self)
    cpdef list take_news(self)
    @cython.locals(target=Target, size="long long", ticket="long long", call=Call)
    cpdef Call call(self, bytes service, bytes method, object frames, double now, double expires_at, int flags=*, int priority=*, object retries=*, object idempotent=*, object credit=*)
    @cython.locals(link=Link, left=double, flags=int)
    cpdef _dispatch(self, Call call, double now)
    @cython.locals(link=Link)
    cpdef _let_go(self, Call call)
    cpdef _end(self, Call call)
    @cython.locals(call=Call)
    cpdef Call _asked(self, Link link, Message message)
    @cython.locals(call=Call)
    cpdef _on_final(self, Link link, Message message, double now)
    @cython.locals(call=Call, reader=Reader)
    cpdef _on_partial(self, Link link, Message message, double now)
    cpdef _learn(self, Call call)
