/* SPDX-License-Identifier: MIT */
/*
 * Counters that one thread writes, unless it says otherwise, and any thread may read.
 */
#ifndef FB_CORE_COUNT_H
#define FB_CORE_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t fb_count;

/* Add n; by the owning thread alone, so that it costs no more than a plain addition. */
static inline void
fb_count_add(fb_count *count, uint64_t n)
{
    uint64_t old = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, old + n, memory_order_relaxed);
}

/* Have it be n; by the owning thread alone. */
static inline void
fb_count_set(fb_count *count, uint64_t n)
{
    atomic_store_explicit(count, n, memory_order_relaxed);
}

/* Add n; by any thread. */
static inline void
fb_count_add_shared(fb_count *count, uint64_t n)
{
    atomic_fetch_add_explicit(count, n, memory_order_relaxed);
}

/* Returns the count at some recent moment. */
static inline uint64_t
fb_count_get(const fb_count *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

#endif
