/* SPDX-License-Identifier: MIT */
/*
 * However bytes, bodies and streams are queued and however the socket takes them, they
 * leave once and in order, and every body is released exactly once. What a file puts
 * into the socket itself counts as all else.
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
#define SPLICES 16  /* in a manner: the body of a file */
#define SOCKET 1000 /* the descriptor that is spliced to */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct body {
    size_t first; /* number of its first byte */
    size_t len;   /* bytes */
    size_t given; /* by a stream */
    size_t n_released;
    size_t n_spliced; /* calls */
    uint8_t manner;   /* how a stream gives, and ends; SPLICES: a file */
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

/* A socket that looks at what it is given; every other call finds it full, if the body
 * is to. */
static fb_splice
on_splice(void *owner, int fd, size_t most, size_t *n_sent)
{
    body *file = owner;
    require(file->n_released == 0 && fd == SOCKET && *n_sent == SIZE_MAX);
    *n_sent = 0;
    file->n_spliced++;
    if ((file->manner & 2) != 0 && file->n_spliced % 2 == 0) {
        return FB_SPLICE_FULL;
    }
    size_t left = file->len - file->given;
    size_t n = (file->manner & 1) != 0 && left > 3 ? 3 : left;
    n = n < most ? n : most;
    file->given += n;
    *n_sent = n;
    if (file->given < file->len) {
        return FB_SPLICE_SENT;
    }
    if ((file->manner & 12) == 12 && n == 0) {
        return FB_SPLICE_FAIL;
    }
    return (file->manner & 12) == 12 ? FB_SPLICE_SENT : FB_SPLICE_END;
}

static void
on_release(void *owner)
{
    ((body *)owner)->n_released++;
}

static const fb_body_ops ops = {.pull = on_pull, .release = on_release};
static const fb_body_ops splicing_ops = {
    .pull = on_pull,
    .release = on_release,
    .splice = on_splice,
};

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
    const fb_body_ops *which = (manner & SPLICES) != 0 ? &splicing_ops : &ops;
    require(
        fb_out_add_body(&it->out, (fb_body){which, added, bytes, is_stream ? 0 : len}));
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

/* Splice if that can be done, which is when a file is next and nothing is before it. */
static void
splice(world *it, size_t most)
{
    const fb_out *out = &it->out;
    const body *next =
        out->part < out->n_parts ? out->parts[out->part].body.owner : NULL;
    bool is_file = next != NULL && (next->manner & SPLICES) != 0;
    bool is_next = is_file && next->first + next->given == it->n_sent;
    require(fb_out_can_splice(out) == (is_next && !out->has_failed));
    if (!fb_out_can_splice(out)) {
        return;
    }
    size_t given = next->given;
    size_t n = SIZE_MAX;
    fb_splice spliced = fb_out_splice(&it->out, SOCKET, most, &n);
    require(n <= most && next->given - given == n);
    it->n_sent += n;
    require((spliced == FB_SPLICE_END) == (next->n_released == 1));
    require((spliced == FB_SPLICE_FAIL) == out->has_failed);
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
        queue_body(it, n, true, (uint8_t)((op & 1) | ((op >> 3) & (14 | SPLICES))));
        break;
    case 4:
        splice(it, n);
        break;
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
        if ((data[0] & 64) != 0) {
            splice(&it, SIZE_MAX);
        }
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
