/* SPDX-License-Identifier: MIT */
/*
 * The thread that writes. Into what is no regular file it writes only what fits without
 * waiting, so that it can give up at the end.
 */
#include "io/log_file.h"

#include "core/limits.h"
#include "io/thread.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

/* Milliseconds between two looks at whether the end has come, while a pipe is full. */
#define LOOK_MS 250

#define NS_PER_MS 1000000ULL

/* ---- writing --------------------------------------------------------------------- */

size_t
fb_log_file_count_lines(const char *bytes, size_t len)
{
    size_t n = 0;
    const char *end = bytes + len;
    while (bytes < end) {
        const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
        if (newline == NULL) {
            break;
        }
        n++;
        bytes = newline + 1;
    }
    return n;
}

/* Returns whether the end has come, and the time for the last lines is over. */
static bool
is_too_late(const fb_log_file *file)
{
    uint64_t ends_at = fb_count_get(&file->ends_at);
    return ends_at > 0 && uv_hrtime() >= ends_at;
}

/* Wait until a pipe has room for PIPE_BUF bytes. Returns false when it is too late. */
static bool
wait_for_room(fb_log_file *file)
{
    struct pollfd wanted = {.fd = file->fd, .events = POLLOUT};
    bool has_room = false;
    while (!has_room && !is_too_late(file)) {
        has_room = poll(&wanted, 1, LOOK_MS) != 0; /* of errors the write will tell */
    }
    return has_room;
}

/* Returns how much a pipe takes in one piece, whole lines if there are any: what other
 * programs write to it stands between lines then. */
static size_t
piece_of(const char *bytes, size_t len)
{
    if (len <= PIPE_BUF) {
        return len;
    }
    const char *newline = memrchr(bytes, '\n', PIPE_BUF);
    return newline != NULL ? (size_t)(newline - bytes) + 1 : PIPE_BUF;
}

/* Write as much as one write takes. Returns how much, or -1 with errno set. */
static ssize_t
write_some(fb_log_file *file, const char *bytes, size_t len)
{
    ssize_t n;
    do {
        if (!file->is_regular) {
            len = piece_of(bytes, len);
            if (!wait_for_room(file)) {
                errno = ETIMEDOUT;
                return -1;
            }
        }
        n = write(file->fd, bytes, len);
    } while (n < 0 && (errno == EINTR || (errno == EAGAIN && !file->is_regular)));
    return n;
}

static void
report(fb_log_file *file, int error)
{
    if (!file->has_failed) {
        file->has_failed = true;
        atomic_store(&file->error, error);
    }
}

/* Write all, or drop the rest. After half a line was dropped, a newline comes first. */
static void
write_lines(fb_log_file *file, const char *bytes, size_t len)
{
    if (file->is_torn && write_some(file, "\n", 1) == 1) {
        file->is_torn = false;
    }
    while (len > 0) {
        ssize_t n = write_some(file, bytes, len);
        if (n <= 0) {
            report(file, n < 0 ? errno : EIO);
            fb_count_add(&file->n_lost, fb_log_file_count_lines(bytes, len));
            return;
        }
        bytes += n;
        len -= (size_t)n;
        file->is_torn = bytes[-1] != '\n';
    }
    file->has_failed = false;
}

/* ---- the thread ------------------------------------------------------------------ */

static void
use_fd(fb_log_file *file, int fd)
{
    struct stat status;
    if (file->fd >= 0) {
        close(file->fd);
    }
    file->fd = fd;
    file->is_torn = false;
    file->is_regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

static void
swap(fb_buf *a, fb_buf *b)
{
    fb_buf c = *a;
    *a = *b;
    *b = c;
}

/* Under lock: wait for something to do. Returns false when there is nothing any more.
 */
static bool
wait_for_work(fb_log_file *file)
{
    while (file->waiting.len == 0 && file->next_fd < 0 && !file->is_ending) {
        uv_cond_wait(&file->is_wanted, &file->lock);
    }
    return file->waiting.len > 0 || file->next_fd >= 0;
}

static void
run(void *arg)
{
    fb_log_file *file = arg;
    uv_mutex_lock(&file->lock);
    while (wait_for_work(file)) {
        int next_fd = file->next_fd;
        file->next_fd = -1;
        swap(&file->waiting, &file->writing);
        uv_mutex_unlock(&file->lock);
        if (next_fd >= 0) {
            use_fd(file, next_fd);
        }
        write_lines(file, file->writing.data, file->writing.len);
        file->writing.len = 0;
        uv_mutex_lock(&file->lock);
    }
    uv_mutex_unlock(&file->lock);
}

/* ---- life ------------------------------------------------------------------------ */

int
fb_log_file_open(fb_log_file *file, fb_heap *heap, int fd)
{
    file->fd = -1;
    file->next_fd = -1;
    fb_buf_init(&file->waiting, heap);
    fb_buf_init(&file->writing, heap);
    use_fd(file, fd);
    int error = uv_mutex_init(&file->lock);
    if (error != 0) {
        return error;
    }
    error = uv_cond_init(&file->is_wanted);
    if (error != 0) {
        uv_mutex_destroy(&file->lock);
        return error;
    }
    file->is_open = true;
    return 0;
}

static void
close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void
fb_log_file_close(fb_log_file *file)
{
    assert(!file->is_running);
    if (file->waiting.heap == NULL) {
        return; /* it was never opened */
    }
    close_fd(file->fd);
    close_fd(file->next_fd);
    file->fd = -1;
    file->next_fd = -1;
    fb_buf_fini(&file->waiting);
    fb_buf_fini(&file->writing);
    if (file->is_open) {
        file->is_open = false;
        uv_cond_destroy(&file->is_wanted);
        uv_mutex_destroy(&file->lock);
    }
}

int
fb_log_file_start(fb_log_file *file)
{
    int error = fb_thread_start(&file->thread, run, file);
    file->is_running = error == 0;
    return error;
}

void
fb_log_file_stop(fb_log_file *file)
{
    if (!file->is_running) {
        return;
    }
    file->is_running = false;
    atomic_store(&file->ends_at, uv_hrtime() + FB_LOG_STOP_MS * NS_PER_MS);
    uv_mutex_lock(&file->lock);
    file->is_ending = true;
    uv_cond_signal(&file->is_wanted);
    uv_mutex_unlock(&file->lock);
    uv_thread_join(&file->thread);
}

/* ---- giving ---------------------------------------------------------------------- */

bool
fb_log_file_give(fb_log_file *file, fb_buf *lines)
{
    bool ok = true;
    uv_mutex_lock(&file->lock);
    if (file->waiting.len == 0) {
        swap(&file->waiting, lines);
    } else {
        ok = file->waiting.len + lines->len <= FB_LOG_WAITING_BYTES &&
             fb_buf_append(&file->waiting, lines->data, lines->len);
    }
    uv_cond_signal(&file->is_wanted);
    uv_mutex_unlock(&file->lock);
    if (ok) {
        /* After a hard time the buffers are larger than they need to be. */
        fb_buf_reset(lines, 2 * (size_t)FB_LOG_BUFFER_BYTES);
    }
    return ok;
}

void
fb_log_file_replace(fb_log_file *file, int fd)
{
    uv_mutex_lock(&file->lock);
    close_fd(file->next_fd); /* of a replacement that is replaced in its turn */
    file->next_fd = fd;
    uv_cond_signal(&file->is_wanted);
    uv_mutex_unlock(&file->lock);
}
