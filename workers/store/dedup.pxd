# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.store.tables cimport Change, Table

cdef class Dedup:
    cdef Table _table
    cdef Table _due_table
    cdef object _due
    cdef object _quota
    cdef object _clock
    cdef double _began
    cdef object _base_ms
    cdef double _swept_at
    cdef dict _cached
    cdef dict _highest
    cdef long long _left
    cdef long long _unmeasured

    @cython.locals(head=tuple)
    cpdef recall(self, Change change, session, sequence, bytes content)
    @cython.locals(head=tuple)
    cpdef remember(self, Change change, session, sequence, bytes content, bytes outcome)
    cpdef recall_key(self, Change change, bytes key, bytes content)
    cpdef remember_key(self, Change change, bytes key, bytes content, bytes outcome)
    cpdef tuple _head(self, Change change, session, long long now_ms)
    cpdef tuple _stored_head(self, Change change, bytes name)
    cpdef _put(self, Change change, bytes name, number, bytes content, bytes outcome)
    cpdef bint _has_room(self, Change change)
    cpdef _check_room(self, Change change)
    cpdef _raise_highest(self, session, number)
    cpdef long long _now_ms(self, Change change)

cpdef bint _fresh(long long due, long long now_ms)
