/* SPDX-License-Identifier: MIT */
/*
 * Starting a thread.
 */
#include "io/thread.h"

#include <pthread.h>
#include <signal.h>

#define STACK_BYTES (128 * 1024) /* ours call nothing deep */

int
fb_thread_start(uv_thread_t *thread, void (*run)(void *arg), void *arg)
{
    /* Signals are for the threads of Python. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    uv_thread_options_t options = {
        .flags = UV_THREAD_HAS_STACK_SIZE,
        .stack_size = STACK_BYTES,
    };
    int error = uv_thread_create_ex(thread, &options, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
