/* SPDX-License-Identifier: MIT */
/*
 * Status and fields of a reply, as a request handler or a WSGI application gave them.
 *
 * Everything is checked when it is added, so that a bad reply leaves no trace on the
 * wire, and an application hears of it while it still runs.
 */
#ifndef FB_PYTHON_HEAD_H
#define FB_PYTHON_HEAD_H

#include "core/reply.h"
#include "core/status.h"
#include "python/state.h"

#define PY_HEAD_FIELDS 16 /* without taking memory */

/* Who gave it: a handler may say "Connection: close"; an application may not, nor any
 * other field that is hop-by-hop, PEP 3333 "Other HTTP Features". */
typedef enum py_author {
    PY_AUTHOR_HANDLER,
    PY_AUTHOR_APPLICATION,
} py_author;

typedef struct py_head {
    int status;
    bool has_type;      /* fields hold Content-Type, */
    bool has_length;    /* Content-Length, which is left to the framing, */
    bool has_date;      /* Date, */
    bool has_server;    /* Server */
    bool wants_close;   /* they held Connection: close */
    const char *reason; /* NULL: the one of the table */
    size_t reason_len;
    uint64_t length; /* with has_length: that length */
    fb_field *fields;
    size_t n_fields;
    PyObject **kept; /* what reason and fields point into; strong */
    size_t n_kept;
    fb_field inline_fields[PY_HEAD_FIELDS]; /* these two last: they are not zeroed */
    PyObject *inline_kept[2 * PY_HEAD_FIELDS + 1];
} py_head;

/* What of a request decides how its reply is framed. */
typedef struct py_asked {
    bool is_head;    /* HEAD: no body */
    bool is_http10;  /* no chunks */
    bool keep_alive; /* the connection may go on */
} py_asked;

/* The length of a body that comes by and by. */
#define PY_LENGTH_UNKNOWN UINT64_MAX

/* Make an empty head, status 200. */
void py_head_init(py_head *head);

/* Let go of all; head is as py_head_init leaves it. That may run any code. */
void py_head_reset(py_head *head);

/* Move all from one head to another, which is empty, as from is then. */
void py_head_move(py_head *to, py_head *from);

/* Make room for n fields of an empty head, and for what they point into. Returns 0, or
 * -1 with an exception set. */
int py_head_reserve(py_head *head, size_t n);

/* Keep object until the head is reset; once for a status. */
void py_head_keep(py_head *head, PyObject *object);

/* Check and add a field, within the room reserved. Borrows name and value, and keeps
 * them: str of latin-1, or bytes if the author is a handler. Returns 0, or -1 with a
 * ReplyError set. */
int py_head_add(const py_state *state, py_head *head, py_author author, PyObject *name,
                PyObject *value);

/* Returns whether a body follows, on the wire, the head that was asked for. */
static inline bool
py_head_sends_body(const py_head *head, const py_asked *asked)
{
    return !asked->is_head && fb_status_has_body(head->status);
}

/* Say how the end of a body of len bytes is told, RFC 9112 6, and make what goes on the
 * wire; it borrows from head. Returns 0; or -1 with a ReplyError set, when
 * Content-Length is not len. */
int py_head_make(const py_state *state, const py_head *head, const py_asked *asked,
                 uint64_t len, fb_head *made);

/* For tp_traverse. */
int py_head_traverse(const py_head *head, visitproc visit, void *arg);

#endif
