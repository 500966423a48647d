/* SPDX-License-Identifier: MIT */
/*
 * environ, PEP 3333 "environ Variables": a new dict for each request, copied from a
 * template that has what is the same for all requests of a listener.
 */
#ifndef FB_PYTHON_ENVIRON_H
#define FB_PYTHON_ENVIRON_H

#include "core/batch.h"
#include "python/names.h"
#include "python/peers.h"

/* The keys that are set for a request, interned. */
typedef enum py_key {
    PY_KEY_REQUEST_METHOD,
    PY_KEY_SERVER_PROTOCOL,
    PY_KEY_PATH_INFO,
    PY_KEY_QUERY_STRING,
    PY_KEY_REQUEST_URI,
    PY_KEY_CONTENT_LENGTH,
    PY_KEY_REMOTE_ADDR,
    PY_KEY_REMOTE_PORT,
    PY_KEY_WSGI_INPUT,
    PY_KEY_WSGI_URL_SCHEME,
    PY_N_KEYS,
} py_key;

typedef struct py_environ {
    PyObject *templates; /* a tuple of dicts, one for each listener */
    PyObject *root_path; /* bytes: what the path is taken off, or empty */
    PyObject *keys[PY_N_KEYS];
    PyObject *get;     /* "GET": the method of the templates */
    PyObject *slash;   /* "/": their PATH_INFO and REQUEST_URI */
    PyObject *http_10; /* "HTTP/1.0"; theirs is HTTP/1.1 */
    py_names names;
    py_peers peers;
} py_environ;

/* Make environ, all zero, of copies of templates; input is what those have that have no
 * body. Borrows all. Returns 0, or -1 with an exception set; clear takes what there is.
 */
int py_environ_init(py_environ *environ, PyObject *templates, const char *root_path,
                    PyObject *input);
void py_environ_clear(py_environ *environ);
int py_environ_traverse(const py_environ *environ, visitproc visit, void *arg);

/* Returns a new dict for the request in slot, or NULL with an exception set. Takes the
 * slot's file. */
PyObject *py_environ_make(py_environ *environ, const py_state *state, fb_slot *slot);

#endif
