/* SPDX-License-Identifier: MIT */
/*
 * Addresses of peers as text. A connection asks again and again: what was made is kept
 * until another peer takes its place.
 */
#ifndef FB_PYTHON_PEERS_H
#define FB_PYTHON_PEERS_H

#include "io/conn.h"
#include "python/state.h"

#define PY_PEERS 1024 /* a power of two */

typedef struct py_peer {
    struct sockaddr_in6 address; /* or a sockaddr_in, the rest zero */
    PyObject *host;              /* str, or NULL: no peer */
    PyObject *port;              /* str of digits */
} py_peer;

/* All zero is a valid empty table. */
typedef struct py_peers {
    py_peer items[PY_PEERS];
} py_peers;

/* Returns the peer of conn, valid until the next call; or NULL: with an exception set,
 * or without one when it has no address (unix). */
const py_peer *py_peers_find(py_peers *peers, const fb_conn *conn);

void py_peers_clear(py_peers *peers);

#endif
