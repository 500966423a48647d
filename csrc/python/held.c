/* SPDX-License-Identifier: MIT */
/*
 * Holding replies. One is taken out of its place before anything of it is touched, for
 * that may run any code, which may come here again.
 */
#include "python/held.h"

#include <assert.h>

struct py_held {
    PyObject *value; /* strong: answer borrows from it */
    py_answer answer;
};

static size_t
index_of(const py_executor *executor, const fb_slot *slot)
{
    return (size_t)(slot - executor->io->batch->slots);
}

bool
py_held_is_done(const py_executor *executor, size_t i)
{
    return executor->io->batch->slots[i].is_answered || executor->held[i] != NULL;
}

bool
py_held_is_in_turn(const fb_slot *slot)
{
    const fb_conn *conn = slot->owner;
    return slot->turn == conn->n_answered;
}

/* ---- one reply ------------------------------------------------------------------- */

static void
free_held(const py_executor *executor, py_held *held)
{
    py_answer_fini(executor, &held->answer);
    Py_DECREF(held->value);
    PyMem_Free(held);
}

static py_held *
take_out(py_executor *executor, size_t i)
{
    py_held *held = executor->held[i];
    if (held != NULL) {
        executor->held[i] = NULL;
        executor->n_held--;
    }
    return held;
}

/* It was judged before: nothing but want of memory can be in its way. */
static void
send_held(py_executor *executor, size_t i)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    py_held *held = take_out(executor, i);
    if (py_answer_send(executor, slot, &held->answer) < 0) {
        py_server_log(executor->server, "a reply that had to wait could not be sent");
        py_reply_send_plain(executor, slot, 500);
    }
    free_held(executor, held);
}

/* Returns a new one, or NULL with an exception set. */
static py_held *
new_held(const py_executor *executor, const fb_slot *slot, PyObject *value)
{
    py_held *held = PyMem_Malloc(sizeof(*held));
    if (held == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    held->value = Py_NewRef(value);
    if (py_answer_read(executor, &held->answer, value) < 0 ||
        py_answer_check(executor, slot, &held->answer) < 0) {
        free_held(executor, held);
        return NULL;
    }
    return held;
}

/* Returns as py_held_reply. */
static fb_slot *
hold(py_executor *executor, size_t i, PyObject *value)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    py_held *held = new_held(executor, slot, value);
    if (held == NULL) {
        return NULL;
    }
    /* Its code may have answered anything. */
    if (py_held_is_done(executor, i)) {
        free_held(executor, held);
        PyErr_Format(PyExc_RuntimeError,
                     "slot %zu was answered while its reply was read", i);
        return NULL;
    }
    executor->held[i] = held;
    executor->n_held++;
    if (py_held_is_in_turn(slot)) {
        send_held(executor, i);
        return py_held_follow(executor, slot);
    }
    return slot;
}

/* ---- in turn --------------------------------------------------------------------- */

/* Returns the next slot of the same connection that was begun with, or NULL. */
static fb_slot *
next_of(const py_executor *executor, const fb_slot *slot)
{
    fb_slot *slots = executor->io->batch->slots;
    size_t n = fb_executor_claimed(executor->io);
    for (size_t i = index_of(executor, slot) + 1; i < n; i++) {
        if (slots[i].owner == slot->owner) {
            return &slots[i];
        }
    }
    return NULL;
}

/* They are answered, with nothing. */
static void
drop_behind(py_executor *executor, const fb_slot *slot)
{
    while ((slot = next_of(executor, slot)) != NULL) {
        py_held *held = take_out(executor, index_of(executor, slot));
        if (held != NULL) {
            free_held(executor, held);
        }
    }
}

fb_slot *
py_held_follow(py_executor *executor, fb_slot *slot)
{
    fb_slot *last = slot;
    while (executor->n_held > 0) {
        if (last->is_last) {
            drop_behind(executor, last);
            break;
        }
        fb_slot *next = next_of(executor, last);
        if (next == NULL || executor->held[index_of(executor, next)] == NULL) {
            break;
        }
        send_held(executor, index_of(executor, next));
        last = next;
    }
    return last;
}

fb_slot *
py_held_reply(py_executor *executor, size_t i, PyObject *value)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    if (!py_held_is_in_turn(slot)) {
        return hold(executor, i, value);
    }
    if (py_answer_slot(executor, slot, value) < 0) {
        return NULL;
    }
    return py_held_follow(executor, slot);
}

void
py_held_end(py_executor *executor)
{
    size_t n = fb_executor_claimed(executor->io);
    for (size_t i = 0; executor->n_held > 0 && i < n; i++) {
        fb_slot *slot = &executor->io->batch->slots[i];
        if (slot->is_answered) {
            continue;
        }
        if (executor->held[i] != NULL) {
            send_held(executor, i);
        } else {
            py_reply_send_plain(executor, slot, 500);
        }
        (void)py_held_follow(executor, slot);
    }
    assert(executor->n_held == 0);
}
