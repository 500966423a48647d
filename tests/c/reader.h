/* SPDX-License-Identifier: MIT */
/*
 * What one client receives, byte by byte, against what its requests were answered with.
 * The program ends at the first byte that is wrong.
 */
#ifndef FB_TESTS_READER_H
#define FB_TESTS_READER_H

#include "core/reply.h"

#include <stdint.h>

#define READER_MOST_DUE 2048 /* replies to one client */
#define READER_HEAD_BYTES 1024

/* A reply that was given. */
typedef struct reply_due {
    const char *data; /* its body; NULL: it does not matter */
    uint64_t len;     /* of the body, bytes */
    uint16_t status;
    uint8_t framing;    /* an fb_framing */
    bool is_head;       /* no body follows */
    bool says_close;    /* nothing follows at all */
    bool may_close;     /* or it says so: both are good */
    bool may_break_off; /* in the midst of the body */
} reply_due;

typedef enum reader_place {
    READER_HEAD,
    READER_BODY, /* with a length, or to the end */
    READER_CHUNK_SIZE,
    READER_CHUNK_DATA,
    READER_CHUNK_END, /* the CRLF behind a chunk, or behind the last one */
} reader_place;

typedef struct reply_reader {
    reader_place place;
    size_t n_due;
    size_t n_read;     /* of them, whole */
    size_t line_len;   /* bytes of line */
    uint64_t at;       /* of the body in hand: bytes read */
    uint64_t left;     /* of the chunk in hand: bytes to come */
    size_t n_continue; /* times 100 Continue */
    int own_status;    /* of a reply that the server gave by itself, in the end; or 0 */
    bool is_last;      /* the reply in hand, or read last, said close */
    reply_due now;     /* the reply in hand */
    char line[READER_HEAD_BYTES]; /* a head, or the size of a chunk */
    reply_due due[READER_MOST_DUE];
} reply_reader;

void reader_reset(reply_reader *reader);

/* One more reply was given. Keeps its data until it is read. */
void reader_expect(reply_reader *reader, const reply_due *due);

/* The client received bytes. */
void reader_feed(reply_reader *reader, const char *bytes, size_t len);

/* Returns whether no reply is in hand. */
bool reader_is_between(const reply_reader *reader);

/* Returns whether all that were given have been read, or were made void by a reply that
 * said close. */
bool reader_has_all(const reply_reader *reader);

/* The connection has ended: see that it may end here. */
void reader_end(const reply_reader *reader);

#endif
