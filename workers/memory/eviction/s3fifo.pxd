# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython

cdef class S3Fifo:
    cdef public object small
    cdef public object main
    cdef public set ghosts
    cdef public set old_ghosts
    cdef public long long capacity
    cdef public long long small_size
    cdef public long long main_size
    cdef public long long ghost_size

    @cython.locals(before=cython.longlong, again=cython.longlong)
    cpdef insert(self, bytes key, long long size, unsigned long long expire_at=*)
    @cython.locals(before=cython.longlong)
    cpdef hit(self, bytes key)
    cpdef _resize(self, queue, long long by)
