/* SPDX-License-Identifier: MIT */
/*
 * What proxies say, from any bytes, with no read outside the input: the verdict on a
 * PROXY header is the same in any split, and several X-Forwarded-For fields say what
 * one field that joins them does.
 *
 * The input is taken as a header, as the lines of fields, and as a list of networks.
 */
#include "core/forwarded.h"
#include "core/proxy.h"
#include "guard.h"

#include <stdlib.h>

#define MOST_INPUT (FB_PROXY_HEADER_BYTES + 64)
#define MOST_FIELDS 8
#define NAME "X-Forwarded-For"
#define NAME_BYTES 15

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert: it must hold in any build. */
static void
require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void
check_address(const fb_address *address)
{
    char text[FB_ADDRESS_TEXT_BYTES];
    fb_address again;
    fb_address_write(address, text);
    if (address->family == FB_FAMILY_NONE) {
        require(text[0] == '\0');
        return;
    }
    require(fb_address_parse(&again, text, strlen(text)));
    again.port = address->port;
    require(fb_address_equals(address, &again));
}

/* ---- a PROXY header -------------------------------------------------------------- */

static fb_proxy_verdict
judge(const guard *room, const uint8_t *data, size_t len, fb_proxy *proxy)
{
    char *place = guard_place(room, len);
    memcpy(place, data, len);
    return fb_proxy_parse(place, len, proxy);
}

static void
check_header(const guard *room, const uint8_t *data, size_t size)
{
    fb_proxy whole;
    fb_proxy part;
    fb_proxy_verdict verdict = judge(room, data, size, &whole);
    size_t end = size;
    if (verdict == FB_PROXY_DONE) {
        require(whole.len > 0 && whole.len <= size);
        end = whole.len;
        require(judge(room, data, end, &part) == FB_PROXY_DONE);
        require(part.len == whole.len && part.origin == whole.origin);
        if (whole.origin == FB_PROXY_CLIENT) {
            check_address(&whole.client);
            require(fb_address_equals(&part.client, &whole.client));
        }
    }
    bool was_bad = false;
    for (size_t len = 0; len < end; len++) {
        fb_proxy_verdict early = judge(room, data, len, &part);
        require(early != FB_PROXY_DONE);
        require(early == FB_PROXY_BAD || !was_bad);
        was_bad = early == FB_PROXY_BAD;
    }
    require(!was_bad || verdict == FB_PROXY_BAD);
}

/* ---- fields ---------------------------------------------------------------------- */

/* Lay out one field behind the others. */
static size_t
add_field(char *message, size_t at, const uint8_t *value, size_t len, fb_request *req)
{
    memcpy(message + at, NAME, NAME_BYTES);
    memcpy(message + at + NAME_BYTES, value, len);
    req->headers[req->n_headers++] = (fb_header){
        .name = {(uint32_t)at, NAME_BYTES},
        .value = {(uint32_t)at + NAME_BYTES, (uint32_t)len},
    };
    return at + NAME_BYTES + len;
}

static bool
read_one_field(const guard *room, const fb_trust *trust, const uint8_t *value,
               size_t len, fb_forwarded *to)
{
    static fb_request req;
    char *message = guard_place(room, NAME_BYTES + len);
    req.n_headers = 0;
    add_field(message, 0, value, len, &req);
    return fb_forwarded_read(trust, message, &req, to);
}

/* Each line is a field. */
static bool
read_lines(const guard *room, const fb_trust *trust, const uint8_t *data, size_t size,
           fb_forwarded *to)
{
    static fb_request req;
    static char message[MOST_INPUT + MOST_FIELDS * NAME_BYTES];
    size_t len = 0;
    size_t begin = 0;
    req.n_headers = 0;
    for (size_t i = 0; i <= size; i++) {
        bool is_last = req.n_headers == MOST_FIELDS - 1;
        if (i == size || (data[i] == '\n' && !is_last)) {
            len = add_field(message, len, data + begin, i - begin, &req);
            begin = i + 1;
        }
    }
    char *place = guard_place(room, len);
    memcpy(place, message, len);
    return fb_forwarded_read(trust, place, &req, to);
}

static void
check_fields(const guard *room, const uint8_t *data, size_t size)
{
    static fb_trust trust;
    static uint8_t joined[MOST_INPUT];
    fb_forwarded one;
    fb_forwarded several;
    memset(&trust, 0, sizeof(trust));
    require(fb_trust_read(&trust, "10.0.0.0/8,::1,1.2.3.4"));
    size_t n_joined = 0;
    for (size_t i = 0; i < size; i++) {
        bool joins = data[i] == '\n' && ++n_joined < MOST_FIELDS;
        joined[i] = joins ? ',' : data[i];
    }
    bool ok = read_lines(room, &trust, data, size, &several);
    require(ok == read_one_field(room, &trust, joined, size, &one));
    require(!ok || one.has_client == several.has_client);
    if (ok && one.has_client) {
        require(fb_address_equals(&one.client, &several.client));
        check_address(&one.client);
    }
}

/* ---- networks -------------------------------------------------------------------- */

static void
check_networks(const guard *room, const uint8_t *data, size_t size)
{
    static fb_trust trust;
    char *list = guard_place(room, size + 1);
    memcpy(list, data, size);
    list[size] = '\0';
    memset(&trust, 0, sizeof(trust));
    if (!fb_trust_read(&trust, list)) {
        return;
    }
    for (size_t i = 0; i < trust.n_networks; i++) {
        require(fb_trust_has(&trust, &trust.networks[i].address));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static guard room;
    if (room.base == NULL) {
        guard_init(&room, MOST_INPUT + MOST_FIELDS * NAME_BYTES);
    }
    if (size < MOST_INPUT) {
        check_header(&room, data, size);
        check_fields(&room, data, size);
        check_networks(&room, data, size);
    }
    return 0;
}
