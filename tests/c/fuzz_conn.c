/* SPDX-License-Identifier: MIT */
/*
 * Whatever clients do, and in whatever order, each is given the replies to the requests
 * that its bytes hold, once, in order and whole, up to the first reply that says close
 * and with nothing behind it. What is handed to the dispatcher is what a parser makes
 * of all its bytes at once, in order, and nothing of it after a bad message. Every body
 * is released exactly once. The loop comes to rest once the clients do, and what then
 * stands still waits for them. A stop ends, and leaves no memory and no descriptor.
 *
 * The input is a program of steps in letters: see the table of steps. Other input is
 * what one client sends. The server is the real one, on this thread, step by step, and
 * its flusher's thread is not started. Its clock stands still and its system calls fail
 * as the program says: see kernel.h. It may have queues: a batch is of one of them, what
 * is refused or expires is answered in its turn, and no batch is forgotten.
 */
#include "core/proxy.h"
#include "io/file.h"
#include "io/server.h"
#include "io/spool.h"
#include "kernel.h"
#include "reader.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PROGRAM '%' /* the first byte of one */
#define N_CLIENTS 8 /* at a time */
#define MOST_CLIENTS 24
#define MOST_SENT (512 * 1024)     /* bytes of all clients */
#define MOST_REPLIED (1024 * 1024) /* bytes of bodies; further ones are short */
#define MOST_REQUESTS 1200         /* of a client, without those of raw bytes */
#define MOST_FDS 128               /* descriptors, more than a run has open */
#define CONTENT_BYTES (160 * 1024)
#define N_STARTS 4096 /* places in content where bodies begin */
#define N_QUEUES 3
#define MOST_ROUTES (16 * 16) /* of paths of a kind and a size */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __real_fb_conn_open(const fb_listener *listener, int fd,
                         const struct sockaddr *peer);
void __wrap_fb_conn_open(const fb_listener *listener, int fd,
                         const struct sockaddr *peer);
void __real_fb_server_conn_gone(fb_server *server, fb_conn *conn);
void __wrap_fb_server_conn_gone(fb_server *server, fb_conn *conn);
void __real_fb_server_answer(fb_server *server, fb_slot *slot, int status);
void __wrap_fb_server_answer(fb_server *server, fb_slot *slot, int status);

typedef struct client {
    int fd;           /* or -1 */
    fb_conn *conn;    /* the server's end, while it is there */
    bool is_ended;    /* it said that it sends no more */
    bool is_over;     /* the server did, or both */
    bool keeps;       /* what it has to say, until it is told to send */
    bool has_last;    /* a request of it was the last one */
    bool is_rejected; /* the server said so */
    bool has_proxy;   /* its PROXY header was parsed */
    bool has_closed;  /* a reply to it said close */
    uint32_t n_slots; /* in the batch in hand */
    size_t n_taken;   /* requests of it that were dispatched */
    size_t n_asked;   /* requests that steps made up */
    fb_buf kept;      /* to be sent */
    fb_buf sent;      /* all that was sent */
    fb_http http;     /* parses it, as a whole */
    reply_reader reader;
} client;

typedef struct world {
    fb_server server;
    fb_limits limits;
    bool has_queues;
    fb_queue_rules rules[N_QUEUES];
    struct sockaddr_un addr; /* of the listener */
    socklen_t addr_len;
    client clients[MOST_CLIENTS]; /* as they connected */
    size_t n_clients;
    size_t n_accepted;          /* of them, which is in order */
    client *current[N_CLIENTS]; /* NULL: none yet */
    fb_heap heap;               /* of the clients */
    size_t n_sent;              /* bytes */
    size_t n_replied;           /* bytes */
    size_t n_bodies;            /* given */
    size_t n_released;          /* of them */
    size_t n_pulls;             /* that the streams may take */
    size_t n_due;               /* replies */
    bool is_tcp;                /* for all that the server knows */
    bool is_behind_proxy;
    bool logs; /* an access log is kept */
    fb_line_format log_format;
    bool is_backward; /* later connections are answered first */
    bool is_over;     /* the loop has nothing to do any more */
    bool is_stopped;  /* somebody wanted it to */
    bool wakeup_goes_on;
    int wakeup[2];
    const uint8_t *at; /* the rest of the program */
    const uint8_t *end;
} world;

static world w;
static char paths[MOST_ROUTES][4];
static fb_route routes[MOST_ROUTES]; /* by the size */
static size_t n_routes;
static char content[CONTENT_BYTES];
static int content_fd; /* the same, as a file */

static void
require(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

/* Returns whether something happened that may end connections early. */
static bool
is_spoiled(void)
{
    return kernel_has_failed() || w.server.stopping == FB_STOP_NOW ||
           fb_count_get(&w.server.stats->n_timed_out) > 0;
}

/* ---- clients --------------------------------------------------------------------- */

static client *
client_of(const fb_conn *conn)
{
    for (size_t i = 0; i < w.n_accepted; i++) {
        if (w.clients[i].conn == conn) {
            return &w.clients[i];
        }
    }
    require(false, "a connection that is gone, or never was");
    return NULL;
}

void
__wrap_fb_conn_open(const fb_listener *listener, int fd, const struct sockaddr *peer)
{
    const struct sockaddr_in6 inet = {.sin6_family = AF_INET6, .sin6_port = 1};
    uint64_t before = fb_count_get(&w.server.n_conns);
    peer = w.is_tcp ? (const struct sockaddr *)&inet : peer;
    __real_fb_conn_open(listener, fd, peer);
    require(w.n_accepted < w.n_clients, "accepted whom nobody knows");
    client *it = &w.clients[w.n_accepted++];
    bool is_open = fb_count_get(&w.server.n_conns) > before;
    it->conn = is_open ? w.server.conns : NULL;
    const fb_address address = fb_address_of(peer);
    require(!is_open || fb_conn_listener(it->conn) == 0, "another listener");
    require(!is_open || fb_address_equals(fb_conn_peer(it->conn), &address),
            "another peer");
}

void
__wrap_fb_server_conn_gone(fb_server *server, fb_conn *conn)
{
    client_of(conn)->conn = NULL;
    __real_fb_server_conn_gone(server, conn);
}

static client *
add_client(int fd)
{
    client *it = &w.clients[w.n_clients++];
    memset(it, 0, offsetof(client, reader));
    reader_reset(&it->reader);
    it->fd = fd;
    fb_buf_init(&it->kept, &w.heap);
    fb_buf_init(&it->sent, &w.heap);
    fb_http_init(&it->http, &w.server.limits);
    return it;
}

static void
connect_client(size_t which)
{
    if (w.n_clients == MOST_CLIENTS ||
        (w.current[which] != NULL && w.current[which]->fd >= 0)) {
        return;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    require(fd >= 0, "no socket");
    if (connect(fd, (const struct sockaddr *)&w.addr, w.addr_len) != 0) {
        close(fd); /* turned away */
        return;
    }
    w.current[which] = add_client(fd);
}

static void
close_client(client *it)
{
    if (it->fd >= 0) {
        close(it->fd);
        it->fd = -1;
    }
}

/* Send up to most bytes of what is kept. Returns whether some were. */
static bool
push(client *it, size_t most)
{
    size_t n = it->kept.len < most ? it->kept.len : most;
    if (it->fd < 0 || it->is_ended || n == 0) {
        return false;
    }
    ssize_t sent = send(it->fd, it->kept.data, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        it->kept.len = 0; /* the server has left */
    }
    if (sent <= 0) {
        return false;
    }
    require(fb_buf_append(&it->sent, it->kept.data, (size_t)sent), "memory");
    fb_buf_consume(&it->kept, (size_t)sent);
    return true;
}

static void
say(client *it, const void *bytes, size_t len)
{
    if (it->fd < 0 || it->is_ended || w.n_sent + len > MOST_SENT) {
        return;
    }
    w.n_sent += len;
    require(fb_buf_append(&it->kept, bytes, len), "memory");
    if (!it->keeps) {
        push(it, SIZE_MAX);
    }
}

/* Parse what a client has sent. Returns the next verdict. */
static fb_feed
next_request(client *it)
{
    if (w.server.speaks_proxy && !it->has_proxy) {
        fb_proxy proxy;
        fb_proxy_verdict verdict =
            it->sent.len == 0 ? FB_PROXY_MORE
                              : fb_proxy_parse(it->sent.data, it->sent.len, &proxy);
        if (verdict != FB_PROXY_DONE) {
            return verdict == FB_PROXY_MORE ? FB_FEED_MORE : FB_FEED_REJECT;
        }
        fb_buf_consume(&it->sent, proxy.len);
        it->has_proxy = true;
    }
    return fb_http_feed(&it->http, &it->sent);
}

/* What the server says by itself is what the parser says of the client's bytes, or what
 * the weather explains. */
static void
check_own_reply(client *it)
{
    int status = it->reader.own_status;
    if (status == 0 || it->is_rejected) {
        return;
    }
    it->is_rejected = true;
    if (status == 408) {
        require(fb_count_get(&w.server.stats->n_timed_out) > 0,
                "408, but nobody was late");
    } else if (status == 503) {
        require(fb_count_get(&w.server.stats->n_overloaded) > 0,
                "503, but nobody waited");
    } else if (status == 400 && w.server.speaks_proxy) {
        return; /* X-Forwarded-For may be malformed, which the parser does not see */
    } else if (status == 507) {
        require(kernel_has_failed_to_store(), "507, but there was room");
    } else {
        require(!it->has_last && next_request(it) == FB_FEED_REJECT &&
                    it->http.status == status,
                "rejected for nothing");
    }
}

/* Receive up to most bytes. Returns whether something came, be it the end. */
static bool
receive(client *it, size_t most)
{
    static char bytes[64 * 1024];
    bool has_some = false;
    while (it->fd >= 0 && !it->is_over && most > 0) {
        size_t room = most < sizeof(bytes) ? most : sizeof(bytes);
        ssize_t n = recv(it->fd, bytes, room, 0);
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        has_some = true;
        if (n <= 0) {
            it->is_over = true;
            if (!is_spoiled()) {
                reader_end(&it->reader);
            }
            break;
        }
        reader_feed(&it->reader, bytes, (size_t)n);
        require(it->reader.n_continue <= it->n_taken + 1, "100 Continue, and again");
        check_own_reply(it);
        most -= (size_t)n;
    }
    return has_some;
}

static void
end_sending(client *it)
{
    if (it->fd >= 0 && !it->is_ended) {
        it->is_ended = true;
        shutdown(it->fd, SHUT_WR);
    }
}

/* ---- bodies ---------------------------------------------------------------------- */

typedef struct stream {
    const char *data;
    size_t left;  /* bytes */
    size_t piece; /* bytes of a pull */
    bool is_chunked;
    bool breaks;  /* off, instead of its end */
    bool is_slow; /* every other pull finds nothing */
    bool stops;   /* the server, when half of it is there */
    bool was_empty;
    fb_file file; /* instead */
} stream;

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    stream *from = owner;
    from->was_empty = from->is_slow && !from->was_empty;
    if (from->was_empty) {
        return FB_PULL_MORE;
    }
    size_t n = from->left < from->piece ? from->left : from->piece;
    bool ok = from->is_chunked ? fb_reply_chunk(into, from->data, n)
                               : fb_buf_append(into, from->data, n);
    if (!ok || (from->breaks && n == from->left)) {
        return FB_PULL_FAIL;
    }
    from->data += n;
    from->left -= n;
    if (from->stops) {
        w.is_stopped = true;
        fb_server_stop(&w.server, FB_STOP_GRACEFUL);
    }
    if (from->left > 0) {
        return FB_PULL_MORE;
    }
    ok = !from->is_chunked || fb_reply_last_chunk(into);
    return ok ? FB_PULL_END : FB_PULL_FAIL;
}

static fb_pull
on_pull_file(void *owner, fb_buf *into)
{
    return fb_file_pull(&((stream *)owner)->file, into);
}

static fb_splice
on_splice_file(void *owner, int fd, size_t most, size_t *n_sent)
{
    return fb_file_splice(&((stream *)owner)->file, fd, most, n_sent);
}

static void
on_release(void *owner)
{
    w.n_released++;
    free(owner); /* a second time, a sanitizer sees it */
}

static const fb_body_ops stream_ops = {.pull = on_pull, .release = on_release};
static const fb_body_ops file_ops = {
    .pull = on_pull_file,
    .splice = on_splice_file,
    .release = on_release,
};

static const uint32_t sizes[16] = {0,     1,     2,      7,     16,   100,
                                   500,   1000,  4000,   4096,  9000, 20000,
                                   32768, 65536, 100000, 131072};

/* ---- the dispatcher: what to do is in the path, "/" and two more ----------------- */

typedef enum answer_kind {
    ANSWER_COPIED,
    ANSWER_IN_PLACE,
    ANSWER_STREAM,
    ANSWER_BROKEN_STREAM,
    ANSWER_FILE,
    ANSWER_NOTHING,
    ANSWER_CLOSE,
    ANSWER_STOP,
    ANSWER_SLOW_STREAM,
    ANSWER_FLUSHED, /* at once, as the flusher's thread does */
    ANSWER_SHORT_FILE,
    ANSWER_SLOWLY, /* and the file of the request's body is kept */
    ANSWER_STOP_NOW,
    ANSWER_FLUSHED_IN_PLACE,
    ANSWER_FLUSHED_STREAM,
    ANSWER_STOPPING_STREAM,
} answer_kind;

static answer_kind
kind_of(const fb_slot *slot)
{
    bool has_kind = slot->req.path.len == 3;
    return has_kind ? (answer_kind)(slot->data[slot->req.path.off + 1] & 15)
                    : ANSWER_COPIED;
}

static size_t
size_of(const fb_slot *slot)
{
    bool has_size = slot->req.path.len == 3;
    size_t size = has_size ? sizes[slot->data[slot->req.path.off + 2] & 15] : 5;
    return w.n_replied + size > MOST_REPLIED ? size % 16 : size;
}

static bool
is_same(const char *a, fb_span a_span, const char *b, fb_span b_span)
{
    return a_span.len == b_span.len &&
           (a_span.len == 0 || memcmp(a + a_span.off, b + b_span.off, a_span.len) == 0);
}

static void
check_spooled(const fb_slot *slot, const char *want, size_t len)
{
    static char block[FB_FILE_BLOCK];
    require(slot->file >= 0 && slot->req.body.len == 0 && slot->req.n_spooled == len,
            "a body partly in a file");
    for (size_t at = 0; at < len; at += sizeof(block)) {
        size_t n = len - at < sizeof(block) ? len - at : sizeof(block);
        if (fb_spool_read(slot->file, block, n, at) != 0) {
            require(kernel_has_failed(), "a body that cannot be read");
            return;
        }
        require(memcmp(block, want + at, n) == 0, "another body in the file");
    }
}

/* The slot is what a parser makes of what comes next of the bytes of its client. */
static void
check_slot(client *it, const fb_slot *slot, uint32_t queue)
{
    const fb_conn *conn = slot->owner;
    require(!it->has_last && !it->has_closed, "a request behind the last one");
    require(slot->turn == conn->n_answered + it->n_slots++, "slots out of turn");
    require(queue == fb_route_find(w.server.routes, w.server.n_routes, slot->data,
                                   &slot->req),
            "of another queue");
    it->n_taken++;
    require(next_request(it) == FB_FEED_REQUEST, "no such request");
    const fb_request *want = &it->http.req;
    const fb_request *got = &slot->req;
    const char *a = it->sent.data + want->start;
    const char *b = slot->data;
    require(want->method == got->method && want->minor == got->minor &&
                want->is_head == got->is_head && want->n_headers == got->n_headers &&
                want->n_dropped == got->n_dropped &&
                is_same(a, want->target, b, got->target) &&
                is_same(a, want->path, b, got->path) &&
                is_same(a, want->query, b, got->query),
            "another request");
    for (size_t i = 0; i < want->n_headers; i++) {
        require(is_same(a, want->headers[i].name, b, got->headers[i].name) &&
                    is_same(a, want->headers[i].value, b, got->headers[i].value),
                "another field");
    }
    if (got->n_spooled > 0) {
        check_spooled(slot, a + want->body.off, want->body.len);
    } else {
        require(is_same(a, want->body, b, got->body), "another body");
    }
    require(want->keep_alive || !got->keep_alive, "goes on after the last request");
    it->has_last = !got->keep_alive;
}

/* Make the body of a reply, and say in *head how it is framed. */
static fb_body
new_body(const fb_slot *slot, answer_kind kind, const char *data, fb_head *head)
{
    stream *from = calloc(1, sizeof(*from));
    require(from != NULL, "memory");
    size_t len = (size_t)head->length;
    w.n_bodies++;
    if (kind == ANSWER_IN_PLACE || kind == ANSWER_FLUSHED_IN_PLACE) {
        return (fb_body){&stream_ops, from, data, len};
    }
    if (kind == ANSWER_FILE || kind == ANSWER_SHORT_FILE) {
        bool is_short = kind == ANSWER_SHORT_FILE;
        from->file = (fb_file){
            .fd = content_fd,
            .offset = is_short ? CONTENT_BYTES - len / 2 : (uint64_t)(data - content),
            .left = len,
        };
        return (fb_body){.ops = &file_ops, .owner = from};
    }
    *from = (stream){
        .data = data,
        .left = len,
        .piece = len / 16 + 1,
        .is_chunked = slot->req.minor > 0,
        .breaks = kind == ANSWER_BROKEN_STREAM,
        .is_slow = kind == ANSWER_SLOW_STREAM,
        .stops = kind == ANSWER_STOPPING_STREAM,
    };
    w.n_pulls += 40;
    head->framing = from->is_chunked ? FB_FRAMING_CHUNKED : FB_FRAMING_NONE;
    head->keep_alive = head->keep_alive && from->is_chunked;
    return (fb_body){.ops = &stream_ops, .owner = from};
}

static bool
has_own_body(answer_kind kind)
{
    return kind == ANSWER_IN_PLACE || kind == ANSWER_STREAM ||
           kind == ANSWER_BROKEN_STREAM || kind == ANSWER_FILE ||
           kind == ANSWER_SLOW_STREAM || kind == ANSWER_SHORT_FILE ||
           kind == ANSWER_STOPPING_STREAM || kind == ANSWER_FLUSHED_IN_PLACE ||
           kind == ANSWER_FLUSHED_STREAM;
}

static void
put_reply(fb_out *out, const fb_head *head, const char *data, const fb_body *body)
{
    if (!fb_reply_head(&out->bytes, &w.server.executor.stamp, head)) {
        out->has_failed = true;
        if (body != NULL) {
            on_release(body->owner);
        }
    } else if (body != NULL) {
        (void)fb_out_add_body(out, *body);
    } else if (data != NULL && !fb_buf_append(&out->bytes, data, head->length)) {
        out->has_failed = true;
    }
}

static void
expect(client *it, const fb_slot *slot, answer_kind kind, const char *data,
       const fb_head *head)
{
    const reply_due due = {
        .data = kind == ANSWER_SHORT_FILE ? content + CONTENT_BYTES - head->length / 2
                                          : data,
        .len = head->length,
        .status = (uint16_t)head->status,
        .framing = (uint8_t)head->framing,
        .is_head = slot->req.is_head,
        .says_close = !head->keep_alive,
        .may_break_off = kind == ANSWER_BROKEN_STREAM || kind == ANSWER_SHORT_FILE,
    };
    w.n_due++;
    w.n_replied += due.len;
    reader_expect(&it->reader, &due);
}

/* Each reply has a body that begins elsewhere, so that no two are taken for another. */
static const char *
next_data(const client *it)
{
    size_t n = (size_t)(it - w.clients) * 37 + it->reader.n_due * 101;
    return content + n % N_STARTS;
}

/* Returns where the reply to slot goes, or NULL, if there is a reason for that. */
static fb_out *
out_of(const client *it, const fb_slot *slot)
{
    fb_out *out = fb_conn_out(slot->owner);
    require(out != NULL || it->has_closed || it->fd < 0 || is_spoiled(),
            "it is owed a reply, but was closed");
    return out;
}

/* Returns what a reply may say; while the server stops, the last one says close. */
static bool
keeps_alive(const fb_slot *slot)
{
    bool keeps = fb_conn_keeps_alive(slot->owner, slot);
    const fb_conn *conn = slot->owner;
    require(keeps || !slot->req.keep_alive || slot->turn + 1 == conn->n_slots,
            "close, but there are requests behind it");
    return keeps;
}

static void
answer(client *it, fb_slot *slot)
{
    answer_kind kind = kind_of(slot);
    size_t len = size_of(slot);
    const char *data = next_data(it);
    fb_head head = {
        .status = 200,
        .content_type = "text/plain",
        .framing = FB_FRAMING_LENGTH,
        .length = len,
        .is_http10 = slot->req.minor == 0,
        .keep_alive = keeps_alive(slot) && kind != ANSWER_CLOSE,
    };
    bool has_body = has_own_body(kind) && !slot->req.is_head;
    fb_body body = {0};
    if (has_body) {
        body = new_body(slot, kind, data, &head);
    }
    fb_out *out = out_of(it, slot);
    if (out == NULL && has_body) {
        on_release(body.owner);
    } else if (out != NULL) {
        expect(it, slot, kind, data, &head);
        put_reply(out, &head, slot->req.is_head ? NULL : data, has_body ? &body : NULL);
    }
    fb_slot_note(slot, head.status, head.length);
    fb_conn_answered(slot->owner, slot, head.keep_alive);
    it->has_closed = it->has_closed || !head.keep_alive;
}

/* The server will answer: with 500. */
static void
leave(client *it, const fb_slot *slot)
{
    if (out_of(it, slot) == NULL) {
        return;
    }
    const reply_due due = {
        .status = 500,
        .framing = FB_FRAMING_LENGTH,
        .is_head = slot->req.is_head,
        .says_close = true,
        .may_close = true,
    };
    w.n_due++;
    reader_expect(&it->reader, &due);
}

/* The server answers what it gives to no handler: it is refused, or has expired. */
void
__wrap_fb_server_answer(fb_server *server, fb_slot *slot, int status)
{
    const fb_conn *conn = slot->owner;
    client *it = client_of(conn);
    uint32_t queue = conn->queue->batch.queue;
    slot->data = conn->exchange->in.data + slot->req.start;
    it->n_slots = 0;
    check_slot(it, slot, queue);
    require(status == 504 || (status == w.rules[queue].full_status &&
                              conn->queue->batch.n_slots >= w.rules[queue].size),
            "refused for nothing");
    require(status != 504 || slot->expires_at <= uv_hrtime(), "it has not expired");
    if (out_of(it, slot) != NULL) {
        const reply_due due = {
            .status = (uint16_t)status,
            .framing = FB_FRAMING_LENGTH,
            .is_head = slot->req.is_head,
            .says_close = !keeps_alive(slot),
        };
        w.n_due++;
        reader_expect(&it->reader, &due);
        it->has_closed = it->has_closed || due.says_close;
    }
    __real_fb_server_answer(server, slot, status);
}

static void
stop(fb_stop how)
{
    w.is_stopped = true;
    fb_server_stop(&w.server, how);
}

/* As the flusher does while a dispatch lasts. */
static void
flush_all_early(void)
{
    fb_executor_lock(&w.server.executor);
    for (fb_conn *conn = w.server.touched; conn != NULL; conn = conn->next_touched) {
        size_t unsent = fb_conn_unsent(conn);
        fb_early early = fb_conn_flush_early(conn);
        require(fb_conn_unsent(conn) <= unsent, "more to send than before");
        require(!fb_conn_has_sent_all(conn) || early != FB_EARLY_FULL,
                "full, but all is sent");
    }
    fb_executor_unlock(&w.server.executor);
}

static void
answer_slowly(fb_slot *slot)
{
    kernel_pass_ms(1000);
    if (slot->file >= 0) {
        close(slot->file);
        slot->file = -1;
    }
}

/* Answer the slots of one connection, in order; from one that is left on, none. */
static bool
answer_client(client *it, fb_batch *batch)
{
    bool goes_on = true;
    bool leaves = false;
    for (size_t i = 0; i < batch->n_slots; i++) {
        fb_slot *slot = &batch->slots[i];
        if (slot->owner != it->conn || slot->is_answered) {
            continue;
        }
        answer_kind kind = kind_of(slot);
        leaves = leaves || kind == ANSWER_NOTHING;
        if (leaves) {
            leave(it, slot);
            continue;
        }
        if (kind == ANSWER_SLOWLY) {
            answer_slowly(slot);
        }
        answer(it, slot);
        goes_on = goes_on && kind != ANSWER_STOP;
        if (kind == ANSWER_STOP_NOW) {
            stop(FB_STOP_NOW);
        }
        if (kind == ANSWER_FLUSHED || kind == ANSWER_FLUSHED_IN_PLACE ||
            kind == ANSWER_FLUSHED_STREAM) {
            fb_flusher_arm(&w.server.flusher);
            flush_all_early();
        }
    }
    w.is_stopped = w.is_stopped || !goes_on;
    return goes_on;
}

static bool
on_dispatch(void *owner, fb_batch *batch)
{
    require(owner == &w && batch->n_slots > 0, "an empty batch");
    for (size_t i = 0; i < w.n_clients; i++) {
        w.clients[i].n_slots = 0;
    }
    for (size_t i = 0; i < batch->n_slots; i++) {
        require(!batch->slots[i].is_answered, "answered before it was asked");
        check_slot(client_of(batch->slots[i].owner), &batch->slots[i], batch->queue);
    }
    for (size_t i = 0; i < w.n_accepted; i++) {
        const client *it = &w.clients[i];
        require(it->n_slots == 0 ||
                    it->n_slots == it->conn->n_slots - it->conn->n_answered,
                "slots of one connection in several batches");
    }
    bool goes_on = true;
    for (size_t i = 0; i < w.n_accepted; i++) {
        size_t which = w.is_backward ? w.n_accepted - 1 - i : i;
        if (w.clients[which].conn != NULL && w.clients[which].n_slots > 0) {
            goes_on = answer_client(&w.clients[which], batch) && goes_on;
        }
    }
    return goes_on;
}

static bool
on_wakeup(void *owner)
{
    (void)owner;
    w.is_stopped = w.is_stopped || !w.wakeup_goes_on;
    return w.wakeup_goes_on;
}

/* What the log has is taken from it here, or else it would be full. */
static void
on_rest(void *owner)
{
    (void)owner;
    const fb_buf *lines = &w.server.access.lines;
    require(lines->len == 0 || lines->data[lines->len - 1] == '\n', "half a line");
    fb_buf_reset(&w.server.access.lines, 0);
}

static const fb_server_ops server_ops = {
    .dispatch = on_dispatch,
    .wakeup = on_wakeup,
    .rest = on_rest,
};

/* ---- the loop, step by step ------------------------------------------------------ */

/* Returns whether there are requests that are not due yet. */
static bool
has_waiting(void)
{
    bool has_some = false;
    for (size_t i = 0; i < w.server.n_queues; i++) {
        has_some = has_some || w.server.queues[i].batch.n_slots > 0;
    }
    return has_some;
}

/* What waits to be a full batch does so until its time is over. */
static void
check_queue(const fb_queue *queue)
{
    size_t n = queue->batch.n_slots;
    require(queue->n_blocked == 0 && queue->n_running == 0, "no threads, but a wait");
    if (n > 0) {
        require(queue->rules.batch_wait_ns > 0 && n < queue->batch.size,
                "the loop would wait, but there is a batch");
        require(kernel_timer_at() <= fb_queue_due_at(queue), "a batch is forgotten");
    }
}

static void
check_no_work(void)
{
    require(w.server.touched == NULL && w.server.ready == NULL,
            "the loop would wait, but there is work");
    for (size_t i = 0; i < w.server.n_queues; i++) {
        check_queue(&w.server.queues[i]);
    }
}

/* A poll gave nothing: but for NOWAIT, the loop would have waited there. */
static void
on_quiet_poll(void)
{
    if (uv_backend_timeout(&w.server.loop) != 0) {
        check_no_work();
    }
}

/* Returns whether there was nothing to do, and is nothing. */
static bool
run_once(void)
{
    if (w.is_over) {
        return true;
    }
    w.is_over = uv_run(&w.server.loop, UV_RUN_NOWAIT) == 0;
    return w.is_over ||
           (kernel_events() == 0 && uv_backend_timeout(&w.server.loop) != 0);
}

/* Run until the loop would wait. It does so once all is done that there is: every
 * reply, and every pull of a stream, may take a few iterations. */
static void
run_to_rest(void)
{
    size_t most = 500 + w.n_sent / 100;
    size_t n_idle = 0;
    for (size_t i = 0; n_idle < 2; i++) {
        require(i < most + 4 * w.n_due + 2 * w.n_pulls,
                "the loop does not come to rest");
        n_idle = run_once() ? n_idle + 1 : 0;
    }
}

static int
pending(int fd, unsigned long which)
{
    int n = 0;
    return fd >= 0 && ioctl(fd, which, &n) == 0 ? n : 0;
}

/* Returns whether there is room for what a head needs that waits for memory, and is the
 * next to have it. */
static bool
has_memory_for(const fb_conn *conn)
{
    if (fb_times_first(&w.server.waits[FB_WAIT_MEMORY]) != &conn->wait_node) {
        return false;
    }
    size_t growth = fb_buf_growth(&conn->exchange->in, FB_INPUT_BYTES);
    return w.server.exchanges.n_bytes + growth <= w.limits.max_input_memory;
}

/* Returns whether conn may still have its first request, although the server stops: for
 * so long, and up to a tick more. */
static bool
may_ask_once(const fb_conn *conn)
{
    uint64_t waited = uv_now(&w.server.loop) - conn->wait_node.since;
    return conn->n_requests == 0 && waited < FB_FIRST_REQUEST_MS + FB_TICK_MAX_MS;
}

/* The slots of the connection wait, all that are not answered. */
static void
check_waiting(const fb_conn *conn)
{
    uint32_t n = 0;
    const fb_batch *batch = &conn->queue->batch;
    for (size_t i = 0; i < batch->n_slots; i++) {
        const fb_slot *slot = &batch->slots[i];
        if (slot->owner == conn) {
            require(slot->turn == conn->n_answered + n++ && !slot->is_answered,
                    "slots wait out of turn");
        }
    }
    require(n > 0 && n == conn->n_slots - conn->n_answered, "slots are lost");
    require(conn->is_queued && !conn->is_touched && !conn->is_ready &&
                conn->state != FB_CONN_CLOSING && conn->wait_node.prev != NULL,
            "it waits in a queue or not");
}

/* The loop is at rest: the connection waits for its client, or in a queue. */
static void
check_conn(client *it)
{
    const fb_conn *conn = it->conn;
    if (conn->n_slots > 0) {
        check_waiting(conn);
        return;
    }
    require(!fb_server_closes_idle(&w.server) || conn->state == FB_CONN_LINGERING ||
                !fb_conn_is_idle(conn) || may_ask_once(conn),
            "it is idle, and the server stops");
    require(conn->n_slots == 0 && !conn->is_touched && !conn->is_ready, "work is left");
    require(conn->state != FB_CONN_CLOSING, "it was closed, but is not gone");
    bool waits_to_write =
        conn->state == FB_CONN_PAUSED || conn->state == FB_CONN_DRAINING;
    require(conn->is_writing == waits_to_write, "it waits for a write or not");
    require(!conn->is_writing || pending(it->fd, FIONREAD) > 0, "a write is stuck");
    require(conn->is_reading == (!waits_to_write && !conn->is_starved),
            "it waits for bytes or not");
    require(conn->wait_node.prev != NULL, "it waits without a time-out");
    require(!conn->is_starved || !has_memory_for(conn),
            "it waits for memory that is there");
    if (conn->state != FB_CONN_OPEN) {
        return;
    }
    require(fb_conn_has_sent_all(conn), "a reply is not sent");
    require(conn->is_starved || next_request(it) == FB_FEED_MORE, "a request is left");
}

static void
check_rest(void)
{
    size_t n_slots = 0;
    check_no_work();
    for (size_t i = 0; i < w.server.n_queues; i++) {
        n_slots += w.server.queues[i].batch.n_slots;
    }
    require(fb_count_get(&w.server.stats->n_slots) == n_slots, "slots are miscounted");
    for (size_t i = 0; i < w.n_accepted; i++) {
        if (w.clients[i].conn != NULL) {
            check_conn(&w.clients[i]);
        }
    }
}

/* Have the clients send and read all that they can, until nothing happens any more. */
static void
settle(void)
{
    bool goes_on = true;
    while (goes_on) {
        run_to_rest();
        goes_on = false;
        for (size_t i = 0; i < w.n_clients; i++) {
            goes_on = push(&w.clients[i], SIZE_MAX) || goes_on;
            goes_on = receive(&w.clients[i], SIZE_MAX) || goes_on;
        }
        if (!goes_on && has_waiting()) {
            kernel_pass_ms(1);
            goes_on = true;
        }
    }
    check_rest();
}

/* ---- steps ----------------------------------------------------------------------- */

static unsigned
next_byte(void)
{
    return w.at < w.end ? *w.at++ : 0;
}

static unsigned
next_digit(void)
{
    return next_byte() & 15;
}

static client *
next_client(void)
{
    static client nobody = {.fd = -1};
    unsigned which = next_byte() % N_CLIENTS;
    return w.current[which] != NULL ? w.current[which] : &nobody;
}

static char
as_digit(unsigned digit)
{
    return "0123456789:;<=>o"[digit];
}

typedef enum form {
    FORM_GET,
    FORM_GET_BY,
    FORM_HEAD,
    FORM_10,
    FORM_10_ON,
    FORM_LENGTH,
    FORM_EXPECT,
    FORM_CHUNKED
} form;

static void
ask(client *it, form how, size_t times)
{
    static const char *const forms[] = {
        [FORM_GET] = "GET /%c%c HTTP/1.1\r\nHost: a\r\n\r\n",
        [FORM_GET_BY] = "GET /%c%c HTTP/1.1\r\nHost: a\r\nX-Wait-Ms: %u\r\n\r\n",
        [FORM_HEAD] = "HEAD /%c%c HTTP/1.1\r\nHost: a\r\n\r\n",
        [FORM_10] = "GET /%c%c HTTP/1.0\r\n\r\n",
        [FORM_10_ON] = "GET /%c%c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        [FORM_LENGTH] = "POST /%c%c HTTP/1.1\r\nHost: a\r\nContent-Length: %u\r\n\r\n",
        [FORM_EXPECT] = "POST /%c%c HTTP/1.1\r\nHost: a\r\nContent-Length: %u\r\n"
                        "Expect: 100-continue\r\n\r\n",
        [FORM_CHUNKED] = "POST /%c%c HTTP/1.1\r\nHost: a\r\n"
                         "Transfer-Encoding: chunked\r\n\r\n",
    };
    char kind = as_digit(next_digit());
    char size = as_digit(next_digit());
    bool has_number = how == FORM_LENGTH || how == FORM_EXPECT || how == FORM_GET_BY;
    unsigned number =
        has_number ? sizes[next_digit()] : 0; /* bytes of its body, or ms */
    char text[160];
    int len = snprintf(text, sizeof(text), forms[how], kind, size, number);
    for (size_t i = 0; i < times && it->n_asked < MOST_REQUESTS; i++) {
        it->n_asked++;
        say(it, text, (size_t)len);
    }
}

static void
say_chunk(client *it)
{
    size_t len = sizes[next_digit()];
    char size[16];
    say(it, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", len));
    say(it, content, len);
    say(it, "\r\n", 2);
}

static void
say_proxy(client *it)
{
    static const char *const headers[] = {
        "PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n",
        "PROXY UNKNOWN\r\n",
        "PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n",
        "PROXY TCP4 nobody\r\n",
    };
    const char *header = headers[next_digit() & 3];
    say(it, header, strlen(header));
}

static void
say_raw(client *it)
{
    size_t len = next_byte();
    size_t left = (size_t)(w.end - w.at);
    len = len < left ? len : left;
    say(it, w.at, len);
    w.at += len;
}

static void
pass_time(unsigned digit)
{
    static const uint32_t times_ms[16] = {1,     5,     10,    20,    50,   100,
                                          250,   500,   1000,  1500,  2000, 5000,
                                          15000, 30000, 75000, 200000};
    kernel_pass_ms(times_ms[digit]);
}

static void
wake_up(bool goes_on)
{
    w.wakeup_goes_on = goes_on;
    ssize_t n = send(w.wakeup[1], "!", 1, 0);
    (void)n; /* full: it is awake */
}

static void
stop_somehow(unsigned how)
{
    switch (how & 3) {
    case 0:
        stop(FB_STOP_GRACEFUL);
        break;
    case 1:
        stop(FB_STOP_NOW);
        break;
    default:
        wake_up((how & 3) == 2);
    }
}

static void
run_some(unsigned n)
{
    for (unsigned i = 0; i <= n; i++) {
        run_once();
    }
}

static void
fail_some(void)
{
    unsigned call = next_digit() % KERNEL_CALLS;
    unsigned how = next_digit();
    kernel_fail((kernel_call)call, how, 1 + next_digit());
}

/*
 * A step is a letter, then bytes of which the low bits count, digits in seeds: mostly a
 * client, then kind and size of the reply, then a size of what is sent.
 */
static void
step(void)
{
    switch (next_byte() & 31) {
    case 'a' & 31: /* a PROXY header: client, which */
        say_proxy(next_client());
        break;
    case 'b' & 31: /* bytes of a body: client, size */
    {
        client *it = next_client();
        say(it, content, sizes[next_digit()]);
        break;
    }
    case 'c' & 31: /* connect: client, whether its socket holds little */
    {
        unsigned which = next_byte() % N_CLIENTS;
        kernel_narrow((next_digit() & 1) != 0 ? 1 : 0);
        connect_client(which);
        break;
    }
    case 'd' & 31: /* a chunk: client, size */
        say_chunk(next_client());
        break;
    case 'e' & 31: /* POST that expects 100: client, kind, size, size of its body */
        ask(next_client(), FORM_EXPECT, 1);
        break;
    case 'f' & 31: /* a system call fails: which, how, when */
        fail_some();
        break;
    case 'g' & 31: /* GET: client, kind, size */
        ask(next_client(), FORM_GET, 1);
        break;
    case 'h' & 31: /* HEAD */
        ask(next_client(), FORM_HEAD, 1);
        break;
    case 'i' & 31: /* GET that waits no longer: client, kind, size, time */
        ask(next_client(), FORM_GET_BY, 1);
        break;
    case 'k' & 31: /* POST of chunks, which follow */
        ask(next_client(), FORM_CHUNKED, 1);
        break;
    case 'l' & 31: /* look at what came: client, size */
    {
        client *it = next_client();
        receive(it, sizes[next_digit()]);
        break;
    }
    case 'm' & 31: /* many GETs at once */
        ask(next_client(), FORM_GET, 20);
        break;
    case 'n' & 31: /* no memory: when */
        kernel_fail_memory(next_digit());
        break;
    case 'o' & 31: /* GET of HTTP/1.0 */
        ask(next_client(), FORM_10, 1);
        break;
    case 'p' & 31: /* POST: client, kind, size, size of its body, which follows */
        ask(next_client(), FORM_LENGTH, 1);
        break;
    case 'q' & 31: /* keep what is said from now on, or not: client */
    {
        client *it = next_client();
        it->keeps = !it->keeps;
        break;
    }
    case 'r' & 31: /* raw bytes: client, how many, the bytes */
        say_raw(next_client());
        break;
    case 's' & 31: /* so many iterations, and one */
        run_some(next_digit());
        break;
    case 't' & 31: /* time passes */
        pass_time(next_digit());
        break;
    case 'u' & 31: /* run until there is nothing to do */
        run_to_rest();
        check_rest();
        break;
    case 'v' & 31: /* GET of HTTP/1.0 that keeps the connection */
        ask(next_client(), FORM_10_ON, 1);
        break;
    case 'w' & 31: /* send some of what was kept: client, size */
    {
        client *it = next_client();
        push(it, sizes[next_digit()]);
        break;
    }
    case 'x' & 31: /* nothing more will be said: client */
        end_sending(next_client());
        break;
    case 'y' & 31: /* stop: how */
        stop_somehow(next_digit());
        break;
    case 'z' & 31: /* leave: client */
        close_client(next_client());
        break;
    default:; /* spaces and lines, between steps */
    }
}

/* ---- beginning and end ----------------------------------------------------------- */

/* The defaults, but for options that would only make the program longer. */
static fb_limits
default_limits(void)
{
    return (fb_limits){
        .batch_size = 8,
        .max_target = FB_MAX_TARGET,
        .max_headers = FB_MAX_HEADERS,
        .max_head = FB_MAX_HEAD,
        .max_body = FB_MAX_BODY,
        .max_body_memory = FB_MAX_BODY_MEMORY,
        .max_connections = N_CLIENTS,
        .max_keepalive_requests = FB_MAX_KEEPALIVE_REQUESTS,
        .max_input_memory = FB_MAX_INPUT_MEMORY,
        .backlog = N_CLIENTS,
        .min_rate = FB_MIN_RATE,
        .keepalive_timeout_ms = FB_KEEPALIVE_TIMEOUT_MS,
        .head_timeout_ms = FB_HEAD_TIMEOUT_MS,
        .body_timeout_ms = FB_BODY_TIMEOUT_MS,
        .write_timeout_ms = FB_WRITE_TIMEOUT_MS,
        .queue_timeout_ms = FB_QUEUE_TIMEOUT_MS,
        .graceful_timeout_ms = FB_GRACEFUL_TIMEOUT_MS,
    };
}

static void
choose_sizes(fb_limits *limits, unsigned digit)
{
    if ((digit & 1) != 0) {
        limits->max_target = 40;
        limits->max_headers = 4;
        limits->max_head = 200;
    }
    if ((digit & 2) != 0) {
        limits->max_body = 5000;
    }
    static const size_t memory[] = {FB_MAX_BODY_MEMORY, 0, 100, 5000};
    limits->max_body_memory = memory[digit >> 2];
}

static void
choose_timeouts(fb_limits *limits, unsigned digit)
{
    static const uint32_t short_ms[] = {0, 40, 900, 3000};
    if ((digit & 3) == 0) {
        return;
    }
    uint64_t ms = short_ms[digit & 3];
    limits->keepalive_timeout_ms = ms;
    limits->head_timeout_ms = (digit & 4) != 0 ? 2 * ms : ms;
    limits->body_timeout_ms = (digit & 8) != 0 ? 0 : ms;
    limits->write_timeout_ms = ms;
    limits->queue_timeout_ms = ms;
    limits->graceful_timeout_ms = (digit & 4) != 0 ? 0 : ms;
}

static void
choose_queues(unsigned batch, unsigned wait)
{
    static const uint64_t waits_ns[] = {0, 110 * 1000, 1000 * 1000, 30 * 1000 * 1000};
    static const size_t most[] = {FB_QUEUE_SIZE, 1, 2, 5};
    w.has_queues = true;
    for (uint32_t i = 0; i < N_QUEUES; i++) {
        w.rules[i] = (fb_queue_rules){
            .is_whole = i > 0,
            .concurrency = 1,
            .batch_size = 1 + (batch + 3 * i) % 8,
            .batch_wait_ns = waits_ns[(wait + i) & 3],
            .deadline_ns = i > 0 && (batch & 8) != 0 ? i * 100 * 1000 * 1000 : 0,
            .size = most[(wait >> 2) & 3],
            .full_status = i == 1 ? 429 : 503,
        };
    }
}

/* The first digits of a program are the options. */
static void
choose_options(void)
{
    static const uint8_t batches[16] = {8, 1, 2, 3, 4, 16, 5, 64,
                                        1, 2, 3, 4, 8, 8,  8, 8};
    static const uint32_t look_ns[] = {0, 100, 600 * 1000, 1100 * 1000};
    w.limits = default_limits();
    w.limits.batch_size = batches[next_digit()];
    choose_sizes(&w.limits, next_digit());
    unsigned conns = next_digit();
    w.limits.max_connections = (conns & 3) != 0 ? conns & 3 : N_CLIENTS;
    w.limits.backlog = (conns & 4) != 0 ? 1 : N_CLIENTS;
    w.is_backward = (conns & 8) != 0;
    choose_timeouts(&w.limits, next_digit());
    unsigned others = next_digit();
    kernel_slow_looks(look_ns[others & 3]);
    w.limits.max_keepalive_requests = (others & 4) != 0 ? 3 : FB_MAX_KEEPALIVE_REQUESTS;
    w.limits.max_input_memory = (others & 8) != 0 ? 20000 : FB_MAX_INPUT_MEMORY;
    unsigned log = next_digit();
    w.logs = (log & 1) != 0;
    w.log_format = (log & 2) != 0 ? FB_LINE_JSON : FB_LINE_COMBINED;
    if ((log & 4) != 0) {
        kernel_slow_looks(look_ns[others & 3] / 8); /* queues take more looks */
        unsigned batch = next_digit();
        choose_queues(batch, next_digit());
    }
}

/* Returns a unix socket at an address of its own. */
static int
bind_listener(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    w.addr.sun_family = AF_UNIX;
    w.addr_len = sizeof(w.addr);
    require(fd >= 0 &&
                bind(fd, (const struct sockaddr *)&w.addr, sizeof(sa_family_t)) == 0 &&
                getsockname(fd, (struct sockaddr *)&w.addr, &w.addr_len) == 0,
            "no listener");
    return fd;
}

/* Zeroed, but for the slots that no run uses, which are a megabyte, and for clients,
 * which are when they connect. */
static void
clear_world(void)
{
    char *slots = (char *)&w.server.refused.slots[1];
    char *behind = (char *)(w.server.refused.slots + FB_BATCH_SLOTS);
    memset(&w, 0, (size_t)(slots - (char *)&w));
    memset(behind, 0, (size_t)((char *)w.clients - behind));
    memset(&w.n_clients, 0, sizeof(w) - offsetof(world, n_clients));
}

static void
open_server(void)
{
    int fd = bind_listener();
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                       w.wakeup) == 0,
            "no sockets");
    const fb_server_setup setup = {
        .limits = &w.limits,
        .fds = &fd,
        .n_fds = 1,
        .queues = w.has_queues ? w.rules : NULL,
        .n_queues = N_QUEUES,
        .routes = routes,
        .n_routes = w.has_queues ? n_routes : 0,
        .deadline_field = w.has_queues ? "x-wait-ms" : NULL,
        .server_value = "fuzz",
        .temp_dir = "/tmp",
        .wakeup_fd = w.wakeup[0],
        .ops = &server_ops,
        .owner = &w,
        .trusted = w.is_behind_proxy ? "*" : NULL,
        .speaks_proxy = w.is_behind_proxy,
        .access = {.is_on = w.logs, .format = w.log_format, .fd = -1},
    };
    require(fb_server_open(&w.server, &setup) == 0, "no server");
    w.server.listeners[0].is_tcp = w.is_tcp;
}

/* Calm weather, and the clients say and read all that they have to: then they have all
 * replies; and when they say goodbye, nobody is left. */
static void
end_in_calm(void)
{
    for (size_t i = 0; i < w.n_clients; i++) {
        client *it = &w.clients[i];
        if (it->conn != NULL && it->conn->state == FB_CONN_OPEN && it->fd >= 0) {
            require(reader_has_all(&it->reader), "a reply is missing");
        }
    }
    for (size_t i = 0; i < w.n_clients; i++) {
        end_sending(&w.clients[i]);
    }
    for (size_t i = 0; i < MOST_CLIENTS && !w.is_over; i++) {
        settle();
        /* Accepting that was paused goes on; who waits for memory is told to go. */
        bool has_starved = fb_server_has_starved(&w.server);
        kernel_pass_ms(FB_TICK_MAX_MS + (has_starved ? w.limits.queue_timeout_ms : 0));
    }
    settle();
    require(fb_count_get(&w.server.n_conns) == 0, "somebody is left");
    require(w.is_stopped || w.n_accepted == w.n_clients, "somebody was not let in");
}

static void
end_by_stop(fb_stop how)
{
    if (!w.is_over) {
        stop(how);
    }
    settle();
    if (!w.is_over) {
        require(how == FB_STOP_GRACEFUL, "a stop at once takes time");
        for (size_t i = 0; i < w.n_clients; i++) {
            end_sending(&w.clients[i]);
        }
        kernel_pass_ms(w.limits.graceful_timeout_ms + FB_LINGER_TIMEOUT_MS +
                       2 * FB_TICK_MAX_MS);
        settle();
    }
    require(w.is_over, "a stop does not end");
}

static void
end(unsigned how)
{
    kernel_calm();
    if ((how & 3) != 3) {
        settle();
    }
    switch (how & 3) {
    case 0:
        end_in_calm();
        end_by_stop(FB_STOP_GRACEFUL);
        break;
    case 1:
        end_by_stop(FB_STOP_GRACEFUL);
        break;
    case 2:
        end_by_stop(FB_STOP_NOW);
        break;
    default:; /* close */
    }
}

static void
close_world(void)
{
    fb_server_close(&w.server);
    require(w.server.heap.n_held == 0, "memory is left");
    require(w.server.exchanges.n_bytes == 0, "reading buffers are left, by the count");
    require(w.n_released == w.n_bodies, "bodies are left, or were released twice");
    for (size_t i = 0; i < w.n_clients; i++) {
        close_client(&w.clients[i]);
        fb_buf_fini(&w.clients[i].kept);
        fb_buf_fini(&w.clients[i].sent);
    }
    close(w.wakeup[0]);
    close(w.wakeup[1]);
}

/* Returns how many of the first descriptors are open. */
static size_t
count_fds(void)
{
    struct pollfd fds[MOST_FDS];
    for (int i = 0; i < MOST_FDS; i++) {
        fds[i] = (struct pollfd){.fd = i};
    }
    (void)poll(fds, MOST_FDS, 0);
    size_t n = 0;
    for (int i = 0; i < MOST_FDS; i++) {
        n += (fds[i].revents & POLLNVAL) == 0;
    }
    return n;
}

static void
run_program(void)
{
    unsigned how = next_digit();
    choose_options();
    w.is_tcp = (how & 4) != 0;
    w.is_behind_proxy = (how & 8) != 0;
    open_server();
    while (w.at < w.end) {
        step();
    }
    end(how);
}

/* What one client sends, in two pieces, however long each. */
static void
run_raw(void)
{
    size_t len = (size_t)(w.end - w.at);
    w.limits = default_limits();
    w.limits.batch_size = 1 + len % 3;
    choose_sizes(&w.limits, len & 15);
    open_server();
    connect_client(0);
    size_t first = len > 0 ? w.at[len / 2] * len / 256 : 0;
    say(w.current[0], w.at, first);
    run_to_rest();
    say(w.current[0], w.at + first, len - first);
    end(0);
}

/* Three quarters of the sizes have a queue, every other its own. */
static void
make_routes(void)
{
    for (unsigned i = 0; i < MOST_ROUTES; i++) {
        char *path = paths[i];
        path[0] = '/';
        path[1] = as_digit(i / 16);
        path[2] = as_digit(i % 16);
        if (i % 4 != 0) {
            routes[n_routes++] = (fb_route){
                .path = path,
                .path_len = 3,
                .method = FB_ANY_METHOD,
                .queue = 1 + i % 2,
            };
        }
    }
}

/* What is there once for all runs; libuv has such things, too. */
static void
open_once(void)
{
    uv_loop_t loop;
    require(uv_loop_init(&loop) == 0 && uv_loop_close(&loop) == 0, "no loop");
    signal(SIGPIPE, SIG_IGN);
    make_routes();
    for (size_t i = 0; i < CONTENT_BYTES; i++) {
        content[i] = (char)('a' + (i * i + i / 251) % 26);
    }
    content_fd = kernel_new_file();
    ssize_t n = write(content_fd, content, CONTENT_BYTES);
    require(n == CONTENT_BYTES, "no file");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (content[0] == 0) {
        open_once();
    }
    size_t n_fds = count_fds();
    clear_world();
    w.at = data;
    w.end = data + size;
    kernel_begin(&w.server.heap, on_quiet_poll);
    if (size > 0 && data[0] == PROGRAM) {
        w.at++;
        run_program();
    } else {
        run_raw();
    }
    close_world();
    kernel_end();
    require(count_fds() == n_fds, "a descriptor is left");
    return 0;
}
