# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.memory.change cimport Change
from workers.memory.operations cimport Op
from workers.memory.view cimport View
from workers.memory.records cimport Space
from workers.memory.view cimport slot_of

@cython.locals(op=Op, change=Change, results=list)
cpdef run_changes(tables, ops, unsigned long long now, cache, repeats=*, int tidy=*, unsigned long long above=*)
cpdef _once(Change change, Op op, repeats, room)
@cython.locals(part=Op, needed=cython.longlong)
cpdef run(View view, Op op, room=*)
cpdef _outcome(View view, Op op, room=*)
@cython.locals(op=Op)
cpdef tuple run_reads(tables, ops, unsigned long long now, View earlier=*)

cdef class Tally:
    cdef public dict counts
    cdef public list slots
    cdef long long _most

    @cython.locals(op=Op)
    cpdef note(self, View view, ops, results)
    @cython.locals(space=Space)
    cpdef _note(self, View view, str ns, bytes key, entry)
