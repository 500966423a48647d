/* SPDX-License-Identifier: MIT */
/*
 * Filling and emptying a batch. Slots are reused in place, never cleared as a whole.
 */
#include "core/batch.h"

#include <assert.h>

void
fb_batch_init(fb_batch *batch, size_t size)
{
    assert(size >= 1 && size <= FB_BATCH_SLOTS);
    batch->n_slots = 0;
    batch->size = size;
    batch->queue = 0;
}

fb_slot *
fb_batch_push(fb_batch *batch, void *owner, uint32_t turn, const fb_request *req)
{
    assert(!fb_batch_is_full(batch));
    fb_slot *slot = &batch->slots[batch->n_slots++];
    slot->owner = owner;
    slot->data = NULL;
    slot->turn = turn;
    slot->is_answered = false;
    slot->is_last = false;
    slot->is_taken_back = false;
    slot->is_held = false;
    slot->status = 0;
    slot->n_body = 0;
    slot->answered_at = 0;
    slot->expires_at = UINT64_MAX;
    slot->file = -1;
    slot->client = (fb_address){.family = FB_FAMILY_NONE};
    fb_request_copy(&slot->req, req);
    return slot;
}

static void
copy_slot(fb_slot *to, const fb_slot *from)
{
    memcpy(to, from, offsetof(fb_slot, req));
    fb_request_copy(&to->req, &from->req);
}

fb_slot *
fb_batch_move(fb_batch *to, const fb_slot *slot)
{
    assert(!fb_batch_is_full(to));
    fb_slot *moved = &to->slots[to->n_slots++];
    copy_slot(moved, slot);
    return moved;
}

size_t
fb_batch_close_gap(fb_batch *batch, size_t to, size_t from, size_t end)
{
    for (size_t i = from; to != from && i < end; i++) {
        copy_slot(&batch->slots[to + i - from], &batch->slots[i]);
    }
    return to + end - from;
}

/* Close the gap of n slots at from. */
static void
drop_slots(fb_batch *batch, size_t from, size_t n)
{
    batch->n_slots = fb_batch_close_gap(batch, from, from + n, batch->n_slots);
}

size_t
fb_batch_end_of_owner(const fb_batch *batch, size_t from)
{
    size_t end = from + 1;
    while (end < batch->n_slots &&
           batch->slots[end].owner == batch->slots[from].owner) {
        end++;
    }
    return end;
}

void
fb_batch_drop_first(fb_batch *batch, size_t n)
{
    drop_slots(batch, 0, n);
}

void
fb_batch_drop_owner(fb_batch *batch, const void *owner)
{
    size_t from = 0;
    size_t n = 0;
    for (size_t i = 0; i < batch->n_slots; i++) {
        if (batch->slots[i].owner == owner) {
            from = n == 0 ? i : from;
            n++;
        }
    }
    drop_slots(batch, from, n);
}

void
fb_batch_reset(fb_batch *batch)
{
    batch->n_slots = 0;
}
