# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
import cython
from mesh.service.requests cimport Request

cdef class Packed:
    cdef public bytes body

cdef class Job:
    cdef public Request request
    cdef public object outcome

    cpdef list calls(self)
    cpdef run(self)
    cpdef finish(self, results)
    cpdef fail(self, error)

cpdef tuple _outcome(Request request, result)
@cython.locals(request=Request, job=Job, outcomes=list, jobs=list, now=double, code=int)
cpdef list execute_all(execute, requests)
