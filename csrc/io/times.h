/* SPDX-License-Identifier: MIT */
/*
 * Time-ordered lists: all that waits for the same length of time stands in one list, so
 * that the first is always the next to expire and one coarse timer serves everybody.
 *
 * A node is moved to the end at most once a tick, however busy its owner is; a time-out
 * is therefore up to one tick late and never early.
 */
#ifndef FB_IO_TIMES_H
#define FB_IO_TIMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_time_node {
    struct fb_time_node *prev; /* NULL while in no list */
    struct fb_time_node *next;
    uint64_t since; /* milliseconds of the loop's clock: when the wait began */
} fb_time_node;

typedef struct fb_time_list {
    fb_time_node ends; /* a ring: ends.next waits longest */
    uint64_t wait_ms;  /* 0: for ever */
} fb_time_list;

void fb_times_init(fb_time_list *list, uint64_t wait_ms);

/* Put node at the end of list, out of the list that it may be in. */
void fb_times_start(fb_time_list *list, fb_time_node *node, uint64_t now);

/* The wait of a node that is in list begins anew, to the exactness of tick_ms. */
static inline void
fb_times_renew(fb_time_list *list, fb_time_node *node, uint64_t now, uint64_t tick_ms)
{
    if (now - node->since >= tick_ms) {
        fb_times_start(list, node, now);
    }
}

/* Returns the node that waits longest, or NULL. */
static inline fb_time_node *
fb_times_first(const fb_time_list *list)
{
    return list->ends.next != &list->ends ? list->ends.next : NULL;
}

/* Take node out of its list, if it is in one. */
void fb_times_stop(fb_time_node *node);

/* Returns the node whose wait is over at now, or NULL. It stays in the list. */
fb_time_node *fb_times_expired(const fb_time_list *list, uint64_t now);

#endif
