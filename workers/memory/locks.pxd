# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
from workers.memory.records cimport Entry, Space
from workers.memory.view cimport Totals, View

cdef class Locks(View):
    cdef public list events
    cdef public Totals _totals
    cdef bytes _before
    cdef public bint _any_locks

    cpdef Space _space(self, str ns)
    cpdef drop_lock(self, bytes slot)
    cpdef end_lock(self, bytes slot)
