# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from broker.queues cimport CreditPool, ExpiryWheel, FairQueue
from broker.state cimport Call, Client, Lane, Method, Seat, Service, Worker, body_size, open_call
from mesh.protocol.messages cimport Message

cdef long long OVERHEAD

cdef class Router:
    cdef public object settings
    cdef public object broker_id
    cdef public dict clients
    cdef public dict workers
    cdef public dict services
    cdef public dict expelled
    cdef public dict claims
    cdef public dict counters
    cdef public object history
    cdef public long long accepted
    cdef public long long finished
    cdef public long long held_bytes
    cdef public long long octets_in
    cdef public long long octets_out
    cdef public long long streams
    cdef public long long heartbeats
    cdef public object draining_since
    cdef public object started_at
    cdef public list endpoints
    cdef public ExpiryWheel wheel
    cdef public list _out
    cdef public object _last_tag
    cdef public object _last_sequence
    cdef public double _watched_at
    cdef public dict paused
    cdef public dict _handlers

    @cython.locals(command=int)
    cpdef receive(self, bytes peer, Message message, double now)
    @cython.locals(index=Py_ssize_t, peer=bytes, received=object, message=Message)
    cpdef Py_ssize_t receive_native(self, list found, Py_ssize_t start, double now)
    @cython.locals(client=Client, service=Service, lane=Lane, call=Call, method=Method, seat=Seat, queue=FairQueue, pool=CreditPool, sequence=object, size="long long", timeout=double, idempotent=bint)
    cpdef _on_request(self, bytes peer, Message message, double now)
    cpdef _open(self, Call call)
    @cython.locals(message=Message, tag=object, worker=Worker)
    cpdef _give(self, Call call, Seat seat, double now)
    @cython.locals(queue=FairQueue, pool=CreditPool, call=Call, seat=Seat)
    cpdef dispatch(self, Lane lane, double now)
    @cython.locals(seat=Seat, lane=Lane, method=Method, pool=CreditPool, queue=FairQueue)
    cpdef release(self, Worker worker, Call call, double now)
    cpdef close(self, Call call)
    @cython.locals(worker=Worker, call=Call)
    cpdef held(self, bytes peer, Message message, double now)
    @cython.locals(worker=Worker, call=Call, service=Service, client=Client)
    cpdef _on_final(self, bytes peer, Message message, double now)
    @cython.locals(worker=Worker, call=Call, client=Client)
    cpdef _on_partial(self, bytes peer, Message message, double now)
    cpdef send(self, bytes peer, Message message)
