/* SPDX-License-Identifier: MIT */
/*
 * Threads of our own, which never run Python.
 */
#ifndef FB_IO_THREAD_H
#define FB_IO_THREAD_H

#include <uv.h>

/* Run run(arg) on a new thread with a small stack and no signals. Keeps arg until it is
 * joined. Returns 0 or libuv's error code. */
int fb_thread_start(uv_thread_t *thread, void (*run)(void *arg), void *arg);

#endif
