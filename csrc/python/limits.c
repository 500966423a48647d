/* SPDX-License-Identifier: MIT */
/*
 * The table of limits that can be set. The Python layer says what is allowed, option by
 * option; the bounds here only keep C safe.
 */
#include "python/limits.h"

#include <stddef.h>

typedef enum kind {
    KIND_INT,
    KIND_SIZE,
    KIND_64_BITS,
} kind;

typedef struct settable {
    const char *name;
    size_t offset; /* of the field, in fb_limits */
    kind kind;     /* of its type */
    uint64_t least;
    uint64_t most;
} settable;

static const settable settables[] = {
    {"batch_size", offsetof(fb_limits, batch_size), KIND_SIZE, 1, FB_BATCH_SLOTS},
    {"backlog", offsetof(fb_limits, backlog), KIND_INT, 1, FB_BACKLOG_BOUND},
    {"threads", offsetof(fb_limits, threads), KIND_SIZE, 0, FB_THREADS_BOUND},
    {"max_target", offsetof(fb_limits, max_target), KIND_SIZE, 1, FB_HEAD_BOUND},
    {"max_headers", offsetof(fb_limits, max_headers), KIND_SIZE, 1, FB_HEADERS_BOUND},
    {"max_head", offsetof(fb_limits, max_head), KIND_SIZE, 1, FB_HEAD_BOUND},
    {"max_body", offsetof(fb_limits, max_body), KIND_64_BITS, 0, FB_BODY_BOUND},
    {"max_body_memory", offsetof(fb_limits, max_body_memory), KIND_SIZE, 0,
     FB_BODY_MEMORY_BOUND},
    {"max_connections", offsetof(fb_limits, max_connections), KIND_SIZE, 1,
     FB_CONNECTIONS_BOUND},
    {"max_keepalive_requests", offsetof(fb_limits, max_keepalive_requests), KIND_SIZE,
     1, FB_KEEPALIVE_REQUESTS_BOUND},
    {"max_input_memory", offsetof(fb_limits, max_input_memory), KIND_64_BITS, 0,
     FB_INPUT_MEMORY_BOUND},
    {"min_rate", offsetof(fb_limits, min_rate), KIND_64_BITS, 0, FB_RATE_BOUND},
    {"keepalive_timeout_ms", offsetof(fb_limits, keepalive_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
    {"head_timeout_ms", offsetof(fb_limits, head_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
    {"body_timeout_ms", offsetof(fb_limits, body_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
    {"write_timeout_ms", offsetof(fb_limits, write_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
    {"queue_timeout_ms", offsetof(fb_limits, queue_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
    {"graceful_timeout_ms", offsetof(fb_limits, graceful_timeout_ms), KIND_64_BITS, 0,
     FB_TIMEOUT_BOUND_MS},
};

static void
store(const settable *rule, fb_limits *limits, uint64_t value)
{
    void *field = (char *)limits + rule->offset;
    switch (rule->kind) {
    case KIND_INT:
        *(int *)field = (int)value;
        break;
    case KIND_SIZE:
        *(size_t *)field = (size_t)value;
        break;
    case KIND_64_BITS:
        *(uint64_t *)field = value;
        break;
    }
}

static int
read_one(PyObject *mapping, const settable *rule, fb_limits *limits)
{
    PyObject *number = PyMapping_GetItemString(mapping, rule->name);
    if (number == NULL) {
        return -1;
    }
    uint64_t value = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (value < rule->least || value > rule->most) {
        PyErr_Format(PyExc_ValueError, "the limit %s is out of its bounds", rule->name);
        return -1;
    }
    store(rule, limits, value);
    return 0;
}

int
py_limits_read(PyObject *mapping, fb_limits *limits)
{
    for (size_t i = 0; i < sizeof(settables) / sizeof(settables[0]); i++) {
        if (read_one(mapping, &settables[i], limits) < 0) {
            return -1;
        }
    }
    return 0;
}
