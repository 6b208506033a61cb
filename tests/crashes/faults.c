/* Calls on files below one folder that fail: loaded into a test's process by LD_PRELOAD, and told by ctypes when to.

   What SQLite and Python call for files is the C library's, whichever of them it is, so this reaches both. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, OPEN = 8, NAME = 16, READ = 32 };

static char folder[PATH_MAX];
static atomic_int kinds, count, first, last, code;

/* From the call numbered `from` up to the one before `to`, those of these kinds fail with `error`. */
void faults_arm(const char *path, int of_kinds, int from, int to, int error) {
    kinds = 0;
    strncpy(folder, path, sizeof folder - 1);
    count = 0;
    first = from;
    last = to;
    code = error;
    kinds = of_kinds;
}

/* How many calls there were since. */
int faults_disarm(void) {
    kinds = 0;
    return count;
}

static int fails(int kind, const char *path) {
    if (!(kinds & kind) || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
    int number = count++;
    if (number < first || number >= last) return 0;
    errno = code;
    return 1;
}

static int fails_of(int kind, int fd) {
    char link[64], path[PATH_MAX];
    if (!(kinds & kind)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(kind, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_FD(type, name, kind, parameters, arguments)             \
    type name parameters {                                         \
        return fails_of(kind, fd) ? -1 : REAL(name) arguments;     \
    }
#define ON_PATH(name, parameters, arguments)                       \
    int name parameters {                                          \
        return fails(NAME, path) ? -1 : REAL(name) arguments;      \
    }
#define OPENING(name)                                                                        \
    int name(const char *path, int flags, ...) {                                             \
        mode_t mode = 0;                                                                     \
        va_list rest;                                                                        \
        va_start(rest, flags);                                                               \
        if (flags & O_CREAT) mode = va_arg(rest, mode_t);                                    \
        va_end(rest);                                                                        \
        return fails(flags & (O_WRONLY | O_RDWR | O_CREAT) ? OPEN : READ, path) ? -1         \
               : REAL(name)(path, flags, mode);                                              \
    }

ON_FD(ssize_t, write, WRITE, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pwrite, WRITE, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, WRITE, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, read, READ, (int fd, void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pread, READ, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pread64, READ, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(int, fsync, SYNC, (int fd), (fd))
ON_FD(int, fdatasync, SYNC, (int fd), (fd))
ON_FD(int, ftruncate, TRUNCATE, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, TRUNCATE, (int fd, off64_t size), (fd, size))
ON_PATH(rename, (const char *path, const char *target), (path, target))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
OPENING(open)
OPENING(open64)
