# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.protocol.payload cimport encode
from workers.search.operations cimport Given
from workers.search.records cimport pack_document, row_keys
from workers.search.view cimport View
from workers.store.tables cimport Change as StoreChange
from workers.store.tables cimport Table

cdef class Fresh:
    cdef public long long after
    cdef public long long until
    cdef public long long octets
    cdef public list added
    cdef public list removed

cdef class Change(View):
    cdef public long long now
    cdef public dict fresh
    cdef object _totals
    cdef dict _states
    cdef dict _found

    cpdef find(self, str name)
    cpdef state(self, int number)
    @cython.locals(
        at=StoreChange, fresh=Fresh, ids=Table, slots=Table, stem=bytes, vectors=list, keys=list,
        version=cython.longlong, entries=cython.longlong, octets=cython.longlong, one=Given,
        slot=bytes, name=bytes, record=bytes,
    )
    cpdef _write(self, found, documents, list checked)
    @cython.locals(one=Given, exists=bint)
    cpdef list _wanted(self, found, documents, str only_if)

@cython.locals(own=dict, plain=dict)
cpdef bytes _record(Given one, dict values, list vectors)
@cython.locals(checked=list, one=Given, fields=dict)
cpdef tuple _checked(schema, documents)
