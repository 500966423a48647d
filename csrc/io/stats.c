/* SPDX-License-Identifier: MIT */
/*
 * Counting what was in a batch. Slots that stand together mostly have the same
 * status, and were reported together: what they share is counted once for all of them.
 */
#include "io/stats.h"

#include "io/conn.h"

#include <assert.h>

const uint32_t fb_queue_bounds_us[FB_QUEUE_BOUNDS] = {
    10,    25,    50,     100,    250,    500,     1000,    2500,    5000,     10000,
    25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000,
};

static size_t
bucket_of(uint64_t waited_ns)
{
    size_t i = 0;
    while (i < FB_QUEUE_BOUNDS && waited_ns > fb_queue_bounds_us[i] * (uint64_t)1000) {
        i++;
    }
    return i;
}

static void
note_waits(fb_queue_stats *stats, uint64_t waited_ns, uint64_t n)
{
    fb_count_add(&stats->queue_ns, waited_ns * n);
    fb_count_add(&stats->queue_times[bucket_of(waited_ns)], n);
}

static uint64_t
queued_at(const fb_slot *slot)
{
    const fb_conn *conn = slot->owner;
    return conn->queued_at;
}

static void
note_all_waits(fb_queue_stats *stats, const fb_slot *slots, size_t n, uint64_t began)
{
    size_t first = 0;
    for (size_t i = 1; i <= n; i++) {
        uint64_t since = queued_at(&slots[first]);
        assert(since <= began);
        if (i == n || queued_at(&slots[i]) != since) {
            note_waits(stats, began - since, i - first);
            first = i;
        }
    }
}

static void
note_all_replies(fb_stats *stats, const fb_slot *slots, size_t n)
{
    size_t first = 0;
    for (size_t i = 1; i <= n; i++) {
        int status = slots[first].status;
        if (i == n || slots[i].status != status) {
            if (status != 0) {
                fb_stats_note_replies(stats, status, i - first);
            }
            first = i;
        }
    }
}

void
fb_stats_note_slots(fb_stats *stats, uint32_t queue, const fb_slot *slots, size_t n,
                    uint64_t began)
{
    note_all_waits(&stats->queues[queue], slots, n, began);
    note_all_replies(stats, slots, n);
    fb_count_add(&stats->n_slots, -(uint64_t)n);
}
