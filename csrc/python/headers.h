/* SPDX-License-Identifier: MIT */
/*
 * Headers: the fields of a Request as a case-insensitive mapping. Nothing is built: a
 * look-up compares the spans in place.
 */
#ifndef FB_PYTHON_HEADERS_H
#define FB_PYTHON_HEADERS_H

#include "python/request.h"

/* Returns a new Headers of request, or NULL with an exception set. Keeps request. */
PyObject *py_headers_new(const py_state *state, py_request *request);

#endif
