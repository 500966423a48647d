/* SPDX-License-Identifier: MIT */
/*
 * Counters as a dict.
 */
#include "python/stats.h"

static PyObject *
list_of(const fb_count *counts, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(fb_count_get(&counts[i]));
        if (count == NULL || PyList_SetItem(list, i, count) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* Returns a new dict of those statuses that have occurred, or NULL with an exception
 * set. */
static PyObject *
replies_of(const fb_stats *stats)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < FB_STATUSES; i++) {
        uint64_t n = fb_count_get(&stats->replies[i]);
        if (n == 0) {
            continue;
        }
        PyObject *status = PyLong_FromLong(FB_STATUS_MIN + i);
        PyObject *count = PyLong_FromUnsignedLongLong(n);
        if (status == NULL || count == NULL ||
            PyDict_SetItem(dict, status, count) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(status);
        Py_XDECREF(count);
    }
    return dict;
}

/* Takes value, which may be NULL with an exception set. Returns 0, or -1 with an
 * exception set. */
static int
put(PyObject *dict, const char *name, PyObject *value)
{
    int error = value != NULL ? PyDict_SetItemString(dict, name, value) : -1;
    Py_XDECREF(value);
    return error;
}

PyObject *
py_stats_dict(const fb_stats *stats)
{
    const struct {
        const char *name;
        const fb_count *count;
    } counts[] = {
        {"requests", &stats->n_requests},
        {"batches", &stats->n_batches},
        {"connections", &stats->n_conns},
        {"open_connections", &stats->n_open},
        {"slots_in_use", &stats->n_slots},
        {"bytes_received", &stats->n_bytes_received},
        {"bytes_sent", &stats->n_bytes_sent},
        {"rejected", &stats->n_rejected},
        {"timed_out", &stats->n_timed_out},
        {"overloaded", &stats->n_overloaded},
        {"spooled", &stats->n_spooled},
        {"fields_dropped", &stats->n_fields_dropped},
        {"log_lines_dropped", &stats->n_lines_lost},
        {"allocations", &stats->n_taken},
        {"queue_ns", &stats->queue_ns},
        {"handler_ns", &stats->handler_ns},
        {"beat_ms", &stats->beat_ms},
    };
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint64_t n = fb_count_get(counts[i].count);
        if (put(dict, counts[i].name, PyLong_FromUnsignedLongLong(n)) < 0) {
            Py_CLEAR(dict);
        }
    }
    if (dict != NULL && (put(dict, "batch_sizes",
                             list_of(stats->batch_sizes, FB_BATCH_SLOTS + 1)) < 0 ||
                         put(dict, "queue_times",
                             list_of(stats->queue_times, FB_QUEUE_BOUNDS + 1)) < 0 ||
                         put(dict, "replies", replies_of(stats)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

fb_stats *
py_stats_in(PyObject *object, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, flags) < 0) {
        view->obj = NULL;
        return NULL;
    }
    bool is_aligned = (uintptr_t)view->buf % _Alignof(fb_stats) == 0;
    if (view->len < (Py_ssize_t)sizeof(fb_stats) || !is_aligned) {
        PyBuffer_Release(view);
        PyErr_Format(PyExc_ValueError, "stats take %zu bytes, aligned to %zu",
                     sizeof(fb_stats), _Alignof(fb_stats));
        return NULL;
    }
    return view->buf;
}

PyObject *
py_stats_queue_bounds(void)
{
    PyObject *bounds = PyTuple_New(FB_QUEUE_BOUNDS);
    for (Py_ssize_t i = 0; bounds != NULL && i < FB_QUEUE_BOUNDS; i++) {
        PyObject *bound = PyLong_FromUnsignedLong(fb_queue_bounds_us[i]);
        if (bound == NULL || PyTuple_SetItem(bounds, i, bound) < 0) {
            Py_CLEAR(bounds);
        }
    }
    return bounds;
}

PyObject *
py_stats_read(PyObject *module, PyObject *buffer)
{
    (void)module;
    Py_buffer view;
    const fb_stats *stats = py_stats_in(buffer, PyBUF_SIMPLE, &view);
    if (stats == NULL) {
        return NULL;
    }
    PyObject *dict = py_stats_dict(stats);
    PyBuffer_Release(&view);
    return dict;
}
