# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.storage.records cimport Bucket, Entry, Totals, pack_entry, read_entry, read_head
from workers.storage.view cimport View
from workers.store.tables cimport Change as StoreChange
from workers.store.tables cimport Table

cdef class Change(View):
    cdef public StoreChange into
    cdef public set touched
    cdef public list replaced
    cdef Table _rows
    cdef object _due
    cdef object _has_file
    cdef Totals _totals
    cdef object _steps

    @cython.locals(before=Entry, live=Entry, old_cost=cython.longlong, new_cost=cython.longlong, written=cython.ulonglong, record=bytes, slot=bytes, expire_at=cython.ulonglong)
    cpdef _write(self, Bucket bucket, bytes key, int kind, bytes body, ttl, str only_if, version, bint roomy=*)
    cpdef _forget(self, bytes slot, Entry entry)
    @cython.locals(entry=Entry)
    cpdef tuple _entry(self, bytes slot)
    cpdef Bucket _bucket(self, str name)
    @cython.locals(row=bytes)
    cpdef clear_log(self, rows)
    cpdef _check_room(self, Bucket bucket, long long grown)
