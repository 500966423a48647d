/* SPDX-License-Identifier: MIT */
/*
 * Reading the fields of proxies, from the last to the first.
 */
#include "core/forwarded.h"

#include "core/token.h"

/* ---- X-Forwarded-For ------------------------------------------------------------- */

/* "[v6]" or "[v6]:port". */
static bool
parse_bracketed(fb_address *to, const char *text, size_t len)
{
    const char *bracket = memchr(text, ']', len);
    if (bracket == NULL) {
        return false;
    }
    size_t address_len = (size_t)(bracket - text) - 1;
    if (!fb_address_parse(to, text + 1, address_len) || to->family != FB_FAMILY_V6) {
        return false;
    }
    size_t left = len - address_len - 2;
    return left == 0 ||
           (bracket[1] == ':' && fb_port_parse(&to->port, bracket + 2, left - 1));
}

/* An address, with brackets if it is "v6:port". */
static bool
parse_node(fb_address *to, const char *text, size_t len)
{
    if (text[0] == '[') {
        return parse_bracketed(to, text, len);
    }
    if (fb_address_parse(to, text, len)) {
        return true;
    }
    const char *colon = memchr(text, ':', len);
    if (colon == NULL) {
        return false;
    }
    size_t address_len = (size_t)(colon - text);
    return fb_address_parse(to, text, address_len) && to->family == FB_FAMILY_V4 &&
           fb_port_parse(&to->port, colon + 1, len - address_len - 1);
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

typedef struct list_walk {
    const fb_trust *trust;
    bool is_over; /* the client was found */
    fb_forwarded *found;
} list_walk;

/* Returns false when the element is no address. */
static bool
take_element(list_walk *walk, const char *text, size_t len)
{
    while (len > 0 && is_blank(text[0])) {
        text++;
        len--;
    }
    while (len > 0 && is_blank(text[len - 1])) {
        len--;
    }
    if (len == 0) {
        return true;
    }
    if (!parse_node(&walk->found->client, text, len)) {
        return false;
    }
    walk->found->has_client = true;
    walk->is_over = !fb_trust_has(walk->trust, &walk->found->client);
    return true;
}

static bool
walk_field(list_walk *walk, const char *text, size_t len)
{
    size_t end = len;
    while (!walk->is_over) {
        size_t begin = end;
        while (begin > 0 && text[begin - 1] != ',') {
            begin--;
        }
        if (!take_element(walk, text + begin, end - begin)) {
            return false;
        }
        if (begin == 0) {
            break;
        }
        end = begin - 1;
    }
    return true;
}

/* ---- both ------------------------------------------------------------------------ */

static bool
read_scheme(const char *text, size_t len, bool *is_https)
{
    *is_https = fb_token_is(text, len, "https", 5);
    return *is_https || fb_token_is(text, len, "http", 4);
}

bool
fb_forwarded_read(const fb_trust *trust, const char *message, const fb_request *req,
                  fb_forwarded *forwarded)
{
    *forwarded = (fb_forwarded){.has_client = false};
    list_walk walk = {.trust = trust, .found = forwarded};
    for (size_t i = req->n_headers; i > 0; i--) {
        const fb_header *field = &req->headers[i - 1];
        const char *name = message + field->name.off;
        const char *value = message + field->value.off;
        if (fb_token_is(name, field->name.len, "x-forwarded-for", 15)) {
            if (!walk_field(&walk, value, field->value.len)) {
                return false;
            }
        } else if (fb_token_is(name, field->name.len, "x-forwarded-proto", 17)) {
            if (forwarded->has_scheme ||
                !read_scheme(value, field->value.len, &forwarded->is_https)) {
                return false;
            }
            forwarded->has_scheme = true;
        }
    }
    return true;
}
