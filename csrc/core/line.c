/* SPDX-License-Identifier: MIT */
/*
 * Forming lines. Room for the longest that a line can get is made once; then bytes are
 * only copied, and those looked at that may need an escape.
 *
 * Both forms escape the same bytes: control bytes, and so line ends; quotes and
 * backslashes; and what is not ASCII, of which nobody knows the encoding.
 */
#define _POSIX_C_SOURCE 200809L /* gmtime_r */

#include "core/line.h"

#include "core/pen.h"

#include <stdio.h>
#include <strings.h>

/* The longest that a line can be without what the client sent: names, quotes, time,
 * method, numbers. */
#define LINE_ROOM 320

/* Bytes of the longest escape. */
#define ESCAPE_BYTES 6

/* The fields that are logged, found once. */
typedef struct texts {
    fb_span target;
    fb_span referer;
    fb_span agent;
    bool has_referer;
    bool has_agent;
} texts;

/* ---- time ------------------------------------------------------------------------ */

void
fb_line_form_init(fb_line_form *form, fb_line_format format)
{
    *form = (fb_line_form){.format = format, .at = -1};
}

/* By hand, because strftime follows the locale. */
static void
print_second(fb_line_form *form, const struct tm *tm)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const char *month = months + 3 * tm->tm_mon;
    int year = tm->tm_year + 1900;
    int n;
    if (form->format == FB_LINE_JSON) {
        n = snprintf(form->second, sizeof(form->second),
                     "%04d-%02d-%02dT%02d:%02d:%02d.", year, tm->tm_mon + 1,
                     tm->tm_mday, tm->tm_hour, tm->tm_min, tm->tm_sec);
    } else {
        n = snprintf(form->second, sizeof(form->second),
                     " - - [%02d/%.3s/%04d:%02d:%02d:%02d +0000] \"", tm->tm_mday,
                     month, year, tm->tm_hour, tm->tm_min, tm->tm_sec);
    }
    form->second_len = n > 0 && n < (int)sizeof(form->second) ? (size_t)n : 0;
}

void
fb_line_form_set_time(fb_line_form *form, const struct timespec *now)
{
    form->ms = (unsigned)(now->tv_nsec / 1000000);
    if (now->tv_sec == form->at) {
        return;
    }
    struct tm tm;
    gmtime_r(&now->tv_sec, &tm);
    print_second(form, &tm);
    form->at = now->tv_sec;
}

/* ---- escapes --------------------------------------------------------------------- */

/* Returns whether one of eight bytes may need an escape; by the arithmetic of their
 * carries, which is right about all eight when it says no. */
static inline bool
may_need_escape(uint64_t eight)
{
    const uint64_t ones = 0x0101010101010101;
    const uint64_t tops = ones << 7;
    uint64_t quote = eight ^ ones * '"';
    uint64_t backslash = eight ^ ones * '\\';
    uint64_t del = eight ^ ones * 0x7f;
    uint64_t found = (eight - ones * ' ') | (quote - ones) | (backslash - ones) |
                     (del - ones) | eight;
    return (found & tops) != 0;
}

static inline bool
needs_escape(unsigned char c)
{
    return c < ' ' || c == '"' || c == '\\' || c >= 0x7f;
}

static char *
put_escape(char *at, fb_line_format format, unsigned char c)
{
    static const char hex[] = "0123456789ABCDEF";
    if (format == FB_LINE_COMBINED) {
        at = fb_pen_bytes(at, "\\x", 2);
    } else if (c == '"' || c == '\\') {
        *at++ = '\\';
        *at++ = (char)c;
        return at;
    } else {
        at = fb_pen_bytes(at, "\\u00", 4);
    }
    *at++ = hex[c >> 4];
    *at++ = hex[c & 15];
    return at;
}

static char *
put_escaped(char *at, fb_line_format format, const char *bytes, size_t len)
{
    uint64_t eight;
    size_t i = 0;
    while (i < len) {
        while (len - i >= sizeof(eight)) {
            memcpy(&eight, bytes + i, sizeof(eight));
            if (may_need_escape(eight)) {
                break;
            }
            memcpy(at, &eight, sizeof(eight));
            at += sizeof(eight);
            i += sizeof(eight);
        }
        for (size_t end = len - i > sizeof(eight) ? i + sizeof(eight) : len; i < end;
             i++) {
            unsigned char c = (unsigned char)bytes[i];
            if (needs_escape(c)) {
                at = put_escape(at, format, c);
            } else {
                *at++ = (char)c;
            }
        }
    }
    return at;
}

/* ---- what the client sent -------------------------------------------------------- */

static fb_span
cut(fb_span span)
{
    if (span.len > FB_LOG_TEXT_BYTES) {
        span.len = FB_LOG_TEXT_BYTES;
    }
    return span;
}

/* The first of a name counts. */
static void
find_texts(texts *found, const fb_line *line)
{
    *found = (texts){0};
    if (line->method == NULL) {
        return;
    }
    const fb_request *req = line->req;
    found->target = cut(req->target);
    for (size_t i = 0; i < req->n_headers; i++) {
        const fb_header *field = &req->headers[i];
        if (field->name.len != 10 && field->name.len != 7) {
            continue;
        }
        const char *name = line->data + field->name.off;
        if (field->name.len == 10 && !found->has_agent &&
            strncasecmp(name, "user-agent", 10) == 0) {
            found->has_agent = true;
            found->agent = cut(field->value);
        } else if (field->name.len == 7 && !found->has_referer &&
                   strncasecmp(name, "referer", 7) == 0) {
            found->has_referer = true;
            found->referer = cut(field->value);
        }
    }
}

static size_t
room_for(const fb_line *line, const texts *found)
{
    size_t sent = (size_t)found->target.len + found->referer.len + found->agent.len;
    return LINE_ROOM + line->client_len + ESCAPE_BYTES * sent;
}

static char *
put_span(char *at, const fb_line_form *form, const fb_line *line, fb_span span)
{
    return put_escaped(at, form->format, line->data + span.off, span.len);
}

/* ---- combined -------------------------------------------------------------------- */

static char *
put_version(char *at, const fb_line *line)
{
    at = fb_pen_number(at, line->major);
    *at++ = '.';
    return fb_pen_number(at, line->minor);
}

static char *
put_combined_before(char *at, const fb_line_form *form, const fb_line *line,
                    const texts *found)
{
    if (line->client_len > 0) {
        at = fb_pen_bytes(at, line->client, line->client_len);
    } else {
        *at++ = '-';
    }
    at = fb_pen_bytes(at, form->second, form->second_len);
    if (line->method == NULL) {
        return fb_pen_bytes(at, "-\" ", 3);
    }
    at = fb_pen_text(at, line->method);
    *at++ = ' ';
    at = put_span(at, form, line, found->target);
    if (line->major > 0) {
        at = fb_pen_bytes(at, " HTTP/", 6);
        at = put_version(at, line);
    }
    return fb_pen_bytes(at, "\" ", 2);
}

static char *
put_combined_outcome(char *at, const fb_outcome *outcome)
{
    at = fb_pen_digits(at, (uint64_t)outcome->status, 3);
    *at++ = ' ';
    return fb_pen_number(at, outcome->n_body);
}

static char *
put_quoted_or_dash(char *at, const fb_line_form *form, const fb_line *line, bool has,
                   fb_span span)
{
    at = fb_pen_bytes(at, " \"", 2);
    if (has) {
        at = put_span(at, form, line, span);
    } else {
        *at++ = '-';
    }
    *at++ = '"';
    return at;
}

static char *
put_combined_after(char *at, const fb_line_form *form, const fb_line *line,
                   const texts *found)
{
    at = put_quoted_or_dash(at, form, line, found->has_referer, found->referer);
    at = put_quoted_or_dash(at, form, line, found->has_agent, found->agent);
    *at++ = '\n';
    return at;
}

/* ---- JSON ------------------------------------------------------------------------ */

static char *
put_string_or_null(char *at, const fb_line_form *form, const fb_line *line, bool has,
                   fb_span span)
{
    if (!has) {
        return fb_pen_bytes(at, "null", 4);
    }
    *at++ = '"';
    at = put_span(at, form, line, span);
    *at++ = '"';
    return at;
}

static char *
put_json_request_line(char *at, const fb_line_form *form, const fb_line *line,
                      const texts *found)
{
    if (line->method == NULL) {
        return fb_pen_text(at, ",\"method\":null,\"target\":null,\"version\":null");
    }
    at = fb_pen_bytes(at, ",\"method\":\"", 11);
    at = fb_pen_text(at, line->method);
    at = fb_pen_bytes(at, "\",\"target\":\"", 12);
    at = put_span(at, form, line, found->target);
    at = fb_pen_bytes(at, "\",\"version\":", 12);
    if (line->major == 0) {
        return fb_pen_bytes(at, "null", 4);
    }
    *at++ = '"';
    at = put_version(at, line);
    *at++ = '"';
    return at;
}

static char *
put_json_before(char *at, const fb_line_form *form, const fb_line *line,
                const texts *found)
{
    at = fb_pen_bytes(at, "{\"time\":\"", 9);
    at = fb_pen_bytes(at, form->second, form->second_len);
    at = fb_pen_digits(at, form->ms, 3);
    at = fb_pen_bytes(at, "Z\",\"client\":", 12);
    if (line->client_len > 0) {
        *at++ = '"';
        at = fb_pen_bytes(at, line->client, line->client_len);
        *at++ = '"';
    } else {
        at = fb_pen_bytes(at, "null", 4);
    }
    at = put_json_request_line(at, form, line, found);
    at = fb_pen_bytes(at, ",\"referer\":", 11);
    at = put_string_or_null(at, form, line, found->has_referer, found->referer);
    at = fb_pen_bytes(at, ",\"user_agent\":", 14);
    return put_string_or_null(at, form, line, found->has_agent, found->agent);
}

static char *
put_json_outcome(char *at, const fb_outcome *outcome)
{
    uint64_t us = outcome->duration_ns / 1000;
    at = fb_pen_bytes(at, ",\"status\":", 10);
    at = fb_pen_digits(at, (uint64_t)outcome->status, 3);
    at = fb_pen_bytes(at, ",\"bytes\":", 9);
    at = fb_pen_number(at, outcome->n_body);
    at = fb_pen_bytes(at, ",\"duration\":", 12);
    at = fb_pen_number(at, us / 1000000);
    *at++ = '.';
    at = fb_pen_digits(at, us, 6);
    return fb_pen_bytes(at, "}\n", 2);
}

/* ---- lines ----------------------------------------------------------------------- */

static char *
put_before(char *at, const fb_line_form *form, const fb_line *line, const texts *found)
{
    return form->format == FB_LINE_JSON ? put_json_before(at, form, line, found)
                                        : put_combined_before(at, form, line, found);
}

static char *
put_outcome(char *at, const fb_line_form *form, const fb_outcome *outcome)
{
    return form->format == FB_LINE_JSON ? put_json_outcome(at, outcome)
                                        : put_combined_outcome(at, outcome);
}

static char *
put_after(char *at, const fb_line_form *form, const fb_line *line, const texts *found)
{
    return form->format == FB_LINE_JSON ? at
                                        : put_combined_after(at, form, line, found);
}

bool
fb_line_append(fb_buf *out, const fb_line_form *form, const fb_line *line,
               const fb_outcome *outcome)
{
    texts found;
    find_texts(&found, line);
    if (!fb_buf_reserve(out, room_for(line, &found))) {
        return false;
    }
    char *at = put_before(out->data + out->len, form, line, &found);
    at = put_outcome(at, form, outcome);
    at = put_after(at, form, line, &found);
    out->len = (size_t)(at - out->data);
    return true;
}

bool
fb_line_begin(fb_buf *held, const fb_line_form *form, const fb_line *line,
              size_t *n_before)
{
    texts found;
    find_texts(&found, line);
    if (!fb_buf_reserve(held, room_for(line, &found))) {
        return false;
    }
    char *begin = held->data + held->len;
    char *at = put_before(begin, form, line, &found);
    *n_before = (size_t)(at - begin);
    at = put_after(at, form, line, &found);
    held->len = (size_t)(at - held->data);
    return true;
}

bool
fb_line_finish(fb_buf *out, const fb_line_form *form, const fb_buf *held,
               size_t n_before, const fb_outcome *outcome)
{
    if (!fb_buf_reserve(out, LINE_ROOM + held->len)) {
        return false;
    }
    char *at = fb_pen_bytes(out->data + out->len, held->data, n_before);
    at = put_outcome(at, form, outcome);
    at = fb_pen_bytes(at, held->data + n_before, held->len - n_before);
    out->len = (size_t)(at - out->data);
    return true;
}
