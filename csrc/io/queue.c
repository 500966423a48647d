/* SPDX-License-Identifier: MIT */
/*
 * Waiting for the dispatcher: who has a slot, who is blocked, and for how long.
 */
#include "io/queue.h"

#include "io/server.h"

#include <assert.h>
#include <unistd.h>

void
fb_queue_init(fb_queue *queue, fb_server *server, uint32_t index,
              const fb_queue_rules *rules)
{
    size_t size = rules->batch_size < rules->size ? rules->batch_size : rules->size;
    queue->server = server;
    queue->rules = *rules;
    queue->may_wait = server->limits.threads > 0 || rules->batch_wait_ns > 0;
    queue->expires_at = UINT64_MAX;
    fb_batch_init(&queue->batch, size);
    queue->batch.queue = index;
}

/* ---- slots ----------------------------------------------------------------------- */

fb_slot *
fb_queue_push(fb_queue *queue, fb_conn *conn, uint64_t expires_at)
{
    fb_slot *slot =
        fb_batch_push(&queue->batch, conn, conn->n_slots, &conn->exchange->http.req);
    slot->expires_at = expires_at;
    if (queue->batch.n_slots == 1 || conn->queued_at < queue->oldest_at) {
        queue->oldest_at = conn->queued_at;
    }
    if (expires_at < queue->expires_at) {
        queue->expires_at = expires_at;
    }
    return slot;
}

bool
fb_queue_has_place(const fb_queue *queue, const fb_conn *conn)
{
    const fb_batch *batch = &queue->batch;
    if (fb_batch_is_full(batch)) {
        return false;
    }
    if (conn->n_slots == 0) {
        return true;
    }
    if (conn->queue != queue || !queue->may_wait) {
        return conn->queue == queue;
    }
    /* There may be none: all have expired, and it is not settled yet. */
    return batch->n_slots > 0 && batch->slots[batch->n_slots - 1].owner == conn;
}

uint64_t
fb_queue_due_at(const fb_queue *queue)
{
    if (queue->batch.n_slots == 0) {
        return UINT64_MAX;
    }
    if (fb_batch_is_full(&queue->batch) || queue->server->stopping != FB_STOP_NO) {
        return 0;
    }
    return queue->oldest_at + queue->rules.batch_wait_ns;
}

bool
fb_queue_is_due(const fb_queue *queue, uint64_t now)
{
    if (queue->rules.batch_wait_ns == 0) {
        return queue->batch.n_slots > 0;
    }
    return fb_queue_due_at(queue) <= now;
}

/* Slots were taken out. They are not in the order of their waits: who was blocked has
 * waited for longer than it looks. */
static void
find_oldest(fb_queue *queue)
{
    uint64_t oldest_at = UINT64_MAX;
    for (size_t i = 0; i < queue->batch.n_slots; i++) {
        const fb_conn *conn = queue->batch.slots[i].owner;
        oldest_at = conn->queued_at < oldest_at ? conn->queued_at : oldest_at;
    }
    queue->oldest_at = oldest_at;
}

void
fb_queue_drop_first(fb_queue *queue, size_t n)
{
    fb_batch_drop_first(&queue->batch, n);
    find_oldest(queue);
    if (queue->batch.n_slots == 0) {
        queue->expires_at = UINT64_MAX;
    }
}

static void
close_file(fb_slot *slot)
{
    if (slot->file >= 0) {
        close(slot->file);
        slot->file = -1;
    }
}

void
fb_queue_drop_conn(fb_queue *queue, const fb_conn *conn)
{
    fb_batch *batch = &queue->batch;
    for (size_t i = 0; i < batch->n_slots; i++) {
        if (batch->slots[i].owner == conn) {
            close_file(&batch->slots[i]);
        }
    }
    size_t n_before = batch->n_slots;
    fb_batch_drop_owner(batch, conn);
    find_oldest(queue);
    fb_count_add(&queue->server->stats->n_slots, (uint64_t)batch->n_slots - n_before);
}

void
fb_queue_reset(fb_queue *queue)
{
    fb_server_reset_batch(&queue->batch);
    queue->expires_at = UINT64_MAX;
}

/* ---- deadlines ------------------------------------------------------------------- */

/* A reply is never given before that to the request in front of it, which may stand
 * further ahead where slots do not outlive the iteration: one expires then at the
 * earliest. Of those behind a reply that says close none is owed. */
static bool
has_expired(const fb_slot *slot, uint64_t now)
{
    const fb_conn *conn = slot->owner;
    bool is_next = slot->turn == conn->n_answered;
    return slot->is_answered || (is_next && slot->expires_at <= now);
}

/* Answer the slots of one connection, from and up to end, that have expired. Returns
 * how many were answered. */
static size_t
expire_part(fb_queue *queue, size_t from, size_t end, uint64_t now)
{
    fb_server *server = queue->server;
    fb_slot *slots = queue->batch.slots;
    size_t at = from;
    while (at < end && has_expired(&slots[at], now)) {
        if (!slots[at].is_answered) {
            fb_server_answer(server, &slots[at], 504);
            fb_count_add(&server->stats->queues[queue->batch.queue].n_expired, 1);
        }
        close_file(&slots[at]);
        at++;
    }
    if (at > from) {
        fb_server_note_answered(server, &queue->batch, from, at, now);
    }
    return at - from;
}

void
fb_queue_expire(fb_queue *queue, uint64_t now)
{
    fb_batch *batch = &queue->batch;
    if (now < queue->expires_at) {
        return;
    }
    size_t left = 0;
    size_t n = batch->n_slots;
    queue->expires_at = UINT64_MAX;
    for (size_t from = 0, end; from < n; from = end) {
        end = fb_batch_end_of_owner(batch, from);
        from += expire_part(queue, from, end, now);
        for (size_t i = from; i < end; i++) {
            uint64_t expires_at = batch->slots[i].expires_at;
            if (expires_at < queue->expires_at) {
                queue->expires_at = expires_at;
            }
        }
        left = fb_batch_close_gap(batch, left, from, end);
    }
    batch->n_slots = left;
    find_oldest(queue);
}

/* ---- connections that wait for a slot -------------------------------------------- */

/* Returns behind whom conn waits in turn, or NULL: it is the first. Nearly always that
 * is the last; one whose slot went to a pipeline before it has its old place back. */
static fb_conn *
find_place(const fb_queue *queue, const fb_conn *conn)
{
    fb_conn *before = NULL;
    fb_conn *at = queue->blocked;
    if (at != NULL && queue->last_blocked->wait_node.since <= conn->wait_node.since) {
        return queue->last_blocked;
    }
    while (at != NULL && at->wait_node.since <= conn->wait_node.since) {
        before = at;
        at = at->next_blocked;
    }
    return before;
}

void
fb_queue_block(fb_queue *queue, fb_conn *conn)
{
    fb_conn *before = find_place(queue, conn);
    fb_conn **link = before != NULL ? &before->next_blocked : &queue->blocked;
    conn->next_blocked = *link;
    *link = conn;
    if (conn->next_blocked == NULL) {
        queue->last_blocked = conn;
    }
    queue->n_blocked++;
}

void
fb_queue_unblock(fb_queue *queue, fb_conn *conn)
{
    fb_conn *before = NULL;
    fb_conn *at = queue->blocked;
    while (at != conn) {
        before = at;
        at = at->next_blocked;
    }
    if (before == NULL) {
        queue->blocked = conn->next_blocked;
    } else {
        before->next_blocked = conn->next_blocked;
    }
    if (queue->last_blocked == conn) {
        queue->last_blocked = before;
    }
    queue->n_blocked--;
}

void
fb_queue_rest(fb_queue *queue)
{
    const fb_batch *batch = &queue->batch;
    for (size_t i = 0; i < batch->n_slots; i++) {
        fb_conn_queue(batch->slots[i].owner);
    }
    for (size_t n = batch->size - batch->n_slots; n > 0 && queue->blocked != NULL;
         n--) {
        fb_conn *conn = queue->blocked;
        fb_queue_unblock(queue, conn);
        fb_conn_unblock(conn);
    }
}
