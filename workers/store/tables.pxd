# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from workers.store.checksum cimport seal, unseal

cdef class Table:
    cdef public str name
    cdef public bint index
    cdef public object handle

cdef class View:
    cdef public object raw
    cdef object _get

    cpdef adopt(self, raw)
    cpdef get(self, Table table, bytes key)
    cpdef glance(self, Table table, bytes key)

cdef class Change(View):
    cdef public long long changes
    cdef public long long written
    cdef public list callbacks
    cdef object _put
    cdef object _delete

    cpdef adopt(self, raw)
    cpdef put(self, Table table, bytes key, value)
    cpdef bint delete(self, Table table, bytes key, bytes value=*)
