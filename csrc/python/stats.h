/* SPDX-License-Identifier: MIT */
/*
 * What servers count, for Python: from their own memory, or from memory that several
 * processes share.
 */
#ifndef FB_PYTHON_STATS_H
#define FB_PYTHON_STATS_H

#include "io/stats.h"
#include "python/compat.h"

#include <stdbool.h>

/* Returns a new dict, or NULL with an exception set. Its "queues" are the first
 * n_queues, each a dict; what these count is there for all queues together, too. */
PyObject *py_stats_dict(const fb_stats *stats, size_t n_queues);

/* Find the stats in the memory of object, with flags as for PyObject_GetBuffer. Returns
 * them, valid until view is released; or NULL with an exception set. */
fb_stats *py_stats_in(PyObject *object, int flags, Py_buffer *view);

/* Returns fb_queue_bounds_us as a new tuple, or NULL with an exception set. */
PyObject *py_stats_queue_bounds(void);

/* read_stats(buffer, n_queues=1, /) of the module. */
PyObject *py_stats_read(PyObject *module, PyObject *args);

#endif
