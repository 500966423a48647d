/* SPDX-License-Identifier: MIT */
/*
 * Any bytes, in any split, give the same slots and the same verdict, and no read
 * outside the input.
 *
 * Every input is fed whole, byte by byte and in splits drawn from its own bytes, with
 * and without compacting and spooling, with large batches and small. The length of the
 * input picks the limits, so that they are reached; the byte 0xfe stands for many of
 * the byte before it, so that long inputs are. What a request may hold at all, the
 * feeder asserts.
 */
#include "feeder.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_INPUT (24 * 1024) /* bytes, expanded */
#define REPEATS 1100           /* of the byte before 0xfe */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Those that core and its feeder look at. */
static const fb_limits limits[] = {
    {.batch_size = FB_BATCH_SLOTS,
     .max_target = FB_MAX_TARGET,
     .max_headers = FB_MAX_HEADERS,
     .max_head = FB_MAX_HEAD,
     .max_body = FB_MAX_BODY},
    {.batch_size = FB_BATCH_SLOTS,
     .max_target = 40,
     .max_headers = 4,
     .max_head = 200,
     .max_body = 20},
    {.batch_size = FB_BATCH_SLOTS,
     .max_target = 8,
     .max_headers = 2,
     .max_head = 60,
     .max_body = 0},
    {.batch_size = FB_BATCH_SLOTS,
     .max_target = 1200,
     .max_headers = FB_HEADERS_BOUND,
     .max_head = 4000,
     .max_body = 5000},
};
#define N_LIMITS (sizeof(limits) / sizeof(limits[0]))

static size_t
expand(const uint8_t *data, size_t size, char *into)
{
    size_t len = 0;
    for (size_t i = 0; i < size && len + REPEATS < MOST_INPUT; i++) {
        if (data[i] != 0xfe) {
            into[len++] = (char)data[i];
        } else if (len > 0) {
            memset(into + len, into[len - 1], REPEATS);
            len += REPEATS;
        }
    }
    return len;
}

/* A small generator, seeded by the input: the same input is always split the same way.
 * */
static uint32_t
draw(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static uint32_t
seed_from(const char *bytes, size_t len)
{
    uint32_t seed = 2166136261U;
    for (size_t i = 0; i < len; i++) {
        seed = (seed ^ (uint8_t)bytes[i]) * 16777619U;
    }
    return seed | 1;
}

static void
give_in_drawn_pieces(test_feeder *feeder, const char *bytes, size_t len,
                     uint32_t *state)
{
    uint32_t largest = 1 + draw(state) % 64;
    for (size_t at = 0; at < len && !feeder->is_over;) {
        size_t n = draw(state) % (largest + 1); /* may be none at all */
        if (n > len - at) {
            n = len - at;
        }
        feeder_give(feeder, bytes + at, n);
        at += n;
    }
}

static void
complain(const test_feeder *whole, const test_feeder *split, const char *way)
{
    fprintf(stderr, "whole:\n%.*s\n%s:\n%.*s\n", (int)whole->shown.len,
            whole->shown.data, way, (int)split->shown.len, split->shown.data);
    abort();
}

static void
compare(const test_feeder *whole, const test_feeder *split, const char *way)
{
    if (whole->shown.len != split->shown.len ||
        whole->http.status != split->http.status ||
        (whole->shown.len > 0 &&
         memcmp(whole->shown.data, split->shown.data, whole->shown.len) != 0)) {
        complain(whole, split, way);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static test_feeder *whole;
    static test_feeder *split;
    static char bytes[MOST_INPUT];
    if (whole == NULL) {
        whole = feeder_new(MOST_INPUT);
        split = feeder_new(MOST_INPUT);
    }
    size_t len = expand(data, size, bytes);
    uint32_t state = seed_from(bytes, len);
    whole->limits = limits[size % N_LIMITS];
    split->limits = whole->limits;
    feeder_reset(whole);
    feeder_give(whole, bytes, len);

    split->limits.batch_size = 1 + draw(&state) % 4;
    split->compacts = false;
    feeder_reset(split);
    give_in_drawn_pieces(split, bytes, len, &state);
    compare(whole, split, "in pieces");

    split->compacts = true;
    feeder_reset(split);
    give_in_drawn_pieces(split, bytes, len, &state);
    compare(whole, split, "in pieces, compacted");

    split->spools = 1 + draw(&state) % 40;
    feeder_reset(split);
    give_in_drawn_pieces(split, bytes, len, &state);
    compare(whole, split, "in pieces, compacted, bodies spooled");

    split->spools = draw(&state) % 3;
    feeder_reset(split);
    feeder_give_by(split, bytes, len, 1);
    compare(whole, split, "byte by byte, compacted");
    split->spools = 0;
    return 0;
}
