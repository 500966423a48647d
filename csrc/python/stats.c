/* SPDX-License-Identifier: MIT */
/*
 * Counters as dicts: of each queue, and of all together. A total is made of the same
 * look at the counters as its parts.
 */
#include "python/stats.h"

/* A counter of fb_queue_stats, or n of them, by the name that Python has for it. */
typedef struct member {
    const char *name;
    size_t offset; /* in fb_queue_stats */
    size_t n;      /* 1: a number; otherwise a list of as many */
} member;

static const member members[] = {
    {"requests", offsetof(fb_queue_stats, n_requests), 1},
    {"batches", offsetof(fb_queue_stats, n_batches), 1},
    {"queue_ns", offsetof(fb_queue_stats, queue_ns), 1},
    {"handler_ns", offsetof(fb_queue_stats, handler_ns), 1},
    {"expired", offsetof(fb_queue_stats, n_expired), 1},
    {"refused", offsetof(fb_queue_stats, n_refused), 1},
    {"waiting", offsetof(fb_queue_stats, n_waiting), 1},
    {"batch_sizes", offsetof(fb_queue_stats, batch_sizes), FB_BATCH_SLOTS + 1},
    {"queue_times", offsetof(fb_queue_stats, queue_times), FB_QUEUE_BOUNDS + 1},
};
#define N_MEMBERS (sizeof(members) / sizeof(members[0]))

/* Numbers of one queue, or of all: as many as fb_queue_stats has, in its order. */
#define N_NUMBERS (sizeof(fb_queue_stats) / sizeof(fb_count))

static void
read_queue(const fb_queue_stats *queue, uint64_t *numbers)
{
    const fb_count *counts = (const fb_count *)queue;
    for (size_t i = 0; i < N_NUMBERS; i++) {
        numbers[i] = fb_count_get(&counts[i]);
    }
}

static PyObject *
list_of(const uint64_t *numbers, size_t n)
{
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(numbers[i]);
        if (count == NULL || PyList_SetItem(list, (Py_ssize_t)i, count) < 0) {
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

/* Put what was read of a queue, or of all, into dict. Returns as put. */
static int
put_numbers(PyObject *dict, const uint64_t *numbers)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < N_MEMBERS; i++) {
        const uint64_t *first = &numbers[members[i].offset / sizeof(fb_count)];
        PyObject *value = members[i].n == 1 ? PyLong_FromUnsignedLongLong(*first)
                                            : list_of(first, members[i].n);
        error = put(dict, members[i].name, value);
    }
    return error;
}

/* Returns a new list of the first n_queues, and adds all to totals; or NULL with an
 * exception set. */
static PyObject *
queues_of(const fb_stats *stats, size_t n_queues, uint64_t *totals)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < FB_QUEUES_BOUND; i++) {
        uint64_t numbers[N_NUMBERS];
        read_queue(&stats->queues[i], numbers);
        for (size_t k = 0; k < N_NUMBERS; k++) {
            totals[k] += numbers[k];
        }
        if (i < n_queues) {
            PyObject *dict = PyDict_New();
            if (dict == NULL || put_numbers(dict, numbers) < 0 ||
                PyList_Append(list, dict) < 0) {
                Py_CLEAR(list);
            }
            Py_XDECREF(dict);
        }
    }
    return list;
}

PyObject *
py_stats_dict(const fb_stats *stats, size_t n_queues)
{
    const struct {
        const char *name;
        const fb_count *count;
    } counts[] = {
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
        {"beat_ms", &stats->beat_ms},
    };
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint64_t n = fb_count_get(counts[i].count);
        if (put(dict, counts[i].name, PyLong_FromUnsignedLongLong(n)) < 0) {
            Py_CLEAR(dict);
        }
    }
    uint64_t totals[N_NUMBERS] = {0};
    if (dict != NULL && (put(dict, "queues", queues_of(stats, n_queues, totals)) < 0 ||
                         put_numbers(dict, totals) < 0 ||
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
py_stats_read(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *buffer;
    Py_ssize_t n_queues = 1;
    if (!PyArg_ParseTuple(args, "O|n:read_stats", &buffer, &n_queues)) {
        return NULL;
    }
    if (n_queues < 0 || n_queues > FB_QUEUES_BOUND) {
        PyErr_Format(PyExc_ValueError, "there are no more than %d queues",
                     FB_QUEUES_BOUND);
        return NULL;
    }
    Py_buffer view;
    const fb_stats *stats = py_stats_in(buffer, PyBUF_SIMPLE, &view);
    if (stats == NULL) {
        return NULL;
    }
    PyObject *dict = py_stats_dict(stats, (size_t)n_queues);
    PyBuffer_Release(&view);
    return dict;
}
