/* SPDX-License-Identifier: MIT */
/*
 * A reply, whoever gave it: its head, its body, and the way of both into the output of
 * its connection.
 */
#ifndef FB_PYTHON_REPLY_H
#define FB_PYTHON_REPLY_H

#include "python/body.h"
#include "python/head.h"
#include "python/server.h"

typedef struct py_reply {
    const py_head *head;
    const char *content_type; /* unless head has one; NULL: none */
    uint64_t len;             /* of the body, or PY_LENGTH_UNKNOWN */
    const char *data; /* a body that is all there; NULL: another kind, or none */
    PyObject *holder; /* what keeps data; NULL: view does */
    bool is_fleeting; /* data may change behind the dispatch: it is copied, if long */
    Py_buffer view;   /* in use when view.obj is set */
    const py_stream *stream; /* a body that comes by and by, or NULL */
    const fb_file *file;     /* a body that is a part of a file, or NULL */
    PyObject *closes;        /* of a stream or a file: what has close(); or NULL */
    bool is_given;           /* closes is the connection's to close now */
} py_reply;

/* Returns what of the request in slot decides on the framing of its reply. */
py_asked py_reply_asked(const fb_slot *slot);

/* Answer slot with reply, whose objects are borrowed. Takes view. Returns 0; or -1 with
 * an exception set, and then nothing was sent and the slot is still unanswered. */
int py_reply_send(py_executor *executor, fb_slot *slot, py_reply *reply);

/* Answer slot with a short reply of the server's own. Never fails but for want of
 * memory, when the connection is broken off. */
void py_reply_send_plain(py_executor *executor, fb_slot *slot, int status);

/* The head of slot is sent, and the rest can never be: have the connection broken off,
 * once all before was sent. */
void py_reply_break_off(py_executor *executor, fb_slot *slot);

#endif
