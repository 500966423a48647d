/* SPDX-License-Identifier: MIT */
/*
 * What a connection has to send, in order: bytes of its own, and bodies that belong to
 * somebody else.
 *
 * A body is either bytes that stay where they are (a large reply, written without a
 * copy) or a stream that is asked for more whenever there is room. Each has one owner
 * and is released exactly once, whatever becomes of the connection.
 */
#ifndef FB_CORE_OUT_H
#define FB_CORE_OUT_H

#include "core/buf.h"

typedef enum fb_pull {
    FB_PULL_MORE,  /* ask again when there is room */
    FB_PULL_LATER, /* nothing now: who pulls will be told when to ask again */
    FB_PULL_END,   /* the body is complete */
    FB_PULL_FAIL,  /* it broke off: the connection must end without a proper close */
} fb_pull;

typedef enum fb_splice {
    FB_SPLICE_SENT, /* some, or nothing: there is more */
    FB_SPLICE_FULL, /* nothing: the socket takes no more now */
    FB_SPLICE_END,  /* the rest of the body */
    FB_SPLICE_FAIL, /* it broke off, or the peer has left */
} fb_splice;

/* How core and io see a body of somebody else's. */
typedef struct fb_body_ops {
    /* Append what comes next, framing included; nothing, if it is not there yet. It is
     * called again when that was sent. Streams alone. */
    fb_pull (*pull)(void *owner, fb_buf *into);
    /* The last call: nothing of the body is used any more. */
    void (*release)(void *owner);
    /* Send what comes next straight to a socket, at most most bytes, and say in *n_sent
     * how many. NULL: this body can only be pulled. Streams alone. */
    fb_splice (*splice)(void *owner, int fd, size_t most, size_t *n_sent);
} fb_body_ops;

typedef struct fb_body {
    const fb_body_ops *ops;
    void *owner;      /* given back to ops */
    const char *data; /* the bytes; NULL for a stream */
    size_t len;       /* of data */
} fb_body;

typedef struct fb_part {
    size_t at; /* it follows that many bytes of fb_out.bytes */
    fb_body body;
} fb_part;

typedef struct fb_out {
    fb_buf bytes;        /* status lines, fields, small bodies */
    fb_buf chunk;        /* what the stream in hand gave */
    fb_part *parts;      /* bodies, in order */
    size_t n_parts;      /* in use */
    size_t parts_cap;    /* room */
    size_t n_sent;       /* of bytes, sent */
    size_t n_chunk_sent; /* of chunk, sent */
    size_t part;         /* the first part not yet sent */
    size_t n_part_sent;  /* of that part's data, sent */
    bool is_waiting;     /* for the stream in hand, which said later */
    bool has_failed; /* a stream broke off, or memory ran out: close, send no more */
} fb_out;

/* One run of bytes to be sent; the shape of a struct iovec. */
typedef struct fb_run {
    const char *data;
    size_t len;
} fb_run;

void fb_out_init(fb_out *out, fb_heap *heap);

/* Release every part and all memory. */
void fb_out_fini(fb_out *out);

/* Takes body; one of no bytes is released at once. Returns false when there is no
 * memory; body is then released. */
bool fb_out_add_body(fb_out *out, fb_body body);

/* List what can be sent now, up to most runs. When a stream is next and all before it
 * was sent, it is pulled once, and if that was its end without a byte, what comes next
 * is listed. Returns how many runs; valid until the next call. */
size_t fb_out_gather(fb_out *out, fb_run *runs, size_t most);

/* Returns whether the next gather would be of a stream, which may be pulled for it. */
bool fb_out_is_streaming(const fb_out *out);

/* Returns whether what is next is a stream that can be spliced. */
bool fb_out_can_splice(const fb_out *out);

/* Splice the stream that is next, and move on if that was its end. */
fb_splice fb_out_splice(fb_out *out, int fd, size_t most, size_t *n_sent);

/* n bytes of what was gathered were sent: move on, releasing the parts that are done.
 * */
void fb_out_advance(fb_out *out, size_t n);

/* Returns whether everything was sent. */
static inline bool
fb_out_is_empty(const fb_out *out)
{
    return out->n_sent == out->bytes.len && out->part == out->n_parts &&
           out->n_chunk_sent == out->chunk.len;
}

/* Ready an empty out for reuse, giving large memory back. */
void fb_out_reset(fb_out *out);

#endif
