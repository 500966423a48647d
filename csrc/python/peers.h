/* SPDX-License-Identifier: MIT */
/*
 * Addresses of peers as text. A connection asks again and again: what was made is kept
 * until another peer takes its place.
 */
#ifndef FB_PYTHON_PEERS_H
#define FB_PYTHON_PEERS_H

#include "core/address.h"
#include "python/state.h"

#define PY_PEERS 1024 /* a power of two */

typedef struct py_peer {
    fb_address address;
    PyObject *host; /* str, or NULL: no peer */
    PyObject *port; /* str of digits, or NULL: it is not known */
} py_peer;

/* All zero is a valid empty table. */
typedef struct py_peers {
    py_peer items[PY_PEERS];
} py_peers;

/* Returns the peer with address, valid until the next call; or NULL: with an exception
 * set, or without one when it is of no family (unix). Borrows address. */
const py_peer *py_peers_find(py_peers *peers, const fb_address *address);

void py_peers_clear(py_peers *peers);

#endif
