/* SPDX-License-Identifier: MIT */
/*
 * Batch: what the dispatcher is given. It shows the slots for as long as the dispatch
 * lasts, and is empty afterwards.
 */
#ifndef FB_PYTHON_BATCH_H
#define FB_PYTHON_BATCH_H

#include "python/server.h"

struct py_batch {
    PyObject_HEAD
    py_server *server; /* borrowed, during a dispatch; NULL at other times */
    size_t n_slots;    /* during a dispatch; 0 at other times */
};

/* Returns a new Batch that shows nothing, or NULL with an exception set. */
py_batch *py_batch_new(const py_state *state);

#endif
