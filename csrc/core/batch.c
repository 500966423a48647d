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
    slot->is_held = false;
    slot->status = 0;
    slot->n_body = 0;
    slot->answered_at = 0;
    slot->file = -1;
    slot->client = (fb_address){.family = FB_FAMILY_NONE};
    fb_request_copy(&slot->req, req);
    return slot;
}

void
fb_batch_reset(fb_batch *batch)
{
    batch->n_slots = 0;
}
