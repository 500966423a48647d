/* SPDX-License-Identifier: MIT */
/*
 * Replies in turn: those of one connection leave in the order of its requests, whatever
 * the order that they are given in. What is given too early is held here, read and
 * judged already, until all before it is answered.
 *
 * Only the thread of the dispatch comes here. A connection with a slot that waits is
 * not answered in full, so that it is the executor's: nobody takes it back.
 */
#ifndef FB_PYTHON_HELD_H
#define FB_PYTHON_HELD_H

#include "python/answer.h"

/* Returns whether slot i has its reply, be it held. */
bool py_held_is_done(const py_executor *executor, size_t i);

/* Returns whether all before slot, which is not done, is answered. */
bool py_held_is_in_turn(const fb_slot *slot);

/* Answer slot i, which is not done, with value: now and with those that waited for it,
 * or later. Borrows value. Returns the last slot that was answered thereby, or that of
 * i when it is to wait; NULL with an exception set, and then as py_answer_slot. */
fb_slot *py_held_reply(py_executor *executor, size_t i, PyObject *value);

/* Slot was answered: send what waited for that, and let go of what never can be sent.
 * Returns the last slot that is answered now. */
fb_slot *py_held_follow(py_executor *executor, fb_slot *slot);

/* The dispatch ends: answer 500 where nothing was given that others wait for, and send
 * all. */
void py_held_end(py_executor *executor);

#endif
