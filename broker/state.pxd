# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.monitoring.histogram cimport Histogram, Latency
from mesh.protocol.messages cimport Message

cdef class Client:
    cdef public bytes peer
    cdef public int dialect
    cdef public dict calls
    cdef public bint drained
    cdef public double seen_at
    cdef public long long asked
    cdef public object name
    cdef public object host
    cdef public object pid

cdef class Call:
    cdef public Client client
    cdef public Lane lane
    cdef public Message message
    cdef public Method method
    cdef public object incarnation
    cdef public object sequence
    cdef public int flags
    cdef public int priority
    cdef public long long size
    cdef public bint idempotent
    cdef public double expires_at
    cdef public double queued_at
    cdef public double given_at
    cdef public long long credit
    cdef public long long chunk_credit
    cdef public Seat seat
    cdef public object tag
    cdef public int losses
    cdef public bint started
    cdef public bint ended
    cdef public object parts
    cdef public Message end
    cdef public long long wheel_slot

cdef class Worker:
    cdef public bytes peer
    cdef public Service service
    cdef public int dialect
    cdef public dict seats
    cdef public dict calls
    cdef public tuple declared
    cdef public object store
    cdef public str state
    cdef public double joined_at
    cdef public double seen_at
    cdef public double sent_at
    cdef public double heartbeat
    cdef public double paused_until
    cdef public int consecutive_errors
    cdef public double failing_since
    cdef public int ejections
    cdef public bint probing
    cdef public long long ended
    cdef public long long errors
    cdef public object instance
    cdef public object version
    cdef public object host
    cdef public object pid

cdef class Seat:
    cdef public Worker worker
    cdef public Lane lane
    cdef public Py_ssize_t window
    cdef public Py_ssize_t in_flight
    cdef public Py_ssize_t bucket
    cdef public Seat before
    cdef public Seat after

cdef class Lane:
    cdef public Service service
    cdef public bytes name
    cdef public object queue
    cdef public object pool
    cdef public dict seats
    cdef public Py_ssize_t serving
    cdef public long long ended
    cdef public long long failed
    cdef public long long retried
    cdef public Latency latency
    cdef public double spent
    cdef public double rate
    cdef public double rate_at
    cdef public long long rate_ended

cdef class Method:
    cdef public bytes lane
    cdef public bint idempotent
    cdef public long long ended
    cdef public long long failed
    cdef public Histogram latency

    cpdef bint same(self, Method other)

cdef class Service:
    cdef public bytes name
    cdef public dict lanes
    cdef public dict methods
    cdef public dict declarations
    cdef public dict workers
    cdef public double last_success_at
    cdef public Worker last_success_worker

@cython.locals(call=Call)
cpdef Call open_call(Client client, Lane lane, Message message, object sequence, long long size, bint idempotent, double expires_at, double now)

cpdef long long body_size(frames)
