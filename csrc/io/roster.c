/* SPDX-License-Identifier: MIT */
/*
 * Places are taken and given up by compare and exchange: once in a worker's life.
 */
#include "io/roster.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

/* A process that was killed did not give its places up. One that lives under the same
 * number now keeps them for as long as it does, which costs moments and no connection.
 */
static void
clear_if_dead(fb_place *place)
{
    int32_t pid = atomic_load(&place->pid);
    if (pid != 0 && kill(pid, 0) != 0 && errno == ESRCH) {
        atomic_compare_exchange_strong(&place->pid, &pid, 0);
    }
}

static void
note_used(fb_roster *roster, uint32_t n)
{
    uint32_t used = atomic_load(&roster->n_used);
    while (used < n && !atomic_compare_exchange_weak(&roster->n_used, &used, n)) {
    }
}

/* Also of places that are not needed now: as long as the dead have them they count,
 * with the connections that they had. */
static void
clear_the_dead(fb_roster *roster)
{
    uint32_t n_used = atomic_load(&roster->n_used);
    for (uint32_t i = 0; i < n_used; i++) {
        clear_if_dead(&roster->places[i]);
    }
}

fb_place *
fb_roster_join(fb_roster *roster)
{
    clear_the_dead(roster);
    for (uint32_t i = 0; i < FB_ROSTER_PLACES; i++) {
        fb_place *place = &roster->places[i];
        int32_t nobody = 0;
        if (atomic_compare_exchange_strong(&place->pid, &nobody, (int32_t)getpid())) {
            fb_count_set(&place->n_conns, 0);
            note_used(roster, i + 1);
            return place;
        }
    }
    return NULL;
}

void
fb_roster_leave(fb_place *place)
{
    int32_t pid = (int32_t)getpid();
    atomic_compare_exchange_strong(&place->pid, &pid, 0);
}

bool
fb_roster_is_ahead(const fb_roster *roster, const fb_place *place)
{
    uint64_t n_workers = 0;
    uint64_t n_conns = 0;
    uint32_t n_used = atomic_load_explicit(&roster->n_used, memory_order_relaxed);
    for (uint32_t i = 0; i < n_used; i++) {
        const fb_place *each = &roster->places[i];
        if (atomic_load_explicit(&each->pid, memory_order_relaxed) != 0) {
            n_workers++;
            n_conns += fb_count_get(&each->n_conns);
        }
    }
    uint64_t if_all_had = fb_count_get(&place->n_conns) * n_workers;
    return if_all_had > n_conns + n_conns / FB_ROSTER_SLACK;
}
