/* SPDX-License-Identifier: MIT */
/*
 * Bodies that outlive the dispatch: an iterator that is streamed, or a large object
 * that is written without a copy. io sees them as fb_body; they are let go of when
 * attached.
 */
#ifndef FB_PYTHON_BODY_H
#define FB_PYTHON_BODY_H

#include "python/server.h"

struct py_body {
    py_server *server;  /* borrowed: it outlives its connections */
    py_body *next;      /* in server->released */
    PyObject *iterator; /* of a stream */
    PyObject *first;    /* its first item, taken already, or NULL */
    PyObject *object;   /* of bytes in place: a str that holds them, or NULL */
    Py_buffer view;     /* of bytes in place, when view.obj is set */
    fb_framing framing; /* of a stream */
    uint64_t missing;   /* with FB_FRAMING_LENGTH: bytes still promised */
};

/* Returns a body that streams iterator after first. Takes both, also on failure, which
 * is {0} with an exception set. */
fb_body py_body_stream(py_server *server, PyObject *iterator, PyObject *first,
                       fb_framing framing, uint64_t length);

/* Returns a body of bytes that stay where they are, in view (taken) or in object
 * (kept). On failure {0} with an exception set, and nothing was taken. */
fb_body py_body_in_place(py_server *server, Py_buffer *view, PyObject *object,
                         const char *data, size_t len);

/* Call close() of an iterator, if it has one. What it raises is logged. */
void py_body_close_iterator(py_server *server, PyObject *iterator);

/* Attached: let go of all that was released. */
void py_body_drop_released(py_server *server);

#endif
