/* SPDX-License-Identifier: MIT */
/*
 * Request: a window on one slot, and on a copy of its own once the dispatch is over.
 *
 * Every attribute is made when first read. A worker reuses the same objects batch after
 * batch; one that the handler kept is given its own copy and left to the handler.
 */
#ifndef FB_PYTHON_REQUEST_H
#define FB_PYTHON_REQUEST_H

#include "io/conn.h"
#include "python/state.h"

typedef struct py_request {
    PyObject_HEAD
    const fb_request *req; /* the slot's, or in own */
    const char *data;      /* the message's first byte, or in own */
    fb_slot *slot;         /* during the dispatch; NULL later */
    int file;              /* of a spooled body, later; ours; or -1 */
    void *own;             /* the copy, or NULL */
    PyObject *target;      /* these five: made when first read, or NULL */
    PyObject *path;
    PyObject *query_string;
    PyObject *body;
    PyObject *client;
} py_request;

/* Returns a new Request that shows nothing yet, or NULL with an exception set. */
py_request *py_request_new(const py_state *state);

/* Show a slot. Keeps slot until py_request_part. */
void py_request_show(py_request *request, fb_slot *slot);

/* The dispatch is over. Takes request: forgotten values and true when it may show
 * another slot; false when the handler kept it, which then has its own copy (or,
 * without memory for that, is empty). */
bool py_request_part(py_request *request);

/* Returns the body as bytes, the same at every call; or NULL with an exception set. */
PyObject *py_request_body(py_request *request);

/* Returns bytes parsed as JSON, or NULL with an exception set: a ValueError when they
 * are none. */
PyObject *py_request_parse(const py_state *state, PyObject *body);

#endif
