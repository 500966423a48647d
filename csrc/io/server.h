/* SPDX-License-Identifier: MIT */
/*
 * One worker: a loop, its listeners, its connections, its queues, and the one call
 * upward.
 *
 * Ownership. A slot lives from parse to the end of the dispatch that it is in; a
 * connection dies only in libuv's closing phase.
 *
 *   thing         made by         owned by     valid until
 *   fb_server     the binding     the binding  fb_server_close
 *   fb_queue      fb_server_open  fb_server    fb_server_close
 *   fb_batch      fb_server_open  fb_queue     fb_server_close
 *   fb_slot       fb_batch_push   fb_batch     the end of the dispatch
 *   fb_conn       fb_conn_open    fb_server    the closing phase of the iteration
 *                                              that it was closed in
 *   exchange->in  libuv's read    fb_conn      the next growth, never in a dispatch
 *   filling,      fb_reply_*      fb_conn      sent; flush swaps the two, so that a
 *   sending                                    reply may be added during a write
 *   fb_body       the binding     fb_out       sent or dropped: released either way
 *
 * All functions but fb_server_stop belong to the thread that runs the server. Other
 * threads touch connections during a dispatch, under the lock of its executor: the
 * flusher, or a handler thread.
 */
#ifndef FB_IO_SERVER_H
#define FB_IO_SERVER_H

#include "core/deadline.h"
#include "core/reply.h"
#include "core/route.h"
#include "core/trust.h"
#include "io/access.h"
#include "io/conn.h"
#include "io/executor.h"
#include "io/flusher.h"
#include "io/listener.h"
#include "io/pool.h"
#include "io/queue.h"
#include "io/roster.h"
#include "io/stats.h"

#include <stdatomic.h>

/* What the server calls of whoever runs it. */
typedef struct fb_server_ops {
    /* Answer the slots of batch. Returns false to have the server stop. */
    bool (*dispatch)(void *owner, fb_batch *batch);
    /* The wake-up descriptor was readable. Returns as dispatch. */
    bool (*wakeup)(void *owner);
    /* The loop is about to wait: a chance to release what was kept for later. */
    void (*rest)(void *owner);
} fb_server_ops;

typedef enum fb_stop {
    FB_STOP_NO,
    FB_STOP_GRACEFUL, /* accept no more, answer what has arrived */
    FB_STOP_NOW,      /* close everything */
} fb_stop;

struct fb_server {
    uv_loop_t loop;
    uv_check_t check; /* the dispatch point */
    uv_timer_t tick;  /* the coarse timer; runs while there is something to wait for */
    uv_timer_t grace; /* the end of a graceful stop */
    uv_timer_t beat;  /* has the loop come round although nothing happens */
    uv_idle_t idle;   /* keeps the loop from waiting, in the first steps of a stop */
    uv_async_t stop;  /* fb_server_stop, from other threads */
    uv_poll_t wakeup; /* on the descriptor of Python's signals */
    uv_poll_t due;    /* on due_fd */
    int wakeup_fd;    /* or -1 */
    bool has_loop;    /* loop is to be closed */
    fb_listener *listeners;
    size_t n_listeners; /* opened */
    fb_roster *roster;  /* kept: of who else polls their sockets; or NULL */
    fb_place *place;    /* in it, while there are listeners; or NULL */
    fb_limits limits;
    fb_heap heap;
    fb_trust trust;    /* whose X-Forwarded-* and PROXY headers are believed */
    bool speaks_proxy; /* every connection begins with a PROXY header */
    char server_value[FB_SERVER_VALUE_BYTES];
    char *temp_dir;       /* where bodies are spooled */
    fb_executor executor; /* the loop's own */
    fb_pool pool;         /* of handler threads */
    fb_flusher flusher;
    fb_access access;
    fb_queue *queues;
    size_t n_queues;
    const fb_route *routes; /* kept: of queues but the first */
    size_t n_routes;
    fb_deadline deadline; /* of clients */
    fb_batch refused;     /* for a request that is answered without a handler */
    int due_fd;           /* a timer: when a batch has waited long enough; or -1 */
    uint64_t due_at;      /* what it is set to, by uv_hrtime; UINT64_MAX: nothing */
    uint64_t looked_at; /* by uv_hrtime, with due_fd: when what is due was looked for */
    fb_exchange_pool exchanges;
    fb_conn *free_conns; /* for reuse */
    size_t n_free_conns;
    fb_conn *conns;   /* all that are not closed */
    fb_count n_conns; /* how many */
    fb_conn *touched; /* to be settled after the dispatch */
    fb_conn *ready;   /* have received bytes that are not parsed: in order */
    fb_conn *last_ready;
    fb_time_list waits[FB_WAIT_KINDS];
    uint64_t polled_at;  /* uv_hrtime: when the events in hand were reported */
    uint64_t n_events;   /* reported then, and before */
    uint64_t settled_at; /* uv_hrtime: when connections were settled last */
    uint64_t held_ms;    /* the loop was held up by dispatches, all in all */
    uint64_t tick_ms;
    uint64_t ticked_at;       /* loop's clock: when the last tick came */
    bool is_tick_due;         /* on_check is to see whose wait is over */
    const fb_server_ops *ops; /* kept */
    void *owner;              /* given back to ops */
    atomic_int stop_wanted;   /* an fb_stop, set by any thread */
    fb_stop stopping;         /* what of it was begun */
    unsigned stop_step;       /* passes of the loop since a graceful stop began */
    fb_stats *stats;          /* own_stats, or memory that others read, too */
    fb_stats own_stats;
};

typedef struct fb_server_setup {
    const fb_limits *limits; /* borrowed */
    const int *fds;          /* borrowed: bound stream sockets */
    size_t n_fds;
    const fb_queue_rules *queues; /* borrowed; NULL: one, with limits->batch_size */
    size_t n_queues;              /* 1..FB_QUEUES_BOUND */
    const fb_route *routes;       /* kept: of which requests go to the others */
    size_t n_routes;
    const char *deadline_field; /* kept: for fb_deadline_init; NULL: none */
    const char *server_value;   /* borrowed: of the Server field; "" for none */
    const char *temp_dir;       /* borrowed: a directory, for bodies that are spooled */
    const char *trusted;        /* borrowed: as for fb_trust_read; NULL: nobody */
    bool speaks_proxy;          /* every connection begins with a PROXY header */
    fb_access_setup access;     /* its descriptor is taken in any case */
    int wakeup_fd;              /* kept until the server is closed, or -1 */
    fb_roster *roster;     /* kept: of all who have these fds; NULL: nobody else has */
    fb_stats *stats;       /* kept: is added to; NULL: the server has its own */
    uint64_t heartbeat_ms; /* how old stats->beat_ms may be; 0: as old as it likes */
    const fb_server_ops *ops; /* kept */
    void *owner;              /* kept */
} fb_server_setup;

/* Open a server in zeroed memory. Takes the first server->n_listeners descriptors: all,
 * unless it fails. Returns 0 or libuv's error code; fb_server_close must
 * follow either way. */
int fb_server_open(fb_server *server, const fb_server_setup *setup);

/* Run until stopped, and until all handler threads have given their batches back;
 * unless a signal says to end at once: then fb_pool_is_busy tells whether they have.
 * Returns 0 or libuv's error code. */
int fb_server_run(fb_server *server);

/* Close everything, in whatever state; waits for nobody. */
void fb_server_close(fb_server *server);

/* Have the server stop; from any thread between open and close, any number of times. */
void fb_server_stop(fb_server *server, fb_stop stop);

/* Put into the stats what is counted elsewhere. The loop does it each time that it
 * comes round; any thread may. */
void fb_server_publish(fb_server *server);

/* ---- for conn.c and listener.c --------------------------------------------------- */

/* Returns when the events in hand were reported, by uv_hrtime: what is read now has
 * been waiting since then at the least. */
uint64_t fb_server_polled_at(fb_server *server);

/* Returns milliseconds, by a clock that stands still during a dispatch: what a peer
 * does late meanwhile is not its fault. */
uint64_t fb_server_clock(const fb_server *server);

/* Returns whether a connection waits for memory. */
bool fb_server_has_starved(const fb_server *server);

/* Returns the queue of the request in hand of conn. */
fb_queue *fb_server_find_queue(fb_server *server, const fb_conn *conn);

/* Returns the time by which batches are due now, by uv_hrtime; what is not due yet has
 * the timer come. */
uint64_t fb_server_look(fb_server *server);

/* Hand the batch of queue over, if that can be, and settle whoever was in it. */
void fb_server_dispatch(fb_server *server, fb_queue *queue);

/* Answer a slot that is given to nobody, with a short reply. */
void fb_server_answer(fb_server *server, fb_slot *slot, int status);

/* The slots of batch from from and up to end, all of one connection, were answered so,
 * at now, by uv_hrtime. */
void fb_server_note_answered(fb_server *server, fb_batch *batch, size_t from,
                             size_t end, uint64_t now);

/* Returns whether handler threads run the dispatcher, and not the loop. */
static inline bool
fb_server_has_threads(const fb_server *server)
{
    return server->pool.n_hands > 0;
}

/* What was collected, and was not handed over, waits. Who was blocked goes on as far as
 * there are slots. */
void fb_server_rest(fb_server *server);

/* Empty a batch; bodies that nobody took over are gone. */
void fb_server_reset_batch(fb_batch *batch);

/* Have conn settled after the dispatch, or before the loop waits. */
void fb_server_touch(fb_server *server, fb_conn *conn);

/* As fb_server_touch, when the loop may be about to wait. */
void fb_server_settle_soon(fb_server *server, fb_conn *conn);

/* Have the check phase come before the loop waits. */
void fb_server_come_round(fb_server *server);

/* Have conn parsed before the loop waits. */
void fb_server_make_ready(fb_server *server, fb_conn *conn);

/* Returns whether a connection with nothing to do is to be closed. */
bool fb_server_closes_idle(const fb_server *server);

/* Returns a zeroed connection on the server's list, or NULL for want of memory. */
fb_conn *fb_server_new_conn(fb_server *server);

/* Returns whether there are max_connections. */
bool fb_server_is_full(const fb_server *server);

/* Have the connection that has been idle for longest give way, if it has been for long
 * enough: idle connections never keep out new work. */
void fb_server_make_room(fb_server *server);

/* Have the coarse timer run, if it does not yet. */
void fb_server_start_tick(fb_server *server);

/* Takes conn, which was closed for good. */
void fb_server_conn_gone(fb_server *server, fb_conn *conn);

#endif
