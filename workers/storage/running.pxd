# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.storage.change cimport Change
from workers.storage.operations cimport Op
from workers.storage.view cimport View
from workers.store.dedup cimport Dedup

cpdef outcome(View view, Op op)
@cython.locals(op=Op)
cpdef list read_all(View view, ops)
@cython.locals(op=Op)
cpdef list run_all(Change change, ops, Dedup records)
@cython.locals(content=bytes)
cpdef _once(Change change, Op op, Dedup records)
@cython.locals(part=Op)
cpdef _run(Change change, Op op, Dedup records)
