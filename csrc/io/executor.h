/* SPDX-License-Identifier: MIT */
/*
 * An executor: who runs the dispatcher on batches. A worker without handler threads has
 * one, which is its loop; a worker with them has one for each thread.
 *
 * While it is dispatching, the connections in its batch are the executor's: their
 * outputs, and what of their slots says that they are answered, are touched under its
 * lock alone. Whoever gives replies holds it, and so does who sends them meanwhile: the
 * flusher, or the loop of handler threads.
 */
#ifndef FB_IO_EXECUTOR_H
#define FB_IO_EXECUTOR_H

#include "core/batch.h"
#include "core/reply.h"

#include <stdatomic.h>
#include <uv.h>

typedef struct fb_server fb_server;

typedef struct fb_executor {
    fb_server *server; /* kept */
    fb_batch *batch;   /* kept: what is dispatched */
    uv_mutex_t lock;
    bool is_open;        /* lock is to be closed */
    bool is_dispatching; /* under lock */
    bool is_shared;      /* its slots can go to others: under lock, n_claimed counts */
    size_t n_claimed;    /* slots that the dispatcher has begun with */
    uint64_t n_begun;    /* under lock: dispatches */
    atomic_size_t n_streams; /* that only this one may go on with */
    atomic_bool is_slow;     /* the dispatch is: the loop is to be told of each reply */
    struct timespec began;   /* the dispatch */
    uint64_t began_at;       /* the same, by uv_hrtime */
    uint64_t ended_at;       /* and its end */
    fb_stamp stamp;          /* of its replies */
} fb_executor;

/* Make an executor for batch in zeroed memory. Keeps server and batch. Returns 0 or
 * libuv's error code; fb_executor_close must follow either way. */
int fb_executor_open(fb_executor *executor, fb_server *server, fb_batch *batch);
void fb_executor_close(fb_executor *executor);

/* Around every change of a connection during a dispatch: nothing may run Python code or
 * wait in between. */
static inline void
fb_executor_lock(fb_executor *executor)
{
    uv_mutex_lock(&executor->lock);
}

static inline void
fb_executor_unlock(fb_executor *executor)
{
    uv_mutex_unlock(&executor->lock);
}

/* A dispatch of its batch begins, on the calling thread; and ends: slots that are not
 * answered get 500. */
void fb_executor_begin(fb_executor *executor);
void fb_executor_end(fb_executor *executor);

/* Answer a slot with a short reply of the server's own. Under its lock, if it is
 * dispatching. */
void fb_executor_answer(const fb_executor *executor, fb_slot *slot, int status);

/* The dispatcher begins with slot i. Returns false when there is none, or it was given
 * to another executor by now. */
bool fb_executor_claim(fb_executor *executor, size_t i);

/* Returns how many slots were begun with, on the thread of the dispatch. */
size_t fb_executor_claimed(const fb_executor *executor);

/* Returns how many slots there are now: those not begun may be given to others. */
size_t fb_executor_n_slots(fb_executor *executor);

/* Returns how many slots there are, and keeps all of them. */
size_t fb_executor_claim_all(fb_executor *executor);

#endif
