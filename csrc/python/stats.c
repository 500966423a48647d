/* SPDX-License-Identifier: MIT */
/*
 * Counters as a dict.
 */
#include "python/stats.h"

static PyObject *
list_batch_sizes(const fb_stats *stats)
{
    PyObject *sizes = PyList_New(FB_BATCH_SLOTS + 1);
    for (Py_ssize_t i = 0; sizes != NULL && i <= FB_BATCH_SLOTS; i++) {
        PyObject *count =
            PyLong_FromUnsignedLongLong(fb_count_get(&stats->batch_sizes[i]));
        if (count == NULL || PyList_SetItem(sizes, i, count) < 0) {
            Py_CLEAR(sizes);
        }
    }
    return sizes;
}

/* Returns 0, or -1 with an exception set. */
static int
put_count(PyObject *dict, const char *name, const fb_count *count)
{
    PyObject *number = PyLong_FromUnsignedLongLong(fb_count_get(count));
    int error = number != NULL ? PyDict_SetItemString(dict, name, number) : -1;
    Py_XDECREF(number);
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
        {"bytes_received", &stats->n_bytes_received},
        {"bytes_sent", &stats->n_bytes_sent},
        {"rejected", &stats->n_rejected},
        {"timed_out", &stats->n_timed_out},
        {"overloaded", &stats->n_overloaded},
        {"spooled", &stats->n_spooled},
        {"fields_dropped", &stats->n_fields_dropped},
        {"log_lines_dropped", &stats->n_lines_lost},
        {"allocations", &stats->n_taken},
        {"beat_ms", &stats->beat_ms},
    };
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof(counts) / sizeof(counts[0]); i++) {
        if (put_count(dict, counts[i].name, counts[i].count) < 0) {
            Py_CLEAR(dict);
        }
    }
    PyObject *sizes = dict != NULL ? list_batch_sizes(stats) : NULL;
    if (sizes == NULL || PyDict_SetItemString(dict, "batch_sizes", sizes) < 0) {
        Py_CLEAR(dict);
    }
    Py_XDECREF(sizes);
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
