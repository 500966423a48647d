/* SPDX-License-Identifier: MIT */
/*
 * Pages, and behind them one that faults.
 */
#include "guard.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void
guard_init(guard *room, size_t most)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t pages = (most + page - 1) / page * page;
    room->len = pages + page;
    room->base = mmap(NULL, room->len, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room->base == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    room->limit = room->base + pages;
    if (mprotect(room->limit, page, PROT_NONE) != 0) {
        perror("mprotect");
        exit(1);
    }
}

void
guard_fini(guard *room)
{
    munmap(room->base, room->len);
}

char *
guard_place(const guard *room, size_t len)
{
    assert(len <= (size_t)(room->limit - room->base));
    return room->limit - len;
}
