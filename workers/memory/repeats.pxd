# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from workers.memory.operations cimport Op
from workers.store.dedup cimport Dedup
from workers.store.tables cimport Change

cdef class Recent:
    cdef dict _known
    cdef long long _octets

    cpdef recall(self, Op op)
    cpdef remember(self, Op op, result)

cdef class Recorded:
    cdef Dedup _records
    cdef Change _change
    cdef Recent _recent

    cpdef recall(self, Op op)
    cpdef remember(self, Op op, result)
