/* SPDX-License-Identifier: MIT */
/*
 * One listening socket. It is polled and accepted from by hand, because libuv's own
 * listener takes one connection an iteration, and closes what it has no descriptor for.
 *
 * Several workers may poll the same socket. Each connection wakes all that are idle;
 * who is ahead of the others (io/roster.h) leaves it to them for FB_ACCEPT_DEFER_MS.
 */
#ifndef FB_IO_LISTENER_H
#define FB_IO_LISTENER_H

#include <stdbool.h>
#include <uv.h>

typedef struct fb_server fb_server;

typedef struct fb_listener {
    uv_poll_t poll;
    uv_timer_t turn;   /* the end of having left connections to others */
    fb_server *server; /* kept */
    int fd;            /* owned once opened */
    bool is_tcp;       /* else a unix socket */
    bool is_open;
    bool is_paused; /* until a connection ends, the turn, or the next tick */
} fb_listener;

/* Listen on fd, a bound stream socket. Takes fd unless it fails. Returns 0 or libuv's
 * error code. */
int fb_listener_open(fb_listener *listener, fb_server *server, int fd, int backlog);

/* Accept again, if that was paused. */
void fb_listener_resume(fb_listener *listener);

/* Stop listening; any number of times, also for one that was never opened. */
void fb_listener_close(fb_listener *listener);

#endif
