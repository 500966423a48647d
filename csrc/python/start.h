/* SPDX-License-Identifier: MIT */
/*
 * start_response of one request, PEP 3333 "The start_response() Callable", and the
 * write() that it returns.
 *
 * Theory. What an application says is kept here, and checked, until the first byte of
 * the body shows that it is final: then it is sealed, and goes on the wire. write() is
 * for the time of the application's call alone; afterwards the slot is gone.
 */
#ifndef FB_PYTHON_START_H
#define FB_PYTHON_START_H

#include "io/file.h"
#include "python/head.h"
#include "python/server.h"

#include <stdatomic.h>

typedef struct py_start {
    PyObject_HEAD
    vectorcallfunc call;
    py_head head;
    bool is_called; /* be it in vain */
    bool has_head;  /* head is what the application wants */
    bool is_sealed; /* head is on its way: nothing changes it any more */
    /* of write(): */
    py_executor *executor; /* while the application is called; NULL later */
    fb_slot *slot;         /* there */
    atomic_ulong thread;   /* that calls it; of none at other times */
    bool has_written;      /* the head is sent, and maybe some of the body */
    bool has_failed;       /* a piece could not be kept: the reply cannot be whole */
    bool is_broken;        /* the client has left */
    bool sends_body;       /* what is written goes on the wire */
    bool keep_alive;       /* as the head said */
    fb_framing framing;
    uint64_t missing; /* with FB_FRAMING_LENGTH: bytes still promised */
    fb_file file;     /* what memory is not to hold: .left bytes are not sent; or -1 */
} py_start;

/* Returns a new start_response, or NULL with an exception set. */
py_start *py_start_new(const py_state *state);

/* The application is about to be called for slot, and has returned. */
void py_start_begin(py_start *start, py_executor *executor, fb_slot *slot);
void py_start_end(py_start *start);

/* Takes start, which somebody may have kept. */
void py_start_give(py_start *start);

/* Forget all, to be used for another request. */
void py_start_reset(py_start *start);

/* The head is to be sent: from here on start_response raises. Returns 0; or -1 with a
 * ReplyError set, when it was never called. */
int py_start_seal(py_start *start);

/* Send a piece of the body now, and the head before the first one. Attached, in the
 * dispatch. Returns 0, or -1 with an exception set. */
int py_start_write(py_start *start, const char *bytes, size_t len);

#endif
