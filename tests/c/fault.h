/* SPDX-License-Identifier: MIT */
/*
 * Memory that runs out on demand. Programs that link fault.c do it with
 * -Wl,--wrap=calloc,--wrap=realloc.
 */
#ifndef FB_TESTS_FAULT_H
#define FB_TESTS_FAULT_H

#include <stddef.h>

/* The nth calloc or realloc from now fails, and it alone; 0: none does. */
void fault_set(size_t nth);

/* Returns whether the fault that was set has happened. */
int fault_happened(void);

#endif
