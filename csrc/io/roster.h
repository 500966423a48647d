/* SPDX-License-Identifier: MIT */
/*
 * The workers that accept from the same sockets, and how many connections each has; in
 * memory that they share, be they threads or processes: there are no pointers in it.
 *
 * The kernel wakes all who wait at a socket, and the same one is mostly first. So
 * whoever has more than its share lets the others go first, for a moment: listener.c.
 * Nothing is locked, and a number that is a little old costs a moment at worst.
 */
#ifndef FB_IO_ROSTER_H
#define FB_IO_ROSTER_H

#include "core/count.h"
#include "core/limits.h"

#include <stdbool.h>

typedef struct fb_place {
    /* The process of the worker, or 0. Each place has a cache line, since each is
     * written to by another thread. */
    _Alignas(64) _Atomic int32_t pid;
    fb_count n_conns; /* open; written by the worker */
} fb_place;

typedef struct fb_roster {
    fb_place places[FB_ROSTER_PLACES];
    _Alignas(64) _Atomic uint32_t n_used; /* places from here on were never taken */
} fb_roster;

/* Take a place in zeroed memory; processes that have died lose theirs. Returns it,
 * valid as long as the memory is and until fb_roster_leave; or NULL if all are taken.
 */
fb_place *fb_roster_join(fb_roster *roster);

/* Give the place up; a copy of it in a child that was forked is left alone. */
void fb_roster_leave(fb_place *place);

/* Returns whether place, one of them, has more connections than is fair. */
bool fb_roster_is_ahead(const fb_roster *roster, const fb_place *place);

#endif
