# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cdef class Entry:
    cdef public int kind
    cdef public unsigned long long version
    cdef public unsigned long long modified_at
    cdef public unsigned long long expire_at
    cdef public bytes body

cdef class Bucket:
    cdef public str name
    cdef public long long number
    cdef public bytes stem
    cdef public long long quota
    cdef public long long ttl
    cdef public long long entries
    cdef public long long octets
    cdef public unsigned long long trimmed
    cdef public unsigned long long created_at
    cdef public bint changed

    cpdef bytes pack(self)

cdef class Totals:
    cdef public unsigned long long version
    cdef public long long buckets

cpdef bytes pack_entry(int kind, unsigned long long version, unsigned long long modified_at, unsigned long long expire_at, bytes body)
cpdef Entry read_head(record)
cpdef Entry read_entry(bytes record)
