/* SPDX-License-Identifier: MIT */
/*
 * What a server counts. Any thread may read it, and any process that the memory is
 * shared with: there are no pointers in it. The thread of the server writes; what says
 * shared is added to by other threads as well, with fb_count_add_shared.
 */
#ifndef FB_IO_STATS_H
#define FB_IO_STATS_H

#include "core/batch.h"
#include "core/count.h"
#include "core/limits.h"
#include "core/status.h"

#define FB_STATUSES (FB_STATUS_MAX - FB_STATUS_MIN + 1)
#define FB_QUEUE_BOUNDS 19

typedef struct fb_queue_stats {
    fb_count n_requests; /* that were handed over */
    fb_count n_batches;
    fb_count queue_ns;   /* how long requests have waited, all in all */
    fb_count handler_ns; /* how long dispatches have taken, all in all; shared */
    fb_count n_expired;  /* refused with 504: their deadline passed as they waited */
    fb_count n_refused;  /* with 503 or 429: as many as may wait did */
    fb_count n_waiting;  /* now: in the collecting batch, or for a slot of it */
    fb_count batch_sizes[FB_BATCH_SLOTS + 1];  /* item n: batches of n slots */
    fb_count queue_times[FB_QUEUE_BOUNDS + 1]; /* requests: see fb_queue_bounds_us */
} fb_queue_stats;

typedef struct fb_stats {
    fb_count n_conns; /* accepted */
    fb_count n_open;  /* of those, now */
    fb_count n_slots; /* that hold a request, now */
    fb_count n_bytes_received;
    fb_count n_bytes_sent;     /* shared */
    fb_count n_rejected;       /* bad requests, and peers without a PROXY header */
    fb_count n_fields_dropped; /* for an underscore in their names */
    fb_count n_timed_out;
    fb_count n_overloaded; /* of those rejected, with 503: they waited for too long */
    fb_count n_spooled;    /* bodies */
    fb_count n_lines_lost; /* of the access log */
    fb_count n_taken;      /* blocks of memory */
    fb_count replies[FB_STATUSES]; /* item n: of status FB_STATUS_MIN + n; shared */
    fb_count beat_ms; /* by CLOCK_MONOTONIC: when the loop last came round */
    fb_queue_stats queues[FB_QUEUES_BOUND]; /* totals are the sums of them */
} fb_stats;

/* How long requests wait, in microseconds: item n of queue_times counts those that did
 * for at most item n of these, and longer than the one before; the last, those that did
 * for longer than all. */
extern const uint32_t fb_queue_bounds_us[FB_QUEUE_BOUNDS];

/* A batch of n slots of a queue is handed over. */
static inline void
fb_stats_note_batch(fb_stats *stats, uint32_t queue, size_t n)
{
    fb_queue_stats *counts = &stats->queues[queue];
    fb_count_add(&counts->n_batches, 1);
    fb_count_add(&counts->n_requests, n);
    fb_count_add(&counts->batch_sizes[n], 1);
}

/* A dispatch of a batch of a queue took so long. From any thread. */
static inline void
fb_stats_note_dispatch(fb_stats *stats, uint32_t queue, uint64_t ns)
{
    fb_count_add_shared(&stats->queues[queue].handler_ns, ns);
}

/* n slots of a queue were answered, in a dispatch that began at began, by uv_hrtime;
 * their connections are not settled yet. A request has waited since its bytes were
 * there, or the one before it on the same connection was answered. A reply whose status
 * is not known yet is noted later. */
void fb_stats_note_slots(fb_stats *stats, uint32_t queue, const fb_slot *slots,
                         size_t n, uint64_t began);

/* n replies of a status were given. From any thread. */
static inline void
fb_stats_note_replies(fb_stats *stats, int status, uint64_t n)
{
    fb_count_add_shared(&stats->replies[status - FB_STATUS_MIN], n);
}

#endif
