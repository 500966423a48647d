/* SPDX-License-Identifier: MIT */
/*
 * Bytes in, requests out: llhttp with what it leaves to whoever embeds it.
 *
 * llhttp runs once over every byte. A request is given only when it is complete and
 * sound, body included. Whatever the split of the input, the requests and the verdict
 * are the same: no run of llhttp crosses the byte at which a limit is reached, so a
 * limit and a syntax error are always found in the order in which they stand in the
 * input.
 */
#ifndef FB_CORE_HTTP_H
#define FB_CORE_HTTP_H

#include "core/buf.h"
#include "core/request.h"

#include <llhttp.h>

typedef enum fb_feed {
    FB_FEED_MORE,    /* all bytes are parsed, no request is complete */
    FB_FEED_REQUEST, /* http->req is complete; there may be more bytes */
    FB_FEED_REJECT,  /* http->status says why; nothing may be fed any more */
} fb_feed;

typedef enum fb_phase {
    FB_PHASE_START,    /* nothing of the next message is here */
    FB_PHASE_HEAD,     /* in the request line or the fields */
    FB_PHASE_METHOD,   /* in a method that llhttp does not know */
    FB_PHASE_BODY,     /* in a body, its framing or its trailers */
    FB_PHASE_COMPLETE, /* http->req was just completed */
    FB_PHASE_HELD,     /* it was, and waits: nothing is to be fed */
} fb_phase;

typedef struct fb_http {
    llhttp_t parser;
    fb_request req;          /* being made, or just completed */
    const fb_limits *limits; /* kept */
    fb_phase phase;
    char *input;           /* first byte of the input buffer; during a feed alone */
    size_t parsed;         /* bytes of the input buffer that llhttp has seen */
    size_t data_end;       /* offset behind the body data of the last run, 0: none */
    size_t framing_len;    /* bytes since the head began, or since the last body data */
    uint8_t n_empty_lines; /* before the request line */
    uint8_t n_protocol;    /* bytes of "HTTP" seen */
    uint16_t n_fields;     /* of the head, dropped ones included */
    bool is_field_kept;    /* the field in hand goes into req */
    bool has_target;       /* the request-target is complete */
    bool is_chunked;
    bool has_other_coding; /* a Transfer-Encoding that is not just "chunked" */
    bool has_extension; /* the name or value in hand of a chunk extension has bytes */
    bool is_extension_quoted; /* the value is a quoted string */
    bool expects_continue;    /* a field said so */
    bool wants_continue;      /* the client waits for 100 before it sends the body */
    uint32_t n_hosts;         /* Host fields */
    fb_span host;             /* the value of the last of them */
    int status;               /* of the rejection: 400, 408, 413, ... or 0 */
    const char *reason;       /* of the rejection, a static sentence for the log */
} fb_http;

/* Keeps limits until the end of http. */
void fb_http_init(fb_http *http, const fb_limits *limits);

/* Parse on from in->data + http->parsed, at most to the end of one message. in may get
 * shorter: chunk framing is dropped and bodies are closed up in place. Borrows in.
 * Returns the verdict. http->req is valid until the next feed, its spans for as long as
 * the bytes from in->data + req.start stay. */
fb_feed fb_http_feed(fb_http *http, fb_buf *in);

/* The request that was just completed waits to be taken, and is; in between it is the
 * message in hand. */
static inline void
fb_http_hold(fb_http *http)
{
    http->phase = FB_PHASE_HELD;
}

static inline void
fb_http_take_held(fb_http *http)
{
    http->phase = FB_PHASE_COMPLETE;
}

/* Drop what is before the message in hand from in, when no request in it is used any
 * more. */
void fb_http_compact(fb_http *http, fb_buf *in);

/* Between two feeds, after FB_FEED_MORE: the data of the body in hand, which is the end
 * of in, was put elsewhere. Drop it from in and count it as spooled. */
void fb_http_drop_body(fb_http *http, fb_buf *in);

/* No more is fed: have the message in hand be that of req, which came before it in the
 * same buffer. */
void fb_http_recall(fb_http *http, const fb_request *req);

/* Returns whether empty lines have come since the last message: they are counted. */
static inline bool
fb_http_has_empty_lines(const fb_http *http)
{
    return http->phase == FB_PHASE_START && http->n_empty_lines > 0;
}

/* Returns how many bytes of a body of known length are still to come, or 0. */
size_t fb_http_body_missing(const fb_http *http);

#endif
