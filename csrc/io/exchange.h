/* SPDX-License-Identifier: MIT */
/*
 * What a connection needs only while it has something to do: parser, input, output.
 *
 * An idle connection holds none of it, so that thousands of them cost little; the pool
 * hands the most recently used one out first, which is the one still in the caches.
 */
#ifndef FB_IO_EXCHANGE_H
#define FB_IO_EXCHANGE_H

#include "core/http.h"
#include "core/out.h"

typedef struct fb_exchange {
    fb_http http;        /* parses in */
    fb_buf in;           /* bytes received; slots point into it while in a batch */
    fb_out filling;      /* takes replies */
    fb_out sending;      /* never grows or moves while a write is in flight */
    int file;            /* of the body being received, when it is spooled; or -1 */
    uint64_t body_began; /* server's own clock: when waiting for the body began */
    uint64_t body_seen;  /* bytes of it that were there then */
    struct fb_exchange *next; /* in the pool */
} fb_exchange;

typedef struct fb_exchange_pool {
    fb_exchange *first;
    size_t n_items;
    uint64_t n_bytes;        /* room of the reading buffers of all that are taken */
    const fb_limits *limits; /* kept, for the parsers */
    fb_heap *heap;           /* kept */
} fb_exchange_pool;

/* Keeps limits and heap until the end of pool. */
void fb_exchange_pool_init(fb_exchange_pool *pool, const fb_limits *limits,
                           fb_heap *heap);
void fb_exchange_pool_fini(fb_exchange_pool *pool);

/* Returns an exchange ready for the first byte of a request, or NULL for want of
 * memory. */
fb_exchange *fb_exchange_take(fb_exchange_pool *pool);

/* Make room to read extra more bytes. Returns false when there is no memory. */
bool fb_exchange_grow(fb_exchange_pool *pool, fb_exchange *exchange, size_t extra);

/* Give back what the reading buffer has of room beyond FB_INPUT_BYTES and its bytes; no
 * slot may point there. */
void fb_exchange_shrink(fb_exchange_pool *pool, fb_exchange *exchange);

/* Takes exchange; what it still has to send is released unsent. */
void fb_exchange_give(fb_exchange_pool *pool, fb_exchange *exchange);

#endif
