/* SPDX-License-Identifier: MIT */
/*
 * The handler threads of a server, and the hand-over between them and its loop.
 *
 * Theory. The loop collects requests in its queues. Whenever threads are idle it shares
 * out what is there, the oldest first: a fair part to each, or the whole batch to one,
 * where the handler is given whole batches. While all are busy, or as many as may have
 * batches of the queue, that grows, and when its batch is full its connections are
 * blocked. A thread answers what it was given, sends
 * the replies, and gives the batch back to the loop, which goes on with the
 * connections. From the hand-over until it is taken back a connection is its
 * executor's: the loop neither reads nor closes it.
 *
 * A dispatch that lasts for longer than FB_EARLY_FLUSH_NS is slow: the loop takes back
 * what of it is answered, slot by slot, and shares out anew what was not begun.
 *
 * What else runs Python, as the next item of a stream, is a job: a thread takes one
 * between two batches. The jobs of a stream, its close() included, are of the thread
 * that its handler ran on, for it may use what is local to that; whoever has streams is
 * the last to be given a batch.
 *
 * The lock guards what the threads wait for. It is taken after that of an executor,
 * never before it, and the loop does not hold it while it runs callbacks.
 */
#ifndef FB_IO_POOL_H
#define FB_IO_POOL_H

#include "io/executor.h"

typedef struct fb_job {
    struct fb_job *next;
    /* On a handler thread. */
    void (*run)(struct fb_job *job, fb_executor *executor);
    /* On the loop, afterwards: the last use of job. */
    void (*finish)(struct fb_job *job);
} fb_job;

/* First in, first out. */
typedef struct fb_job_queue {
    fb_job *first;
    fb_job *last;
} fb_job_queue;

/* A handler thread. All but executor is under the lock of the pool. */
typedef struct fb_hand {
    fb_executor executor;
    fb_batch batch;
    fb_job_queue jobs; /* for this thread alone */
    uv_cond_t is_wanted;
    bool has_cond;    /* is_wanted is to be destroyed */
    bool is_there;    /* a thread has come for it */
    bool is_waiting;  /* that is asleep */
    bool is_working;  /* that dispatches, or runs a job */
    bool is_free;     /* its batch is empty, and the loop may fill it */
    bool has_batch;   /* to dispatch */
    bool is_done;     /* the loop is to take the batch back */
    uint64_t seen;    /* the loop's: dispatches, at its last look */
    size_t n_retired; /* the loop's: buffers that its requests may still point into */
    void *retired[FB_BATCH_SLOTS]; /* the loop's */
} fb_hand;

typedef struct fb_pool {
    fb_server *server; /* kept */
    uv_mutex_t lock;
    fb_hand **hands;
    size_t n_hands;
    size_t n_there;         /* under lock, as those below: hands with a thread */
    size_t n_jobs;          /* submitted, and not finished */
    fb_job_queue jobs;      /* to be run, by anybody */
    fb_job_queue done_jobs; /* to be finished */
    bool is_ending;         /* threads are to go */
    uv_cond_t is_left;      /* one has gone */
    bool is_open;           /* lock and is_left are to be destroyed */
    bool is_winding_up;     /* the loop's: the handles are to be closed */
    bool has_handles;       /* back and watch are the loop's */
    uv_async_t back;        /* something comes back from a thread */
    uv_timer_t watch;       /* looks who is slow */
} fb_pool;

/* What a thread is to do. */
typedef enum fb_work {
    FB_WORK_BATCH, /* dispatch the executor's batch, then fb_pool_give_back */
    FB_WORK_JOB,   /* run the job, then fb_pool_finish */
    FB_WORK_END,   /* go */
} fb_work;

/* Make a pool of n hands in zeroed memory; n may be 0, and then nothing else of it is
 * called but close. Returns 0 or libuv's error code; fb_pool_close must follow either
 * way. */
int fb_pool_open(fb_pool *pool, fb_server *server, size_t n);
void fb_pool_close(fb_pool *pool);

/* ---- of the threads -------------------------------------------------------------- */

/* A thread has come. Returns the executor that is its own from now on, or NULL: there
 * are threads enough, or they are to go. */
fb_executor *fb_pool_join(fb_pool *pool);
/* One that was told to go has let go of everything. */
void fb_pool_leave(fb_pool *pool);

/* Wait for something to do; *job is set with FB_WORK_JOB. */
fb_work fb_pool_wait(fb_pool *pool, fb_executor *executor, fb_job **job);

/* The dispatch is over: send the replies, and give the batch back. */
void fb_pool_give_back(fb_pool *pool, fb_executor *executor);
void fb_pool_finish(fb_pool *pool, fb_executor *executor, fb_job *job);

/* Have the thread of executor run job, or any if that is NULL. From any thread. Returns
 * false when that has gone, or the loop has ended or is about to: job is not run then.
 */
bool fb_pool_submit(fb_pool *pool, fb_executor *executor, fb_job *job);

/* Something of a dispatch was answered: if that is slow, have the loop see to it. */
void fb_pool_tell(fb_executor *executor);

/* Have the threads go, when there is nothing left to do. From any thread. */
void fb_pool_end(fb_pool *pool);

/* As fb_pool_end, from another thread; returns when they have gone. */
void fb_pool_wait_for_end(fb_pool *pool);

/* Returns whether a thread dispatches, or runs a job. From any thread. */
bool fb_pool_is_busy(fb_pool *pool);

/* ---- of the loop ----------------------------------------------------------------- */

/* Share out what was collected, and what slow threads have not begun. */
void fb_pool_share(fb_pool *pool);

/* Returns whether something is due, and a thread is idle. */
bool fb_pool_can_share(fb_pool *pool);

/* Nothing more will be shared out: the loop is to end as soon as all is back and no
 * connection is left. */
void fb_pool_wind_up(fb_pool *pool);

#endif
