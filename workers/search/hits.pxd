# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef list _BEGINS
cdef list _IDS
cdef int HEAD_SIZE

@cython.locals(name_size=int, body_size=int, begin=int, entries=int, parts=list)
cpdef bytes packed_hit(bytes record, row, double score, bytes told, bint source)
cpdef bytes joined(bytes told, dict more)
cpdef bytes place(int rank, double score)
@cython.locals(start=bytes)
cpdef list places(bytes name, scores, int begin)
cpdef bytes packed_answer(list hits, dict around)
