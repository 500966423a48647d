/* SPDX-License-Identifier: MIT */
/*
 * As fault.c, but only core's own heap runs out: libuv ends the process when it does.
 * The server may be in another thread than the test.
 */
#include "core/heap.h"
#include "fault.h"

#include <stdatomic.h>

void *__real_fb_heap_take(fb_heap *heap, size_t size);
void *__real_fb_heap_resize(fb_heap *heap, void *block, size_t size);
void *__wrap_fb_heap_take(fb_heap *heap, size_t size);
void *__wrap_fb_heap_resize(fb_heap *heap, void *block, size_t size);

static atomic_size_t
    countdown; /* calls to the fault, it included; 0: none is to come */
static atomic_int has_happened;

void
fault_set(size_t nth)
{
    countdown = nth;
    has_happened = 0;
}

int
fault_happened(void)
{
    return has_happened;
}

static int
is_due(void)
{
    size_t left = countdown;
    if (left == 0) {
        return 0;
    }
    countdown = left - 1;
    if (left > 1) {
        return 0;
    }
    has_happened = 1;
    return 1;
}

void *
__wrap_fb_heap_take(fb_heap *heap, size_t size)
{
    return is_due() ? NULL : __real_fb_heap_take(heap, size);
}

void *
__wrap_fb_heap_resize(fb_heap *heap, void *block, size_t size)
{
    return is_due() ? NULL : __real_fb_heap_resize(heap, block, size);
}
