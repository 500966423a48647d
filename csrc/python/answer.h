/* SPDX-License-Identifier: MIT */
/*
 * What a request handler returned, as a reply.
 *
 *   str                      200, text/plain; charset=utf-8
 *   bytes-like               200, application/octet-stream
 *   None                     204
 *   (status, body)           body: as above, or an iterable of bytes-like, streamed
 *   (status, headers, body)  headers: a mapping, or pairs of name and value
 */
#ifndef FB_PYTHON_ANSWER_H
#define FB_PYTHON_ANSWER_H

#include "python/reply.h"

/* An answer that was read. Its parts point to each other: it stays where it is. */
typedef struct py_answer {
    py_head head;
    py_reply reply;
    py_stream stream; /* of the reply, when it has an iterator */
} py_answer;

/* Read value into an answer of any content. Borrows value, until py_answer_fini, which
 * must follow either way. Returns 0, or -1 with an exception set. It may run any code,
 * which may have answered slots. */
int py_answer_read(const py_executor *executor, py_answer *answer, PyObject *value);

/* Returns 0 when answer could be sent to slot, as far as it can be told; or -1 with an
 * exception set. */
int py_answer_check(const py_executor *executor, const fb_slot *slot,
                    const py_answer *answer);

/* Answer slot, as py_reply_send. */
int py_answer_send(py_executor *executor, fb_slot *slot, py_answer *answer);

/* Let go of all, and call close() of what was not sent; that may run any code, and an
 * exception that is set stays set. */
void py_answer_fini(const py_executor *executor, py_answer *answer);

/* Answer slot with value. Returns 0; or -1 with an exception set, and then nothing was
 * sent, and the slot is still unanswered, unless that was done meanwhile by the code of
 * value itself. Borrows value; what is sent later is kept. */
int py_answer_slot(py_executor *executor, fb_slot *slot, PyObject *value);

#endif
