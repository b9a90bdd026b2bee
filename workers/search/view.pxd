# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from workers.store.tables cimport Table
from workers.store.tables cimport View as StoreView

cdef class Definitions:
    cdef dict _known

    cpdef read(self, str name, bytes record)

cdef class View:
    cdef public StoreView at
    cdef public dict tables
    cdef public Definitions definitions
    cdef Table _documents

    cpdef find(self, str name)
    cpdef existing(self, str name)
    cpdef state(self, int number)
    cpdef document_at(self, collection, row)
    cpdef bytes record_at(self, collection, bytes key)

cdef class Moment:
    cdef object _block
    cdef dict _tables
    cdef Definitions _definitions
