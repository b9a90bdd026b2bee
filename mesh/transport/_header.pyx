# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The header of a native message (docs/protocol.md section 1), read and written where it lies.

`mesh.protocol.native` says the same in Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from mesh.protocol.messages cimport Message

from mesh.protocol import messages, native

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "headers are read and written on little-endian machines only"
    #endif

    static uint64_t mesh_get64(const unsigned char *at) {
        uint64_t value;
        memcpy(&value, at, 8);
        return __builtin_bswap64(value);
    }
    static uint32_t mesh_get32(const unsigned char *at) {
        uint32_t value;
        memcpy(&value, at, 4);
        return __builtin_bswap32(value);
    }
    static void mesh_put64(unsigned char *at, uint64_t value) {
        value = __builtin_bswap64(value);
        memcpy(at, &value, 8);
    }
    static void mesh_put32(unsigned char *at, uint32_t value) {
        value = __builtin_bswap32(value);
        memcpy(at, &value, 4);
    }
    """
    uint64_t mesh_get64(const unsigned char *at)
    uint32_t mesh_get32(const unsigned char *at)
    void mesh_put64(unsigned char *at, uint64_t value)
    void mesh_put32(unsigned char *at, uint32_t value)

cdef int MAGIC = native.MAGIC
cdef int VERSION = native.VERSION
cdef int LAST_COMMAND = messages.END
cdef int PRIORITIES = messages.PRIORITIES
cdef int MAX_NAME = messages.MAX_NAME
cdef double MAX_TIMEOUT = native.MAX_TIMEOUT
cdef tuple NO_FRAMES = messages.NO_FRAMES


cdef Py_ssize_t pack_header(Message message, unsigned char *header) except -1:
    """Write the header with its names, as `native.encode` does; its length."""
    cdef Py_ssize_t service_size = PyBytes_GET_SIZE(message.service)
    cdef Py_ssize_t method_size = PyBytes_GET_SIZE(message.method)
    cdef double timeout = message.timeout
    cdef uint32_t microseconds = 0
    if (
        service_size > 255
        or method_size > 255
        or (method_size and not service_size)
        or not 0 <= message.credit <= 0xFFFFFFFF
        or (message.command | message.flags | message.priority | message.code) & ~0xFF
    ):
        raise ValueError(f"{message!r} does not fit into a header")
    if timeout >= MAX_TIMEOUT:
        microseconds = 0xFFFFFFFF
    elif timeout > 0.0:
        microseconds = <uint32_t>(timeout * 1e6 + 0.5)
        if microseconds == 0:
            microseconds = 1
    header[0] = MAGIC
    header[1] = VERSION
    header[2] = message.command
    header[3] = message.flags
    header[4] = message.priority
    header[5] = message.code
    header[6] = service_size
    header[7] = method_size
    mesh_put64(header + 8, <uint64_t>message.tag)
    mesh_put32(header + 16, microseconds)
    mesh_put32(header + 20, <uint32_t>message.credit)
    mesh_put64(header + 24, <uint64_t>message.incarnation)
    mesh_put64(header + 32, <uint64_t>message.sequence)
    if service_size:
        memcpy(header + HEADER_SIZE, PyBytes_AS_STRING(message.service), service_size)
        memcpy(header + HEADER_SIZE + service_size, PyBytes_AS_STRING(message.method), method_size)
    return HEADER_SIZE + service_size + method_size


cdef class HeaderReader:
    """Reads the headers of one connection or socket."""

    def __cinit__(self):
        self._service = self._method = b""

    cdef Message parse(self, const unsigned char *header, size_t size):
        """The message of this header, still without frames; None if it is not native."""
        cdef Message message
        cdef size_t service_size, method_size
        if size < HEADER_SIZE or header[0] != MAGIC or header[1] != VERSION:
            return None
        service_size = header[6]
        method_size = header[7]
        if (
            header[2] == 0
            or header[2] > LAST_COMMAND
            or header[4] >= PRIORITIES
            or size != HEADER_SIZE + service_size + method_size
            or service_size > <size_t>MAX_NAME
            or method_size > <size_t>MAX_NAME
            or (method_size and not service_size)
        ):
            return None
        message = Message.__new__(Message)
        message.command = header[2]
        message.flags = header[3]
        message.priority = header[4]
        message.code = header[5]
        message.tag = mesh_get64(header + 8)
        message.timeout = mesh_get32(header + 16) * 1e-6
        message.credit = mesh_get32(header + 20)
        message.incarnation = mesh_get64(header + 24)
        message.sequence = mesh_get64(header + 32)
        message.frames = NO_FRAMES
        if service_size:
            # The same names come again and again: one object spares the copy and keeps its hash.
            header += HEADER_SIZE
            if (
                <size_t>PyBytes_GET_SIZE(self._service) != service_size
                or memcmp(PyBytes_AS_STRING(self._service), header, service_size) != 0
            ):
                self._service = PyBytes_FromStringAndSize(<char *>header, service_size)
            header += service_size
            if (
                <size_t>PyBytes_GET_SIZE(self._method) != method_size
                or memcmp(PyBytes_AS_STRING(self._method), header, method_size) != 0
            ):
                self._method = PyBytes_FromStringAndSize(<char *>header, method_size)
            message.service = self._service
            message.method = self._method
        else:
            message.service = message.method = b""
        return message
