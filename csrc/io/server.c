/* SPDX-License-Identifier: MIT */
/*
 * The loop of one worker. An iteration reads and parses (poll phase), then hands the
 * batch over and writes the replies (check phase); a full batch is handed over at once.
 *
 * What must not be done here: look into requests or replies. That is core's and the
 * binding's.
 */
#include "io/server.h"

#include "io/thread.h"

#include <assert.h>
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL

/* ---- the dispatch point ---------------------------------------------------------- */

void
fb_server_touch(fb_server *server, fb_conn *conn)
{
    if (!conn->is_touched) {
        conn->is_touched = true;
        conn->next_touched = server->touched;
        server->touched = conn;
    }
}

/* Returns whether nothing is to be answered any more before conn goes on. */
static bool
is_answered(const fb_conn *conn)
{
    return conn->n_slots == 0 ||
           (conn->executor == NULL && conn->n_answered == conn->n_slots);
}

/* Settle all that were touched, else when their slots are answered; it is now, by
 * uv_hrtime. Settling may touch again, but not a batch: what is left to parse is made
 * ready instead, so that this never calls itself. */
static void
settle_touched(fb_server *server, uint64_t now)
{
    fb_conn *conn = server->touched;
    server->settled_at = now;
    server->touched = NULL;
    while (conn != NULL) {
        fb_conn *next = conn->next_touched;
        conn->is_touched = false;
        if (is_answered(conn)) {
            fb_conn_settle(conn);
        }
        conn = next;
    }
}

void
fb_server_reset_batch(fb_batch *batch)
{
    for (size_t i = 0; i < batch->n_slots; i++) {
        if (batch->slots[i].file >= 0) {
            close(batch->slots[i].file);
        }
    }
    fb_batch_reset(batch);
}

static void
locate_slot(fb_slot *slot)
{
    const fb_conn *conn = slot->owner;
    slot->data = conn->exchange->in.data + slot->req.start;
}

/* Also have their connections settled afterwards. */
static void
locate_slots(fb_server *server, fb_batch *batch)
{
    for (size_t i = 0; i < batch->n_slots; i++) {
        locate_slot(&batch->slots[i]);
        fb_server_touch(server, batch->slots[i].owner);
    }
}

/* Replies of the server's own are dated, too. */
static void
update_stamp(fb_server *server)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fb_stamp_update(&server->executor.stamp, now.tv_sec);
}

fb_queue *
fb_server_find_queue(fb_server *server, const fb_conn *conn)
{
    if (server->n_routes == 0) {
        return &server->queues[0];
    }
    const fb_exchange *exchange = conn->exchange;
    const fb_request *req = &exchange->http.req;
    return &server->queues[fb_route_find(server->routes, server->n_routes,
                                         exchange->in.data + req->start, req)];
}

void
fb_server_answer(fb_server *server, fb_slot *slot, int status)
{
    clock_gettime(CLOCK_REALTIME, &server->executor.began); /* for the access log */
    fb_stamp_update(&server->executor.stamp, server->executor.began.tv_sec);
    locate_slot(slot);
    fb_executor_answer(&server->executor, slot, status);
}

void
fb_server_note_answered(fb_server *server, fb_batch *batch, size_t from, size_t end,
                        uint64_t now)
{
    fb_slot *slots = &batch->slots[from];
    size_t n = end - from;
    fb_stats_note_slots(server->stats, batch->queue, slots, n, now);
    if (server->access.is_on) {
        fb_access_log_slots(&server->access, &server->executor, slots, n);
    }
    if (is_answered(slots->owner)) {
        fb_server_settle_soon(server, slots->owner);
    }
}

static void
dispatch_queue(fb_server *server, fb_queue *queue)
{
    fb_batch *batch = &queue->batch;
    if (queue->expires_at != UINT64_MAX) {
        fb_queue_expire(queue, uv_hrtime());
    }
    if (batch->n_slots == 0) {
        return;
    }
    fb_stats_note_batch(server->stats, batch->queue, batch->n_slots);
    locate_slots(server, batch);
    fb_executor *executor = &server->executor;
    executor->batch = batch;
    fb_executor_begin(executor);
    /* Those that the handler is given do not wait any more. */
    fb_count_set(&server->stats->queues[batch->queue].n_waiting, queue->n_blocked);
    uint64_t began = uv_now(&server->loop);
    fb_flusher_begin(&server->flusher, batch->n_slots);
    bool goes_on = server->ops->dispatch(server->owner, batch);
    if (!goes_on) {
        fb_server_stop(server, FB_STOP_GRACEFUL);
    }
    fb_executor_end(executor);
    fb_stats_note_slots(server->stats, batch->queue, batch->slots, batch->n_slots,
                        executor->began_at);
    if (server->access.is_on) {
        fb_access_log_slots(&server->access, executor, batch->slots, batch->n_slots);
    }
    fb_queue_reset(queue);
    uv_update_time(&server->loop);
    server->held_ms += uv_now(&server->loop) - began;
    settle_touched(server, executor->ended_at);
}

void
fb_server_dispatch(fb_server *server, fb_queue *queue)
{
    if (fb_server_has_threads(server)) {
        fb_pool_share(&server->pool);
    } else {
        dispatch_queue(server, queue);
    }
}

void
fb_server_rest(fb_server *server)
{
    for (size_t i = 0; i < server->n_queues; i++) {
        if (server->queues[i].may_wait) {
            fb_queue_rest(&server->queues[i]);
        }
    }
}

uint64_t
fb_server_polled_at(fb_server *server)
{
    uv_metrics_t metrics;
    /* It cannot fail. It counts the events of a report when all were handled. */
    uv_metrics_info(&server->loop, &metrics);
    if (metrics.events != server->n_events) {
        server->n_events = metrics.events;
        server->polled_at = uv_hrtime();
    }
    return server->polled_at;
}

uint64_t
fb_server_clock(const fb_server *server)
{
    return uv_now(&server->loop) - server->held_ms;
}

bool
fb_server_has_starved(const fb_server *server)
{
    return fb_times_first(&server->waits[FB_WAIT_MEMORY]) != NULL;
}

/* Have those that wait for memory go on, as far as it reaches. */
static void
feed_starved(fb_server *server)
{
    fb_time_node *node;
    while ((node = fb_times_first(&server->waits[FB_WAIT_MEMORY])) != NULL) {
        if (!fb_conn_feed(fb_conn_of_wait(node))) {
            return;
        }
    }
}

static void
on_idle(uv_idle_t *idle)
{
    (void)idle; /* that it is active keeps the loop from waiting */
}

void
fb_server_come_round(fb_server *server)
{
    if (!uv_is_closing((uv_handle_t *)&server->idle)) {
        uv_idle_start(&server->idle, on_idle);
    }
}

void
fb_server_settle_soon(fb_server *server, fb_conn *conn)
{
    fb_server_touch(server, conn);
    uv_idle_start(&server->idle, on_idle);
}

void
fb_server_make_ready(fb_server *server, fb_conn *conn)
{
    if (!conn->is_ready) {
        conn->is_ready = true;
        conn->next_ready = NULL;
        if (server->ready == NULL) {
            server->ready = conn;
        } else {
            server->last_ready->next_ready = conn;
        }
        server->last_ready = conn;
        uv_idle_start(&server->idle, on_idle);
    }
}

static void
parse_ready(fb_server *server)
{
    fb_conn *conn = server->ready;
    server->ready = NULL;
    while (conn != NULL) {
        fb_conn *next = conn->next_ready;
        conn->is_ready = false;
        /* Since it was made ready, it may have been read, parsed and answered. */
        if (conn->state == FB_CONN_OPEN && conn->exchange != NULL) {
            fb_conn_parse(conn);
        }
        conn = next;
    }
}

uint64_t
fb_server_look(fb_server *server)
{
    server->looked_at = server->due_fd >= 0 ? uv_hrtime() : 0; /* else nothing waits */
    return server->looked_at;
}

/* Dispatch on the loop what is due. Returns whether there was anything. */
static bool
dispatch_due(fb_server *server)
{
    bool was_due = false;
    uint64_t now = fb_server_look(server);
    for (size_t i = 0; i < server->n_queues; i++) {
        fb_queue *queue = &server->queues[i];
        if (fb_queue_is_due(queue, now)) {
            dispatch_queue(server, queue);
            was_due = true;
        }
    }
    return was_due;
}

/* Do all that can be done without the loop: it ends, because nothing is read here. */
static void
work_off(fb_server *server)
{
    bool has_threads = fb_server_has_threads(server);
    do {
        parse_ready(server);
        if ((has_threads || !dispatch_due(server)) && server->touched != NULL) {
            update_stamp(server);
            settle_touched(server, uv_hrtime());
        }
    } while (server->touched != NULL || server->ready != NULL);
}

/* Returns whether somebody is blocked although there is a slot. */
static bool
has_room(const fb_server *server)
{
    for (size_t i = 0; i < server->n_queues; i++) {
        const fb_queue *queue = &server->queues[i];
        if (queue->blocked != NULL && !fb_batch_is_full(&queue->batch)) {
            return true;
        }
    }
    return false;
}

/* As work_off; threads that are idle are given what there is, which makes room. */
static void
work_off_and_share(fb_server *server)
{
    work_off(server);
    if (fb_server_has_threads(server)) {
        do {
            fb_pool_share(&server->pool);
            work_off(server);
        } while (has_room(server) || fb_pool_can_share(&server->pool));
    } else if (server->due_fd >= 0) {
        fb_server_rest(server);
    }
}

/* ---- batches that wait to be filled ---------------------------------------------- */

/* Have the timer come when the next batch is due, be it by now: what was due at the
 * last look waits for a thread. */
static void
set_due(fb_server *server)
{
    uint64_t due_at = UINT64_MAX;
    for (size_t i = 0; i < server->n_queues; i++) {
        uint64_t at = fb_queue_due_at(&server->queues[i]);
        if (at > server->looked_at && at < due_at) {
            due_at = at;
        }
    }
    if (due_at == server->due_at) {
        return;
    }
    struct itimerspec when = {0};
    if (due_at != UINT64_MAX) {
        when.it_value.tv_sec = (time_t)(due_at / NS_PER_S);
        when.it_value.tv_nsec = (long)(due_at % NS_PER_S);
    }
    timerfd_settime(server->due_fd, TFD_TIMER_ABSTIME, &when, NULL);
    server->due_at = due_at;
}

static void
on_due(uv_poll_t *due, int status, int events)
{
    (void)status;
    (void)events;
    fb_server *server = due->data;
    uint64_t n_times;
    ssize_t n_read = read(server->due_fd, &n_times, sizeof(n_times));
    (void)n_read; /* the check phase looks what is due */
    server->due_at = UINT64_MAX;
}

static void
close_due(fb_server *server)
{
    if (server->due_fd >= 0) {
        close(server->due_fd);
        server->due_fd = -1;
    }
}

/* Returns 0 or libuv's error code. */
static int
open_due(fb_server *server)
{
    bool has_waits = false;
    server->due_at = UINT64_MAX;
    for (size_t i = 0; i < server->n_queues; i++) {
        has_waits = has_waits || server->queues[i].rules.batch_wait_ns > 0;
    }
    if (!has_waits) {
        return 0;
    }
    server->due_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (server->due_fd < 0) {
        return uv_translate_sys_error(errno);
    }
    int error = uv_poll_init(&server->loop, &server->due, server->due_fd);
    if (error != 0) {
        return error;
    }
    server->due.data = server;
    return uv_poll_start(&server->due, UV_READABLE, on_due);
}

/* ---- deadlines ------------------------------------------------------------------- */

static void
expire_blocked(fb_queue *queue, uint64_t now)
{
    fb_conn *conn = queue->blocked;
    while (conn != NULL) {
        fb_conn *next = conn->next_blocked;
        if (fb_conn_is_late(conn, now)) {
            fb_conn_refuse_late(conn);
        }
        conn = next;
    }
}

/* What waits is refused in its time also when no thread comes back. */
static void
expire_queues(fb_server *server)
{
    uint64_t now = uv_hrtime();
    for (size_t i = 0; i < server->n_queues; i++) {
        fb_queue_expire(&server->queues[i], now);
        expire_blocked(&server->queues[i], now);
    }
}

/* ---- stopping -------------------------------------------------------------------- */

static void
close_handle(uv_handle_t *handle)
{
    if (handle->type != UV_UNKNOWN_HANDLE && !uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

static void
close_listeners(fb_server *server)
{
    for (size_t i = 0; i < server->n_listeners; i++) {
        fb_listener_close(&server->listeners[i]);
    }
    if (server->place != NULL) {
        fb_roster_leave(server->place);
        server->place = NULL;
    }
}

static void
resume_accepting(fb_server *server)
{
    for (size_t i = 0; i < server->n_listeners; i++) {
        fb_listener_resume(&server->listeners[i]);
    }
}

/* Returns whether the first request of conn is to be expected any moment. Without an
 * answer to that, a client does not know whether it may send it again. */
static bool
is_expected(const fb_conn *conn)
{
    uint64_t waited = uv_now(&conn->server->loop) - conn->wait_node.since;
    return conn->n_requests == 0 && waited < FB_FIRST_REQUEST_MS;
}

static void
close_idle_conns(fb_server *server)
{
    for (fb_conn *conn = server->conns; conn != NULL; conn = conn->next) {
        if (fb_conn_is_idle(conn) && !is_expected(conn)) {
            fb_conn_close(conn);
        }
    }
}

/* Also forget their slots and the lists: no check phase will look there any more. */
static void
close_conns(fb_server *server)
{
    for (size_t i = 0; i < server->n_queues; i++) {
        fb_queue *queue = &server->queues[i];
        fb_count_add(&server->stats->n_slots, -(uint64_t)queue->batch.n_slots);
        fb_queue_reset(queue);
    }
    server->touched = NULL;
    server->ready = NULL;
    for (fb_conn *conn = server->conns; conn != NULL; conn = conn->next) {
        if (conn->executor == NULL) {
            conn->n_slots = 0;
        }
        conn->is_touched = false;
        conn->is_ready = false;
        fb_conn_break_off(conn);
    }
}

/* Without these the loop ends, once the connections have. */
static void
close_own_handles(fb_server *server)
{
    close_handle((uv_handle_t *)&server->check);
    close_handle((uv_handle_t *)&server->tick);
    close_handle((uv_handle_t *)&server->grace);
    close_handle((uv_handle_t *)&server->beat);
    close_handle((uv_handle_t *)&server->idle);
    close_handle((uv_handle_t *)&server->stop);
    close_handle((uv_handle_t *)&server->wakeup);
    close_handle((uv_handle_t *)&server->due);
    fb_pool_wind_up(&server->pool);
}

static void
close_everything(fb_server *server)
{
    close_listeners(server);
    close_conns(server);
    close_own_handles(server);
}

static void
on_grace_over(uv_timer_t *grace)
{
    fb_server *server = grace->data;
    server->stopping = FB_STOP_NOW;
    close_everything(server);
}

static void
begin_stop(fb_server *server, fb_stop stop)
{
    if (server->stopping >= stop) {
        return;
    }
    server->stopping = stop;
    if (stop == FB_STOP_NOW) {
        close_everything(server);
        return;
    }
    uv_idle_start(&server->idle, on_idle);
    if (server->limits.graceful_timeout_ms > 0) {
        uv_timer_start(&server->grace, on_grace_over,
                       server->limits.graceful_timeout_ms, 0);
    }
    resume_accepting(server);
}

bool
fb_server_closes_idle(const fb_server *server)
{
    return server->stopping != FB_STOP_NO && server->stop_step >= 3;
}

/* A graceful stop, once an iteration. The first lets in who already stands at the door,
 * the second reads what they sent; then whoever has nothing to ask is sent away. */
static void
step_stop(fb_server *server)
{
    if (server->stopping != FB_STOP_GRACEFUL) {
        return;
    }
    server->stop_step++;
    if (server->stop_step == 2) {
        close_listeners(server);
    } else if (server->stop_step == 3) {
        close_idle_conns(server);
    }
    if (server->stop_step >= 3 && fb_count_get(&server->n_conns) == 0) {
        close_own_handles(server);
    }
}

static void
on_stop(uv_async_t *async)
{
    fb_server *server = async->data;
    begin_stop(server, (fb_stop)atomic_load(&server->stop_wanted));
}

void
fb_server_stop(fb_server *server, fb_stop stop)
{
    int wanted = atomic_load(&server->stop_wanted);
    while (wanted < (int)stop &&
           !atomic_compare_exchange_weak(&server->stop_wanted, &wanted, (int)stop)) {
    }
    uv_async_send(&server->stop);
}

static void on_tick(uv_timer_t *tick);

bool
fb_server_is_full(const fb_server *server)
{
    return fb_count_get(&server->n_conns) >= server->limits.max_connections;
}

void
fb_server_start_tick(fb_server *server)
{
    if (!uv_is_active((uv_handle_t *)&server->tick)) {
        uv_timer_start(&server->tick, on_tick, server->tick_ms, server->tick_ms);
    }
}

void
fb_server_make_room(fb_server *server)
{
    fb_time_node *node = fb_times_first(&server->waits[FB_WAIT_REQUEST]);
    if (node == NULL || uv_now(&server->loop) - node->since < FB_GIVE_WAY_MS) {
        return;
    }
    fb_conn *conn = fb_conn_of_wait(node);
    if (fb_conn_is_idle(conn)) {
        fb_conn_close(conn);
    }
}

/* ---- callbacks of the loop ------------------------------------------------------- */

static void
expire_waits(fb_server *server)
{
    for (size_t i = 0; i < FB_WAIT_KINDS; i++) {
        fb_time_node *node;
        while ((node = fb_times_expired(&server->waits[i], server->ticked_at)) !=
               NULL) {
            fb_conn *conn = fb_conn_of_wait(node);
            fb_times_stop(node);
            fb_conn_expire(conn);
        }
    }
}

/* While one waits for memory, bodies that stand still leave it. */
static void
unload_bodies(fb_server *server)
{
    fb_time_list *list = &server->waits[FB_WAIT_BODY];
    fb_time_node *node = fb_times_first(list);
    while (node != NULL && fb_server_has_starved(server)) {
        fb_time_node *next = node->next != &list->ends ? node->next : NULL;
        fb_conn_unload(fb_conn_of_wait(node));
        feed_starved(server);
        node = next;
    }
}

static void
work_off_tick(fb_server *server)
{
    server->is_tick_due = false;
    expire_waits(server);
    expire_queues(server);
    unload_bodies(server);
    work_off_and_share(server);
    fb_access_hand_on(&server->access);
    if (fb_server_closes_idle(server)) {
        close_idle_conns(server);
    }
    if (fb_count_get(&server->n_conns) == 0) {
        uv_timer_stop(&server->tick);
    }
    resume_accepting(server); /* which starts the tick again if it has to pause again */
}

/* Queues are the loop's: no other thread may look at them. It does when what was due is
 * answered or handed over. */
static void
publish_queues(const fb_server *server)
{
    for (size_t i = 0; i < server->n_queues; i++) {
        const fb_queue *queue = &server->queues[i];
        fb_count_set(&server->stats->queues[i].n_waiting,
                     queue->batch.n_slots + queue->n_blocked);
    }
}

void
fb_server_publish(fb_server *server)
{
    fb_stats *stats = server->stats;
    fb_count_set(&stats->n_taken, fb_count_get(&server->heap.n_taken));
    fb_count_set(&stats->n_lines_lost, fb_access_lost(&server->access));
}

static void
on_check(uv_check_t *check)
{
    fb_server *server = check->data;
    work_off_and_share(server);
    if (server->is_tick_due) {
        work_off_tick(server);
    }
    feed_starved(server);
    step_stop(server);
    if (server->stopping == FB_STOP_NO || fb_server_closes_idle(server)) {
        uv_idle_stop(&server->idle);
    }
    if (server->due_fd >= 0) {
        set_due(server);
    }
    publish_queues(server);
    fb_server_publish(server);
    fb_count_set(&server->stats->beat_ms, uv_now(&server->loop));
    server->ops->rest(server->owner);
}

/* Whose wait is over is seen in the check phase: what came while a handler held the
 * loop has been read by then, and it is not the peer who is late. */
static void
on_tick(uv_timer_t *tick)
{
    fb_server *server = tick->data;
    server->is_tick_due = true;
    server->ticked_at = uv_now(&server->loop);
    uv_idle_start(&server->idle, on_idle);
}

static void
drain(int fd)
{
    char bytes[64];
    while (read(fd, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes)) {
    }
}

static void
on_wakeup(uv_poll_t *wakeup, int status, int events)
{
    (void)events;
    fb_server *server = wakeup->data;
    if (status == 0) {
        drain(server->wakeup_fd);
    } else {
        uv_poll_stop(wakeup);
    }
    if (server->ops->wakeup(server->owner)) {
        return;
    }
    begin_stop(server, FB_STOP_GRACEFUL);
    if (atomic_load(&server->stop_wanted) == FB_STOP_NOW) {
        uv_stop(&server->loop); /* handler threads may never come back */
    }
}

/* ---- connections ----------------------------------------------------------------- */

static fb_conn *
take_conn(fb_server *server)
{
    fb_conn *conn = server->free_conns;
    if (conn == NULL) {
        return fb_heap_take(&server->heap, sizeof(*conn));
    }
    server->free_conns = conn->next;
    server->n_free_conns--;
    memset(conn, 0, sizeof(*conn));
    return conn;
}

/* Count n more, for all who look. */
static void
count_conns(fb_server *server, uint64_t n)
{
    fb_count_add(&server->n_conns, n);
    uint64_t n_conns = fb_count_get(&server->n_conns);
    fb_count_set(&server->stats->n_open, n_conns);
    if (server->place != NULL) {
        fb_count_set(&server->place->n_conns, n_conns);
    }
}

fb_conn *
fb_server_new_conn(fb_server *server)
{
    fb_conn *conn = take_conn(server);
    if (conn == NULL) {
        return NULL;
    }
    conn->server = server;
    conn->next = server->conns;
    if (conn->next != NULL) {
        conn->next->prev = conn;
    }
    server->conns = conn;
    count_conns(server, 1);
    fb_server_start_tick(server);
    return conn;
}

static void
unlink_conn(fb_server *server, fb_conn *conn)
{
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        server->conns = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
    count_conns(server, (uint64_t)-1);
}

void
fb_server_conn_gone(fb_server *server, fb_conn *conn)
{
    unlink_conn(server, conn);
    if (server->n_free_conns < FB_POOL_ITEMS) {
        conn->next = server->free_conns;
        server->free_conns = conn;
        server->n_free_conns++;
    } else {
        fb_heap_give(&server->heap, conn);
    }
    bool is_last = fb_count_get(&server->n_conns) == 0;
    if (is_last && server->stopping == FB_STOP_GRACEFUL && server->stop_step >= 3) {
        close_own_handles(server);
    } else if (is_last && server->stopping == FB_STOP_NOW) {
        fb_pool_wind_up(&server->pool);
    }
    resume_accepting(server);
    feed_starved(server); /* the check phase is over */
}

/* ---- opening and closing --------------------------------------------------------- */

static int
open_listeners(fb_server *server, const fb_server_setup *setup)
{
    if (setup->n_fds == 0) {
        return UV_EINVAL;
    }
    server->listeners =
        fb_heap_take(&server->heap, setup->n_fds * sizeof(*server->listeners));
    if (server->listeners == NULL) {
        return UV_ENOMEM;
    }
    server->roster = setup->roster;
    server->place = setup->roster != NULL ? fb_roster_join(setup->roster) : NULL;
    for (size_t i = 0; i < setup->n_fds; i++) {
        fb_listener *listener = &server->listeners[i];
        int error =
            fb_listener_open(listener, server, setup->fds[i], server->limits.backlog);
        server->n_listeners += listener->is_open ? 1 : 0;
        if (error != 0) {
            return error;
        }
    }
    return 0;
}

static int
open_wakeup(fb_server *server, int fd)
{
    server->wakeup_fd = fd;
    if (fd < 0) {
        return 0;
    }
    int error = uv_poll_init(&server->loop, &server->wakeup, fd);
    if (error != 0) {
        return error;
    }
    server->wakeup.data = server;
    return uv_poll_start(&server->wakeup, UV_READABLE, on_wakeup);
}

static void
on_beat(uv_timer_t *beat)
{
    (void)beat; /* the check phase does it */
}

static int
open_own_handles(fb_server *server, uint64_t heartbeat_ms)
{
    uv_loop_t *loop = &server->loop;
    uv_check_init(loop, &server->check); /* these never fail */
    uv_timer_init(loop, &server->tick);
    uv_timer_init(loop, &server->grace);
    uv_timer_init(loop, &server->beat);
    uv_idle_init(loop, &server->idle);
    server->check.data = server;
    server->tick.data = server;
    server->grace.data = server;
    uv_check_start(&server->check, on_check);
    if (heartbeat_ms > 0) {
        uv_timer_start(&server->beat, on_beat, heartbeat_ms, heartbeat_ms);
    }
    int error = uv_async_init(loop, &server->stop, on_stop);
    server->stop.data = server;
    return error;
}

/* Returns milliseconds. */
static uint64_t
min_wait(const fb_server *server)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < server->n_queues; i++) {
        uint64_t deadline_ns = server->queues[i].rules.deadline_ns;
        if (deadline_ns > 0 && deadline_ns / NS_PER_MS < least) {
            least = deadline_ns / NS_PER_MS;
        }
    }
    for (size_t i = 0; i < FB_WAIT_KINDS; i++) {
        uint64_t wait_ms = server->waits[i].wait_ms;
        if (wait_ms > 0 && wait_ms < least) {
            least = wait_ms;
        }
    }
    return least;
}

/* A head that waits for memory is not read, so that it would not be seen when its
 * client leaves: where queues have no time-out, that of heads ends it. */
static uint64_t
memory_timeout_ms(const fb_limits *limits)
{
    return limits->queue_timeout_ms > 0 ? limits->queue_timeout_ms
                                        : limits->head_timeout_ms;
}

static void
init_waits(fb_server *server)
{
    const fb_limits *limits = &server->limits;
    fb_times_init(&server->waits[FB_WAIT_REQUEST], limits->keepalive_timeout_ms);
    fb_times_init(&server->waits[FB_WAIT_HEAD], limits->head_timeout_ms);
    fb_times_init(&server->waits[FB_WAIT_BODY], limits->body_timeout_ms);
    fb_times_init(&server->waits[FB_WAIT_MEMORY], memory_timeout_ms(limits));
    fb_times_init(&server->waits[FB_WAIT_QUEUE], limits->queue_timeout_ms);
    fb_times_init(&server->waits[FB_WAIT_HANDLER], 0);
    fb_times_init(&server->waits[FB_WAIT_WRITE], limits->write_timeout_ms);
    fb_times_init(&server->waits[FB_WAIT_GOODBYE], FB_LINGER_TIMEOUT_MS);
    uint64_t tick = min_wait(server) / 4;
    tick = tick > FB_TICK_MAX_MS ? FB_TICK_MAX_MS : tick;
    server->tick_ms = tick < FB_TICK_MIN_MS ? FB_TICK_MIN_MS : tick;
}

static int
open_queues(fb_server *server, const fb_server_setup *setup)
{
    const fb_queue_rules only = {
        .batch_size = server->limits.batch_size,
        .size = FB_QUEUE_SIZE,
        .full_status = 503,
    };
    size_t n = setup->queues != NULL ? setup->n_queues : 1;
    assert(n >= 1 && n <= FB_QUEUES_BOUND);
    server->queues = fb_heap_take(&server->heap, n * sizeof(*server->queues));
    if (server->queues == NULL) {
        return UV_ENOMEM;
    }
    for (; server->n_queues < n; server->n_queues++) {
        size_t i = server->n_queues;
        fb_queue_init(&server->queues[i], server, (uint32_t)i,
                      setup->queues != NULL ? &setup->queues[i] : &only);
    }
    server->routes = setup->routes;
    server->n_routes = setup->n_routes;
    return 0;
}

int
fb_server_open(fb_server *server, const fb_server_setup *setup)
{
    assert(strlen(setup->server_value) < sizeof(server->server_value));
    server->limits = *setup->limits;
    server->ops = setup->ops;
    server->owner = setup->owner;
    server->wakeup_fd = -1;
    server->due_fd = -1;
    server->stats = setup->stats != NULL ? setup->stats : &server->own_stats;
    server->n_events = UINT64_MAX; /* none were reported yet */
    memcpy(server->server_value, setup->server_value, strlen(setup->server_value) + 1);
    fb_batch_init(&server->refused, 1);
    fb_exchange_pool_init(&server->exchanges, &server->limits, &server->heap);
    fb_deadline_init(&server->deadline,
                     setup->deadline_field != NULL ? setup->deadline_field : "");
    int error = fb_access_open(&server->access, &server->heap, &setup->access);
    if (error != 0) {
        return error;
    }
    error = open_queues(server, setup);
    if (error != 0) {
        return error;
    }
    init_waits(server);
    server->speaks_proxy = setup->speaks_proxy;
    if (setup->trusted != NULL && !fb_trust_read(&server->trust, setup->trusted)) {
        return UV_EINVAL;
    }
    server->temp_dir = fb_heap_take(&server->heap, strlen(setup->temp_dir) + 1);
    if (server->temp_dir == NULL) {
        return UV_ENOMEM;
    }
    memcpy(server->temp_dir, setup->temp_dir, strlen(setup->temp_dir) + 1);
    error = uv_loop_init(&server->loop);
    if (error != 0) {
        return error;
    }
    server->has_loop = true;
    error = open_own_handles(server, setup->heartbeat_ms);
    if (error != 0) {
        return error;
    }
    error = open_due(server);
    if (error != 0) {
        return error;
    }
    error = fb_executor_open(&server->executor, server, &server->queues[0].batch);
    if (error != 0) {
        return error;
    }
    error = fb_pool_open(&server->pool, server, server->limits.threads);
    if (error != 0) {
        return error;
    }
    error = fb_flusher_open(&server->flusher, server);
    if (error != 0) {
        return error;
    }
    error = open_listeners(server, setup);
    return error != 0 ? error : open_wakeup(server, setup->wakeup_fd);
}

/* Returns 0 or libuv's error code; stop_threads must follow either way. */
static int
start_threads(fb_server *server)
{
    int error = fb_access_start(&server->access);
    if (error != 0 || fb_server_has_threads(server)) {
        return error;
    }
    return fb_flusher_start(&server->flusher);
}

static void
stop_threads(fb_server *server)
{
    fb_flusher_stop(&server->flusher);
    fb_access_stop(&server->access);
}

int
fb_server_run(fb_server *server)
{
    fb_sigpipe sigpipe;
    fb_sigpipe_block(&sigpipe);
    int error = start_threads(server);
    if (error == 0) {
        uv_run(&server->loop, UV_RUN_DEFAULT);
    }
    stop_threads(server);
    fb_sigpipe_unblock(&sigpipe);
    return error;
}

void
fb_server_close(fb_server *server)
{
    if (server->has_loop) {
        server->stopping = FB_STOP_NOW;
        close_everything(server);
        uv_run(&server->loop, UV_RUN_DEFAULT);
        int error = uv_loop_close(&server->loop);
        assert(error == 0);
        (void)error;
        server->has_loop = false;
    }
    close_due(server);
    fb_flusher_close(&server->flusher);
    fb_executor_close(&server->executor);
    fb_pool_close(&server->pool);
    fb_access_close(&server->access);
    if (server->stats != NULL) {
        publish_queues(server);
        fb_server_publish(server);
    }
    while (server->free_conns != NULL) {
        fb_conn *conn = server->free_conns;
        server->free_conns = conn->next;
        fb_heap_give(&server->heap, conn);
    }
    fb_exchange_pool_fini(&server->exchanges);
    fb_heap_give(&server->heap, server->temp_dir);
    server->temp_dir = NULL;
    fb_heap_give(&server->heap, server->listeners);
    server->listeners = NULL;
    fb_heap_give(&server->heap, server->queues);
    server->queues = NULL;
    server->n_queues = 0;
    assert(server->heap.n_held == 0);
}
