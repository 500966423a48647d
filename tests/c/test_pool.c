/* SPDX-License-Identifier: MIT */
/*
 * Handler threads over the loopback, with a dispatcher in C: who is given what, what is
 * taken back, what waits and for how long, and how all of it ends. The threads do as
 * those of the binding. With SANITIZE=-fsanitize=thread this is also where the lock of
 * the pool and those of the executors are put to the test.
 */
#include "check.h"
#include "fault.h"
#include "io/server.h"
#include "limits.h"
#include "peer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define MOST_THREADS 4
#define N_GATES 5
#define BIG_BYTES (4 << 20) /* of a body without a copy: more than sockets hold */
#define MOST_SEEN 4096
#define PATH_BYTES 24 /* of those below, their end included */

static char big[BIG_BYTES];

/* The server under test, and what its handler threads have seen. */
typedef struct world {
    fb_limits limits; /* to be changed before open_world */
    fb_server *server;
    pthread_t thread;
    pthread_t handlers[MOST_THREADS];
    int port;
    int run_error;
    int wakeup[2];                /* as Python's signals write to: a pipe, or -1 */
    bool is_abandoned;            /* the server has ended before its threads */
    atomic_bool may_leave;        /* then: they go on */
    atomic_bool is_held[N_GATES]; /* a handler waits while its gate is */
    atomic_bool is_loop_held;     /* the loop does, too, before it rests */
    atomic_bool does_loop_wait;
    atomic_size_t n_lost;     /* jobs that were another thread's */
    atomic_size_t n_torn;     /* requests that changed in their dispatch */
    atomic_size_t n_joined;   /* threads */
    atomic_size_t n_pulling;  /* threads that make the second item of a stream */
    atomic_size_t n_bodies;   /* given to the server */
    atomic_size_t n_released; /* of those */
    atomic_size_t n_seen;     /* requests that a handler has begun with */
    char seen[MOST_SEEN][PATH_BYTES];
} world;

static world w;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for w.seen */

static void
wait_while(const atomic_bool *holds)
{
    while (*holds) {
        usleep(1000);
    }
}

/* ---- bodies ---------------------------------------------------------------------- */

/* A body that is its thread's, from the first item to the end. A stream has the items
 * "one", and "two" when its gate opens; what it made is the loop's until it is busy. */
typedef struct owned {
    fb_job job;
    fb_executor *executor;
    fb_conn *conn;
    int gate;
    int n_items;  /* made */
    bool is_busy; /* its job is submitted: the loop's, as those below */
    bool is_ready;
    bool is_released;
    fb_pull verdict;
    fb_buf made;
} owned;

static owned *
owned_of(fb_job *job)
{
    return (owned *)(void *)((char *)job - offsetof(owned, job));
}

static void
run_drop(fb_job *job, fb_executor *executor)
{
    w.n_lost += owned_of(job)->executor != executor ? 1 : 0;
}

static void
finish_drop(fb_job *job)
{
    free(owned_of(job));
    w.n_released++;
}

/* By its thread, if that is still there. */
static void
let_go(owned *from)
{
    fb_buf_fini(&from->made);
    from->job = (fb_job){.run = run_drop, .finish = finish_drop};
    if (!fb_pool_submit(&w.server->pool, from->executor, &from->job)) {
        finish_drop(&from->job);
    }
}

static void
on_release(void *owner)
{
    owned *from = owner;
    from->is_released = true;
    if (!from->is_busy) {
        let_go(from);
    }
}

static void
run_pull(fb_job *job, fb_executor *executor)
{
    owned *from = owned_of(job);
    bool ok = true;
    w.n_lost += from->executor != executor ? 1 : 0;
    from->verdict = FB_PULL_MORE;
    if (from->n_items == 1) {
        w.n_pulling++;
        wait_while(&w.is_held[from->gate]);
        w.n_pulling--;
    }
    if (from->n_items < 2) {
        ok = fb_reply_chunk(&from->made, from->n_items == 0 ? "one" : "two", 3);
    } else {
        ok = fb_reply_last_chunk(&from->made);
        from->verdict = FB_PULL_END;
    }
    from->n_items++;
    if (!ok) {
        from->verdict = FB_PULL_FAIL;
    }
}

static void
finish_pull(fb_job *job)
{
    owned *from = owned_of(job);
    from->is_busy = false;
    from->is_ready = true;
    if (from->is_released) {
        let_go(from);
    } else {
        fb_conn_resume(from->conn);
    }
}

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    owned *from = owner;
    if (from->is_ready) {
        fb_buf empty = *into;
        *into = from->made;
        from->made = empty;
        from->is_ready = false;
        return from->verdict;
    }
    if (!from->is_busy) {
        from->job = (fb_job){.run = run_pull, .finish = finish_pull};
        from->is_busy = fb_pool_submit(&w.server->pool, from->executor, &from->job);
    }
    return from->is_busy ? FB_PULL_LATER : FB_PULL_FAIL;
}

static const fb_body_ops stream_ops = {.pull = on_pull, .release = on_release};
static const fb_body_ops big_ops = {.release = on_release};

static owned *
new_owned(fb_executor *executor, fb_slot *slot, int gate)
{
    owned *from = calloc(1, sizeof(*from));
    assert(from != NULL);
    from->executor = executor;
    from->conn = slot->owner;
    from->gate = gate;
    fb_buf_init(&from->made, &w.server->heap);
    return from;
}

/* ---- the dispatcher: what to do is in the path ----------------------------------- */

/* Returns the number of the gate in a path as /hold/2, or -1. */
static int
gate_in(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);
    return strncmp(path, prefix, len) == 0 ? path[len] - '0' : -1;
}

static void
copy_path(const fb_slot *slot, char *path)
{
    fb_span span = slot->req.path;
    size_t len = span.len < PATH_BYTES ? span.len : PATH_BYTES - 1;
    memcpy(path, slot->data + span.off, len);
    path[len] = '\0';
}

static void
note_path(const char *path)
{
    pthread_mutex_lock(&lock);
    size_t n = w.n_seen;
    if (n < MOST_SEEN) {
        memcpy(w.seen[n], path, PATH_BYTES);
    }
    w.n_seen = n + 1;
    pthread_mutex_unlock(&lock);
}

/* Under the lock of executor. Takes body, which may have none. */
static void
put_reply(fb_executor *executor, fb_slot *slot, const char *text, fb_body body)
{
    fb_head head = {
        .status = 200,
        .content_type = "text/plain",
        .framing = body.ops == &stream_ops ? FB_FRAMING_CHUNKED : FB_FRAMING_LENGTH,
        .length = body.ops == &big_ops ? body.len : strlen(text),
        .is_http10 = slot->req.minor == 0,
        .keep_alive =
            fb_conn_keeps_alive(slot->owner, slot) && strcmp(text, "/close") != 0,
    };
    fb_out *out = fb_conn_out(slot->owner);
    w.n_bodies += body.ops != NULL ? 1 : 0;
    if (out == NULL || !fb_reply_head(&out->bytes, &executor->stamp, &head) ||
        (body.ops == NULL && !fb_buf_append(&out->bytes, text, strlen(text)))) {
        if (body.ops != NULL) {
            body.ops->release(body.owner);
        }
        if (out != NULL) {
            out->has_failed = true;
        }
    } else if (body.ops != NULL) {
        (void)fb_out_add_body(out, body);
    }
    fb_conn_answered(slot->owner, slot, head.keep_alive);
}

static void
answer(fb_executor *executor, fb_slot *slot, const char *path)
{
    fb_body body = {0};
    int gate = gate_in(path, "/hold/");
    int gate_behind = gate_in(path, "/behind/");
    if (gate >= 0) {
        wait_while(&w.is_held[gate]);
    }
    if (strcmp(path, "/nothing") == 0) {
        return;
    }
    gate = gate_in(path, "/later/");
    if (gate >= 0) {
        body = (fb_body){.ops = &stream_ops, .owner = new_owned(executor, slot, gate)};
    } else if (strcmp(path, "/big") == 0) {
        body = (fb_body){&big_ops, new_owned(executor, slot, 0), big, sizeof(big)};
    }
    fb_executor_lock(executor);
    put_reply(executor, slot, path, body);
    fb_executor_unlock(executor);
    fb_pool_tell(executor);
    if (gate_behind >= 0) {
        wait_while(&w.is_held[gate_behind]);
    }
}

/* Returns false to have the server stop. */
static bool
dispatch(fb_executor *executor)
{
    char paths[FB_BATCH_SLOTS][PATH_BYTES];
    bool goes_on = true;
    size_t n = 0;
    for (; fb_executor_claim(executor, n); n++) {
        fb_slot *slot = &executor->batch->slots[n];
        copy_path(slot, paths[n]);
        if (slot->is_answered) {
            continue; /* with nothing: a reply before it ended the connection */
        }
        note_path(paths[n]);
        goes_on = goes_on && strcmp(paths[n], "/stop") != 0;
        answer(executor, slot, paths[n]);
    }
    for (size_t i = 0; i < n; i++) { /* the bytes are good for all of the dispatch */
        char path[PATH_BYTES];
        copy_path(&executor->batch->slots[i], path);
        w.n_torn += strcmp(path, paths[i]) != 0 ? 1 : 0;
    }
    return goes_on;
}

static void *
work(void *argument)
{
    (void)argument;
    fb_pool *pool = &w.server->pool;
    fb_executor *executor = fb_pool_join(pool);
    fb_work kind = FB_WORK_END;
    fb_job *job = NULL;
    if (executor == NULL) {
        return NULL;
    }
    w.n_joined++;
    do {
        if (kind == FB_WORK_BATCH) {
            fb_pool_give_back(pool, executor);
        } else if (kind == FB_WORK_JOB) {
            fb_pool_finish(pool, executor, job);
        }
        kind = fb_pool_wait(pool, executor, &job);
        if (kind == FB_WORK_BATCH) {
            fb_executor_begin(executor);
            if (!dispatch(executor)) {
                fb_server_stop(w.server, FB_STOP_GRACEFUL);
            }
        } else if (kind == FB_WORK_JOB) {
            job->run(job, executor);
        }
    } while (kind != FB_WORK_END);
    fb_pool_leave(pool);
    return argument;
}

static bool
on_dispatch(void *owner, fb_batch *batch)
{
    (void)owner;
    (void)batch;
    abort(); /* the loop runs no handler */
}

/* As a second signal does. */
static bool
on_wakeup(void *owner)
{
    (void)owner;
    fb_server_stop(w.server, FB_STOP_NOW);
    return false;
}

static void
on_rest(void *owner)
{
    (void)owner;
    w.does_loop_wait = w.is_loop_held;
    wait_while(&w.is_loop_held);
    w.does_loop_wait = false;
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
    w.is_abandoned = fb_pool_is_busy(&w.server->pool);
    if (w.is_abandoned) {
        fb_pool_end(&w.server->pool);
        w.may_leave = true;
    } else {
        fb_pool_wait_for_end(&w.server->pool);
    }
    return NULL;
}

static void
reset_world(size_t n_threads)
{
    memset(&w, 0, sizeof(w));
    w.wakeup[0] = -1;
    w.limits = test_limits();
    w.limits.threads = n_threads;
}

/* Returns what fb_server_open does. */
static int
open_server(int fd)
{
    w.server = calloc(1, sizeof(*w.server));
    assert(w.server != NULL);
    const fb_server_setup setup = {
        .limits = &w.limits,
        .fds = &fd,
        .n_fds = 1,
        .server_value = "test",
        .temp_dir = "/tmp",
        .wakeup_fd = w.wakeup[0],
        .heartbeat_ms = 5, /* so that the loop comes to rest again and again */
        .ops = &server_ops,
    };
    return fb_server_open(w.server, &setup);
}

static void
open_world(void)
{
    int error = open_server(peer_listen(&w.port));
    assert(error == 0);
    for (size_t i = 0; i < w.limits.threads; i++) {
        error = pthread_create(&w.handlers[i], NULL, work, &w);
        assert(error == 0);
    }
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_joined < w.limits.threads; i++) {
        usleep(1000);
    }
    error = pthread_create(&w.thread, NULL, run_server, NULL);
    assert(error == 0);
    (void)error;
}

/* Wait for the server to end, and see that it has left nothing behind. */
static void
join_world(void)
{
    void *was_there;
    pthread_join(w.thread, NULL);
    for (size_t i = 0; i < w.limits.threads; i++) {
        pthread_join(w.handlers[i], &was_there);
        CHECK(was_there != NULL);
    }
    CHECK(w.run_error == 0);
    CHECK(!fb_pool_is_busy(&w.server->pool));
    CHECK(fb_pool_join(&w.server->pool) == NULL);
    fb_server_close(w.server);
    CHECK_SIZE(w.n_torn, 0);
    CHECK_SIZE(w.n_lost, 0);
    CHECK_SIZE(w.n_released, w.n_bodies);
    CHECK_SIZE(fb_count_get(&w.server->heap.n_held), 0);
    free(w.server);
}

static void
close_world(void)
{
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    join_world();
    CHECK(!w.is_abandoned);
}

/* ---- waiting for what other threads do: up to PEER_TIMEOUT_MS -------------------- */

static void
wait_for_conns(size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && fb_count_get(&w.server->n_conns) != n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(fb_count_get(&w.server->n_conns), n);
}

static void
wait_for_seen(size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_seen < n; i++) {
        usleep(1000);
    }
    CHECK(w.n_seen >= n);
}

static void
wait_for_bytes(size_t n)
{
    const fb_count *count = &w.server->stats->n_bytes_received;
    for (int i = 0; i < PEER_TIMEOUT_MS && fb_count_get(count) < n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(fb_count_get(count), n);
}

static void
hold_loop(void)
{
    w.is_loop_held = true;
    for (int i = 0; i < PEER_TIMEOUT_MS && !w.does_loop_wait; i++) {
        usleep(1000);
    }
    CHECK(w.does_loop_wait);
}

static void
let_loop_go(void)
{
    w.is_loop_held = false;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define N_BYTES(request) (sizeof(request) - 1)

static test_peer
ask(const char *request)
{
    test_peer client = peer_open(w.port);
    CHECK(peer_say(&client, request));
    return client;
}

static void
check_reply(test_peer *client, int status, const char *body)
{
    peer_reply reply = peer_read(client);
    CHECK_SIZE((size_t)reply.status, (size_t)status);
    if (body != NULL && reply.status != 0) {
        CHECK_TEXT(reply.body, reply.body_len, body);
    }
}

/* Its last reply. */
static void
check_last_reply(test_peer *client, int status, const char *body)
{
    check_reply(client, status, body);
    peer_close(client);
}

static void
check_over(test_peer *client)
{
    CHECK_SIZE(peer_drain(client), 0);
    CHECK(client->is_over && !client->is_reset);
    peer_close(client);
}

/* A client that holds a thread at each of the first n gates. */
static void
hold_threads(test_peer *clients, int n)
{
    for (int i = 0; i < n; i++) {
        char request[64];
        w.is_held[i] = true;
        snprintf(request, sizeof(request), GET("/hold/%d"), i);
        clients[i] = ask(request);
        wait_for_seen((size_t)i + 1);
    }
}

/* ---- who is given what ----------------------------------------------------------- */

#define N_PIPELINED 1500
#define N_CLIENTS 3

/* One client: all of its requests in one write, while it reads. */
typedef struct pipeline {
    test_peer client;
    pthread_t sender;
    size_t len;
    char bytes[N_PIPELINED * 48];
} pipeline;

static void *
send_all(void *argument)
{
    pipeline *line = argument;
    return peer_send(&line->client, line->bytes, line->len) ? line : NULL;
}

static void
start_pipeline(pipeline *line, int n)
{
    char *at = line->bytes;
    for (int i = 0; i < N_PIPELINED; i++) {
        at += sprintf(at, "GET /%d/%d HTTP/1.1\r\nHost: a\r\n\r\n", n, i);
    }
    line->len = (size_t)(at - line->bytes);
    line->client = peer_open(w.port);
    pthread_create(&line->sender, NULL, send_all, line);
}

static void
test_pipelined_requests_are_answered_in_order(void)
{
    static pipeline lines[N_CLIENTS];
    const size_t batch_sizes[] = {FB_BATCH_SLOTS, 7, 1};
    for (size_t i = 0; i < sizeof(batch_sizes) / sizeof(batch_sizes[0]); i++) {
        reset_world(2);
        w.limits.batch_size = batch_sizes[i];
        open_world();
        for (int n = 0; n < N_CLIENTS; n++) {
            start_pipeline(&lines[n], n);
        }
        for (int j = 0; j < N_CLIENTS * N_PIPELINED; j++) {
            char path[PATH_BYTES];
            snprintf(path, sizeof(path), "/%d/%d", j % N_CLIENTS, j / N_CLIENTS);
            check_reply(&lines[j % N_CLIENTS].client, 200, path);
        }
        for (int n = 0; n < N_CLIENTS; n++) {
            pthread_join(lines[n].sender, NULL);
            peer_end(&lines[n].client);
            check_over(&lines[n].client);
        }
        CHECK_SIZE(w.n_seen, N_CLIENTS * N_PIPELINED);
        close_world();
    }
}

static void
test_thread_that_blocks_holds_up_nobody(void)
{
    reset_world(2);
    open_world();
    test_peer held;
    hold_threads(&held, 1);
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 100; i++) {
        CHECK(peer_say(&client, GET("/a") GET("/b")));
        check_reply(&client, 200, "/a");
        check_reply(&client, 200, "/b");
    }
    peer_close(&client);
    w.is_held[0] = false;
    check_last_reply(&held, 200, "/hold/0");
    close_world();
}

static void
test_slot_without_an_answer_is_a_500(void)
{
    reset_world(1);
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
test_nothing_is_answered_after_close(void)
{
    reset_world(1);
    open_world();
    test_peer client = ask(GET("/a") GET("/close") GET("/b"));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/close");
    check_over(&client);
    CHECK_SIZE(w.n_seen, 2);
    close_world();
}

/* Both threads are held while the batch grows; the first that is free begins with what
 * blocks it, the second gets the rest. */
static void
test_slots_not_begun_go_to_a_thread_that_is_idle(void)
{
    enum { N = 5 };
    reset_world(2);
    open_world();
    test_peer held[3];
    test_peer clients[N];
    hold_threads(held, 2);
    w.is_held[2] = true;
    size_t n_bytes = 2 * N_BYTES(GET("/hold/0"));
    wait_for_bytes(n_bytes);
    held[2] = ask(GET("/hold/2") GET("/mine"));
    n_bytes += N_BYTES(GET("/hold/2") GET("/mine"));
    wait_for_bytes(n_bytes);
    for (int i = 0; i < N; i++) {
        clients[i] = ask(GET("/a") GET("/b"));
        n_bytes += N_BYTES(GET("/a") GET("/b"));
        wait_for_bytes(n_bytes);
    }
    w.is_held[0] = false;
    check_last_reply(&held[0], 200, "/hold/0");
    wait_for_seen(3);
    w.is_held[1] = false;
    check_last_reply(&held[1], 200, "/hold/1");
    for (int i = 0; i < N; i++) {
        check_reply(&clients[i], 200, "/a");
        check_last_reply(&clients[i], 200, "/b");
    }
    CHECK_SIZE(w.n_seen, 3 + 2 * N); /* what was pipelined behind it has waited */
    w.is_held[2] = false;
    check_reply(&held[2], 200, "/hold/2");
    check_last_reply(&held[2], 200, "/mine");
    close_world();
}

/* ---- taking back ----------------------------------------------------------------- */

/* Its dispatch goes on; what it sends meanwhile must not overwrite what that was given:
 * see the end of dispatch(). */
static void
test_answered_connection_goes_on_in_a_slow_dispatch(void)
{
    reset_world(2);
    open_world();
    test_peer held[2];
    hold_threads(held, 2);
    w.is_held[2] = true;
    size_t n_bytes = 2 * N_BYTES(GET("/hold/0"));
    test_peer client = ask(GET("/old"));
    n_bytes += N_BYTES(GET("/old"));
    wait_for_bytes(n_bytes);
    test_peer last = ask(GET("/hold/2"));
    n_bytes += N_BYTES(GET("/hold/2"));
    wait_for_bytes(n_bytes);
    w.is_held[0] = false; /* one thread has both now */
    check_reply(&client, 200, "/old");
    wait_for_seen(4);
    w.is_held[1] = false; /* and the other serves it */
    check_last_reply(&held[1], 200, "/hold/1");
    for (int i = 0; i < 20; i++) {
        CHECK(peer_say(&client, i % 2 == 0 ? GET("/new") : GET("/NEW")));
        check_reply(&client, 200, i % 2 == 0 ? "/new" : "/NEW");
    }
    peer_close(&client);
    wait_for_conns(2); /* it is gone, but not its bytes */
    test_peer other = ask(GET("/abc") GET("/abc"));
    check_reply(&other, 200, "/abc");
    check_last_reply(&other, 200, "/abc");
    w.is_held[2] = false;
    check_last_reply(&last, 200, "/hold/2");
    check_last_reply(&held[0], 200, "/hold/0");
    close_world();
}

/* A pipeline is taken back as a whole, what is answered of it is sent at once. */
static void
test_reply_leaves_before_a_later_one_of_its_pipeline(void)
{
    reset_world(1);
    w.is_held[0] = true;
    open_world();
    test_peer client = ask(GET("/a") GET("/big") GET("/hold/0") GET("/b"));
    check_reply(&client, 200, "/a");
    CHECK_SIZE(peer_read(&client).body_len, sizeof(big));
    CHECK(w.is_held[0] && w.n_seen == 3);
    w.is_held[0] = false;
    check_reply(&client, 200, "/hold/0");
    check_reply(&client, 200, "/b");
    peer_close(&client);
    close_world();
}

/* Nothing was settled for longer than requests may wait; what is then is not late. */
static void
test_pipeline_that_is_taken_back_has_not_waited(void)
{
    reset_world(2);
    w.limits.batch_size = 1;
    w.limits.queue_timeout_ms = 400; /* more than a thread is kept from its turn */
    open_world();
    for (int i = 0; i < 2; i++) {
        w.is_held[0] = true;
        test_peer client = ask(GET("/behind/0") GET("/a"));
        check_reply(&client, 200, "/behind/0");
        check_last_reply(&client, 200, "/a");
        w.is_held[0] = false;
        usleep(600000);
    }
    close_world();
}

static uint64_t
n_bytes_sent(void)
{
    return fb_count_get(&w.server->stats->n_bytes_sent);
}

static void *
ask_often(void *argument)
{
    size_t *n_bytes = argument;
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 3000; i++) {
        (void)peer_say(&client, GET("/a"));
        (void)peer_read(&client);
    }
    *n_bytes = client.len;
    peer_close(&client);
    return NULL;
}

/* Read a reply in chunks to its end. */
static void
read_chunks(test_peer *client)
{
    CHECK_SIZE((size_t)peer_read(client).status, 200);
    while (memmem(client->data + client->at, client->len - client->at, "0\r\n\r\n",
                  5) == NULL) {
        ssize_t n;
        do {
            n = recv(client->fd, client->data + client->len, 1, 0);
        } while (n < 0 && errno == EINTR); /* with a time-out, by SIGCONT, too */
        CHECK(n == 1);
        if (n != 1) {
            return;
        }
        client->len++;
    }
    client->at = client->len;
}

/* The threads send, and so does the loop. */
static void
test_every_byte_sent_is_counted(void)
{
    enum { N = 2 };
    size_t n_bytes[N];
    pthread_t askers[N];
    reset_world(2);
    open_world();
    for (int i = 0; i < N; i++) {
        pthread_create(&askers[i], NULL, ask_often, &n_bytes[i]);
    }
    test_peer client = peer_open(w.port);
    for (int i = 0; i < 8; i++) {
        CHECK(peer_say(&client, GET("/big") GET("/later/0")));
        CHECK_SIZE(peer_read(&client).body_len, sizeof(big));
        read_chunks(&client);
    }
    size_t total = client.len;
    for (int i = 0; i < N; i++) {
        pthread_join(askers[i], NULL);
        total += n_bytes[i];
    }
    peer_close(&client);
    wait_for_conns(0);
    CHECK_SIZE(n_bytes_sent(), total);
    close_world();
}

/* ---- waiting --------------------------------------------------------------------- */

static void
wait_for_threads(size_t n)
{
    size_t n_there = 0;
    for (int i = 0; i < PEER_TIMEOUT_MS && n_there < n; i++) {
        usleep(1000);
        uv_mutex_lock(&w.server->pool.lock);
        n_there = w.server->pool.n_there;
        uv_mutex_unlock(&w.server->pool.lock);
    }
    CHECK_SIZE(n_there, n);
}

/* What is ready at one time goes to all that are idle, in equal parts. */
static void
test_idle_threads_share_fairly(void)
{
    enum { THREADS = 3, N = 8 };
    reset_world(THREADS);
    open_world();
    test_peer clients[N];
    for (int i = 0; i < N; i++) {
        clients[i] = peer_open(w.port);
    }
    wait_for_conns(N);
    wait_for_threads(THREADS);
    hold_loop();
    for (int i = 0; i < N; i++) {
        CHECK(peer_say(&clients[i], GET("/a")));
    }
    let_loop_go();
    for (int i = 0; i < N; i++) {
        check_last_reply(&clients[i], 200, "/a");
    }
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].n_batches), THREADS);
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].batch_sizes[3]), 2);
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].batch_sizes[2]), 1);
    close_world();
}

static void
test_batch_grows_while_all_threads_are_busy(void)
{
    enum { N = 30 };
    reset_world(1);
    open_world();
    test_peer held;
    test_peer clients[N];
    hold_threads(&held, 1);
    for (int i = 0; i < N; i++) {
        clients[i] = ask(GET("/a"));
    }
    wait_for_bytes(N_BYTES(GET("/hold/0")) + N * N_BYTES(GET("/a")));
    w.is_held[0] = false;
    for (int i = 0; i < N; i++) {
        check_last_reply(&clients[i], 200, "/a");
    }
    check_last_reply(&held, 200, "/hold/0");
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[0].batch_sizes[N]), 1);
    close_world();
}

static void
test_full_batch_blocks_and_nothing_is_lost(void)
{
    enum { N = 30 };
    for (size_t size = 1; size <= 4; size++) {
        reset_world(1);
        w.limits.batch_size = size;
        open_world();
        test_peer held;
        test_peer clients[N];
        hold_threads(&held, 1);
        for (int i = 0; i < N; i++) {
            clients[i] = ask(i % 3 == 0 ? GET("/a") GET("/b") GET("/c") : GET("/a"));
        }
        wait_for_conns(N + 1);
        usleep(20000);
        CHECK_SIZE(w.n_seen, 1);
        peer_reset(&clients[N - 1]); /* two of those that are blocked */
        peer_reset(&clients[N - 3]);
        w.is_held[0] = false;
        for (int i = 0; i < N; i++) {
            if (i == N - 1 || i == N - 3) {
                continue;
            }
            check_reply(&clients[i], 200, "/a");
            if (i % 3 == 0) {
                check_reply(&clients[i], 200, "/b");
                check_reply(&clients[i], 200, "/c");
            }
            peer_close(&clients[i]);
        }
        check_last_reply(&held, 200, "/hold/0");
        close_world();
    }
}

/* Returns how many requests were begun before that of path. */
static size_t
place_of(const char *path)
{
    for (size_t i = 0; i < w.n_seen && i < MOST_SEEN; i++) {
        if (strcmp(w.seen[i], path) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static void
test_blocked_connections_are_served_in_their_order(void)
{
    enum { N = 12 };
    reset_world(1);
    w.limits.batch_size = 4;
    open_world();
    test_peer held;
    test_peer clients[N];
    hold_threads(&held, 1);
    size_t n_bytes = N_BYTES(GET("/hold/0"));
    for (int i = 0; i < N; i++) {
        char request[64];
        snprintf(request, sizeof(request), GET("/%c"), 'a' + i);
        clients[i] = ask(request);
        n_bytes += strlen(request);
        wait_for_bytes(n_bytes);
    }
    w.is_held[0] = false;
    for (int i = 0; i < N; i++) {
        char path[8];
        snprintf(path, sizeof(path), "/%c", 'a' + i);
        check_last_reply(&clients[i], 200, path);
        CHECK_SIZE(place_of(path), (size_t)i + 1);
    }
    check_last_reply(&held, 200, "/hold/0");
    close_world();
}

/* Each of the others could fill every batch: those before it do so once. */
static void
test_pipelines_do_not_keep_out_a_single_request(void)
{
    enum { N = 8, EACH = 40, BEFORE = 3 };
    reset_world(1);
    w.limits.batch_size = 4;
    open_world();
    test_peer held;
    test_peer clients[N];
    hold_threads(&held, 1);
    size_t n_bytes = N_BYTES(GET("/hold/0"));
    for (int i = 0; i < N; i++) {
        char requests[EACH * 64];
        char *at = requests;
        for (int j = 0; j < (i == BEFORE ? 1 : EACH); j++) {
            at += sprintf(at, i == BEFORE ? GET("/single") : GET("/p"));
        }
        clients[i] = ask(requests);
        n_bytes += strlen(requests);
        wait_for_bytes(n_bytes);
        usleep(3000); /* the order is that of milliseconds */
    }
    w.is_held[0] = false;
    check_last_reply(&clients[BEFORE], 200, "/single");
    CHECK_SIZE(place_of("/single"), 1 + BEFORE * 4);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < EACH && i != BEFORE; j++) {
            check_reply(&clients[i], 200, "/p");
        }
        if (i != BEFORE) {
            peer_close(&clients[i]);
        }
    }
    check_last_reply(&held, 200, "/hold/0");
    close_world();
}

/* One has a slot, the other has none. */
static void
test_who_waits_for_too_long_gets_503(void)
{
    reset_world(1);
    w.limits.batch_size = 2;
    w.limits.queue_timeout_ms = 400;
    open_world();
    test_peer held;
    hold_threads(&held, 1);
    test_peer queued = ask(GET("/a") GET("/b"));
    wait_for_bytes(N_BYTES(GET("/hold/0") GET("/a") GET("/b")));
    test_peer blocked = ask(GET("/c"));
    check_reply(&queued, 503, NULL);
    check_over(&queued);
    check_reply(&blocked, 503, NULL);
    check_over(&blocked);
    CHECK_SIZE(w.n_seen, 1);
    CHECK_SIZE(fb_count_get(&w.server->stats->n_overloaded), 2);
    w.is_held[0] = false;
    check_reply(&held, 200, "/hold/0");
    CHECK(peer_say(&held, GET("/after"))); /* its own time was not counted */
    check_last_reply(&held, 200, "/after");
    close_world();
}

/* ---- peers that leave ------------------------------------------------------------ */

static void
test_peers_that_leave_while_they_are_queued_or_blocked(void)
{
    enum { N = 12 };
    reset_world(1);
    w.limits.batch_size = 6;
    open_world();
    for (size_t round = 0; round < 5; round++) {
        test_peer held;
        test_peer clients[N];
        w.n_seen = 0;
        hold_threads(&held, 1);
        for (int i = 0; i < N; i++) {
            clients[i] = ask(GET("/a") GET("/later/1"));
        }
        wait_for_conns(N + 1);
        for (int i = 0; i < N; i++) {
            if (i % 2 == 0) {
                peer_reset(&clients[i]);
            } else {
                peer_close(&clients[i]);
            }
        }
        w.is_held[0] = false;
        check_last_reply(&held, 200, "/hold/0");
        wait_for_conns(0);
    }
    close_world();
}

static void
test_peers_that_leave_while_a_thread_has_them(void)
{
    enum { N = 10 };
    reset_world(2);
    open_world();
    for (int round = 0; round < 5; round++) {
        test_peer clients[N];
        w.n_seen = 0;
        w.is_held[0] = true;
        for (int i = 0; i < N; i++) {
            clients[i] = ask(i < 2 ? GET("/big") GET("/hold/0") GET("/a")
                                   : GET("/a") GET("/big"));
        }
        wait_for_seen(4);
        for (int i = 0; i < N; i++) {
            if ((i + round) % 2 == 0) {
                peer_reset(&clients[i]);
            } else {
                peer_close(&clients[i]);
            }
        }
        w.is_held[0] = false;
        wait_for_conns(0);
    }
    close_world();
}

/* A reset that the loop sees in the same read as the requests: of exactly as many bytes
 * as it has room for, so that it reads again at once. */
static void
check_reset_behind(size_t len, bool are_threads_held)
{
    reset_world(1);
    open_world();
    test_peer held;
    if (are_threads_held) {
        hold_threads(&held, 1);
    }
    hold_loop();
    for (int i = 0; i < 3; i++) {
        char request[FB_INPUT_BYTES + 1];
        int n = snprintf(request, sizeof(request),
                         GET("/a") GET("/b") "GET /c HTTP/1.1\r\nHost: a\r\nX: ");
        memset(request + n, 'x', sizeof(request) - (size_t)n);
        memcpy(request + len - 4, "\r\n\r\n", 5);
        test_peer client = ask(request);
        peer_reset(&client);
    }
    let_loop_go();
    wait_for_conns(are_threads_held ? 1 : 0);
    test_peer client = ask(GET("/after"));
    if (are_threads_held) {
        w.is_held[0] = false;
        check_last_reply(&held, 200, "/hold/0");
    }
    check_last_reply(&client, 200, "/after");
    close_world();
}

static void
test_reset_that_comes_with_the_requests(void)
{
    for (int i = 0; i < 2; i++) {
        check_reset_behind(FB_INPUT_BYTES, i == 1);
        check_reset_behind(FB_INPUT_BYTES - 1000, i == 1);
    }
}

/* Each request is given to a thread while it is read, and the end follows at once. */
static void
test_peers_that_leave_while_their_request_is_shared_out(void)
{
    reset_world(2);
    w.limits.batch_size = 1;
    open_world();
    for (int i = 0; i < 100; i++) {
        hold_loop();
        test_peer one = ask(GET("/a"));
        test_peer two = ask(GET("/b") GET("/c"));
        peer_reset(&one);
        if (i % 2 == 0) {
            peer_reset(&two);
        } else {
            peer_end(&two);
        }
        let_loop_go();
        if (i % 2 != 0) {
            check_reply(&two, 200, "/b");
            check_reply(&two, 200, "/c");
            check_over(&two);
        }
    }
    wait_for_conns(0);
    close_world();
}

/* ---- streams --------------------------------------------------------------------- */

#define CHUNK_ONE "3\r\none\r\n"
#define CHUNKS CHUNK_ONE "3\r\ntwo\r\n0\r\n\r\n"

static void
wait_for_chunk(test_peer *client)
{
    char some[N_BYTES(CHUNK_ONE)];
    CHECK_SIZE((size_t)peer_read(client).status, 200);
    while (client->len - client->at < sizeof(some)) {
        ssize_t n;
        do {
            n = recv(client->fd, client->data + client->len, 1, 0);
        } while (n < 0 && errno == EINTR); /* with a time-out, by SIGCONT, too */
        CHECK(n == 1);
        client->len++;
    }
    CHECK_TEXT(client->data + client->at, client->len - client->at, CHUNK_ONE);
}

static void
test_stream_whose_next_item_is_late_holds_up_nobody(void)
{
    reset_world(2);
    w.is_held[1] = true;
    open_world();
    test_peer client = ask(GET("/a") GET("/later/1"));
    check_reply(&client, 200, "/a");
    wait_for_chunk(&client);
    test_peer other = ask(GET("/b"));
    check_last_reply(&other, 200, "/b");
    w.is_held[1] = false;
    peer_end(&client);
    peer_drain(&client);
    CHECK_TEXT(client.data + client.at, client.len - client.at, CHUNKS);
    peer_close(&client);
    close_world();
}

static void
test_many_streams_on_few_threads(void)
{
    enum { N = 40 };
    reset_world(2);
    open_world();
    test_peer clients[N];
    for (int i = 0; i < N; i++) {
        clients[i] = ask(GET("/later/1"));
        peer_end(&clients[i]);
    }
    for (int i = 0; i < N; i++) {
        CHECK_SIZE((size_t)peer_read(&clients[i]).status, 200);
        peer_drain(&clients[i]);
        CHECK_TEXT(clients[i].data + clients[i].at, clients[i].len - clients[i].at,
                   CHUNKS);
        peer_close(&clients[i]);
    }
    close_world();
}

static void
test_peers_that_leave_a_stream_that_waits(void)
{
    enum { N = 6 };
    reset_world(2);
    open_world();
    for (int round = 0; round < 5; round++) {
        test_peer clients[N];
        w.is_held[1] = true;
        for (int i = 0; i < N; i++) {
            clients[i] = ask(GET("/later/1") GET("/a"));
        }
        for (int i = 0; i < PEER_TIMEOUT_MS && w.n_pulling == 0; i++) {
            usleep(1000);
        }
        CHECK(w.n_pulling > 0);
        for (int i = 0; i < N; i++) {
            if ((i + round) % 2 == 0) {
                peer_reset(&clients[i]);
            } else {
                peer_close(&clients[i]);
            }
        }
        w.is_held[1] = false;
        wait_for_conns(0);
    }
    close_world();
}

/* ---- stopping -------------------------------------------------------------------- */

static void
test_graceful_stop_answers_what_waits(void)
{
    reset_world(1);
    w.limits.batch_size = 2;
    open_world();
    test_peer held;
    hold_threads(&held, 1);
    w.is_held[1] = true;
    test_peer queued = ask(GET("/a") GET("/later/1"));
    wait_for_bytes(N_BYTES(GET("/hold/0") GET("/a") GET("/later/1")));
    test_peer blocked = ask(GET("/c"));
    test_peer idle = peer_open(w.port);
    wait_for_conns(4);
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    check_over(&idle);
    w.is_held[0] = false;
    check_reply(&held, 200, "/hold/0");
    check_over(&held);
    check_reply(&queued, 200, "/a");
    w.is_held[1] = false;
    CHECK_SIZE((size_t)peer_read(&queued).status, 200);
    peer_drain(&queued);
    CHECK_TEXT(queued.data + queued.at, queued.len - queued.at, CHUNKS);
    peer_close(&queued);
    check_reply(&blocked, 200, "/c");
    check_over(&blocked);
    join_world();
    CHECK(!w.is_abandoned);
}

/* One that is late finds what waits; a place is free for it. */
static void
test_thread_that_comes_late_is_given_what_waits(void)
{
    pthread_t late;
    reset_world(2);
    CHECK(open_server(peer_listen(&w.port)) == 0);
    pthread_create(&w.thread, NULL, run_server, NULL);
    test_peer one = ask(GET("/a"));
    test_peer two = ask(GET("/b"));
    wait_for_bytes(N_BYTES(GET("/a") GET("/b")));
    pthread_create(&late, NULL, work, &w);
    check_last_reply(&one, 200, "/a");
    check_last_reply(&two, 200, "/b");
    w.handlers[0] = late;
    w.limits.threads = 1; /* to be joined */
    close_world();
}

static void
test_handler_can_stop_its_server(void)
{
    reset_world(2);
    open_world();
    test_peer client = ask(GET("/a") GET("/stop") GET("/b"));
    check_reply(&client, 200, "/a");
    check_reply(&client, 200, "/stop");
    check_reply(&client, 200, "/b");
    check_over(&client);
    join_world();
}

/* One is dispatching, one pulls; others are queued, and blocked. */
static void
check_stop_with_threads_busy(fb_stop stop)
{
    reset_world(2);
    w.limits.batch_size = 2;
    w.limits.graceful_timeout_ms = 100;
    open_world();
    test_peer clients[6];
    w.is_held[1] = true;
    clients[0] = ask(GET("/later/1"));
    wait_for_chunk(&clients[0]);
    w.is_held[0] = true;
    clients[1] = ask(GET("/a") GET("/hold/0"));
    check_reply(&clients[1], 200, "/a");
    wait_for_seen(3);
    for (int i = 2; i < 6; i++) {
        clients[i] = ask(GET("/b"));
    }
    wait_for_conns(6);
    fb_server_stop(w.server, stop);
    for (int i = 2; i < 6; i++) { /* they hear of it at once */
        peer_drain(&clients[i]);
        peer_close(&clients[i]);
    }
    CHECK(fb_pool_is_busy(&w.server->pool));
    w.is_held[0] = false;
    w.is_held[1] = false;
    join_world();
    CHECK(!w.is_abandoned);
    peer_close(&clients[0]);
    peer_close(&clients[1]);
}

static void
test_stop_waits_for_busy_threads_and_for_nobody_else(void)
{
    check_stop_with_threads_busy(FB_STOP_NOW);
    check_stop_with_threads_busy(FB_STOP_GRACEFUL);
}

static void
test_second_signal_does_not_wait_for_busy_threads(void)
{
    for (int i = 0; i < 3; i++) {
        reset_world(2);
        CHECK(pipe2(w.wakeup, O_NONBLOCK | O_CLOEXEC) == 0);
        open_world();
        test_peer held;
        hold_threads(&held, 1);
        w.is_held[1] = true;
        test_peer stream = ask(GET("/later/1"));
        if (i > 0) {
            wait_for_chunk(&stream);
        }
        test_peer queued = ask(GET("/a"));
        CHECK(write(w.wakeup[1], "x", 1) == 1);
        for (int j = 0; j < PEER_TIMEOUT_MS && !w.may_leave; j++) {
            usleep(1000);
        }
        CHECK(w.may_leave);
        if (i == 2) { /* one that leaves later than the other */
            w.is_held[1] = false;
            usleep(20000);
        }
        w.is_held[0] = false;
        w.is_held[1] = false;
        join_world();
        CHECK(w.is_abandoned);
        peer_close(&held);
        peer_close(&stream);
        peer_close(&queued);
        close(w.wakeup[0]);
        close(w.wakeup[1]);
    }
}

/* Bodies are on their way when the loop and the threads have ended already. */
static void
test_second_signal_while_only_bodies_are_sent(void)
{
    reset_world(2);
    CHECK(pipe2(w.wakeup, O_NONBLOCK | O_CLOEXEC) == 0);
    open_world();
    test_peer clients[3];
    for (int i = 0; i < 3; i++) {
        clients[i] = ask(i < 2 ? GET("/big") GET("/later/0") : GET("/later/0"));
    }
    wait_for_seen(5);
    read_chunks(&clients[2]);
    for (int i = 0; i < PEER_TIMEOUT_MS && fb_pool_is_busy(&w.server->pool); i++) {
        usleep(1000);
    }
    CHECK(write(w.wakeup[1], "x", 1) == 1);
    join_world();
    CHECK(!w.is_abandoned);
    for (int i = 0; i < 3; i++) {
        peer_close(&clients[i]);
    }
    close(w.wakeup[0]);
    close(w.wakeup[1]);
}

static void
test_server_that_never_ran_lets_its_threads_go(void)
{
    reset_world(MOST_THREADS);
    CHECK(open_server(peer_listen(&w.port)) == 0);
    pthread_t threads[MOST_THREADS]; /* of which some come too late */
    for (int i = 0; i < MOST_THREADS; i++) {
        pthread_create(&threads[i], NULL, work, &w);
    }
    fb_pool_wait_for_end(&w.server->pool);
    for (int i = 0; i < MOST_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(!fb_pool_is_busy(&w.server->pool));
    fb_server_close(w.server);
    free(w.server);
}

static void
test_no_more_threads_than_asked_for(void)
{
    reset_world(2);
    CHECK(open_server(peer_listen(&w.port)) == 0);
    fb_pool *pool = &w.server->pool;
    fb_executor *one = fb_pool_join(pool);
    fb_executor *two = fb_pool_join(pool);
    CHECK(one != NULL && two != NULL && one != two);
    CHECK(fb_pool_join(pool) == NULL);
    fb_pool_leave(pool);
    fb_pool_leave(pool);
    fb_server_close(w.server);
    free(w.server);
}

/* ---- want of memory -------------------------------------------------------------- */

static void
test_server_without_memory_for_its_threads_does_not_open(void)
{
    bool is_faulty = true;
    for (size_t nth = 1; nth <= 40 && is_faulty; nth++) {
        reset_world(MOST_THREADS);
        int fd = peer_listen(&w.port);
        fault_set(nth);
        int error = open_server(fd);
        is_faulty = fault_happened() != 0;
        fault_set(0);
        CHECK(error == (is_faulty ? UV_ENOMEM : 0));
        if (w.server->n_listeners == 0) {
            close(fd);
        }
        fb_server_close(w.server);
        CHECK_SIZE(fb_count_get(&w.server->heap.n_held), 0);
        free(w.server);
    }
    CHECK(!is_faulty);
}

/* Whichever block cannot be had, that of an input to be renewed among them: at worst a
 * connection ends. */
static void
test_server_outlives_want_of_memory(void)
{
    bool is_faulty = true;
    for (size_t nth = 1; nth <= 80 && is_faulty; nth++) {
        reset_world(1);
        open_world();
        test_peer held;
        test_peer clients[4];
        hold_threads(&held, 1);
        w.is_held[1] = true;
        fault_set(nth);
        for (int i = 0; i < 4; i++) {
            clients[i] = ask(i < 3 ? GET("/a") GET("/big") : GET("/later/0"));
        }
        usleep(5000);
        test_peer last = ask(GET("/hold/1"));
        usleep(5000);
        w.is_held[0] = false;
        usleep(5000); /* the next dispatch is slow */
        for (int i = 0; i < 4; i++) {
            (void)peer_say(&clients[i], GET("/b"));
        }
        usleep(5000);
        w.is_held[1] = false;
        for (int i = 0; i < 4; i++) {
            peer_end(&clients[i]);
            peer_drain(&clients[i]);
            peer_close(&clients[i]);
        }
        peer_close(&last);
        peer_close(&held);
        wait_for_conns(0);
        is_faulty = fault_happened() != 0;
        fault_set(0);
        test_peer client = ask(GET("/after"));
        check_last_reply(&client, 200, "/after");
        close_world();
    }
    CHECK(!is_faulty);
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN); /* as Python does */
    memset(big, 'b', sizeof(big));
    RUN(test_pipelined_requests_are_answered_in_order);
    RUN(test_thread_that_blocks_holds_up_nobody);
    RUN(test_slot_without_an_answer_is_a_500);
    RUN(test_nothing_is_answered_after_close);
    RUN(test_slots_not_begun_go_to_a_thread_that_is_idle);
    RUN(test_answered_connection_goes_on_in_a_slow_dispatch);
    RUN(test_reply_leaves_before_a_later_one_of_its_pipeline);
    RUN(test_pipeline_that_is_taken_back_has_not_waited);
    RUN(test_every_byte_sent_is_counted);
    RUN(test_idle_threads_share_fairly);
    RUN(test_batch_grows_while_all_threads_are_busy);
    RUN(test_full_batch_blocks_and_nothing_is_lost);
    RUN(test_blocked_connections_are_served_in_their_order);
    RUN(test_pipelines_do_not_keep_out_a_single_request);
    RUN(test_who_waits_for_too_long_gets_503);
    RUN(test_peers_that_leave_while_they_are_queued_or_blocked);
    RUN(test_peers_that_leave_while_a_thread_has_them);
    RUN(test_reset_that_comes_with_the_requests);
    RUN(test_peers_that_leave_while_their_request_is_shared_out);
    RUN(test_stream_whose_next_item_is_late_holds_up_nobody);
    RUN(test_many_streams_on_few_threads);
    RUN(test_peers_that_leave_a_stream_that_waits);
    RUN(test_graceful_stop_answers_what_waits);
    RUN(test_thread_that_comes_late_is_given_what_waits);
    RUN(test_handler_can_stop_its_server);
    RUN(test_stop_waits_for_busy_threads_and_for_nobody_else);
    RUN(test_second_signal_does_not_wait_for_busy_threads);
    RUN(test_second_signal_while_only_bodies_are_sent);
    RUN(test_server_that_never_ran_lets_its_threads_go);
    RUN(test_no_more_threads_than_asked_for);
    RUN(test_server_without_memory_for_its_threads_does_not_open);
    RUN(test_server_outlives_want_of_memory);
    return check_report("test_pool");
}
