/* SPDX-License-Identifier: MIT */
/*
 * Queues as Python gives them: a sequence of mappings, one for each.
 */
#ifndef FB_PYTHON_QUEUES_H
#define FB_PYTHON_QUEUES_H

#include "core/route.h"
#include "io/queue.h"
#include "python/compat.h"

typedef struct py_queues {
    fb_queue_rules rules[FB_QUEUES_BOUND];
    size_t n_rules;
    fb_route *routes; /* of all queues */
    size_t n_routes;
    PyObject *paths; /* a list of the bytes that routes point into */
} py_queues;

/* Read queues, which are zeroed. Borrows given. Returns 0, or -1 with an exception set:
 * KeyError for what is missing, TypeError or ValueError for what cannot be;
 * py_queues_fini must follow either way. */
int py_queues_read(PyObject *given, py_queues *queues);
void py_queues_fini(py_queues *queues);

#endif
