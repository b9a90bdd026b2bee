# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.storage.records cimport Bucket, Entry, Totals, read_entry, read_head
from workers.store.tables cimport Table
from workers.store.tables cimport View as StoreView

cdef class View:
    cdef public StoreView at
    cdef public dict tables
    cdef public unsigned long long now
    cdef public dict known
    cdef Table _entries

    cpdef Bucket bucket(self, str name)
    cpdef bint _stands(self, bytes stem, bytes key, unsigned long long version)
    @cython.locals(entry=Entry)
    cpdef Entry _live(self, Bucket bucket, bytes key)
