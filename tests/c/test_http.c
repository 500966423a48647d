/* SPDX-License-Identifier: MIT */
/*
 * Bytes in, requests out: every file of tests/wire, fed in every way; every limit at
 * n - 1, n and n + 1; what a connection asks core between two reads.
 */
#include "check.h"
#include "feeder.h"
#include "wire.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_INPUT (4 << 20) /* bytes: what the longest test feeds at once */
#define SPLIT_MOST 1024      /* bytes: of longer files not every split is tried */

static const char following[] = "GET /following HTTP/1.1\r\nHost: following\r\n\r\n";
static const char following_expect[] = "request GET HTTP/1.1 keep-alive\n"
                                       "target /following\n"
                                       "path /following\n"
                                       "header Host: following\n";

static test_feeder *feeder; /* one for all tests: mapping its room is slow */

/* ---- every file of tests/wire ---------------------------------------------------- */

static void
feed_whole(const wire_file *file)
{
    feeder_reset(feeder);
    feeder_give(feeder, file->bytes, file->len);
    CHECK_TEXT(feeder->shown.data, feeder->shown.len, file->expect);
    CHECK(feeder->is_over || feeder->http.phase == FB_PHASE_START);
}

static void
feed_by_byte(const wire_file *file)
{
    for (int compacts = 0; compacts <= 1; compacts++) {
        feeder->compacts = compacts != 0;
        feeder_reset(feeder);
        feeder_give_by(feeder, file->bytes, file->len, 1);
        CHECK_TEXT(feeder->shown.data, feeder->shown.len, file->expect);
    }
    feeder->compacts = false;
}

static void
feed_in_two_pieces(const wire_file *file)
{
    for (size_t at = 0; at <= file->len && at <= SPLIT_MOST; at++) {
        feeder->compacts = at % 2 == 0;
        feeder_reset(feeder);
        feeder_give(feeder, file->bytes, at);
        feeder_give(feeder, file->bytes + at, file->len - at);
        CHECK_TEXT(feeder->shown.data, feeder->shown.len, file->expect);
    }
    feeder->compacts = false;
}

static char *
joined(const char *one, size_t one_len, const char *two, size_t two_len)
{
    char *both = malloc(one_len + two_len + 1);
    assert(both != NULL);
    memcpy(both, one, one_len);
    memcpy(both + one_len, two, two_len);
    both[one_len + two_len] = '\0';
    return both;
}

/* Behind a good request the next one comes out; behind a bad one, or one that ends the
 * connection, nothing does. */
static void
feed_with_trailing_data(const wire_file *file)
{
    feeder_reset(feeder);
    feeder_give(feeder, file->bytes, file->len);
    const char *more = feeder->is_over ? "" : following_expect;
    char *expect = joined(file->expect, strlen(file->expect), more, strlen(more));
    char *bytes = joined(file->bytes, file->len, following, strlen(following));
    size_t len = file->len + strlen(following);
    for (size_t step = 1; step <= len; step += step < 8 ? 1 : len) {
        feeder_reset(feeder);
        feeder_give_by(feeder, bytes, len, step);
        CHECK_TEXT(feeder->shown.data, feeder->shown.len, expect);
    }
    feeder_reset(feeder);
    feeder_give(feeder, bytes, len);
    CHECK_TEXT(feeder->shown.data, feeder->shown.len, expect);
    free(bytes);
    free(expect);
}

static void
run_wire_files(const wire_files *wire)
{
    static const struct {
        const char *name;
        void (*feed)(const wire_file *file);
    } ways[] = {
        {"whole", feed_whole},
        {"by byte", feed_by_byte},
        {"in two pieces", feed_in_two_pieces},
        {"with trailing data", feed_with_trailing_data},
    };
    for (size_t i = 0; i < wire->n_files; i++) {
        for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
            char name[160];
            snprintf(name, sizeof(name), "%s, %s", wire->files[i].name, ways[way].name);
            ways[way].feed(&wire->files[i]);
            check_count(name);
        }
    }
}

/* ---- limits, each in three splits ------------------------------------------------ */

/* A request under construction. */
typedef struct draft {
    char bytes[256 * 1024];
    size_t len;
} draft;

static draft made;

static void
begin(const char *text)
{
    made.len = strlen(text);
    memcpy(made.bytes, text, made.len);
}

static void
add(const char *text)
{
    assert(made.len + strlen(text) <= sizeof(made.bytes));
    memcpy(made.bytes + made.len, text, strlen(text));
    made.len += strlen(text);
}

static void
add_times(char byte, size_t n)
{
    assert(made.len + n <= sizeof(made.bytes));
    memset(made.bytes + made.len, byte, n);
    made.len += n;
}

/* Feed the draft in several splits: each time the status must be this one, 0 for one
 * request that is accepted. Behind it another request, which only then comes out. */
static void
check_verdict(const char *file, int line, int status)
{
    add(following);
    const size_t steps[] = {made.len, 1, 7, 1000};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        feeder_reset(feeder);
        feeder->compacts = steps[i] < 7;
        feeder_give_by(feeder, made.bytes, made.len, steps[i]);
        feeder->compacts = false;
        size_t n_requests = status == 0 ? 2 : 0;
        if (feeder->http.status != status || feeder->n_requests != n_requests) {
            check_complaints++;
            printf("%s:%d: fed by %zu: %zu requests, status %d, not %d\n", file, line,
                   steps[i], feeder->n_requests, feeder->http.status, status);
        }
    }
}

#define CHECK_VERDICT(status) check_verdict(__FILE__, __LINE__, status)

static void
test_target_one_byte_over_limit_gets_414(void)
{
    feeder->limits.max_target = 300;
    for (size_t len = 299; len <= 301; len++) {
        begin("GET /");
        add_times('a', len - 1);
        add(" HTTP/1.1\r\nHost: a\r\n\r\n");
        CHECK_VERDICT(len <= 300 ? 0 : 414);
    }
    feeder->limits.max_target = FB_MAX_TARGET;
}

static void
test_default_target_limit(void)
{
    for (size_t len = FB_MAX_TARGET; len <= FB_MAX_TARGET + 1; len++) {
        begin("GET /?");
        add_times('a', len - 2);
        add(" HTTP/1.1\r\nHost: a\r\n\r\n");
        CHECK_VERDICT(len <= FB_MAX_TARGET ? 0 : 414);
    }
}

static void
test_long_target_without_end_gets_414(void)
{
    begin("GET /");
    add_times('a', FB_MAX_TARGET);
    CHECK_VERDICT(414);
}

static void
add_fields(size_t n, const char *field)
{
    for (size_t i = 0; i < n; i++) {
        add(field);
    }
}

static void
test_one_field_over_limit_gets_431(void)
{
    const size_t limits[] = {1, 2, FB_MAX_HEADERS, FB_HEADERS_BOUND};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        feeder->limits.max_headers = limits[i];
        for (size_t n = limits[i] > 1 ? limits[i] - 1 : 1; n <= limits[i] + 1; n++) {
            begin("GET / HTTP/1.1\r\n");
            add_fields(n - 1, "A: b\r\n");
            add("Host: a\r\n\r\n");
            feeder->limits.max_headers = limits[i];
            CHECK_VERDICT(n <= limits[i] ? 0 : 431);
        }
    }
    feeder->limits.max_headers = FB_MAX_HEADERS;
}

static void
test_dropped_fields_count_too(void)
{
    begin("GET / HTTP/1.1\r\nHost: a\r\n");
    add_fields(FB_MAX_HEADERS, "A_B: c\r\n");
    add("\r\n");
    CHECK_VERDICT(431);
}

static void
test_trailers_do_not_count_as_fields(void)
{
    begin("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    add_fields(FB_MAX_HEADERS + 1, "A: b\r\n");
    add("\r\n");
    CHECK_VERDICT(0);
}

/* The head ends with its empty line; what is counted begins with the method. */
static void
test_head_one_byte_over_limit_gets_431(void)
{
    const size_t limits[] = {64, FB_MAX_HEAD};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        feeder->limits.max_head = limits[i];
        for (size_t len = limits[i] - 1; len <= limits[i] + 1; len++) {
            begin("\r\n\r\n"); /* no part of it */
            add("GET / HTTP/1.1\r\nHost: a\r\nB: ");
            add_times('b', len - (made.len - 4) - 4);
            add("\r\n\r\n");
            assert(made.len - 4 == len);
            CHECK_VERDICT(len <= limits[i] ? 0 : 431);
        }
    }
    feeder->limits.max_head = FB_MAX_HEAD;
}

static void
test_head_limit_holds_for_a_name_a_value_and_many_fields(void)
{
    begin("GET / HTTP/1.1\r\nHost: a\r\n");
    add_times('a', FB_MAX_HEAD);
    CHECK_VERDICT(431);
    begin("GET / HTTP/1.1\r\nHost: a\r\nA: ");
    add_times(' ', FB_MAX_HEAD);
    CHECK_VERDICT(431);
    feeder->limits.max_head = 200;
    begin("GET / HTTP/1.1\r\nHost: a\r\n");
    add_fields(40, "A: b\r\n");
    CHECK_VERDICT(431);
    feeder->limits.max_head = FB_MAX_HEAD;
}

static void
test_head_limit_does_not_count_the_body(void)
{
    feeder->limits.max_head = 64;
    begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    add_times('a', 1000);
    CHECK_VERDICT(0);
    feeder->limits.max_head = FB_MAX_HEAD;
}

static void
test_body_one_byte_over_limit_gets_413(void)
{
    feeder->limits.max_body = 1000;
    for (size_t len = 999; len <= 1001; len++) {
        char line[64];
        snprintf(line, sizeof(line), "Content-Length: %zu\r\n\r\n", len);
        begin("POST / HTTP/1.1\r\nHost: a\r\n");
        add(line);
        add_times('a', len);
        CHECK_VERDICT(len <= 1000 ? 0 : 413);
    }
    feeder->limits.max_body = FB_MAX_BODY;
}

static void
add_chunk(size_t len)
{
    char line[32];
    snprintf(line, sizeof(line), "%zx\r\n", len);
    add(line);
    add_times('c', len);
    add("\r\n");
}

static const char chunked_head[] =
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

static void
test_chunked_body_one_byte_over_limit_gets_413(void)
{
    feeder->limits.max_body = 1000;
    for (size_t len = 999; len <= 1001; len++) {
        begin(chunked_head);
        add_chunk(len);
        add("0\r\n\r\n");
        CHECK_VERDICT(len <= 1000 ? 0 : 413);
        begin(chunked_head);
        add_chunk(400);
        add_chunk(len - 401);
        add_chunk(1);
        add("0\r\n\r\n");
        CHECK_VERDICT(len <= 1000 ? 0 : 413);
    }
    feeder->limits.max_body = FB_MAX_BODY;
}

static void
test_no_body_is_allowed_when_the_limit_is_zero(void)
{
    feeder->limits.max_body = 0;
    begin("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    CHECK_VERDICT(0);
    begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    CHECK_VERDICT(0);
    begin(chunked_head);
    add("0\r\n\r\n");
    CHECK_VERDICT(0);
    begin("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na");
    CHECK_VERDICT(413);
    begin(chunked_head);
    add_chunk(1);
    CHECK_VERDICT(413);
    feeder->limits.max_body = FB_MAX_BODY;
}

/* Framing is counted from the empty line of the head to the first byte of data, from
 * one chunk's data to the next, and from the last to the end; the byte that makes it
 * FB_CHUNK_FRAMING is refused unless the message ends with it. */
static void
test_chunk_framing_at_its_limit(void)
{
    for (size_t len = FB_CHUNK_FRAMING - 2; len <= FB_CHUNK_FRAMING + 1; len++) {
        begin(chunked_head);
        add("1;");
        add_times('x', len - 4);
        add("\r\na\r\n0\r\n\r\n");
        CHECK_VERDICT(len < FB_CHUNK_FRAMING ? 0 : 400);
        begin(chunked_head);
        add("1\r\na\r\n1;");
        add_times('x', len - 6);
        add("\r\nb\r\n0\r\n\r\n");
        CHECK_VERDICT(len < FB_CHUNK_FRAMING ? 0 : 400);
        begin(chunked_head);
        add("1\r\na\r\n0\r\nA: ");
        add_times('x', len - strlen("\r\n0\r\nA: \r\n\r\n"));
        add("\r\n\r\n");
        CHECK_VERDICT(len <= FB_CHUNK_FRAMING ? 0 : 400);
    }
}

static void
test_chunk_framing_is_counted_anew_behind_data(void)
{
    begin(chunked_head);
    for (int i = 0; i < 20; i++) {
        add("1;");
        add_times('x', FB_CHUNK_FRAMING - 20);
        add("\r\na\r\n");
    }
    add("0\r\n\r\n");
    CHECK_VERDICT(0);
}

static void
test_method_is_unknown_at_its_last_byte(void)
{
    for (size_t len = FB_METHOD_BYTES - 1; len <= FB_METHOD_BYTES + 1; len++) {
        begin("");
        add_times('A', len);
        add(" / HTTP/1.1\r\nHost: a\r\n\r\n");
        CHECK_VERDICT(501);
        begin("");
        add_times('A', len);
        add("\x01 / HTTP/1.1\r\n\r\n");
        CHECK_VERDICT(len < FB_METHOD_BYTES ? 400 : 501);
    }
}

static void
test_of_two_faults_the_first_counts(void)
{
    feeder->limits.max_target = 20;
    begin("GET /");
    add_times('a', 18);
    add("\x01");
    CHECK_VERDICT(400);
    begin("GET /");
    add_times('a', 20);
    add("\x01");
    CHECK_VERDICT(414);
    feeder->limits.max_target = FB_MAX_TARGET;
    feeder->limits.max_headers = 1;
    begin("GET / HTTP/1.1\r\nHost: a\r\nA : b");
    CHECK_VERDICT(400);
    begin("GET / HTTP/1.1\r\nHost: a\r\nA: \x01");
    CHECK_VERDICT(431);
    feeder->limits.max_headers = FB_MAX_HEADERS;
}

/* ---- pipelines ------------------------------------------------------------------- */

#define N_PIPELINED 10000

/* Ten thousand requests, and what must come out. */
static char *
make_pipeline(char **expect)
{
    size_t room = N_PIPELINED * 128;
    char *bytes = malloc(room);
    *expect = malloc(room);
    assert(bytes != NULL && *expect != NULL);
    char *at = bytes;
    char *at_expect = *expect;
    for (int i = 0; i < N_PIPELINED; i++) {
        at += sprintf(at, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i);
        at_expect += sprintf(at_expect,
                             "request GET HTTP/1.1 keep-alive\ntarget /%d\npath /%d\n"
                             "header Host: a\n",
                             i, i);
    }
    return bytes;
}

static void
test_ten_thousand_pipelined_requests_come_out_in_order(void)
{
    char *expect;
    char *bytes = make_pipeline(&expect);
    size_t len = strlen(bytes);
    const size_t batch_sizes[] = {FB_BATCH_SLOTS, 1, 7};
    for (size_t i = 0; i < sizeof(batch_sizes) / sizeof(batch_sizes[0]); i++) {
        feeder->limits.batch_size = batch_sizes[i];
        feeder_reset(feeder);
        feeder_give(feeder, bytes, len);
        CHECK_SIZE(feeder->n_requests, N_PIPELINED);
        CHECK_TEXT(feeder->shown.data, feeder->shown.len, expect);
    }
    feeder->limits.batch_size = FB_BATCH_SLOTS;
    feeder->compacts = true;
    const size_t steps[] = {1, 13, 4096};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        feeder_reset(feeder);
        feeder_give_by(feeder, bytes, len, steps[i]);
        CHECK_TEXT(feeder->shown.data, feeder->shown.len, expect);
    }
    feeder->compacts = false;
    free(bytes);
    free(expect);
}

/* ---- what a connection asks between two reads ------------------------------------ */

/* A connection's input, without the feeder: the calls one by one. */
static fb_heap heap;
static fb_http http;
static fb_buf in;

static void
open_input(void)
{
    fb_http_init(&http, &feeder->limits);
    fb_buf_init(&in, &heap);
}

static fb_feed
feed(const char *text)
{
    CHECK(fb_buf_append(&in, text, strlen(text)));
    return fb_http_feed(&http, &in);
}

static void
test_no_bytes_are_no_request(void)
{
    open_input();
    CHECK(fb_http_feed(&http, &in) == FB_FEED_MORE);
    CHECK(http.phase == FB_PHASE_START);
    CHECK(feed("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == FB_FEED_REQUEST);
    CHECK(fb_http_feed(&http, &in) == FB_FEED_MORE);
    CHECK(http.phase == FB_PHASE_START);
    CHECK_SIZE(http.parsed, in.len);
    fb_buf_fini(&in);
}

static void
test_phase_tells_idle_from_begun(void)
{
    open_input();
    CHECK(feed("\r\n\r\n\r") == FB_FEED_MORE && http.phase == FB_PHASE_START);
    CHECK(feed("\n") == FB_FEED_MORE && http.phase == FB_PHASE_START);
    CHECK(feed("G") == FB_FEED_MORE && http.phase == FB_PHASE_HEAD);
    CHECK(feed("ET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r") == FB_FEED_MORE);
    CHECK(http.phase == FB_PHASE_HEAD);
    CHECK(feed("\n") == FB_FEED_MORE && http.phase == FB_PHASE_BODY);
    CHECK(feed("a") == FB_FEED_REQUEST && http.phase == FB_PHASE_COMPLETE);
    CHECK(feed("BR") == FB_FEED_MORE && http.phase == FB_PHASE_METHOD);
    CHECK(feed("EW") == FB_FEED_MORE && http.phase == FB_PHASE_METHOD);
    CHECK(feed(" ") == FB_FEED_REJECT && http.status == 501);
    fb_buf_fini(&in);
}

static void
test_continue_is_wanted_until_the_body_begins(void)
{
    open_input();
    CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nC") ==
              FB_FEED_MORE &&
          !http.wants_continue); /* the rest of the head may refuse it */
    CHECK(feed("ontent-Length: 2\r\n\r\n") == FB_FEED_MORE && http.wants_continue);
    CHECK(feed("a") == FB_FEED_MORE && !http.wants_continue);
    CHECK(feed("b") == FB_FEED_REQUEST && !http.wants_continue);
    CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
               "Transfer-Encoding: chunked\r\n\r\n") == FB_FEED_MORE);
    CHECK(http.wants_continue);
    CHECK(feed("1\r\na\r\n0\r\n\r\n") == FB_FEED_REQUEST && !http.wants_continue);
    CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\n") == FB_FEED_MORE);
    CHECK(feed("Content-Length: 2\r\n\r\n") == FB_FEED_MORE && !http.wants_continue);
    fb_buf_fini(&in);
}

static void
test_continue_is_not_wanted_without_a_body_or_on_http_1_0(void)
{
    open_input();
    CHECK(feed("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n") ==
          FB_FEED_MORE);
    CHECK(feed("Content-Length: 0\r\n\r\n") == FB_FEED_REQUEST && !http.wants_continue);
    CHECK(feed("POST / HTTP/1.0\r\nExpect: 100-continue\r\n") == FB_FEED_MORE);
    CHECK(feed("Content-Length: 2\r\n\r\n") == FB_FEED_MORE && !http.wants_continue);
    fb_buf_fini(&in);
}

static void
test_missing_bytes_of_a_body_are_known(void)
{
    open_input();
    CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\n") == FB_FEED_MORE);
    CHECK_SIZE(fb_http_body_missing(&http), 0);
    CHECK(feed("Content-Length: 5\r\n\r\n") == FB_FEED_MORE);
    CHECK_SIZE(fb_http_body_missing(&http), 5);
    CHECK(feed("he") == FB_FEED_MORE);
    CHECK_SIZE(fb_http_body_missing(&http), 3);
    CHECK(feed("llo") == FB_FEED_REQUEST);
    CHECK_SIZE(fb_http_body_missing(&http), 0);
    CHECK(feed(chunked_head) == FB_FEED_MORE);
    CHECK_SIZE(fb_http_body_missing(&http), 0);
    CHECK(feed("5\r\nhe") == FB_FEED_MORE);
    CHECK_SIZE(fb_http_body_missing(&http), 0);
    fb_buf_fini(&in);
}

static void
test_compacting_drops_what_is_before_the_message_in_hand(void)
{
    open_input();
    CHECK(feed("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HT") == FB_FEED_REQUEST);
    fb_http_compact(&http,
                    &in); /* answered: the bytes behind it are still to be parsed */
    CHECK_TEXT(in.data, in.len, "GET /b HT");
    CHECK_SIZE(http.parsed, 0);
    CHECK(fb_http_feed(&http, &in) == FB_FEED_MORE);
    fb_http_compact(&http, &in); /* nothing is before it */
    CHECK_TEXT(in.data, in.len, "GET /b HT");
    CHECK_SIZE(http.parsed, in.len);
    CHECK(feed("TP/1.1\r\nHost: a\r\n\r\n") == FB_FEED_REQUEST);
    CHECK_SIZE(http.req.start, 0);
    CHECK_TEXT(in.data + http.req.path.off, http.req.path.len, "/b");
    fb_http_compact(&http, &in);
    CHECK_SIZE(in.len, 0);
    CHECK(feed("\r\n\r\n") == FB_FEED_MORE);
    fb_http_compact(&http, &in);
    CHECK_SIZE(in.len, 0); /* empty lines are not kept */
    CHECK(feed("\r\n\r") == FB_FEED_MORE && http.phase == FB_PHASE_START);
    fb_http_compact(&http, &in);
    CHECK_TEXT(in.data, in.len,
               "\r"); /* but half of one is: the parser may not forget */
    CHECK(feed("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == FB_FEED_REQUEST);
    CHECK_SIZE(http.req.start, 2);
    fb_buf_fini(&in);
}

static void
test_compacting_in_a_body_keeps_the_message(void)
{
    open_input();
    CHECK(feed("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == FB_FEED_REQUEST);
    CHECK(feed(chunked_head) == FB_FEED_MORE);
    CHECK(feed("5\r\nhel") == FB_FEED_MORE);
    fb_http_compact(&http, &in);
    CHECK_SIZE(http.req.start, 0);
    CHECK(feed("lo\r\n1\r\n!\r\n0\r\n\r\n") == FB_FEED_REQUEST);
    CHECK_TEXT(in.data + http.req.body.off, http.req.body.len, "hello!");
    fb_buf_fini(&in);
}

/* It is the message in hand for as long as it waits, whatever comes meanwhile. */
static void
test_held_request_is_kept_until_it_is_taken(void)
{
    static const char held[] =
        "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    open_input();
    CHECK(feed("GET /a HTTP/1.1\r\nHost: a\r\n\r\n") == FB_FEED_REQUEST);
    CHECK(feed(held) == FB_FEED_REQUEST);
    CHECK(http.req.start > 0);
    fb_http_hold(&http);
    CHECK(http.phase == FB_PHASE_HELD);
    CHECK_SIZE(fb_http_body_missing(&http), 0);
    CHECK(!fb_http_has_empty_lines(&http));
    for (int i = 0; i < 2; i++) {
        fb_http_compact(&http, &in);
        CHECK_TEXT(in.data, in.len, held);
        CHECK_SIZE(http.req.start, 0);
        CHECK_SIZE(http.parsed, in.len);
    }
    CHECK(fb_buf_append(&in, "GET /c HTTP/1.1\r\nHost: a\r\n\r\n", 29));
    fb_http_compact(&http, &in);
    CHECK_SIZE(in.len, sizeof(held) - 1 + 29);
    CHECK_TEXT(in.data + http.req.path.off, http.req.path.len, "/b");
    CHECK_TEXT(in.data + http.req.body.off, http.req.body.len, "body");
    fb_http_take_held(&http);
    fb_http_compact(&http, &in); /* it is answered */
    CHECK(fb_http_feed(&http, &in) == FB_FEED_REQUEST);
    CHECK_TEXT(in.data + http.req.path.off, http.req.path.len, "/c");
    fb_buf_fini(&in);
}

/* Between two reads the input is the head and the data so far, whatever the framing. */
static void
test_chunk_framing_does_not_stay_in_the_input(void)
{
    open_input();
    CHECK(feed(chunked_head) == FB_FEED_MORE);
    for (size_t n = 1; n <= 1000; n++) {
        CHECK(feed("1;a-long-extension-that-is-of-no-use\r\nx\r\n") == FB_FEED_MORE);
        CHECK_SIZE(in.len, strlen(chunked_head) +
                               strlen("1;a-long-extension-that-is-of-"
                                      "no-use\r\n") +
                               n);
        CHECK_SIZE(http.parsed, in.len);
    }
    CHECK(feed("0\r\n\r\nGET /next") == FB_FEED_REQUEST);
    CHECK_SIZE(http.req.body.len, 1000);
    for (size_t i = 0; i < http.req.body.len; i++) {
        CHECK(in.data[http.req.body.off + i] == 'x');
    }
    CHECK_TEXT(in.data + http.parsed, in.len - http.parsed, "GET /next");
    fb_buf_fini(&in);
}

/* Two requests of one read are in the same batch: the second body moves, the first not.
 * */
static void
test_closing_up_a_body_leaves_the_request_before_alone(void)
{
    open_input();
    static fb_request first;
    CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
               "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
               "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
               "2\r\nef\r\n2\r\ngh\r\n0\r\n\r\n") == FB_FEED_REQUEST);
    fb_request_copy(&first, &http.req);
    CHECK(fb_http_feed(&http, &in) == FB_FEED_REQUEST);
    CHECK_TEXT(in.data + first.start + first.body.off, first.body.len, "abcd");
    CHECK_TEXT(in.data + http.req.start + http.req.body.off, http.req.body.len, "efgh");
    fb_span host = http.req.headers[0].value;
    CHECK_TEXT(in.data + http.req.start + host.off, host.len, "b");
    fb_buf_fini(&in);
}

/* What one of llhttp's flags lets through. */
typedef struct leniency {
    llhttp_lenient_flags_t flag;
    const char *bytes;
} leniency;

#define HEAD_BEGIN "POST / HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED HEAD_BEGIN "Transfer-Encoding: chunked\r\n\r\n"

static const leniency leniencies[] = {
    {LENIENT_HEADERS, HEAD_BEGIN "A: b\x01\r\n\r\n"},
    {LENIENT_CHUNKED_LENGTH, HEAD_BEGIN "Content-Length: 1\r\n"
                                        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {LENIENT_KEEP_ALIVE, HEAD_BEGIN "Connection: close\r\n\r\nGET /"},
    {LENIENT_TRANSFER_ENCODING, HEAD_BEGIN "Transfer-Encoding: chunked, gzip\r\n\r\n"},
    {LENIENT_VERSION, "GET / HTTP/9.9\r\nHost: a\r\n\r\n"},
    {LENIENT_DATA_AFTER_CLOSE, HEAD_BEGIN "Connection: close\r\n\r\nGET /"},
    {LENIENT_OPTIONAL_LF_AFTER_CR, "GET / HTTP/1.1\rHost: a\r\n\r\n"},
    {LENIENT_OPTIONAL_CRLF_AFTER_CHUNK, CHUNKED "1\r\na0\r\n\r\n"},
    {LENIENT_OPTIONAL_CR_BEFORE_LF, HEAD_BEGIN "A: b\nC: d\r\n\r\n"},
    {LENIENT_SPACES_AFTER_CHUNK_SIZE, CHUNKED "1 \r\na\r\n0\r\n\r\n"},
    {LENIENT_HEADER_VALUE_RELAXED, HEAD_BEGIN "A: b\x01\r\n\r\n"},
};

static llhttp_errno_t
run_llhttp(const leniency *it, unsigned flags)
{
    static const llhttp_settings_t settings; /* no callbacks */
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.lenient_flags = (uint16_t)flags;
    return llhttp_execute(&parser, it->bytes, strlen(it->bytes));
}

/* Each flag lets through what is refused here; and a flag that is not in the list, of an
 * llhttp to come, is off as well. */
static void
test_every_lenient_flag_of_llhttp_is_off(void)
{
    unsigned known = 0;
    for (size_t i = 0; i < sizeof(leniencies) / sizeof(leniencies[0]); i++) {
        const leniency *it = &leniencies[i];
        known |= it->flag;
        CHECK(run_llhttp(it, it->flag) == HPE_OK);
        CHECK(run_llhttp(it, 0) != HPE_OK);
        feeder_reset(feeder);
        CHECK_SIZE(feeder->http.parser.lenient_flags, 0);
        feeder_give(feeder, it->bytes, strlen(it->bytes));
        CHECK(feeder->is_over);
        bool is_behind_close =
            it->flag == LENIENT_KEEP_ALIVE || it->flag == LENIENT_DATA_AFTER_CLOSE;
        CHECK_SIZE(feeder->n_requests, is_behind_close ? 1 : 0);
        CHECK(is_behind_close || feeder->http.status >= 400);
        CHECK_SIZE(feeder->http.parser.lenient_flags, 0);
    }
    CHECK_SIZE(known, 2 * LENIENT_HEADER_VALUE_RELAXED - 1);
}

static void
test_a_rejection_has_a_reason(void)
{
    open_input();
    CHECK(feed("GET / HTTP/1.1\r\n\r\n") == FB_FEED_REJECT);
    CHECK(http.status == 400 && strcmp(http.reason, "no Host") == 0);
    fb_buf_fini(&in);
}

static void
test_feeding_takes_no_memory(void)
{
    open_input();
    CHECK(fb_buf_reserve(&in, 4096));
    uint64_t taken = heap.n_taken;
    for (int i = 0; i < 1000; i++) {
        CHECK(feed("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n") == FB_FEED_REQUEST);
        fb_http_compact(&http, &in);
    }
    CHECK(heap.n_taken == taken);
    fb_buf_fini(&in);
    CHECK_SIZE(heap.n_held, 0);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s tests/wire\n", argv[0]);
        return 2;
    }
    feeder = feeder_new(MOST_INPUT);
    wire_files wire = wire_read(argv[1]);
    run_wire_files(&wire);
    wire_free(&wire);
    RUN(test_target_one_byte_over_limit_gets_414);
    RUN(test_default_target_limit);
    RUN(test_long_target_without_end_gets_414);
    RUN(test_one_field_over_limit_gets_431);
    RUN(test_dropped_fields_count_too);
    RUN(test_trailers_do_not_count_as_fields);
    RUN(test_head_one_byte_over_limit_gets_431);
    RUN(test_head_limit_holds_for_a_name_a_value_and_many_fields);
    RUN(test_head_limit_does_not_count_the_body);
    RUN(test_body_one_byte_over_limit_gets_413);
    RUN(test_chunked_body_one_byte_over_limit_gets_413);
    RUN(test_no_body_is_allowed_when_the_limit_is_zero);
    RUN(test_chunk_framing_at_its_limit);
    RUN(test_chunk_framing_is_counted_anew_behind_data);
    RUN(test_method_is_unknown_at_its_last_byte);
    RUN(test_of_two_faults_the_first_counts);
    RUN(test_ten_thousand_pipelined_requests_come_out_in_order);
    RUN(test_no_bytes_are_no_request);
    RUN(test_phase_tells_idle_from_begun);
    RUN(test_continue_is_wanted_until_the_body_begins);
    RUN(test_continue_is_not_wanted_without_a_body_or_on_http_1_0);
    RUN(test_missing_bytes_of_a_body_are_known);
    RUN(test_compacting_drops_what_is_before_the_message_in_hand);
    RUN(test_compacting_in_a_body_keeps_the_message);
    RUN(test_held_request_is_kept_until_it_is_taken);
    RUN(test_chunk_framing_does_not_stay_in_the_input);
    RUN(test_closing_up_a_body_leaves_the_request_before_alone);
    RUN(test_every_lenient_flag_of_llhttp_is_off);
    RUN(test_a_rejection_has_a_reason);
    RUN(test_feeding_takes_no_memory);
    feeder_free(feeder);
    return check_report("test_http");
}
