/* SPDX-License-Identifier: MIT */
/*
 * The table of peers, by a hash of address and port.
 */
#include "python/peers.h"

/* The connections of one client differ in the port alone, the clients of one proxy in
 * the address alone. A multiplication mixes the bits of both into the upper ones. */
static size_t
place_of(const fb_address *address)
{
    uint64_t halves[2];
    memcpy(halves, address->bytes, sizeof(halves));
    uint64_t mixed = (halves[0] ^ halves[1]) * 0x9e3779b97f4a7c15;
    return (size_t)((mixed >> 32) + address->port) % PY_PEERS;
}

/* Returns a new str of digits, or NULL with an exception set. */
static PyObject *
make_port(uint16_t port)
{
    return PyUnicode_FromFormat("%d", (int)port);
}

/* Returns 0, or -1 with an exception set and peer empty. */
static int
fill(py_peer *peer, const fb_address *address)
{
    char host[FB_ADDRESS_TEXT_BYTES];
    fb_address_write(address, host);
    Py_XSETREF(peer->host, PyUnicode_FromString(host));
    Py_XSETREF(peer->port, address->port != 0 ? make_port(address->port) : NULL);
    peer->address = *address;
    if (PyErr_Occurred()) {
        Py_CLEAR(peer->host);
        Py_CLEAR(peer->port);
        return -1;
    }
    return 0;
}

const py_peer *
py_peers_find(py_peers *peers, const fb_address *address)
{
    if (address->family == FB_FAMILY_NONE) {
        return NULL;
    }
    py_peer *peer = &peers->items[place_of(address)];
    if (peer->host == NULL || !fb_address_equals(&peer->address, address)) {
        return fill(peer, address) < 0 ? NULL : peer;
    }
    return peer;
}

void
py_peers_clear(py_peers *peers)
{
    for (size_t i = 0; i < PY_PEERS; i++) {
        Py_CLEAR(peers->items[i].host);
        Py_CLEAR(peers->items[i].port);
    }
}
