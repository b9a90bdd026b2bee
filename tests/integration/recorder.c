/* Records what a process does to files called data.mdb: preloaded, with RECORD=<file>.

   Each record: op (1 octet), file offset (8), length (8), then for a write its octets.
   Ops: W a write that waits in memory, D a write that is on disk when it returns, F a flush,
   T a new length of the file. Other code may append records of its own to the same file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

static int record_file = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("RECORD");
    if (path)
        record_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_store(int fd)
{
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (record_file < 0 || length < 8)
        return 0;
    path[length] = 0;
    return strcmp(path + length - 8, "data.mdb") == 0;
}

static void put(const void *data, size_t length)
{
    const char *at = data;
    while (length) {
        /* Not through `write` below. */
        ssize_t done = ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(record_file, at, length);
        if (done <= 0)
            abort();
        at += done;
        length -= (size_t)done;
    }
}

static void note(char op, int64_t offset, const struct iovec *parts, int count, int64_t length)
{
    int64_t numbers[2] = {offset, length};
    put(&op, 1);
    put(numbers, sizeof numbers);
    for (int i = 0; i < count && length > 0; i++) {
        size_t some = parts[i].iov_len < (size_t)length ? parts[i].iov_len : (size_t)length;
        put(parts[i].iov_base, some);
        length -= (int64_t)some;
    }
}

/* The record is made after the call, under one lock for both: its order is that of the calls. */
#define RECORDED(op, offset, parts, count, call)                                  \
    do {                                                                          \
        if (!is_store(fd))                                                        \
            return (call);                                                        \
        pthread_mutex_lock(&lock);                                                \
        ssize_t done = (call);                                                    \
        if (done > 0)                                                             \
            note(op, offset, parts, count, done);                                 \
        pthread_mutex_unlock(&lock);                                              \
        return done;                                                              \
    } while (0)

#define WRITE_OP ((fcntl(fd, F_GETFL) & O_DSYNC) ? 'D' : 'W')

typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
typedef ssize_t (*pwritev_t)(int, const struct iovec *, int, off_t);
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*writev_t)(int, const struct iovec *, int);
typedef int (*flush_t)(int);
typedef int (*truncate_t)(int, off_t);

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    struct iovec part = {(void *)data, length};
    RECORDED(WRITE_OP, offset, &part, 1, ((pwrite_t)dlsym(RTLD_NEXT, "pwrite64"))(fd, data, length, offset));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset)
{
    RECORDED(WRITE_OP, offset, parts, count, ((pwritev_t)dlsym(RTLD_NEXT, "pwritev64"))(fd, parts, count, offset));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64(fd, parts, count, offset);
}

ssize_t write(int fd, const void *data, size_t length)
{
    struct iovec part = {(void *)data, length};
    RECORDED(WRITE_OP, lseek(fd, 0, SEEK_CUR) - done, &part, 1, ((write_t)dlsym(RTLD_NEXT, "write"))(fd, data, length));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    RECORDED(WRITE_OP, lseek(fd, 0, SEEK_CUR) - done, parts, count, ((writev_t)dlsym(RTLD_NEXT, "writev"))(fd, parts, count));
}

static int flushed(int fd, const char *name)
{
    int result;
    if (!is_store(fd))
        return ((flush_t)dlsym(RTLD_NEXT, name))(fd);
    pthread_mutex_lock(&lock);
    result = ((flush_t)dlsym(RTLD_NEXT, name))(fd);
    if (result == 0)
        note('F', 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fdatasync(int fd) { return flushed(fd, "fdatasync"); }
int fsync(int fd) { return flushed(fd, "fsync"); }

int ftruncate64(int fd, off_t length)
{
    int result;
    if (!is_store(fd))
        return ((truncate_t)dlsym(RTLD_NEXT, "ftruncate64"))(fd, length);
    pthread_mutex_lock(&lock);
    result = ((truncate_t)dlsym(RTLD_NEXT, "ftruncate64"))(fd, length);
    if (result == 0)
        note('T', length, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
