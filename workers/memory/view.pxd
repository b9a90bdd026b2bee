# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.memory.records cimport Entry, Space, read_entry

cdef class Totals:
    cdef public unsigned long long version
    cdef public long long entries
    cdef public long long octets
    cdef public long long spaces

    cpdef bytes pack(self)

@cython.locals(number=bytes)
cpdef bytes slot_of(Space space, bytes key)

cdef class View:
    cdef public object tables
    cdef public unsigned long long now
    cdef public dict _spaces
    cdef public list _sweeps

    cpdef get(self, str ns, bytes key, bint stale=*)
    cpdef Space space(self, str ns)
    cpdef list sweeps(self)
    @cython.locals(entry=Entry)
    cpdef Entry _live(self, bytes slot, bint stale)
    cpdef Entry _entry(self, bytes slot)
    @cython.locals(ends_at=cython.ulonglong)
    cpdef bint _alive(self, bytes slot, Entry entry, bint stale)
