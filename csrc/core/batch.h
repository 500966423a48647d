/* SPDX-License-Identifier: MIT */
/*
 * A batch: a fixed array of slots, filled by parsing and handed to the dispatcher
 * whole.
 *
 * A slot lives from parse to the end of the dispatch that it is in.
 */
#ifndef FB_CORE_BATCH_H
#define FB_CORE_BATCH_H

#include "core/address.h"
#include "core/request.h"

typedef struct fb_slot {
    void *owner; /* the connection; core never looks inside */
    const char
        *data; /* the message's first byte; set by the owner's side for a dispatch */
    uint32_t turn; /* place among the slots of the same owner in this batch, from 0 */
    bool is_answered;   /* a reply was given */
    bool is_last;       /* that took along those behind it of the same owner */
    bool is_taken_back; /* its connection goes on, although the dispatch does, too */
    bool is_held;    /* for the access log: its line comes later, and not from here */
    int status;      /* there: of the reply, or 0: none was given */
    uint64_t n_body; /* there: bytes of the reply's body */
    uint64_t answered_at; /* there: nanoseconds, if they are wanted */
    uint64_t expires_at;  /* when its client gives up, if it waits; UINT64_MAX: never */
    fb_address client;    /* who asks, be it through proxies; set by the owner's side */
    int file;             /* holds a body that was spooled, or -1: see fb_batch_push */
    fb_request req;
} fb_slot;

typedef struct fb_batch {
    size_t n_slots; /* in use */
    size_t size;    /* the most it may hold, 1..FB_BATCH_SLOTS */
    uint32_t queue; /* which of the server's queues it is of, below FB_QUEUES_BOUND */
    fb_slot slots[FB_BATCH_SLOTS];
} fb_batch;

/* Make an empty batch, of queue 0. */
void fb_batch_init(fb_batch *batch, size_t size);

static inline bool
fb_batch_is_full(const fb_batch *batch)
{
    return batch->n_slots == batch->size;
}

/* Put a copy of req into the next slot; the batch must not be full. Keeps owner until
 * the batch is reset. Returns the slot, valid until the batch is reset. It has no file
 * yet. The descriptor of one that it is given belongs to it until somebody takes it
 * over and says so with -1; what is left is closed at the end of the dispatch. */
fb_slot *fb_batch_push(fb_batch *batch, void *owner, uint32_t turn,
                       const fb_request *req);

/* Note, for the access log, what was given. */
static inline void
fb_slot_note(fb_slot *slot, int status, uint64_t n_body)
{
    slot->status = status;
    slot->n_body = n_body;
}

/* Put a copy of slot, file and all, into the next slot of another batch, which must not
 * be full. Returns it, as fb_batch_push. */
fb_slot *fb_batch_move(fb_batch *to, const fb_slot *slot);

/* Take out the first n slots, of which the files are somebody else's now. */
void fb_batch_drop_first(fb_batch *batch, size_t n);

/* Have the slots from up to end follow those before to, which is not behind from.
 * Returns where they end now; n_slots is the caller's to set. */
size_t fb_batch_close_gap(fb_batch *batch, size_t to, size_t from, size_t end);

/* Returns where the slots of the owner of slot from end, when they are next to each
 * other. */
size_t fb_batch_end_of_owner(const fb_batch *batch, size_t from);

/* Take out the slots of owner, which are next to each other, likewise. */
void fb_batch_drop_owner(fb_batch *batch, const void *owner);

/* Empty the batch. */
void fb_batch_reset(fb_batch *batch);

#endif
