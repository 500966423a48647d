/* SPDX-License-Identifier: MIT */
/*
 * A queue: the requests of one kind that wait for the dispatcher. They have slots in
 * its batch, or are the next of connections that find no slot there: these are blocked.
 *
 * A server has one queue for each handler that is given whole batches, and queue 0 for
 * all else. All slots of a connection are of one queue at any time, because its replies
 * leave in order: a request of another one waits until they are answered.
 *
 * Where requests may stay for longer than the iteration of the loop that they came in,
 * for want of a handler thread or to have a batch filled, the slots of a connection are
 * next to each other, and it is not read meanwhile.
 */
#ifndef FB_IO_QUEUE_H
#define FB_IO_QUEUE_H

#include "core/batch.h"

typedef struct fb_conn fb_conn;
typedef struct fb_server fb_server;

typedef struct fb_queue_rules {
    bool is_whole;          /* its batches are not shared out among threads */
    size_t concurrency;     /* there: how many of them threads may have at a time */
    size_t batch_size;      /* slots, 1..FB_BATCH_SLOTS */
    uint64_t batch_wait_ns; /* the longest that a batch waits to be filled */
    uint64_t deadline_ns;   /* a request may wait for so long, then: 504; 0: for ever */
    size_t size;            /* requests that may wait; then: full_status */
    int full_status;        /* 503 or 429 */
} fb_queue_rules;

typedef struct fb_queue {
    fb_server *server; /* kept */
    fb_queue_rules rules;
    bool may_wait;       /* its slots, beyond an iteration */
    size_t n_running;    /* batches that threads have */
    uint64_t oldest_at;  /* by uv_hrtime: since when the oldest slot has been waiting */
    uint64_t expires_at; /* when the first slot expires, or before; UINT64_MAX: never */
    fb_conn *blocked;    /* in the order of their waits */
    fb_conn *last_blocked;
    size_t n_blocked;
    fb_batch batch; /* collecting, or being dispatched by the loop */
} fb_queue;

/* Make queue number index of server, in zeroed memory. Keeps server. Borrows rules. */
void fb_queue_init(fb_queue *queue, fb_server *server, uint32_t index,
                   const fb_queue_rules *rules);

/* Give a slot to the request in hand of conn; there must be one. It expires at
 * expires_at, by uv_hrtime. Returns it, as fb_batch_push. */
fb_slot *fb_queue_push(fb_queue *queue, fb_conn *conn, uint64_t expires_at);

/* Returns whether the next request of conn may have a slot. */
bool fb_queue_has_place(const fb_queue *queue, const fb_conn *conn);

/* Returns whether as many requests wait as may. */
static inline bool
fb_queue_is_full(const fb_queue *queue)
{
    return queue->batch.n_slots + queue->n_blocked >= queue->rules.size;
}

/* Returns whether its batch is to be handed over, at now, by uv_hrtime. */
bool fb_queue_is_due(const fb_queue *queue, uint64_t now);

/* Returns when that will be; UINT64_MAX: nothing waits. */
uint64_t fb_queue_due_at(const fb_queue *queue);

/* The first n slots were given to somebody else. */
void fb_queue_drop_first(fb_queue *queue, size_t n);

/* Take the slots of conn out of the batch. */
void fb_queue_drop_conn(fb_queue *queue, const fb_conn *conn);

/* Answer what has waited until its deadline with 504, at now. */
void fb_queue_expire(fb_queue *queue, uint64_t now);

/* Empty the batch; bodies that nobody took over are gone. */
void fb_queue_reset(fb_queue *queue);

/* Have conn wait for a slot, or no more. */
void fb_queue_block(fb_queue *queue, fb_conn *conn);
void fb_queue_unblock(fb_queue *queue, fb_conn *conn);

/* What is in the batch stays there for now: its connections rest. Who was blocked goes
 * on, as far as there are slots. */
void fb_queue_rest(fb_queue *queue);

#endif
