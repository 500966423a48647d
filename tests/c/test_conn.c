/* SPDX-License-Identifier: MIT */
/*
 * Connections over the loopback, with a dispatcher in C: order, keep-alive, peers that
 * leave, peers that do nothing, stopping. The server runs on a thread of its own.
 */
#include "check.h"
#include "core/status.h"
#include "fault.h"
#include "io/file.h"
#include "io/server.h"
#include "io/spool.h"
#include "limits.h"
#include "peer.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define BIG_BYTES (8 << 20)     /* of a body without a copy: more than sockets hold */
#define STREAM_BYTES (16 << 20) /* of a stream */
#define PIECE_BYTES 4000        /* of a stream, at once */
#define N_PIPELINED 10000

static char big[BIG_BYTES];

/* The server under test, and what its dispatcher has seen. The thread of the test reads
 * the counts while the server runs. */
typedef struct world {
    fb_limits limits; /* to be changed before open_world */
    fb_server *server;
    pthread_t thread;
    int port;
    int run_error;
    atomic_size_t n_requests;
    atomic_size_t n_bodies;   /* given to the server */
    atomic_size_t n_released; /* of those */
    atomic_size_t n_pulled;   /* bytes of streams */
    atomic_bool is_held;      /* a dispatch waits while it is */
    const char *temp_dir;
    int file; /* BIG_BYTES of big, for /file */
} world;

static world w;

/* ---- bodies ---------------------------------------------------------------------- */

typedef struct stream {
    size_t left; /* bytes */
    bool breaks; /* off, in the middle */
} stream;

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    stream *from = owner;
    while (into->len < FB_OUTPUT_HIGH_WATER && from->left > 0) {
        size_t n = from->left < PIECE_BYTES ? from->left : PIECE_BYTES;
        if (!fb_reply_chunk(into, big, n)) {
            return FB_PULL_FAIL;
        }
        from->left -= n;
        w.n_pulled += n;
        if (from->breaks && from->left < STREAM_BYTES / 2) {
            return FB_PULL_FAIL;
        }
    }
    if (from->left > 0) {
        return FB_PULL_MORE;
    }
    return fb_reply_last_chunk(into) ? FB_PULL_END : FB_PULL_FAIL;
}

static void
on_release(void *owner)
{
    w.n_released++;
    free(owner); /* a stream, or NULL */
}

static const fb_body_ops body_ops = {.pull = on_pull, .release = on_release};

static fb_pull
on_pull_file(void *owner, fb_buf *into)
{
    return fb_file_pull(owner, into);
}

static fb_splice
on_splice_file(void *owner, int fd, size_t most, size_t *n_sent)
{
    return fb_file_splice(owner, fd, most, n_sent);
}

static const fb_body_ops file_ops = {
    .pull = on_pull_file,
    .splice = on_splice_file,
    .release = on_release,
};

#define FILE_OFFSET 7 /* bytes: /file sends what follows */

static fb_body
new_file_body(void)
{
    fb_file *file = malloc(sizeof(*file));
    assert(file != NULL);
    *file = (fb_file){
        .fd = w.file,
        .offset = FILE_OFFSET,
        .left = BIG_BYTES - FILE_OFFSET,
    };
    return (fb_body){.ops = &file_ops, .owner = file};
}

/* ---- the dispatcher: what to do is in the path ----------------------------------- */

static bool
path_is(const fb_slot *slot, const char *path)
{
    fb_span span = slot->req.path;
    return span.len == strlen(path) &&
           memcmp(slot->data + span.off, path, span.len) == 0;
}

static fb_head
head_of(const fb_slot *slot, size_t len)
{
    return (fb_head){
        .status = 200,
        .content_type = "text/plain",
        .framing = FB_FRAMING_LENGTH,
        .length = len,
        .is_http10 = slot->req.minor == 0,
        .keep_alive =
            fb_conn_keeps_alive(slot->owner, slot) && !path_is(slot, "/close"),
    };
}

static void
answer_with(fb_slot *slot, const char *bytes, size_t len)
{
    fb_head head = head_of(slot, len);
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL &&
        (!fb_reply_head(&out->bytes, &w.server->executor.stamp, &head) ||
         (!slot->req.is_head && !fb_buf_append(&out->bytes, bytes, len)))) {
        out->has_failed = true;
    }
    fb_conn_answered(slot->owner, slot, head.keep_alive);
}

static void
answer_with_body(fb_slot *slot, fb_body body)
{
    fb_head head = head_of(slot, body.len);
    if (body.ops == &file_ops) {
        head.length = ((const fb_file *)body.owner)->left;
    } else if (body.data == NULL) {
        head.framing = FB_FRAMING_CHUNKED;
    }
    fb_out *out = fb_conn_out(slot->owner);
    w.n_bodies++;
    if (out == NULL) {
        on_release(body.owner);
    } else if (!fb_reply_head(&out->bytes, &w.server->executor.stamp, &head)) {
        out->has_failed = true;
        on_release(body.owner);
    } else {
        (void)fb_out_add_body(out, body);
    }
    fb_conn_answered(slot->owner, slot, head.keep_alive);
}

static fb_body
new_stream(bool breaks)
{
    stream *from = malloc(sizeof(*from));
    assert(from != NULL);
    *from = (stream){.left = STREAM_BYTES, .breaks = breaks};
    return (fb_body){.ops = &body_ops, .owner = from};
}

/* Send back a body that was spooled. */
static void
answer_from_file(fb_slot *slot)
{
    size_t len = (size_t)slot->req.n_spooled;
    char *bytes = malloc(len);
    assert(bytes != NULL && slot->req.body.len == 0);
    CHECK(fb_spool_read(slot->file, bytes, len, 0) == 0);
    answer_with(slot, bytes, len);
    free(bytes);
}

static void
answer(fb_slot *slot)
{
    const fb_request *req = &slot->req;
    CHECK((slot->file >= 0) == (req->n_spooled > 0));
    if (path_is(slot, "/length")) {
        char text[64];
        snprintf(text, sizeof(text), "%llu %s",
                 (unsigned long long)req->n_spooled + req->body.len,
                 slot->file >= 0 ? "in a file" : "in memory");
        answer_with(slot, text, strlen(text));
    } else if (slot->file >= 0) {
        answer_from_file(slot);
    } else if (path_is(slot, "/file")) {
        answer_with_body(slot, new_file_body());
    } else if (path_is(slot, "/big")) {
        answer_with_body(slot, (fb_body){&body_ops, NULL, big, sizeof(big)});
    } else if (path_is(slot, "/stream")) {
        answer_with_body(slot, new_stream(false));
    } else if (path_is(slot, "/break")) {
        answer_with_body(slot, new_stream(true));
    } else if (req->body.len > 0) {
        answer_with(slot, slot->data + req->body.off, req->body.len);
    } else {
        answer_with(slot, slot->data + req->path.off, req->path.len);
    }
}

static bool
on_dispatch(void *owner, fb_batch *batch)
{
    (void)owner;
    bool goes_on = true;
    for (size_t i = 0; i < batch->n_slots; i++) {
        fb_slot *slot = &batch->slots[i];
        if (slot->is_answered) {
            continue; /* with nothing: a reply before it ended the connection */
        }
        w.n_requests++;
        while (path_is(slot, "/hold") && w.is_held) {
            usleep(1000);
        }
        goes_on = goes_on && !path_is(slot, "/stop");
        if (!path_is(slot, "/nothing")) {
            fb_executor_lock(&w.server->executor);
            answer(slot);
            fb_executor_unlock(&w.server->executor);
        }
    }
    return goes_on;
}

static bool
on_wakeup(void *owner)
{
    (void)owner;
    return true;
}

static void
on_rest(void *owner)
{
    (void)owner;
}

static const fb_server_ops server_ops = {
    .dispatch = on_dispatch,
    .wakeup = on_wakeup,
    .rest = on_rest,
};

/* ---- starting and stopping ------------------------------------------------------- */

static void *
run_server(void *argument)
{
    (void)argument;
    w.run_error = fb_server_run(w.server);
    return NULL;
}

static void
reset_world(void)
{
    memset(&w, 0, sizeof(w));
    w.temp_dir = "/tmp";
    w.file = -1;
    w.limits = test_limits();
    w.limits.max_body_memory = FB_BODY_MEMORY_BOUND;
}

static void
open_world(void)
{
    int fd = peer_listen(&w.port);
    w.server = calloc(1, sizeof(*w.server));
    assert(w.server != NULL);
    const fb_server_setup setup = {
        .limits = &w.limits,
        .fds = &fd,
        .n_fds = 1,
        .server_value = "test",
        .temp_dir = w.temp_dir,
        .wakeup_fd = -1,
        .ops = &server_ops,
    };
    int error = fb_server_open(w.server, &setup);
    assert(error == 0);
    error = pthread_create(&w.thread, NULL, run_server, NULL);
    assert(error == 0);
    (void)error;
}

/* Wait for the server to end, and see that it has left nothing behind. */
static void
join_world(void)
{
    pthread_join(w.thread, NULL);
    CHECK(w.run_error == 0);
    CHECK(w.server->conns == NULL || w.server->stopping != FB_STOP_NO);
    fb_server_close(w.server);
    CHECK_SIZE(w.n_released, w.n_bodies);
    CHECK_SIZE(w.server->heap.n_held, 0);
    free(w.server);
}

static void
close_world(void)
{
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    join_world();
}

static size_t
open_conns(void)
{
    return (size_t)fb_count_get(&w.server->n_conns);
}

/* Wait for what another thread does: up to PEER_TIMEOUT_MS. */
static void
wait_for_conns(size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && open_conns() != n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(open_conns(), n);
}

static void
wait_for_requests(size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_requests < n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(w.n_requests, n);
}

static void
wait_for_releases(void)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_released < w.n_bodies; i++) {
        usleep(1000);
    }
    CHECK_SIZE(w.n_released, w.n_bodies);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET_10(path) "GET " path " HTTP/1.0\r\n\r\n"

static void
check_reply(test_peer *client, int status, const char *body)
{
    peer_reply reply = peer_read(client);
    CHECK_SIZE((size_t)reply.status, (size_t)status);
    if (body != NULL && reply.status != 0) {
        CHECK_TEXT(reply.body, reply.body_len, body);
    }
}

/* Nothing more came, and the connection was closed in good order. */
static void
check_over(test_peer *client)
{
    CHECK_SIZE(peer_drain(client), 0);
    CHECK(client->is_over && !client->is_reset);
}

/* ---- order and persistence ------------------------------------------------------- */

static void
test_one_connection_serves_many_requests(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 1000; i++) {
        CHECK(peer_say(&client, GET("/hello")));
        check_reply(&client, 200, "/hello");
    }
    CHECK_SIZE(open_conns(), 1);
    CHECK_SIZE(fb_count_get(&w.server->stats->n_conns), 1);
    peer_close(&client);
    wait_for_conns(0);
    close_world();
}

static char *
numbered_requests(size_t *len)
{
    char *bytes = malloc(N_PIPELINED * 64);
    assert(bytes != NULL);
    char *at = bytes;
    for (int i = 0; i < N_PIPELINED; i++) {
        at += sprintf(at, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i);
    }
    *len = (size_t)(at - bytes);
    return bytes;
}

typedef struct sending {
    test_peer *client;
    const char *bytes;
    size_t len;
} sending;

static void *
send_all(void *argument)
{
    const sending *what = argument;
    return peer_send(what->client, what->bytes, what->len) ? what->client : NULL;
}

static void
test_pipelined_requests_are_answered_in_order(void)
{
    const size_t batch_sizes[] = {FB_BATCH_SLOTS, 7, 1};
    size_t len;
    char *bytes = numbered_requests(&len);
    for (size_t i = 0; i < sizeof(batch_sizes) / sizeof(batch_sizes[0]); i++) {
        reset_world();
        w.limits.batch_size = batch_sizes[i];
        open_world();
        test_peer client = peer_open(w.port);
        sending what = {&client, bytes, len};
        pthread_t sender;
        pthread_create(&sender, NULL, send_all, &what);
        for (int j = 0; j < N_PIPELINED; j++) {
            char path[16];
            snprintf(path, sizeof(path), "/%d", j);
            check_reply(&client, 200, path);
        }
        pthread_join(sender, NULL);
        peer_end(&client);
        check_over(&client);
        peer_close(&client);
        for (size_t n = batch_sizes[i] + 1; n <= FB_BATCH_SLOTS; n++) {
            CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].batch_sizes[n]), 0);
        }
        CHECK_SIZE(w.n_requests, N_PIPELINED);
        close_world();
    }
    free(bytes);
}

/* Nobody reads the replies at first: the server must neither stall for ever nor hold it
 * all. */
static void
test_pipeline_whose_replies_are_read_late(void)
{
    size_t len;
    char *bytes = numbered_requests(&len);
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    sending what = {&client, bytes, len};
    pthread_t sender;
    pthread_create(&sender, NULL, send_all, &what);
    usleep(200000);
    for (int j = 0; j < N_PIPELINED; j++) {
        char path[16];
        snprintf(path, sizeof(path), "/%d", j);
        check_reply(&client, 200, path);
    }
    pthread_join(sender, NULL);
    peer_close(&client);
    close_world();
    free(bytes);
}

static void
test_request_by_byte(void)
{
    static const char request[] =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked"
        "\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n";
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (size_t i = 0; i < strlen(request); i++) {
        CHECK(peer_send(&client, request + i, 1));
        usleep(200);
    }
    check_reply(&client, 200, "hello");
    CHECK(peer_say(&client, GET("/next")));
    check_reply(&client, 200, "/next");
    peer_close(&client);
    close_world();
}

static void
test_empty_line_between_requests_may_come_in_halves(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_say(&client, GET("/a") "\r"));
        check_reply(&client, 200, "/a");
        usleep(20000);
        CHECK(peer_say(&client, "\n"));
        usleep(20000);
    }
    CHECK(peer_say(&client, GET("/b")));
    check_reply(&client, 200, "/b");
    peer_close(&client);
    close_world();
}

static void
test_requests_of_many_connections_share_a_batch(void)
{
    enum { N = 100 };
    reset_world();
    w.is_held = true;
    open_world();
    test_peer holder = peer_open(w.port);
    CHECK(peer_say(&holder, GET("/hold")));
    wait_for_requests(1);
    test_peer clients[N];
    for (int i = 0; i < N; i++) {
        clients[i] = peer_open(w.port);
        CHECK(peer_say(&clients[i], GET("/a")));
    }
    w.is_held = false;
    for (int i = 0; i < N; i++) {
        check_reply(&clients[i], 200, "/a");
        peer_close(&clients[i]);
    }
    check_reply(&holder, 200, "/hold");
    peer_close(&holder);
    CHECK(fb_count_get(&w.server->stats->queues[0].n_batches) < N / 2);
    close_world();
}

static void
test_http_1_0_is_closed_unless_it_asks(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    peer_reply reply = peer_read(&client);
    CHECK(reply.status == 200 && strstr(reply.head, "Connection: keep-alive") != NULL);
    CHECK(peer_say(&client, GET_10("/b")));
    reply = peer_read(&client);
    CHECK(reply.status == 200 && reply.says_close);
    check_over(&client);
    peer_close(&client);
    close_world();
}

static void
test_nothing_is_answered_after_close(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client,
                   GET("/a") "GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                             "\r\n" GET("/c")));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/b");
    check_over(&client);
    CHECK_SIZE(w.n_requests, 2);
    peer_close(&client);
    client = peer_open(w.port); /* the same when it is the reply that says so */
    CHECK(peer_say(&client, GET("/a") GET("/close") GET("/c")));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/close");
    check_over(&client);
    peer_close(&client);
    close_world();
}

static void
test_error_reply_follows_those_that_are_owed(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/a") GET("/b") "GET /c HTTP/1.1\r\n\r\n" GET("/d")));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/b");
    peer_reply reply = peer_read(&client);
    CHECK(reply.status == 400 && reply.says_close);
    check_over(&client);
    CHECK_SIZE(w.n_requests, 2);
    peer_close(&client);
    close_world();
}

/* The client is still sending when it is refused: it must get to read why. */
static void
test_refused_body_does_not_reset_the_reply(void)
{
    reset_world();
    w.limits.max_body = 1000;
    open_world();
    for (int i = 0; i < 20; i++) {
        test_peer client = peer_open(w.port);
        CHECK(peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576"
                                "\r\n\r\n"));
        (void)peer_send(&client, big, 1 << 20);
        peer_reply reply = peer_read(&client);
        CHECK(reply.status == 413 && reply.says_close);
        peer_end(&client);
        check_over(&client);
        peer_close(&client);
    }
    close_world();
}

static void
test_slot_without_an_answer_is_a_500(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 2; i++) { /* the connection goes on */
        CHECK(peer_say(&client, GET("/a") GET("/nothing")));
        check_reply(&client, 200, "/a");
        check_reply(&client, 500, "500 Internal Server Error\n");
    }
    peer_close(&client);
    close_world();
}

static void
test_continue_comes_before_the_body(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                                "Content-Length: 5\r\n\r\n"));
        check_reply(&client, 100, "");
        CHECK(peer_say(&client, "hello"));
        check_reply(&client, 200, "hello");
    }
    /* Who does not wait for it does not get it. */
    CHECK(peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                            "Content-Length: 5\r\n\r\nhello"));
    check_reply(&client, 200, "hello");
    peer_close(&client);
    close_world();
}

/* The reply before it is not held up by a request that waits for its 100. */
static void
test_continue_follows_the_replies_that_are_owed(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client,
                   GET("/a") "POST / HTTP/1.1\r\nHost: a\r\n"
                             "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
    check_reply(&client, 200, "/a");
    check_reply(&client, 100, "");
    CHECK(peer_say(&client, "hello"));
    check_reply(&client, 200, "hello");
    peer_close(&client);
    close_world();
}

/* All of one batch: the last blocks, the first are sent meanwhile. */
static void
test_replies_do_not_wait_for_the_slowest_slot(void)
{
    reset_world();
    w.is_held = true;
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/a") GET("/b") GET("/hold") GET("/c")));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/b");
    CHECK(w.is_held && w.n_requests == 3);
    w.is_held = false;
    check_reply(&client, 200, "/hold");
    check_reply(&client, 200, "/c");
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].n_batches), 1);
    peer_close(&client);
    close_world();
}

/* ---- peers that leave ------------------------------------------------------------ */

static void
test_half_closed_peer_gets_its_replies(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/a") GET("/b")));
    peer_end(&client);
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/b");
    check_over(&client);
    peer_close(&client);
    wait_for_conns(0);
    close_world();
}

static void
test_half_close_at_every_byte_ends_the_connection(void)
{
    static const char request[] =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
        "hello";
    reset_world();
    open_world();
    for (size_t len = 0; len < strlen(request); len++) {
        test_peer client = peer_open(w.port);
        CHECK(peer_send(&client, request, len));
        peer_end(&client);
        check_over(&client);
        peer_close(&client);
    }
    wait_for_conns(0);
    CHECK_SIZE(w.n_requests, 0);
    close_world();
}

static void
test_peers_that_leave_before_their_reply_harm_nobody(void)
{
    reset_world();
    open_world();
    test_peer stays = peer_open(w.port);
    for (size_t i = 0; i < 50; i++) {
        test_peer client = peer_open(w.port);
        w.is_held = true;
        CHECK(peer_say(&client, GET("/hold") GET("/big") GET("/stream") GET("/a")));
        wait_for_requests(4 * i + i + 1);
        CHECK(peer_say(&stays, GET("/b")));
        if (i % 2 == 0) {
            peer_reset(&client);
        } else {
            peer_close(&client);
        }
        w.is_held = false;
        check_reply(&stays, 200, "/b");
        wait_for_requests(4 * (i + 1) + i + 1);
    }
    wait_for_conns(1);
    wait_for_releases();
    peer_close(&stays);
    close_world();
}

/* The replies before the one that blocks are large: what the socket does not take has
 * to wait for the end of the dispatch, and peers leave before that. */
static void
test_peers_that_leave_while_replies_are_sent_early(void)
{
    reset_world();
    open_world();
    for (size_t i = 0; i < 30; i++) {
        w.is_held = true;
        test_peer client = peer_open(w.port);
        test_peer other = peer_open(w.port);
        CHECK(peer_say(&client,
                       GET("/a") GET("/big") GET("/stream") GET("/hold") GET("/b")));
        wait_for_requests(4 + 6 * i);
        CHECK(peer_say(&other, GET("/c")));
        check_reply(&client, 200, "/a");
        if (i % 3 == 0) {
            peer_reset(&client);
        }
        w.is_held = false;
        if (i % 3 == 1) {
            peer_reset(&client);
        }
        check_reply(&other, 200, "/c");
        if (i % 3 == 2) {
            CHECK_SIZE(peer_read(&client).body_len, sizeof(big));
            peer_end(&client);
            CHECK(peer_drain(&client) > STREAM_BYTES);
            peer_close(&client);
        }
        peer_close(&other);
    }
    wait_for_conns(0);
    wait_for_releases();
    close_world();
}

static void
test_peer_that_resets_while_a_body_is_sent(void)
{
    static const char *const requests[] = {GET("/big"), GET("/stream"), GET("/break")};
    reset_world();
    open_world();
    for (size_t i = 0; i < 30; i++) {
        test_peer client = peer_open(w.port);
        CHECK(peer_say(&client, requests[i % 3]));
        char some[100];
        CHECK(recv(client.fd, some, 1, 0) == 1 || errno == EINTR);
        if (i % 2 == 0) {
            usleep(2000);
        }
        peer_reset(&client);
    }
    wait_for_conns(0);
    wait_for_releases();
    close_world();
}

static void
test_peers_that_only_connect(void)
{
    reset_world();
    open_world();
    for (int i = 0; i < 200; i++) {
        test_peer client = peer_open(w.port);
        if (i % 2 == 0) {
            peer_reset(&client);
        } else {
            peer_close(&client);
        }
    }
    wait_for_conns(0);
    close_world();
}

/* ---- large bodies ---------------------------------------------------------------- */

static void
test_large_body_arrives_whole(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_say(&client, GET("/big") GET("/a")));
        peer_reply reply = peer_read(&client);
        CHECK_SIZE(reply.body_len, sizeof(big));
        CHECK(reply.status == 200 && memcmp(reply.body, big, sizeof(big)) == 0);
        check_reply(&client, 200, "/a");
    }
    peer_close(&client);
    wait_for_releases();
    close_world();
}

static void
test_large_body_is_received_whole(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    char head[100];
    snprintf(head, sizeof(head),
             "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", BIG_BYTES);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_say(&client, head) && peer_send(&client, big, sizeof(big)));
        peer_reply reply = peer_read(&client);
        CHECK_SIZE(reply.body_len, sizeof(big));
        CHECK(reply.status == 200 && memcmp(reply.body, big, sizeof(big)) == 0);
    }
    peer_close(&client);
    close_world();
}

/* ---- bodies in files ------------------------------------------------------------- */

/* The descriptors of this process. */
static size_t
n_open_files(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert(dir != NULL);
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n;
}

static void
make_file(void)
{
    w.file = fb_spool_open(w.temp_dir);
    assert(w.file >= 0);
    CHECK(fb_spool_append(w.file, big, sizeof(big)) == 0);
}

static void
test_file_arrives_whole_and_in_order(void)
{
    reset_world();
    make_file();
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_say(&client, GET("/a") GET("/file") GET("/big") GET("/file")));
        check_reply(&client, 200, "/a");
        for (int j = 0; j < 3; j++) {
            size_t skip = j == 1 ? 0 : FILE_OFFSET;
            peer_reply reply = peer_read(&client);
            CHECK_SIZE(reply.body_len, sizeof(big) - skip);
            CHECK(reply.status == 200 &&
                  memcmp(reply.body, big + skip, reply.body_len) == 0);
        }
    }
    peer_close(&client);
    wait_for_releases();
    CHECK(fb_count_get(&w.server->stats->n_bytes_sent) >
          9 * (sizeof(big) - FILE_OFFSET));
    close_world();
    close(w.file);
}

static void
test_file_that_gets_shorter_breaks_the_connection_off(void)
{
    reset_world();
    make_file();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/file")));
    wait_for_requests(1);
    CHECK(ftruncate(w.file, 10) == 0);
    CHECK(peer_drain(&client) < sizeof(big) - FILE_OFFSET && client.is_reset);
    peer_close(&client);
    wait_for_releases();
    close_world();
    close(w.file);
}

static void
test_client_that_leaves_a_file(void)
{
    size_t n_before = n_open_files();
    reset_world();
    make_file();
    open_world();
    for (int i = 0; i < 10; i++) {
        test_peer client = peer_open(w.port);
        CHECK(peer_say(&client, GET("/file")));
        wait_for_requests((size_t)i + 1);
        if (i % 2 == 0) {
            peer_reset(&client);
        } else {
            peer_close(&client);
        }
    }
    wait_for_conns(0);
    wait_for_releases();
    close_world();
    close(w.file);
    CHECK_SIZE(n_open_files(), n_before);
}

static void
test_reader_of_a_file_that_does_not_read_is_left(void)
{
    reset_world();
    w.limits.write_timeout_ms = 200;
    make_file();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/file")));
    wait_for_requests(1);
    wait_for_conns(0);
    wait_for_releases();
    peer_close(&client);
    close_world();
    close(w.file);
}

/* Send a body of len bytes in chunks of step bytes, or with its length when step is 0.
 */
static void
send_body(test_peer *client, const char *path, size_t len, size_t step)
{
    char head[200];
    char framing[64];
    snprintf(framing, sizeof(framing),
             step == 0 ? "Content-Length: %zu" : "Transfer-Encoding: chunked", len);
    snprintf(head, sizeof(head), "POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", path,
             framing);
    CHECK(peer_say(client, head));
    if (step == 0) {
        CHECK(peer_send(client, big, len));
        return;
    }
    for (size_t at = 0; at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        snprintf(head, sizeof(head), "%zx;some=extension\r\n", n);
        CHECK(peer_say(client, head) && peer_send(client, big + at, n) &&
              peer_say(client, "\r\n"));
    }
    CHECK(peer_say(client, "0\r\nA-Trailer: b\r\n\r\n"));
}

static void
test_body_beyond_its_limit_of_memory_is_in_a_file(void)
{
    const size_t limits[] = {0, 10, FB_FILE_BLOCK, 3 * FB_FILE_BLOCK + 1};
    const size_t steps[] = {0, 1000, FB_FILE_BLOCK, 1 << 20};
    size_t n_before = n_open_files();
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        reset_world();
        w.limits.max_body_memory = limits[i];
        open_world();
        test_peer client = peer_open(w.port);
        for (size_t j = 0; j < sizeof(steps) / sizeof(steps[0]); j++) {
            for (size_t more = 0; more < 3; more++) {
                char text[64];
                size_t len = limits[i] + more > 0 ? limits[i] + more - 1 : 0;
                send_body(&client, "/length", len, steps[j]);
                snprintf(text, sizeof(text), "%zu %s", len,
                         len > limits[i] ? "in a file" : "in memory");
                check_reply(&client, 200, text);
            }
        }
        peer_close(&client);
        close_world();
    }
    CHECK_SIZE(n_open_files(), n_before);
}

static void
test_spooled_body_has_all_bytes(void)
{
    const size_t steps[] = {0, 777, 100000};
    reset_world();
    w.limits.max_body_memory = 1000;
    open_world();
    test_peer client = peer_open(w.port);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        size_t len = (1 << 20) + i;
        send_body(&client, "/", len, steps[i]);
        CHECK(peer_say(&client, GET("/behind")));
        peer_reply reply = peer_read(&client);
        CHECK_SIZE(reply.body_len, len);
        CHECK(reply.status == 200 && memcmp(reply.body, big, len) == 0);
        check_reply(&client, 200, "/behind");
    }
    peer_close(&client);
    close_world();
}

static void
test_longest_body_is_the_same_when_it_is_spooled(void)
{
    const size_t steps[] = {0, 777};
    reset_world();
    w.limits.max_body = 300000;
    w.limits.max_body_memory = 1000;
    open_world();
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        test_peer client = peer_open(w.port);
        send_body(&client, "/length", 299999, steps[i]);
        check_reply(&client, 200, "299999 in a file");
        send_body(&client, "/length", 300000, steps[i]);
        check_reply(&client, 200, "300000 in a file");
        send_body(&client, "/length", 300001, steps[i]);
        check_reply(&client, 413, NULL);
        peer_close(&client);
    }
    close_world();
}

static void
test_clients_that_leave_in_a_spooled_body(void)
{
    size_t n_before = n_open_files();
    reset_world();
    w.limits.max_body_memory = 1000;
    open_world();
    for (int i = 0; i < 10; i++) {
        test_peer client = peer_open(w.port);
        CHECK(peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000"
                                "\r\n\r\n"));
        CHECK(peer_send(&client, big, 500000));
        if (i % 2 == 0) {
            peer_reset(&client);
        } else {
            peer_close(&client);
        }
    }
    wait_for_conns(0);
    close_world();
    CHECK_SIZE(n_open_files(), n_before);
}

static void
test_stop_in_the_midst_of_a_spooled_body(void)
{
    size_t n_before = n_open_files();
    reset_world();
    w.limits.max_body_memory = 1000;
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000"
                            "\r\n\r\n"));
    CHECK(peer_send(&client, big, 500000));
    wait_for_conns(1);
    fb_server_stop(w.server, FB_STOP_NOW);
    join_world();
    peer_close(&client);
    CHECK_SIZE(n_open_files(), n_before);
}

static void
test_body_that_cannot_be_stored_is_a_507(void)
{
    const size_t steps[] = {0, 777};
    size_t n_before = n_open_files();
    reset_world();
    w.temp_dir = "/nowhere at all";
    w.limits.max_body_memory = 1000;
    open_world();
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        test_peer client = peer_open(w.port);
        send_body(&client, "/", 1000, steps[i]);
        peer_reply whole = peer_read(&client);
        CHECK(whole.status == 200 && !whole.says_close);
        send_body(&client, "/", 1001, steps[i]);
        peer_reply reply = peer_read(&client);
        CHECK(reply.status == 507 && reply.says_close);
        peer_end(&client);
        check_over(&client);
        peer_close(&client);
    }
    close_world();
    CHECK_SIZE(n_open_files(), n_before);
}

/* ---- streams --------------------------------------------------------------------- */

/* Returns the bytes of data in a chunked body, or SIZE_MAX when it does not end well.
 * */
static size_t
chunked_len(const char *at, const char *end)
{
    size_t total = 0;
    while (at < end) {
        char *behind;
        size_t len = strtoull(at, &behind, 16);
        at = behind + 2;
        if (len == 0) {
            return at + 2 == end ? total : SIZE_MAX;
        }
        if (len > (size_t)(end - at) || memcmp(at, big, len) != 0) {
            return SIZE_MAX;
        }
        total += len;
        at += len + 2;
    }
    return SIZE_MAX;
}

static void
test_stream_arrives_whole(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/stream")));
    peer_end(&client);
    peer_reply reply = peer_read(&client);
    CHECK(reply.status == 200 && strstr(reply.head, "chunked") != NULL);
    peer_drain(&client);
    CHECK_SIZE(chunked_len(client.data + client.at, client.data + client.len),
               STREAM_BYTES);
    peer_close(&client);
    close_world();
}

/* A reader that does not read: what is pulled fills the sockets and one high-water
 * mark. */
static void
test_stream_waits_for_its_reader(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/stream") GET("/a")));
    wait_for_requests(2);
    size_t before = 1;
    size_t after = 0;
    for (int i = 0; i < 50 && before != after; i++) {
        before = w.n_pulled;
        usleep(50000);
        after = w.n_pulled;
    }
    CHECK(after > 0 && after < STREAM_BYTES);
    usleep(100000);
    CHECK_SIZE(w.n_pulled, after);
    peer_end(&client);
    peer_drain(&client); /* now it reads */
    CHECK_SIZE(w.n_pulled, STREAM_BYTES);
    peer_close(&client);
    wait_for_releases();
    close_world();
}

static void
test_stream_that_breaks_off_does_not_look_complete(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/break") GET("/a")));
    CHECK(peer_read(&client).status == 200);
    peer_drain(&client);
    CHECK(client.is_reset);
    CHECK(chunked_len(client.data + client.at, client.data + client.len) == SIZE_MAX);
    peer_close(&client);
    wait_for_conns(0);
    close_world();
}

/* ---- time ------------------------------------------------------------------------ */

static void
test_idle_connection_is_closed_after_its_time(void)
{
    reset_world();
    w.limits.keepalive_timeout_ms = 1000;
    open_world();
    test_peer silent = peer_open(w.port);
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 5; i++) { /* longer than the time-out, but never idle so long */
        CHECK(peer_say(&client, GET("/a")));
        check_reply(&client, 200, "/a");
        usleep(300000);
    }
    check_over(&silent);
    check_over(&client);
    peer_close(&silent);
    peer_close(&client);
    wait_for_conns(0);
    CHECK_SIZE(fb_count_get(&w.server->stats->n_timed_out), 2);
    close_world();
}

static void
test_head_that_drips_gets_408(void)
{
    reset_world();
    w.limits.head_timeout_ms = 200;
    open_world();
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 40; i++) {
        if (!peer_say(&client, i == 0 ? "GET / HTTP/1.1\r\n" : "A: b\r\n")) {
            break;
        }
        usleep(20000);
    }
    peer_reply reply = peer_read(&client);
    CHECK(reply.status == 408 && reply.says_close);
    peer_end(&client);
    check_over(&client);
    peer_close(&client);
    close_world();
}

static void
test_body_that_stops_gets_408(void)
{
    reset_world();
    w.limits.body_timeout_ms = 200;
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(
        peer_say(&client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n"));
    for (int i = 0; i < 10; i++) { /* slow, but it comes */
        CHECK(peer_say(&client, "b"));
        usleep(50000);
    }
    peer_reply reply = peer_read(&client);
    CHECK(reply.status == 408 && reply.says_close);
    peer_end(&client);
    check_over(&client);
    CHECK_SIZE(w.n_requests, 0);
    peer_close(&client);
    close_world();
}

static void
test_reader_that_does_not_read_is_left(void)
{
    reset_world();
    w.limits.write_timeout_ms = 200;
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/stream")));
    wait_for_requests(1);
    wait_for_conns(0);
    wait_for_releases();
    peer_close(&client);
    close_world();
}

/* Read step bytes at a time. */
static void
check_slow_reader(const char *request, size_t step)
{
    reset_world();
    w.limits.write_timeout_ms = 1000;
    make_file();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, request));
    static char some[1 << 20];
    size_t len = 0;
    while (len < sizeof(big)) {
        ssize_t n = recv(client.fd, some, step, 0);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            break;
        }
        len += n > 0 ? (size_t)n : 0;
        usleep(20000);
    }
    CHECK(len > sizeof(big));
    peer_close(&client);
    close_world();
    close(w.file);
}

static void
test_slow_reader_is_not_left(void)
{
    check_slow_reader(GET("/big"), 350000);
    /* So slowly that the kernel says for long that its buffer is full. */
    check_slow_reader(GET("/big"), 40000);
    check_slow_reader(GET("/file"), 40000);
}

/* ---- stopping -------------------------------------------------------------------- */

static void
test_stop_answers_what_has_arrived(void)
{
    reset_world();
    w.is_held = true;
    open_world();
    test_peer idle = peer_open(w.port);
    CHECK(peer_say(&idle, GET("/a")));
    check_reply(&idle, 200, "/a");
    test_peer busy = peer_open(w.port);
    CHECK(peer_say(&busy, GET("/hold")));
    wait_for_requests(2);
    test_peer queued = peer_open(w.port); /* sent while the loop is in the dispatch */
    CHECK(peer_say(&queued, GET("/b")));
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    w.is_held = false;
    peer_reply reply = peer_read(&busy);
    CHECK_SIZE((size_t)reply.status, 200);
    check_over(&busy);
    reply = peer_read(&queued);
    CHECK(reply.status == 200 && reply.says_close);
    check_over(&queued);
    check_over(&idle);
    join_world();
    peer_close(&idle);
    peer_close(&busy);
    peer_close(&queued);
}

/* Only the last of several says close: a client drops what comes after such a reply. */
static void
test_stop_answers_the_whole_pipeline(void)
{
    reset_world();
    w.is_held = true;
    open_world();
    test_peer busy = peer_open(w.port);
    CHECK(peer_say(&busy, GET("/hold")));
    wait_for_requests(1);
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/a") GET("/b") GET("/c")));
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    w.is_held = false;
    static const char *const paths[] = {"/a", "/b", "/c"};
    for (int i = 0; i < 3; i++) {
        peer_reply reply = peer_read(&client);
        CHECK_TEXT(reply.body, reply.body_len, paths[i]);
        CHECK(reply.says_close == (i == 2));
    }
    check_over(&client);
    join_world();
    peer_close(&busy);
    peer_close(&client);
}

static void
test_stop_waits_for_a_body_that_is_being_sent(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/big")));
    wait_for_requests(1);
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    usleep(50000);
    peer_reply reply = peer_read(&client);
    CHECK_SIZE(reply.body_len, sizeof(big));
    check_over(&client);
    join_world();
    peer_close(&client);
}

static void
test_graceful_stop_ends_in_its_time(void)
{
    reset_world();
    w.limits.graceful_timeout_ms = 200;
    open_world();
    test_peer reads_nothing = peer_open(w.port);
    CHECK(peer_say(&reads_nothing, GET("/stream")));
    test_peer half = peer_open(w.port);
    CHECK(peer_say(&half, "GET / HT"));
    wait_for_requests(1);
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    join_world();
    peer_close(&reads_nothing);
    peer_close(&half);
}

static void
test_stop_now_waits_for_nobody(void)
{
    reset_world();
    open_world();
    test_peer clients[20];
    for (size_t i = 0; i < 20; i++) {
        clients[i] = peer_open(w.port);
        CHECK(peer_say(&clients[i], i % 2 == 0 ? GET("/stream") : GET("/big")));
    }
    wait_for_requests(20);
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    fb_server_stop(w.server, FB_STOP_NOW);
    fb_server_stop(w.server, FB_STOP_GRACEFUL); /* which takes nothing back */
    join_world();
    for (size_t i = 0; i < 20; i++) {
        peer_close(&clients[i]);
    }
}

static void
test_dispatcher_can_stop_the_server(void)
{
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, GET("/a") GET("/stop") GET("/b")));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/stop");
    check_reply(&client, 200, "/b");
    check_over(&client);
    join_world();
    peer_close(&client);
}

static void
test_server_that_never_ran_can_be_closed(void)
{
    reset_world();
    w.server = calloc(1, sizeof(*w.server));
    assert(w.server != NULL);
    int fd = peer_listen(&w.port);
    const fb_server_setup setup = {
        .limits = &w.limits,
        .fds = &fd,
        .n_fds = 1,
        .server_value = "",
        .temp_dir = "/tmp",
        .wakeup_fd = -1,
        .ops = &server_ops,
    };
    CHECK(fb_server_open(w.server, &setup) == 0);
    fb_server_close(w.server);
    free(w.server);
}

/* ---- bounds ---------------------------------------------------------------------- */

static void
test_no_more_connections_than_allowed(void)
{
    reset_world();
    w.limits.max_connections = 2;
    open_world();
    test_peer one = peer_open(w.port);
    test_peer two = peer_open(w.port);
    test_peer three = peer_open(w.port); /* waits in the kernel */
    CHECK(peer_say(&one, GET("/1")));
    CHECK(peer_say(&two, GET("/2")));
    CHECK(peer_say(&three, GET("/3")));
    check_reply(&one, 200, "/1");
    check_reply(&two, 200, "/2");
    usleep(50000);
    CHECK_SIZE(open_conns(), 2);
    CHECK_SIZE(w.n_requests, 2);
    peer_close(&one);
    check_reply(&three, 200, "/3");
    peer_close(&two);
    peer_close(&three);
    close_world();
}

static void
test_serving_takes_no_memory(void)
{
    static const char post[] =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    reset_world();
    open_world();
    test_peer client = peer_open(w.port);
    uint64_t taken = 0;
    for (int i = 0; i < 2000; i++) {
        if (i == 100) {
            taken = fb_count_get(&w.server->heap.n_taken);
        }
        CHECK(peer_say(&client, GET("/a") GET("/b")) && peer_say(&client, post));
        check_reply(&client, 200, "/a");
        check_reply(&client, 200, "/b");
        check_reply(&client, 200, "hello");
        client.len = 0;
        client.at = 0;
    }
    CHECK_SIZE(fb_count_get(&w.server->heap.n_taken), taken);
    peer_close(&client);
    close_world();
}

/* Whichever block cannot be had: at worst a connection ends, never the server. */
static void
test_server_outlives_want_of_memory(void)
{
    static const char post[] =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    for (size_t nth = 1; nth <= 40; nth++) {
        reset_world();
        open_world();
        fault_set(nth);
        for (int i = 0; i < 4; i++) {
            test_peer client = peer_open(w.port);
            (void)peer_say(&client, GET("/a") GET("/b"));
            (void)peer_say(&client, post);
            (void)peer_say(&client, GET("/big") GET("/stream"));
            if (i % 2 == 0) {
                peer_end(&client);
                peer_drain(&client);
            }
            peer_reset(&client);
        }
        wait_for_conns(0);
        bool is_faulty = fault_happened() != 0;
        fault_set(0);
        test_peer client = peer_open(w.port);
        CHECK(peer_say(&client, GET("/after")));
        check_reply(&client, 200, "/after");
        peer_close(&client);
        close_world();
        if (!is_faulty) {
            break;
        }
    }
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN); /* as Python does */
    for (size_t i = 0; i < sizeof(big); i++) {
        big[i] = (char)('a' + i % 23);
    }
    RUN(test_one_connection_serves_many_requests);
    RUN(test_pipelined_requests_are_answered_in_order);
    RUN(test_pipeline_whose_replies_are_read_late);
    RUN(test_request_by_byte);
    RUN(test_empty_line_between_requests_may_come_in_halves);
    RUN(test_requests_of_many_connections_share_a_batch);
    RUN(test_http_1_0_is_closed_unless_it_asks);
    RUN(test_nothing_is_answered_after_close);
    RUN(test_error_reply_follows_those_that_are_owed);
    RUN(test_refused_body_does_not_reset_the_reply);
    RUN(test_slot_without_an_answer_is_a_500);
    RUN(test_continue_comes_before_the_body);
    RUN(test_continue_follows_the_replies_that_are_owed);
    RUN(test_replies_do_not_wait_for_the_slowest_slot);
    RUN(test_half_closed_peer_gets_its_replies);
    RUN(test_half_close_at_every_byte_ends_the_connection);
    RUN(test_peers_that_leave_before_their_reply_harm_nobody);
    RUN(test_peers_that_leave_while_replies_are_sent_early);
    RUN(test_peer_that_resets_while_a_body_is_sent);
    RUN(test_peers_that_only_connect);
    RUN(test_large_body_arrives_whole);
    RUN(test_large_body_is_received_whole);
    RUN(test_file_arrives_whole_and_in_order);
    RUN(test_file_that_gets_shorter_breaks_the_connection_off);
    RUN(test_client_that_leaves_a_file);
    RUN(test_reader_of_a_file_that_does_not_read_is_left);
    RUN(test_body_beyond_its_limit_of_memory_is_in_a_file);
    RUN(test_spooled_body_has_all_bytes);
    RUN(test_longest_body_is_the_same_when_it_is_spooled);
    RUN(test_clients_that_leave_in_a_spooled_body);
    RUN(test_stop_in_the_midst_of_a_spooled_body);
    RUN(test_body_that_cannot_be_stored_is_a_507);
    RUN(test_stream_arrives_whole);
    RUN(test_stream_waits_for_its_reader);
    RUN(test_stream_that_breaks_off_does_not_look_complete);
    RUN(test_idle_connection_is_closed_after_its_time);
    RUN(test_head_that_drips_gets_408);
    RUN(test_body_that_stops_gets_408);
    RUN(test_reader_that_does_not_read_is_left);
    RUN(test_slow_reader_is_not_left);
    RUN(test_stop_answers_what_has_arrived);
    RUN(test_stop_answers_the_whole_pipeline);
    RUN(test_stop_waits_for_a_body_that_is_being_sent);
    RUN(test_graceful_stop_ends_in_its_time);
    RUN(test_stop_now_waits_for_nobody);
    RUN(test_dispatcher_can_stop_the_server);
    RUN(test_server_that_never_ran_can_be_closed);
    RUN(test_no_more_connections_than_allowed);
    RUN(test_serving_takes_no_memory);
    RUN(test_server_outlives_want_of_memory);
    return check_report("test_conn");
}
