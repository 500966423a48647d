/* SPDX-License-Identifier: MIT */
/*
 * What a batch handler returned: as many replies as there are slots.
 *
 *   a sequence            item i is the reply to slot i, see answer.h; an exception in
 *                         the place of one fails its slot alone
 *   a buffer of numbers   with two or more dimensions: the bytes of row i
 *   an iterator           item i again, which is sent when it is given
 *   None                  when every slot was answered by the handler itself
 */
#ifndef FB_PYTHON_REPLIES_H
#define FB_PYTHON_REPLIES_H

#include "python/server.h"

/* Answer all slots with result, but for those that are answered already. Of a slot that
 * has no reply, fail is called with its number and an exception; it is to answer.
 * Returns how many replies there were, one more than there are slots if an iterator
 * goes on; of another number of a sequence none was given. Or -1 with an exception set:
 * of the iterator, of fail, or because result is of no such kind. Borrows both. */
Py_ssize_t py_replies_give(py_executor *executor, PyObject *result, PyObject *fail);

#endif
