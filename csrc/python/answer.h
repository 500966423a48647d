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

#include "python/server.h"

/* Answer slot with value. Returns 0; or -1 with an exception set, and then nothing was
 * sent and the slot is still unanswered. Borrows value; what is sent later is kept. */
int py_answer(py_executor *executor, fb_slot *slot, PyObject *value);

#endif
