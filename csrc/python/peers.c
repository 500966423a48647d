/* SPDX-License-Identifier: MIT */
/*
 * The table of peers, by a hash of address and port.
 */
#include "python/peers.h"

static uint16_t
port_of(const struct sockaddr_in6 *address)
{
    const struct sockaddr_in *v4 = (const void *)address;
    return ntohs(address->sin6_family == AF_INET6 ? address->sin6_port : v4->sin_port);
}

/* The port alone: the connections of one client differ in it. */
static size_t
place_of(const struct sockaddr_in6 *address)
{
    return port_of(address) % PY_PEERS;
}

/* Returns 0, or -1 with an exception set and peer empty. */
static int
fill(py_peer *peer, const struct sockaddr_in6 *address)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const void *)address;
    int error = address->sin6_family == AF_INET6
                    ? uv_ip6_name(address, host, sizeof(host))
                    : uv_ip4_name(v4, host, sizeof(host));
    Py_XSETREF(peer->host, PyUnicode_FromString(error == 0 ? host : ""));
    Py_XSETREF(peer->port, PyUnicode_FromFormat("%d", (int)port_of(address)));
    peer->address = *address;
    if (peer->host == NULL || peer->port == NULL) {
        Py_CLEAR(peer->host);
        Py_CLEAR(peer->port);
        return -1;
    }
    return 0;
}

const py_peer *
py_peers_find(py_peers *peers, const fb_conn *conn)
{
    const struct sockaddr_in6 *address = fb_conn_peer(conn);
    if (address == NULL) {
        return NULL;
    }
    py_peer *peer = &peers->items[place_of(address)];
    if (peer->host == NULL || memcmp(&peer->address, address, sizeof(*address)) != 0) {
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
