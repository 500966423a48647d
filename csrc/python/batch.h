/* SPDX-License-Identifier: MIT */
/*
 * Batch: what the dispatcher is given. It shows the slots for as long as the dispatch
 * lasts, to the thread that it was given to, and is empty afterwards.
 */
#ifndef FB_PYTHON_BATCH_H
#define FB_PYTHON_BATCH_H

#include "python/server.h"

#include <stdatomic.h>

struct py_batch {
    PyObject_HEAD
    atomic_ulong thread;   /* of the dispatch that it is shown to; of none later */
    py_executor *executor; /* borrowed; only while thread is that of the caller */
    uint32_t queue;        /* of the server: that which it was shown with last */
    bool sends_early;      /* a reply leaves although the dispatch goes on */
};

/* Returns a new Batch that shows nothing, or NULL with an exception set. */
py_batch *py_batch_new(const py_state *state);

/* A dispatch begins on the calling thread, and ends. */
void py_batch_begin(py_batch *batch, py_executor *executor);
void py_batch_end(py_batch *batch);

/* Returns what batch shows to the calling thread; NULL when that is nothing. */
py_executor *py_batch_executor(const py_batch *batch);

#endif
