/* SPDX-License-Identifier: MIT */
/*
 * What a server counts. One thread writes, any thread may read, and any process that
 * the memory is shared with: there are no pointers in it.
 */
#ifndef FB_IO_STATS_H
#define FB_IO_STATS_H

#include "core/count.h"
#include "core/limits.h"

typedef struct fb_stats {
    fb_count n_requests;
    fb_count n_batches;
    fb_count n_conns; /* accepted */
    fb_count n_open;  /* of those, now */
    fb_count n_bytes_received;
    fb_count n_bytes_sent;
    fb_count n_rejected;       /* bad requests, and peers without a PROXY header */
    fb_count n_fields_dropped; /* for an underscore in their names */
    fb_count n_timed_out;
    fb_count n_overloaded; /* of those rejected, with 503: they waited for too long */
    fb_count n_spooled;    /* bodies */
    fb_count n_lines_lost; /* of the access log */
    fb_count n_taken;      /* blocks of memory */
    fb_count batch_sizes[FB_BATCH_SLOTS + 1]; /* item n: batches of n slots */
    fb_count beat_ms; /* by CLOCK_MONOTONIC: when the loop last came round */
} fb_stats;

#endif
