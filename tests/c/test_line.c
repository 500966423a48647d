/* SPDX-License-Identifier: MIT */
/*
 * Lines of the access log: what they say, and that no client can make two of one.
 */
#include "check.h"
#include "core/http.h"
#include "core/limits.h"
#include "core/line.h"
#include "fault.h"

#include <llhttp.h>
#include <stdlib.h>

#define CLIENT "203.0.113.7"
#define AT 784111777 /* Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example */
#define TIME "06/Nov/1994:08:49:37 +0000"

static fb_heap heap;
static fb_buf out;
static fb_buf in;
static fb_http http;
static fb_line_form form;

static const fb_limits limits = {
    .max_target = FB_HEAD_BOUND,
    .max_headers = FB_HEADERS_BOUND,
    .max_head = FB_HEAD_BOUND,
};

static void
open_out(fb_line_format format)
{
    struct timespec now = {.tv_sec = AT, .tv_nsec = 7654321};
    fb_buf_init(&out, &heap);
    fb_buf_init(&in, &heap);
    fb_line_form_init(&form, format);
    fb_line_form_set_time(&form, &now);
}

static void
close_out(void)
{
    fb_buf_fini(&out);
    fb_buf_fini(&in);
    CHECK_SIZE(heap.n_held, 0);
}

/* Returns the line of a request as the client sent it. */
static fb_line
ask(const char *bytes, size_t len)
{
    fb_buf_reset(&in, 0);
    CHECK(fb_buf_append(&in, bytes, len));
    fb_http_init(&http, &limits);
    CHECK(fb_http_feed(&http, &in) == FB_FEED_REQUEST);
    return (fb_line){
        .client = CLIENT,
        .client_len = strlen(CLIENT),
        .method = llhttp_method_name((llhttp_method_t)http.req.method),
        .major = 1,
        .minor = http.req.minor,
        .req = &http.req,
        .data = in.data + http.req.start,
    };
}

static fb_line
ask_text(const char *text)
{
    return ask(text, strlen(text));
}

static const fb_outcome outcome = {
    .status = 200,
    .n_body = 1234567890123,
    .duration_ns = 12003456789,
};

static void
check_line(fb_line_format format, const fb_line *line, const char *want)
{
    out.len = 0;
    form.format = format;
    CHECK(fb_line_append(&out, &form, line, &outcome));
    CHECK_TEXT(out.data, out.len, want);
}

static void
test_combined_line(void)
{
    open_out(FB_LINE_COMBINED);
    fb_line line =
        ask_text("GET /a?b=%20c HTTP/1.1\r\nHost: x\r\nuser-AGENT:  Mozilla/5.0"
                 " (X11) \r\nReferer: http://x/\r\n\r\n");
    check_line(FB_LINE_COMBINED, &line,
               CLIENT " - - [" TIME "] \"GET /a?b=%20c HTTP/1.1\" 200 1234567890123"
                      " \"http://x/\" \"Mozilla/5.0 (X11)\"\n");
    close_out();
}

static void
test_what_was_not_sent_is_a_dash(void)
{
    open_out(FB_LINE_COMBINED);
    fb_line line = ask_text("GET / HTTP/1.0\r\n\r\n");
    line.client_len = 0;
    check_line(FB_LINE_COMBINED, &line,
               "- - - [" TIME "] \"GET / HTTP/1.0\" 200 1234567890123 \"-\" \"-\"\n");
    line.method = NULL;
    check_line(FB_LINE_COMBINED, &line,
               "- - - [" TIME "] \"-\" 200 1234567890123 \"-\" \"-\"\n");
    close_out();
}

static void
test_json_line(void)
{
    open_out(FB_LINE_JSON);
    fb_line line = ask_text("PUT /a HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\n"
                            "Referer: http://x/\r\n\r\n");
    check_line(FB_LINE_JSON, &line,
               "{\"time\":\"1994-11-06T08:49:37.007Z\",\"client\":\"" CLIENT
               "\",\"method\":\"PUT\",\"target\":\"/a\",\"version\":\"1.1\","
               "\"referer\":\"http://x/\",\"user_agent\":\"me\",\"status\":200,"
               "\"bytes\":1234567890123,\"duration\":12.003456}\n");
    close_out();
}

static void
test_what_was_not_sent_is_null(void)
{
    open_out(FB_LINE_JSON);
    fb_line line = ask_text("GET / HTTP/1.0\r\n\r\n");
    line.client_len = 0;
    line.method = NULL;
    check_line(FB_LINE_JSON, &line,
               "{\"time\":\"1994-11-06T08:49:37.007Z\",\"client\":null,\"method\":null,"
               "\"target\":null,\"version\":null,\"referer\":null,\"user_agent\":null,"
               "\"status\":200,\"bytes\":1234567890123,\"duration\":12.003456}\n");
    close_out();
}

static void
test_version_is_left_out_when_there_was_none(void)
{
    open_out(FB_LINE_COMBINED);
    fb_line line = ask_text("GET / HTTP/1.0\r\n\r\n");
    line.major = 0;
    check_line(FB_LINE_COMBINED, &line,
               CLIENT " - - [" TIME "] \"GET /\" 200 1234567890123 \"-\" \"-\"\n");
    close_out();
}

static void
test_first_of_two_fields_is_logged(void)
{
    open_out(FB_LINE_COMBINED);
    fb_line line =
        ask_text("GET / HTTP/1.0\r\nReferer:\r\nReferer: b\r\nUser-Agent: c\r\n"
                 "User-Agent: d\r\n\r\n");
    check_line(FB_LINE_COMBINED, &line,
               CLIENT " - - [" TIME
                      "] \"GET / HTTP/1.0\" 200 1234567890123 \"\" \"c\"\n");
    close_out();
}

/* Make the request of a user agent with one odd byte, len bytes long. */
static fb_line
ask_with(unsigned char c, size_t at, size_t len)
{
    char text[128] = "GET / HTTP/1.0\r\nUser-Agent: ";
    size_t n = strlen(text);
    memset(text + n, 'a', len);
    fb_line line = ask_text(strcat(text, "\r\n\r\n"));
    in.data[n + at] = (char)c; /* also what no parser would let pass */
    return line;
}

/* Whatever stands where eight bytes are looked at together. */
static void
check_escape(fb_line_format format, unsigned char c, const char *want)
{
    char agent[64];
    for (size_t len = 1; len < 20; len++) {
        for (size_t at = 0; at < len; at++) {
            fb_line line = ask_with(c, at, len);
            out.len = 0;
            CHECK(fb_line_append(&out, &form, &line, &outcome));
            out.data[out.len - 1] = '\0';
            snprintf(agent, sizeof(agent), "\"%.*s%s%.*s\"", (int)at,
                     "aaaaaaaaaaaaaaaaaaaa", want, (int)(len - at - 1),
                     "aaaaaaaaaaaaaaaaaaaa");
            CHECK(strstr(out.data, agent) != NULL);
            CHECK(format == FB_LINE_COMBINED || out.data[0] == '{');
        }
    }
}

static void
test_bytes_are_escaped_in_combined_lines(void)
{
    open_out(FB_LINE_COMBINED);
    for (int c = 0; c < 256; c++) {
        char want[8];
        bool is_plain = c >= ' ' && c < 0x7f && c != '"' && c != '\\';
        snprintf(want, sizeof(want), is_plain ? "%c" : "\\x%02X", (unsigned)c);
        check_escape(FB_LINE_COMBINED, (unsigned char)c, want);
    }
    close_out();
}

static void
test_bytes_are_escaped_in_json_lines(void)
{
    open_out(FB_LINE_JSON);
    for (int c = 0; c < 256; c++) {
        char want[8];
        bool is_plain = c >= ' ' && c < 0x7f;
        const char *how = c == '"' || c == '\\' ? "\\%c" : is_plain ? "%c" : "\\u%04X";
        snprintf(want, sizeof(want), how, (unsigned)c);
        check_escape(FB_LINE_JSON, (unsigned char)c, want);
    }
    close_out();
}

static void
test_every_byte_in_one_value(void)
{
    open_out(FB_LINE_COMBINED);
    char text[512] = "GET / HTTP/1.0\r\nUser-Agent: ";
    size_t n = strlen(text);
    for (int c = 0; c < 256; c++) {
        text[n + (size_t)c] = 'a';
    }
    strcat(text, "\r\n\r\n");
    for (fb_line_format format = FB_LINE_COMBINED; format <= FB_LINE_JSON; format++) {
        fb_line line = ask_text(text);
        for (int c = 0; c < 256; c++) {
            in.data[n + (size_t)c] = (char)(255 - c);
        }
        out.len = 0;
        form.format = format;
        CHECK(fb_line_append(&out, &form, &line, &outcome));
        for (size_t i = 0; i < out.len; i++) {
            bool is_last = i == out.len - 1;
            CHECK(is_last ? out.data[i] == '\n' : out.data[i] >= ' ');
            CHECK(out.data[i] < 0x7f);
        }
    }
    close_out();
}

static void
test_long_values_are_cut(void)
{
    open_out(FB_LINE_JSON);
    size_t len = 3 * FB_LOG_TEXT_BYTES;
    char *text = malloc(3 * len + 100);
    char *at = text + sprintf(text, "GET /");
    memset(at, 't', len);
    at += len;
    at += sprintf(at, " HTTP/1.0\r\nReferer: ");
    memset(at, '\xfe', len);
    at += len;
    at += sprintf(at, "\r\nUser-Agent: ");
    memset(at, '\xff', len);
    at += len;
    at += sprintf(at, "\r\n\r\n");
    fb_line line = ask(text, (size_t)(at - text));
    CHECK(fb_line_append(&out, &form, &line, &outcome));
    size_t most = FB_LOG_TEXT_BYTES + 12 * FB_LOG_TEXT_BYTES;
    CHECK(out.len > most && out.len < most + 320);
    free(text);
    close_out();
}

static void
test_line_of_two_steps_is_that_of_one(void)
{
    for (fb_line_format format = FB_LINE_COMBINED; format <= FB_LINE_JSON; format++) {
        open_out(format);
        fb_line line = ask_text("GET /a HTTP/1.1\r\nHost: x\r\nUser-Agent: \"\r\n\r\n");
        fb_buf whole;
        fb_buf held;
        size_t n_before;
        fb_buf_init(&whole, &heap);
        fb_buf_init(&held, &heap);
        CHECK(fb_line_append(&whole, &form, &line, &outcome));
        CHECK(fb_line_begin(&held, &form, &line, &n_before));
        CHECK(fb_line_finish(&out, &form, &held, n_before, &outcome));
        CHECK_SIZE(out.len, whole.len);
        CHECK(memcmp(out.data, whole.data, whole.len) == 0);
        fb_buf_fini(&whole);
        fb_buf_fini(&held);
        close_out();
    }
}

static void
test_time_is_made_once_a_second(void)
{
    open_out(FB_LINE_COMBINED);
    struct timespec now = {.tv_sec = AT, .tv_nsec = 999999999};
    form.second[0] = 'X';
    fb_line_form_set_time(&form, &now);
    CHECK(form.second[0] == 'X');
    CHECK_SIZE(form.ms, 999);
    now.tv_sec++;
    fb_line_form_set_time(&form, &now);
    CHECK_TEXT(form.second, form.second_len, " - - [06/Nov/1994:08:49:38 +0000] \"");
    close_out();
}

static void
test_without_memory_nothing_is_written(void)
{
    open_out(FB_LINE_COMBINED);
    fb_line line = ask_text("GET / HTTP/1.0\r\n\r\n");
    size_t n_before;
    fault_set(1);
    CHECK(!fb_line_append(&out, &form, &line, &outcome));
    CHECK(fault_happened());
    fault_set(1);
    CHECK(!fb_line_begin(&out, &form, &line, &n_before));
    fault_set(1);
    CHECK(!fb_line_finish(&out, &form, &in, 1, &outcome));
    fault_set(0);
    CHECK_SIZE(out.len, 0);
    close_out();
}

int
main(void)
{
    RUN(test_combined_line);
    RUN(test_what_was_not_sent_is_a_dash);
    RUN(test_json_line);
    RUN(test_what_was_not_sent_is_null);
    RUN(test_version_is_left_out_when_there_was_none);
    RUN(test_first_of_two_fields_is_logged);
    RUN(test_bytes_are_escaped_in_combined_lines);
    RUN(test_bytes_are_escaped_in_json_lines);
    RUN(test_every_byte_in_one_value);
    RUN(test_long_values_are_cut);
    RUN(test_line_of_two_steps_is_that_of_one);
    RUN(test_time_is_made_once_a_second);
    RUN(test_without_memory_nothing_is_written);
    return check_report("test_line");
}
