/* SPDX-License-Identifier: MIT */
/*
 * The fixed array of slots.
 */
#include "check.h"
#include "core/batch.h"

static fb_batch batch; /* a megabyte: too large for the stack */

static fb_request
request_numbered(uint32_t n)
{
    fb_request req = {.start = n, .n_headers = 2};
    req.headers[0].name.off = n;
    req.headers[1].value.len = n;
    return req;
}

static void
test_batch_takes_as_many_as_its_size(void)
{
    const size_t sizes[] = {1, 2, 255, FB_BATCH_SLOTS};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        fb_batch_init(&batch, sizes[i]);
        size_t n = 0;
        while (!fb_batch_is_full(&batch)) {
            fb_request req = request_numbered((uint32_t)n);
            fb_batch_push(&batch, &batch, (uint32_t)n, &req);
            n++;
        }
        CHECK_SIZE(n, sizes[i]);
        CHECK_SIZE(batch.n_slots, sizes[i]);
    }
}

static void
test_slots_keep_their_order_and_requests(void)
{
    fb_batch_init(&batch, FB_BATCH_SLOTS);
    for (uint32_t i = 0; i < FB_BATCH_SLOTS; i++) {
        fb_request req = request_numbered(i);
        fb_slot *slot = fb_batch_push(&batch, &batch, i * 2, &req);
        CHECK(slot == &batch.slots[i]);
    }
    for (uint32_t i = 0; i < FB_BATCH_SLOTS; i++) {
        const fb_slot *slot = &batch.slots[i];
        CHECK(slot->owner == &batch && slot->turn == i * 2);
        CHECK(slot->data == NULL && !slot->is_answered);
        CHECK_SIZE(slot->req.start, i);
        CHECK_SIZE(slot->req.headers[0].name.off, i);
        CHECK_SIZE(slot->req.headers[1].value.len, i);
    }
}

static void
test_reset_batch_is_empty_and_its_slots_are_unanswered(void)
{
    fb_batch_init(&batch, 1);
    fb_request req = request_numbered(1);
    fb_batch_push(&batch, NULL, 0, &req)->is_answered = true;
    CHECK(fb_batch_is_full(&batch));
    fb_batch_reset(&batch);
    CHECK_SIZE(batch.n_slots, 0);
    CHECK(!fb_batch_is_full(&batch));
    CHECK(!fb_batch_push(&batch, NULL, 0, &req)->is_answered);
}

static void
test_copy_takes_every_header_in_use(void)
{
    static fb_request from;
    static fb_request to;
    from.n_headers = FB_HEADERS_BOUND;
    for (uint32_t i = 0; i < FB_HEADERS_BOUND; i++) {
        from.headers[i] = (fb_header){{i, i + 1}, {i + 2, i + 3}};
    }
    fb_request_copy(&to, &from);
    CHECK(memcmp(to.headers, from.headers, sizeof(to.headers)) == 0);
    memset(&to, 0, sizeof(to));
    from.n_headers = 1;
    fb_request_copy(&to, &from);
    CHECK(to.headers[0].value.len == 3 && to.headers[1].value.len == 0);
}

static fb_batch other;

/* Slots of the owners that text names, one letter each; start numbers them. */
static void
fill(fb_batch *to, const char *text)
{
    fb_batch_init(to, FB_BATCH_SLOTS);
    for (uint32_t i = 0; text[i] != '\0'; i++) {
        fb_request req = request_numbered(i);
        fb_slot *slot = fb_batch_push(to, (char *)to + text[i], i, &req);
        slot->file = (int)i;
        slot->client.family = FB_FAMILY_V4;
        slot->n_body = i;
    }
}

/* They are those slots of owners of the batch of, and nothing is lost of them. */
static void
check_slots(const fb_batch *got, const fb_batch *of, const char *text,
            const uint32_t *numbers)
{
    CHECK_SIZE(got->n_slots, strlen(text));
    for (size_t i = 0; i < got->n_slots; i++) {
        const fb_slot *slot = &got->slots[i];
        uint32_t n = numbers[i];
        CHECK(slot->owner == (const char *)of + text[i]);
        CHECK(slot->turn == n && slot->file == (int)n && slot->n_body == n);
        CHECK(slot->client.family == FB_FAMILY_V4 && !slot->is_answered);
        CHECK(slot->req.start == n && slot->req.n_headers == 2);
        CHECK(slot->req.headers[0].name.off == n);
        CHECK(slot->req.headers[1].value.len == n);
    }
}

static void
test_moved_slots_keep_everything(void)
{
    fill(&batch, "abcd");
    fb_batch_init(&other, 2);
    batch.slots[1].is_last = true;
    CHECK(fb_batch_move(&other, &batch.slots[1]) == &other.slots[0]);
    CHECK(other.slots[0].is_last && !fb_batch_is_full(&other));
    CHECK(fb_batch_move(&other, &batch.slots[2]) == &other.slots[1]);
    CHECK(fb_batch_is_full(&other));
    check_slots(&other, &batch, "bc", (const uint32_t[]){1, 2});
    check_slots(&batch, &batch, "abcd", (const uint32_t[]){0, 1, 2, 3});
}

static void
test_first_slots_are_taken_out(void)
{
    static const uint32_t numbers[] = {0, 1, 2, 3, 4};
    for (size_t n = 0; n <= 5; n++) {
        fill(&batch, "aabbc");
        fb_batch_drop_first(&batch, n);
        check_slots(&batch, &batch, &"aabbc"[n], &numbers[n]);
    }
}

static void
test_slots_of_one_owner_are_taken_out(void)
{
    fill(&batch, "aabbbc");
    fb_batch_drop_owner(&batch, (char *)&batch + 'b');
    check_slots(&batch, &batch, "aac", (const uint32_t[]){0, 1, 5});
    fb_batch_drop_owner(&batch, (char *)&batch + 'x'); /* who has none */
    check_slots(&batch, &batch, "aac", (const uint32_t[]){0, 1, 5});
    fb_batch_drop_owner(&batch, (char *)&batch + 'a');
    check_slots(&batch, &batch, "c", (const uint32_t[]){5});
    fb_batch_drop_owner(&batch, (char *)&batch + 'c');
    CHECK_SIZE(batch.n_slots, 0);
    fb_batch_drop_owner(&batch, (char *)&batch + 'c');
    CHECK_SIZE(batch.n_slots, 0);
}

static void
test_gap_of_any_length_is_closed(void)
{
    static const uint32_t numbers[] = {0, 1, 2, 3, 4, 5};
    for (size_t to = 0; to <= 6; to++) {
        for (size_t from = to; from <= 6; from++) {
            uint32_t left[6];
            char text[7] = {0};
            fill(&batch, "aabbbc");
            size_t end = fb_batch_close_gap(&batch, to, from, 6);
            CHECK_SIZE(end, to + 6 - from);
            CHECK_SIZE(batch.n_slots, 6);
            memcpy(left, numbers, sizeof(left[0]) * to);
            memcpy(left + to, numbers + from, sizeof(left[0]) * (6 - from));
            memcpy(text, "aabbbc", to);
            memcpy(text + to, &"aabbbc"[from], 6 - from);
            batch.n_slots = end;
            check_slots(&batch, &batch, text, left);
        }
    }
}

static void
test_part_of_a_batch_is_moved_up_and_the_rest_stays(void)
{
    fill(&batch, "aabbbc");
    CHECK_SIZE(fb_batch_close_gap(&batch, 1, 3, 5), 3);
    CHECK_SIZE(batch.n_slots, 6);
    CHECK_SIZE(fb_batch_close_gap(&batch, 3, 5, 6), 4);
    batch.n_slots = 4;
    check_slots(&batch, &batch, "abbc", (const uint32_t[]){0, 3, 4, 5});
}

static void
test_slots_of_an_owner_end_where_those_of_another_begin(void)
{
    static const size_t ends[] = {2, 2, 5, 5, 5, 6};
    fill(&batch, "aabbbc");
    for (size_t i = 0; i < 6; i++) {
        CHECK_SIZE(fb_batch_end_of_owner(&batch, i), ends[i]);
    }
    fill(&batch, "aba");
    for (size_t i = 0; i < 3; i++) {
        CHECK_SIZE(fb_batch_end_of_owner(&batch, i), i + 1);
    }
    fill(&batch, "aaa");
    CHECK_SIZE(fb_batch_end_of_owner(&batch, 0), 3);
    batch.n_slots = 2; /* what is behind is not looked at */
    CHECK_SIZE(fb_batch_end_of_owner(&batch, 0), 2);
}

static void
test_batch_is_of_queue_0_until_it_is_told(void)
{
    batch.queue = 3;
    fb_batch_init(&batch, 1);
    CHECK_SIZE(batch.queue, 0);
    batch.queue = 2;
    fb_batch_reset(&batch);
    CHECK_SIZE(batch.queue, 2);
}

int
main(void)
{
    RUN(test_batch_takes_as_many_as_its_size);
    RUN(test_slots_keep_their_order_and_requests);
    RUN(test_reset_batch_is_empty_and_its_slots_are_unanswered);
    RUN(test_copy_takes_every_header_in_use);
    RUN(test_moved_slots_keep_everything);
    RUN(test_first_slots_are_taken_out);
    RUN(test_slots_of_one_owner_are_taken_out);
    RUN(test_gap_of_any_length_is_closed);
    RUN(test_part_of_a_batch_is_moved_up_and_the_rest_stays);
    RUN(test_slots_of_an_owner_end_where_those_of_another_begin);
    RUN(test_batch_is_of_queue_0_until_it_is_told);
    return check_report("test_batch");
}
