# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled frame pump: whole multipart messages in and out of a ZeroMQ socket, in batches.

It calls the libzmq that pyzmq has already loaded. The functions are looked up at import through the
dependencies of pyzmq's own extension module, so there is nothing to link and no second copy of the
library can slip in. `mesh.transport.pure` is the same pump in Python and holds the full contract.

Calls that cannot block keep the interpreter lock: giving it away costs more than the call, and getting
it back in a busy process may take milliseconds. Only `wait` and the idle part of `spin` release it.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.buffer cimport PyBuffer_FillInfo, PyObject_CheckBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EHOSTUNREACH, EINTR
from libc.stdlib cimport free, malloc
from posix.dlfcn cimport RTLD_NOW, dlerror, dlopen, dlsym

from libc.string cimport memcpy

from mesh.protocol.messages cimport Message
from mesh.transport._header cimport MAX_HEADER, HeaderReader, pack_header

import zmq
from zmq.backend.cython import _zmq as _pyzmq

from mesh.protocol import messages, native

cdef extern from * nogil:
    """
    #include <sched.h>
    #include <time.h>

    /* zmq_msg_t as libzmq's stable ABI has it: 64 bytes, pointer aligned. */
    typedef union { unsigned char bytes[64]; void *align; } mesh_msg;

    typedef struct { void *socket; int fd; short events; short revents; } mesh_poll_item;

    /* A `bytes` object lent to libzmq comes back on its I/O thread, which must never touch Python.
       That thread pushes the loan on this lock-free stack; a later call that holds the interpreter
       takes the whole stack at once and drops the references. */
    typedef struct mesh_loan { PyObject *owner; struct mesh_loan *next; } mesh_loan;
    static mesh_loan *mesh_returned = NULL;

    static void mesh_give_back(void *data, void *hint) {
        mesh_loan *loan = (mesh_loan *)hint;
        loan->next = __atomic_load_n(&mesh_returned, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&mesh_returned, &loan->next, loan, 1,
                                            __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {}
        (void)data;
    }

    static mesh_loan *mesh_take_returned(void) {
        if (!__atomic_load_n(&mesh_returned, __ATOMIC_RELAXED)) return NULL;
        return __atomic_exchange_n(&mesh_returned, NULL, __ATOMIC_ACQUIRE);
    }

    static double mesh_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    ctypedef struct zmsg "mesh_msg":
        pass
    ctypedef struct poll_item "mesh_poll_item":
        void *socket
        int fd
        short events
        short revents
    ctypedef struct loan_t "mesh_loan":
        PyObject *owner
        loan_t *next
    void mesh_give_back(void *data, void *hint)
    loan_t *mesh_take_returned()
    double mesh_now()
    int sched_yield()

cdef extern from "<dlfcn.h>":
    enum:
        RTLD_NOLOAD

cdef extern from "Python.h":
    void Py_INCREF(object)
    void Py_DECREF_PTR "Py_DECREF" (PyObject *)

ctypedef void (*free_fn)(void *, void *) noexcept nogil

cdef int (*zmq_errno)() noexcept nogil
cdef void (*zmq_version)(int *, int *, int *) noexcept nogil
cdef int (*zmq_send)(void *, const void *, size_t, int) noexcept nogil
cdef int (*zmq_poll)(poll_item *, int, long) noexcept nogil
cdef int (*zmq_msg_init)(zmsg *) noexcept nogil
cdef int (*zmq_msg_init_data)(zmsg *, void *, size_t, free_fn, void *) noexcept nogil
cdef int (*zmq_msg_recv)(zmsg *, void *, int) noexcept nogil
cdef int (*zmq_msg_send)(zmsg *, void *, int) noexcept nogil
cdef int (*zmq_msg_close)(zmsg *) noexcept nogil
cdef int (*zmq_msg_move)(zmsg *, zmsg *) noexcept nogil
cdef int (*zmq_msg_copy)(zmsg *, zmsg *) noexcept nogil
cdef int (*zmq_msg_get)(zmsg *, int) noexcept nogil
cdef int (*zmq_msg_more)(zmsg *) noexcept nogil
cdef void *(*zmq_msg_data)(zmsg *) noexcept nogil
cdef size_t (*zmq_msg_size)(zmsg *) noexcept nogil


cdef void *_find(void *library, bytes name) except NULL:
    cdef void *address = dlsym(library, <const char *>name)
    if address == NULL:
        raise ImportError(f"pyzmq's libzmq does not export {name.decode()}")
    return address


cdef _bind_functions():
    global zmq_errno, zmq_version, zmq_send, zmq_poll, zmq_msg_init, zmq_msg_init_data, zmq_msg_recv
    global zmq_msg_send, zmq_msg_close, zmq_msg_move, zmq_msg_copy, zmq_msg_get, zmq_msg_more
    global zmq_msg_data, zmq_msg_size
    cdef bytes path = _pyzmq.__file__.encode()
    cdef void *library = dlopen(<const char *>path, RTLD_NOW | RTLD_NOLOAD)
    if library == NULL:
        raise ImportError(f"cannot reopen pyzmq's extension: {(<bytes>dlerror()).decode()}")
    zmq_errno = <int (*)() noexcept nogil>_find(library, b"zmq_errno")
    zmq_version = <void (*)(int *, int *, int *) noexcept nogil>_find(library, b"zmq_version")
    zmq_send = <int (*)(void *, const void *, size_t, int) noexcept nogil>_find(library, b"zmq_send")
    zmq_poll = <int (*)(poll_item *, int, long) noexcept nogil>_find(library, b"zmq_poll")
    zmq_msg_init = <int (*)(zmsg *) noexcept nogil>_find(library, b"zmq_msg_init")
    zmq_msg_init_data = <int (*)(zmsg *, void *, size_t, free_fn, void *) noexcept nogil>_find(
        library, b"zmq_msg_init_data")
    zmq_msg_recv = <int (*)(zmsg *, void *, int) noexcept nogil>_find(library, b"zmq_msg_recv")
    zmq_msg_send = <int (*)(zmsg *, void *, int) noexcept nogil>_find(library, b"zmq_msg_send")
    zmq_msg_close = <int (*)(zmsg *) noexcept nogil>_find(library, b"zmq_msg_close")
    zmq_msg_move = <int (*)(zmsg *, zmsg *) noexcept nogil>_find(library, b"zmq_msg_move")
    zmq_msg_copy = <int (*)(zmsg *, zmsg *) noexcept nogil>_find(library, b"zmq_msg_copy")
    zmq_msg_get = <int (*)(zmsg *, int) noexcept nogil>_find(library, b"zmq_msg_get")
    zmq_msg_more = <int (*)(zmsg *) noexcept nogil>_find(library, b"zmq_msg_more")
    zmq_msg_data = <void *(*)(zmsg *) noexcept nogil>_find(library, b"zmq_msg_data")
    zmq_msg_size = <size_t (*)(zmsg *) noexcept nogil>_find(library, b"zmq_msg_size")
    cdef int major = 0, minor = 0, patch = 0
    zmq_version(&major, &minor, &patch)
    if (major, minor, patch) != zmq.zmq_version_info():
        raise ImportError(f"found libzmq {major}.{minor}.{patch}, pyzmq uses {zmq.zmq_version()}")


_bind_functions()

LARGE = 64 * 1024
MAX_FRAMES = 1024

cdef size_t LARGE_SIZE = LARGE
cdef Py_ssize_t FRAME_LIMIT = MAX_FRAMES
cdef int DONTWAIT = 1
cdef int SNDMORE = 2
cdef int SOURCE_FD = 2
cdef short POLLIN = 1
cdef short POLLOUT = 2


cdef int RAW = messages.RAW
cdef Py_ssize_t MAX_BODY_FRAMES = native.MAX_FRAMES
cdef tuple NO_FRAMES = messages.NO_FRAMES


cdef void _release_loans():
    """Drop the references to bytes that libzmq has finished sending."""
    cdef loan_t *loan = mesh_take_returned()
    cdef loan_t *following
    while loan != NULL:
        following = loan.next
        Py_DECREF_PTR(loan.owner)
        free(loan)
        loan = following


cdef class LargeFrame:
    """A received frame of 64 KiB or more, still in libzmq's memory: read it with `memoryview` or `bytes`."""

    cdef zmsg message

    def __cinit__(self):
        zmq_msg_init(&self.message)

    def __dealloc__(self):
        zmq_msg_close(&self.message)

    def __len__(self):
        return zmq_msg_size(&self.message)

    def __bytes__(self):
        return PyBytes_FromStringAndSize(
            <char *>zmq_msg_data(&self.message), zmq_msg_size(&self.message))

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(
            view, self, zmq_msg_data(&self.message), zmq_msg_size(&self.message), 1, flags)


cdef inline object _take_body(zmsg *message):
    cdef size_t size = zmq_msg_size(message)
    cdef LargeFrame frame
    if size < LARGE_SIZE:
        return PyBytes_FromStringAndSize(<char *>zmq_msg_data(message), size)
    frame = LargeFrame.__new__(LargeFrame)
    zmq_msg_move(&frame.message, message)
    return frame


cdef inline bint _is_sendable(object frame):
    return PyBytes_CheckExact(frame) or type(frame) is LargeFrame


cdef list _sendable(message):
    """The frames as `bytes` or LargeFrame, so that nothing can fail once the first one has left."""
    cdef list frames = []
    for frame in message:
        if not _is_sendable(frame):
            if not PyObject_CheckBuffer(frame):
                raise TypeError(f"a frame must be bytes-like, not {type(frame).__name__}")
            frame = bytes(frame)
        frames.append(frame)
    if not frames:
        raise ValueError("a message needs at least one frame")
    return frames


cdef int _send_message(void *handle, zmsg *scratch, zmsg *source, int flags) noexcept:
    """Send `scratch` as a further reference to `source` (or as it is, if that is NULL)."""
    if source != NULL:
        zmq_msg_init(scratch)
        zmq_msg_copy(scratch, source)
    cdef int rc = zmq_msg_send(scratch, handle, flags)
    while rc < 0 and zmq_errno() == EINTR:
        rc = zmq_msg_send(scratch, handle, flags)
    if rc < 0:
        rc = -zmq_errno()
        zmq_msg_close(scratch)
        return rc
    return 0


cdef int _send_frame(void *handle, object frame, int flags) except 1:
    """0, or the negated errno."""
    cdef zmsg scratch
    cdef loan_t *loan
    cdef int rc
    cdef char *data
    cdef size_t size
    if not PyBytes_CheckExact(frame):
        return _send_message(handle, &scratch, &(<LargeFrame>frame).message, flags)
    data = PyBytes_AS_STRING(frame)
    size = PyBytes_GET_SIZE(frame)
    if size >= LARGE_SIZE:
        loan = <loan_t *>malloc(sizeof(loan_t))
        if loan == NULL:
            raise MemoryError
        Py_INCREF(frame)
        loan.owner = <PyObject *>frame
        if zmq_msg_init_data(&scratch, data, size, <free_fn>mesh_give_back, loan) == 0:
            return _send_message(handle, &scratch, NULL, flags)
        mesh_give_back(data, loan)
        raise MemoryError
    return _send_bytes(handle, data, size, flags)


cdef int _send_frames(void *handle, list frames) except -1:
    """Send one message; 0, or the errno that kept it from being sent."""
    cdef Py_ssize_t index, last = len(frames) - 1
    cdef int rc, error = 0
    for index in range(last + 1):
        rc = _send_frame(handle, frames[index], DONTWAIT if index == last else DONTWAIT | SNDMORE)
        if rc < 0:
            if index == 0:
                return -rc
            # The pipe ended in the middle of the message. libzmq has rolled back what went before and
            # expects the other frames in order to throw them away.
            error = error or -rc
    return error


cdef int _send_bytes(void *handle, const void *data, size_t size, int flags) noexcept:
    """0, or the negated errno."""
    cdef int rc = zmq_send(handle, data, size, flags)
    while rc < 0 and zmq_errno() == EINTR:
        rc = zmq_send(handle, data, size, flags)
    return 0 if rc >= 0 else -zmq_errno()


cdef class Pump:
    """See `mesh.transport.pure.Pump`: the two have one contract and pass the same tests."""

    kind = "compiled"

    cdef readonly object socket
    cdef readonly dict sources
    cdef readonly list fresh
    cdef readonly bint drained
    cdef public Py_ssize_t dropped_oversize
    cdef tuple _wake
    cdef bint _router
    cdef void *_handle
    cdef zmsg _message
    cdef poll_item *_items
    cdef HeaderReader _reader

    def __cinit__(self):
        zmq_msg_init(&self._message)

    def __dealloc__(self):
        zmq_msg_close(&self._message)
        PyMem_Free(self._items)

    def __init__(self, socket, *, bint router=False, wake=()):
        cdef Py_ssize_t index
        self.socket = socket
        self.sources = {}
        self.fresh = []
        self.dropped_oversize = 0
        self._router = router
        self._reader = HeaderReader()
        self._wake = tuple(wake)
        self._check()
        self._handle = <void *><size_t>socket.underlying
        PyMem_Free(self._items)
        self._items = <poll_item *>PyMem_Malloc((1 + len(self._wake)) * sizeof(poll_item))
        if self._items == NULL:
            raise MemoryError
        self._items[0] = poll_item(socket=self._handle, fd=0, events=POLLIN, revents=0)
        for index, source in enumerate(self._wake, 1):
            if isinstance(source, int):
                self._items[index] = poll_item(socket=NULL, fd=source, events=POLLIN, revents=0)
            else:
                self._items[index] = poll_item(
                    socket=<void *><size_t>source.underlying, fd=0, events=POLLIN, revents=0)

    cdef int _check(self) except -1:
        # A closed socket's handle points to freed memory: never hand it to libzmq.
        if self.socket.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        return 0

    def receive(self, Py_ssize_t limit):
        self._check()
        _release_loans()
        return self._collect(limit, False)

    def read(self, Py_ssize_t limit, double spin=0.0):
        self._check()
        _release_loans()
        if spin > 0.0 and limit > 0:
            if not self._await_first(spin):
                return []
            return self._read(limit, True)
        return self._read(limit, False)

    def spin(self, Py_ssize_t limit, double duration):
        self._check()
        _release_loans()
        self.drained = False
        if limit <= 0 or not self._await_first(duration):
            return []
        return self._collect(limit, True)

    cdef int _await_first(self, double duration) except -1:
        """Keep trying to receive one frame into `_message`; False if none came in time."""
        cdef int rc = -1, error = EAGAIN
        cdef double end_at
        self.drained = False
        with nogil:
            end_at = mesh_now() + duration
            while True:
                rc = zmq_msg_recv(&self._message, self._handle, DONTWAIT)
                if rc >= 0:
                    break
                error = zmq_errno()
                if (error != EAGAIN and error != EINTR) or mesh_now() >= end_at:
                    break
                sched_yield()
        if rc >= 0:
            return True
        if error == EAGAIN or error == EINTR:
            self.drained = error == EAGAIN
            return False
        raise zmq.ZMQError(error)

    cdef int _next(self) except -1:
        """Receive one frame into `_message`; False when there is none."""
        cdef int error
        while zmq_msg_recv(&self._message, self._handle, DONTWAIT) < 0:
            error = zmq_errno()
            if error == EAGAIN:
                return False
            if error != EINTR:
                raise zmq.ZMQError(error)
        return True

    cdef list _collect(self, Py_ssize_t limit, bint primed):
        cdef list messages = []
        cdef list frames
        cdef Py_ssize_t count
        cdef bint more
        self.drained = False
        while limit > 0:
            if not primed and not self._next():
                self.drained = True
                break
            primed = False
            limit -= 1
            more = zmq_msg_more(&self._message)
            if self._router:
                peer = _take_body(&self._message)
                self._trace(peer)
                frames = [peer]
            else:
                frames = [_take_body(&self._message)]
            count = 1
            while more and self._next():
                more = zmq_msg_more(&self._message)
                count += 1
                if count <= FRAME_LIMIT:
                    frames.append(_take_body(&self._message))
                elif count == FRAME_LIMIT + 1:
                    frames.clear()
            if count <= FRAME_LIMIT:
                messages.append(frames)
            else:
                self.dropped_oversize += 1
        return messages

    cdef list _read(self, Py_ssize_t limit, bint primed):
        """As `_collect`, with the header of each native message read where libzmq has it."""
        cdef list found = []
        cdef list frames
        cdef Message message
        cdef bytes peer = b""
        cdef unsigned char header[MAX_HEADER]
        cdef size_t header_size
        cdef Py_ssize_t count, bodies
        cdef bint more
        self.drained = False
        while limit > 0:
            if not primed and not self._next():
                self.drained = True
                break
            primed = False
            limit -= 1
            more = zmq_msg_more(&self._message)
            count = 1
            frames = None
            if self._router:
                peer = _take_body(&self._message)
                self._trace(peer)
                if not more or not self._next():
                    found.append((peer, [peer]))
                    continue
                more = zmq_msg_more(&self._message)
                count = 2
            message = self._reader.parse(
                <const unsigned char *>zmq_msg_data(&self._message), zmq_msg_size(&self._message))
            if message is None:
                frames = [peer] if self._router else []
                frames.append(_take_body(&self._message))
                while more and self._next():
                    more = zmq_msg_more(&self._message)
                    count += 1
                    if count <= FRAME_LIMIT:
                        frames.append(_take_body(&self._message))
                    elif count == FRAME_LIMIT + 1:
                        frames.clear()
                if count <= FRAME_LIMIT:
                    found.append((peer, frames))
                else:
                    self.dropped_oversize += 1
                continue
            if more:
                header_size = zmq_msg_size(&self._message)
                memcpy(header, zmq_msg_data(&self._message), header_size)
                if not self._next():
                    continue
                more = zmq_msg_more(&self._message)
                if not more:
                    message.frames = (_take_body(&self._message),)
                else:
                    frames = [_take_body(&self._message)]
                    bodies = 1
                    while more and self._next():
                        more = zmq_msg_more(&self._message)
                        bodies += 1
                        if bodies + count <= FRAME_LIMIT:
                            frames.append(_take_body(&self._message))
                        elif bodies + count == FRAME_LIMIT + 1:
                            frames.clear()
                    if bodies + count > FRAME_LIMIT:
                        self.dropped_oversize += 1
                        continue
                    if bodies > 2 and (not message.flags & RAW or bodies > MAX_BODY_FRAMES):
                        frames.insert(0, PyBytes_FromStringAndSize(<char *>header, header_size))
                        if self._router:
                            frames.insert(0, peer)
                        found.append((peer, frames))
                        continue
                    message.frames = frames
            found.append((peer, message))
        return found

    cdef int _trace(self, bytes peer) except -1:
        """Note the connection that a peer's message came by, if it is not known."""
        cdef int fd
        # Names that libzmq gave begin with a zero byte and are never used twice; others may come back.
        if peer in self.sources and PyBytes_AS_STRING(peer)[0] == 0:
            return 0
        fd = zmq_msg_get(&self._message, SOURCE_FD)
        if fd >= 0 and self.sources.get(peer) != fd:
            self.sources[peer] = fd
            self.fresh.append(peer)
        return 0

    def send(self, messages):
        cdef list failed = []
        cdef list frames
        cdef dict refused = {}
        cdef Py_ssize_t index = -1
        cdef int error
        self._check()
        _release_loans()
        for message in messages:
            index += 1
            frames = _sendable(message)
            error = 0
            if refused:
                error = refused.get(frames[0] if self._router else None, 0)
            if error == 0:
                error = _send_frames(self._handle, frames)
                if error == 0:
                    continue
                if error != EAGAIN and error != EHOSTUNREACH:
                    raise zmq.ZMQError(error)
                refused[frames[0] if self._router else None] = error
            failed.append((index, error))
        return failed

    def write(self, entries):
        cdef list failed = []
        cdef dict refused = {}
        cdef Message message
        cdef tuple entry
        cdef object frames
        cdef Py_ssize_t index = -1, size
        cdef int error
        cdef unsigned char header[MAX_HEADER]
        self._check()
        _release_loans()
        for entry in entries:
            index += 1
            message = entry[1]
            size = pack_header(message, header)
            frames = message.frames
            if type(frames) is not tuple or len(frames) != 1 or not PyBytes_CheckExact(frames[0]):
                frames = _sendable(frames) if frames else NO_FRAMES
            error = 0
            if refused:
                error = refused.get(entry[0] if self._router else None, 0)
            if error == 0:
                error = self._write(entry[0], header, size, frames)
                if error == 0:
                    continue
                if error != EAGAIN and error != EHOSTUNREACH:
                    raise zmq.ZMQError(error)
                refused[entry[0] if self._router else None] = error
            failed.append((index, error))
        return failed

    cdef int _write(self, peer, unsigned char *header, Py_ssize_t size, frames) except -1:
        """Send one message; 0, or the errno that kept it from being sent. See `_send_frames`."""
        cdef Py_ssize_t index, count = len(frames)
        cdef int rc, error = 0
        if self._router:
            rc = _send_frame(self._handle, <bytes?>peer, DONTWAIT | SNDMORE)
            if rc < 0:
                return -rc
        rc = _send_bytes(self._handle, header, size, DONTWAIT | SNDMORE if count else DONTWAIT)
        if rc < 0:
            if not self._router:
                return -rc
            error = -rc
        for index in range(count):
            rc = _send_frame(
                self._handle, frames[index], DONTWAIT if index == count - 1 else DONTWAIT | SNDMORE)
            if rc < 0:
                error = error or -rc
        return error

    def wait(self, double timeout, *, bint writing=False):
        cdef int rc, error = 0
        cdef int count = 1 + len(self._wake)
        cdef double left, end_at = mesh_now() + timeout
        cdef long milliseconds = -1
        self._check()
        _release_loans()
        for source in self._wake:
            if not isinstance(source, int) and source.closed:
                raise zmq.ZMQError(zmq.ENOTSOCK)
        self._items[0].events = POLLIN | POLLOUT if writing else POLLIN
        while True:
            if timeout >= 0:
                # Rounded up: waking a little early would make the caller poll in a circle.
                left = end_at - mesh_now()
                milliseconds = <long>(left * 1e3 + 0.999) if left > 0 else 0
            with nogil:
                rc = zmq_poll(self._items, count, milliseconds)
                error = zmq_errno()
            if rc >= 0:
                return rc > 0
            if error != EINTR:
                raise zmq.ZMQError(error)
            PyErr_CheckSignals()
