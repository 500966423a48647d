/* SPDX-License-Identifier: MIT */
/*
 * What a handler returned, as a reply on the wire.
 *
 *   str                      200, text/plain; charset=utf-8
 *   bytes-like               200, application/octet-stream
 *   None                     204
 *   (status, body)           body: as above, or an iterable of bytes-like, streamed
 *   (status, headers, body)  headers: a mapping, or pairs of name and value
 */
#ifndef FB_PYTHON_REPLY_H
#define FB_PYTHON_REPLY_H

#include "python/server.h"

/* Answer slot with reply. Returns 0; or -1 with an exception set, and then nothing was
 * sent and the slot is still unanswered. Borrows reply; what is sent later is kept. */
int py_reply_answer(py_server *server, fb_slot *slot, PyObject *reply);

#endif
