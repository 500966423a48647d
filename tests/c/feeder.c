/* SPDX-License-Identifier: MIT */
/*
 * The connection of the core tests: no socket, but the same calls in the same order.
 */
#include "feeder.h"

#include "core/reply.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static const fb_limits defaults = {
    .batch_size = FB_BATCH_SLOTS,
    .max_target = FB_MAX_TARGET,
    .max_headers = FB_MAX_HEADERS,
    .max_head = FB_MAX_HEAD,
    .max_body = FB_MAX_BODY,
};

test_feeder *
feeder_new(size_t most)
{
    test_feeder *new = calloc(1, sizeof(*new));
    if (new == NULL) {
        abort();
    }
    new->limits = defaults;
    guard_init(&new->room, most);
    fb_buf_init(&new->shown, &new->heap);
    fb_buf_init(&new->spooled, &new->heap);
    feeder_reset(new);
    return new;
}

void
feeder_free(test_feeder *feeder)
{
    guard_fini(&feeder->room);
    fb_buf_fini(&feeder->shown);
    fb_buf_fini(&feeder->spooled);
    assert(feeder->heap.n_held == 0);
    free(feeder);
}

void
feeder_reset(test_feeder *feeder)
{
    fb_http_init(&feeder->http, &feeder->limits);
    fb_batch_init(&feeder->batch, feeder->limits.batch_size);
    feeder->in = (fb_buf){.data = guard_place(&feeder->room, 0)};
    fb_buf_reset(&feeder->shown, SIZE_MAX);
    fb_buf_reset(&feeder->spooled, SIZE_MAX);
    feeder->n_requests = 0;
    feeder->is_over = false;
}

/* ---- writing down ---------------------------------------------------------------- */

static void
show(test_feeder *feeder, const char *bytes, size_t len)
{
    if (!fb_buf_append(&feeder->shown, bytes, len)) {
        abort();
    }
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
show_text(test_feeder *feeder, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert(len >= 0 && len < (int)sizeof(text));
    show(feeder, text, (size_t)len);
}

/* Bytes, all but printable ASCII escaped. */
static void
show_bytes(test_feeder *feeder, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] >= ' ' && bytes[i] <= '~' && bytes[i] != '\\') {
            show(feeder, bytes + i, 1);
        } else {
            show_text(feeder, "\\x%02x", (unsigned char)bytes[i]);
        }
    }
}

static void
show_span(test_feeder *feeder, const fb_slot *slot, fb_span span)
{
    const char *end = feeder->in.data + feeder->in.len;
    assert(slot->data >= feeder->in.data && slot->data <= end);
    assert(span.off <= (size_t)(end - slot->data));
    assert(span.len <= (size_t)(end - slot->data) - span.off);
    show_bytes(feeder, slot->data + span.off, span.len);
}

static bool
is_visible(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] <= ' ' || bytes[i] > '~') {
            return false;
        }
    }
    return true;
}

static bool
is_stripped(const char *bytes, size_t len)
{
    const char *blanks = " \t";
    return len == 0 ||
           (strchr(blanks, bytes[0]) == NULL && strchr(blanks, bytes[len - 1]) == NULL);
}

/* What holds for every request, whatever was sent. */
static void
assert_sound(const test_feeder *feeder, const fb_slot *slot)
{
    const fb_request *req = &slot->req;
    const fb_limits *limits = &feeder->limits;
    const char *path = slot->data + req->path.off;
    assert(req->minor <= 1 && req->is_head == (req->method == HTTP_HEAD));
    assert(req->target.len > 0 && req->target.len <= limits->max_target);
    assert(is_visible(slot->data + req->target.off, req->target.len));
    assert(req->path.len > 0 && (path[0] == '/' || req->method == HTTP_OPTIONS));
    assert(req->n_spooled + req->body.len <= limits->max_body);
    assert((size_t)req->n_headers + req->n_dropped <= limits->max_headers);
    size_t n_hosts = 0;
    for (size_t i = 0; i < req->n_headers; i++) {
        fb_header field = req->headers[i];
        const char *name = slot->data + field.name.off;
        const char *value = slot->data + field.value.off;
        assert(fb_field_name_is_valid(name, field.name.len));
        assert(memchr(name, '_', field.name.len) == NULL);
        assert(fb_field_value_is_valid(value, field.value.len));
        assert(is_stripped(value, field.value.len));
        n_hosts += field.name.len == 4 && strncasecmp(name, "host", 4) == 0;
    }
    assert(n_hosts == 1 || (n_hosts == 0 && req->minor == 0));
}

static void
show_slot(test_feeder *feeder, const fb_slot *slot)
{
    const fb_request *req = &slot->req;
    show_text(feeder, "request %s HTTP/1.%d %s\ntarget ",
              llhttp_method_name((llhttp_method_t)req->method), req->minor,
              req->keep_alive ? "keep-alive" : "close");
    show_span(feeder, slot, req->target);
    show_text(feeder, "\npath ");
    show_span(feeder, slot, req->path);
    if (req->query.len > 0) {
        show_text(feeder, "\nquery ");
        show_span(feeder, slot, req->query);
    }
    for (size_t i = 0; i < req->n_headers; i++) {
        show_text(feeder, "\nheader ");
        show_span(feeder, slot, req->headers[i].name);
        show_text(feeder, ": ");
        show_span(feeder, slot, req->headers[i].value);
    }
    if (req->n_dropped > 0) {
        show_text(feeder, "\ndropped %d", req->n_dropped);
    }
    if (req->n_spooled + req->body.len > 0) {
        show_text(feeder, "\nbody ");
    }
    if (req->n_spooled > 0) {
        assert(req->n_spooled == feeder->spooled.len);
        show_bytes(feeder, feeder->spooled.data, feeder->spooled.len);
        fb_buf_reset(&feeder->spooled, SIZE_MAX);
    }
    if (req->body.len > 0) {
        show_span(feeder, slot, req->body);
    }
    show_text(feeder, "\n");
}

/* What a dispatch is on a connection: only now is it known where the bytes lie. */
static void
answer_batch(test_feeder *feeder)
{
    for (size_t i = 0; i < feeder->batch.n_slots; i++) {
        fb_slot *slot = &feeder->batch.slots[i];
        assert(slot->owner == feeder && slot->turn == i);
        slot->data = feeder->in.data + slot->req.start;
        assert_sound(feeder, slot);
        show_slot(feeder, slot);
    }
    fb_batch_reset(&feeder->batch);
}

/* ---- feeding --------------------------------------------------------------------- */

/* Append to the input, which moves so that it ends where nothing may be read. */
static void
receive(test_feeder *feeder, const char *bytes, size_t len)
{
    fb_buf *in = &feeder->in;
    char *place = guard_place(&feeder->room, in->len + len);
    memmove(place, in->data, in->len);
    if (len > 0) {
        memcpy(place + in->len, bytes, len);
    }
    in->data = place;
    in->len += len;
    in->cap = in->len;
}

static void
take_request(test_feeder *feeder)
{
    fb_batch *batch = &feeder->batch;
    fb_batch_push(batch, feeder, (uint32_t)batch->n_slots, &feeder->http.req);
    feeder->n_requests++;
    feeder->is_over = !feeder->http.req.keep_alive;
    if (fb_batch_is_full(batch)) {
        answer_batch(feeder);
    }
}

/* As a connection does when a body gets too long for memory. */
static void
spool(test_feeder *feeder)
{
    fb_http *http = &feeder->http;
    const fb_span body = http->req.body;
    if (http->phase != FB_PHASE_BODY || feeder->spools == 0 ||
        body.len < feeder->spools) {
        return;
    }
    const char *bytes = feeder->in.data + http->req.start + body.off;
    if (!fb_buf_append(&feeder->spooled, bytes, body.len)) {
        abort();
    }
    fb_http_drop_body(http, &feeder->in);
}

void
feeder_give(test_feeder *feeder, const char *bytes, size_t len)
{
    if (feeder->is_over) {
        return;
    }
    receive(feeder, bytes, len);
    fb_feed verdict = FB_FEED_REQUEST;
    while (verdict == FB_FEED_REQUEST && !feeder->is_over) {
        verdict = fb_http_feed(&feeder->http, &feeder->in);
        if (verdict == FB_FEED_REQUEST) {
            take_request(feeder);
        }
    }
    answer_batch(feeder);
    if (verdict == FB_FEED_REJECT) {
        show_text(feeder, "reject %d\n", feeder->http.status);
        assert(feeder->http.reason != NULL);
        feeder->is_over = true;
    }
    if (verdict == FB_FEED_MORE) {
        assert(feeder->http.parsed == feeder->in.len);
        spool(feeder);
    }
    if (feeder->compacts && !feeder->is_over) {
        fb_http_compact(&feeder->http, &feeder->in);
    }
}

void
feeder_give_by(test_feeder *feeder, const char *bytes, size_t len, size_t step)
{
    for (size_t at = 0; at < len; at += step) {
        feeder_give(feeder, bytes + at, len - at < step ? len - at : step);
    }
}
