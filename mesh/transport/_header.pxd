# What the pump and the stream share: see `_header.pyx`.
from mesh.protocol.messages cimport Message

cdef enum:
    HEADER_SIZE = 40
    MAX_HEADER = 40 + 2 * 255

cdef Py_ssize_t pack_header(Message message, unsigned char *header) except -1


cdef class HeaderReader:
    cdef bytes _service
    cdef bytes _method

    cdef Message parse(self, const unsigned char *header, size_t size)
