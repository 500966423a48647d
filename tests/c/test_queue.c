/* SPDX-License-Identifier: MIT */
/*
 * Queues over the loopback, with a dispatcher in C: which requests are of one batch,
 * who waits for whom and for how long, what is refused, and how all of it ends. Most
 * tests run twice: on a server whose loop runs the handlers, and on one with threads.
 * See that nothing is left is what each of them does in the end.
 */
#include "check.h"
#include "io/server.h"
#include "limits.h"
#include "peer.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define MOST_THREADS 4
#define N_QUEUES 3
#define BIG_BYTES (4 << 20) /* of a reply: more than sockets hold */
#define MOST_BATCHES 4096
#define TARGET_BYTES 24 /* of those below, their end included */
#define NS_PER_MS 1000000ULL
#define FOR_EVER_NS (60000 * NS_PER_MS)

/* A batch that was dispatched. */
typedef struct seen_batch {
    uint32_t queue;
    size_t n_slots;
    char first[TARGET_BYTES]; /* its first request */
} seen_batch;

/* The server under test, and what its handlers have seen. */
typedef struct world {
    fb_limits limits; /* to be changed before open_world, as rules */
    fb_queue_rules rules[N_QUEUES];
    fb_server *server;
    pthread_t thread;
    pthread_t handlers[MOST_THREADS];
    int port;
    int run_error;
    size_t n_fds;                  /* that were open before it was */
    bool is_tickless;              /* nothing comes round but for a reason */
    useconds_t handler_us;         /* that a batch takes at the least */
    atomic_bool is_held[N_QUEUES]; /* handlers of the queue wait */
    atomic_bool is_loop_held;      /* the loop does, before it rests */
    atomic_bool does_loop_wait;
    atomic_size_t n_rests;             /* of the loop */
    atomic_size_t n_joined;            /* threads */
    atomic_size_t n_running[N_QUEUES]; /* batches of the queue */
    atomic_size_t most_running[N_QUEUES];
    atomic_size_t n_batches;
    seen_batch batches[MOST_BATCHES];
} world;

static world w;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for w.batches */
static char big[BIG_BYTES];

static const fb_route routes[] = {
    {.path = "/one", .path_len = 4, .method = FB_ANY_METHOD, .queue = 1},
    {.path = "/two", .path_len = 4, .method = FB_ANY_METHOD, .queue = 2},
};

static void
wait_while(const atomic_bool *holds)
{
    while (*holds) {
        usleep(1000);
    }
}

/* ---- the dispatcher: each request is answered with its target -------------------- */

static void
copy_target(const fb_slot *slot, char *target)
{
    fb_span span = slot->req.target;
    size_t len = span.len < TARGET_BYTES ? span.len : TARGET_BYTES - 1;
    memcpy(target, slot->data + span.off, len);
    target[len] = '\0';
}

static void
note_batch(fb_executor *executor)
{
    uint32_t queue = executor->batch->queue;
    size_t n_slots = fb_executor_n_slots(executor); /* others may be given some */
    pthread_mutex_lock(&lock);
    if (w.n_batches < MOST_BATCHES) {
        seen_batch *seen = &w.batches[w.n_batches];
        seen->queue = queue;
        seen->n_slots = n_slots;
        copy_target(&executor->batch->slots[0], seen->first);
    }
    size_t n = ++w.n_running[queue];
    w.most_running[queue] = n > w.most_running[queue] ? n : w.most_running[queue];
    w.n_batches++;
    pthread_mutex_unlock(&lock);
}

/* Of a request as /one?close the last reply is that; of /one?big the reply is big. */
static void
answer(fb_executor *executor, fb_slot *slot)
{
    char target[TARGET_BYTES];
    copy_target(slot, target);
    bool is_big = strstr(target, "?big") != NULL;
    size_t len = is_big ? sizeof(big) : strlen(target);
    fb_executor_lock(executor);
    const fb_head head = {
        .status = 200,
        .content_type = "text/plain",
        .framing = FB_FRAMING_LENGTH,
        .length = len,
        .is_http10 = slot->req.minor == 0,
        .keep_alive =
            fb_conn_keeps_alive(slot->owner, slot) && strstr(target, "?close") == NULL,
    };
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL) {
        bool ok = fb_reply_head(&out->bytes, &executor->stamp, &head) &&
                  fb_buf_append(&out->bytes, is_big ? big : target, len);
        assert(ok);
        (void)ok;
    }
    fb_slot_note(slot, head.status, len);
    fb_conn_answered(slot->owner, slot, head.keep_alive);
    fb_executor_unlock(executor);
    fb_pool_tell(executor);
}

static void
dispatch(fb_executor *executor)
{
    uint32_t queue = executor->batch->queue;
    note_batch(executor);
    wait_while(&w.is_held[queue]);
    usleep(w.handler_us);
    for (size_t n = 0; fb_executor_claim(executor, n); n++) {
        if (!executor->batch->slots[n].is_answered) {
            answer(executor, &executor->batch->slots[n]);
        }
    }
    w.n_running[queue]--;
}

static bool
on_dispatch(void *owner, fb_batch *batch)
{
    (void)owner;
    CHECK(w.server->executor.batch == batch);
    dispatch(&w.server->executor);
    return true;
}

static void *
work(void *argument)
{
    fb_pool *pool = &w.server->pool;
    fb_executor *executor = fb_pool_join(pool);
    fb_job *job = NULL;
    assert(executor != NULL);
    w.n_joined++;
    while (fb_pool_wait(pool, executor, &job) == FB_WORK_BATCH) {
        fb_executor_begin(executor);
        dispatch(executor);
        fb_pool_give_back(pool, executor);
    }
    fb_pool_leave(pool);
    return argument;
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
    w.n_rests++;
    if (w.is_tickless) {
        uv_timer_stop(&w.server->tick);
        if (w.limits.threads > 0) {
            uv_timer_stop(&w.server->pool.watch);
        }
    }
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

static size_t
count_fds(void)
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

static void *
run_server(void *argument)
{
    w.run_error = fb_server_run(w.server);
    fb_pool_wait_for_end(&w.server->pool);
    return argument;
}

/* Queue 0 as it is by default; the others are of batch handlers. */
static void
reset_world(size_t n_threads)
{
    memset(&w, 0, sizeof(w));
    w.limits = test_limits();
    w.limits.threads = n_threads;
    for (size_t i = 0; i < N_QUEUES; i++) {
        w.rules[i] = (fb_queue_rules){
            .is_whole = i > 0,
            .concurrency = 1,
            .batch_size = FB_BATCH_SLOTS,
            .size = FB_QUEUE_SIZE,
            .full_status = 503,
        };
    }
}

static void
open_server(void)
{
    w.n_fds = count_fds();
    int fd = peer_listen(&w.port);
    w.server = calloc(1, sizeof(*w.server));
    assert(w.server != NULL);
    const fb_server_setup setup = {
        .limits = &w.limits,
        .fds = &fd,
        .n_fds = 1,
        .queues = w.rules,
        .n_queues = N_QUEUES,
        .routes = routes,
        .n_routes = sizeof(routes) / sizeof(routes[0]),
        .deadline_field = "x-wait-ms",
        .server_value = "test",
        .temp_dir = "/tmp",
        .wakeup_fd = -1,
        .heartbeat_ms = w.is_tickless ? 0 : 5,
        .ops = &server_ops,
    };
    int error = fb_server_open(w.server, &setup);
    assert(error == 0);
    (void)error;
}

static void
open_world(void)
{
    open_server();
    for (size_t i = 0; i < w.limits.threads; i++) {
        int error = pthread_create(&w.handlers[i], NULL, work, &w);
        assert(error == 0);
        (void)error;
    }
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_joined < w.limits.threads; i++) {
        usleep(1000);
    }
    int error = pthread_create(&w.thread, NULL, run_server, NULL);
    assert(error == 0);
    (void)error;
}

/* Close a server that does not run. */
static void
shut_server(void)
{
    const fb_stats *stats = w.server->stats;
    fb_server_close(w.server);
    CHECK_SIZE(fb_count_get(&stats->n_slots), 0);
    for (size_t i = 0; i < N_QUEUES; i++) {
        CHECK_SIZE(fb_count_get(&stats->queues[i].n_waiting), 0);
    }
    CHECK_SIZE(fb_count_get(&w.server->heap.n_held), 0);
    CHECK_SIZE(count_fds(), w.n_fds);
    free(w.server);
}

/* Wait for the server to end, and see that it has left nothing behind. Clients are
 * closed by now. */
static void
join_world(void)
{
    pthread_join(w.thread, NULL);
    for (size_t i = 0; i < w.limits.threads; i++) {
        pthread_join(w.handlers[i], NULL);
    }
    CHECK(w.run_error == 0);
    for (size_t i = 0; i < N_QUEUES; i++) {
        const fb_queue *queue = &w.server->queues[i];
        CHECK(queue->batch.n_slots == 0 && queue->n_blocked == 0);
        CHECK_SIZE(queue->n_running, 0);
    }
    shut_server();
}

static void
close_world(void)
{
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    join_world();
}

/* ---- waiting for what other threads do: up to PEER_TIMEOUT_MS -------------------- */

static void
wait_for_count(const fb_count *count, size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && fb_count_get(count) != n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(fb_count_get(count), n);
}

static void
wait_for_conns(size_t n)
{
    wait_for_count(&w.server->n_conns, n);
}

static void
wait_for_waiting(size_t queue, size_t n)
{
    wait_for_count(&w.server->stats->queues[queue].n_waiting, n);
}

static void
wait_for_expired(size_t queue, size_t n)
{
    wait_for_count(&w.server->stats->queues[queue].n_expired, n);
}

static void
wait_for_batches(size_t n)
{
    for (int i = 0; i < PEER_TIMEOUT_MS && w.n_batches < n; i++) {
        usleep(1000);
    }
    CHECK_SIZE(w.n_batches, n);
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

/* Nothing happens: the loop sleeps but for its timers. However long this takes, one
 * that does not comes round far more often. */
static void
check_quiet(void)
{
    size_t before = w.n_rests;
    uint64_t began = uv_hrtime();
    usleep(100 * 1000);
    uint64_t ms = (uv_hrtime() - began) / NS_PER_MS;
    CHECK(w.n_rests - before < 100 + 2 * ms);
}

/* ---- clients --------------------------------------------------------------------- */

#define GET(target) "GET " target " HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET_BY(target, ms)                                                             \
    "GET " target " HTTP/1.1\r\nHost: a\r\nX-Wait-Ms: " ms "\r\n\r\n"
/* With a body that may not stay in memory, where max_body_memory is less than that. */
#define SPOOLED(target)                                                                \
    "POST " target " HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n12345678"

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

/* A client whose request a handler has, until the queue is let go. */
static test_peer
hold_queue(size_t queue)
{
    static const char *const requests[] = {GET("/"), GET("/one"), GET("/two")};
    size_t n = w.n_batches;
    w.is_held[queue] = true;
    test_peer client = ask(requests[queue]);
    wait_for_batches(n + 1);
    return client;
}

static void
let_queue_go(size_t queue)
{
    w.is_held[queue] = false;
}

static void
check_batch(size_t i, uint32_t queue, size_t n_slots, const char *first)
{
    CHECK_SIZE(w.batches[i].queue, queue);
    CHECK_SIZE(w.batches[i].n_slots, n_slots);
    if (first != NULL) {
        CHECK_TEXT(w.batches[i].first, strlen(w.batches[i].first), first);
    }
}

/* ---- which requests are of one batch --------------------------------------------- */

static void
test_each_request_is_of_the_queue_of_its_route(void)
{
    static const struct {
        const char *request;
        uint32_t queue;
    } cases[] = {
        {GET("/one"), 1},      {GET("/two?x"), 2},
        {GET("/three"), 0},    {GET("/one/"), 0},
        {GET("/%6fne"), 1},    {GET("http://a/two"), 2},
        {GET("//one"), 0},     {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0},
        {GET("/one?/two"), 1},
    };
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        test_peer client = peer_open(w.port);
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            CHECK(peer_say(&client, cases[i].request));
            check_reply(&client, 200, NULL);
            check_batch(i, cases[i].queue, 1, NULL);
        }
        peer_close(&client);
        close_world();
    }
}

/* Its only thread is busy. */
static void
test_requests_of_a_queue_are_one_batch(void)
{
    reset_world(1);
    open_world();
    test_peer held = hold_queue(0);
    test_peer clients[6];
    for (size_t i = 0; i < 6; i++) {
        clients[i] = ask(i % 2 == 0 ? GET("/one") : GET("/two"));
    }
    wait_for_waiting(1, 3);
    wait_for_waiting(2, 3);
    check_quiet();
    let_queue_go(0);
    for (size_t i = 0; i < 6; i++) {
        check_last_reply(&clients[i], 200, i % 2 == 0 ? "/one" : "/two");
    }
    check_batch(1, 1, 3, "/one");
    check_batch(2, 2, 3, "/two");
    CHECK_SIZE(w.n_batches, 3);
    check_last_reply(&held, 200, "/");
    close_world();
}

#define N_PIPELINED 600
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

static const char *
path_of(int client, int i)
{
    static const char *const paths[] = {"/", "/one", "/two"};
    return paths[i * (client + 1) / 5 % 3];
}

static void
start_pipeline(pipeline *line, int client)
{
    char *at = line->bytes;
    for (int i = 0; i < N_PIPELINED; i++) {
        at +=
            sprintf(at, "GET %s?%d HTTP/1.1\r\nHost: a\r\n\r\n", path_of(client, i), i);
    }
    line->len = (size_t)(at - line->bytes);
    line->client = peer_open(w.port);
    pthread_create(&line->sender, NULL, send_all, line);
}

static void
run_pipelines(void)
{
    static pipeline lines[N_CLIENTS];
    for (int n = 0; n < N_CLIENTS; n++) {
        start_pipeline(&lines[n], n);
    }
    for (int i = 0; i < N_CLIENTS * N_PIPELINED; i++) {
        char target[TARGET_BYTES];
        int n = i % N_CLIENTS;
        snprintf(target, sizeof(target), "%s?%d", path_of(n, i / N_CLIENTS),
                 i / N_CLIENTS);
        check_reply(&lines[n].client, 200, target);
    }
    for (int n = 0; n < N_CLIENTS; n++) {
        pthread_join(lines[n].sender, NULL);
        peer_end(&lines[n].client);
        check_over(&lines[n].client);
    }
}

static void
test_pipelines_through_all_queues_are_answered_in_order(void)
{
    static const size_t batch_sizes[] = {FB_BATCH_SLOTS, 3, 1};
    for (size_t i = 0; i < 9; i++) {
        reset_world(i / 3);
        w.rules[0].batch_size = batch_sizes[i % 3];
        w.rules[1].batch_size = batch_sizes[(i + 1) % 3];
        w.rules[2].batch_wait_ns = i % 2 * 50000;
        open_world();
        run_pipelines();
        close_world();
    }
}

/* The loop reads both requests at once. */
static void
test_request_of_another_queue_waits_for_those_before_it(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        test_peer client = ask(GET("/one?a") GET("/two?b") GET("/two?c") GET("/d"));
        check_reply(&client, 200, "/one?a");
        check_reply(&client, 200, "/two?b");
        check_reply(&client, 200, "/two?c");
        check_last_reply(&client, 200, "/d");
        CHECK_SIZE(w.n_batches, 3);
        check_batch(1, 2, 2, "/two?b");
        close_world();
    }
}

static void
test_full_queue_holds_up_no_other_queue(void)
{
    reset_world(2);
    w.rules[1].batch_size = 1;
    open_world();
    test_peer held = hold_queue(1);
    test_peer waiting[3];
    for (size_t i = 0; i < 3; i++) {
        waiting[i] = ask(GET("/one?x") GET("/two?y"));
    }
    wait_for_waiting(1, 3);
    test_peer client = peer_open(w.port);
    for (size_t i = 0; i < 20; i++) {
        CHECK(peer_say(&client, GET("/two") GET("/")));
        check_reply(&client, 200, "/two");
        check_reply(&client, 200, "/");
    }
    check_quiet();
    peer_close(&client);
    let_queue_go(1);
    for (size_t i = 0; i < 3; i++) {
        check_reply(&waiting[i], 200, "/one?x");
        check_last_reply(&waiting[i], 200, "/two?y");
    }
    check_last_reply(&held, 200, "/one");
    close_world();
}

/* ---- whole batches and threads --------------------------------------------------- */

/* Not when it is handed over, nor when it is slow. */
static void
test_whole_batch_is_not_shared_out(void)
{
    reset_world(3);
    open_world();
    test_peer held = hold_queue(1);
    test_peer clients[3];
    for (size_t i = 0; i < 3; i++) {
        clients[i] = ask(GET("/one"));
    }
    wait_for_waiting(1, 3);
    let_queue_go(1);
    check_last_reply(&held, 200, "/one");
    for (size_t i = 0; i < 3; i++) {
        check_last_reply(&clients[i], 200, "/one");
    }
    CHECK_SIZE(w.n_batches, 2);
    check_batch(1, 1, 3, "/one");
    CHECK_SIZE(w.most_running[1], 1);
    close_world();
}

static void
test_as_many_batches_run_at_once_as_the_queue_says(void)
{
    reset_world(4);
    w.rules[1].concurrency = 2;
    open_world();
    test_peer clients[4];
    w.is_held[1] = true;
    for (size_t i = 0; i < 4; i++) {
        clients[i] = ask(GET("/one"));
        if (i < 2) {
            wait_for_batches(i + 1);
        } else {
            wait_for_waiting(1, i - 1);
        }
    }
    check_quiet();
    CHECK_SIZE(w.n_running[1], 2);
    test_peer other = ask(GET("/two"));
    check_last_reply(&other, 200, "/two");
    let_queue_go(1);
    for (size_t i = 0; i < 4; i++) {
        check_last_reply(&clients[i], 200, "/one");
    }
    CHECK_SIZE(w.most_running[1], 2);
    close_world();
}

/* Two come free at once, the first takes the whole batch; who was blocked is for the
 * second. */
static void
test_no_thread_is_idle_while_requests_wait(void)
{
    reset_world(2);
    w.is_tickless = true;
    w.rules[1].concurrency = 2;
    w.rules[1].batch_size = 2;
    open_world();
    test_peer held[2] = {hold_queue(0), hold_queue(0)};
    test_peer clients[3];
    w.is_held[1] = true;
    for (size_t i = 0; i < 3; i++) {
        clients[i] = ask(GET("/one"));
        wait_for_waiting(1, i + 1);
    }
    w.is_loop_held = true;
    test_peer other = peer_open(w.port); /* wakes the loop, to be held */
    hold_loop();
    let_queue_go(0);
    for (int i = 0; i < PEER_TIMEOUT_MS && fb_pool_is_busy(&w.server->pool); i++) {
        usleep(1000);
    }
    let_loop_go();
    wait_for_batches(4);
    CHECK_SIZE(w.n_running[1], 2);
    let_queue_go(1);
    for (size_t i = 0; i < 3; i++) {
        check_last_reply(&clients[i], 200, "/one");
    }
    for (size_t i = 0; i < 2; i++) {
        check_last_reply(&held[i], 200, "/");
    }
    peer_close(&other);
    close_world();
}

static void
test_oldest_request_is_handed_over_first_whatever_its_queue(void)
{
    reset_world(1);
    w.rules[1].batch_size = 1;
    open_world();
    test_peer held = hold_queue(0);
    test_peer clients[4];
    static const char *const requests[] = {GET("/one?a"), GET("/one?b"), GET("/two?c"),
                                           GET("/one?d")};
    static const char *const targets[] = {"/one?a", "/one?b", "/two?c", "/one?d"};
    for (size_t i = 0; i < 4; i++) {
        clients[i] = ask(requests[i]);
        wait_for_waiting(i == 2 ? 2 : 1, i == 2 ? 1 : i < 2 ? i + 1 : 3);
    }
    let_queue_go(0);
    for (size_t i = 0; i < 4; i++) {
        check_last_reply(&clients[i], 200, targets[i]);
        check_batch(i + 1, i == 2 ? 2 : 1, 1, targets[i]);
    }
    check_last_reply(&held, 200, "/");
    close_world();
}

/* ---- queues that are full -------------------------------------------------------- */

static void
check_refused(test_peer *client, int status)
{
    peer_reply reply = peer_read(client);
    CHECK_SIZE((size_t)reply.status, (size_t)status);
    CHECK(!reply.says_close);
    CHECK(reply.status == 0 || status != 503 ||
          strcasestr(reply.head, "Retry-After:") != NULL);
}

/* As many as may wait do, in slots or blocked; one more does not. */
static void
test_more_than_may_wait_is_refused_and_goes_on(void)
{
    static const size_t batch_sizes[] = {FB_BATCH_SLOTS, 3, 2, 1};
    for (size_t i = 0; i < 8; i++) {
        int status = i < 4 ? 503 : 429;
        reset_world(1);
        w.rules[1].batch_size = batch_sizes[i % 4];
        w.rules[1].size = 3;
        w.rules[1].full_status = status;
        open_world();
        test_peer held = hold_queue(1);
        test_peer clients[3];
        for (size_t n = 0; n < 3; n++) {
            clients[n] = ask(GET("/one"));
            wait_for_waiting(1, n + 1);
        }
        test_peer refused = ask(GET("/one?a") GET("/one?b"));
        check_refused(&refused, status);
        check_refused(&refused, status);
        wait_for_waiting(1, 3);
        let_queue_go(1);
        for (size_t n = 0; n < 3; n++) {
            check_last_reply(&clients[n], 200, "/one");
        }
        CHECK(peer_say(&refused, GET("/one?c")));
        check_last_reply(&refused, 200, "/one?c");
        check_last_reply(&held, 200, "/one");
        CHECK_SIZE(fb_count_get(&w.server->stats->queues[1].n_refused), 2);
        close_world();
    }
}

/* That its turn has come on its connection is no place in its queue. */
static void
test_request_behind_one_of_another_queue_is_refused_in_its_turn(void)
{
    reset_world(2);
    w.rules[1].size = 1;
    open_world();
    test_peer held = hold_queue(1);
    test_peer waiting = ask(GET("/one"));
    wait_for_waiting(1, 1);
    test_peer client = ask(GET("/two?a") GET("/one?b") GET("/two?c"));
    check_reply(&client, 200, "/two?a");
    check_refused(&client, 503);
    check_last_reply(&client, 200, "/two?c");
    let_queue_go(1);
    check_last_reply(&waiting, 200, "/one");
    check_last_reply(&held, 200, "/one");
    close_world();
}

static void
test_refused_request_that_says_close_is_the_last(void)
{
    reset_world(1);
    w.rules[1].size = 1;
    open_world();
    test_peer held = hold_queue(1);
    test_peer waiting = ask(GET("/one"));
    wait_for_waiting(1, 1);
    test_peer client =
        ask("GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET("/"));
    check_reply(&client, 503, NULL);
    check_over(&client);
    let_queue_go(1);
    check_last_reply(&waiting, 200, "/one");
    check_last_reply(&held, 200, "/one");
    CHECK_SIZE(w.n_batches, 2);
    close_world();
}

/* ---- deadlines ------------------------------------------------------------------- */

/* In a slot, or blocked; while no thread comes back, and its connection goes on. */
static void
test_request_that_waits_past_its_deadline_gets_504(void)
{
    reset_world(1);
    w.rules[1].batch_size = 2;
    w.rules[1].deadline_ns = 20 * NS_PER_MS;
    open_world();
    test_peer held = hold_queue(0);
    test_peer clients[4];
    for (size_t i = 0; i < 4; i++) {
        clients[i] = ask(GET("/one?a") GET("/two"));
    }
    for (size_t i = 0; i < 4; i++) {
        check_reply(&clients[i], 504, NULL);
    }
    wait_for_waiting(2, 4);
    let_queue_go(0);
    for (size_t i = 0; i < 4; i++) {
        check_last_reply(&clients[i], 200, "/two");
    }
    check_last_reply(&held, 200, "/");
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[1].n_expired), 4);
    CHECK_SIZE(w.n_batches, 2);
    close_world();
}

static void
test_client_may_shorten_the_deadline_and_not_lengthen_it(void)
{
    reset_world(1);
    w.rules[1].deadline_ns = 30 * NS_PER_MS;
    w.rules[2].deadline_ns = FOR_EVER_NS;
    open_world();
    test_peer held = hold_queue(0);
    test_peer patient = ask(GET_BY("/one", "50000"));
    test_peer hasty = ask(GET_BY("/two", "1"));
    test_peer odd = ask(GET_BY("/two", "soon"));
    check_last_reply(&patient, 504, NULL);
    check_last_reply(&hasty, 504, NULL);
    wait_for_waiting(2, 1);
    let_queue_go(0);
    check_last_reply(&odd, 200, "/two");
    check_last_reply(&held, 200, "/");
    close_world();
}

/* What follows on the connection is handed over. */
static void
test_first_of_a_pipeline_may_expire_alone(void)
{
    reset_world(1);
    open_world();
    test_peer held = hold_queue(0);
    test_peer client =
        ask(GET_BY("/one?a", "1") GET_BY("/one?b", "1") GET("/one?c") GET("/one?d"));
    test_peer other = ask(GET("/one?e"));
    wait_for_expired(1, 2);
    wait_for_waiting(1, 3);
    let_queue_go(0);
    check_reply(&client, 504, NULL);
    check_reply(&client, 504, NULL);
    check_reply(&client, 200, "/one?c");
    check_last_reply(&client, 200, "/one?d");
    check_last_reply(&other, 200, "/one?e");
    check_last_reply(&held, 200, "/");
    close_world();
}

/* A reply is not given before that to the request in front of it. */
static void
test_request_behind_one_that_waits_expires_no_earlier(void)
{
    reset_world(1);
    open_world();
    test_peer held = hold_queue(0);
    test_peer client = ask(GET("/one?a") GET_BY("/one?b", "1"));
    wait_for_waiting(1, 2);
    usleep(30 * 1000);
    check_quiet();
    CHECK_SIZE(fb_count_get(&w.server->stats->queues[1].n_expired), 0);
    let_queue_go(0);
    check_reply(&client, 200, "/one?a");
    check_last_reply(&client, 200, "/one?b");
    check_last_reply(&held, 200, "/");
    close_world();
}

/* A batch that is full of what has expired is no batch. */
static void
test_all_of_a_full_batch_may_have_expired(void)
{
    for (size_t i = 0; i < 6; i++) {
        reset_world(i / 2);
        w.rules[1].batch_size = 2;
        w.rules[1].batch_wait_ns = i % 2 * FOR_EVER_NS;
        open_world();
        test_peer client = ask(GET_BY("/one", "0") GET_BY("/one", "0") GET_BY(
            "/one", "0") GET_BY("/one", "0.0") GET_BY("/one", "0") GET("/two"));
        for (size_t n = 0; n < 5; n++) {
            check_reply(&client, 504, NULL);
        }
        check_last_reply(&client, 200, "/two");
        CHECK_SIZE(w.n_batches, 1);
        close_world();
    }
}

/* ---- the same without a loop: what takes luck to see with one -------------------- */

/* A connection that sends nothing; its request in hand is an empty one. */
static void
make_conn(fb_conn *conn)
{
    memset(conn, 0, sizeof(*conn));
    conn->server = w.server;
    conn->exchange = fb_exchange_take(&w.server->exchanges);
    assert(conn->exchange != NULL);
    bool ok = fb_exchange_grow(&w.server->exchanges, conn->exchange, 1);
    assert(ok);
    (void)ok;
    conn->exchange->http.req.keep_alive = true;
    conn->exchange->http.req.minor = 1;
}

static fb_slot *
push_slot(fb_queue *queue, fb_conn *conn, uint64_t expires_at)
{
    fb_slot *slot = fb_queue_push(queue, conn, expires_at);
    conn->queue = queue;
    conn->n_slots++;
    fb_count_add(&w.server->stats->n_slots, 1);
    return slot;
}

static void
forget_conns(fb_queue *queue, fb_conn *conns, size_t n)
{
    fb_count_add(&w.server->stats->n_slots, -(uint64_t)queue->batch.n_slots);
    fb_queue_reset(queue);
    w.server->touched = NULL;
    for (size_t i = 0; i < n; i++) {
        fb_exchange_give(&w.server->exchanges, conns[i].exchange);
    }
}

/* Slots of a connection need not be next to each other where none outlives the
 * iteration: others may have been read between. */
static void
test_later_slot_never_expires_before_an_earlier_one_of_its_connection(void)
{
    reset_world(0);
    open_server();
    fb_queue *queue = &w.server->queues[1];
    fb_conn conns[2];
    make_conn(&conns[0]);
    make_conn(&conns[1]);
    push_slot(queue, &conns[0], UINT64_MAX);
    push_slot(queue, &conns[1], 1);
    push_slot(queue, &conns[0], 1);
    push_slot(queue, &conns[0], UINT64_MAX);
    fb_queue_expire(queue, uv_hrtime());
    CHECK_SIZE(queue->batch.n_slots, 3);
    CHECK_SIZE(conns[0].n_answered, 0);
    CHECK_SIZE(conns[1].n_answered, 1);
    for (uint32_t i = 0; i < queue->batch.n_slots; i++) {
        CHECK(queue->batch.slots[i].owner == &conns[0]);
        CHECK_SIZE(queue->batch.slots[i].turn, i);
    }
    forget_conns(queue, conns, 2);
    shut_server();
}

static void
test_connection_that_is_answered_finds_no_place_in_an_empty_batch(void)
{
    reset_world(1);
    open_server();
    fb_queue *queue = &w.server->queues[1];
    fb_conn conn;
    make_conn(&conn);
    CHECK(fb_queue_has_place(queue, &conn));
    push_slot(queue, &conn, 1);
    CHECK(fb_queue_has_place(queue, &conn));
    fb_queue_expire(queue, uv_hrtime());
    CHECK_SIZE(queue->batch.n_slots, 0);
    CHECK(!fb_queue_has_place(queue, &conn));
    forget_conns(queue, &conn, 1);
    shut_server();
}

static void
test_oldest_slot_is_known_whichever_leave(void)
{
    reset_world(1);
    w.rules[1].batch_wait_ns = 5;
    open_server();
    fb_queue *queue = &w.server->queues[1];
    fb_conn conns[4];
    static const uint64_t queued_at[] = {10, 30, 20, 40};
    for (size_t i = 0; i < 4; i++) {
        make_conn(&conns[i]);
        conns[i].queued_at = queued_at[i];
        push_slot(queue, &conns[i], i == 0 ? 1 : UINT64_MAX);
    }
    CHECK_SIZE(fb_queue_due_at(queue), 15);
    fb_queue_expire(queue, uv_hrtime());
    CHECK_SIZE(fb_queue_due_at(queue), 25);
    CHECK(!fb_queue_is_due(queue, 24) && fb_queue_is_due(queue, 25));
    fb_queue_drop_conn(queue, &conns[2]);
    CHECK_SIZE(fb_queue_due_at(queue), 35);
    fb_count_add(&w.server->stats->n_slots, (uint64_t)-1);
    fb_queue_drop_first(queue, 1);
    CHECK_SIZE(fb_queue_due_at(queue), 45);
    forget_conns(queue, conns, 4);
    CHECK(fb_queue_due_at(queue) == UINT64_MAX);
    shut_server();
}

/* ---- batches that wait to be filled ---------------------------------------------- */

static void
test_full_batch_does_not_wait_until_its_time(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads++) {
        reset_world(n_threads);
        w.rules[1].batch_size = 3;
        w.rules[1].batch_wait_ns = FOR_EVER_NS;
        open_world();
        test_peer clients[3];
        for (size_t i = 0; i < 3; i++) {
            clients[i] = ask(GET("/one"));
            if (i < 2) {
                wait_for_waiting(1, i + 1);
            }
        }
        test_peer other = ask(GET("/two"));
        check_last_reply(&other, 200, "/two");
        for (size_t i = 0; i < 3; i++) {
            check_last_reply(&clients[i], 200, "/one");
        }
        CHECK_SIZE(w.n_batches, 2);
        close_world();
    }
}

static void
test_batch_is_handed_over_when_its_time_is_over_and_not_before(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads++) {
        reset_world(n_threads);
        w.is_tickless = true;
        w.rules[1].batch_wait_ns = 30 * NS_PER_MS;
        open_world();
        test_peer clients[2];
        uint64_t began = uv_hrtime();
        clients[0] = ask(GET("/one"));
        clients[1] = ask(GET("/one"));
        check_last_reply(&clients[0], 200, "/one");
        check_last_reply(&clients[1], 200, "/one");
        CHECK(uv_hrtime() - began >= 30 * NS_PER_MS);
        close_world();
    }
}

/* However the times of the loop's looks fall: what is not due yet at the last of them
 * is when the timer comes. */
static void
test_no_batch_is_forgotten_when_its_time_is_over(void)
{
    for (size_t n_threads = 0; n_threads <= 1; n_threads++) {
        reset_world(n_threads);
        w.is_tickless = true;
        w.rules[1].batch_wait_ns = 20000;
        w.rules[2].batch_wait_ns = 45000;
        open_world();
        test_peer one = peer_open(w.port);
        test_peer two = peer_open(w.port);
        for (size_t i = 0; i < 1500; i++) {
            CHECK(peer_say(&one, GET("/one")));
            CHECK(peer_say(&two, GET("/two")));
            check_reply(&one, 200, "/one");
            check_reply(&two, 200, "/two");
        }
        peer_close(&one);
        peer_close(&two);
        close_world();
    }
}

static void
test_loop_sleeps_while_batches_wait_and_threads_are_busy(void)
{
    reset_world(1);
    w.rules[1].batch_wait_ns = NS_PER_MS;
    w.rules[2].batch_wait_ns = FOR_EVER_NS;
    open_world();
    test_peer held = hold_queue(0);
    test_peer due = ask(GET("/one"));
    test_peer not_due = ask(GET("/two"));
    wait_for_waiting(1, 1);
    wait_for_waiting(2, 1);
    usleep(2000);
    check_quiet();
    let_queue_go(0);
    check_last_reply(&due, 200, "/one");
    check_last_reply(&held, 200, "/");
    peer_close(&not_due);
    close_world();
}

/* ---- what comes in between ------------------------------------------------------- */

static void
test_nothing_behind_the_last_request_is_run(void)
{
    static const char last[] =
        "GET /one?a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        char request[256];
        snprintf(request, sizeof(request), "%s%s", last, GET("/two"));
        test_peer client = ask(request);
        check_reply(&client, 200, "/one?a");
        check_over(&client);
        client = ask(GET("/one?close") GET("/two") GET("/two")); /* says the handler */
        check_reply(&client, 200, "/one?close");
        check_over(&client);
        CHECK_SIZE(w.n_batches, 2);
        close_world();
    }
}

static void
test_limit_of_requests_holds_over_all_queues(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        w.limits.max_keepalive_requests = 2;
        open_world();
        test_peer client = ask(GET("/one?a") GET("/two?b") GET("/one?c"));
        check_reply(&client, 200, "/one?a");
        check_reply(&client, 200, "/two?b");
        check_over(&client);
        CHECK_SIZE(w.n_batches, 2);
        close_world();
    }
}

static void
test_who_says_no_more_is_still_answered(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        wait_for_conns(0);
        test_peer client = peer_open(w.port);
        wait_for_conns(1);
        hold_loop(); /* all of it is read at once */
        CHECK(peer_say(&client, GET("/one?a") GET("/two?b") GET("/one?c")));
        peer_end(&client);
        let_loop_go();
        check_reply(&client, 200, "/one?a");
        check_reply(&client, 200, "/two?b");
        check_reply(&client, 200, "/one?c");
        check_over(&client);
        close_world();
    }
}

static void
test_bad_request_behind_one_that_is_held_gets_its_400(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        test_peer client = ask(GET("/one?a") GET("/two?b") "GET\r\n\r\n" GET("/"));
        check_reply(&client, 200, "/one?a");
        check_reply(&client, 200, "/two?b");
        check_reply(&client, 400, NULL);
        check_over(&client);
        CHECK_SIZE(w.n_batches, 2);
        close_world();
    }
}

static void
test_client_is_told_to_continue_when_those_before_are_answered(void)
{
    static const char expects[] = "POST /two?b HTTP/1.1\r\nHost: a\r\n"
                                  "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    reset_world(1);
    open_world();
    test_peer held = hold_queue(0);
    test_peer client = ask(GET("/one?a"));
    wait_for_waiting(1, 1);
    CHECK(peer_say(&client, expects));
    check_quiet();
    let_queue_go(0);
    check_reply(&client, 200, "/one?a");
    check_reply(&client, 100, NULL);
    CHECK(peer_say(&client, "body"));
    check_last_reply(&client, 200, "/two?b");
    check_last_reply(&held, 200, "/");
    close_world();
}

static void
test_held_request_waits_for_a_reply_that_is_not_read(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        open_world();
        test_peer client = ask(GET("/one?big") GET("/two?b") GET("/one?c"));
        wait_for_batches(1);
        check_quiet();
        CHECK_SIZE(w.n_batches, 1);
        peer_reply reply = peer_read(&client);
        CHECK_SIZE(reply.body_len, BIG_BYTES);
        check_reply(&client, 200, "/two?b");
        check_last_reply(&client, 200, "/one?c");
        close_world();
    }
}

/* Who waits for a slot, or has one, and others behind it. */
static void
test_who_waits_for_too_long_gets_503_whatever_the_queue(void)
{
    reset_world(1);
    w.limits.max_body_memory = 4;
    w.limits.queue_timeout_ms = 40;
    w.rules[1].batch_size = 1;
    open_world();
    test_peer held = hold_queue(0);
    test_peer clients[3];
    for (size_t i = 0; i < 3; i++) {
        clients[i] = ask(SPOOLED("/one") SPOOLED("/two"));
    }
    for (size_t i = 0; i < 3; i++) {
        check_reply(&clients[i], 503, NULL);
        check_over(&clients[i]);
    }
    let_queue_go(0);
    check_last_reply(&held, 200, "/");
    CHECK_SIZE(w.n_batches, 1);
    CHECK_SIZE(fb_count_get(&w.server->stats->n_overloaded), 3);
    close_world();
}

static void
test_rest_of_an_expired_pipeline_gets_503_in_its_time(void)
{
    reset_world(1);
    w.limits.queue_timeout_ms = 60;
    open_world();
    test_peer held = hold_queue(0);
    test_peer client = ask(GET_BY("/one?a", "1") GET("/one?b") GET("/two"));
    check_reply(&client, 504, NULL);
    check_reply(&client, 503, NULL);
    check_over(&client);
    let_queue_go(0);
    check_last_reply(&held, 200, "/");
    close_world();
}

static void
test_batch_that_waits_to_be_filled_is_left_in_time(void)
{
    reset_world(0);
    w.limits.queue_timeout_ms = 40;
    w.rules[1].batch_wait_ns = FOR_EVER_NS;
    open_world();
    test_peer client = ask(GET("/one") GET("/two"));
    check_reply(&client, 503, NULL);
    check_over(&client);
    close_world();
}

/* ---- bodies in files ------------------------------------------------------------- */

static void
test_spooled_body_of_a_held_request_is_its_own(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads += 2) {
        reset_world(n_threads);
        w.limits.max_body_memory = 4;
        open_world();
        test_peer client =
            ask(SPOOLED("/one?a") SPOOLED("/two?b") GET("/two?c") SPOOLED("/one?d"));
        check_reply(&client, 200, "/one?a");
        check_reply(&client, 200, "/two?b");
        check_reply(&client, 200, "/two?c");
        check_last_reply(&client, 200, "/one?d");
        CHECK_SIZE(fb_count_get(&w.server->stats->n_spooled), 3);
        close_world();
    }
}

/* Refused, and expired: join_world counts the descriptors. */
static void
test_spooled_bodies_of_what_is_not_run_are_gone(void)
{
    reset_world(1);
    w.limits.max_body_memory = 4;
    w.rules[1].size = 2;
    w.rules[1].batch_size = 1;
    w.rules[2].deadline_ns = 5 * NS_PER_MS;
    open_world();
    test_peer held = hold_queue(0);
    test_peer waiting = ask(SPOOLED("/one?a"));
    wait_for_waiting(1, 1);
    test_peer blocked = ask(SPOOLED("/one?c"));
    wait_for_waiting(1, 2);
    test_peer refused = ask(SPOOLED("/one?d"));
    test_peer expired = ask(SPOOLED("/two?e") SPOOLED("/two?f"));
    check_last_reply(&refused, 503, NULL);
    check_reply(&expired, 504, NULL);
    check_last_reply(&expired, 504, NULL);
    let_queue_go(0);
    check_last_reply(&waiting, 200, "/one?a");
    check_last_reply(&blocked, 200, "/one?c");
    check_last_reply(&held, 200, "/");
    CHECK_SIZE(w.n_batches, 3);
    close_world();
}

/* ---- leaving --------------------------------------------------------------------- */

static void
leave(test_peer *client, bool resets)
{
    if (resets) {
        peer_reset(client);
    } else {
        peer_close(client);
    }
}

static void
test_peers_that_leave_while_they_wait(void)
{
    static const char *const requests[] = {
        SPOOLED("/one") GET("/one"),         /* in slots */
        SPOOLED("/one") SPOOLED("/two"),     /* blocked */
        SPOOLED("/two") SPOOLED("/one"),     /* held behind slots */
        GET_BY("/two", "1") SPOOLED("/two"), /* half expired */
        GET_BY("/one", "1") GET_BY("/one", "1"),
    };
    for (size_t i = 0; i < 4; i++) {
        reset_world(1 + i / 2);
        w.limits.max_body_memory = 4;
        w.rules[1].batch_size = 2;
        open_world();
        test_peer held[2];
        for (size_t n = 0; n < w.limits.threads; n++) {
            held[n] = hold_queue(0);
        }
        test_peer clients[5];
        for (size_t n = 0; n < 5; n++) {
            clients[n] = ask(requests[n]);
            if (n < 2) {
                wait_for_waiting(1, n + 2);
            }
        }
        wait_for_expired(2, 1);
        wait_for_expired(1, 2);
        wait_for_waiting(1, 3);
        wait_for_waiting(2, 2);
        for (size_t n = 0; n < 5; n++) {
            leave(&clients[n], i % 2 != 0);
        }
        check_quiet();
        let_queue_go(0);
        for (size_t n = 0; n < w.limits.threads; n++) {
            check_last_reply(&held[n], 200, "/");
        }
        wait_for_conns(0);
        test_peer client = ask(GET("/one") GET("/two"));
        check_reply(&client, 200, "/one");
        check_last_reply(&client, 200, "/two");
        close_world();
    }
}

/* Just what is read at once: the loop looks for more, and finds the reset. */
static void
fill_input(char *bytes)
{
    static const char begin[] = GET("/one?b") GET("/one?c") "GET /two HTTP/1.1\r\nA: ";
    static const char end[] = "\r\nHost: a\r\n\r\n";
    memset(bytes, 'a', FB_INPUT_BYTES);
    memcpy(bytes, begin, sizeof(begin) - 1);
    memcpy(bytes + FB_INPUT_BYTES - (sizeof(end) - 1), end, sizeof(end) - 1);
}

/* The slots leave their batch with the connection. */
static void
test_reset_that_comes_with_the_requests(void)
{
    char bytes[FB_INPUT_BYTES];
    fill_input(bytes);
    for (size_t i = 0; i < 4; i++) {
        reset_world(i % 2);
        w.rules[1].batch_wait_ns = i / 2 * FOR_EVER_NS;
        open_world();
        test_peer stays = ask(GET("/one?a"));
        if (i / 2 > 0) {
            wait_for_waiting(1, 1);
        } else {
            check_reply(&stays, 200, "/one?a");
        }
        test_peer leaves = peer_open(w.port);
        wait_for_conns(2);
        hold_loop();
        CHECK(peer_send(&leaves, bytes, sizeof(bytes)));
        peer_reset(&leaves);
        let_loop_go();
        wait_for_conns(1);
        fb_server_stop(w.server, FB_STOP_GRACEFUL);
        if (i / 2 > 0) {
            check_reply(&stays, 200, "/one?a");
        }
        check_over(&stays);
        join_world();
    }
}

/* ---- all of it at once ----------------------------------------------------------- */

#define N_ROUNDS 12
#define N_PEERS 16
#define MOST_ASKED 6

/* Of a client: what it asks, one after another, and how it leaves. */
typedef struct mind {
    test_peer peer;
    size_t n_asked;
    bool leaves;
    char targets[MOST_ASKED][TARGET_BYTES];
} mind;

/* The same on every run. */
static uint32_t
draw(uint32_t *state, uint32_t below)
{
    *state = *state * 1664525 + 1013904223;
    return (*state >> 8) % below;
}

static void
send_mind(mind *of, uint32_t *state)
{
    static const char *const fields[] = {"", "", "", "X-Wait-Ms: 0\r\n",
                                         "X-Wait-Ms: 2\r\n"};
    char bytes[MOST_ASKED * 128];
    char *at = bytes;
    of->peer = peer_open(w.port);
    of->n_asked = 1 + draw(state, MOST_ASKED);
    of->leaves = draw(state, 4) == 0;
    for (size_t i = 0; i < of->n_asked; i++) {
        snprintf(of->targets[i], TARGET_BYTES, "%s?%u",
                 path_of(2, (int)draw(state, 100)), draw(state, 100000));
        bool has_body = draw(state, 3) == 0;
        at += sprintf(at, "%s %s HTTP/1.1\r\nHost: a\r\n%s%s",
                      has_body ? "POST" : "GET", of->targets[i], fields[draw(state, 5)],
                      has_body ? "Content-Length: 8\r\n\r\n12345678" : "\r\n");
    }
    CHECK(peer_send(&of->peer, bytes, (size_t)(at - bytes)));
    if (of->leaves) {
        leave(&of->peer, draw(state, 2) == 0);
    }
}

/* Each is answered in its turn: by a handler, or that it is not. */
static void
read_mind(mind *of)
{
    for (size_t i = 0; i < of->n_asked; i++) {
        peer_reply reply = peer_read(&of->peer);
        bool is_refused =
            reply.status == 503 || reply.status == 504 || reply.status == 429;
        CHECK(is_refused || reply.status == 200);
        CHECK(!reply.says_close);
        if (reply.status == 200) {
            CHECK_TEXT(reply.body, reply.body_len, of->targets[i]);
        }
    }
    peer_end(&of->peer);
    check_over(&of->peer);
}

static void
test_clients_of_all_minds_are_answered_in_order(void)
{
    static mind minds[N_PEERS];
    for (size_t n = 0; n < 8; n++) {
        uint32_t state = (uint32_t)n;
        reset_world(n / 2);
        w.handler_us = 200;
        w.limits.max_body_memory = 4;
        for (size_t i = 0; i < N_QUEUES; i++) {
            w.rules[i].batch_size = 1 + (n + 2 * i) % 5;
            w.rules[i].size = 3 + 2 * i;
            w.rules[i].batch_wait_ns = (n + i) % 2 * 300000;
            w.rules[i].concurrency = 1 + n % 2;
            w.rules[i].full_status = i == 1 ? 429 : 503;
            w.rules[i].deadline_ns = i == 2 ? 10 * NS_PER_MS : 0;
        }
        open_world();
        for (size_t round = 0; round < N_ROUNDS; round++) {
            for (size_t i = 0; i < N_PEERS; i++) {
                send_mind(&minds[i], &state);
            }
            for (size_t i = 0; i < N_PEERS; i++) {
                if (!minds[i].leaves) {
                    read_mind(&minds[i]);
                }
            }
        }
        wait_for_conns(0);
        close_world();
    }
}

/* ---- stopping -------------------------------------------------------------------- */

static void
test_graceful_stop_answers_what_waits_in_every_queue(void)
{
    for (size_t n_threads = 0; n_threads <= 2; n_threads++) {
        reset_world(n_threads);
        w.rules[1].batch_wait_ns = FOR_EVER_NS;
        w.rules[2].batch_wait_ns = FOR_EVER_NS;
        open_world();
        test_peer one = ask(GET("/one?a") GET("/one?b") GET("/two?c") GET("/d"));
        test_peer two = ask(GET("/two?e"));
        wait_for_waiting(1, 2);
        wait_for_waiting(2, 1);
        check_quiet();
        fb_server_stop(w.server, FB_STOP_GRACEFUL);
        check_reply(&one, 200, "/one?a");
        check_reply(&one, 200, "/one?b");
        check_reply(&one, 200, "/two?c");
        check_reply(&one, 200, "/d");
        check_over(&one);
        check_reply(&two, 200, "/two?e");
        check_over(&two);
        join_world();
    }
}

static void
test_graceful_stop_answers_who_is_blocked(void)
{
    reset_world(1);
    w.rules[1].batch_size = 1;
    open_world();
    test_peer held = hold_queue(1);
    test_peer clients[3];
    for (size_t i = 0; i < 3; i++) {
        clients[i] = ask(GET("/one?a") GET("/two?b"));
        wait_for_waiting(1, i + 1);
    }
    fb_server_stop(w.server, FB_STOP_GRACEFUL);
    usleep(5000);
    let_queue_go(1);
    for (size_t i = 0; i < 3; i++) {
        check_reply(&clients[i], 200, "/one?a");
        check_reply(&clients[i], 200, "/two?b");
        check_over(&clients[i]);
    }
    check_reply(&held, 200, "/one");
    check_over(&held);
    join_world();
}

static void
test_stop_at_once_forgets_what_waits(void)
{
    for (size_t n_threads = 0; n_threads <= 1; n_threads++) {
        reset_world(n_threads);
        w.limits.max_body_memory = 4;
        w.rules[1].batch_wait_ns = FOR_EVER_NS;
        w.rules[2].batch_wait_ns = FOR_EVER_NS;
        w.rules[2].batch_size = 2;
        open_world();
        test_peer held = {.fd = -1};
        if (n_threads > 0) {
            held = hold_queue(0);
        }
        test_peer one = ask(SPOOLED("/one?a") SPOOLED("/two?b"));
        test_peer two = ask(GET_BY("/one?c", "1") SPOOLED("/one?d"));
        wait_for_expired(1, 1);
        wait_for_waiting(1, 2);
        test_peer three = {.fd = -1};
        test_peer four = {.fd = -1};
        if (n_threads > 0) {
            three = ask(SPOOLED("/two") SPOOLED("/two"));
            wait_for_waiting(2, 2);
            four = ask(SPOOLED("/two"));
            wait_for_waiting(2, 3);
        }
        fb_server_stop(w.server, FB_STOP_NOW);
        peer_drain(&one);
        peer_drain(&two);
        peer_close(&one);
        peer_close(&two);
        if (n_threads > 0) {
            peer_drain(&three);
            peer_drain(&four);
            peer_close(&three);
            peer_close(&four);
            let_queue_go(0);
            peer_drain(&held);
            peer_close(&held);
        }
        join_world();
    }
}

/* libuv has descriptors that are there once for all loops. */
static void
open_once(void)
{
    uv_loop_t loop;
    int error = uv_loop_init(&loop);
    assert(error == 0);
    error = uv_loop_close(&loop);
    assert(error == 0);
    (void)error;
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN); /* as Python does */
    open_once();
    memset(big, 'b', sizeof(big));
    RUN(test_each_request_is_of_the_queue_of_its_route);
    RUN(test_requests_of_a_queue_are_one_batch);
    RUN(test_pipelines_through_all_queues_are_answered_in_order);
    RUN(test_request_of_another_queue_waits_for_those_before_it);
    RUN(test_full_queue_holds_up_no_other_queue);
    RUN(test_whole_batch_is_not_shared_out);
    RUN(test_as_many_batches_run_at_once_as_the_queue_says);
    RUN(test_no_thread_is_idle_while_requests_wait);
    RUN(test_oldest_request_is_handed_over_first_whatever_its_queue);
    RUN(test_more_than_may_wait_is_refused_and_goes_on);
    RUN(test_request_behind_one_of_another_queue_is_refused_in_its_turn);
    RUN(test_refused_request_that_says_close_is_the_last);
    RUN(test_request_that_waits_past_its_deadline_gets_504);
    RUN(test_client_may_shorten_the_deadline_and_not_lengthen_it);
    RUN(test_first_of_a_pipeline_may_expire_alone);
    RUN(test_request_behind_one_that_waits_expires_no_earlier);
    RUN(test_all_of_a_full_batch_may_have_expired);
    RUN(test_later_slot_never_expires_before_an_earlier_one_of_its_connection);
    RUN(test_connection_that_is_answered_finds_no_place_in_an_empty_batch);
    RUN(test_oldest_slot_is_known_whichever_leave);
    RUN(test_full_batch_does_not_wait_until_its_time);
    RUN(test_batch_is_handed_over_when_its_time_is_over_and_not_before);
    RUN(test_no_batch_is_forgotten_when_its_time_is_over);
    RUN(test_loop_sleeps_while_batches_wait_and_threads_are_busy);
    RUN(test_nothing_behind_the_last_request_is_run);
    RUN(test_limit_of_requests_holds_over_all_queues);
    RUN(test_who_says_no_more_is_still_answered);
    RUN(test_bad_request_behind_one_that_is_held_gets_its_400);
    RUN(test_client_is_told_to_continue_when_those_before_are_answered);
    RUN(test_held_request_waits_for_a_reply_that_is_not_read);
    RUN(test_who_waits_for_too_long_gets_503_whatever_the_queue);
    RUN(test_rest_of_an_expired_pipeline_gets_503_in_its_time);
    RUN(test_batch_that_waits_to_be_filled_is_left_in_time);
    RUN(test_spooled_body_of_a_held_request_is_its_own);
    RUN(test_spooled_bodies_of_what_is_not_run_are_gone);
    RUN(test_peers_that_leave_while_they_wait);
    RUN(test_reset_that_comes_with_the_requests);
    RUN(test_clients_of_all_minds_are_answered_in_order);
    RUN(test_graceful_stop_answers_what_waits_in_every_queue);
    RUN(test_graceful_stop_answers_who_is_blocked);
    RUN(test_stop_at_once_forgets_what_waits);
    return check_report("test_queue");
}
