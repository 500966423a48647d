/* SPDX-License-Identifier: MIT */
/*
 * The system calls of core, io and libuv, as a fuzzer wants them: the clock stands
 * still until it is told, and the next call of a kind fails when it is told to.
 *
 * All else goes to the real kernel. Programs that link kernel.c do it with
 * LINK_FAULTS_kernel of the Makefile. One thread alone.
 */
#ifndef FB_TESTS_KERNEL_H
#define FB_TESTS_KERNEL_H

#include "core/heap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kernel_call {
    KERNEL_READ,   /* from a connection */
    KERNEL_WRITE,  /* to a connection, sendfile left out */
    KERNEL_ACCEPT, /* accept4 */
    KERNEL_SENDFILE,
    KERNEL_OPEN,  /* of a temporary file */
    KERNEL_STORE, /* write to a temporary file */
    KERNEL_PREAD,
    KERNEL_OUTQ, /* ioctl: what the peer has not read */
    KERNEL_CALLS,
} kernel_call;

/* Everything as it was at first, and at the clock's first moment. Keeps heap, the one
 * that can run out, until kernel_end. on_quiet_poll is called when a poll of the loop
 * gave no events. */
void kernel_begin(const fb_heap *heap, void (*on_quiet_poll)(void));

/* From now on all calls are real. */
void kernel_end(void);

/* The nth call of the kind from now, 1 the next, does as how says: a number of a list
 * of ways that ends in errors which end a connection. One at a time for each kind. */
void kernel_fail(kernel_call call, unsigned how, unsigned nth);

/* The nth block that is taken from heap from now is not to be had; 0: all are. */
void kernel_fail_memory(unsigned nth);

/* What was to fail and did not yet is not to. */
void kernel_calm(void);

/* Returns whether something failed that may end a connection early. */
bool kernel_has_failed(void);

/* Returns whether a body may have failed to be stored. */
bool kernel_has_failed_to_store(void);

/* Let time pass; a timer may come. */
void kernel_pass_ms(uint64_t ms);

/* How long each look at the clock takes, nanoseconds. */
void kernel_slow_looks(uint64_t ns);

/* How much sockets that are accepted from now on hold, bytes; 0: as the kernel has it.
 */
void kernel_narrow(int bytes);

/* Returns how many events the last poll gave. */
int kernel_events(void);

/* Returns when the timer comes that was set to a time of the clock, or came, if nobody
 * has read that, nanoseconds; UINT64_MAX: never. */
uint64_t kernel_timer_at(void);

/* Returns a file without a name; of the real kernel. */
int kernel_new_file(void);

#endif
