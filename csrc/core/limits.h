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

/* Slots: the most that one call of the dispatcher covers. Then: another batch. */
#define FB_BATCH_SLOTS 256

/* Microseconds that a batch waits to be filled, from its first request on. 0: it is
 * what is ready. */
#define FB_BATCH_WAIT_US 0
#define FB_BATCH_WAIT_BOUND_US (3600LL * 1000 * 1000)

/* Milliseconds that a request may wait to be handled. Then: 504. 0: none. */
#define FB_DEADLINE_MS 0

/* Requests that wait for one handler, a quarter of the connections by default: more
 * would hardly be answered in time. Then: FB_QUEUE_FULL_STATUS, with Retry-After. */
#define FB_QUEUE_SIZE 4096
#define FB_QUEUE_SIZE_BOUND 1000000
#define FB_QUEUE_FULL_STATUS 503

/* Queues: one for each batch handler and each application among the routes, and one for
 * all other handlers. Each has batches of its own. Then: no start. */
#define FB_QUEUES_BOUND 16

/* Handler threads; each has room for a batch of its own, about a megabyte if it is ever
 * used. 0: the handler runs on the loop. */
#define FB_THREADS 0
#define FB_THREADS_BOUND 1024

/* Bytes of a route's path, decoded. Then: no start. */
#define FB_ROUTE_PATH_BYTES 1024

/* ---- request head ---------------------------------------------------------------- */

/* Bytes, as many as proxies in front allow. Then: 414. */
#define FB_MAX_TARGET 8192

/* Fields; browsers send about 20. Then: 431. A slot has room for the bound. */
#define FB_MAX_HEADERS 100
#define FB_HEADERS_BOUND 256

/* Bytes from the request line to the empty line. Then: 431. */
#define FB_MAX_HEAD (64 * 1024)
#define FB_HEAD_BOUND (1024 * 1024)

/* Empty lines before a request line: old clients send one, behind a body. Each counts
 * as a sign of life, so there is an end to them. Then: 400. */
#define FB_EMPTY_LINES 16

/* Bytes; no registered method is longer. Then: 501. */
#define FB_METHOD_BYTES 32

/* ---- request body ---------------------------------------------------------------- */

/* Bytes. Then: 413. */
#define FB_MAX_BODY (16 * 1024 * 1024)
#define FB_BODY_BOUND (1024LL * 1024 * 1024 * 1024)

/* Bytes of a body held in memory. Then: it goes to a temporary file. Spans of 32 bits
 * reach beyond the bound. */
#define FB_MAX_BODY_MEMORY (1024 * 1024)
#define FB_BODY_MEMORY_BOUND (1024 * 1024 * 1024)

/* Bytes between the data of two chunks, extensions included, or of trailers. No honest
 * client comes near. Then: 400. */
#define FB_CHUNK_FRAMING (4 * 1024)

/* ---- connection ------------------------------------------------------------------ */

/* Connections. Then: one that is idle gives way, or the new one waits in the kernel. */
#define FB_MAX_CONNECTIONS 16384
#define FB_CONNECTIONS_BOUND 1000000

/* Requests of one connection, so that long-lived clients spread anew over workers now
 * and then. Then: its last reply says close. */
#define FB_MAX_KEEPALIVE_REQUESTS 100000
#define FB_KEEPALIVE_REQUESTS_BOUND UINT32_MAX

/* Bytes of a PROXY header: of version 1, as its specification says; of version 2, whose
 * own bound is 64 KiB, room for the fields of a certificate. Then: close. */
#define FB_PROXY_LINE_BYTES 107
#define FB_PROXY_HEADER_BYTES 4096

/* Networks of trusted proxies; large CDNs publish lists of 200. Then: no start. */
#define FB_MAX_NETWORKS 1024

/* Connections that wait in the kernel. Then: it turns them away. */
#define FB_BACKLOG 2048
#define FB_BACKLOG_BOUND 65535

/* Connections accepted in one go, before others have a turn. */
#define FB_ACCEPT_BURST 64

/* Workers that accept from the same sockets and know how many connections each has:
 * more than are likely while all are being replaced. Then: further ones accept without
 * regard to that. */
#define FB_ROSTER_PLACES 512

/* A worker is ahead of the others when it has more connections than they have on
 * average, and an eighth of that. Without this margin, of many clients that come at
 * once each would wait for a turn; an eighth is not much of a worker's load. */
#define FB_ROSTER_SLACK 8

/* Milliseconds, the least that a timer knows: for so long a worker that is ahead leaves
 * new connections to others. Then it takes some, since these may be busy: no connection
 * waits for more than that. */
#define FB_ACCEPT_DEFER_MS 1

/* Bytes: the first size of a reading buffer, and the least room for a read. */
#define FB_INPUT_BYTES (4 * 1024)
#define FB_INPUT_ROOM 1024

/* Bytes read ahead of the replies. Then: reading waits for them. */
#define FB_PIPELINE_BYTES (64 * 1024)

/* Bytes of requests being received or handled, of all connections together. Each has
 * its first FB_INPUT_BYTES in any case. Then: bodies go to temporary files, whatever
 * their length; a head waits for FB_QUEUE_TIMEOUT_MS. */
#define FB_MAX_INPUT_MEMORY (256LL * 1024 * 1024)
#define FB_INPUT_MEMORY_BOUND (1024LL * 1024 * 1024 * 1024)

/* Bytes of a stream in one turn, and what each of its writes counts for beyond its own
 * bytes. Then: others have a turn. */
#define FB_OUTPUT_HIGH_WATER (64 * 1024)
#define FB_STREAM_ROUND_BYTES 2048

/* Bytes of a file that a connection sends in one turn. Then: others have one. */
#define FB_SPLICE_BYTES (512 * 1024)

/* Bytes of a file, or of a body to be stored, that pass through memory together. */
#define FB_FILE_BLOCK (64 * 1024)

/* Bytes: a body from this size on is written from where it is. Measured: below it, a
 * copy costs no more. */
#define FB_ZERO_COPY_BYTES (32 * 1024)

/* Bytes: a larger buffer that is idle goes back to the allocator. */
#define FB_KEEP_BYTES (64 * 1024)

/* Idle exchanges, and idle connections, kept for reuse. */
#define FB_POOL_ITEMS 512

/* Bytes for the value of the Server field, its end included. */
#define FB_SERVER_VALUE_BYTES 128

/* ---- workers --------------------------------------------------------------------- */

/* Workers: more than the CPUs of nearly all machines. Then: no start. */
#define FB_WORKERS_BOUND 256

/* Requests after which a worker process is replaced; its bound keeps the sum with the
 * jitter, and over all threads, in 64 bits. Then: no start. */
#define FB_WORKER_REQUESTS_BOUND UINT32_MAX

/* Bytes of memory of a worker process. Then: no start. */
#define FB_WORKER_MEMORY_BOUND (1024LL * 1024 * 1024 * 1024)

/* Milliseconds without a sign of life of a loop. A handler that runs on the loop holds
 * it up, and so does a batch of 256 of them: what is slow must not be taken for stuck.
 * Then: the worker process is ended, and its clients' connections are reset. */
#define FB_WORKER_TIMEOUT_MS (300 * 1000)

/* ---- access log ------------------------------------------------------------------ */

/* Bytes of lines that are written together. */
#define FB_LOG_BUFFER_BYTES (64 * 1024)

/* Bytes of lines that wait for a slow disk or pipe. Then: lines are dropped, and
 * counted. */
#define FB_LOG_WAITING_BYTES (1024 * 1024)

/* Bytes of a target or a field in a line, before escapes. Then: it is cut. */
#define FB_LOG_TEXT_BYTES (8 * 1024)

/* Milliseconds for a slow pipe to take the last lines, after a stop. Then: they are
 * dropped. */
#define FB_LOG_STOP_MS 3000

/* ---- time; an option of 0 is none ------------------------------------------------ */

/* Milliseconds: the longest that any of these can be. */
#define FB_TIMEOUT_BOUND_MS ((1ULL << 31) - 1)

/* Milliseconds between two requests. Then: close. */
#define FB_KEEPALIVE_TIMEOUT_MS 75000

/* Milliseconds from the first byte of a head to its last. Then: 408. */
#define FB_HEAD_TIMEOUT_MS 15000

/* Milliseconds between two reads of a body. Then: 408. */
#define FB_BODY_TIMEOUT_MS 30000

/* Bytes a second, on the average of a body after its first FB_BODY_TIMEOUT_MS, and of a
 * reply in each FB_WRITE_TIMEOUT_MS; less than any modem's. Below: 408, or close. 0: no
 * matter how slow. */
#define FB_MIN_RATE 240
#define FB_RATE_BOUND (1024 * 1024 * 1024)

/* Milliseconds without the peer reading any of its reply. Then: close. */
#define FB_WRITE_TIMEOUT_MS 30000

/* Milliseconds that a request waits for its slot, or for memory. Then: 503, and the
 * advice to come again after so many seconds. Of none, a head waits for memory as long
 * as for its client. */
#define FB_QUEUE_TIMEOUT_MS 30000
#define FB_RETRY_AFTER "5"

/* Milliseconds from a stop to the last reply. Then: close. */
#define FB_GRACEFUL_TIMEOUT_MS 30000

/* Milliseconds for the peer to read the last reply and to close. Then: close. */
#define FB_LINGER_TIMEOUT_MS 2000

/* Milliseconds: an idle connection gives way to a new one after this. */
#define FB_GIVE_WAY_MS 1000

/* Milliseconds: how long a server that stops waits for the first request of a peer that
 * it has accepted. Then: close. */
#define FB_FIRST_REQUEST_MS 1000

/* Milliseconds: the coarse timer's period is a quarter of the shortest time-out, within
 * these bounds. */
#define FB_TICK_MAX_MS 500
#define FB_TICK_MIN_MS 10

/* Nanoseconds: a dispatch that runs for longer has its replies sent meanwhile. */
#define FB_EARLY_FLUSH_NS 1000000

/* What of the above can be set, for one worker. Read-only once the worker runs. */
typedef struct fb_limits {
    size_t batch_size;             /* slots handed over together, 1..FB_BATCH_SLOTS */
    size_t max_target;             /* bytes */
    size_t max_headers;            /* fields, 1..FB_HEADERS_BOUND */
    size_t max_head;               /* bytes */
    uint64_t max_body;             /* bytes */
    size_t max_body_memory;        /* bytes */
    size_t max_connections;        /* connections */
    size_t max_keepalive_requests; /* requests */
    uint64_t max_input_memory;     /* bytes */
    int backlog;                   /* connections */
    size_t threads;                /* handler threads; 0: none */
    uint64_t min_rate;             /* bytes a second; 0: none */
    uint64_t keepalive_timeout_ms; /* 0: none, as for all below */
    uint64_t head_timeout_ms;
    uint64_t body_timeout_ms;
    uint64_t write_timeout_ms;
    uint64_t queue_timeout_ms;
    uint64_t graceful_timeout_ms;
} fb_limits;

#endif
