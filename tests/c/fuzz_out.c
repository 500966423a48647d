/* SPDX-License-Identifier: MIT */
/*
 * However bytes, bodies and streams are queued and however the socket takes them, they
 * leave once and in order, and every body is released exactly once.
 *
 * The input is a program of one-byte steps. All content is one sequence of numbers in
 * the order in which it was queued, so that what leaves must count up from 0.
 */
#include "core/limits.h"
#include "core/out.h"

#include <stdint.h>
#include <stdlib.h>

#define MOST_BODIES 512
#define MOST_RUNS 8
#define MOST_CONTENT 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct body {
    size_t first; /* number of its first byte */
    size_t len;   /* bytes */
    size_t given; /* by a stream */
    size_t n_released;
    uint8_t manner; /* how a stream gives, and ends */
} body;

typedef struct world {
    fb_heap heap;
    fb_out out;
    body bodies[MOST_BODIES];
    size_t n_bodies;
    size_t n_queued; /* bytes, those of streams included */
    size_t n_sent;   /* bytes */
} world;

static char content[MOST_CONTENT]; /* content[n] is n, cut to a byte */

static void
fill_content(void)
{
    for (size_t i = 0; i < MOST_CONTENT; i++) {
        content[i] = (char)i;
    }
}

static void
require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    body *stream = owner;
    require(stream->n_released == 0);
    size_t left = stream->len - stream->given;
    size_t n = (stream->manner & 1) != 0 && left > 3 ? 3 : left;
    require(fb_buf_append(into, content + stream->first + stream->given, n));
    stream->given += n;
    if (stream->given < stream->len) {
        return FB_PULL_MORE;
    }
    if ((stream->manner & 2) != 0 && n > 0) {
        return FB_PULL_MORE; /* it ends at the next pull, without a byte */
    }
    return (stream->manner & 12) == 12 ? FB_PULL_FAIL : FB_PULL_END;
}

static void
on_release(void *owner)
{
    ((body *)owner)->n_released++;
}

static const fb_body_ops ops = {.pull = on_pull, .release = on_release};

static void
queue_bytes(world *it, size_t len)
{
    require(fb_buf_append(&it->out.bytes, content + it->n_queued, len));
    it->n_queued += len;
}

static void
queue_body(world *it, size_t len, bool is_stream, uint8_t manner)
{
    if (it->n_bodies == MOST_BODIES) {
        return;
    }
    body *added = &it->bodies[it->n_bodies++];
    *added = (body){.first = it->n_queued, .len = len, .manner = manner};
    const char *bytes = is_stream ? NULL : content + it->n_queued;
    require(
        fb_out_add_body(&it->out, (fb_body){&ops, added, bytes, is_stream ? 0 : len}));
    it->n_queued += len;
}

static void
take(world *it, size_t most_runs, size_t most_bytes)
{
    fb_run runs[MOST_RUNS];
    size_t n = fb_out_gather(&it->out, runs, most_runs);
    require(n <= most_runs);
    size_t taken = 0;
    for (size_t i = 0; i < n; i++) {
        require(runs[i].len > 0);
        for (size_t j = 0; j < runs[i].len && taken < most_bytes; j++, taken++) {
            require(runs[i].data[j] == content[it->n_sent + taken]);
        }
    }
    it->n_sent += taken;
    fb_out_advance(&it->out, taken);
    require(it->n_sent <= it->n_queued);
    require(!fb_out_is_empty(&it->out) || it->n_sent == it->n_queued ||
            it->out.has_failed);
}

static void
step(world *it, uint8_t op)
{
    size_t n = op >> 3;
    switch (op & 7) {
    case 0:
        queue_bytes(it, n);
        break;
    case 1:
        queue_body(it, n, false, 0);
        break;
    case 2:
    case 3:
        queue_body(it, n, true, (uint8_t)((op & 1) | ((op >> 3) & 14)));
        break;
    case 4:
    case 5:
        take(it, 2 + n % (MOST_RUNS - 1), n);
        break;
    case 6:
        take(it, MOST_RUNS, SIZE_MAX);
        break;
    default:
        if (fb_out_is_empty(&it->out)) {
            fb_out_reset(&it->out);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static world it;
    if (content[1] == 0) {
        fill_content();
    }
    memset(&it, 0, sizeof(it));
    fb_out_init(&it.out, &it.heap);
    for (size_t i = 0; i < size && it.n_queued + 32 < MOST_CONTENT; i++) {
        step(&it, data[i]);
    }
    bool drains = size > 0 && (data[0] & 128) != 0;
    for (size_t i = 0; drains && i < 16 * MOST_BODIES; i++) {
        take(&it, 2, SIZE_MAX);
    }
    require(!drains || it.out.has_failed || it.n_sent == it.n_queued);
    fb_out_fini(&it.out);
    for (size_t i = 0; i < it.n_bodies; i++) {
        require(it.bodies[i].n_released == 1);
    }
    require(it.heap.n_held == 0);
    return 0;
}
