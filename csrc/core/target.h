/* SPDX-License-Identifier: MIT */
/*
 * The request-target and the authority in it: the syntax that llhttp does not look at.
 */
#ifndef FB_CORE_TARGET_H
#define FB_CORE_TARGET_H

#include "core/request.h"

typedef enum fb_target_form {
    FB_TARGET_BAD,      /* none of the forms: 400 */
    FB_TARGET_ORIGIN,   /* "/path?query" */
    FB_TARGET_ABSOLUTE, /* "http://host/path?query" */
    FB_TARGET_FOREIGN,  /* the same of a scheme that is not HTTP's: 421 */
    FB_TARGET_ASTERISK, /* "*", with OPTIONS alone */
} fb_target_form;

/* Take req->target apart, RFC 9112 3.2: set req->path and req->query, and for the
 * absolute form authority. Borrows message, the first byte of req's message. The
 * authority form belongs to CONNECT, which is refused before this. Returns the form. */
fb_target_form fb_target_parse(const char *message, fb_request *req, bool is_options,
                               fb_span *authority);

/* Decode percent-escapes, RFC 3986 2.1; what is no escape stays as it is. Returns how
 * many bytes were written to to, which has room for len. */
size_t fb_percent_decode(char *to, const char *from, size_t len);

/* Returns whether the bytes are a Host value: uri-host [":" port], RFC 9110 7.2, or
 * empty. Borrows bytes. */
bool fb_host_is_valid(const char *bytes, size_t len);

#endif
