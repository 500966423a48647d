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

static bool
is_ignored(int number)
{
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static void
make_sigpipe(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGPIPE);
}

void
fb_sigpipe_block(fb_sigpipe *sigpipe)
{
    sigpipe->is_blocked = !is_ignored(SIGPIPE);
    if (sigpipe->is_blocked) {
        sigset_t set;
        make_sigpipe(&set);
        pthread_sigmask(SIG_BLOCK, &set, &sigpipe->before);
        sigpipe->is_blocked = !sigismember(&sigpipe->before, SIGPIPE);
    }
}

void
fb_sigpipe_unblock(const fb_sigpipe *sigpipe)
{
    if (sigpipe->is_blocked) {
        sigset_t set;
        make_sigpipe(&set);
        const struct timespec now = {0, 0};
        (void)sigtimedwait(&set, NULL, &now); /* it was raised, or not */
        pthread_sigmask(SIG_SETMASK, &sigpipe->before, NULL);
    }
}
