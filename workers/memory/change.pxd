# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.memory.locks cimport Locks
from workers.memory.records cimport Entry, Space, new_entry, read_entry
from workers.memory.view cimport Totals, slot_of

cdef class Change(Locks):
    cdef public list effects

    @cython.locals(space=Space, within=bytes, slots=list, entries=list, before=list, index=Py_ssize_t)
    cpdef list set_many(
        self,
        str ns,
        items,
        unsigned long long expire_at=*,
        unsigned long long fresh_until=*,
        tuple tags=*,
    )
    @cython.locals(cost=cython.longlong, old_cost=cython.longlong, totals=Totals)
    cpdef _write(self, Space space, bytes slot, Entry entry, Entry old)
    cpdef _unindex(self, bytes slot, Entry entry)
