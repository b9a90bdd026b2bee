# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Clients and workers that are never the limit: loops in C over libzmq and over TCP text.

The ZeroMQ side calls the libzmq that pyzmq has loaded, found at run time; the NATS side reads and
writes large buffers on a plain TCP socket. Both keep `window` requests in flight, count the replies
of `seconds`, and hold no interpreter lock.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove
from posix.dlfcn cimport RTLD_NOW, dlopen, dlsym

from zmq.backend.cython import _zmq as _pyzmq

cdef extern from * nogil:
    """
    #include <stdio.h>
    #include <time.h>
    #include <unistd.h>
    typedef union { unsigned char bytes[64]; void *align; } load_msg;
    typedef struct { void *socket; int fd; short events; short revents; } load_item;
    static double load_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    ctypedef struct msg_t "load_msg":
        pass
    ctypedef struct item_t "load_item":
        void *socket
        int fd
        short events
        short revents
    double load_now()
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)
    int snprintf(char *into, size_t size, const char *form, ...)

cdef extern from "<dlfcn.h>":
    enum:
        RTLD_NOLOAD

cdef int (*zmq_errno)() noexcept nogil
cdef int (*zmq_poll)(item_t *, int, long) noexcept nogil
cdef int (*zmq_send)(void *, const void *, size_t, int) noexcept nogil
cdef int (*zmq_msg_init)(msg_t *) noexcept nogil
cdef int (*zmq_msg_init_size)(msg_t *, size_t) noexcept nogil
cdef int (*zmq_msg_recv)(msg_t *, void *, int) noexcept nogil
cdef int (*zmq_msg_send)(msg_t *, void *, int) noexcept nogil
cdef int (*zmq_msg_close)(msg_t *) noexcept nogil
cdef int (*zmq_msg_copy)(msg_t *, msg_t *) noexcept nogil
cdef int (*zmq_msg_more)(msg_t *) noexcept nogil
cdef void *(*zmq_msg_data)(msg_t *) noexcept nogil
cdef size_t (*zmq_msg_size)(msg_t *) noexcept nogil


cdef void *_find(bytes name) except NULL:
    cdef bytes path = _pyzmq.__file__.encode()
    cdef void *library = dlopen(<const char *>path, RTLD_NOW | RTLD_NOLOAD)
    cdef void *address = dlsym(library, <const char *>name) if library != NULL else NULL
    if address == NULL:
        raise ImportError(f"pyzmq's libzmq does not export {name.decode()}")
    return address


zmq_errno = <int (*)() noexcept nogil>_find(b"zmq_errno")
zmq_poll = <int (*)(item_t *, int, long) noexcept nogil>_find(b"zmq_poll")
zmq_send = <int (*)(void *, const void *, size_t, int) noexcept nogil>_find(b"zmq_send")
zmq_msg_init = <int (*)(msg_t *) noexcept nogil>_find(b"zmq_msg_init")
zmq_msg_init_size = <int (*)(msg_t *, size_t) noexcept nogil>_find(b"zmq_msg_init_size")
zmq_msg_recv = <int (*)(msg_t *, void *, int) noexcept nogil>_find(b"zmq_msg_recv")
zmq_msg_send = <int (*)(msg_t *, void *, int) noexcept nogil>_find(b"zmq_msg_send")
zmq_msg_close = <int (*)(msg_t *) noexcept nogil>_find(b"zmq_msg_close")
zmq_msg_copy = <int (*)(msg_t *, msg_t *) noexcept nogil>_find(b"zmq_msg_copy")
zmq_msg_more = <int (*)(msg_t *) noexcept nogil>_find(b"zmq_msg_more")
zmq_msg_data = <void *(*)(msg_t *) noexcept nogil>_find(b"zmq_msg_data")
zmq_msg_size = <size_t (*)(msg_t *) noexcept nogil>_find(b"zmq_msg_size")

cdef int DONTWAIT = 1
cdef int SNDMORE = 2
cdef int COMMAND_AT = 2
cdef int CODE_AT = 5
cdef unsigned char REQUEST = 8
cdef unsigned char FINAL = 10
cdef size_t FIXED_HEADER = 40


cdef bint _readable(void *handle, long milliseconds) noexcept nogil:
    cdef item_t item
    item.socket = handle
    item.fd = 0
    item.events = 1
    item.revents = 0
    return zmq_poll(&item, 1, milliseconds) > 0


cdef void _put_number(unsigned char *at, uint64_t number) noexcept nogil:
    cdef int index
    for index in range(7, -1, -1):
        at[index] = number & 0xFF
        number >>= 8


cdef int _send_request(void *handle, unsigned char *header, size_t header_size, msg_t *body) noexcept nogil:
    cdef msg_t copy
    if zmq_send(handle, header, header_size, SNDMORE) < 0:
        return -1
    zmq_msg_init(&copy)
    zmq_msg_copy(&copy, body)
    if zmq_msg_send(&copy, handle, 0) < 0:
        zmq_msg_close(&copy)
        return -1
    return 0


def client(size_t underlying, bytes header, bytes body, int number_at, int window, double seconds,
           bint native, long first_number):
    """Keep `window` requests in flight for `seconds`; then wait for the rest.

    A request is [header with its number at `number_at`][body]. A reply is any message; with `native`
    only a FINAL counts, an ERROR is counted apart, and the rest is ignored.

    Returns (replies within the time, seconds measured, last number used).

    Raises:
        RuntimeError: requests failed or stayed unanswered.
    """
    cdef void *handle = <void *>underlying
    cdef unsigned char scratch[512]
    cdef size_t header_size = len(header)
    cdef msg_t body_message, frame
    cdef uint64_t number = first_number
    cdef long done = 0, errors = 0, in_flight = 0, counted = 0
    cdef double begun, now, end_at, give_up_at
    cdef unsigned char command, code, first_code = 0
    cdef unsigned char *data
    cdef int failed = 0, index, more
    cdef size_t body_size = len(body)
    cdef const char *body_data = body
    cdef const char *header_data = header
    if header_size > 512:
        raise ValueError("header too long")
    memcpy(scratch, header_data, header_size)
    zmq_msg_init_size(&body_message, body_size)
    memcpy(zmq_msg_data(&body_message), body_data, body_size)
    with nogil:
        begun = load_now()
        end_at = begun + seconds
        give_up_at = end_at + 10.0
        now = begun
        for index in range(window):
            number += 1
            _put_number(scratch + number_at, number)
            failed |= _send_request(handle, scratch, header_size, &body_message)
        in_flight = window
        zmq_msg_init(&frame)
        while in_flight > 0 and not failed:
            if zmq_msg_recv(&frame, handle, DONTWAIT) < 0:
                if zmq_errno() == EINTR:
                    continue
                if zmq_errno() != EAGAIN:
                    failed = 1
                    break
                now = load_now()
                if now > give_up_at:
                    failed = 1
                    break
                _readable(handle, 200)
                continue
            command = FINAL
            if native:
                data = <unsigned char *>zmq_msg_data(&frame)
                command = data[COMMAND_AT] if zmq_msg_size(&frame) >= FIXED_HEADER else 0
                code = data[CODE_AT] if command else 0
            more = zmq_msg_more(&frame)
            while more:
                if zmq_msg_recv(&frame, handle, 0) < 0:
                    failed = 1
                    break
                more = zmq_msg_more(&frame)
            if command != FINAL:
                if command != FINAL + 1:
                    continue
                errors += 1
                first_code = first_code or code
            else:
                done += 1
            in_flight -= 1
            if (done & 63) == 0 or window < 64:
                now = load_now()
            if now < end_at:
                counted = done
                number += 1
                _put_number(scratch + number_at, number)
                failed |= _send_request(handle, scratch, header_size, &body_message)
                in_flight += 1
        zmq_msg_close(&frame)
        zmq_msg_close(&body_message)
    if failed:
        raise RuntimeError(f"the load stopped with {in_flight} requests unanswered, errno {zmq_errno()}")
    if errors:
        raise RuntimeError(f"{errors} of {errors + done} requests failed, the first with code {first_code}")
    return counted, min(now, end_at) - begun, number


def worker(size_t underlying, bytes heartbeat, bint native):
    """Echo until killed. `native`: REQUEST becomes FINAL of the same id; else all frames go back as they are."""
    cdef void *handle = <void *>underlying
    cdef msg_t frame
    cdef unsigned char reply[40]
    cdef unsigned char *data
    cdef const char *beat = heartbeat
    cdef size_t beat_size = len(heartbeat)
    cdef bint more, is_request
    with nogil:
        zmq_msg_init(&frame)
        while True:
            if zmq_msg_recv(&frame, handle, DONTWAIT) < 0:
                if zmq_errno() == EAGAIN:
                    if not _readable(handle, 100) and beat_size:
                        zmq_send(handle, beat, beat_size, 0)
                    continue
                if zmq_errno() == EINTR:
                    continue
                break
            more = zmq_msg_more(&frame)
            is_request = True
            if native:
                data = <unsigned char *>zmq_msg_data(&frame)
                is_request = zmq_msg_size(&frame) >= FIXED_HEADER and data[COMMAND_AT] == REQUEST
                if is_request:
                    memcpy(reply, data, FIXED_HEADER)
                    reply[COMMAND_AT] = FINAL
                    reply[3] = reply[4] = reply[6] = reply[7] = 0
                    zmq_send(handle, reply, FIXED_HEADER, SNDMORE if more else 0)
            else:
                zmq_msg_send(&frame, handle, SNDMORE if more else 0)
            while more:
                if zmq_msg_recv(&frame, handle, 0) < 0:
                    break
                more = zmq_msg_more(&frame)
                if is_request:
                    zmq_msg_send(&frame, handle, SNDMORE if more else 0)
        zmq_msg_close(&frame)


cdef enum:
    BUFFER = 1 << 20


cdef int _write_all(int fd, const char *data, size_t size) noexcept nogil:
    cdef ssize_t rc
    while size > 0:
        rc = write(fd, data, size)
        if rc < 0:
            if errno == EINTR:
                continue
            return -1
        data += rc
        size -= rc
    return 0


cdef long _number(const char *at, const char *end) noexcept nogil:
    cdef long value = 0
    while at < end:
        value = value * 10 + (at[0] - 48)
        at += 1
    return value


cdef struct Line:
    const char *reply
    size_t reply_size
    const char *payload
    long size


cdef const char *_next_message(const char *at, const char *end, Line *line, int fd) noexcept nogil:
    """Parse one line of the server (and the payload of a MSG). NULL if it is not complete.

    `line.size` is -1 where it was no MSG. PING is answered on the spot.
    """
    cdef const char *stop = <const char *>memchr(at, 10, end - at)
    cdef const char *text_end
    cdef const char *last
    cdef const char *before
    line.size = -1
    if stop == NULL:
        return NULL
    text_end = stop - 1
    if at[0] == 77:                                        # MSG subject sid [reply] size
        last = text_end
        while (last - 1)[0] != 32:
            last -= 1
        line.size = _number(last, text_end)
        before = last - 1
        while (before - 1)[0] != 32:
            before -= 1
        line.reply = before
        line.reply_size = last - 1 - before
        line.payload = stop + 1
        if end - line.payload < line.size + 2:
            return NULL
        return line.payload + line.size + 2
    if at[0] == 80 and at[1] == 73:                        # PING
        _write_all(fd, b"PONG\r\n", 6)
    return stop + 1


def nats_client(int fd, bytes subject, bytes inbox, bytes body, int window, double seconds, long first_number):
    """As `client`, in the text protocol of NATS: PUB subject inbox.number size. The inbox is subscribed."""
    cdef char *incoming = <char *>malloc(BUFFER)
    cdef char *outgoing = <char *>malloc(BUFFER)
    cdef const char *subject_text = subject
    cdef const char *inbox_text = inbox
    cdef const char *body_data = body
    cdef size_t body_size = len(body)
    cdef const char *at
    cdef const char *following
    cdef Line line
    cdef size_t held = 0, out_size = 0
    cdef ssize_t rc
    cdef long number = first_number, done = 0, counted = 0, in_flight = 0, due = window
    cdef double begun, now, end_at, give_up_at
    cdef bint failed = False
    with nogil:
        begun = load_now()
        now = begun
        end_at = begun + seconds
        give_up_at = end_at + 10.0
        while True:
            while due > 0:
                number += 1
                out_size += snprintf(outgoing + out_size, 256, b"PUB %s %s.%ld %zu\r\n",
                                     subject_text, inbox_text, number, body_size)
                memcpy(outgoing + out_size, body_data, body_size)
                memcpy(outgoing + out_size + body_size, b"\r\n", 2)
                out_size += body_size + 2
                in_flight += 1
                due -= 1
                if out_size > BUFFER - 4096 - body_size:
                    break
            if out_size and _write_all(fd, outgoing, out_size) < 0:
                failed = True
                break
            out_size = 0
            if due > 0:
                continue
            if in_flight == 0:
                break
            rc = read(fd, incoming + held, BUFFER - held)
            if rc < 0 and errno == EINTR:
                continue
            if rc <= 0:
                failed = True
                break
            held += rc
            at = incoming
            now = load_now()
            while True:
                following = _next_message(at, incoming + held, &line, fd)
                if following == NULL:
                    break
                if line.size >= 0:
                    done += 1
                    in_flight -= 1
                    if now < end_at:
                        due += 1
                at = following
            if now < end_at:
                counted = done
            held -= at - incoming
            memmove(incoming, at, held)
            if now > give_up_at:
                failed = True
                break
    free(incoming)
    free(outgoing)
    if failed:
        raise RuntimeError(f"the load stopped with {in_flight} requests unanswered")
    return counted, min(now, end_at) - begun, number


def nats_worker(int fd):
    """Answer every MSG with its own payload until the connection ends. The subject is subscribed."""
    cdef char *incoming = <char *>malloc(BUFFER)
    cdef char *outgoing = <char *>malloc(2 * BUFFER)
    cdef const char *at
    cdef const char *following
    cdef Line line
    cdef size_t held = 0, out_size = 0
    cdef ssize_t rc
    with nogil:
        while True:
            rc = read(fd, incoming + held, BUFFER - held)
            if rc < 0 and errno == EINTR:
                continue
            if rc <= 0:
                break
            held += rc
            at = incoming
            while True:
                following = _next_message(at, incoming + held, &line, fd)
                if following == NULL:
                    break
                if line.size >= 0:
                    memcpy(outgoing + out_size, b"PUB ", 4)
                    memcpy(outgoing + out_size + 4, line.reply, line.reply_size)
                    out_size += 4 + line.reply_size
                    out_size += snprintf(outgoing + out_size, 32, b" %ld\r\n", line.size)
                    memcpy(outgoing + out_size, line.payload, line.size + 2)
                    out_size += line.size + 2
                at = following
            held -= at - incoming
            memmove(incoming, at, held)
            if out_size and _write_all(fd, outgoing, out_size) < 0:
                break
            out_size = 0
    free(incoming)
    free(outgoing)
