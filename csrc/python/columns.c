/* SPDX-License-Identifier: MIT */
/*
 * What a batch handler computes with: all bodies in one object.
 *
 * What is in memory is copied from where it was received: a slot, and what it points
 * to, stays as it is until the end of the dispatch.
 */
#include "python/columns.h"

#include "python/batch.h"
#include "python/held.h"
#include "python/input.h"
#include "python/stack.h"

#define BAD_REQUEST 400

/* Begin with all slots. Returns what the batch shows, with their number; or NULL with
 * an exception set. */
static py_executor *
begin_all(PyObject *self, size_t *n)
{
    py_executor *executor = py_batch_executor((py_batch *)self);
    if (executor == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the dispatch of this batch is over, or another thread's");
        return NULL;
    }
    *n = fb_executor_claim_all(executor->io);
    return executor;
}

/* Answer slot i, alone. Takes why, a str, or NULL with an exception set. Returns 0, or
 * -1 with an exception set. */
static int
refuse(py_executor *executor, size_t i, PyObject *why)
{
    PyObject *reply = why != NULL ? Py_BuildValue("(iN)", BAD_REQUEST, why) : NULL;
    const fb_slot *last = reply != NULL ? py_held_reply(executor, i, reply) : NULL;
    Py_XDECREF(reply);
    return last != NULL ? 0 : -1;
}

/* ---- bodies ---------------------------------------------------------------------- */

/* Returns the body of slot i as bytes, or NULL with an exception set. */
static PyObject *
body_of(py_executor *executor, size_t i)
{
    py_request *request = py_executor_request(executor, i);
    return request != NULL ? py_request_body(request) : NULL;
}

PyObject *
py_batch_bodies(PyObject *self, void *closure)
{
    (void)closure;
    size_t n;
    py_executor *executor = begin_all(self, &n);
    PyObject *bodies = executor != NULL ? PyTuple_New((Py_ssize_t)n) : NULL;
    for (size_t i = 0; bodies != NULL && i < n; i++) {
        PyObject *body = body_of(executor, i);
        PyObject *view = body != NULL ? PyMemoryView_FromObject(body) : NULL;
        Py_XDECREF(body);
        if (view == NULL || PyTuple_SetItem(bodies, (Py_ssize_t)i, view) < 0) {
            Py_CLEAR(bodies);
        }
    }
    return bodies;
}

/* ---- stack ----------------------------------------------------------------------- */

static uint64_t
body_len(const fb_slot *slot)
{
    return slot->req.n_spooled > 0 ? slot->req.n_spooled : slot->req.body.len;
}

/* Copy all of the body of slot. Returns 0, or -1 with an exception set. */
static int
copy_body(char *to, const fb_slot *slot)
{
    if (slot->req.n_spooled > 0) {
        return py_input_read_into(slot->file, 0, to, slot->req.n_spooled);
    }
    memcpy(to, slot->data + slot->req.body.off, slot->req.body.len);
    return 0;
}

/* Fill row i; or mask it out, and see to it that its slot is answered. Returns 0, or -1
 * with an exception set. */
static int
fill_row(py_executor *executor, py_stack *stack, size_t i)
{
    const fb_slot *slot = &executor->io->batch->slots[i];
    if (py_held_is_done(executor, i)) {
        py_stack_mask_out(stack, i);
        return 0;
    }
    if (body_len(slot) != stack->row_len) {
        py_stack_mask_out(stack, i);
        return refuse(executor, i,
                      PyUnicode_FromFormat("the body has %llu bytes, not %zu",
                                           (unsigned long long)body_len(slot),
                                           stack->row_len));
    }
    py_stack_hold(stack, i);
    return copy_body(py_stack_row(stack, i), slot);
}

PyObject *
py_batch_stack(PyObject *self, PyObject *args, PyObject *kwargs)
{
    char *names[] = {"dtype", "shape", NULL};
    PyObject *dtype, *shape;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:stack", names, &dtype, &shape)) {
        return NULL;
    }
    size_t n;
    py_executor *executor = begin_all(self, &n);
    if (executor == NULL) {
        return NULL;
    }
    py_stack *stack = py_stack_new(executor->server->state, n, dtype, shape);
    for (size_t i = 0; stack != NULL && i < n; i++) {
        if (fill_row(executor, stack, i) < 0) {
            Py_CLEAR(stack);
        }
    }
    return (PyObject *)stack;
}

/* ---- json ------------------------------------------------------------------------ */

/* The exception that is set is a ValueError: answer slot i with what it says. Returns
 * 0, or -1 with an exception set. */
static int
refuse_value(py_executor *executor, size_t i)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *why = PyUnicode_FromFormat("the body is no JSON: %S", error);
    Py_DECREF(error);
    return refuse(executor, i, why);
}

/* Returns the item of slot i, or NULL with an exception set. */
static PyObject *
read_item(py_executor *executor, size_t i)
{
    if (py_held_is_done(executor, i)) {
        return Py_NewRef(Py_None);
    }
    PyObject *body = body_of(executor, i);
    if (body == NULL) {
        return NULL;
    }
    PyObject *item = py_request_parse(executor->server->state, body);
    Py_DECREF(body);
    if (item == NULL && PyErr_ExceptionMatches(PyExc_ValueError) &&
        refuse_value(executor, i) == 0) {
        return Py_NewRef(Py_None);
    }
    return item;
}

PyObject *
py_batch_json(PyObject *self, PyObject *unused)
{
    (void)unused;
    size_t n;
    py_executor *executor = begin_all(self, &n);
    PyObject *items = executor != NULL ? PyList_New((Py_ssize_t)n) : NULL;
    for (size_t i = 0; items != NULL && i < n; i++) {
        PyObject *item = read_item(executor, i);
        if (item == NULL || PyList_SetItem(items, (Py_ssize_t)i, item) < 0) {
            Py_CLEAR(items);
        }
    }
    return items;
}
