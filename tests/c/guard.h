/* SPDX-License-Identifier: MIT */
/*
 * Room that ends where no byte may be read: a read past the input faults, whatever
 * compiled the code.
 */
#ifndef FB_TESTS_GUARD_H
#define FB_TESTS_GUARD_H

#include <stddef.h>

typedef struct guard {
    char *base;  /* first byte of the pages */
    char *limit; /* first byte of the PROT_NONE page behind them */
    size_t len;  /* bytes mapped, that page included */
} guard;

/* Make room for most bytes. Ends the program when there is no memory. */
void guard_init(guard *room, size_t most);
void guard_fini(guard *room);

/* Returns the place of a run of len bytes whose end is the limit. */
char *guard_place(const guard *room, size_t len);

#endif
