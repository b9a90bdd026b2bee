# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from workers.store.tables cimport Change, Table, View

cdef class LmdbTables:
    cdef View _at
    cdef list _handles

    cpdef get(self, int table, bytes key)
    cpdef put(self, int table, bytes key, bytes value)
    cpdef delete(self, int table, bytes key)
