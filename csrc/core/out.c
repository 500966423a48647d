/* SPDX-License-Identifier: MIT */
/*
 * The order in which own bytes and other people's bodies leave.
 *
 * parts[i] stands behind the first parts[i].at bytes. Up to there the bytes go out,
 * then the part, then the bytes to the next part.
 */
#include "core/out.h"

#include "core/limits.h"

#include <assert.h>

void
fb_out_init(fb_out *out, fb_heap *heap)
{
    *out = (fb_out){0};
    fb_buf_init(&out->bytes, heap);
    fb_buf_init(&out->chunk, heap);
}

static void
release_body(const fb_body *body)
{
    body->ops->release(body->owner);
}

void
fb_out_fini(fb_out *out)
{
    for (; out->part < out->n_parts; out->part++) {
        release_body(&out->parts[out->part].body);
    }
    fb_heap *heap = out->bytes.heap;
    fb_heap_give(heap, out->parts);
    fb_buf_fini(&out->bytes);
    fb_buf_fini(&out->chunk);
    fb_out_init(out, heap);
}

void
fb_out_reset(fb_out *out)
{
    assert(fb_out_is_empty(out));
    fb_buf_reset(&out->bytes, FB_KEEP_BYTES);
    fb_buf_reset(&out->chunk, 0);
    if (out->parts_cap * sizeof(fb_part) > FB_KEEP_BYTES) {
        fb_heap_give(out->bytes.heap, out->parts);
        out->parts = NULL;
        out->parts_cap = 0;
    }
    out->n_parts = 0;
    out->part = 0;
    out->n_sent = 0;
    out->n_chunk_sent = 0;
    out->n_part_sent = 0;
    out->is_waiting = false;
    out->has_failed = false;
}

static bool
grow_parts(fb_out *out)
{
    size_t cap = out->parts_cap == 0 ? 4 : out->parts_cap * 2;
    fb_part *parts = fb_heap_resize(out->bytes.heap, out->parts, cap * sizeof(fb_part));
    if (parts == NULL) {
        return false;
    }
    out->parts = parts;
    out->parts_cap = cap;
    return true;
}

bool
fb_out_add_body(fb_out *out, fb_body body)
{
    if (body.data != NULL && body.len == 0) {
        release_body(&body); /* no write would ever come to its end */
        return true;
    }
    if (out->n_parts == out->parts_cap && !grow_parts(out)) {
        out->has_failed = true;
        release_body(&body);
        return false;
    }
    out->parts[out->n_parts++] = (fb_part){.at = out->bytes.len, .body = body};
    return true;
}

static bool
is_stream(const fb_part *part)
{
    return part->body.data == NULL;
}

static void
finish_part(fb_out *out)
{
    fb_body body = out->parts[out->part].body;
    out->part++;
    out->n_part_sent = 0;
    release_body(&body);
}

/* Ask the stream in hand for more. It may end without having given anything. Returns
 * whether it has come to its end. */
static bool
pull_stream(fb_out *out)
{
    const fb_body *body = &out->parts[out->part].body;
    fb_buf_reset(&out->chunk, 2 * (size_t)FB_OUTPUT_HIGH_WATER);
    out->n_chunk_sent = 0;
    fb_pull pulled = body->ops->pull(body->owner, &out->chunk);
    out->is_waiting = pulled == FB_PULL_LATER;
    if (pulled == FB_PULL_FAIL) {
        out->has_failed = true;
    }
    if (pulled == FB_PULL_MORE || pulled == FB_PULL_LATER) {
        return false;
    }
    finish_part(out);
    return true;
}

static bool
has_chunk(const fb_out *out)
{
    return out->n_chunk_sent < out->chunk.len;
}

static bool
is_stream_next(const fb_out *out)
{
    return out->part < out->n_parts && is_stream(&out->parts[out->part]) &&
           out->n_sent == out->parts[out->part].at;
}

bool
fb_out_is_streaming(const fb_out *out)
{
    return has_chunk(out) || is_stream_next(out);
}

bool
fb_out_can_splice(const fb_out *out)
{
    return !has_chunk(out) && !out->has_failed && is_stream_next(out) &&
           out->parts[out->part].body.ops->splice != NULL;
}

fb_splice
fb_out_splice(fb_out *out, int fd, size_t most, size_t *n_sent)
{
    assert(fb_out_can_splice(out));
    const fb_body *body = &out->parts[out->part].body;
    fb_splice spliced = body->ops->splice(body->owner, fd, most, n_sent);
    if (spliced == FB_SPLICE_END) {
        finish_part(out);
    }
    if (spliced == FB_SPLICE_FAIL) {
        out->has_failed = true;
    }
    return spliced;
}

/* List data from one offset to another; nothing when they are the same. */
static size_t
add_run(fb_run *runs, size_t n, const char *data, size_t from, size_t to)
{
    if (from == to) {
        return n; /* data may be NULL, to which nothing can be added */
    }
    runs[n] = (fb_run){data + from, to - from};
    return n + 1;
}

size_t
fb_out_gather(fb_out *out, fb_run *runs, size_t most)
{
    assert(most >= 2);
    while (!has_chunk(out) && !out->has_failed && is_stream_next(out)) {
        if (!pull_stream(out)) {
            break; /* asked once; a stream that ended is followed by what comes next */
        }
    }
    const fb_buf *chunk = &out->chunk;
    size_t n = 0;
    if (has_chunk(out)) {
        n = add_run(runs, n, chunk->data, out->n_chunk_sent, chunk->len);
    }
    size_t sent = out->n_sent;
    size_t part_sent = out->n_part_sent;
    for (size_t i = out->part; !out->has_failed && n + 2 <= most; i++) {
        bool is_last = i == out->n_parts;
        size_t end = is_last ? out->bytes.len : out->parts[i].at;
        n = add_run(runs, n, out->bytes.data, sent, end);
        sent = end;
        if (is_last || is_stream(&out->parts[i])) {
            break;
        }
        const fb_body *body = &out->parts[i].body;
        n = add_run(runs, n, body->data, part_sent, body->len);
        part_sent = 0;
    }
    return n;
}

static size_t
smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

void
fb_out_advance(fb_out *out, size_t n)
{
    size_t step = smaller(n, out->chunk.len - out->n_chunk_sent);
    out->n_chunk_sent += step;
    n -= step;
    for (;;) {
        bool is_last = out->part == out->n_parts;
        size_t end = is_last ? out->bytes.len : out->parts[out->part].at;
        step = smaller(n, end - out->n_sent);
        out->n_sent += step;
        n -= step;
        if (is_last || out->n_sent < end || is_stream(&out->parts[out->part])) {
            assert(n == 0);
            return;
        }
        const fb_body *body = &out->parts[out->part].body;
        step = smaller(n, body->len - out->n_part_sent);
        out->n_part_sent += step;
        n -= step;
        if (out->n_part_sent < body->len) {
            assert(n == 0);
            return;
        }
        finish_part(out);
    }
}
