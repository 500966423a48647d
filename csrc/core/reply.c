/* SPDX-License-Identifier: MIT */
/*
 * Writing replies. Room for a whole head is made once; then bytes are only copied.
 */
#define _POSIX_C_SOURCE 200809L /* gmtime_r */

#include "core/reply.h"

#include "core/limits.h"
#include "core/pen.h"
#include "core/status.h"
#include "core/token.h"

#include <assert.h>
#include <stdio.h>

/* The longest a head can be without the handler's fields and the values of Server and
 * Content-Type: status line, Date, length or coding, Connection, and the empty line. */
#define HEAD_ROOM 320

/* ---- date and server ------------------------------------------------------------- */

void
fb_stamp_init(fb_stamp *stamp, const char *server)
{
    *stamp = (fb_stamp){.server = server, .server_len = strlen(server), .at = -1};
}

void
fb_stamp_update(fb_stamp *stamp, time_t now)
{
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (now == stamp->at) {
        return;
    }
    struct tm tm;
    gmtime_r(&now, &tm);
    /* By hand, because strftime follows the locale. */
    int n = snprintf(stamp->date, sizeof(stamp->date),
                     "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
                     days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon,
                     tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    stamp->date_len = n < (int)sizeof(stamp->date) ? (size_t)n : 0;
    stamp->at = now;
}

/* ---- heads ----------------------------------------------------------------------- */

static char *
put_field(char *at, const fb_field *field)
{
    at = fb_pen_bytes(at, field->name, field->name_len);
    at = fb_pen_bytes(at, ": ", 2);
    at = fb_pen_bytes(at, field->value, field->value_len);
    return fb_pen_bytes(at, "\r\n", 2);
}

static char *
put_status_line(char *at, const fb_head *head)
{
    if (head->status == 200 && head->reason == NULL) {
        return fb_pen_bytes(at, "HTTP/1.1 200 OK\r\n", 17);
    }
    at = fb_pen_bytes(at, "HTTP/1.1 ", 9);
    at = fb_pen_number(at, (uint64_t)head->status);
    at =
        fb_pen_bytes(at, " ", 1); /* RFC 9112 4: it stays even when no reason follows */
    if (head->reason != NULL) {
        at = fb_pen_bytes(at, head->reason, head->reason_len);
    } else {
        at = fb_pen_text(at, fb_status_reason(head->status));
    }
    return fb_pen_bytes(at, "\r\n", 2);
}

static char *
put_framing(char *at, const fb_head *head)
{
    if (head->framing == FB_FRAMING_LENGTH) {
        at = fb_pen_bytes(at, "Content-Length: ", 16);
        at = fb_pen_number(at, head->length);
        return fb_pen_bytes(at, "\r\n", 2);
    }
    if (head->framing == FB_FRAMING_CHUNKED) {
        return fb_pen_text(at, "Transfer-Encoding: chunked\r\n");
    }
    return at;
}

static char *
put_connection(char *at, const fb_head *head)
{
    if (!head->keep_alive) {
        return fb_pen_text(at, "Connection: close\r\n");
    }
    return head->is_http10 ? fb_pen_text(at, "Connection: keep-alive\r\n") : at;
}

static size_t
head_room(const fb_stamp *stamp, const fb_head *head)
{
    size_t room = HEAD_ROOM + stamp->server_len + head->reason_len;
    if (head->content_type != NULL) {
        room += strlen(head->content_type);
    }
    for (size_t i = 0; i < head->n_fields; i++) {
        room += head->fields[i].name_len + head->fields[i].value_len + 4;
    }
    return room;
}

bool
fb_reply_head(fb_buf *out, const fb_stamp *stamp, const fb_head *head)
{
    if (!fb_buf_reserve(out, head_room(stamp, head))) {
        return false;
    }
    char *at = put_status_line(out->data + out->len, head);
    if (stamp->server_len > 0 && !head->has_server) {
        at = fb_pen_bytes(at, "Server: ", 8);
        at = fb_pen_bytes(at, stamp->server, stamp->server_len);
        at = fb_pen_bytes(at, "\r\n", 2);
    }
    if (!head->has_date) {
        at = fb_pen_bytes(at, stamp->date, stamp->date_len);
    }
    for (size_t i = 0; i < head->n_fields; i++) {
        at = put_field(at, &head->fields[i]);
    }
    if (head->content_type != NULL) {
        at = fb_pen_bytes(at, "Content-Type: ", 14);
        at = fb_pen_text(at, head->content_type);
        at = fb_pen_bytes(at, "\r\n", 2);
    }
    at = put_framing(at, head);
    at = put_connection(at, head);
    at = fb_pen_bytes(at, "\r\n", 2);
    out->len = (size_t)(at - out->data);
    return true;
}

size_t
fb_reply_plain_len(int status)
{
    return 3 + 1 + strlen(fb_status_reason(status)) + 1;
}

bool
fb_reply_plain(fb_buf *out, const fb_stamp *stamp, int status, bool is_head,
               bool is_http10, bool keep_alive)
{
    char body[64];
    int n = snprintf(body, sizeof(body), "%d %s\n", status, fb_status_reason(status));
    size_t len = n > 0 && n < (int)sizeof(body) ? (size_t)n : 0;
    static const fb_field retry_after = {
        .name = "Retry-After", /* seconds, RFC 9110 10.2.3 */
        .name_len = sizeof("Retry-After") - 1,
        .value = FB_RETRY_AFTER,
        .value_len = sizeof(FB_RETRY_AFTER) - 1,
    };
    assert(len == fb_reply_plain_len(status));
    fb_head head = {
        .status = status,
        .fields = &retry_after,
        .n_fields = status == 503 || status == 429,
        .content_type = "text/plain; charset=utf-8",
        .framing = FB_FRAMING_LENGTH,
        .length = len,
        .is_http10 = is_http10,
        .keep_alive = keep_alive,
    };
    size_t before = out->len;
    if (fb_reply_head(out, stamp, &head) &&
        (is_head || fb_buf_append(out, body, len))) {
        return true;
    }
    out->len = before;
    return false;
}

bool
fb_reply_continue(fb_buf *out)
{
    return fb_buf_append(out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

/* ---- chunks ---------------------------------------------------------------------- */

bool
fb_reply_chunk(fb_buf *out, const char *bytes, size_t len)
{
    if (len == 0) {
        return true;
    }
    char size[24];
    int n = snprintf(size, sizeof(size), "%zx\r\n", len);
    size_t room = (size_t)n + len + 2;
    if (room < len || !fb_buf_reserve(out, room)) {
        return false;
    }
    char *at = fb_pen_bytes(out->data + out->len, size, (size_t)n);
    at = fb_pen_bytes(at, bytes, len);
    fb_pen_bytes(at, "\r\n", 2);
    out->len += room;
    return true;
}

bool
fb_reply_last_chunk(fb_buf *out)
{
    return fb_buf_append(out, "0\r\n\r\n", 5);
}

/* ---- what may stand in a field --------------------------------------------------- */

bool
fb_field_name_is_valid(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!fb_token_has(bytes[i])) {
            return false;
        }
    }
    return len > 0;
}

/* Returns whether one of eight bytes is a control byte, tab included; by the arithmetic
 * of their carries, as there are many fields. */
static bool
has_control(uint64_t eight)
{
    const uint64_t ones = 0x0101010101010101;
    const uint64_t tops = ones << 7;
    uint64_t is_del = eight ^ ones * 0x7f;
    uint64_t below_space = (eight - ones * ' ') & ~eight;
    uint64_t del = (is_del - ones) & ~is_del;
    return ((below_space | del) & tops) != 0;
}

bool
fb_field_value_is_valid(const char *bytes, size_t len)
{
    uint64_t eight;
    while (len >= sizeof(eight)) {
        memcpy(&eight, bytes, sizeof(eight));
        if (has_control(eight)) {
            break; /* it may be a tab */
        }
        bytes += sizeof(eight);
        len -= sizeof(eight);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if ((c < ' ' && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}
