/* SPDX-License-Identifier: MIT */
/*
 * Bodies that outlive the dispatch: an iterator that is streamed, a part of a file, or
 * a large object that is written without a copy. io sees them as fb_body; they are let
 * go of when attached.
 */
#ifndef FB_PYTHON_BODY_H
#define FB_PYTHON_BODY_H

#include "io/file.h"
#include "io/pool.h"
#include "python/head.h"
#include "python/start.h"

/* What is streamed, and how its end is told. */
typedef struct py_stream {
    PyObject *iterator;
    PyObject *first;    /* its first item, taken already, or NULL */
    PyObject *context;  /* of contextvars: it goes on in the one that it began in */
    fb_framing framing; /* once the head is sent */
    uint64_t missing;   /* with FB_FRAMING_LENGTH: bytes still promised */
    bool is_wsgi;       /* it ends where its Content-Length does, PEP 3333 */
    bool is_unsent;     /* not even the head is sent: it goes before the first byte */
    py_start *start;    /* what holds that head, or NULL */
    py_asked asked;     /* for that head */
} py_stream;

/* Where handler threads pull streams: what of the next item there is. */
typedef enum py_pulling {
    PY_PULLING_IDLE,
    PY_PULLING_BUSY,  /* a thread is at it: job is in its hands */
    PY_PULLING_READY, /* it is in pulled, with the verdict */
} py_pulling;

struct py_body {
    py_server *server; /* borrowed: it outlives its connections */
    py_body *next;     /* in server->released */
    py_stream stream;  /* its objects are strong; {0}: not a stream */
    fb_file file;      /* its descriptor is ours, or -1: not a file */
    fb_held *held;     /* its line of the access log, or NULL */
    fb_job job;
    fb_executor *executor; /* whose thread may run its code; NULL: any */
    fb_conn *conn;         /* of a stream; good until it is released */
    py_pulling pulling;
    fb_buf pulled;
    fb_pull verdict;
    bool is_released; /* while it was BUSY: to be let go of afterwards */
    PyObject *closes; /* its close() is called at the end, or NULL */
    PyObject *object; /* holds bytes in place, or NULL */
    Py_buffer view;   /* of bytes in place, when view.obj is set */
};

/* Returns a body that streams; it keeps the objects of stream, and calls close() of
 * closes at the end. The line of slot in the access log waits for that end. On failure
 * {0} with an exception set, and nothing was kept. */
fb_body py_body_stream(py_executor *executor, fb_slot *slot, const py_stream *stream,
                       PyObject *closes);

/* Returns a body of a part of a file. Takes the descriptor; otherwise as
 * py_body_stream, but that slot is NULL when another body of it follows. */
fb_body py_body_file(py_executor *executor, fb_slot *slot, const fb_file *file,
                     PyObject *closes);

/* Returns a body of bytes that stay where they are, in view (taken) or in object
 * (kept). On failure {0} with an exception set, and nothing was taken. */
fb_body py_body_in_place(py_server *server, Py_buffer *view, PyObject *object,
                         const char *data, uint64_t len);

/* Call close() of object, if it has one, in context, unless that is NULL. What it
 * raises is logged; an exception that is set stays set. */
void py_body_close(py_server *server, PyObject *object, PyObject *context);

/* Attached: let go of all that was released. */
void py_body_drop_released(py_server *server);

#endif
