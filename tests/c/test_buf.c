/* SPDX-License-Identifier: MIT */
/*
 * The growing buffer, and the heap that counts what it holds.
 */
#include "check.h"
#include "core/buf.h"
#include "fault.h"

static void
test_empty_buffer_takes_no_memory(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    CHECK(fb_buf_append(&buf, NULL, 0));
    CHECK(fb_buf_reserve(&buf, 0));
    CHECK_SIZE(heap.n_taken, 0);
    fb_buf_fini(&buf);
}

static void
test_appended_bytes_follow_each_other(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    for (size_t i = 0; i < 1000; i++) {
        char byte = (char)i;
        CHECK(fb_buf_append(&buf, &byte, 1));
    }
    CHECK_SIZE(buf.len, 1000);
    for (size_t i = 0; i < buf.len; i++) {
        CHECK(buf.data[i] == (char)i);
    }
    CHECK_SIZE(heap.n_held, 1);
    CHECK(heap.n_taken < 12); /* it doubles */
    fb_buf_fini(&buf);
    CHECK_SIZE(heap.n_held, 0);
    CHECK(buf.data == NULL && buf.len == 0 && buf.cap == 0);
}

static void
test_reserve_makes_room_for_exactly_that(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    CHECK(fb_buf_reserve(&buf, 100));
    CHECK_SIZE(buf.len, 0);
    memset(buf.data, 'x', 100);
    buf.len = 99;
    CHECK(fb_buf_reserve(&buf, 1));
    CHECK_SIZE(heap.n_taken, 1);
    CHECK(fb_buf_reserve(&buf, 2));
    CHECK_SIZE(heap.n_taken, 2);
    CHECK(buf.cap >= 101);
    fb_buf_fini(&buf);
}

static void
test_consume_drops_the_first_bytes(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    fb_buf_consume(&buf, 0);
    CHECK(fb_buf_append(&buf, "abcdef", 6));
    fb_buf_consume(&buf, 0);
    CHECK_TEXT(buf.data, buf.len, "abcdef");
    fb_buf_consume(&buf, 2);
    CHECK_TEXT(buf.data, buf.len, "cdef");
    fb_buf_consume(&buf, 4);
    CHECK_SIZE(buf.len, 0);
    fb_buf_fini(&buf);
}

static void
test_reset_gives_large_memory_back(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    CHECK(fb_buf_append(&buf, "abcdefgh", 8));
    fb_buf_reset(&buf, 8);
    CHECK_SIZE(buf.len, 0);
    CHECK_SIZE(buf.cap, 8);
    fb_buf_reset(&buf, 7);
    CHECK_SIZE(buf.cap, 0);
    CHECK_SIZE(heap.n_held, 0);
    CHECK(fb_buf_append(&buf, "a", 1)); /* it is good for more */
    fb_buf_fini(&buf);
}

static void
test_shrink_gives_back_room_and_no_bytes(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    fb_buf_shrink(&buf, 4);
    CHECK_SIZE(buf.cap, 0);
    CHECK_SIZE(fb_buf_growth(&buf, 100), 100);
    CHECK(fb_buf_reserve(&buf, 100));
    CHECK_SIZE(fb_buf_growth(&buf, 100), 0);
    CHECK_SIZE(fb_buf_growth(&buf, 101), 100);
    CHECK_SIZE(fb_buf_growth(&buf, 300), 200);
    CHECK(fb_buf_append(&buf, "abcdef", 6));
    fb_buf_shrink(&buf, 200);
    CHECK_SIZE(buf.cap, 100);
    fault_set(1);
    fb_buf_shrink(&buf, 50);
    CHECK_SIZE(buf.cap, 100);
    fb_buf_shrink(&buf, 50);
    CHECK_SIZE(buf.cap, 50);
    fb_buf_shrink(&buf, 0);
    CHECK_SIZE(buf.cap, 6);
    CHECK_TEXT(buf.data, buf.len, "abcdef");
    fb_buf_fini(&buf);
}

static void
test_without_memory_nothing_changes(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    fault_set(1);
    CHECK(!fb_buf_append(&buf, "a", 1));
    CHECK(fault_happened());
    CHECK_SIZE(buf.len, 0);
    CHECK(fb_buf_append(&buf, "abc", 3));
    char *data = buf.data;
    fault_set(1);
    CHECK(!fb_buf_append(&buf, "defg", 4));
    CHECK(buf.data == data);
    CHECK_TEXT(buf.data, buf.len, "abc");
    CHECK_SIZE(heap.n_held, 1);
    CHECK_SIZE(heap.n_taken, 1);
    fb_buf_fini(&buf);
}

static void
test_absurd_size_is_no_memory(void)
{
    fb_heap heap = {0};
    fb_buf buf;
    fb_buf_init(&buf, &heap);
    CHECK(fb_buf_append(&buf, "abc", 3));
    CHECK(!fb_buf_reserve(&buf, SIZE_MAX));
    CHECK(!fb_buf_reserve(&buf, SIZE_MAX - 3));
    CHECK(!fb_buf_reserve(&buf, SIZE_MAX / 2));
    CHECK_TEXT(buf.data, buf.len, "abc");
    fb_buf_fini(&buf);
}

static void
test_heap_counts_blocks(void)
{
    fb_heap heap = {0};
    fb_heap_give(&heap, NULL);
    char *zeroed = fb_heap_take(&heap, 16);
    CHECK(zeroed != NULL);
    for (size_t i = 0; zeroed != NULL && i < 16; i++) {
        CHECK(zeroed[i] == 0);
    }
    void *other = fb_heap_resize(&heap, NULL, 8);
    CHECK_SIZE(heap.n_held, 2);
    other = fb_heap_resize(&heap, other, 4);
    CHECK_SIZE(heap.n_held, 2);
    CHECK_SIZE(heap.n_taken, 3);
    fault_set(1);
    CHECK(fb_heap_take(&heap, 1) == NULL);
    CHECK_SIZE(heap.n_held, 2);
    fb_heap_give(&heap, zeroed);
    fb_heap_give(&heap, other);
    CHECK_SIZE(heap.n_held, 0);
}

int
main(void)
{
    RUN(test_empty_buffer_takes_no_memory);
    RUN(test_appended_bytes_follow_each_other);
    RUN(test_reserve_makes_room_for_exactly_that);
    RUN(test_consume_drops_the_first_bytes);
    RUN(test_reset_gives_large_memory_back);
    RUN(test_shrink_gives_back_room_and_no_bytes);
    RUN(test_without_memory_nothing_changes);
    RUN(test_absurd_size_is_no_memory);
    RUN(test_heap_counts_blocks);
    return check_report("test_buf");
}
