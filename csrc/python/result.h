/* SPDX-License-Identifier: MIT */
/*
 * What a WSGI application returned: an iterable of bytes, of which as much is read as
 * shows how it is to be answered.
 */
#ifndef FB_PYTHON_RESULT_H
#define FB_PYTHON_RESULT_H

#include "python/state.h"

#include <stdbool.h>

/* All zero but for object and its context is one that is not read yet. */
typedef struct py_result {
    PyObject *object;   /* what was returned; NULL: nothing, it raised */
    PyObject *iterator; /* of what is no list; or NULL */
    PyObject *body;    /* the first item that is not empty, or all of a list; or NULL */
    Py_buffer view;    /* of body, when view.obj is set */
    bool is_whole;     /* nothing comes behind body */
    bool is_handed_on; /* a body of the connection calls close() of object */
    PyObject *context; /* of contextvars: what it runs in */
    bool is_inside;    /* context is entered */
} py_result;

/* Let go of all. */
void py_result_fini(py_result *result);

/* Returns whether object is a list or a tuple: all there, and with nothing to close. */
bool py_result_is_list(const py_result *result);

/* Read all of a list, or of another iterable the first item that is not empty; if there
 * is none for a while, body stays NULL, and is_whole false. Returns 0, or -1 with an
 * exception set. */
int py_result_read(const py_state *state, py_result *result);

#endif
