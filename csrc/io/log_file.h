/* SPDX-License-Identifier: MIT */
/*
 * Lines to a descriptor, written by a thread of its own: a slow disk or pipe never
 * holds the loop. It knows of lines only that they end with a newline.
 *
 * The loop fills a buffer and gives it away when it is large enough; the thread writes
 * one that it was given while the next is filled. What can be neither written nor kept
 * is dropped and counted.
 */
#ifndef FB_IO_LOG_FILE_H
#define FB_IO_LOG_FILE_H

#include "core/buf.h"
#include "core/count.h"

#include <stdatomic.h>
#include <uv.h>

typedef struct fb_log_file {
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t is_wanted; /* there is something to do for the thread */
    fb_buf waiting;      /* under lock: given, not yet taken by the thread */
    fb_buf writing;      /* the thread's */
    int fd;              /* the thread's, while it runs; or -1 */
    int next_fd;         /* under lock: to be used from now on, or -1 */
    bool is_open;        /* lock and is_wanted are to be destroyed */
    bool is_running;     /* thread is to be joined */
    bool is_ending;      /* under lock: the thread is to return when all is written */
    bool is_regular;     /* of fd: a write of any size ends by itself */
    bool is_torn;        /* of fd: the last write failed within a line */
    bool has_failed;     /* the last write did */
    fb_count ends_at;    /* nanoseconds: when the last lines are dropped; 0: never */
    atomic_int error;    /* an errno that is to be reported, or 0 */
    fb_count n_lost;     /* lines that could not be written */
} fb_log_file;

/* Make a log to fd, which is taken, in zeroed memory; buffers are of heap, which is
 * kept. Returns 0 or libuv's error code; fb_log_file_close must follow either way. */
int fb_log_file_open(fb_log_file *file, fb_heap *heap, int fd);
void fb_log_file_close(fb_log_file *file);

/* Have the thread run. Returns 0 or libuv's error code. */
int fb_log_file_start(fb_log_file *file);

/* Have it write all that was given, and end. What a pipe does not take within
 * FB_LOG_STOP_MS is dropped; a file takes as long as it takes. */
void fb_log_file_stop(fb_log_file *file);

/* Takes the bytes of lines, which are whole lines of the same heap, and leaves it
 * empty; by the thread of open alone. Returns false when too much waits already; lines
 * is then as it was. */
bool fb_log_file_give(fb_log_file *file, fb_buf *lines);

/* From any thread: write to fd, which is taken, from the next write on. */
void fb_log_file_replace(fb_log_file *file, int fd);

/* Returns how many lines there are. */
size_t fb_log_file_count_lines(const char *bytes, size_t len);

#endif
