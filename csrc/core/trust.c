/* SPDX-License-Identifier: MIT */
/*
 * Networks: reading and matching.
 */
#include "core/trust.h"

/* ---- reading --------------------------------------------------------------------- */

/* A prefix is read as a port is: both are whole numbers without leading zeros. */
static bool
read_network(fb_network *network, const char *text, size_t len)
{
    const char *slash = memchr(text, '/', len);
    size_t address_len = slash != NULL ? (size_t)(slash - text) : len;
    if (!fb_address_parse(&network->address, text, address_len)) {
        return false;
    }
    size_t most = network->address.family == FB_FAMILY_V4 ? 32 : 128;
    network->prefix = most;
    if (slash == NULL) {
        return true;
    }
    uint16_t prefix;
    if (!fb_port_parse(&prefix, slash + 1, len - address_len - 1)) {
        return false;
    }
    network->prefix = prefix;
    return prefix <= most;
}

static bool
read_item(fb_trust *trust, const char *text, size_t len)
{
    if (len == 1 && text[0] == '*') {
        trust->has_all = true;
        return true;
    }
    if (len == 4 && memcmp(text, "unix", 4) == 0) {
        trust->has_unix = true;
        return true;
    }
    return trust->n_networks < FB_MAX_NETWORKS &&
           read_network(&trust->networks[trust->n_networks++], text, len);
}

bool
fb_trust_read(fb_trust *trust, const char *text)
{
    if (text[0] == '\0') {
        return true;
    }
    for (;;) {
        size_t len = strcspn(text, ",");
        if (!read_item(trust, text, len)) {
            return false;
        }
        if (text[len] == '\0') {
            return true;
        }
        text += len + 1;
    }
}

/* ---- matching -------------------------------------------------------------------- */

static bool
is_in_network(const fb_network *network, const fb_address *address)
{
    size_t whole = network->prefix / 8;
    size_t left = network->prefix % 8;
    if (address->family != network->address.family ||
        memcmp(address->bytes, network->address.bytes, whole) != 0) {
        return false;
    }
    if (left == 0) {
        return true;
    }
    uint8_t differing = address->bytes[whole] ^ network->address.bytes[whole];
    return differing >> (8 - left) == 0;
}

/* Returns whether address is ::ffff:a.b.c.d, RFC 4291 2.5.5.2, and sets v4 to a.b.c.d.
 */
static bool
unmap(const fb_address *address, fb_address *v4)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (address->family != FB_FAMILY_V6 || memcmp(address->bytes, mapped, 12) != 0) {
        return false;
    }
    *v4 = fb_address_make(FB_FAMILY_V4, address->bytes + 12, address->port);
    return true;
}

static bool
has_network_of(const fb_trust *trust, const fb_address *address)
{
    for (size_t i = 0; i < trust->n_networks; i++) {
        if (is_in_network(&trust->networks[i], address)) {
            return true;
        }
    }
    return false;
}

bool
fb_trust_has(const fb_trust *trust, const fb_address *address)
{
    fb_address v4;
    if (trust->has_all) {
        return true;
    }
    if (address->family == FB_FAMILY_NONE) {
        return trust->has_unix;
    }
    return has_network_of(trust, address) ||
           (unmap(address, &v4) && has_network_of(trust, &v4));
}
