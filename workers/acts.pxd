# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.service.lanes cimport Job, Packed
from mesh.service.requests cimport Request

@cython.locals(job=Job, args=list, kwargs=dict)
cpdef list plan_all(jobs)
cpdef _plan(method, list args, dict kwargs)
@cython.locals(job=Job, request=Request, acts=list, ops=list, content=bytes)
cpdef list requests(list planned, together)
@cython.locals(octets=cython.longlong, added=cython.longlong, found=list)
cpdef list portions(ops, long long most)
cpdef finish(Job job, list acts, results)
@cython.locals(job=Job, acts=list)
cpdef finish_each(list planned, results)
cpdef _answer(act, result)
cpdef bytes packed_body(value, bint packed, str root=*)
cpdef bytes pack(result)
