/* SPDX-License-Identifier: MIT */
/*
 * What a connection has to send: everything, once, in order, however the socket takes
 * it; and every body released exactly once.
 */
#include "check.h"
#include "core/limits.h"
#include "core/out.h"
#include "fault.h"

#include <assert.h>

#define MOST_RUNS 8

/* A body of the tests' own. A stream gives its pieces one by one, NULL being one of no
 * bytes, and ends as it is told. */
typedef struct source {
    const char *pieces[6];
    size_t n_pieces;
    size_t next;
    fb_pull last; /* said with the last piece */
    size_t n_released;
    size_t n_pulled;
} source;

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    source *from = owner;
    assert(from->n_released == 0);
    from->n_pulled++;
    if (from->next == from->n_pieces) {
        return from->last;
    }
    const char *piece = from->pieces[from->next++];
    if (piece != NULL && !fb_buf_append(into, piece, strlen(piece))) {
        return FB_PULL_FAIL;
    }
    return from->next == from->n_pieces ? from->last : FB_PULL_MORE;
}

static void
on_release(void *owner)
{
    source *from = owner;
    from->n_released++;
}

static const fb_body_ops ops = {.pull = on_pull, .release = on_release};

static fb_heap heap;
static fb_out out;
static char sent[1024];
static size_t n_sent;

static void
open_out(void)
{
    fb_out_init(&out, &heap);
    n_sent = 0;
}

static void
close_out(void)
{
    fb_out_fini(&out);
    CHECK_SIZE(heap.n_held, 0);
}

static void
add_bytes(const char *text)
{
    CHECK(fb_buf_append(&out.bytes, text, strlen(text)));
}

static void
add_data(source *from, const char *data)
{
    *from = (source){.n_pieces = 0};
    CHECK(fb_out_add_body(&out, (fb_body){&ops, from, data, strlen(data)}));
}

static void
add_stream(source *from)
{
    CHECK(fb_out_add_body(&out, (fb_body){&ops, from, NULL, 0}));
}

/* A socket that takes at most step bytes at a time, and is asked until there is
 * nothing. */
static void
send_all(size_t step, size_t most_runs)
{
    fb_run runs[MOST_RUNS];
    while (!fb_out_is_empty(&out)) {
        size_t n = fb_out_gather(&out, runs, most_runs);
        size_t taken = 0;
        assert(n <= most_runs);
        for (size_t i = 0; i < n && taken < step; i++) {
            size_t len = runs[i].len < step - taken ? runs[i].len : step - taken;
            CHECK(runs[i].len > 0);
            assert(n_sent + len <= sizeof(sent));
            memcpy(sent + n_sent, runs[i].data, len);
            n_sent += len;
            taken += len;
        }
        fb_out_advance(&out, taken);
        if (n == 0) {
            break;
        }
    }
}

static const size_t steps[] = {1, 2, 3, 5, 7, 11, 64, 1000};
#define N_STEPS (sizeof(steps) / sizeof(steps[0]))

static void
test_nothing_to_send(void)
{
    open_out();
    fb_run runs[2];
    CHECK(fb_out_is_empty(&out));
    CHECK_SIZE(fb_out_gather(&out, runs, 2), 0);
    fb_out_advance(&out, 0);
    CHECK(fb_out_is_empty(&out));
    CHECK_SIZE(heap.n_taken, 0);
    close_out();
}

static void
test_bytes_alone(void)
{
    for (size_t i = 0; i < N_STEPS; i++) {
        open_out();
        add_bytes("hello, ");
        add_bytes("world");
        send_all(steps[i], 2);
        CHECK_TEXT(sent, n_sent, "hello, world");
        close_out();
    }
}

static void
test_bytes_and_bodies_keep_their_order(void)
{
    for (size_t i = 0; i < N_STEPS * (MOST_RUNS - 1); i++) {
        source bodies[4];
        open_out();
        add_data(&bodies[0], "first "); /* before any byte */
        add_bytes("head ");
        add_data(&bodies[1], "body ");
        add_data(&bodies[2], "next "); /* two in a row */
        add_bytes("tail ");
        add_data(&bodies[3], "last");
        send_all(steps[i % N_STEPS], 2 + i / N_STEPS);
        CHECK_TEXT(sent, n_sent, "first head body next tail last");
        for (size_t j = 0; j < 4; j++) {
            CHECK_SIZE(bodies[j].n_released, 1);
        }
        close_out();
        for (size_t j = 0; j < 4; j++) {
            CHECK_SIZE(bodies[j].n_released, 1);
        }
    }
}

static void
test_streams_are_pulled_in_their_turn(void)
{
    for (size_t i = 0; i < N_STEPS * (MOST_RUNS - 1); i++) {
        source one = {{"a1 ", "a2 ", "a3 "}, 3, 0, FB_PULL_END, 0, 0};
        source two = {{"b1 "}, 1, 0, FB_PULL_END, 0, 0};
        source data;
        open_out();
        add_bytes("head ");
        add_stream(&one);
        add_bytes("middle ");
        add_data(&data, "data ");
        add_stream(&two);
        add_bytes("end");
        send_all(steps[i % N_STEPS], 2 + i / N_STEPS);
        CHECK_TEXT(sent, n_sent, "head a1 a2 a3 middle data b1 end");
        CHECK_SIZE(one.n_pulled, 3);
        CHECK_SIZE(two.n_pulled, 1);
        CHECK(one.n_released == 1 && two.n_released == 1 && data.n_released == 1);
        close_out();
    }
}

static void
test_stream_is_not_pulled_before_its_turn(void)
{
    fb_run runs[MOST_RUNS];
    source one = {{"a"}, 1, 0, FB_PULL_END, 0, 0};
    open_out();
    add_bytes("head");
    add_stream(&one);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
    fb_out_advance(&out, 3);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
    CHECK_SIZE(one.n_pulled, 0);
    fb_out_advance(&out, 1);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
    CHECK_SIZE(one.n_pulled, 1);
    CHECK(!fb_out_is_empty(&out));
    fb_out_advance(&out, 1);
    CHECK(fb_out_is_empty(&out));
    close_out();
}

/* A reader that takes nothing does not make a stream give more. */
static void
test_stream_is_not_pulled_while_its_bytes_wait(void)
{
    fb_run runs[MOST_RUNS];
    source one = {{"aaaa", "bbbb"}, 2, 0, FB_PULL_END, 0, 0};
    open_out();
    add_stream(&one);
    for (int i = 0; i < 5; i++) {
        CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
        CHECK_SIZE(one.n_pulled, 1);
    }
    fb_out_advance(&out, 3);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
    CHECK_TEXT(runs[0].data, runs[0].len, "a");
    CHECK_SIZE(one.n_pulled, 1);
    close_out();
    CHECK_SIZE(one.n_released, 1);
}

static void
test_streams_that_end_without_a_byte_do_not_hold_up_the_rest(void)
{
    for (size_t i = 0; i < N_STEPS; i++) {
        source one = {{NULL}, 0, 0, FB_PULL_END, 0, 0};
        source two = {{NULL}, 0, 0, FB_PULL_END, 0, 0};
        source three = {{"c"}, 1, 0, FB_PULL_END, 0, 0};
        open_out();
        add_stream(&one);
        add_stream(&two);
        add_stream(&three);
        add_bytes("end");
        send_all(steps[i], 2);
        CHECK_TEXT(sent, n_sent, "cend");
        CHECK(one.n_released == 1 && two.n_released == 1 && three.n_released == 1);
        close_out();
    }
}

static void
test_stream_with_nothing_yet_is_asked_once(void)
{
    fb_run runs[MOST_RUNS];
    source one = {{NULL, "a"}, 2, 0, FB_PULL_END, 0, 0};
    open_out();
    add_stream(&one);
    add_bytes("end");
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    CHECK_SIZE(one.n_pulled, 1);
    CHECK(!fb_out_is_empty(&out));
    send_all(1000, MOST_RUNS);
    CHECK_TEXT(sent, n_sent, "aend");
    close_out();
}

/* A stream that says later first, and goes on when it is asked again. */
typedef struct late_source {
    const char *piece; /* that it gives in the end; NULL: none */
    size_t n_later;    /* times that it will say later */
    fb_pull last;
    size_t n_pulled;
    size_t n_released;
} late_source;

static fb_pull
on_pull_late(void *owner, fb_buf *into)
{
    late_source *from = owner;
    from->n_pulled++;
    if (from->n_later > 0) {
        from->n_later--;
        return FB_PULL_LATER;
    }
    if (from->piece != NULL && !fb_buf_append(into, from->piece, strlen(from->piece))) {
        return FB_PULL_FAIL;
    }
    return from->last;
}

static void
on_release_late(void *owner)
{
    late_source *from = owner;
    from->n_released++;
}

static const fb_body_ops late_ops = {.pull = on_pull_late, .release = on_release_late};

static void
add_late(late_source *from)
{
    CHECK(fb_out_add_body(&out, (fb_body){&late_ops, from, NULL, 0}));
}

static void
test_stream_that_says_later_holds_up_what_follows(void)
{
    fb_run runs[MOST_RUNS];
    late_source from = {.piece = "piece ", .n_later = 2, .last = FB_PULL_END};
    open_out();
    add_bytes("head ");
    add_late(&from);
    add_bytes("end");
    CHECK(!out.is_waiting);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 1);
    CHECK(!out.is_waiting); /* what is before it is sent first */
    CHECK_SIZE(from.n_pulled, 0);
    fb_out_advance(&out, 5);
    for (size_t i = 1; i <= 2; i++) {
        CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
        CHECK_SIZE(from.n_pulled, i); /* once for each time that it is asked */
        CHECK(out.is_waiting && !out.has_failed && !fb_out_is_empty(&out));
    }
    send_all(1000, MOST_RUNS);
    CHECK_TEXT(sent, n_sent, "piece end");
    CHECK(!out.is_waiting);
    CHECK_SIZE(from.n_released, 1);
    close_out();
}

static void
test_stream_that_said_later_may_end_or_break_off_without_a_byte(void)
{
    fb_run runs[MOST_RUNS];
    late_source ends = {.n_later = 1, .last = FB_PULL_END};
    late_source next = {.n_later = 1, .last = FB_PULL_FAIL};
    open_out();
    add_late(&ends);
    add_late(&next);
    add_bytes("never sent");
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    CHECK(out.is_waiting);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    CHECK(out.is_waiting); /* for the other one */
    CHECK(ends.n_released == 1 && next.n_pulled == 1 && next.n_released == 0);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    CHECK(!out.is_waiting && out.has_failed);
    close_out();
    CHECK_SIZE(next.n_released, 1);
}

static void
test_output_that_ends_while_it_waits_is_as_good_as_new(void)
{
    fb_run runs[MOST_RUNS];
    late_source from = {.n_later = 9, .last = FB_PULL_END};
    open_out();
    add_late(&from);
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    CHECK(out.is_waiting);
    fb_out_fini(&out);
    CHECK(!out.is_waiting && fb_out_is_empty(&out));
    CHECK_SIZE(from.n_released, 1);
    add_bytes("next");
    send_all(1000, MOST_RUNS);
    CHECK_TEXT(sent, n_sent, "next");
    close_out();
}

static void
test_stream_that_breaks_off_is_the_end(void)
{
    source one = {{"a", "b"}, 2, 0, FB_PULL_FAIL, 0, 0};
    source data;
    open_out();
    add_stream(&one);
    add_bytes("never sent");
    add_data(&data, "nor this");
    send_all(1000, MOST_RUNS);
    CHECK_TEXT(sent, n_sent, "ab");
    CHECK(out.has_failed && !fb_out_is_empty(&out));
    CHECK_SIZE(one.n_released, 1);
    CHECK_SIZE(data.n_released, 0);
    close_out();
    CHECK_SIZE(one.n_released, 1);
    CHECK_SIZE(data.n_released, 1);
}

static void
test_body_of_no_bytes_is_released_at_once(void)
{
    source data;
    open_out();
    add_data(&data, "");
    CHECK_SIZE(data.n_released, 1);
    CHECK(fb_out_is_empty(&out));
    close_out();
    CHECK_SIZE(data.n_released, 1);
}

/* However far it was sent, what is left is released when the connection ends. */
static void
test_ending_early_releases_what_is_left(void)
{
    for (size_t n = 0; n <= 12; n++) {
        fb_run runs[MOST_RUNS];
        source one;
        source two;
        source stream = {{"cd"}, 1, 0, FB_PULL_END, 0, 0};
        open_out();
        add_bytes("head");
        add_data(&one, "12");
        add_data(&two, "ab");
        add_stream(&stream);
        add_bytes("zz");
        for (size_t i = 0; i < n; i++) {
            CHECK(fb_out_gather(&out, runs, MOST_RUNS) > 0);
            fb_out_advance(&out, 1);
        }
        CHECK_SIZE(one.n_released, n >= 6);
        CHECK_SIZE(two.n_released, n >= 8);
        close_out();
        CHECK(one.n_released == 1 && two.n_released == 1 && stream.n_released == 1);
    }
}

static void
test_more_runs_than_asked_for_are_listed_later(void)
{
    source bodies[10];
    open_out();
    for (size_t i = 0; i < 10; i++) {
        add_bytes("h");
        add_data(&bodies[i], "b");
    }
    send_all(1000, 2);
    CHECK_TEXT(sent, n_sent, "hbhbhbhbhbhbhbhbhbhb");
    close_out();
}

static void
test_without_memory_the_body_is_released_and_all_has_failed(void)
{
    source one = {.n_pieces = 0};
    open_out();
    add_bytes("head");
    fault_set(1);
    CHECK(!fb_out_add_body(&out, (fb_body){&ops, &one, "data", 4}));
    CHECK(fault_happened());
    CHECK_SIZE(one.n_released, 1);
    CHECK(out.has_failed);
    fb_run runs[MOST_RUNS];
    CHECK_SIZE(fb_out_gather(&out, runs, MOST_RUNS), 0);
    close_out();
    CHECK_SIZE(one.n_released, 1);
}

static void
test_reset_out_is_reused_without_new_memory(void)
{
    source data;
    source stream;
    open_out();
    for (int i = 0; i < 100; i++) {
        stream = (source){{"c"}, 1, 0, FB_PULL_END, 0, 0};
        add_bytes("a");
        add_data(&data, "b");
        add_stream(&stream);
        n_sent = 0;
        send_all(1, 2);
        CHECK_TEXT(sent, n_sent, "abc");
        fb_out_reset(&out);
        CHECK(fb_out_is_empty(&out));
    }
    CHECK(heap.n_held <= 2); /* bytes and parts; a stream's buffer is given back */
    close_out();
}

static void
test_reset_gives_large_memory_back(void)
{
    static source bodies[20000];
    open_out();
    CHECK(fb_buf_reserve(&out.bytes, FB_KEEP_BYTES + 1));
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        add_data(&bodies[i], "b");
    }
    fb_run runs[MOST_RUNS];
    while (!fb_out_is_empty(&out)) {
        fb_out_advance(&out, fb_out_gather(&out, runs, MOST_RUNS));
    }
    fb_out_reset(&out);
    CHECK_SIZE(heap.n_held, 0);
    close_out();
}

/* ---- splicing -------------------------------------------------------------------- */

/* Gives its pieces one by one, and says its last with the last. */
static fb_splice
on_splice(void *owner, int fd, size_t most, size_t *n)
{
    source *from = owner;
    assert(from->n_released == 0 && fd == 5);
    *n = strlen(from->pieces[from->next]);
    assert(*n <= most);
    memcpy(sent + n_sent, from->pieces[from->next], *n);
    n_sent += *n;
    from->next++;
    if (from->next < from->n_pieces) {
        return FB_SPLICE_SENT;
    }
    return from->last == FB_PULL_FAIL ? FB_SPLICE_FAIL : FB_SPLICE_END;
}

static const fb_body_ops splice_ops = {
    .pull = on_pull,
    .release = on_release,
    .splice = on_splice,
};

static void
test_body_is_spliced_when_all_before_it_was_sent(void)
{
    source from = {.pieces = {"one ", "two ", "three "}, .n_pieces = 3};
    size_t n;
    open_out();
    add_bytes("before ");
    CHECK(fb_out_add_body(&out, (fb_body){.ops = &splice_ops, .owner = &from}));
    add_bytes("behind");
    CHECK(!fb_out_can_splice(&out));
    fb_run runs[2];
    CHECK_SIZE(fb_out_gather(&out, runs, 2), 1);
    memcpy(sent, runs[0].data, runs[0].len);
    n_sent = runs[0].len;
    fb_out_advance(&out, runs[0].len);
    CHECK(fb_out_can_splice(&out));
    CHECK(fb_out_splice(&out, 5, 100, &n) == FB_SPLICE_SENT);
    CHECK_SIZE(n, 4);
    CHECK_SIZE(fb_out_gather(&out, runs, 2), 1); /* pulled, while the socket is full */
    CHECK(!fb_out_can_splice(&out));
    memcpy(sent + n_sent, runs[0].data, runs[0].len);
    n_sent += runs[0].len;
    fb_out_advance(&out, runs[0].len);
    CHECK(fb_out_splice(&out, 5, 100, &n) == FB_SPLICE_END);
    CHECK_SIZE(from.n_released, 1);
    CHECK(!fb_out_can_splice(&out));
    send_all(100, 2);
    CHECK_TEXT(sent, n_sent, "before one two three behind");
    close_out();
    CHECK_SIZE(from.n_released, 1);
}

static void
test_splice_that_fails_ends_the_output(void)
{
    source from = {.pieces = {"one"}, .n_pieces = 1, .last = FB_PULL_FAIL};
    size_t n;
    fb_run runs[2];
    open_out();
    CHECK(fb_out_add_body(&out, (fb_body){.ops = &splice_ops, .owner = &from}));
    add_bytes("behind");
    CHECK(fb_out_splice(&out, 5, 100, &n) == FB_SPLICE_FAIL);
    CHECK(out.has_failed && !fb_out_can_splice(&out));
    CHECK_SIZE(fb_out_gather(&out, runs, 2), 0);
    close_out();
    CHECK_SIZE(from.n_released, 1);
}

static void
test_stream_without_a_descriptor_cannot_be_spliced(void)
{
    source from = {.pieces = {"one"}, .n_pieces = 1, .last = FB_PULL_END};
    open_out();
    add_stream(&from);
    CHECK(!fb_out_can_splice(&out));
    close_out();
}

int
main(void)
{
    RUN(test_nothing_to_send);
    RUN(test_bytes_alone);
    RUN(test_bytes_and_bodies_keep_their_order);
    RUN(test_streams_are_pulled_in_their_turn);
    RUN(test_stream_is_not_pulled_before_its_turn);
    RUN(test_stream_is_not_pulled_while_its_bytes_wait);
    RUN(test_streams_that_end_without_a_byte_do_not_hold_up_the_rest);
    RUN(test_stream_with_nothing_yet_is_asked_once);
    RUN(test_stream_that_says_later_holds_up_what_follows);
    RUN(test_stream_that_said_later_may_end_or_break_off_without_a_byte);
    RUN(test_output_that_ends_while_it_waits_is_as_good_as_new);
    RUN(test_stream_that_breaks_off_is_the_end);
    RUN(test_body_of_no_bytes_is_released_at_once);
    RUN(test_ending_early_releases_what_is_left);
    RUN(test_more_runs_than_asked_for_are_listed_later);
    RUN(test_without_memory_the_body_is_released_and_all_has_failed);
    RUN(test_reset_out_is_reused_without_new_memory);
    RUN(test_reset_gives_large_memory_back);
    RUN(test_body_is_spliced_when_all_before_it_was_sent);
    RUN(test_splice_that_fails_ends_the_output);
    RUN(test_stream_without_a_descriptor_cannot_be_spliced);
    return check_report("test_out");
}
