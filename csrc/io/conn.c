/* SPDX-License-Identifier: MIT */
/*
 * A connection from its socket to its close: reading, parsing into slots, writing,
 * time-outs. The states are listed in the header; set_state is the only place that
 * changes them.
 *
 * What is read ahead: a connection whose output does not leave at once is not read, so
 * what it holds is bounded by one reading buffer and by what its handlers answered.
 */
#include "io/conn.h"

#include "core/forwarded.h"
#include "core/proxy.h"
#include "core/reply.h"
#include "io/server.h"
#include "io/spool.h"

#include <assert.h>
#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Runs of bytes in one write: what uv_write holds without taking memory. */
#define WRITE_RUNS 4

#define NS_PER_MS 1000000ULL

static void go_on(fb_conn *conn);
static void close_handle(fb_conn *conn);

/* ---- states ---------------------------------------------------------------------- */

static bool
is_move_listed(fb_conn_state from, fb_conn_state to)
{
    switch (to) {
    case FB_CONN_OPEN:
        return from == FB_CONN_PAUSED;
    case FB_CONN_PAUSED:
        return from == FB_CONN_OPEN;
    case FB_CONN_DRAINING:
        return from == FB_CONN_OPEN || from == FB_CONN_PAUSED;
    case FB_CONN_LINGERING:
        return from == FB_CONN_DRAINING;
    case FB_CONN_CLOSING:
        return from != FB_CONN_CLOSING;
    }
    return false;
}

static void
set_state(fb_conn *conn, fb_conn_state state)
{
    assert(is_move_listed(conn->state, state));
    (void)is_move_listed; /* only asserted */
    conn->state = state;
}

/* ---- waits ----------------------------------------------------------------------- */

static fb_wait
wait_of(const fb_conn *conn)
{
    if (conn->state == FB_CONN_LINGERING) {
        return FB_WAIT_GOODBYE;
    }
    if (conn->is_writing) {
        return FB_WAIT_WRITE;
    }
    if (conn->awaits_body) {
        return FB_WAIT_HANDLER;
    }
    if (conn->is_blocked) {
        return FB_WAIT_QUEUE;
    }
    if (conn->is_starved) {
        return FB_WAIT_MEMORY;
    }
    if (conn->awaits_proxy) {
        return FB_WAIT_HEAD;
    }
    if (conn->exchange == NULL) {
        return FB_WAIT_REQUEST;
    }
    switch (conn->exchange->http.phase) {
    case FB_PHASE_HEAD:
    case FB_PHASE_METHOD:
        return FB_WAIT_HEAD;
    case FB_PHASE_BODY:
        return FB_WAIT_BODY;
    case FB_PHASE_START:
    case FB_PHASE_COMPLETE:
    case FB_PHASE_HELD:
        break;
    }
    return FB_WAIT_REQUEST;
}

/* Returns how many bytes of the body in hand have come. */
static uint64_t
body_len(const fb_conn *conn)
{
    const fb_request *req = &conn->exchange->http.req;
    return req->n_spooled + req->body.len;
}

static void
start_wait(fb_conn *conn, fb_wait wait)
{
    fb_server *server = conn->server;
    conn->wait = wait;
    if (wait == FB_WAIT_BODY) {
        conn->exchange->body_began = fb_server_clock(server);
        conn->exchange->body_seen = body_len(conn);
    }
    fb_times_start(&server->waits[wait], &conn->wait_node, uv_now(&server->loop));
}

/* Returns whether the body in hand comes more slowly than it may, on average, so that
 * one that drips does not live for ever. */
static bool
does_body_drip(const fb_conn *conn)
{
    const fb_limits *limits = &conn->server->limits;
    if (limits->min_rate == 0 || limits->body_timeout_ms == 0) {
        return false;
    }
    uint64_t lasted = fb_server_clock(conn->server) - conn->exchange->body_began;
    uint64_t n = body_len(conn) - conn->exchange->body_seen;
    return lasted > limits->body_timeout_ms + n * 1000 / limits->min_rate;
}

static void time_out(fb_conn *conn);

/* A wait of another kind begins anew; of the same kind too, but for a head, which must
 * come whole within its time, however it drips, and for those that only end. */
static void
update_wait(fb_conn *conn)
{
    fb_server *server = conn->server;
    fb_wait wait = wait_of(conn);
    if (wait != conn->wait) {
        start_wait(conn, wait);
    } else if (wait == FB_WAIT_BODY && conn->state == FB_CONN_OPEN &&
               does_body_drip(conn)) {
        time_out(conn);
    } else if (wait != FB_WAIT_HEAD && wait != FB_WAIT_GOODBYE &&
               wait != FB_WAIT_MEMORY && wait != FB_WAIT_QUEUE) {
        fb_times_renew(&server->waits[wait], &conn->wait_node, uv_now(&server->loop),
                       server->tick_ms);
    }
}

/* ---- reading --------------------------------------------------------------------- */

static fb_conn *
conn_of(const void *handle)
{
    return ((const uv_handle_t *)handle)->data;
}

static bool
has_pipelined_enough(const fb_conn *conn)
{
    return conn->n_slots > 0 && conn->exchange->in.len >= FB_PIPELINE_BYTES;
}

/* Returns whether extra bytes would be more than all connections may have together. */
static bool
is_memory_short(const fb_server *server, size_t extra)
{
    return server->exchanges.n_bytes + extra > server->limits.max_input_memory;
}

/* Returns whether memory is short: bodies are to leave it, large buffers the pool. */
static bool
is_memory_tight(const fb_server *server)
{
    return is_memory_short(server, 0) || fb_server_has_starved(server);
}

/* How much to make room for: for a body, as much of it as is worth one read. */
static size_t
room_for(const fb_conn *conn)
{
    size_t missing = fb_http_body_missing(&conn->exchange->http);
    if (missing > FB_INPUT_BYTES && is_memory_short(conn->server, missing)) {
        return FB_INPUT_BYTES; /* it goes to a file, part by part */
    }
    if (missing > FB_PIPELINE_BYTES) {
        return FB_PIPELINE_BYTES;
    }
    return missing > FB_INPUT_BYTES ? missing : FB_INPUT_BYTES;
}

/* Make room for more of what is in hand. Returns false when there is none now. */
static bool
grow_input(fb_conn *conn)
{
    fb_server *server = conn->server;
    const fb_exchange *exchange = conn->exchange;
    size_t extra = room_for(conn);
    bool is_body = exchange->http.phase == FB_PHASE_BODY;
    size_t growth = fb_buf_growth(&exchange->in, extra);
    if (exchange->in.len > 0 && !is_body && is_memory_short(server, growth)) {
        conn->is_starved = conn->n_slots == 0; /* else the dispatch makes room */
        return false;
    }
    return fb_exchange_grow(&server->exchanges, conn->exchange, extra);
}

/* Returns room to read into, or false: memory ran out, or the slots come first. */
static bool
make_room(fb_conn *conn)
{
    if (conn->exchange == NULL) {
        conn->exchange = fb_exchange_take(&conn->server->exchanges);
        if (conn->exchange == NULL) {
            return false;
        }
        if (is_memory_tight(conn->server)) {
            fb_exchange_shrink(&conn->server->exchanges, conn->exchange);
        }
    }
    fb_buf *in = &conn->exchange->in;
    if (conn->state == FB_CONN_LINGERING) {
        in->len = 0;
    }
    if (in->cap - in->len >= FB_INPUT_ROOM) {
        return true;
    }
    if (has_pipelined_enough(conn)) {
        return false;
    }
    return grow_input(conn);
}

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    fb_conn *conn = conn_of(handle);
    if (conn->is_queued || !make_room(conn)) {
        *buf = uv_buf_init(NULL, 0); /* on_read is then called with UV_ENOBUFS */
        return;
    }
    fb_buf *in = &conn->exchange->in;
    buf->base = in->data + in->len;
    buf->len = in->cap - in->len;
}

static void reject(fb_conn *conn, int status);

/* Returns whether there are requests, or parts of them, that have no slot yet. */
static bool
has_unparsed(const fb_conn *conn)
{
    const fb_exchange *exchange = conn->exchange;
    return exchange != NULL && (exchange->http.parsed < exchange->in.len ||
                                exchange->http.phase == FB_PHASE_HELD);
}

/* The peer sends nothing more; it may still read what it is owed, RFC 9112 9.6. */
static void
receive_eof(fb_conn *conn)
{
    conn->has_peer_eof = true;
    conn->is_reading = false; /* libuv stops by itself */
    if (conn->awaits_proxy && conn->exchange != NULL && conn->exchange->in.len > 0) {
        reject(conn, 400); /* else it only looked whether we are there */
        return;
    }
    bool is_held =
        conn->exchange != NULL && conn->exchange->http.phase == FB_PHASE_HELD;
    if ((conn->is_ready || is_held) && conn->state == FB_CONN_OPEN) {
        return; /* what has arrived comes first; go_on closes when it is answered */
    }
    if (conn->state == FB_CONN_LINGERING ||
        (conn->n_slots == 0 && !conn->is_writing && !conn->is_touched)) {
        fb_conn_close(conn);
    } else if (conn->state != FB_CONN_DRAINING) {
        set_state(conn, FB_CONN_DRAINING);
    }
}

static void
stop_reading(fb_conn *conn)
{
    if (conn->is_reading) {
        conn->is_reading = false;
        uv_read_stop(&conn->uv.stream);
    }
}

static void
on_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf)
{
    (void)buf;
    fb_conn *conn = conn_of(stream);
    if (n_read == 0 || conn->state == FB_CONN_CLOSING) {
        return;
    }
    if (n_read == UV_ENOBUFS && conn->is_starved) {
        stop_reading(conn);
        update_wait(conn);
        return;
    }
    if (n_read == UV_ENOBUFS && conn->is_queued) {
        stop_reading(conn);
        return;
    }
    if (n_read == UV_ENOBUFS && conn->exchange != NULL && conn->n_slots > 0) {
        return; /* the dispatch at the end of this iteration makes room */
    }
    if (n_read == UV_EOF) {
        receive_eof(conn);
    } else if (n_read < 0) {
        fb_conn_close(conn);
    } else if (conn->state != FB_CONN_LINGERING) {
        if (conn->n_slots == 0) {
            conn->queued_at = fb_server_polled_at(conn->server);
        }
        conn->exchange->in.len += (size_t)n_read;
        fb_count_add(&conn->server->stats->n_bytes_received, (uint64_t)n_read);
        fb_conn_parse(conn);
    }
}

static void
start_reading(fb_conn *conn)
{
    if (conn->is_reading || conn->has_peer_eof) {
        return;
    }
    if (uv_read_start(&conn->uv.stream, on_alloc, on_read) != 0) {
        fb_conn_close(conn);
        return;
    }
    conn->is_reading = true;
}

/* ---- parsing --------------------------------------------------------------------- */

static void
start_draining(fb_conn *conn)
{
    if (conn->state == FB_CONN_OPEN || conn->state == FB_CONN_PAUSED) {
        set_state(conn, FB_CONN_DRAINING);
        stop_reading(conn);
    }
}

/* Returns whether the body in hand is not to be held in memory. One of known length is
 * told before it is there. */
static bool
is_to_be_spooled(const fb_conn *conn)
{
    const fb_http *http = &conn->exchange->http;
    if (is_memory_tight(conn->server) && http->phase == FB_PHASE_BODY) {
        return true;
    }
    size_t len = http->req.body.len + fb_http_body_missing(http);
    return http->req.n_spooled > 0 || len > conn->server->limits.max_body_memory;
}

/* Append what is in hand of the body to its file. Returns false when that fails. */
static bool
spool_body(fb_conn *conn)
{
    fb_exchange *exchange = conn->exchange;
    const fb_request *req = &exchange->http.req;
    if (exchange->file < 0) {
        int fd = fb_spool_open(conn->server->temp_dir);
        if (fd < 0) {
            return false;
        }
        exchange->file = fd;
    }
    if (req->n_spooled == 0) {
        fb_count_add(&conn->server->stats->n_spooled, 1);
    }
    const char *bytes = exchange->in.data + req->start + req->body.off;
    return fb_spool_append(exchange->file, bytes, req->body.len) == 0;
}

/* Append it, and drop it from memory. */
static bool
drop_body(fb_conn *conn)
{
    if (!spool_body(conn)) {
        return false;
    }
    fb_http_drop_body(&conn->exchange->http, &conn->exchange->in);
    if (conn->n_slots == 0 && is_memory_tight(conn->server)) {
        fb_exchange_shrink(&conn->server->exchanges, conn->exchange);
    }
    return true;
}

/* More of a body may come. Returns false when what is in hand cannot be stored. */
static bool
keep_body(fb_conn *conn)
{
    const fb_http *http = &conn->exchange->http;
    size_t least = is_memory_tight(conn->server) ? 1 : FB_FILE_BLOCK;
    if (http->phase != FB_PHASE_BODY || http->req.body.len < least ||
        !is_to_be_spooled(conn)) {
        return true;
    }
    return drop_body(conn);
}

/* A body is complete. As keep_body. */
static bool
finish_body(fb_conn *conn)
{
    fb_request *req = &conn->exchange->http.req;
    if (!is_to_be_spooled(conn)) {
        return true;
    }
    if (!spool_body(conn)) {
        return false;
    }
    req->n_spooled += req->body.len;
    req->body = (fb_span){0, 0};
    return true;
}

/* Read a PROXY header. Returns whether it was there, whole: what follows is HTTP. */
static bool
take_proxy_header(fb_conn *conn)
{
    fb_buf *in = &conn->exchange->in;
    fb_proxy proxy;
    switch (fb_proxy_parse(in->data, in->len, &proxy)) {
    case FB_PROXY_MORE:
        return false; /* the wait for it began with the connection */
    case FB_PROXY_BAD:
        reject(conn, 400);
        return false;
    case FB_PROXY_DONE:
        break;
    }
    conn->awaits_proxy = false;
    conn->is_https = proxy.is_https;
    fb_buf_consume(in, proxy.len);
    if (proxy.origin == FB_PROXY_CLIENT) {
        conn->peer = proxy.client;
        conn->client = proxy.client;
        conn->is_trusted = fb_trust_has(&conn->server->trust, &conn->peer);
    } else if (proxy.origin == FB_PROXY_UNKNOWN) {
        conn->is_trusted = false; /* somebody's, not the proxy's own, fields follow */
    }
    return true;
}

/* A trusted peer sent the request in hand: for whom? Returns false when what it says is
 * malformed. */
static bool
take_forwarded(fb_conn *conn)
{
    fb_request *req = &conn->exchange->http.req;
    const char *message = conn->exchange->in.data + req->start;
    fb_forwarded forwarded;
    if (!fb_forwarded_read(&conn->server->trust, message, req, &forwarded)) {
        return false;
    }
    conn->client = forwarded.has_client ? forwarded.client : conn->peer;
    if (forwarded.has_scheme) {
        req->is_https = forwarded.is_https;
    }
    return true;
}

/* The request in hand has got slot, of queue. */
static void
fill_slot(fb_conn *conn, fb_queue *queue, fb_slot *slot)
{
    fb_server *server = conn->server;
    slot->client = conn->client;
    slot->file = conn->exchange->file;
    conn->exchange->file = -1;
    conn->is_admitted = false;
    conn->queue = queue;
    conn->n_slots++;
    conn->n_requests++;
    fb_count_add(&server->stats->n_slots, 1);
    if (slot->req.n_dropped > 0) {
        fb_count_add(&server->stats->n_fields_dropped, slot->req.n_dropped);
    }
    if (conn->n_requests >= server->limits.max_keepalive_requests) {
        conn->wants_goodbye = conn->wants_goodbye || slot->req.keep_alive;
        slot->req.keep_alive = false;
    }
    if (!slot->req.keep_alive) {
        start_draining(conn);
    }
}

/* Returns when the request in hand expires, if it waits in queue. Its client may
 * give up before the server does. */
static uint64_t
expires_at(const fb_conn *conn, const fb_queue *queue)
{
    const fb_exchange *exchange = conn->exchange;
    const fb_request *req = &exchange->http.req;
    uint64_t most =
        fb_deadline_read(&conn->server->deadline, exchange->in.data + req->start, req);
    if (queue->rules.deadline_ns > 0 && queue->rules.deadline_ns < most) {
        most = queue->rules.deadline_ns;
    }
    return most == UINT64_MAX ? UINT64_MAX : conn->queued_at + most;
}

static void
take_request(fb_conn *conn, fb_queue *queue)
{
    fb_slot *slot = fb_queue_push(queue, conn, expires_at(conn, queue));
    fb_wait wait = queue->may_wait ? FB_WAIT_QUEUE : FB_WAIT_REQUEST;
    if (conn->wait != wait) {
        start_wait(conn, wait);
    }
    fill_slot(conn, queue, slot);
    if (fb_batch_is_full(&queue->batch)) {
        fb_server_dispatch(conn->server, queue);
    }
}

/* Answer the request in hand, which is of queue, without a handler. Nothing before
 * it is owed. */
static void
answer_at_once(fb_conn *conn, fb_queue *queue, int status)
{
    fb_server *server = conn->server;
    fb_batch *batch = &server->refused;
    fb_slot *slot = fb_batch_push(batch, conn, 0, &conn->exchange->http.req);
    batch->queue = queue->batch.queue;
    fill_slot(conn, queue, slot);
    fb_server_answer(server, slot, status);
    fb_server_note_answered(server, batch, 0, 1, uv_hrtime());
    fb_server_reset_batch(batch);
}

/* An error reply that the server gives by itself, after the replies that are owed. Who
 * has not begun with a PROXY header may not even speak HTTP, and gets none. */
static void
reject(fb_conn *conn, int status)
{
    fb_count_add(&conn->server->stats->n_rejected, 1);
    if (conn->awaits_proxy) {
        fb_conn_close(conn);
        return;
    }
    conn->reject_status = status;
    conn->wants_goodbye = true;
    start_draining(conn);
    fb_server_touch(conn->server, conn);
}

/* Returns whether a request of the connection has been waiting for too long, behind
 * those of others: its client may have given up, and those behind it wait, too. */
static bool
is_overdue(const fb_conn *conn)
{
    uint64_t most = conn->server->limits.queue_timeout_ms * NS_PER_MS;
    uint64_t now = uv_now(&conn->server->loop) * NS_PER_MS; /* it may lag behind */
    return most > 0 && conn->n_slots == 0 && now > conn->queued_at &&
           now - conn->queued_at > most;
}

static void
refuse_overload(fb_conn *conn)
{
    fb_count_add(&conn->server->stats->n_overloaded, 1);
    reject(conn, 503);
}

static void
time_out(fb_conn *conn)
{
    fb_count_add(&conn->server->stats->n_timed_out, 1);
    if (conn->wait == FB_WAIT_HEAD || conn->wait == FB_WAIT_BODY) {
        reject(conn, 408);
    } else {
        fb_conn_break_off(conn);
    }
}

void
fb_conn_unload(fb_conn *conn)
{
    const fb_exchange *exchange = conn->exchange;
    if (conn->state == FB_CONN_OPEN && exchange->http.phase == FB_PHASE_BODY &&
        exchange->http.req.body.len > 0 && conn->n_slots == 0 && !conn->is_ready &&
        !drop_body(conn)) {
        reject(conn, 507);
    }
}

/* All slots are taken, and all threads are busy: wait for one in turn, and read nothing
 * more meanwhile. */
static void
block(fb_conn *conn, fb_queue *queue)
{
    conn->queue = queue;
    conn->is_blocked = true;
    conn->is_admitted = true;
    stop_reading(conn);
    update_wait(conn);
    fb_queue_block(queue, conn);
}

/* As many requests wait as may, and this one does not yet. */
static void
refuse_full(fb_conn *conn, fb_queue *queue)
{
    fb_queue_stats *counts = &conn->server->stats->queues[queue->batch.queue];
    fb_count_add(&counts->n_refused, 1);
    answer_at_once(conn, queue, queue->rules.full_status);
}

/* The request in hand is to have a slot; or is held until there is one, or until those
 * before it are answered. Returns whether it has. */
static bool
take_or_hold(fb_conn *conn)
{
    fb_http *http = &conn->exchange->http;
    fb_queue *queue = fb_server_find_queue(conn->server, conn);
    if (fb_queue_has_place(queue, conn)) {
        fb_http_take_held(http);
        take_request(conn, queue);
        return true;
    }
    if (conn->n_slots == 0 && !conn->is_admitted && fb_queue_is_full(queue)) {
        fb_http_take_held(http);
        refuse_full(conn, queue);
        return false;
    }
    fb_http_hold(http);
    if (conn->n_slots == 0) {
        block(conn, queue);
    }
    return false;
}

/* Returns whether there may be more to parse. */
static bool
parse_one(fb_conn *conn)
{
    fb_http *http = &conn->exchange->http;
    if (http->phase == FB_PHASE_HELD) {
        return take_or_hold(conn);
    }
    switch (fb_http_feed(http, &conn->exchange->in)) {
    case FB_FEED_REQUEST:
        if (is_overdue(conn)) {
            refuse_overload(conn);
            return false;
        }
        http->req.is_https = conn->is_https;
        if (conn->is_trusted && !take_forwarded(conn)) {
            reject(conn, 400);
            return false;
        }
        if (!finish_body(conn)) {
            reject(conn, 507);
            return false;
        }
        return take_or_hold(conn);
    case FB_FEED_REJECT:
        reject(conn, http->status);
        return false;
    case FB_FEED_MORE:
        if (!keep_body(conn)) {
            reject(conn, 507);
            return false;
        }
        if (http->wants_continue) {
            fb_server_touch(conn->server, conn);
        }
        return false;
    }
    return false;
}

void
fb_conn_unblock(fb_conn *conn)
{
    conn->is_blocked = false;
    if (conn->state == FB_CONN_OPEN) {
        start_reading(conn);
        fb_server_make_ready(conn->server, conn);
    }
}

void
fb_conn_parse(fb_conn *conn)
{
    if (conn->is_blocked || (conn->awaits_proxy && !take_proxy_header(conn))) {
        return;
    }
    conn->is_parsing = true;
    bool goes_on = true;
    while (conn->state == FB_CONN_OPEN && goes_on && !conn->is_queued) {
        goes_on = parse_one(conn);
    }
    conn->is_parsing = false;
    if (conn->state == FB_CONN_CLOSING || conn->is_blocked) {
        return;
    }
    if (conn->n_slots > 0 && conn->queue->may_wait) {
        return; /* it goes on when they are answered */
    }
    if (conn->is_touched || conn->n_slots > 0) {
        update_wait(conn);
    } else {
        go_on(conn);
    }
}

/* ---- writing --------------------------------------------------------------------- */

static void
abort_conn(fb_conn *conn)
{
    /* What was sent must not look complete, so not with an orderly close. */
    if (conn->state != FB_CONN_CLOSING && conn->uv.handle.type == UV_TCP) {
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    }
    fb_conn_close(conn);
}

static void
on_written(uv_write_t *write, int status)
{
    fb_conn *conn = write->data;
    conn->is_writing = false;
    if (conn->state == FB_CONN_CLOSING) {
        return;
    }
    if (status < 0) {
        abort_conn(conn);
        return;
    }
    fb_count_add_shared(&conn->server->stats->n_bytes_sent, conn->n_queued);
    fb_out_advance(&conn->exchange->sending, conn->n_queued);
    /* Not at once: a write that ends at once is called back up to nine times an
     * iteration (uv_run), and a stream would be asked for more each time. */
    fb_server_settle_soon(conn->server, conn);
}

static size_t
total_of(const uv_buf_t *bufs, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        total += bufs[i].len;
    }
    return total;
}

static size_t
gather(fb_out *out, uv_buf_t *bufs)
{
    fb_run runs[WRITE_RUNS];
    size_t n = fb_out_gather(out, runs, WRITE_RUNS);
    for (size_t i = 0; i < n; i++) {
        /* uv_buf_t has no const; libuv does not write to it. */
        bufs[i] =
            (uv_buf_t){.base = (char *)(uintptr_t)runs[i].data, .len = runs[i].len};
    }
    return n;
}

/* Returns how many bytes of the write in flight, and of those before it, the peer has
 * not taken yet: the kernel says that it takes more only when a good part is gone. */
static size_t
unread_bytes(const fb_conn *conn)
{
    int in_kernel = 0;
    int fd = fb_conn_fd(conn);
    if (fd < 0 || ioctl(fd, SIOCOUTQ, &in_kernel) != 0 || in_kernel < 0) {
        in_kernel = 0;
    }
    return uv_stream_get_write_queue_size(&conn->uv.stream) + (size_t)in_kernel;
}

/* Have libuv send what was gathered, as the socket takes it. */
static void
queue_write(fb_conn *conn, uv_buf_t *bufs, size_t n)
{
    if (n == 0) {
        bufs[n++] = uv_buf_init(NULL, 0); /* libuv wants one; it comes back to us */
    }
    conn->write.data = conn;
    conn->n_queued = total_of(bufs, n);
    if (uv_write(&conn->write, &conn->uv.stream, bufs, (unsigned)n, on_written) != 0) {
        abort_conn(conn);
        return;
    }
    conn->is_writing = true;
    conn->n_left = unread_bytes(conn);
}

/* Send what the socket takes of the runs. Returns whether that was all; else *error is
 * libuv's error code, or 0 when the socket is full. */
static bool
try_write(fb_conn *conn, const uv_buf_t *bufs, size_t n, int *error)
{
    int sent = uv_try_write(&conn->uv.stream, bufs, (unsigned)n);
    if (sent < 0) {
        *error = sent == UV_EAGAIN ? 0 : sent;
        return false;
    }
    *error = 0;
    fb_count_add_shared(&conn->server->stats->n_bytes_sent, (uint64_t)sent);
    fb_out_advance(&conn->exchange->sending, (size_t)sent);
    return (size_t)sent == total_of(bufs, n);
}

/* How much of one flush the streams may take, so that they hold up nobody else. */
typedef struct stream_turn {
    size_t left;        /* bytes */
    size_t splice_left; /* bytes of files */
    uint64_t began;     /* nanoseconds: the first round of a stream, or 0 */
} stream_turn;

/* Draw a round of n bytes from turn. Returns false when it is over. */
static bool
draw_round(stream_turn *turn, size_t n)
{
    uint64_t now = uv_hrtime();
    if (turn->began == 0) {
        turn->began = now;
    }
    if (n + FB_STREAM_ROUND_BYTES > turn->left ||
        now - turn->began > FB_EARLY_FLUSH_NS) {
        return false;
    }
    turn->left -= n + FB_STREAM_ROUND_BYTES;
    return true;
}

/* Splice the file that is next. Returns whether all of it went; if not, an ordinary
 * round is to wait for the socket, or for the next turn. */
static bool
splice_round(fb_conn *conn, stream_turn *turn)
{
    fb_splice spliced = FB_SPLICE_SENT;
    int fd = fb_conn_fd(conn);
    while (spliced == FB_SPLICE_SENT && turn->splice_left > 0) {
        size_t n;
        spliced = fb_out_splice(&conn->exchange->sending, fd, turn->splice_left, &n);
        fb_count_add_shared(&conn->server->stats->n_bytes_sent, n);
        turn->splice_left -= n;
    }
    return spliced == FB_SPLICE_END;
}

/* Try to send one round. Returns whether to try another at once. When the turn of the
 * streams is over, the next round waits for the next iteration. */
static bool
write_round(fb_conn *conn, stream_turn *turn)
{
    fb_out *out = &conn->exchange->sending;
    if (fb_out_can_splice(out) && splice_round(conn, turn)) {
        return !fb_out_is_empty(out);
    }
    bool is_streaming = fb_out_is_streaming(out);
    uv_buf_t bufs[WRITE_RUNS];
    size_t n = gather(out, bufs);
    if (n == 0 && out->has_failed) {
        abort_conn(conn);
        return false;
    }
    if (n == 0 && out->is_waiting) {
        conn->awaits_body = true;
        return false;
    }
    if (is_streaming && !fb_out_is_empty(out) && !draw_round(turn, total_of(bufs, n))) {
        queue_write(conn, bufs, n);
        return false;
    }
    int error;
    if (n == 0 || try_write(conn, bufs, n, &error)) {
        return !fb_out_is_empty(out);
    }
    if (error != 0) {
        abort_conn(conn);
    } else {
        queue_write(conn, bufs, gather(out, bufs));
    }
    return false;
}

/* What was filled is sent next. */
static bool
swap_outs(fb_exchange *exchange)
{
    fb_out_reset(&exchange->sending);
    if (fb_out_is_empty(&exchange->filling) && !exchange->filling.has_failed) {
        return false;
    }
    fb_out sent = exchange->sending;
    exchange->sending = exchange->filling;
    exchange->filling = sent;
    return true;
}

/* Returns whether there is something in sending. */
static bool
has_to_send(fb_exchange *exchange)
{
    return !fb_out_is_empty(&exchange->sending) || exchange->sending.has_failed ||
           swap_outs(exchange);
}

void
fb_conn_flush(fb_conn *conn)
{
    fb_exchange *exchange = conn->exchange;
    stream_turn turn = {
        .left = FB_OUTPUT_HIGH_WATER,
        .splice_left = FB_SPLICE_BYTES,
    };
    while (conn->state != FB_CONN_CLOSING && exchange != NULL && !conn->is_writing &&
           !conn->awaits_body && has_to_send(exchange)) {
        while (write_round(conn, &turn)) {
        }
    }
}

/* As try_write, without libuv: the thread is not the loop's. */
static bool
write_early(fb_conn *conn, const uv_buf_t *bufs, size_t n, int *error)
{
    ssize_t sent;
    do {
        sent = writev(fb_conn_fd(conn), (const struct iovec *)bufs, (int)n);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        bool is_full = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS;
        *error = is_full ? 0 : uv_translate_sys_error(errno);
        return false;
    }
    *error = 0;
    fb_count_add_shared(&conn->server->stats->n_bytes_sent, (uint64_t)sent);
    fb_out_advance(&conn->exchange->sending, (size_t)sent);
    return (size_t)sent == total_of(bufs, n);
}

fb_early
fb_conn_flush_early(fb_conn *conn)
{
    fb_exchange *exchange = conn->exchange;
    if (conn->state == FB_CONN_CLOSING || exchange == NULL) {
        return FB_EARLY_FAILED;
    }
    uv_buf_t bufs[WRITE_RUNS];
    while (!conn->is_writing && has_to_send(exchange)) {
        if (fb_out_is_streaming(&exchange->sending)) {
            return FB_EARLY_SENT;
        }
        int error = 0; /* it shows again when the connection is settled */
        size_t n = gather(&exchange->sending, bufs);
        if (n == 0 || !write_early(conn, bufs, n, &error)) {
            return n == 0 || error != 0 ? FB_EARLY_FAILED : FB_EARLY_FULL;
        }
    }
    return FB_EARLY_SENT;
}

size_t
fb_conn_unsent(const fb_conn *conn)
{
    const fb_exchange *exchange = conn->exchange;
    if (exchange == NULL) {
        return 0;
    }
    const fb_out *sending = &exchange->sending;
    return sending->bytes.len - sending->n_sent + exchange->filling.bytes.len;
}

bool
fb_conn_has_sent_all(const fb_conn *conn)
{
    const fb_exchange *exchange = conn->exchange;
    return exchange == NULL ||
           (!conn->is_writing && fb_out_is_empty(&exchange->sending) &&
            fb_out_is_empty(&exchange->filling));
}

int
fb_conn_fd(const fb_conn *conn)
{
    /* Of the handle nothing is read: the loop changes it at any time. */
    return conn->state != FB_CONN_CLOSING ? conn->fd : -1;
}

/* ---- after the replies ----------------------------------------------------------- */

static void
on_shutdown(uv_shutdown_t *shutdown, int status)
{
    (void)shutdown;
    (void)status; /* the time-out of LINGERING ends it either way */
}

/* End, but read on for a while: a close with unread bytes would reset the connection,
 * and the reset could overtake the last reply, RFC 9112 9.6. */
static void
say_goodbye(fb_conn *conn)
{
    set_state(conn, FB_CONN_LINGERING);
    if (conn->exchange != NULL) {
        conn->exchange->in.len = 0;
        fb_exchange_shrink(&conn->server->exchanges, conn->exchange);
    }
    if (uv_shutdown(&conn->shutdown, &conn->uv.stream, on_shutdown) != 0) {
        fb_conn_close(conn);
        return;
    }
    start_reading(conn);
    if (conn->state != FB_CONN_CLOSING) {
        update_wait(conn);
    }
}

static void
finish(fb_conn *conn)
{
    bool may_be_sending = conn->wants_goodbye || has_unparsed(conn);
    if (may_be_sending && !conn->has_peer_eof) {
        say_goodbye(conn);
    } else {
        fb_conn_close(conn);
    }
}

bool
fb_conn_is_idle(const fb_conn *conn)
{
    const fb_exchange *exchange = conn->exchange;
    if (exchange == NULL) {
        return true;
    }
    fb_phase phase = exchange->http.phase;
    return (phase == FB_PHASE_START || phase == FB_PHASE_COMPLETE) &&
           !has_unparsed(conn) && conn->n_slots == 0 && !conn->is_writing &&
           !conn->awaits_body && !conn->is_touched;
}

/* Drop what was answered; give everything back when nothing is left. */
static void
tidy(fb_conn *conn)
{
    fb_exchange *exchange = conn->exchange;
    if (exchange == NULL) {
        return;
    }
    fb_http_compact(&exchange->http, &exchange->in);
    if (has_unparsed(conn)) {
        fb_server_make_ready(conn->server, conn);
    } else if (exchange->in.len == 0 && !fb_http_has_empty_lines(&exchange->http)) {
        conn->exchange = NULL;
        fb_exchange_give(&conn->server->exchanges, exchange);
    }
}

/* No slot is waiting: move to the state that the output and the input ask for. */
static void
go_on(fb_conn *conn)
{
    if (conn->is_writing || conn->awaits_body) {
        if (conn->state == FB_CONN_OPEN) {
            set_state(conn, FB_CONN_PAUSED);
            stop_reading(conn);
        }
        update_wait(conn);
        return;
    }
    if (conn->state == FB_CONN_DRAINING) {
        finish(conn);
        return;
    }
    if (conn->state == FB_CONN_PAUSED) {
        set_state(conn, FB_CONN_OPEN);
        start_reading(conn);
    }
    if (conn->state == FB_CONN_OPEN && !conn->is_parsing) {
        tidy(conn);
        bool is_over = conn->has_peer_eof && !conn->is_ready;
        if (is_over || (fb_conn_is_idle(conn) && fb_server_closes_idle(conn->server))) {
            fb_conn_close(conn);
        } else if (!conn->is_starved && !conn->is_blocked) {
            start_reading(conn); /* it may have rested while it was queued */
        }
    }
    if (conn->state != FB_CONN_CLOSING) {
        update_wait(conn);
    }
}

static void
put_own_reply(fb_conn *conn)
{
    fb_out *out = &conn->exchange->filling;
    const fb_http *http = &conn->exchange->http;
    bool ok = true;
    if (conn->reject_status != 0 && !conn->is_last_answered) {
        ok = fb_reply_plain(&out->bytes, &conn->server->executor.stamp,
                            conn->reject_status, http->req.is_head, false, false);
        fb_access_log_own(&conn->server->access, conn, conn->reject_status);
        fb_stats_note_replies(conn->server->stats, conn->reject_status, 1);
        conn->reject_status = 0; /* given once */
    } else if (http->wants_continue && conn->state == FB_CONN_OPEN) {
        ok = fb_reply_continue(&out->bytes);
        conn->exchange->http.wants_continue = false;
    }
    if (!ok) {
        out->has_failed = true;
    }
}

void
fb_conn_settle(fb_conn *conn)
{
    conn->n_slots = 0;
    conn->n_answered = 0;
    conn->executor = NULL;
    conn->is_queued = false;
    conn->queued_at = conn->server->settled_at;
    if (conn->is_cut) {
        close_handle(conn);
    }
    if (conn->state == FB_CONN_CLOSING || conn->exchange == NULL) {
        return;
    }
    if (conn->is_last_answered) {
        start_draining(conn);
    }
    put_own_reply(conn);
    fb_conn_flush(conn);
    if (conn->state != FB_CONN_CLOSING) {
        go_on(conn);
    }
}

fb_out *
fb_conn_out(fb_conn *conn)
{
    if (conn->state == FB_CONN_CLOSING || conn->is_last_answered) {
        return NULL;
    }
    return &conn->exchange->filling;
}

bool
fb_conn_keeps_alive(const fb_conn *conn, const fb_slot *slot)
{
    if (!slot->req.keep_alive) {
        return false;
    }
    /* What is wanted, not what was begun: a handler that runs when the stop comes
     * answers before the loop hears of it. */
    int stop = atomic_load_explicit(&conn->server->stop_wanted, memory_order_relaxed);
    return stop == FB_STOP_NO || slot->turn + 1 < conn->n_slots || has_unparsed(conn);
}

/* What was pipelined behind a reply that says close is not processed, RFC 9112 9.6. */
static void
drop_slots_behind(fb_conn *conn, fb_slot *slot)
{
    slot->is_last = conn->n_answered < conn->n_slots;
    for (size_t left = conn->n_slots - conn->n_answered; left > 0; left--) {
        do {
            slot++;
        } while (slot->owner != conn);
        slot->is_answered = true;
    }
    conn->n_answered = conn->n_slots;
}

void
fb_conn_answered(fb_conn *conn, fb_slot *slot, bool keep_alive)
{
    assert(!slot->is_answered && slot->turn == conn->n_answered);
    slot->is_answered = true;
    conn->n_answered++;
    if (conn->server->access.is_timed) {
        slot->answered_at = uv_hrtime();
    }
    if (keep_alive || conn->state == FB_CONN_CLOSING) {
        return;
    }
    conn->is_last_answered = true;
    conn->wants_goodbye = conn->wants_goodbye || slot->req.keep_alive;
    drop_slots_behind(conn, slot);
}

/* ---- time-outs ------------------------------------------------------------------- */

fb_conn *
fb_conn_of_wait(fb_time_node *node)
{
    return (fb_conn *)(void *)((char *)node - offsetof(fb_conn, wait_node));
}

/* Returns whether the peer still reads, slowly at the most. */
static bool
does_write_progress(fb_conn *conn)
{
    const fb_limits *limits = &conn->server->limits;
    uint64_t due = limits->min_rate * limits->write_timeout_ms / 1000;
    size_t before = conn->n_left;
    size_t left = unread_bytes(conn);
    conn->n_left = left;
    return left < before && (left == 0 || before - left >= due);
}

/* The reply that the server gives itself is to the first request that waits. */
static void
recall_first(fb_conn *conn)
{
    const fb_slot *slot = conn->queue->batch.slots;
    while (slot->owner != conn) {
        slot++;
    }
    fb_http_recall(&conn->exchange->http, &slot->req);
}

/* No thread, or no slot, was free for too long. */
static void
leave_queue(fb_conn *conn)
{
    if (conn->n_slots > 0) {
        recall_first(conn);
        fb_queue_drop_conn(conn->queue, conn);
        conn->n_slots = 0;
        conn->is_queued = false;
    } else if (conn->is_blocked) {
        fb_queue_unblock(conn->queue, conn);
        conn->is_blocked = false;
    }
    refuse_overload(conn);
}

bool
fb_conn_is_late(const fb_conn *conn, uint64_t now)
{
    return expires_at(conn, conn->queue) <= now;
}

void
fb_conn_refuse_late(fb_conn *conn)
{
    fb_queue *queue = conn->queue;
    fb_queue_unblock(queue, conn);
    conn->is_blocked = false;
    fb_http_take_held(&conn->exchange->http);
    fb_count_add(&conn->server->stats->queues[queue->batch.queue].n_expired, 1);
    answer_at_once(conn, queue, 504);
}

void
fb_conn_expire(fb_conn *conn)
{
    if (conn->wait == FB_WAIT_WRITE && does_write_progress(conn)) {
        start_wait(conn, FB_WAIT_WRITE);
        return;
    }
    if (conn->wait == FB_WAIT_MEMORY) {
        conn->is_starved = false;
        refuse_overload(conn);
        return;
    }
    if (conn->wait == FB_WAIT_QUEUE) {
        leave_queue(conn);
        return;
    }
    time_out(conn);
}

bool
fb_conn_feed(fb_conn *conn)
{
    assert(conn->is_starved && conn->state == FB_CONN_OPEN);
    conn->is_starved = false;
    if (!make_room(conn)) {
        conn->is_starved = true;
        return false;
    }
    start_reading(conn);
    if (conn->state != FB_CONN_CLOSING) {
        update_wait(conn);
    }
    return true;
}

/* ---- birth and death ------------------------------------------------------------- */

static void
on_closed(uv_handle_t *handle)
{
    fb_conn *conn = conn_of(handle);
    fb_server *server = conn->server;
    assert(conn->n_slots == 0 && !conn->is_touched && !conn->is_ready &&
           conn->wait_node.prev == NULL);
    if (conn->exchange != NULL) {
        fb_exchange_give(&server->exchanges, conn->exchange);
        conn->exchange = NULL;
        fb_server_come_round(server); /* its bodies are to be let go of */
    }
    fb_server_conn_gone(server, conn);
}

static void
close_handle(fb_conn *conn)
{
    conn->is_cut = false;
    uv_close(&conn->uv.handle, on_closed);
}

/* Nobody has its slots yet, and they may be in their queue for longer than it is there.
 * Else they are answered before it is closed. */
static void
forget_slots(fb_conn *conn)
{
    const fb_executor *executor = &conn->server->executor;
    if (conn->n_slots == 0 || !conn->queue->may_wait ||
        (executor->is_dispatching && executor->batch == &conn->queue->batch)) {
        return;
    }
    fb_queue_drop_conn(conn->queue, conn);
    conn->n_slots = 0;
}

void
fb_conn_close(fb_conn *conn)
{
    if (conn->state == FB_CONN_CLOSING) {
        return;
    }
    fb_times_stop(&conn->wait_node);
    if (conn->is_blocked) {
        fb_queue_unblock(conn->queue, conn);
        conn->is_blocked = false;
    }
    if (conn->executor == NULL) {
        conn->is_reading = false;
        set_state(conn, FB_CONN_CLOSING);
        forget_slots(conn);
        close_handle(conn);
        return;
    }
    /* Its executor may be about to write to the socket. */
    stop_reading(conn);
    fb_executor_lock(conn->executor);
    set_state(conn, FB_CONN_CLOSING);
    fb_executor_unlock(conn->executor);
    conn->is_cut = true;
}

void
fb_conn_queue(fb_conn *conn)
{
    conn->is_queued = true;
}

void
fb_conn_hand_over(fb_conn *conn, fb_executor *executor, fb_slot *slot)
{
    slot->data = conn->exchange->in.data + slot->req.start;
    conn->executor = executor;
    conn->is_queued = true;
    fb_times_stop(&conn->wait_node);
    conn->wait = FB_WAIT_HANDLER; /* in no list: however long it takes */
}

char *
fb_conn_renew_input(fb_conn *conn)
{
    fb_buf *in = &conn->exchange->in;
    char *old = in->data;
    char *renewed = fb_heap_take(in->heap, in->cap);
    if (renewed == NULL) {
        return NULL;
    }
    memcpy(renewed, old, in->len);
    in->data = renewed;
    return old;
}

void
fb_conn_resume(fb_conn *conn)
{
    conn->awaits_body = false;
    if (conn->state != FB_CONN_CLOSING) {
        fb_server_settle_soon(conn->server, conn);
    }
}

void
fb_conn_break_off(fb_conn *conn)
{
    /* What an executor has of it may not be looked at, and is not sent any more. */
    if (conn->executor == NULL && fb_conn_has_sent_all(conn)) {
        fb_conn_close(conn);
    } else {
        abort_conn(conn);
    }
}

static int
open_tcp(fb_conn *conn, int fd)
{
    int error = uv_tcp_init(&conn->server->loop, &conn->uv.tcp);
    if (error == 0) {
        error = uv_tcp_open(&conn->uv.tcp, fd);
    }
    if (error == 0) {
        /* A reply is one write, and nothing follows it: waiting to fill a segment would
         * only delay it. If it fails, the peer has left, and reading will tell. */
        (void)uv_tcp_nodelay(&conn->uv.tcp, 1);
    }
    return error;
}

static int
open_pipe(fb_conn *conn, int fd)
{
    int error = uv_pipe_init(&conn->server->loop, &conn->uv.pipe, 0);
    return error != 0 ? error : uv_pipe_open(&conn->uv.pipe, fd);
}

void
fb_conn_open(const fb_listener *listener, int fd, const struct sockaddr *peer)
{
    fb_server *server = listener->server;
    fb_address address = fb_address_of(peer);
    bool is_trusted = fb_trust_has(&server->trust, &address);
    if (server->speaks_proxy && !is_trusted) {
        fb_count_add(&server->stats->n_rejected, 1);
        close(fd);
        return;
    }
    fb_conn *conn = fb_server_new_conn(server);
    if (conn == NULL) {
        close(fd);
        return;
    }
    conn->listener = listener;
    conn->peer = address;
    conn->client = address;
    conn->is_trusted = is_trusted;
    conn->awaits_proxy = server->speaks_proxy;
    int error = listener->is_tcp ? open_tcp(conn, fd) : open_pipe(conn, fd);
    conn->uv.handle.data = conn;
    conn->fd = fd;
    start_wait(conn, wait_of(conn));
    if (error != 0) {
        close(fd); /* not libuv's yet */
        fb_conn_close(conn);
        return;
    }
    fb_count_add(&server->stats->n_conns, 1);
    start_reading(conn);
}

const fb_address *
fb_conn_peer(const fb_conn *conn)
{
    return &conn->peer;
}

size_t
fb_conn_listener(const fb_conn *conn)
{
    return (size_t)(conn->listener - conn->server->listeners);
}
