# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""ZMTP 3 over connections of our own: whole native messages in and out of sockets' descriptors.

What libzmq's I/O thread would do is done here by the thread that wants the messages. That saves two
wake-ups for each message on its way, and they are most of what a short call costs. A `Stream` is one
connection and does for a client or worker what a pump does over a DEALER; a `Hub` is many of them and
does for a broker what a pump does over a ROUTER (`mesh.transport.pure.Pump` holds the contract of
`read`, `write`, `send` and `drained`). They know nothing of connecting, accepting and shaking hands,
which `mesh.transport.direct` and `mesh.transport.listening` do.

The frames are those of ZMTP 3.1 (rfc.zeromq.org/spec/37): a byte of flags, the size in one byte or in
eight, the body. Calls that cannot block keep the interpreter lock, as in the pump.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EHOSTUNREACH, EINTR, errno
from libc.string cimport memcpy, memmove

from mesh.protocol.messages cimport Message
from mesh.transport._header cimport MAX_HEADER, HeaderReader, pack_header

from collections import deque

from mesh.protocol import messages, native

cdef extern from * nogil:
    """
    #include <sched.h>
    #include <stdint.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <time.h>

    #define MESH_EVENTS 256

    static double mesh_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    static int mesh_watch(int poller, int operation, int fd, int writing) {
        struct epoll_event event;
        event.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN;
        event.data.u64 = 0;
        event.data.fd = fd;
        return epoll_ctl(poller, operation, fd, &event);
    }
    /* The descriptors that are ready now, without waiting. */
    static int mesh_ready(int poller, int *ready) {
        struct epoll_event events[MESH_EVENTS];
        int index, count = epoll_wait(poller, events, MESH_EVENTS, 0);
        for (index = 0; index < count; index++) ready[index] = events[index].data.fd;
        return count;
    }
    """
    double mesh_now()
    int mesh_watch(int poller, int operation, int fd, int writing)
    int mesh_ready(int poller, int *ready)
    int sched_yield()
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_MORE
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    int EPOLL_CTL_DEL
    int MESH_EVENTS

cdef enum:
    MORE = 1
    LONG = 2
    COMMAND = 4
    FRAME_HEAD = 9
    # Bodies from here on are received into their own place, and sent from it.
    LARGE_SIZE = 65536
    # As much as is received at a time, after a small frame that was not whole.
    RECEIVE_SIZE = 65536
    IN_SIZE = RECEIVE_SIZE + RECEIVE_SIZE + LARGE_SIZE
    OUT_SIZE = 131072

cdef Py_ssize_t FRAME_LIMIT = 1024
cdef int RAW = messages.RAW
cdef Py_ssize_t MAX_BODY_FRAMES = native.MAX_FRAMES
cdef bytes PING = b"\x04PING"
cdef bytes PONG = b"\x04PONG"

ENDED = "the connection ended"
BROKEN = "the connection broke"
NO_ZMTP = "the other side does not speak ZMTP as we do"
ENDLESS = "the other side sent a message without end"
NO_ROOM = "there is no memory for what the other side sends"


cdef inline size_t _put_head(unsigned char *at, int flags, size_t size) noexcept:
    """Write flags and size of a frame; how many bytes that took."""
    cdef int index
    if size < 256:
        at[0] = flags
        at[1] = size
        return 2
    at[0] = flags | LONG
    for index in range(8):
        at[1 + index] = (size >> (56 - 8 * index)) & 0xFF
    return FRAME_HEAD


cdef bytes _as_bytes(frame):
    return frame if PyBytes_CheckExact(frame) else bytes(memoryview(frame))


cdef class _Buffers:
    """Room that one call at a time uses; what must outlast it is kept by the stream."""

    cdef unsigned char *incoming
    cdef unsigned char *outgoing

    def __cinit__(self):
        self.incoming = <unsigned char *>PyMem_Malloc(IN_SIZE)
        self.outgoing = <unsigned char *>PyMem_Malloc(OUT_SIZE)
        if self.incoming == NULL or self.outgoing == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.incoming)
        PyMem_Free(self.outgoing)


cdef class Stream:
    """The messages of one connection. Before `attach` they wait; after `detach` nothing moves.

    `ended` says why there will be nothing more to read (empty while there may be). `unsent` counts
    bytes that the connection would not take yet; above `limit` of them, `write` refuses with EAGAIN.
    A frame of more than `max_frame` bytes ends the stream, and so does a message whose frames come to
    twice as much. `peer` is what its messages are found under.
    """

    kind = "compiled"

    cdef readonly bytes peer
    cdef readonly bint drained
    cdef readonly str ended
    cdef readonly size_t unsent
    cdef public Py_ssize_t dropped_oversize
    cdef _Buffers _buffers
    cdef size_t _limit
    cdef size_t _max_frame
    cdef int _fd
    cdef int _poller
    cdef bint _watching_writes
    cdef bint _listed
    cdef HeaderReader _reader
    # What was received and not taken apart: between calls in `_rest`, else incoming[_start:_end].
    cdef bytes _rest
    cdef size_t _start
    cdef size_t _end
    # The large frame that is being received, and how far.
    cdef bytes _large
    cdef size_t _filled
    cdef int _large_flags
    # The message that is being put together.
    cdef Message _message
    cdef bytes _head
    cdef list _frames
    cdef Py_ssize_t _count
    cdef size_t _size
    cdef size_t _out_size
    cdef list _outgoing
    cdef object _queue

    def __cinit__(self):
        self._fd = self._poller = -1

    def __init__(
        self, *, size_t max_frame, size_t limit=16 << 20, bytes peer=b"", _Buffers buffers=None
    ):
        self.peer = peer
        self.drained = True
        self.ended = ""
        self._buffers = _Buffers() if buffers is None else buffers
        self._max_frame = max_frame
        self._limit = limit
        self._reader = HeaderReader()
        self._rest = b""
        self._frames = []
        self._outgoing = []
        self._queue = deque()

    def attach(self, int fd, int poller, bytes received):
        """From now on use the connected `fd`, which the epoll descriptor `poller` watches.

        `received` is what came after the handshake (at most 64 KiB).
        """
        if PyBytes_GET_SIZE(received) > RECEIVE_SIZE:
            raise ValueError("too much was received with the handshake")
        self._rest = received
        self._fd = fd
        self._poller = poller
        self.drained = not received
        self._flush()

    def detach(self):
        """Let go of the descriptor, which may be closed now."""
        self._fd = -1

    # ---------------------------------------------------------------- in

    def read(self, Py_ssize_t limit, double spin=0.0):
        cdef list found = []
        cdef double end_at
        if self._fd < 0:
            return found
        if self.unsent:
            self._flush()
        self._pull(found, limit)
        if spin > 0.0 and not found and limit > 0 and not self.ended:
            end_at = mesh_now() + spin
            while not found and not self.ended and mesh_now() < end_at:
                with nogil:
                    sched_yield()
                self._pull(found, limit)
        return found

    cdef int _pull(self, list found, Py_ssize_t limit) except -1:
        """Receive and take apart until nothing is left, or until `found` has `limit` messages."""
        cdef ssize_t size
        self._start = 0
        self._end = PyBytes_GET_SIZE(self._rest)
        if self._end:
            memcpy(self._buffers.incoming, PyBytes_AS_STRING(self._rest), self._end)
        self.drained = False
        while not self._take_apart(found, limit):
            if self.ended:
                self.drained = True
                break
            size = self._receive()
            if size <= 0:
                self.drained = True
                break
        if self._start < self._end:
            self._rest = PyBytes_FromStringAndSize(
                <char *>self._buffers.incoming + self._start, self._end - self._start)
        else:
            self._rest = b""
        return 0

    cdef ssize_t _receive(self) except -2:
        """Receive once: how many bytes, 0 at the end of the connection, -1 when there is nothing."""
        cdef unsigned char *to
        cdef size_t room
        cdef ssize_t size
        if self._large is not None:
            to = <unsigned char *>PyBytes_AS_STRING(self._large) + self._filled
            room = PyBytes_GET_SIZE(self._large) - self._filled
        else:
            if self._start:
                self._end -= self._start
                memmove(self._buffers.incoming, self._buffers.incoming + self._start, self._end)
                self._start = 0
            to = self._buffers.incoming + self._end
            room = RECEIVE_SIZE
        size = recv(self._fd, to, room, MSG_DONTWAIT)
        while size < 0 and errno == EINTR:
            size = recv(self._fd, to, room, MSG_DONTWAIT)
        if size < 0:
            if errno == EAGAIN:
                return -1
            self.ended = BROKEN
            return 0
        if size == 0:
            self.ended = ENDED
        elif self._large is not None:
            self._filled += size
        else:
            self._end += size
        return size

    cdef bint _take_apart(self, list found, Py_ssize_t limit) except -1:
        """Make messages of what was received; True if there are `limit` of them."""
        cdef const unsigned char *at
        cdef size_t have, head, size
        cdef int flags, index
        cdef bytes frame
        while len(found) < limit:
            if self._large is not None:
                if self._filled < <size_t>PyBytes_GET_SIZE(self._large):
                    return False
                frame = self._large
                self._large = None
                self._add(found, frame, self._large_flags)
                continue
            have = self._end - self._start
            at = self._buffers.incoming + self._start
            if have < 2:
                return False
            flags = at[0]
            if flags & LONG:
                if have < FRAME_HEAD:
                    return False
                size = 0
                for index in range(1, FRAME_HEAD):
                    size = size << 8 | at[index]
                head = FRAME_HEAD
            else:
                size = at[1]
                head = 2
            if flags & ~(MORE | LONG | COMMAND) or size > self._max_frame:
                self.ended = NO_ZMTP
                return False
            if self._size + size > 2 * self._max_frame:
                self.ended = ENDLESS
                return False
            if size >= LARGE_SIZE:
                try:
                    self._large = PyBytes_FromStringAndSize(NULL, size)
                except MemoryError:
                    self.ended = NO_ROOM
                    return False
                self._start += head
                have -= head
                if have > size:
                    have = size
                memcpy(PyBytes_AS_STRING(self._large), at + head, have)
                self._filled = have
                self._large_flags = flags
                self._start += have
                continue
            if have < head + size:
                return False
            at += head
            self._start += head + size
            if self._count == 0 and not flags & COMMAND:
                self._message = self._reader.parse(at, size)
                if self._message is not None:
                    if not flags & MORE:
                        found.append((self.peer, self._message))
                        self._message = None
                        continue
                    if not self._take_body(found):
                        self._head = PyBytes_FromStringAndSize(<const char *>at, size)
                        self._count = 1
                    continue
            self._add(found, PyBytes_FromStringAndSize(<const char *>at, size), flags)
        return True

    cdef bint _take_body(self, list found) except -1:
        """The common case: the second frame of a native message is there, small, and the last."""
        cdef size_t have = self._end - self._start
        cdef const unsigned char *at = self._buffers.incoming + self._start
        cdef size_t size, head
        if have < 2 or at[0] & (MORE | COMMAND):
            return False
        if at[0] & LONG:
            if have < FRAME_HEAD or at[1] | at[2] | at[3] | at[4] | at[5] | at[6]:
                return False
            size = <size_t>at[7] << 8 | at[8]
            head = FRAME_HEAD
        else:
            size = at[1]
            head = 2
        if at[0] & ~LONG or have < head + size:
            return False
        self._start += head + size
        self._message.frames = (PyBytes_FromStringAndSize(<const char *>at + head, size),)
        found.append((self.peer, self._message))
        self._message = None
        return True

    cdef int _add(self, list found, bytes frame, int flags) except -1:
        """Add a frame to the message in the making."""
        cdef Py_ssize_t bodies
        if flags & COMMAND:
            self._obey(frame)
            return 0
        self._count += 1
        self._size += PyBytes_GET_SIZE(frame) + FRAME_HEAD
        if self._count <= FRAME_LIMIT:
            self._frames.append(frame)
        elif self._count == FRAME_LIMIT + 1:
            self._frames.clear()
        if flags & MORE:
            return 0
        frames, message, head = self._frames, self._message, self._head
        bodies = len(frames)
        self._frames = []
        self._message = None
        self._head = None
        self._size = 0
        if self._count > FRAME_LIMIT:
            self.dropped_oversize += 1
        elif message is None or (
            bodies > 2 and (not message.flags & RAW or bodies > MAX_BODY_FRAMES)
        ):
            if message is not None:
                frames.insert(0, head)
            if self.peer:
                frames.insert(0, self.peer)
            found.append((self.peer, frames))
        else:
            message.frames = (frames[0],) if bodies == 1 else frames
            found.append((self.peer, message))
        self._count = 0
        return 0

    cdef int _obey(self, bytes command) except -1:
        """Answer a PING with its context; other commands have no meaning here.

        A peer that does not read its answers gets no more of them than of anything else.
        """
        if command.startswith(PING) and len(command) >= 7 and self.unsent <= self._limit:
            reply = PONG + command[7 : 7 + 16]
            self._enqueue(bytes([COMMAND, len(reply)]) + reply)
            self._flush()
        return 0

    # ---------------------------------------------------------------- out

    def write(self, entries):
        cdef list failed = []
        cdef tuple entry
        cdef Py_ssize_t index = -1
        try:
            for entry in entries:
                index += 1
                if self.unsent > self._limit:
                    failed.append((index, EAGAIN))
                else:
                    self._put_message(entry[1])
        finally:
            # Whatever could not be packed: what was gathered before is whole messages.
            self._send_gathered(0)
        return failed

    def send(self, messages):
        """As `write`, of messages given by their frames."""
        cdef list failed = []
        cdef Py_ssize_t index = -1
        for frames in messages:
            index += 1
            if self.unsent > self._limit:
                failed.append((index, EAGAIN))
            else:
                self._put_frames([_as_bytes(frame) for frame in frames])
        self._send_gathered(0)
        return failed

    cdef int _put_message(self, Message message) except -1:
        cdef unsigned char header[MAX_HEADER]
        cdef size_t size = pack_header(message, header)
        frames = message.frames
        if type(frames) is not tuple or len(frames) != 1 or not PyBytes_CheckExact(frames[0]):
            frames = [_as_bytes(frame) for frame in frames]
        self._put(header, size, MORE if frames else 0)
        return self._put_frames(frames)

    cdef int _put_frames(self, frames) except -1:
        cdef Py_ssize_t last = len(frames) - 1, number
        cdef bytes body
        for number in range(last + 1):
            body = frames[number]
            if PyBytes_GET_SIZE(body) < LARGE_SIZE:
                self._put(
                    <unsigned char *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
                    MORE if number < last else 0)
                continue
            self._make_room(FRAME_HEAD)
            self._out_size += _put_head(
                self._buffers.outgoing + self._out_size, MORE if number < last else 0,
                PyBytes_GET_SIZE(body))
            self._send_gathered(MSG_MORE)
            self._send_large(body)
        return 0

    cdef int _put(self, unsigned char *data, size_t size, int flags) except -1:
        """Add a small frame to what is about to be sent."""
        self._make_room(FRAME_HEAD + size)
        self._out_size += _put_head(self._buffers.outgoing + self._out_size, flags, size)
        memcpy(self._buffers.outgoing + self._out_size, data, size)
        self._out_size += size
        return 0

    cdef int _make_room(self, size_t size) except -1:
        if self._out_size + size > OUT_SIZE:
            self._send_gathered(MSG_MORE)
        return 0

    cdef int _send_gathered(self, int flags) except -1:
        """Send what `_put` has gathered; what the connection does not take is queued."""
        cdef size_t sent = 0, size = self._out_size
        self._out_size = 0
        if size and not self.unsent:
            sent = self._send(self._buffers.outgoing, size, flags)
        if sent < size:
            self._enqueue(
                PyBytes_FromStringAndSize(<char *>self._buffers.outgoing + sent, size - sent))
        return 0

    cdef int _send_large(self, bytes body) except -1:
        cdef size_t sent = 0, size = PyBytes_GET_SIZE(body)
        if not self.unsent:
            sent = self._send(<unsigned char *>PyBytes_AS_STRING(body), size, 0)
        if sent < size:
            self._enqueue(memoryview(body)[sent:] if sent else body)
        return 0

    cdef size_t _send(self, const unsigned char *data, size_t size, int flags) noexcept:
        """Send what the connection takes now; how much that was. Its end is for `read` to see."""
        cdef size_t sent = 0
        cdef ssize_t done
        if self._fd < 0:
            return 0
        while sent < size:
            done = send(self._fd, data + sent, size - sent, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
            if done >= 0:
                sent += done
            elif errno != EINTR:
                break
        return sent

    cdef int _enqueue(self, data) except -1:
        self._queue.append(data)
        self.unsent += len(data)
        self._watch_writes()
        return 0

    cdef int _flush(self) except -1:
        """Send what is queued, as far as the connection takes it."""
        cdef const unsigned char[:] view
        cdef size_t sent, size
        while self.unsent:
            view = self._queue[0]
            size = view.shape[0]
            sent = self._send(&view[0], size, MSG_MORE if len(self._queue) > 1 else 0)
            self.unsent -= sent
            if sent < size:
                if sent:
                    self._queue[0] = memoryview(self._queue[0])[sent:]
                break
            self._queue.popleft()
        self._watch_writes()
        return 0

    cdef int _watch_writes(self) except -1:
        cdef bint wanted = self.unsent > 0
        if wanted != self._watching_writes and self._fd >= 0:
            self._watching_writes = wanted
            mesh_watch(self._poller, EPOLL_CTL_MOD, self._fd, wanted)
        return 0

    def flush(self):
        """Send what is queued, as far as the connection takes it; whether nothing is left."""
        self._flush()
        return self.unsent == 0


cdef class Hub:
    """The messages of many connections, which the epoll descriptor `poller` watches.

    `departed` lists the streams that ended, once all that they brought has been read, and `others`
    the descriptors without a stream that had something to say; who reads the lists empties them.
    """

    kind = "compiled"

    cdef readonly bint drained
    cdef readonly Py_ssize_t dropped_oversize
    cdef readonly list departed
    cdef readonly list others
    cdef readonly dict streams
    cdef int _poller
    cdef size_t _max_frame
    cdef size_t _limit
    cdef _Buffers _buffers
    cdef dict _by_descriptor
    cdef list _unread

    def __init__(self, int poller, *, size_t max_frame, size_t limit=16 << 20):
        self.drained = True
        self.departed = []
        self.others = []
        self.streams = {}
        self._poller = poller
        self._max_frame = max_frame
        self._limit = limit
        self._buffers = _Buffers()
        self._by_descriptor = {}
        self._unread = []

    @property
    def pending(self):
        """Whether `read` has something to give, whatever the descriptor says."""
        return bool(self._unread)

    def add(self, bytes peer, int fd, bytes received):
        """Take in the connection `fd` as `peer`; `received` is what came after the handshake."""
        cdef Stream stream = Stream(
            max_frame=self._max_frame, limit=self._limit, peer=peer, buffers=self._buffers)
        stream.attach(fd, self._poller, received)
        self.streams[peer] = stream
        self._by_descriptor[fd] = stream
        if received:
            stream._listed = True
            self._unread.append(stream)

    def remove(self, Stream stream):
        """Let go of a connection, which may be closed now."""
        if self.streams.pop(stream.peer, None) is not None:
            del self._by_descriptor[stream._fd]
        stream.detach()

    def read(self, Py_ssize_t limit, double spin=0.0):
        cdef list found = []
        cdef list ready = self._unread
        cdef Stream stream
        cdef int descriptors[256]
        cdef int count, index
        cdef Py_ssize_t share
        cdef double end_at
        count = mesh_ready(self._poller, descriptors)
        if spin > 0.0 and count == 0 and not ready:
            with nogil:
                end_at = mesh_now() + spin
                while count == 0 and mesh_now() < end_at:
                    sched_yield()
                    count = mesh_ready(self._poller, descriptors)
        self._unread = []
        for index in range(count):
            stream = self._by_descriptor.get(descriptors[index])
            if stream is None:
                self.others.append(descriptors[index])
            elif not stream._listed:
                stream._listed = True
                ready.append(stream)
        if not ready:
            self.drained = True
            return found
        share = max(1, limit // len(ready))
        for stream in ready:
            stream._listed = False
            if stream._fd < 0:
                continue
            if stream.unsent:
                stream._flush()
            stream._pull(found, len(found) + share)
            if stream.dropped_oversize:
                self.dropped_oversize += stream.dropped_oversize
                stream.dropped_oversize = 0
            if stream.ended:
                if stream.drained:
                    self._unwatch(stream)
                    self.departed.append(stream)
                    continue
            if not stream.drained:
                stream._listed = True
                self._unread.append(stream)
        self.drained = not self._unread and count < MESH_EVENTS
        return found

    cdef int _unwatch(self, Stream stream) except -1:
        mesh_watch(self._poller, EPOLL_CTL_DEL, stream._fd, 0)
        return 0

    def write(self, entries):
        cdef list failed = []
        cdef list touched = []
        cdef Py_ssize_t index = -1
        cdef tuple entry
        cdef Stream stream
        for entry in entries:
            index += 1
            stream = self.streams.get(entry[0])
            if stream is None or stream.ended:
                failed.append((index, EHOSTUNREACH))
            elif stream.unsent > self._limit:
                failed.append((index, EAGAIN))
            else:
                if not stream._outgoing:
                    touched.append(stream)
                stream._outgoing.append(entry[1])
        for stream in touched:
            outgoing = stream._outgoing
            stream._outgoing = []
            try:
                for message in outgoing:
                    stream._put_message(message)
            finally:
                # The room is shared: nothing may stay there for the next stream to write over.
                stream._send_gathered(0)
        return failed

    def send(self, messages):
        """As `write`, of messages given by their frames, the first of which names the peer."""
        cdef list failed = []
        cdef Py_ssize_t index = -1
        cdef Stream stream
        for frames in messages:
            index += 1
            stream = self.streams.get(frames[0])
            if stream is None or stream.ended:
                failed.append((index, EHOSTUNREACH))
            elif stream.send([frames[1:]]):
                failed.append((index, EAGAIN))
        return failed
