/* SPDX-License-Identifier: MIT */
/*
 * Every number that bounds something: value, unit, reason, what the client sees.
 *
 * The run-time options of the Python layer have the same names in lower case and take
 * their defaults from here (fastbatch._core.LIMITS); no number is written twice.
 */
#ifndef FB_CORE_LIMITS_H
#define FB_CORE_LIMITS_H

#include <stddef.h>
#include <stdint.h>

/* ---- batch ----------------------------------------------------------------------- */

#define FB_BATCH_SLOTS 256 /* slots: more gave nothing, fewer cost a call; then: next batch */

/* ---- request head ---------------------------------------------------------------- */

#define FB_MAX_TARGET 8192       /* bytes: what proxies in front allow; then: 414 */
#define FB_MAX_HEADERS 100       /* fields: browsers send about 20; then: 431 */
#define FB_HEADERS_BOUND 256     /* fields: room in a slot, the most the option may ask */
#define FB_MAX_HEAD (64 * 1024)  /* bytes, request line to empty line; then: 431 */
#define FB_HEAD_BOUND (1 << 20)  /* bytes: the most the option may ask */
#define FB_METHOD_BYTES 32       /* bytes: no registered method is longer; then: 501 */

/* ---- request body ---------------------------------------------------------------- */

#define FB_MAX_BODY (16 * 1024 * 1024)  /* bytes: it is held in memory; then: 413 */
#define FB_BODY_BOUND (1024 * 1024 * 1024) /* bytes: spans are 32 bits; the option's most */
#define FB_CHUNK_FRAMING (4 * 1024) /* bytes between two chunks' data, or of trailers: no
                                       honest client comes near; then: 400 */

/* ---- connection ------------------------------------------------------------------ */

#define FB_MAX_CONNECTIONS 16384       /* connections; then: idle ones give way */
#define FB_BACKLOG 2048                /* connections that wait in the kernel */
#define FB_ACCEPT_BURST 64             /* accepted at once; then others have a turn */
#define FB_INPUT_BYTES (4 * 1024)      /* first size of a reading buffer */
#define FB_INPUT_ROOM 1024             /* a read is never asked for less room than this */
#define FB_PIPELINE_BYTES (64 * 1024)  /* read ahead of the replies; then: reading waits */
#define FB_OUTPUT_BYTES 1024           /* first size of a writing buffer */
#define FB_OUTPUT_HIGH_WATER (64 * 1024) /* of a stream in one turn; then others have theirs */
#define FB_STREAM_ROUND_BYTES 2048 /* what a write counts for in that, beyond its bytes */
#define FB_KEEP_BYTES (64 * 1024)      /* a larger idle buffer goes back to the allocator */
#define FB_SERVER_VALUE_BYTES 128 /* room for the Server field, its end included */
#define FB_POOL_ITEMS 512              /* idle exchanges and connections kept for reuse */
#define FB_ZERO_COPY_BYTES (32 * 1024) /* a body from this size is written from where it
                                          is: measured, below it a copy costs no more */

/* ---- time, in milliseconds; an option of 0 is none ------------------------------- */

#define FB_KEEPALIVE_TIMEOUT_MS 75000 /* between two requests; then: close */
#define FB_HEAD_TIMEOUT_MS 15000      /* first byte to empty line; then: 408 */
#define FB_BODY_TIMEOUT_MS 30000      /* between two reads of a body; then: 408 */
#define FB_WRITE_TIMEOUT_MS 30000     /* between two writes that progress; then: close */
#define FB_GRACEFUL_TIMEOUT_MS 30000  /* from stop to the last reply; then: close */
#define FB_LINGER_TIMEOUT_MS 2000     /* an error reply may be read before the reset */
#define FB_GIVE_WAY_MS 1000  /* idle for so long: closed, when others need its place */
#define FB_TICK_MAX_MS 500            /* the coarse timer's longest period */
#define FB_TICK_MIN_MS 10             /* and its shortest */
#define FB_EARLY_FLUSH_NS 1000000     /* a batch that runs longer sends what it has */

/* What of the above can be set, for one worker. Read-only once the worker runs. */
typedef struct fb_limits {
    size_t batch_size;             /* slots handed over together, 1..FB_BATCH_SLOTS */
    size_t max_target;             /* bytes */
    size_t max_headers;            /* fields, 1..FB_HEADERS_BOUND */
    size_t max_head;               /* bytes */
    size_t max_body;               /* bytes */
    size_t max_connections;        /* connections */
    int backlog;                   /* connections */
    uint64_t keepalive_timeout_ms; /* 0: none, as for all below */
    uint64_t head_timeout_ms;
    uint64_t body_timeout_ms;
    uint64_t write_timeout_ms;
    uint64_t graceful_timeout_ms;
} fb_limits;

#endif
