/* SPDX-License-Identifier: MIT */
/*
 * Taking exchanges from their pool and giving them back.
 */
#include "io/exchange.h"

#include <unistd.h>

void
fb_exchange_pool_init(fb_exchange_pool *pool, const fb_limits *limits, fb_heap *heap)
{
    *pool = (fb_exchange_pool){.limits = limits, .heap = heap};
}

static void
free_exchange(fb_exchange_pool *pool, fb_exchange *exchange)
{
    fb_buf_fini(&exchange->in);
    fb_out_fini(&exchange->filling);
    fb_out_fini(&exchange->sending);
    fb_heap_give(pool->heap, exchange);
}

void
fb_exchange_pool_fini(fb_exchange_pool *pool)
{
    while (pool->first != NULL) {
        fb_exchange *exchange = pool->first;
        pool->first = exchange->next;
        free_exchange(pool, exchange);
    }
    pool->n_items = 0;
}

static fb_exchange *
new_exchange(fb_exchange_pool *pool)
{
    fb_exchange *exchange = fb_heap_take(pool->heap, sizeof(*exchange));
    if (exchange == NULL) {
        return NULL;
    }
    exchange->file = -1;
    fb_buf_init(&exchange->in, pool->heap);
    fb_out_init(&exchange->filling, pool->heap);
    fb_out_init(&exchange->sending, pool->heap);
    return exchange;
}

fb_exchange *
fb_exchange_take(fb_exchange_pool *pool)
{
    fb_exchange *exchange = pool->first;
    if (exchange != NULL) {
        pool->first = exchange->next;
        pool->n_items--;
    } else {
        exchange = new_exchange(pool);
    }
    if (exchange != NULL) {
        fb_http_init(&exchange->http, pool->limits);
        pool->n_bytes += exchange->in.cap;
    }
    return exchange;
}

bool
fb_exchange_grow(fb_exchange_pool *pool, fb_exchange *exchange, size_t extra)
{
    size_t before = exchange->in.cap;
    bool ok = fb_buf_reserve(&exchange->in, extra);
    pool->n_bytes += exchange->in.cap - before;
    return ok;
}

void
fb_exchange_shrink(fb_exchange_pool *pool, fb_exchange *exchange)
{
    size_t before = exchange->in.cap;
    fb_buf_shrink(&exchange->in, FB_INPUT_BYTES);
    pool->n_bytes -= before - exchange->in.cap;
}

/* Make an out that may have something left as good as new. */
static void
clear_out(fb_out *out)
{
    if (fb_out_is_empty(out)) {
        fb_out_reset(out);
    } else {
        fb_out_fini(out);
    }
}

void
fb_exchange_give(fb_exchange_pool *pool, fb_exchange *exchange)
{
    clear_out(&exchange->filling);
    clear_out(&exchange->sending);
    pool->n_bytes -= exchange->in.cap;
    fb_buf_reset(&exchange->in, FB_KEEP_BYTES);
    if (exchange->file >= 0) {
        close(exchange->file);
        exchange->file = -1;
    }
    if (pool->n_items >= FB_POOL_ITEMS) {
        free_exchange(pool, exchange);
        return;
    }
    exchange->next = pool->first;
    pool->first = exchange;
    pool->n_items++;
}
