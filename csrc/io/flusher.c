/* SPDX-License-Identifier: MIT */
/*
 * The flusher's thread and its timer. A timerfd, because setting it is one system call,
 * and setting it again, batch after batch, keeps the thread asleep.
 */
#include "io/flusher.h"

#include "io/server.h"
#include "io/thread.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void
set_timer(fb_flusher *flusher, long ns)
{
    struct itimerspec when = {.it_value = {.tv_nsec = ns}};
    /* It fails for a bad descriptor or time alone, and these are ours. */
    (void)timerfd_settime(flusher->timer_fd, 0, &when, NULL);
}

/* Each connection under the lock for itself, so that the dispatch has a turn in
 * between; the list is good for as long as it is the same dispatch. */
static void
flush_all(const fb_flusher *flusher)
{
    fb_executor *executor = &flusher->server->executor;
    uint64_t n_begun = executor->n_begun;
    fb_conn *conn = flusher->server->touched;
    while (conn != NULL && executor->is_dispatching && executor->n_begun == n_begun) {
        fb_conn_flush_early(conn);
        conn = conn->next_touched;
        fb_executor_unlock(executor);
        fb_executor_lock(executor);
    }
}

static void
run(void *arg)
{
    fb_flusher *flusher = arg;
    fb_executor *executor = &flusher->server->executor;
    uint64_t n_expired;
    fb_executor_lock(executor);
    while (!flusher->is_ending) {
        if (executor->is_dispatching) {
            flush_all(flusher);
            set_timer(flusher, FB_EARLY_FLUSH_NS);
        }
        fb_executor_unlock(executor);
        ssize_t n = read(flusher->timer_fd, &n_expired, sizeof(n_expired));
        (void)n; /* interrupted or not: look again */
        fb_executor_lock(executor);
    }
    fb_executor_unlock(executor);
}

int
fb_flusher_open(fb_flusher *flusher, fb_server *server)
{
    flusher->server = server;
    flusher->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (flusher->timer_fd < 0) {
        return uv_translate_sys_error(errno);
    }
    flusher->is_open = true;
    return 0;
}

void
fb_flusher_close(fb_flusher *flusher)
{
    if (flusher->is_open) {
        flusher->is_open = false;
        close(flusher->timer_fd);
    }
}

int
fb_flusher_start(fb_flusher *flusher)
{
    int error = fb_thread_start(&flusher->thread, run, flusher);
    flusher->is_running = error == 0;
    return error;
}

void
fb_flusher_stop(fb_flusher *flusher)
{
    if (!flusher->is_running) {
        return;
    }
    flusher->is_running = false;
    fb_executor_lock(&flusher->server->executor);
    flusher->is_ending = true;
    set_timer(flusher, 1);
    fb_executor_unlock(&flusher->server->executor);
    uv_thread_join(&flusher->thread);
}

void
fb_flusher_begin(fb_flusher *flusher, size_t n_slots)
{
    flusher->is_armed = false;
    if (n_slots > 1) {
        fb_flusher_arm(flusher);
    }
}

void
fb_flusher_arm(fb_flusher *flusher)
{
    if (!flusher->is_armed) {
        flusher->is_armed = true;
        set_timer(flusher, FB_EARLY_FLUSH_NS);
    }
}
