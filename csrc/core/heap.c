/* SPDX-License-Identifier: MIT */
/*
 * The counted allocator. Nothing else in core or io calls malloc.
 */
#include "core/heap.h"

#include <stdlib.h>

void *
fb_heap_take(fb_heap *heap, size_t size)
{
    void *block = calloc(1, size);
    if (block != NULL) {
        fb_count_add_shared(&heap->n_taken, 1);
        fb_count_add_shared(&heap->n_held, 1);
    }
    return block;
}

void *
fb_heap_resize(fb_heap *heap, void *block, size_t size)
{
    void *resized = realloc(block, size);
    if (resized == NULL) {
        return NULL;
    }
    fb_count_add_shared(&heap->n_taken, 1);
    if (block == NULL) {
        fb_count_add_shared(&heap->n_held, 1);
    }
    return resized;
}

void
fb_heap_give(fb_heap *heap, void *block)
{
    if (block != NULL) {
        fb_count_add_shared(&heap->n_held, (uint64_t)-1);
        free(block);
    }
}
