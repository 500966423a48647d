/* SPDX-License-Identifier: MIT */
/*
 * One peer. All functions belong to the thread of the connection's server.
 *
 * Any function may close a connection; none but libuv's closing phase frees one, so a
 * conn pointer stays good for the rest of the callback it was used in, and for as long
 * as a slot of the collecting batch names it. Re-read conn->state after any call that
 * may flush.
 */
#ifndef FB_IO_CONN_H
#define FB_IO_CONN_H

#include "core/batch.h"
#include "io/exchange.h"
#include "io/executor.h"
#include "io/queue.h"
#include "io/times.h"

#include <uv.h>

typedef struct fb_listener fb_listener;

/*
 * OPEN       reads and parses; at first the PROXY header, if there is to be one: what
 *            is none, or is late, is closed without a reply.
 *            Output that does not leave at once: PAUSED. A bad request, a reply that
 *            says close, the peer's EOF with replies owed: DRAINING. EOF or a stop with
 *            nothing owed, an error, a time-out: CLOSING. While it is starved, because
 *            memory is short, it does not read; nor while it is queued, or blocked.
 * PAUSED     does not read; output is on its way.
 *            All sent: OPEN. Else as OPEN.
 * DRAINING   parses nothing more; sends what it owes.
 *            All sent: LINGERING if the peer may still be sending, else CLOSING.
 * LINGERING  said goodbye; reads and discards, so that the last reply is not lost.
 *            EOF, an error, a time-out: CLOSING.
 * CLOSING    uv_close was called; or will be, once its executor gives it back.
 *            Closed: back to the pool.
 */
typedef enum fb_conn_state {
    FB_CONN_OPEN,
    FB_CONN_PAUSED,
    FB_CONN_DRAINING,
    FB_CONN_LINGERING,
    FB_CONN_CLOSING,
} fb_conn_state;

/* What a connection waits for; each has its time-out. */
typedef enum fb_wait {
    FB_WAIT_REQUEST, /* the first byte of one */
    FB_WAIT_HEAD,    /* the rest of a head */
    FB_WAIT_BODY,    /* the rest of a body */
    FB_WAIT_MEMORY,  /* room to read into, starved: the list is a queue */
    FB_WAIT_QUEUE,   /* a handler thread, or a slot: the list is a queue */
    FB_WAIT_HANDLER, /* its own: for as long as that takes */
    FB_WAIT_WRITE,   /* the peer to read */
    FB_WAIT_GOODBYE, /* the peer to close, LINGERING */
    FB_WAIT_KINDS,
} fb_wait;

struct fb_conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    fb_time_node wait_node;       /* in server->waits[wait] */
    fb_server *server;            /* kept */
    const fb_listener *listener;  /* kept: it was accepted there */
    fb_exchange *exchange;        /* NULL while idle */
    struct fb_conn *next_touched; /* in server->touched */
    struct fb_conn *next_ready;   /* in server->ready */
    struct fb_conn *next_blocked; /* in queue->blocked */
    fb_queue *queue;              /* that its slots are of, or that it is blocked in */
    fb_executor *executor; /* of a handler thread, which has its slots; or NULL */
    struct fb_conn *prev;  /* in server->conns */
    struct fb_conn *next;  /* there, or in the pool */
    int fd;                /* the handle's: the socket */
    fb_conn_state state;
    fb_wait wait;
    uint32_t n_slots;    /* of the collecting batch, or of the one being dispatched */
    uint32_t n_answered; /* of those */
    int reject_status;   /* an error reply that is owed, or 0 */
    uint32_t n_requests; /* taken */
    uint64_t queued_at;  /* by uv_hrtime: since when the next request may be waiting */
    bool is_starved;     /* it does not read, because memory is short */
    bool is_queued;      /* its slots wait for a thread, or one has them: it rests */
    bool is_blocked;     /* in queue->blocked: its next request finds no slot */
    bool is_admitted;    /* its next request was there, and counts as one that waits */
    bool is_cut;         /* CLOSING, and uv_close is still to be called */
    bool awaits_body;    /* a stream of its output said later */
    bool is_touched;     /* in server->touched */
    bool is_ready;       /* in server->ready */
    bool is_parsing;     /* parse is on the stack */
    bool is_writing;     /* write is in flight */
    bool is_reading;     /* libuv reads */
    bool has_peer_eof;   /* the peer sends nothing more */
    bool wants_goodbye;  /* the server ends it: the peer may still be sending */
    bool is_last_answered; /* a reply said close: further ones are dropped */
    bool is_trusted;       /* its X-Forwarded-* are believed */
    bool awaits_proxy;     /* its PROXY header is still to come */
    bool is_https;         /* its PROXY header tells of TLS */
    size_t n_queued;       /* bytes of the write in flight */
    size_t n_left;         /* bytes that the peer had not taken at the last look */
    fb_address peer;       /* of the other end, or what its PROXY header says */
    fb_address client; /* of the request in hand: peer, or what X-Forwarded-For says */
    uv_write_t write;
    uv_shutdown_t shutdown;
};

/* Serve a connection that was accepted at listener. Takes fd, a stream socket that does
 * not block; when there is no memory, or the peer is none of the proxies that may speak
 * the PROXY protocol, it is closed. Borrows peer, its address. */
void fb_conn_open(const fb_listener *listener, int fd, const struct sockaddr *peer);

/* Parse what the connection has received, filling slots of the batch. */
void fb_conn_parse(fb_conn *conn);

/* Send what was answered so far. */
void fb_conn_flush(fb_conn *conn);

/* What became of an early flush. */
typedef enum fb_early {
    FB_EARLY_SENT,   /* all that may be sent now; streams may not, nor behind a write */
    FB_EARLY_FULL,   /* some, and the socket takes no more now */
    FB_EARLY_FAILED, /* the peer has left, or a stream broke off */
} fb_early;

/* As fb_conn_flush, in the midst of a dispatch, under the flusher's lock: send what the
 * socket takes at once and change nothing else. Streams begin when it is over.
 */
fb_early fb_conn_flush_early(fb_conn *conn);

/* Returns how many bytes of finished replies wait to be sent, bodies of others' left
 * out. As fb_conn_flush_early. */
size_t fb_conn_unsent(const fb_conn *conn);

/* Returns whether nothing waits to be sent, streams included. As fb_conn_flush_early.
 */
bool fb_conn_has_sent_all(const fb_conn *conn);

/* Returns the socket, or -1 when it is closed. From any thread that has the slots. */
int fb_conn_fd(const fb_conn *conn);

/* Its slots stay in their queue: until they are answered nothing more is read. */
void fb_conn_queue(fb_conn *conn);

/* slot is executor's from now on, until fb_conn_settle. */
void fb_conn_hand_over(fb_conn *conn, fb_executor *executor, fb_slot *slot);

/* Have other memory for what was read, for requests may still point into what there is.
 * Returns that, which is the caller's; NULL when there is no memory. */
char *fb_conn_renew_input(fb_conn *conn);

/* There are slots again. */
void fb_conn_unblock(fb_conn *conn);

/* The stream that said later has more now. */
void fb_conn_resume(fb_conn *conn);

/* All slots of the connection are answered: flush and go on. */
void fb_conn_settle(fb_conn *conn);

/* The wait of the connection is over: answer 408 or close, as its state asks. */
void fb_conn_expire(fb_conn *conn);

/* Returns whether the request that conn is blocked with is past its deadline, at
 * now. */
bool fb_conn_is_late(const fb_conn *conn, uint64_t now);

/* Answer that request with 504. */
void fb_conn_refuse_late(fb_conn *conn);

/* Have a starved connection go on. Returns false when there is still no memory. */
bool fb_conn_feed(fb_conn *conn);

/* Memory is short: put what is there of a body into its file. */
void fb_conn_unload(fb_conn *conn);

/* Returns the connection that waits with node. */
fb_conn *fb_conn_of_wait(fb_time_node *node);

/* Close; for any state, any number of times. */
void fb_conn_close(fb_conn *conn);

/* As fb_conn_close, of a peer that may be owed something: what it has of that is not to
 * look complete. */
void fb_conn_break_off(fb_conn *conn);

/* Returns whether nothing is owed and nothing of a request has come. */
bool fb_conn_is_idle(const fb_conn *conn);

/* Returns where the reply of a slot goes, or NULL when it is to be dropped: the peer
 * has left, or a reply before it ended the connection. Valid until the next flush. */
fb_out *fb_conn_out(fb_conn *conn);

/* Returns whether the connection may go on after the reply to slot. While the server
 * stops, the last reply that a connection is owed says close. */
bool fb_conn_keeps_alive(const fb_conn *conn, const fb_slot *slot);

/* The reply of a slot was put into fb_conn_out; keep_alive: as its head says. If not,
 * the slots that were pipelined behind it are answered, too: with nothing. */
void fb_conn_answered(fb_conn *conn, fb_slot *slot, bool keep_alive);

/* Returns the peer's address, or what its PROXY header says. Valid until the next read.
 * Who asks in a slot is slot->client. */
const fb_address *fb_conn_peer(const fb_conn *conn);

/* Returns the place of the listener that accepted it in fb_server_setup.fds. */
size_t fb_conn_listener(const fb_conn *conn);

#endif
