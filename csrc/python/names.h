/* SPDX-License-Identifier: MIT */
/*
 * CGI names of header fields, RFC 3875 4.1.18: "User-Agent" is HTTP_USER_AGENT. The str
 * of a name is made once, and so is that of a value that comes again and again.
 */
#ifndef FB_PYTHON_NAMES_H
#define FB_PYTHON_NAMES_H

#include "core/request.h"
#include "python/state.h"

#define PY_NAMES 256 /* a power of two */

/* What a field's name is in environ, and the value that it had last. */
typedef struct py_name {
    PyObject *key;    /* a str, or NULL */
    PyObject *value;  /* a str, or NULL */
    bool keeps_value; /* it often comes again, and is no secret */
} py_name;

/* A table that forgets: a name takes the place of another that has the same hash. All
 * zero is a valid empty table. */
typedef struct py_names {
    py_name items[PY_NAMES];
} py_names;

/* Put in, interned as they are in applications, the names that are frequent. Returns 0,
 * or -1 with an exception set. */
int py_names_init(py_names *names);

/* Returns the key of a field's name, a new reference; or NULL with an exception set.
 * *item is its place in the table, or NULL when it has none. */
PyObject *py_names_key(py_names *names, const char *name, size_t len, py_name **item);

/* Returns the value of a field as a str, a new reference; or NULL with an exception
 * set. item is what py_names_key gave. */
PyObject *py_names_value(py_name *item, const char *value, size_t len);

void py_names_clear(py_names *names);

#endif
