/*
 * What a process under torture is told by the system instead of the truth. Loaded with LD_PRELOAD.
 *
 * Time:  TORTURE_CLOCK names a file of eight bytes, seconds as a little-endian integer; they are added to the wall
 *        clock and to no other. The file is mapped, so that whoever writes to it moves the clock at once.
 * Files: calls that change files below TORTURE_ROOT are counted from 1; the TORTURE_NTH of them goes wrong as
 *        TORTURE_KIND says: eio, enospc, eintr or short. At the end the count is written to TORTURE_COUNT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *clock_offset;
static const char *root;
static size_t root_length;
static long nth;
static int kind; /* an errno, or -1 for a short write */
static const char *count_file;
static atomic_long calls;

__attribute__((constructor)) static void begin(void)
{
    const char *clock_file = getenv("TORTURE_CLOCK");
    if (clock_file) {
        int fd = syscall(SYS_openat, AT_FDCWD, clock_file, O_RDONLY);
        if (fd >= 0) {
            void *page = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
            if (page != MAP_FAILED)
                clock_offset = page;
            syscall(SYS_close, fd);
        }
    }
    const char *number = getenv("TORTURE_NTH"), *name = getenv("TORTURE_KIND");
    nth = number ? atol(number) : 0;
    kind = !name                   ? EIO
           : !strcmp(name, "enospc") ? ENOSPC
           : !strcmp(name, "eintr")  ? EINTR
           : !strcmp(name, "short")  ? -1
                                     : EIO;
    count_file = getenv("TORTURE_COUNT");
    root = getenv("TORTURE_ROOT");
    root_length = root ? strlen(root) : 0;
}

__attribute__((destructor)) static void end(void)
{
    if (!count_file)
        return;
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", atomic_load(&calls));
    int fd = syscall(SYS_openat, AT_FDCWD, count_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, text, (size_t)length);
        syscall(SYS_close, fd);
    }
}

/* Whether this call, on a path, is the one to go wrong. */
static int wrong_path(const char *path)
{
    if (!root || !path || strncmp(path, root, root_length))
        return 0;
    return atomic_fetch_add(&calls, 1) + 1 == nth;
}

static int wrong(int fd)
{
    if (!root)
        return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return wrong_path(path);
}

static long fails(void)
{
    errno = kind < 0 ? EIO : kind;
    return -1;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && clock_offset)
        time->tv_sec += *clock_offset;
    return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at)
{
    if (wrong(fd)) {
        if (kind >= 0)
            return fails();
        count = count > 1 ? count / 2 : count;
    }
    return syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return pwrite64(fd, bytes, count, at);
}

int fdatasync(int fd)
{
    return wrong(fd) ? (int)fails() : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return wrong(fd) ? (int)fails() : (int)syscall(SYS_fsync, fd);
}

int ftruncate64(int fd, off_t length)
{
    return wrong(fd) ? (int)fails() : (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length)
{
    return ftruncate64(fd, length);
}

int fallocate64(int fd, int mode, off_t at, off_t length)
{
    return wrong(fd) ? (int)fails() : (int)syscall(SYS_fallocate, fd, mode, at, length);
}

int fallocate(int fd, int mode, off_t at, off_t length)
{
    return fallocate64(fd, mode, at, length);
}

int rename(const char *from, const char *to)
{
    return wrong_path(to) ? (int)fails() : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return wrong_path(path) ? (int)fails() : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode)
{
    return wrong_path(path) ? (int)fails() : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if ((flags & O_ACCMODE) != O_RDONLY && wrong_path(path))
        return (int)fails();
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
