/* SPDX-License-Identifier: MIT */
/*
 * Gateway: the dispatcher for a WSGI application, PEP 3333. It is called with a batch,
 * calls the application once for each slot, and answers.
 */
#ifndef FB_PYTHON_GATEWAY_H
#define FB_PYTHON_GATEWAY_H

#include "python/environ.h"
#include "python/start.h"

typedef struct py_gateway {
    PyObject_HEAD
    const py_state *state; /* the type keeps its module alive */
    PyObject *application;
    PyObject *file_wrapper; /* the type of environ["wsgi.file_wrapper"] */
    PyObject *report;       /* report(request, error): log what went wrong */
    py_start *start;        /* for reuse, or NULL */
    py_environ environ;
} py_gateway;

#endif
