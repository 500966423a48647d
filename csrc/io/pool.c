/* SPDX-License-Identifier: MIT */
/*
 * Sharing out, taking back, and the threads in between.
 */
#include "io/pool.h"

#include "io/server.h"

#include <assert.h>

#define WATCH_MS (FB_EARLY_FLUSH_NS / 1000000)

/* ---- queues of jobs -------------------------------------------------------------- */

static void
push_job(fb_job_queue *queue, fb_job *job)
{
    job->next = NULL;
    if (queue->first == NULL) {
        queue->first = job;
    } else {
        queue->last->next = job;
    }
    queue->last = job;
}

static fb_job *
pop_job(fb_job_queue *queue)
{
    fb_job *job = queue->first;
    if (job != NULL) {
        queue->first = job->next;
    }
    return job;
}

/* ---- threads --------------------------------------------------------------------- */

static fb_hand *
hand_of(fb_executor *executor)
{
    return (fb_hand *)(void *)((char *)executor - offsetof(fb_hand, executor));
}

fb_executor *
fb_pool_join(fb_pool *pool)
{
    fb_executor *executor = NULL;
    if (pool->n_hands == 0) {
        return NULL;
    }
    uv_mutex_lock(&pool->lock);
    for (size_t i = 0; i < pool->n_hands && executor == NULL; i++) {
        if (!pool->hands[i]->is_there && !pool->is_ending) {
            pool->hands[i]->is_there = true;
            pool->n_there++;
            executor = &pool->hands[i]->executor;
        }
    }
    if (executor != NULL && pool->has_handles) {
        uv_async_send(&pool->back); /* something may be waiting for it */
    }
    uv_mutex_unlock(&pool->lock);
    return executor;
}

void
fb_pool_leave(fb_pool *pool)
{
    uv_mutex_lock(&pool->lock);
    pool->n_there--;
    uv_cond_signal(&pool->is_left);
    uv_mutex_unlock(&pool->lock);
}

/* Wake a thread for a job, unless all are awake: these look before they sleep. Under
 * the lock. */
static void
wake_one(const fb_pool *pool)
{
    for (size_t i = 0; i < pool->n_hands; i++) {
        fb_hand *hand = pool->hands[i];
        if (hand->is_waiting && !hand->has_batch) {
            hand->is_waiting = false; /* another job wakes another one */
            uv_cond_signal(&hand->is_wanted);
            return;
        }
    }
}

/* Under the lock. Returns whether there is something to do. */
static bool
find_work(fb_pool *pool, fb_hand *hand, fb_work *work, fb_job **job)
{
    bool is_own = true;
    *job = NULL;
    if (hand->has_batch) {
        hand->has_batch = false;
        *work = FB_WORK_BATCH;
    } else {
        *job = pop_job(&hand->jobs);
        is_own = *job != NULL;
        *job = is_own ? *job : pop_job(&pool->jobs);
        *work = *job != NULL ? FB_WORK_JOB : FB_WORK_END;
    }
    if (is_own && pool->jobs.first != NULL) {
        wake_one(pool); /* it may have been this one that was woken for them */
    }
    return *work != FB_WORK_END || pool->is_ending;
}

fb_work
fb_pool_wait(fb_pool *pool, fb_executor *executor, fb_job **job)
{
    fb_work work;
    fb_hand *hand = hand_of(executor);
    uv_mutex_lock(&pool->lock);
    while (!find_work(pool, hand, &work, job)) {
        hand->is_waiting = true;
        uv_cond_wait(&hand->is_wanted, &pool->lock);
        hand->is_waiting = false;
    }
    hand->is_working = work != FB_WORK_END;
    hand->is_there = work != FB_WORK_END; /* it takes no job any more */
    uv_mutex_unlock(&pool->lock);
    return work;
}

/* Send what is answered of connections that the loop has not taken back yet: at once,
 * and not only when the loop comes to it. */
static void
send_replies(fb_executor *executor)
{
    const fb_batch *batch = executor->batch;
    const fb_conn *last = NULL;
    for (size_t i = 0; i < batch->n_slots; i++) {
        const fb_slot *slot = &batch->slots[i];
        if (slot->owner != last) {
            last = slot->owner;
            fb_executor_lock(executor);
            if (!slot->is_taken_back) {
                (void)fb_conn_flush_early(slot->owner); /* what fails, fails again */
            }
            fb_executor_unlock(executor);
        }
    }
}

void
fb_pool_give_back(fb_pool *pool, fb_executor *executor)
{
    fb_executor_end(executor);
    send_replies(executor);
    uv_mutex_lock(&pool->lock);
    hand_of(executor)->is_done = true;
    hand_of(executor)->is_working = false;
    uv_async_send(&pool->back); /* the handle may be gone as soon as this is seen */
    uv_mutex_unlock(&pool->lock);
}

void
fb_pool_finish(fb_pool *pool, fb_executor *executor, fb_job *job)
{
    uv_mutex_lock(&pool->lock);
    push_job(&pool->done_jobs, job);
    hand_of(executor)->is_working = false;
    uv_async_send(&pool->back); /* the handle may be gone as soon as this is seen */
    uv_mutex_unlock(&pool->lock);
}

void
fb_pool_tell(fb_executor *executor)
{
    if (atomic_load_explicit(&executor->is_slow, memory_order_relaxed)) {
        uv_async_send(&executor->server->pool.back);
    }
}

void
fb_pool_end(fb_pool *pool)
{
    if (pool->n_hands == 0) {
        return;
    }
    uv_mutex_lock(&pool->lock);
    pool->is_ending = true;
    for (size_t i = 0; i < pool->n_hands; i++) {
        uv_cond_signal(&pool->hands[i]->is_wanted);
    }
    uv_mutex_unlock(&pool->lock);
}

void
fb_pool_wait_for_end(fb_pool *pool)
{
    if (pool->n_hands == 0) {
        return;
    }
    fb_pool_end(pool);
    uv_mutex_lock(&pool->lock);
    while (pool->n_there > 0) {
        uv_cond_wait(&pool->is_left, &pool->lock);
    }
    uv_mutex_unlock(&pool->lock);
}

bool
fb_pool_is_busy(fb_pool *pool)
{
    bool is_busy = false;
    if (pool->n_hands > 0) {
        uv_mutex_lock(&pool->lock);
        for (size_t i = 0; i < pool->n_hands; i++) {
            const fb_hand *hand = pool->hands[i];
            is_busy = is_busy || hand->is_working || hand->has_batch;
        }
        uv_mutex_unlock(&pool->lock);
    }
    return is_busy;
}

/* ---- sharing out ----------------------------------------------------------------- */

bool
fb_pool_submit(fb_pool *pool, fb_executor *executor, fb_job *job)
{
    fb_hand *hand = executor != NULL ? hand_of(executor) : NULL;
    uv_mutex_lock(&pool->lock);
    bool is_taken =
        pool->has_handles && (hand != NULL ? hand->is_there : pool->n_there > 0);
    if (is_taken) {
        pool->n_jobs++;
    }
    if (is_taken && hand != NULL) {
        push_job(&hand->jobs, job);
        uv_cond_signal(&hand->is_wanted);
    } else if (is_taken) {
        push_job(&pool->jobs, job);
        wake_one(pool);
    }
    uv_mutex_unlock(&pool->lock);
    return is_taken;
}

/* Returns an idle hand, or NULL: one without streams, if there is; of these the first,
 * which is the one still in the caches. Under the lock. */
static fb_hand *
find_idle(const fb_pool *pool, size_t *n_idle)
{
    fb_hand *first = NULL;
    fb_hand *without = NULL;
    *n_idle = 0;
    for (size_t i = pool->n_hands; i-- > 0;) {
        fb_hand *hand = pool->hands[i];
        if (hand->is_there && !hand->is_working && hand->is_free) {
            first = hand;
            without = atomic_load(&hand->executor.n_streams) == 0 ? hand : without;
            ++*n_idle;
        }
    }
    return without != NULL ? without : first;
}

/* Returns where a part that begins at from and is about n slots long ends: a connection
 * is never parted, because its replies are to leave in order. */
static size_t
end_of_part(const fb_batch *batch, size_t from, size_t n)
{
    return fb_batch_end_of_owner(batch, from + n - 1);
}

/* Give hand the slots of from to end of batch. Under the lock of the pool, and of the
 * executor that has batch, if one has. */
static void
hand_over(fb_hand *hand, fb_batch *batch, size_t from, size_t end)
{
    hand->batch.queue = batch->queue;
    for (size_t i = from; i < end; i++) {
        fb_slot *slot = fb_batch_move(&hand->batch, &batch->slots[i]);
        fb_conn_hand_over(slot->owner, &hand->executor, slot);
    }
    hand->is_free = false;
    hand->has_batch = true;
    uv_cond_signal(&hand->is_wanted);
}

/* Returns whether a batch of queue may be given to a thread now. */
static bool
is_ready(const fb_queue *queue, uint64_t now)
{
    bool is_busy =
        queue->rules.is_whole && queue->n_running >= queue->rules.concurrency;
    return !is_busy && fb_queue_is_due(queue, now);
}

/* Returns the queue whose batch is to be given to threads next, or NULL. */
static fb_queue *
next_ready(fb_server *server, uint64_t now)
{
    fb_queue *next = NULL;
    for (size_t i = 0; i < server->n_queues; i++) {
        fb_queue *queue = &server->queues[i];
        if (is_ready(queue, now) &&
            (next == NULL || queue->oldest_at < next->oldest_at)) {
            next = queue;
        }
    }
    return next;
}

/* Give what queue has collected to threads that are idle: to one, or to all, fairly.
 * Under the lock. */
static void
share_queue(fb_pool *pool, fb_queue *queue)
{
    fb_batch *batch = &queue->batch;
    size_t from = 0;
    size_t n_idle;
    fb_hand *hand;
    while (from < batch->n_slots && (hand = find_idle(pool, &n_idle)) != NULL) {
        size_t n_parts = queue->rules.is_whole ? 1 : n_idle;
        size_t n = (batch->n_slots - from + n_parts - 1) / n_parts;
        size_t end = end_of_part(batch, from, n);
        hand_over(hand, batch, from, end);
        fb_stats_note_batch(pool->server->stats, batch->queue, end - from);
        queue->n_running++;
        from = end;
    }
    fb_queue_drop_first(queue, from);
}

/* Share out what was collected, the oldest first. Under the lock. */
static void
share_collected(fb_pool *pool)
{
    size_t n_idle;
    uint64_t now = fb_server_look(pool->server);
    fb_queue *queue;
    while ((queue = next_ready(pool->server, now)) != NULL &&
           find_idle(pool, &n_idle) != NULL) {
        share_queue(pool, queue);
    }
}

static void
expire_queues(fb_server *server)
{
    for (size_t i = 0; i < server->n_queues; i++) {
        if (server->queues[i].expires_at != UINT64_MAX) {
            fb_queue_expire(&server->queues[i], uv_hrtime());
        }
    }
}

/* Share out what a slow dispatch has not begun, if somebody is idle. Its own lock comes
 * first: who holds that may let go of a body, which is a job. */
static void
share_unbegun(fb_pool *pool, fb_executor *slow)
{
    size_t n_idle;
    fb_hand *hand;
    fb_batch *batch = slow->batch;
    fb_executor_lock(slow);
    uv_mutex_lock(&pool->lock);
    bool is_idle = find_idle(pool, &n_idle) != NULL;
    if (is_idle && slow->is_dispatching && slow->n_claimed > 0) {
        size_t first = end_of_part(batch, slow->n_claimed - 1, 1);
        size_t from = first;
        while (from < batch->n_slots && (hand = find_idle(pool, &n_idle)) != NULL) {
            size_t n = (batch->n_slots - from + n_idle - 1) / n_idle;
            size_t end = end_of_part(batch, from, n);
            hand_over(hand, batch, from, end);
            pool->server->queues[batch->queue].n_running++;
            from = end;
        }
        batch->n_slots = first; /* the last that was idle has taken the rest */
    }
    uv_mutex_unlock(&pool->lock);
    fb_executor_unlock(slow);
}

static bool
is_slow(const fb_executor *executor)
{
    return atomic_load_explicit(&executor->is_slow, memory_order_relaxed);
}

static void on_watch(uv_timer_t *watch);

/* Whoever has a batch is watched. */
static void
start_watch(fb_pool *pool)
{
    for (size_t i = 0; i < pool->n_hands; i++) {
        bool is_watched = uv_is_active((uv_handle_t *)&pool->watch);
        if (!pool->hands[i]->is_free && !is_watched) {
            uv_timer_start(&pool->watch, on_watch, WATCH_MS, WATCH_MS);
        }
    }
}

void
fb_pool_share(fb_pool *pool)
{
    expire_queues(pool->server);
    uv_mutex_lock(&pool->lock);
    share_collected(pool);
    start_watch(pool);
    uv_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->n_hands; i++) {
        if (is_slow(&pool->hands[i]->executor)) {
            share_unbegun(pool, &pool->hands[i]->executor);
        }
    }
    fb_server_rest(pool->server);
}

bool
fb_pool_can_share(fb_pool *pool)
{
    size_t n_idle;
    if (next_ready(pool->server, fb_server_look(pool->server)) == NULL) {
        return false;
    }
    uv_mutex_lock(&pool->lock);
    bool is_idle = find_idle(pool, &n_idle) != NULL;
    uv_mutex_unlock(&pool->lock);
    return is_idle;
}

/* ---- taking back ----------------------------------------------------------------- */

/* The slots of one connection, from and up to end, are answered: go on with it. */
static void
take_back(fb_hand *hand, size_t from, size_t end)
{
    fb_server *server = hand->executor.server;
    fb_slot *slots = hand->batch.slots;
    fb_stats_note_slots(server->stats, hand->batch.queue, &slots[from], end - from,
                        hand->executor.began_at);
    if (server->access.is_on) {
        fb_access_log_slots(&server->access, &hand->executor, &slots[from], end - from);
    }
    fb_conn_settle(slots[from].owner);
}

/* Whether a connection of a dispatch that goes on is to be taken back, is decided under
 * the lock of the executor. Requests may still point into what was read: it stays with
 * the hand, and the connection has new memory; without that it is taken back later. */
static bool
begin_taking_back(fb_hand *hand, size_t from, size_t end)
{
    fb_slot *slots = hand->batch.slots;
    fb_conn *conn = slots[from].owner;
    if (slots[from].is_taken_back || conn->n_answered < conn->n_slots) {
        return false;
    }
    char *retired = fb_conn_renew_input(conn);
    if (retired == NULL) {
        return false;
    }
    hand->retired[hand->n_retired++] = retired;
    for (size_t i = from; i < end; i++) {
        slots[i].is_taken_back = true;
    }
    return true;
}

/* Returns whether something is answered that could not be sent yet. As above. */
static bool
send_part(const fb_hand *hand, size_t from)
{
    const fb_slot *slot = &hand->batch.slots[from];
    fb_conn *conn = slot->owner;
    if (slot->is_taken_back || fb_conn_has_sent_all(conn)) {
        return false;
    }
    return fb_conn_flush_early(conn) == FB_EARLY_FULL;
}

/* Take back what of a slow dispatch is answered. Returns whether to look again soon. */
static bool
look_at_slow(fb_hand *hand)
{
    fb_executor *executor = &hand->executor;
    bool has_unsent = false;
    for (size_t from = 0, end; from < hand->batch.n_slots; from = end) {
        end = end_of_part(&hand->batch, from, 1);
        fb_executor_lock(executor);
        bool is_due = executor->is_dispatching && begin_taking_back(hand, from, end);
        has_unsent |= executor->is_dispatching && !is_due && send_part(hand, from);
        fb_executor_unlock(executor);
        if (is_due) {
            take_back(hand, from, end);
        }
    }
    return has_unsent;
}

static void
take_batch_back(fb_pool *pool, fb_hand *hand)
{
    for (size_t from = 0, end; from < hand->batch.n_slots; from = end) {
        end = end_of_part(&hand->batch, from, 1);
        if (!hand->batch.slots[from].is_taken_back) {
            take_back(hand, from, end);
        }
    }
    fb_server_reset_batch(&hand->batch);
    pool->server->queues[hand->batch.queue].n_running--;
    while (hand->n_retired > 0) {
        fb_heap_give(&pool->server->heap, hand->retired[--hand->n_retired]);
    }
    atomic_store_explicit(&hand->executor.is_slow, false, memory_order_relaxed);
    uv_mutex_lock(&pool->lock);
    hand->is_free = true;
    uv_mutex_unlock(&pool->lock);
}

static void
finish_jobs(fb_pool *pool)
{
    for (;;) {
        uv_mutex_lock(&pool->lock);
        fb_job *job = pop_job(&pool->done_jobs);
        pool->n_jobs -= job != NULL ? 1 : 0;
        uv_mutex_unlock(&pool->lock);
        if (job == NULL) {
            return;
        }
        job->finish(job);
    }
}

static bool
is_done(fb_pool *pool, fb_hand *hand)
{
    uv_mutex_lock(&pool->lock);
    bool done = hand->is_done;
    hand->is_done = false;
    uv_mutex_unlock(&pool->lock);
    return done;
}

static void
end_if_quiet(fb_pool *pool)
{
    uv_mutex_lock(&pool->lock);
    bool is_quiet = pool->is_winding_up && pool->has_handles && pool->n_jobs == 0 &&
                    fb_count_get(&pool->server->n_conns) == 0;
    for (size_t i = 0; i < pool->n_hands; i++) {
        is_quiet = is_quiet && pool->hands[i]->is_free;
    }
    if (is_quiet) {
        pool->has_handles = false;
        uv_close((uv_handle_t *)&pool->back, NULL);
        uv_close((uv_handle_t *)&pool->watch, NULL);
    }
    uv_mutex_unlock(&pool->lock);
}

static void
on_back(uv_async_t *back)
{
    fb_pool *pool = back->data;
    pool->server->settled_at = uv_hrtime();
    finish_jobs(pool);
    for (size_t i = 0; i < pool->n_hands; i++) {
        fb_hand *hand = pool->hands[i];
        if (is_done(pool, hand)) {
            take_batch_back(pool, hand);
        } else if (is_slow(&hand->executor) && look_at_slow(hand)) {
            start_watch(pool);
        }
    }
    end_if_quiet(pool);
}

/* Returns whether the dispatch of hand is the one of the last look. */
static bool
is_same_dispatch(fb_hand *hand)
{
    fb_executor_lock(&hand->executor);
    bool is_same =
        hand->executor.is_dispatching && hand->seen == hand->executor.n_begun;
    hand->seen = hand->executor.n_begun;
    fb_executor_unlock(&hand->executor);
    return is_same;
}

static void
on_watch(uv_timer_t *watch)
{
    fb_pool *pool = watch->data;
    bool goes_on = false;
    pool->server->settled_at = uv_hrtime();
    for (size_t i = 0; i < pool->n_hands; i++) {
        fb_hand *hand = pool->hands[i];
        if (hand->is_free) {
            continue;
        }
        if (is_same_dispatch(hand)) {
            atomic_store_explicit(&hand->executor.is_slow, true, memory_order_relaxed);
            goes_on |= look_at_slow(hand);
        } else {
            goes_on = true;
        }
    }
    if (!goes_on) {
        uv_timer_stop(watch);
    }
}

void
fb_pool_wind_up(fb_pool *pool)
{
    if (pool->n_hands > 0) {
        pool->is_winding_up = true;
        end_if_quiet(pool);
    }
}

/* ---- life ------------------------------------------------------------------------ */

static int
open_hand(fb_pool *pool, fb_hand *hand)
{
    fb_batch_init(&hand->batch, FB_BATCH_SLOTS);
    hand->is_free = true;
    int error = fb_executor_open(&hand->executor, pool->server, &hand->batch);
    hand->executor.is_shared = true;
    if (error == 0) {
        error = uv_cond_init(&hand->is_wanted);
        hand->has_cond = error == 0;
    }
    return error;
}

static int
open_hands(fb_pool *pool, size_t n)
{
    fb_heap *heap = &pool->server->heap;
    pool->hands = fb_heap_take(heap, n * sizeof(fb_hand *));
    int error = pool->hands != NULL ? 0 : UV_ENOMEM;
    while (error == 0 && pool->n_hands < n) {
        fb_hand *hand = fb_heap_take(heap, sizeof(*hand));
        if (hand == NULL) {
            return UV_ENOMEM;
        }
        pool->hands[pool->n_hands++] = hand;
        error = open_hand(pool, hand);
    }
    return error;
}

int
fb_pool_open(fb_pool *pool, fb_server *server, size_t n)
{
    pool->server = server;
    if (n == 0) {
        return 0;
    }
    int error = uv_mutex_init(&pool->lock);
    if (error != 0) {
        return error;
    }
    error = uv_cond_init(&pool->is_left);
    if (error != 0) {
        uv_mutex_destroy(&pool->lock);
        return error;
    }
    pool->is_open = true;
    error = open_hands(pool, n);
    if (error == 0) {
        error = uv_async_init(&server->loop, &pool->back, on_back);
    }
    if (error == 0) {
        uv_timer_init(&server->loop, &pool->watch);
        pool->back.data = pool;
        pool->watch.data = pool;
        pool->has_handles = true;
    }
    return error;
}

void
fb_pool_close(fb_pool *pool)
{
    for (size_t i = 0; i < pool->n_hands; i++) {
        fb_hand *hand = pool->hands[i];
        fb_executor_close(&hand->executor);
        if (hand->has_cond) {
            uv_cond_destroy(&hand->is_wanted);
        }
        fb_heap_give(&pool->server->heap, hand);
    }
    pool->n_hands = 0;
    if (pool->is_open) {
        pool->is_open = false;
        fb_heap_give(&pool->server->heap, pool->hands);
        uv_cond_destroy(&pool->is_left);
        uv_mutex_destroy(&pool->lock);
    }
}
