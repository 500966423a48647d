/* SPDX-License-Identifier: MIT */
/*
 * Threads of our own, which never run Python; and what any thread needs that writes to
 * sockets.
 */
#ifndef FB_IO_THREAD_H
#define FB_IO_THREAD_H

#include <signal.h>
#include <stdbool.h>
#include <uv.h>

/* Run run(arg) on a new thread with a small stack and no signals. Keeps arg until it is
 * joined. Returns 0 or libuv's error code. */
int fb_thread_start(uv_thread_t *thread, void (*run)(void *arg), void *arg);

/* What was before SIGPIPE was blocked. */
typedef struct fb_sigpipe {
    sigset_t before;
    bool is_blocked;
} fb_sigpipe;

/* Writes raise SIGPIPE when the peer has left. Python ignores it; where a program has
 * turned it on again, it is blocked on this thread, and taken away at the end. */
void fb_sigpipe_block(fb_sigpipe *sigpipe);
void fb_sigpipe_unblock(const fb_sigpipe *sigpipe);

#endif
