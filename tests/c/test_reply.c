/* SPDX-License-Identifier: MIT */
/*
 * Replies as bytes, the table of status codes, and what may stand in a field.
 */
#include "check.h"
#include "core/limits.h"
#include "core/reply.h"
#include "core/status.h"
#include "core/token.h"
#include "fault.h"

#define DATE "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" /* RFC 9110's own example */
#define AT 784111777                                   /* that second */

static fb_heap heap;
static fb_buf out;
static fb_stamp stamp;

static void
open_out(const char *server)
{
    fb_buf_init(&out, &heap);
    fb_stamp_init(&stamp, server);
    fb_stamp_update(&stamp, AT);
}

static void
close_out(void)
{
    fb_buf_fini(&out);
    CHECK_SIZE(heap.n_held, 0);
}

static void
test_dates(void)
{
    static const struct {
        time_t at;
        const char *date;
    } cases[] = {
        {AT, DATE},
        {0, "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"},
        {951782400, "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n"},
        {1704067199, "Date: Sun, 31 Dec 2023 23:59:59 GMT\r\n"},
        {2147483648, "Date: Tue, 19 Jan 2038 03:14:08 GMT\r\n"},
        {253402300799, "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"},
    };
    open_out("");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fb_stamp_update(&stamp, cases[i].at);
        CHECK_TEXT(stamp.date, stamp.date_len, cases[i].date);
    }
    close_out();
}

static void
test_date_is_made_once_a_second(void)
{
    open_out("");
    stamp.date[0] = 'X';
    fb_stamp_update(&stamp, AT);
    CHECK(stamp.date[0] == 'X');
    fb_stamp_update(&stamp, AT + 1);
    CHECK_TEXT(stamp.date, stamp.date_len, "Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    close_out();
}

static void
test_head_of_an_ordinary_reply(void)
{
    open_out("fastbatch");
    fb_head head = {
        .status = 200,
        .content_type = "text/plain; charset=utf-8",
        .framing = FB_FRAMING_LENGTH,
        .length = 13,
        .keep_alive = true,
    };
    CHECK(fb_reply_head(&out, &stamp, &head));
    CHECK_TEXT(out.data, out.len,
               "HTTP/1.1 200 OK\r\nServer: fastbatch\r\n" DATE
               "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\n");
    close_out();
}

static void
test_fields_of_the_handler_replace_ours(void)
{
    open_out("fastbatch");
    const fb_field fields[] = {
        {"Date", 4, "today", 5},
        {"Server", 6, "mine", 4},
        {"X-Empty", 7, "", 0},
        {"X-High", 6, "\xff", 1},
    };
    fb_head head = {
        .status = 404,
        .fields = fields,
        .n_fields = 4,
        .framing = FB_FRAMING_CHUNKED,
        .keep_alive = true,
        .has_date = true,
        .has_server = true,
    };
    CHECK(fb_reply_head(&out, &stamp, &head));
    CHECK_TEXT(out.data, out.len,
               "HTTP/1.1 404 Not Found\r\nDate: today\r\nServer: mine\r\nX-Empty: \r\n"
               "X-High: \xff\r\nTransfer-Encoding: chunked\r\n\r\n");
    close_out();
}

static void
test_connection_field(void)
{
    static const struct {
        bool is_http10;
        bool keep_alive;
        const char *field;
    } cases[] = {
        {false, true, ""},
        {false, false, "Connection: close\r\n"},
        {true, true, "Connection: keep-alive\r\n"},
        {true, false, "Connection: close\r\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        open_out("");
        fb_head head = {
            .status = 204,
            .framing = FB_FRAMING_NONE,
            .is_http10 = cases[i].is_http10,
            .keep_alive = cases[i].keep_alive,
        };
        CHECK(fb_reply_head(&out, &stamp, &head));
        char expect[256];
        snprintf(expect, sizeof(expect), "HTTP/1.1 204 No Content\r\n" DATE "%s\r\n",
                 cases[i].field);
        CHECK_TEXT(out.data, out.len, expect);
        close_out();
    }
}

static void
test_status_without_a_reason_keeps_the_space(void)
{
    open_out("");
    fb_head head = {.status = 299, .framing = FB_FRAMING_NONE, .keep_alive = true};
    CHECK(fb_reply_head(&out, &stamp, &head));
    CHECK_TEXT(out.data, out.len, "HTTP/1.1 299 \r\n" DATE "\r\n");
    close_out();
}

static void
test_reason_of_the_application_is_sent_as_it_is(void)
{
    static const char *const reasons[] = {"Fine, thank you", ""};
    for (size_t i = 0; i < 2; i++) {
        char want[128];
        fb_head head = {
            .status = 200,
            .reason = reasons[i],
            .reason_len = strlen(reasons[i]),
            .framing = FB_FRAMING_NONE,
            .keep_alive = true,
        };
        open_out("");
        CHECK(fb_reply_head(&out, &stamp, &head));
        snprintf(want, sizeof(want), "HTTP/1.1 200 %s\r\n" DATE "\r\n", reasons[i]);
        CHECK_TEXT(out.data, out.len, want);
        close_out();
    }
}

static void
test_longest_reason_fits_its_room(void)
{
    static char reason[100000];
    memset(reason, 'r', sizeof(reason));
    fb_head head = {
        .status = 599,
        .reason = reason,
        .reason_len = sizeof(reason),
        .framing = FB_FRAMING_NONE,
    };
    open_out("");
    CHECK(fb_reply_head(&out, &stamp, &head));
    CHECK(out.len > sizeof(reason) && memcmp(out.data + 13, reason, 1000) == 0);
    close_out();
}

static void
test_lengths_of_every_size(void)
{
    static const struct {
        uint64_t length;
        const char *field;
    } cases[] = {
        {0, "Content-Length: 0\r\n"},
        {9, "Content-Length: 9\r\n"},
        {10, "Content-Length: 10\r\n"},
        {UINT64_MAX, "Content-Length: 18446744073709551615\r\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        open_out("");
        fb_head head = {.status = 200,
                        .length = cases[i].length,
                        .keep_alive = true,
                        .has_date = true};
        CHECK(fb_reply_head(&out, &stamp, &head));
        CHECK(strncmp(out.data + 17, cases[i].field, strlen(cases[i].field)) == 0);
        close_out();
    }
}

/* Nothing is written that there was no room for, however long the parts are. */
static void
test_longest_head_fits_its_room(void)
{
    static char value[20000];
    static char type[5000];
    memset(value, 'v', sizeof(value));
    memset(type, 't', sizeof(type) - 1);
    const fb_field fields[] = {
        {value, sizeof(value), value, sizeof(value)},
        {"a", 1, "b", 1},
    };
    open_out("a server with a long name: 0123456789 0123456789 0123456789 0123456789");
    fb_head head = {
        .status = 431,
        .content_type = type,
        .fields = fields,
        .n_fields = 2,
        .framing = FB_FRAMING_LENGTH,
        .length = UINT64_MAX,
        .is_http10 = true,
        .keep_alive = true,
    };
    CHECK(fb_reply_head(&out, &stamp, &head)); /* ASan watches */
    CHECK(out.len > 3 * sizeof(value) / 2 && out.len <= out.cap);
    close_out();
}

static void
test_plain_replies(void)
{
    open_out("");
    CHECK(fb_reply_plain(&out, &stamp, 404, false, false, true));
    CHECK_TEXT(out.data, out.len,
               "HTTP/1.1 404 Not Found\r\n" DATE
               "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\n"
               "404 Not Found\n");
    out.len = 0;
    CHECK(fb_reply_plain(&out, &stamp, 500, true, false, false));
    CHECK_TEXT(out.data, out.len,
               "HTTP/1.1 500 Internal Server Error\r\n" DATE
               "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n"
               "Connection: close\r\n\r\n");
    close_out();
}

/* What is announced is what is sent, for every status that has a text. */
static void
test_plain_reply_of_every_status_has_its_length(void)
{
    for (int status = FB_STATUS_MIN; status <= FB_STATUS_MAX; status++) {
        open_out("");
        CHECK(fb_reply_plain(&out, &stamp, status, false, false, true));
        CHECK(fb_buf_append(&out, "", 1)); /* a string now */
        const char *length = strstr(out.data, "Content-Length: ");
        const char *body = strstr(out.data, "\r\n\r\n");
        size_t announced = 0;
        CHECK(length != NULL && sscanf(length, "Content-Length: %zu", &announced) == 1);
        CHECK(body != NULL);
        CHECK_SIZE(body != NULL ? strlen(body + 4) : 0, announced);
        close_out();
    }
}

static void
test_continue_and_chunks(void)
{
    open_out("");
    CHECK(fb_reply_continue(&out));
    CHECK_TEXT(out.data, out.len, "HTTP/1.1 100 Continue\r\n\r\n");
    out.len = 0;
    CHECK(fb_reply_chunk(&out, "", 0)); /* would end the body */
    CHECK_SIZE(out.len, 0);
    CHECK(fb_reply_chunk(&out, "hello", 5));
    CHECK(fb_reply_chunk(&out, "0123456789abcdef", 16));
    CHECK(fb_reply_last_chunk(&out));
    CHECK_TEXT(out.data, out.len, "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    CHECK(
        !fb_reply_chunk(&out, "a", SIZE_MAX)); /* never to be read: no memory for it */
    CHECK(!fb_reply_chunk(&out, "a", SIZE_MAX / 2));
    close_out();
}

static bool
write_head(void)
{
    fb_head head = {.status = 200, .framing = FB_FRAMING_LENGTH, .keep_alive = true};
    return fb_reply_head(&out, &stamp, &head);
}

static bool
write_plain(void)
{
    return fb_reply_plain(&out, &stamp, 500, false, false, true);
}

static bool
write_chunk(void)
{
    char data[1000] = {0};
    return fb_reply_chunk(&out, data, sizeof(data));
}

static bool
write_last_chunk(void)
{
    return fb_reply_last_chunk(&out);
}

static bool
write_continue(void)
{
    return fb_reply_continue(&out);
}

static void
test_without_memory_nothing_is_written(void)
{
    bool (*const writers[])(void) = {write_head, write_plain, write_chunk,
                                     write_last_chunk, write_continue};
    for (size_t i = 0; i < sizeof(writers) / sizeof(writers[0]); i++) {
        for (size_t nth = 1;; nth++) {
            open_out("fastbatch");
            CHECK(fb_buf_append(&out, "before", 6));
            fault_set(nth);
            bool is_written = writers[i]();
            bool is_faulty = fault_happened();
            fault_set(0);
            CHECK(is_written == !is_faulty);
            CHECK(is_written || out.len == 6);
            CHECK(memcmp(out.data, "before", 6) == 0);
            close_out();
            if (!is_faulty) {
                CHECK(nth > 1);
                break;
            }
        }
    }
}

static void
test_status_reasons(void)
{
    CHECK(strcmp(fb_status_reason(200), "OK") == 0);
    CHECK(strcmp(fb_status_reason(406), "Not Acceptable") == 0);
    CHECK(strcmp(fb_status_reason(411), "Length Required") == 0);
    CHECK(strcmp(fb_status_reason(413), "Content Too Large") == 0);
    CHECK(strcmp(fb_status_reason(431), "Request Header Fields Too Large") == 0);
    CHECK(strcmp(fb_status_reason(511), "Network Authentication Required") == 0);
    static const int without[] = {-1, 0, 299, 306, 418, 512, 599, 600, 1000};
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        CHECK(fb_status_reason(without[i])[0] == '\0');
    }
}

static void
test_reasons_are_text(void)
{
    for (int status = 0; status < 600; status++) {
        const char *reason = fb_status_reason(status);
        CHECK(fb_field_value_is_valid(reason, strlen(reason)));
        CHECK(strlen(reason) < 40);
    }
}

static void
test_statuses_without_a_body(void)
{
    for (int status = 100; status < 600; status++) {
        bool has_none = status < 200 || status == 204 || status == 205 || status == 304;
        CHECK(fb_status_has_body(status) == !has_none);
    }
}

static void
test_field_names(void)
{
    CHECK(!fb_field_name_is_valid("", 0));
    CHECK(fb_field_name_is_valid("X-Custom_1!#$%&'*+.^`|~", 23));
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        bool is_alphanumeric =
            (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool is_other = c != 0 && c < 128 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
        CHECK(fb_field_name_is_valid(&byte, 1) == (is_alphanumeric || is_other));
        CHECK(fb_token_has(byte) == (is_alphanumeric || is_other));
    }
    CHECK(!fb_field_name_is_valid("A\r\nB", 4));
    CHECK(!fb_field_name_is_valid("A:", 2));
}

static void
test_field_values(void)
{
    CHECK(fb_field_value_is_valid("", 0));
    for (int c = 0; c < 256; c++) {
        char bytes[3] = {'a', (char)c, 'b'};
        bool is_control = (c < 32 && c != '\t') || c == 127;
        CHECK(fb_field_value_is_valid(bytes, 3) == !is_control);
        for (size_t at = 0; at < 19; at++) { /* eight bytes are looked at together */
            char many[20] = "0123456789abcdefghi";
            many[at] = (char)c;
            CHECK(fb_field_value_is_valid(many, 19) == !is_control);
        }
    }
    CHECK(!fb_field_value_is_valid("a\r\nSet-Cookie: b", 16)); /* response splitting */
}

int
main(void)
{
    RUN(test_dates);
    RUN(test_date_is_made_once_a_second);
    RUN(test_head_of_an_ordinary_reply);
    RUN(test_fields_of_the_handler_replace_ours);
    RUN(test_connection_field);
    RUN(test_status_without_a_reason_keeps_the_space);
    RUN(test_reason_of_the_application_is_sent_as_it_is);
    RUN(test_longest_reason_fits_its_room);
    RUN(test_lengths_of_every_size);
    RUN(test_longest_head_fits_its_room);
    RUN(test_plain_replies);
    RUN(test_plain_reply_of_every_status_has_its_length);
    RUN(test_continue_and_chunks);
    RUN(test_without_memory_nothing_is_written);
    RUN(test_status_reasons);
    RUN(test_reasons_are_text);
    RUN(test_statuses_without_a_body);
    RUN(test_field_names);
    RUN(test_field_values);
    return check_report("test_reply");
}
