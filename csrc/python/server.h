/* SPDX-License-Identifier: MIT */
/*
 * Server: io's server with Python above it. It attaches for a dispatch, calls the
 * dispatcher once, and detaches.
 */
#ifndef FB_PYTHON_SERVER_H
#define FB_PYTHON_SERVER_H

#include "io/server.h"
#include "python/queues.h"
#include "python/request.h"

typedef struct py_batch py_batch;
typedef struct py_body py_body;
typedef struct py_held py_held;
typedef struct py_server py_server;

/* An executor with what Python needs for its batches, again and again. */
typedef struct py_executor {
    py_server *server; /* borrowed: it has the executor */
    fb_executor *io;   /* borrowed */
    PyObject *dispatcher;
    py_batch *batch; /* shown to the dispatcher */
    py_request
        *requests[FB_BATCH_SLOTS]; /* of the slots; NULL: not made yet, or kept */
    py_held *held[FB_BATCH_SLOTS]; /* replies to slots that are to wait, or NULL */
    size_t n_held;
} py_executor;

struct py_server {
    PyObject_HEAD
    fb_server *server;           /* NULL before init */
    const py_state *state;       /* the type keeps its module alive */
    PyObject *log_lines;         /* takes lines of the access log, or NULL */
    py_executor executor;        /* the loop's own */
    PyThreadState *thread;       /* while serve is detached */
    _Atomic(PyObject *) raised;  /* what serve is to raise, or NULL */
    _Atomic(py_body *) released; /* bodies to be let go of when the loop rests */
    fb_job rest;                 /* of handler threads: what else is to be done then */
    bool is_resting;             /* it is in the hands of one */
    Py_buffer stats_view;        /* of the memory of its stats, when .obj is set */
    Py_buffer roster_view;       /* likewise of its roster */
    py_queues queues;            /* rules and routes of its queues */
    PyObject *deadline_header;   /* keeps the bytes that it reads, or NULL */
    bool is_serving;
    bool is_closed;    /* served once already */
    bool is_abandoned; /* with handler threads that did not come back in time */
};

/* Bind and unbind the thread state of serve. */
void py_server_attach(py_server *self);
void py_server_detach(py_server *self);

/* An exception is set that must not be lost: have serve raise it. Exceptions that are
 * Exceptions are not of that kind; for them returns false, and the exception stays set.
 * */
bool py_server_keep_raised(py_server *self);

/* Log message with the exception that is set, as py_log_exception; what that raises to
 * stop the server is kept. */
void py_server_log(py_server *self, const char *message);

/* Returns the Request of slot i. Borrowed; NULL with an exception set. */
py_request *py_executor_request(py_executor *self, size_t i);

#endif
