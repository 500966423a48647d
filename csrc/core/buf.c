/* SPDX-License-Identifier: MIT */
/*
 * Growth and shrinkage of fb_buf; the fast paths are in the header.
 */
#include "core/buf.h"

#include <assert.h>

void
fb_buf_init(fb_buf *buf, fb_heap *heap)
{
    *buf = (fb_buf){.heap = heap};
}

void
fb_buf_fini(fb_buf *buf)
{
    fb_heap_give(buf->heap, buf->data);
    *buf = (fb_buf){.heap = buf->heap};
}

bool
fb_buf_grow(fb_buf *buf, size_t extra)
{
    if (extra > SIZE_MAX / 2 - buf->len) {
        return false;
    }
    size_t cap = buf->cap + fb_buf_growth(buf, extra);
    char *data = fb_heap_resize(buf->heap, buf->data, cap);
    if (data == NULL) {
        return false;
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

void
fb_buf_consume(fb_buf *buf, size_t n)
{
    assert(n <= buf->len);
    buf->len -= n;
    if (n > 0 && buf->len > 0) {
        memmove(buf->data, buf->data + n, buf->len);
    }
}

void
fb_buf_shrink(fb_buf *buf, size_t cap)
{
    size_t need = buf->len > cap ? buf->len : cap;
    if (need == 0 || need >= buf->cap) {
        return;
    }
    char *data = fb_heap_resize(buf->heap, buf->data, need);
    if (data != NULL) {
        buf->data = data;
        buf->cap = need;
    }
}

void
fb_buf_reset(fb_buf *buf, size_t keep)
{
    buf->len = 0;
    if (buf->cap > keep) {
        fb_buf_fini(buf);
    }
}
