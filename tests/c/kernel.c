/* SPDX-License-Identifier: MIT */
/*
 * The linker puts these before the functions of the C library.
 */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST_FDS 1024
#define FIRST_MOMENT 1000000000000000ULL /* nanoseconds of the clock at the start */
#define MOST_WAYS 7

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_clock_gettime(clockid_t id, struct timespec *now);
int __real_close(int fd);
int __real_epoll_pwait(int fd, struct epoll_event *events, int most, int timeout,
                       const sigset_t *mask);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __real_mkostemp(char *path, int flags);
int __real_open(const char *path, int flags, mode_t mode);
ssize_t __real_pread(int fd, void *to, size_t len, off_t at);
ssize_t __real_read(int fd, void *to, size_t len);
ssize_t __real_sendfile(int to, int from, off_t *at, size_t len);
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
int __real_timerfd_create(int clock, int flags);
int __real_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                           struct itimerspec *was);
ssize_t __real_write(int fd, const void *bytes, size_t len);
ssize_t __real_writev(int fd, const struct iovec *runs, int n);
void *__real_fb_heap_take(fb_heap *heap, size_t size);
void *__real_fb_heap_resize(fb_heap *heap, void *block, size_t size);

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __wrap_clock_gettime(clockid_t id, struct timespec *now);
int __wrap_close(int fd);
int __wrap_epoll_pwait(int fd, struct epoll_event *events, int most, int timeout,
                       const sigset_t *mask);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_mkostemp(char *path, int flags);
int __wrap_open(const char *path, int flags, mode_t mode);
ssize_t __wrap_pread(int fd, void *to, size_t len, off_t at);
ssize_t __wrap_read(int fd, void *to, size_t len);
ssize_t __wrap_sendfile(int to, int from, off_t *at, size_t len);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
int __wrap_timerfd_create(int clock, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                           struct itimerspec *was);
ssize_t __wrap_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_writev(int fd, const struct iovec *runs, int n);
void *__wrap_fb_heap_take(fb_heap *heap, size_t size);
void *__wrap_fb_heap_resize(fb_heap *heap, void *block, size_t size);

/* ---- how calls fail -------------------------------------------------------------- */

/* Below 0: at most so many bytes, END: nothing more comes. Else an errno. */
#define END 0
static const int ways[KERNEL_CALLS][MOST_WAYS] = {
    [KERNEL_READ] = {-1, -100, EINTR, EAGAIN, -2000, ECONNRESET, ETIMEDOUT},
    [KERNEL_WRITE] = {-1, -100, EINTR, EAGAIN, ENOBUFS, ECONNRESET, EPIPE},
    [KERNEL_ACCEPT] = {EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR, EAGAIN, EPERM},
    [KERNEL_SENDFILE] = {-1, -100, EINTR, EAGAIN, EINVAL, EIO, END},
    [KERNEL_OPEN] = {EOPNOTSUPP, EOPNOTSUPP, EISDIR, EINVAL, ENOSPC, EMFILE, EACCES},
    [KERNEL_STORE] = {-1, -100, EINTR, EINTR, ENOSPC, EDQUOT, EIO},
    [KERNEL_PREAD] = {-1, -100, EINTR, EINTR, -1, EIO, END},
    [KERNEL_OUTQ] = {ENOTTY, EINVAL, ENOTTY, EINVAL, ENOTTY, EINVAL, ENOTTY},
};

typedef enum fd_kind { FD_OTHER, FD_CONN, FD_SPOOL, FD_TIMER } fd_kind;

static struct {
    bool is_on;
    uint64_t now;      /* nanoseconds */
    uint64_t look_ns;  /* what a look at the clock costs */
    uint64_t timer_at; /* nanoseconds; UINT64_MAX: never */
    int timer_fd;
    bool has_timer_come; /* and nobody has read that */
    int narrow;          /* bytes */
    int n_events;
    unsigned memory_in;         /* blocks until one is not to be had; 0: never */
    unsigned due[KERNEL_CALLS]; /* calls until one fails; 0: never */
    unsigned how[KERNEL_CALLS];
    bool has_failed;
    bool has_failed_to_store;
    const fb_heap *heap;
    void (*on_quiet_poll)(void);
    uint8_t kinds[MOST_FDS]; /* an fd_kind for each descriptor */
} k;

void
kernel_begin(const fb_heap *heap, void (*on_quiet_poll)(void))
{
    memset(&k, 0, sizeof(k));
    k.now = FIRST_MOMENT;
    k.timer_at = UINT64_MAX;
    k.heap = heap;
    k.on_quiet_poll = on_quiet_poll;
    k.is_on = true;
}

void
kernel_end(void)
{
    k.is_on = false;
}

void
kernel_fail(kernel_call call, unsigned how, unsigned nth)
{
    k.how[call] = how % MOST_WAYS;
    k.due[call] = nth;
}

void
kernel_fail_memory(unsigned nth)
{
    k.memory_in = nth;
}

void
kernel_calm(void)
{
    memset(k.due, 0, sizeof(k.due));
    k.memory_in = 0;
    k.look_ns = 0;
}

bool
kernel_has_failed(void)
{
    return k.has_failed;
}

bool
kernel_has_failed_to_store(void)
{
    return k.has_failed_to_store;
}

static void
pass_ns(uint64_t ns)
{
    const uint64_t once = 1;
    k.now += ns;
    if (k.timer_at <= k.now && !k.has_timer_come) {
        k.has_timer_come = true;
        ssize_t n = __real_write(k.timer_fd, &once, sizeof(once));
        (void)n;
    }
}

void
kernel_pass_ms(uint64_t ms)
{
    pass_ns(ms * 1000000);
}

uint64_t
kernel_timer_at(void)
{
    return k.timer_at;
}

void
kernel_slow_looks(uint64_t ns)
{
    k.look_ns = ns;
}

void
kernel_narrow(int bytes)
{
    k.narrow = bytes;
}

int
kernel_events(void)
{
    return k.n_events;
}

int
kernel_new_file(void)
{
    return memfd_create("fastbatch", MFD_CLOEXEC);
}

static void
mark(int fd, fd_kind kind)
{
    if (fd >= 0 && fd < MOST_FDS) {
        k.kinds[fd] = (uint8_t)kind;
    }
}

static bool
is_of(int fd, fd_kind kind)
{
    return k.is_on && fd >= 0 && fd < MOST_FDS && k.kinds[fd] == kind;
}

/* Returns the way in which a call is to go, or INT32_MIN: as ever. */
static int
way_of(kernel_call call)
{
    if (k.due[call] == 0 || --k.due[call] > 0) {
        return INT32_MIN;
    }
    int way = ways[call][k.how[call]];
    bool is_last = k.how[call] >= MOST_WAYS - 2;
    if (call == KERNEL_OPEN || call == KERNEL_STORE) {
        k.has_failed_to_store = true;
    } else if (is_last && call != KERNEL_ACCEPT && call != KERNEL_OUTQ) {
        k.has_failed = true;
    }
    return way;
}

/* Returns whether a call is over, with *result; if not, *len may have got less. */
static bool
is_settled(kernel_call call, size_t *len, ssize_t *result)
{
    int way = way_of(call);
    if (way == INT32_MIN) {
        return false;
    }
    if (way < 0) {
        *len = *len < (size_t)-way ? *len : (size_t)-way;
        return false;
    }
    errno = way;
    *result = way == END ? 0 : -1;
    return true;
}

/* ---- calls ----------------------------------------------------------------------- */

int
__wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    size_t unused = 0;
    ssize_t result;
    if (k.is_on && is_settled(KERNEL_ACCEPT, &unused, &result)) {
        return (int)result;
    }
    int accepted = __real_accept4(fd, addr, len, flags);
    mark(accepted, FD_CONN);
    if (accepted >= 0 && k.narrow > 0) {
        setsockopt(accepted, SOL_SOCKET, SO_SNDBUF, &k.narrow, sizeof(k.narrow));
    }
    return accepted;
}

int
__wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    if (!k.is_on) {
        return __real_clock_gettime(id, now);
    }
    pass_ns(k.look_ns);
    now->tv_sec = (time_t)(k.now / 1000000000);
    now->tv_nsec = (long)(k.now % 1000000000);
    return 0;
}

/* Whoever closes what is not open may as well close what is somebody else's. */
int
__wrap_close(int fd)
{
    int result = __real_close(fd);
    if (k.is_on && result < 0 && errno == EBADF) {
        fprintf(stderr, "descriptor %d is closed, but was not open\n", fd);
        abort();
    }
    return result;
}

/* Nobody else is there to wake the loop up: it must not wait. */
int
__wrap_epoll_pwait(int fd, struct epoll_event *events, int most, int timeout,
                   const sigset_t *mask)
{
    if (k.is_on && timeout != 0) {
        fprintf(stderr, "the loop would wait: %d ms\n", timeout);
        abort();
    }
    int n = __real_epoll_pwait(fd, events, most, timeout, mask);
    if (k.is_on) {
        k.n_events = n;
    }
    if (k.is_on && n == 0) {
        k.on_quiet_poll();
    }
    return n;
}

int
__wrap_ioctl(int fd, unsigned long request, void *argument)
{
    size_t unused = 0;
    ssize_t result;
    if (is_of(fd, FD_CONN) && request == SIOCOUTQ &&
        is_settled(KERNEL_OUTQ, &unused, &result)) {
        return (int)result;
    }
    return __real_ioctl(fd, request, argument);
}

static int
new_spool(void)
{
    int fd = kernel_new_file();
    mark(fd, FD_SPOOL);
    return fd;
}

int
__wrap_mkostemp(char *path, int flags)
{
    return k.is_on ? new_spool() : __real_mkostemp(path, flags);
}

int
__wrap_open(const char *path, int flags, mode_t mode)
{
    if (!k.is_on || (flags & O_TMPFILE) != O_TMPFILE) {
        return __real_open(path, flags, mode);
    }
    size_t unused = 0;
    ssize_t result;
    return is_settled(KERNEL_OPEN, &unused, &result) ? (int)result : new_spool();
}

ssize_t
__wrap_pread(int fd, void *to, size_t len, off_t at)
{
    ssize_t result;
    if (k.is_on && is_settled(KERNEL_PREAD, &len, &result)) {
        return result;
    }
    return __real_pread(fd, to, len, at);
}

ssize_t
__wrap_read(int fd, void *to, size_t len)
{
    ssize_t result;
    if (is_of(fd, FD_TIMER)) {
        k.timer_at = UINT64_MAX;
        k.has_timer_come = false;
    }
    if (is_of(fd, FD_CONN) && is_settled(KERNEL_READ, &len, &result)) {
        return result;
    }
    return __real_read(fd, to, len);
}

ssize_t
__wrap_sendfile(int to, int from, off_t *at, size_t len)
{
    ssize_t result;
    if (k.is_on && is_settled(KERNEL_SENDFILE, &len, &result)) {
        return result;
    }
    return __real_sendfile(to, from, at, len);
}

/* A ring to queue epoll_ctl in costs more than all else that a short life does. */
long
__wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    if (k.is_on && number == SYS_io_uring_setup) {
        errno = ENOSYS;
        return -1;
    }
    return __real_syscall(number, a, b, c, d, e, f);
}

/* The timers that threads wait for are real: none is started. */
int
__wrap_timerfd_create(int clock, int flags)
{
    if (!k.is_on || (flags & TFD_NONBLOCK) == 0) {
        return __real_timerfd_create(clock, flags);
    }
    k.timer_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    mark(k.timer_fd, FD_TIMER);
    return k.timer_fd;
}

/* A time that has passed comes at once. */
int
__wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                       struct itimerspec *was)
{
    if (!is_of(fd, FD_TIMER)) {
        return __real_timerfd_settime(fd, flags, when, was);
    }
    uint64_t unused;
    ssize_t n = __wrap_read(fd, &unused, sizeof(unused)); /* it has not come any more */
    (void)n;
    k.timer_at =
        (uint64_t)when->it_value.tv_sec * 1000000000 + (uint64_t)when->it_value.tv_nsec;
    k.timer_at = k.timer_at == 0 ? UINT64_MAX : k.timer_at;
    pass_ns(0);
    return 0;
}

ssize_t
__wrap_write(int fd, const void *bytes, size_t len)
{
    ssize_t result;
    bool is_spool = is_of(fd, FD_SPOOL);
    kernel_call call = is_spool ? KERNEL_STORE : KERNEL_WRITE;
    if ((is_spool || is_of(fd, FD_CONN)) && is_settled(call, &len, &result)) {
        return result;
    }
    return __real_write(fd, bytes, len);
}

ssize_t
__wrap_writev(int fd, const struct iovec *runs, int n)
{
    ssize_t result;
    size_t len = SIZE_MAX;
    if (is_of(fd, FD_CONN) && is_settled(KERNEL_WRITE, &len, &result)) {
        return result;
    }
    if (len == SIZE_MAX) {
        return __real_writev(fd, runs, n);
    }
    return __real_write(fd, runs[0].iov_base,
                        len < runs[0].iov_len ? len : runs[0].iov_len);
}

/* ---- memory ---------------------------------------------------------------------- */

static bool
is_out_of_memory(const fb_heap *heap)
{
    if (!k.is_on || heap != k.heap || k.memory_in == 0 || --k.memory_in > 0) {
        return false;
    }
    k.has_failed = true;
    return true;
}

void *
__wrap_fb_heap_take(fb_heap *heap, size_t size)
{
    return is_out_of_memory(heap) ? NULL : __real_fb_heap_take(heap, size);
}

void *
__wrap_fb_heap_resize(fb_heap *heap, void *block, size_t size)
{
    return is_out_of_memory(heap) ? NULL : __real_fb_heap_resize(heap, block, size);
}
