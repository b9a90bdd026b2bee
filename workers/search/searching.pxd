# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from workers.search.hits cimport packed_hit
from workers.search.view cimport View

@cython.locals(hits=list, whole=bint, more=bint, told=list, keys=list, at=int, record=bytes, one=bytes)
cpdef list _hits(View view, found, index, query, ranked, node)
