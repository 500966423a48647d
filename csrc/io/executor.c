/* SPDX-License-Identifier: MIT */
/*
 * The life of a dispatch, whatever thread it is on.
 */
#include "io/executor.h"

#include "io/server.h"

int
fb_executor_open(fb_executor *executor, fb_server *server, fb_batch *batch)
{
    executor->server = server;
    executor->batch = batch;
    fb_stamp_init(&executor->stamp, server->server_value);
    int error = uv_mutex_init(&executor->lock);
    executor->is_open = error == 0;
    return error;
}

void
fb_executor_close(fb_executor *executor)
{
    if (executor->is_open) {
        executor->is_open = false;
        uv_mutex_destroy(&executor->lock);
    }
}

void
fb_executor_begin(fb_executor *executor)
{
    clock_gettime(CLOCK_REALTIME, &executor->began);
    executor->began_at = uv_hrtime();
    fb_executor_lock(executor);
    fb_stamp_update(&executor->stamp, executor->began.tv_sec);
    executor->is_dispatching = true;
    /* A handler that is given whole batches has begun with all of it. */
    bool is_whole = executor->server->queues[executor->batch->queue].rules.is_whole;
    executor->n_claimed = is_whole ? executor->batch->n_slots : 0;
    executor->n_begun++;
    fb_executor_unlock(executor);
}

void
fb_executor_answer(const fb_executor *executor, fb_slot *slot, int status)
{
    bool keep_alive = fb_conn_keeps_alive(slot->owner, slot);
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL &&
        !fb_reply_plain(&out->bytes, &executor->stamp, status, slot->req.is_head,
                        slot->req.minor == 0, keep_alive)) {
        out->has_failed = true;
    }
    fb_slot_note(slot, status, slot->req.is_head ? 0 : fb_reply_plain_len(status));
    fb_conn_answered(slot->owner, slot, keep_alive);
}

void
fb_executor_end(fb_executor *executor)
{
    fb_batch *batch = executor->batch;
    executor->ended_at = uv_hrtime();
    fb_stats_note_dispatch(executor->server->stats, batch->queue,
                           executor->ended_at - executor->began_at);
    fb_executor_lock(executor);
    executor->is_dispatching = false;
    for (size_t i = 0; i < batch->n_slots; i++) {
        if (!batch->slots[i].is_answered) {
            fb_executor_answer(executor, &batch->slots[i], 500);
        }
    }
    fb_executor_unlock(executor);
}

bool
fb_executor_claim(fb_executor *executor, size_t i)
{
    if (!executor->is_shared) {
        return i < executor->batch->n_slots;
    }
    fb_executor_lock(executor);
    bool is_there = i < executor->batch->n_slots;
    if (is_there && executor->n_claimed <= i) {
        executor->n_claimed = i + 1;
    }
    fb_executor_unlock(executor);
    return is_there;
}

size_t
fb_executor_claimed(const fb_executor *executor)
{
    return executor->is_shared ? executor->n_claimed : executor->batch->n_slots;
}

size_t
fb_executor_n_slots(fb_executor *executor)
{
    fb_executor_lock(executor);
    size_t n = executor->batch->n_slots;
    fb_executor_unlock(executor);
    return n;
}

size_t
fb_executor_claim_all(fb_executor *executor)
{
    if (!executor->is_shared) {
        return executor->batch->n_slots;
    }
    fb_executor_lock(executor);
    size_t n = executor->batch->n_slots;
    executor->n_claimed = n;
    fb_executor_unlock(executor);
    return n;
}
