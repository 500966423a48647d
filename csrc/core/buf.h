/* SPDX-License-Identifier: MIT */
/*
 * A growing run of bytes. All zero but for heap is a valid empty buffer.
 *
 * A pointer into data is valid until the next call that may grow, shrink or consume.
 */
#ifndef FB_CORE_BUF_H
#define FB_CORE_BUF_H

#include "core/heap.h"

#include <stdbool.h>
#include <string.h>

typedef struct fb_buf {
    char *data;    /* NULL while cap is 0 */
    size_t len;    /* bytes in use */
    size_t cap;    /* bytes of room */
    fb_heap *heap; /* where data is taken from */
} fb_buf;

void fb_buf_init(fb_buf *buf, fb_heap *heap);
void fb_buf_fini(fb_buf *buf);

/* Make room for extra more bytes. Returns false, with nothing changed, when there is no
 * memory. */
bool fb_buf_grow(fb_buf *buf, size_t extra);

/* Drop the first n <= len bytes. */
void fb_buf_consume(fb_buf *buf, size_t n);

/* Empty the buffer; give its memory back when it holds more than keep bytes. */
void fb_buf_reset(fb_buf *buf, size_t keep);

/* Give back all but cap bytes of room, or but what is in use. It may fail to, and then
 * nothing is changed. */
void fb_buf_shrink(fb_buf *buf, size_t cap);

/* As fb_buf_grow; cheap when there is room already. */
static inline bool
fb_buf_reserve(fb_buf *buf, size_t extra)
{
    return buf->cap - buf->len >= extra || fb_buf_grow(buf, extra);
}

/* Returns how many bytes fb_buf_reserve would take. */
static inline size_t
fb_buf_growth(const fb_buf *buf, size_t extra)
{
    if (buf->cap - buf->len >= extra) {
        return 0;
    }
    size_t need = buf->len + extra - buf->cap;
    return buf->cap > need ? buf->cap : need;
}

/* Append len bytes. Borrows bytes. Returns false, with nothing changed, when there is
 * no memory. */
static inline bool
fb_buf_append(fb_buf *buf, const char *bytes, size_t len)
{
    if (len == 0) {
        return true;
    }
    if (!fb_buf_reserve(buf, len)) {
        return false;
    }
    memcpy(buf->data + buf->len, bytes, len);
    buf->len += len;
    return true;
}

#endif
