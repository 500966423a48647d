/* SPDX-License-Identifier: MIT */
/*
 * The flusher: a thread that sends what is answered while a handler holds the loop.
 *
 * Replies leave together at the end of a dispatch, which is what makes batches cheap.
 * But when one handler blocks, the replies given before it must not wait: a batch that
 * runs for longer than FB_EARLY_FLUSH_NS wakes this thread. In quick batches it sleeps
 * through; all that it costs is setting its timer, once a batch.
 *
 * It touches connections under the executor's lock alone, during a dispatch alone, and
 * does nothing but write what is in their outs. Where there are handler threads there
 * is no flusher: the loop, which nobody holds up, does the same.
 */
#ifndef FB_IO_FLUSHER_H
#define FB_IO_FLUSHER_H

#include "io/executor.h"

typedef struct fb_flusher {
    uv_thread_t thread;
    fb_server *server; /* kept */
    int timer_fd;      /* -1 before open */
    bool is_open;      /* timer_fd is to be closed */
    bool is_running;   /* thread is to be joined */
    bool is_armed;     /* the timer is set for this dispatch; of its thread */
    bool is_ending;    /* under the loop's executor's lock: the thread is to return */
} fb_flusher;

/* Make the flusher of server, in zeroed memory. Returns 0 or libuv's error code;
 * fb_flusher_close must follow either way. */
int fb_flusher_open(fb_flusher *flusher, fb_server *server);
void fb_flusher_close(fb_flusher *flusher);

/* Have the thread run, while the loop does. Returns 0 or libuv's error code. */
int fb_flusher_start(fb_flusher *flusher);
void fb_flusher_stop(fb_flusher *flusher);

/* A dispatch of n_slots begins. */
void fb_flusher_begin(fb_flusher *flusher, size_t n_slots);

/* What is answered is to leave although the dispatch goes on: have the timer set also
 * for a dispatch of one slot, which else has nobody to hold up. */
void fb_flusher_arm(fb_flusher *flusher);

#endif
