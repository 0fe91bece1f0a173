/*
 * Counts and times what a process under load syncs, thread by thread. Loaded with LD_PRELOAD: tracing costs each of its
 * system calls a detour, this costs a sync two looks at the clock.
 *
 * BENCH_SYNCS names a file of SLOTS times 64 bytes, which is mapped: number of calls and nanoseconds of a thread, each as
 * eight bytes in the machine's order.
 * BENCH_SYNC_NANOS: how much longer each sync takes than the disk does; 0 if it is not there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 64 };

static struct slot {
    _Atomic unsigned long calls, nanos;
    char own_cache_line[48];
} *slots;
static atomic_uint taken;
static _Thread_local struct slot *mine;
static struct timespec longer;

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("BENCH_SYNCS"), *nanos = getenv("BENCH_SYNC_NANOS");
    longer.tv_nsec = nanos ? atol(nanos) : 0;
    int fd = file ? syscall(SYS_openat, AT_FDCWD, file, O_RDWR) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        slots = page;
    syscall(SYS_close, fd);
}

static unsigned long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static int timed(long call, int fd)
{
    unsigned long began = now();
    int result = syscall(call, fd);
    if (longer.tv_nsec)
        nanosleep(&longer, NULL);
    if (slots) {
        if (!mine)
            mine = &slots[atomic_fetch_add(&taken, 1) % SLOTS];
        atomic_fetch_add(&mine->nanos, now() - began);
        atomic_fetch_add(&mine->calls, 1);
    }
    return result;
}

int fdatasync(int fd)
{
    return timed(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return timed(SYS_fsync, fd);
}
