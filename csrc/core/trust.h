/* SPDX-License-Identifier: MIT */
/*
 * Whom to believe what they say of others: a list of networks.
 */
#ifndef FB_CORE_TRUST_H
#define FB_CORE_TRUST_H

#include "core/address.h"
#include "core/limits.h"

typedef struct fb_network {
    fb_address address; /* what is behind the prefix does not count */
    size_t prefix;      /* bits */
} fb_network;

/* All zero trusts nobody. */
typedef struct fb_trust {
    bool has_all;  /* "*" */
    bool has_unix; /* "unix": peers of unix sockets */
    size_t n_networks;
    fb_network networks[FB_MAX_NETWORKS];
} fb_trust;

/* Add what text says, parted by commas: an address, address/prefix, "unix" or "*";
 * empty text is nobody. Borrows text. Returns false when it is malformed, or more than
 * there is room for. */
bool fb_trust_read(fb_trust *trust, const char *text);

/* Returns whether address is trusted. An IPv4 address that is mapped into IPv6 counts
 * as both. Borrows both. */
bool fb_trust_has(const fb_trust *trust, const fb_address *address);

#endif
