/* SPDX-License-Identifier: MIT */
/*
 * From slots to lines. One pass over a batch when all of it is answered, so that no
 * handler waits for it; it reads slots and changes nothing.
 */
#include "io/access.h"

#include "core/pen.h"
#include "core/reply.h"
#include "io/server.h"

#include <errno.h>
#include <unistd.h>

/* As nginx has it: the client left before there was a status. */
#define STATUS_CLIENT_LEFT 499

/* ---- addresses ------------------------------------------------------------------- */

/* Returns how long the text is: 0, when there is no address. */
static size_t
put_address(char text[FB_ADDRESS_TEXT_BYTES], const fb_address *address)
{
    if (address->family != FB_FAMILY_V4) {
        fb_address_write(address, text);
        return strlen(text);
    }
    char *at = text; /* in most cases: worth its own, shorter way */
    for (size_t i = 0; i < 4; i++) {
        at = fb_pen_number(at, address->bytes[i]);
        *at++ = '.';
    }
    return (size_t)(at - text) - 1;
}

/* Say who asks: the one place where lines get their client from. The text of the last
 * one is kept, for many requests may come from one client or one proxy. line is valid
 * until the next call. */
static void
set_client(fb_access *access, fb_line *line, const fb_address *client)
{
    fb_address *last = &access->client;
    if (client->family != last->family ||
        memcmp(client->bytes, last->bytes, sizeof(last->bytes)) != 0) {
        *last = *client;
        access->client_len = put_address(access->client_text, client);
    }
    line->client = access->client_text;
    line->client_len = access->client_len;
}

/* ---- keeping lines --------------------------------------------------------------- */

static void
drop_lines(fb_access *access)
{
    fb_buf *lines = &access->lines;
    fb_count_add(&access->n_dropped, fb_log_file_count_lines(lines->data, lines->len));
    fb_buf_reset(lines, FB_LOG_WAITING_BYTES);
}

/* Under the lock, as all above that are not of the interface. */
static void
hand_on(fb_access *access)
{
    if (access->lines.len == 0) {
        return;
    }
    if (access->has_file) {
        bool ok = fb_log_file_give(&access->file, &access->lines);
        if (!ok) {
            drop_lines(access);
        }
        if (!ok && !access->is_dropping) {
            atomic_store(&access->file.error, ENOBUFS);
        }
        access->is_dropping = !ok;
    } else if (access->lines.len >= FB_LOG_WAITING_BYTES) {
        drop_lines(access);
    }
}

/* A line was formed, or not for want of memory. */
static void
keep_line(fb_access *access, bool ok)
{
    if (!ok) {
        fb_count_add(&access->n_dropped, 1);
    } else if (access->lines.len >= FB_LOG_BUFFER_BYTES) {
        hand_on(access);
    }
}

void
fb_access_hand_on(fb_access *access)
{
    if (access->is_on) {
        uv_mutex_lock(&access->lock);
        hand_on(access);
        uv_mutex_unlock(&access->lock);
    }
}

bool
fb_access_take_lines(fb_access *access, fb_buf *lines)
{
    uv_mutex_lock(&access->lock);
    *lines = access->lines;
    fb_buf_init(&access->lines, access->heap);
    uv_mutex_unlock(&access->lock);
    return lines->len > 0;
}

bool
fb_access_has_lines(fb_access *access)
{
    uv_mutex_lock(&access->lock);
    bool has_lines = access->lines.len > 0;
    uv_mutex_unlock(&access->lock);
    return has_lines;
}

/* ---- slots ----------------------------------------------------------------------- */

static fb_line
line_of(fb_access *access, const fb_slot *slot)
{
    fb_line line = {
        .method = llhttp_method_name((llhttp_method_t)slot->req.method),
        .major = 1,
        .minor = slot->req.minor,
        .req = &slot->req,
        .data = slot->data,
    };
    set_client(access, &line, &slot->client);
    return line;
}

/* Returns when the request of slot was read: it may have waited for the dispatch. */
static uint64_t
read_at(const fb_slot *slot)
{
    const fb_conn *conn = slot->owner;
    return conn->queued_at;
}

static void
log_slot(fb_access *access, const fb_slot *slot)
{
    fb_line line = line_of(access, slot);
    fb_outcome outcome = {.status = slot->status, .n_body = slot->n_body};
    if (access->is_timed) {
        outcome.duration_ns = slot->answered_at - read_at(slot);
    }
    keep_line(access, fb_line_append(&access->lines, &access->form, &line, &outcome));
}

void
fb_access_log_slots(fb_access *access, const fb_executor *executor,
                    const fb_slot *slots, size_t n)
{
    uv_mutex_lock(&access->lock);
    fb_line_form_set_time(&access->form, &executor->began);
    for (size_t i = 0; i < n; i++) {
        /* One that was dropped behind a reply that said close has no status. */
        if (!slots[i].is_held && slots[i].status != 0) {
            log_slot(access, &slots[i]);
        }
    }
    uv_mutex_unlock(&access->lock);
}

static fb_held *
hold_line(fb_access *access, fb_slot *slot)
{
    fb_held *held = fb_heap_take(access->heap, sizeof(*held));
    fb_line line = line_of(access, slot);
    if (held != NULL) {
        held->access = access;
        held->began = read_at(slot);
        held->status = slot->status;
        held->n_body = slot->n_body;
        fb_buf_init(&held->text, access->heap);
        if (fb_line_begin(&held->text, &access->form, &line, &held->n_before)) {
            return held;
        }
        fb_heap_give(access->heap, held);
    }
    keep_line(access, false);
    return NULL;
}

fb_held *
fb_access_hold(fb_access *access, const fb_executor *executor, fb_slot *slot)
{
    if (!access->is_on) {
        return NULL;
    }
    slot->is_held = true;
    uv_mutex_lock(&access->lock);
    fb_line_form_set_time(&access->form, &executor->began);
    fb_held *held = hold_line(access, slot);
    uv_mutex_unlock(&access->lock);
    return held;
}

void
fb_access_finish(fb_held *held)
{
    if (held == NULL) {
        return;
    }
    fb_access *access = held->access;
    fb_outcome outcome = {
        .status = held->status != 0 ? held->status : STATUS_CLIENT_LEFT,
        .n_body = held->n_body,
        .duration_ns = access->is_timed ? uv_hrtime() - held->began : 0,
    };
    uv_mutex_lock(&access->lock);
    keep_line(access, fb_line_finish(&access->lines, &access->form, &held->text,
                                     held->n_before, &outcome));
    uv_mutex_unlock(&access->lock);
    fb_buf_fini(&held->text);
    fb_heap_give(access->heap, held);
}

/* ---- replies of the server's own ------------------------------------------------- */

void
fb_access_log_own(fb_access *access, const fb_conn *conn, int status)
{
    if (!access->is_on) {
        return;
    }
    const fb_http *http = &conn->exchange->http;
    fb_line line = {0};
    if (http->has_target) {
        /* The head may not be complete: what it says is with the parser so far. */
        line.method = llhttp_method_name((llhttp_method_t)http->parser.method);
        line.major = http->parser.http_major;
        line.minor = http->parser.http_minor;
        line.req = &http->req;
        line.data = conn->exchange->in.data + http->req.start;
    }
    fb_outcome outcome = {
        .status = status,
        .n_body = http->req.is_head ? 0 : fb_reply_plain_len(status),
    };
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uv_mutex_lock(&access->lock);
    set_client(access, &line, fb_conn_peer(conn));
    fb_line_form_set_time(&access->form, &now);
    keep_line(access, fb_line_append(&access->lines, &access->form, &line, &outcome));
    uv_mutex_unlock(&access->lock);
}

/* ---- life ------------------------------------------------------------------------ */

static void
close_fd(const fb_access_setup *setup)
{
    if (setup->has_file) {
        close(setup->fd);
    }
}

int
fb_access_open(fb_access *access, fb_heap *heap, const fb_access_setup *setup)
{
    access->is_on = setup->is_on;
    access->has_file = setup->is_on && setup->has_file;
    access->is_timed = setup->is_on && setup->format == FB_LINE_JSON;
    access->heap = heap;
    fb_line_form_init(&access->form, setup->format);
    fb_buf_init(&access->lines, heap);
    if (access->is_on) {
        int error = uv_mutex_init(&access->lock);
        if (error != 0) {
            close_fd(setup);
            return error;
        }
        access->has_lock = true;
    }
    return access->has_file ? fb_log_file_open(&access->file, heap, setup->fd) : 0;
}

void
fb_access_close(fb_access *access)
{
    access->is_on = false;
    if (access->has_lock) {
        access->has_lock = false;
        uv_mutex_destroy(&access->lock);
    }
    fb_log_file_close(&access->file);
    if (access->heap != NULL) {
        fb_buf_fini(&access->lines);
    }
}

int
fb_access_start(fb_access *access)
{
    return access->has_file ? fb_log_file_start(&access->file) : 0;
}

void
fb_access_stop(fb_access *access)
{
    if (access->has_file) {
        fb_access_hand_on(access);
        fb_log_file_stop(&access->file);
    }
}

void
fb_access_reopen(fb_access *access, int fd)
{
    if (access->has_file) {
        fb_log_file_replace(&access->file, fd);
    } else {
        close(fd);
    }
}

bool
fb_access_has_error(const fb_access *access)
{
    return atomic_load_explicit(&access->file.error, memory_order_relaxed) != 0;
}

int
fb_access_take_error(fb_access *access)
{
    return fb_access_has_error(access) ? atomic_exchange(&access->file.error, 0) : 0;
}

uint64_t
fb_access_lost(const fb_access *access)
{
    return fb_count_get(&access->n_dropped) + fb_count_get(&access->file.n_lost);
}
