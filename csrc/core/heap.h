/* SPDX-License-Identifier: MIT */
/*
 * Where core and io take memory from: the C allocator, counted.
 *
 * One heap belongs to one worker; its handler threads use it, too. The count is how the
 * tests see that serving takes no memory in the steady state.
 */
#ifndef FB_CORE_HEAP_H
#define FB_CORE_HEAP_H

#include "core/count.h"

#include <stddef.h>

typedef struct fb_heap {
    fb_count n_taken; /* blocks taken or grown since the start */
    fb_count n_held;  /* blocks held now */
} fb_heap;

/* Returns size bytes, zeroed, or NULL when there is no memory. */
void *fb_heap_take(fb_heap *heap, size_t size);

/* Returns block, which may be NULL, grown or shrunk to size > 0 bytes; or NULL when
 * there is no memory, and then block is as it was. */
void *fb_heap_resize(fb_heap *heap, void *block, size_t size);

/* Takes block, which may be NULL. */
void fb_heap_give(fb_heap *heap, void *block);

#endif
