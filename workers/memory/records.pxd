# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class Entry:
    cdef public unsigned long long version
    cdef public unsigned long long expire_at
    cdef public unsigned long long fresh_until
    cdef public tuple tags
    cdef public bytes body

    @cython.locals(flags=int, head=bytes)
    cpdef bytes pack(self)
    @cython.locals(cost=cython.longlong, tag=str)
    cpdef long long cost(self, bytes key)

@cython.locals(entry=Entry)
cpdef Entry new_entry(
    unsigned long long version,
    unsigned long long expire_at,
    unsigned long long fresh_until,
    tuple tags,
    bytes body,
)

cdef class Space:
    cdef public str name
    cdef public long long number
    cdef public bint relaxed
    cdef public long long entries
    cdef public long long octets
    cdef public long long quota
    cdef public bint changed

    cpdef bytes pack(self)

@cython.locals(flags=int, at=Py_ssize_t)
cpdef Entry read_entry(bytes key, bytes record)
