/* SPDX-License-Identifier: MIT */
/*
 * Replies as bytes: status line, fields, framing. What goes in is checked before, by
 * fb_field_is_valid and by the binding; nothing here can fail but for want of memory.
 */
#ifndef FB_CORE_REPLY_H
#define FB_CORE_REPLY_H

#include "core/buf.h"

#include <time.h>

/* The fields that are the same for every reply of one second. */
typedef struct fb_stamp {
    const char *server; /* value of the Server field, "" for none; kept */
    time_t at;          /* the second that date was made for */
    size_t date_len;    /* bytes of date */
    size_t server_len;  /* bytes of server */
    char date[40];      /* "Date: ...\r\n" */
} fb_stamp;

typedef struct fb_field {
    const char *name;
    size_t name_len;
    const char *value;
    size_t value_len;
} fb_field;

typedef enum fb_framing {
    FB_FRAMING_LENGTH,  /* Content-Length: length */
    FB_FRAMING_CHUNKED, /* Transfer-Encoding: chunked */
    FB_FRAMING_NONE, /* neither: no body at all, or one that ends with the connection */
} fb_framing;

typedef struct fb_head {
    int status;         /* FB_STATUS_MIN to FB_STATUS_MAX */
    const char *reason; /* NULL: the one of the table */
    size_t reason_len;
    const char *content_type; /* NULL: the fields have it, or there is no body */
    const fb_field *fields;   /* the handler's */
    size_t n_fields;
    fb_framing framing;
    uint64_t length; /* for FB_FRAMING_LENGTH, bytes */
    bool is_http10;  /* the request was */
    bool keep_alive; /* the connection goes on after this reply */
    bool has_date;   /* the handler's fields hold Date */
    bool has_server; /* and Server */
} fb_head;

/* Keeps server, a string that is a valid field value, until the end of stamp. */
void fb_stamp_init(fb_stamp *stamp, const char *server);

/* Make the Date field for now (RFC 9110 6.6.1), if it is another second. */
void fb_stamp_update(fb_stamp *stamp, time_t now);

/* Append a status line and fields, the empty line included. Borrows all. Returns false,
 * with out as it was, when there is no memory. */
bool fb_reply_head(fb_buf *out, const fb_stamp *stamp, const fb_head *head);

/* Append a whole short reply of the server's own: the status and its reason as text;
 * 503 and 429 have Retry-After. With is_head the body is left off. Returns as
 * fb_reply_head. */
bool fb_reply_plain(fb_buf *out, const fb_stamp *stamp, int status, bool is_head,
                    bool is_http10, bool keep_alive);

/* Returns how many bytes the body of such a reply has. */
size_t fb_reply_plain_len(int status);

/* Append "100 Continue", RFC 9110 15.2.1. */
bool fb_reply_continue(fb_buf *out);

/* Append one chunk, RFC 9112 7.1; of len 0 nothing, since that would end the body. */
bool fb_reply_chunk(fb_buf *out, const char *bytes, size_t len);

/* Append the last chunk. */
bool fb_reply_last_chunk(fb_buf *out);

/* Returns whether the bytes are a field name, RFC 9110 5.1. */
bool fb_field_name_is_valid(const char *bytes, size_t len);

/* Returns whether the bytes are a field value, RFC 9110 5.5: no control bytes but tab.
 * */
bool fb_field_value_is_valid(const char *bytes, size_t len);

#endif
