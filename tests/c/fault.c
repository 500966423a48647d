/* SPDX-License-Identifier: MIT */
/*
 * The linker puts these before the allocator's own.
 */
#include "fault.h"

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t size);

static size_t countdown; /* calls to the fault, it included; 0: none is to come */
static int has_happened;

void
fault_set(size_t nth)
{
    countdown = nth;
    has_happened = 0;
}

int
fault_happened(void)
{
    return has_happened;
}

static int
is_due(void)
{
    if (countdown == 0 || --countdown > 0) {
        return 0;
    }
    has_happened = 1;
    return 1;
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return is_due() ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *block, size_t size)
{
    return is_due() ? NULL : __real_realloc(block, size);
}
