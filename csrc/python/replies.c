/* SPDX-License-Identifier: MIT */
/*
 * Giving the replies of a whole batch. Slots are gone through in order, so that each is
 * in turn when it is its turn here, unless fail has left one out.
 */
#include "python/replies.h"

#include "python/held.h"

#include <string.h>

static int
call_fail(PyObject *fail, size_t i, PyObject *error)
{
    PyObject *index = PyLong_FromSize_t(i);
    PyObject *args[] = {index, error};
    PyObject *result = index != NULL ? PyObject_Vectorcall(fail, args, 2, NULL) : NULL;
    Py_XDECREF(index);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* The exception that is set is the slot's, unless it is to stop the server. */
static int
fail_slot(PyObject *fail, size_t i)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *raised = PyErr_GetRaisedException();
    int error = call_fail(fail, i, raised);
    Py_DECREF(raised);
    return error;
}

static int
give_reply(py_executor *executor, size_t i, PyObject *reply, PyObject *fail)
{
    if (py_held_is_done(executor, i)) {
        return 0;
    }
    if (PyExceptionInstance_Check(reply)) {
        return call_fail(fail, i, reply);
    }
    return py_held_reply(executor, i, reply) != NULL ? 0 : fail_slot(fail, i);
}

/* ---- sequences ------------------------------------------------------------------- */

static Py_ssize_t
give_tuple(py_executor *executor, PyObject *replies, PyObject *fail)
{
    Py_ssize_t n = PyTuple_Size(replies);
    if ((size_t)n != fb_executor_claim_all(executor->io)) {
        return n;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *reply = PyTuple_GetItem(replies, i);
        if (give_reply(executor, (size_t)i, reply, fail) < 0) {
            return -1;
        }
    }
    return n;
}

static Py_ssize_t
refuse(const py_executor *executor, PyObject *result)
{
    py_raise_reply_error(executor->server->state,
                         "%U was returned: give a list or another sequence of replies,"
                         " rows of numbers, or an iterator",
                         result);
    return -1;
}

/* Returns whether result has items in order: 1 or 0, or -1 with an exception set. */
static int
is_sequence(const py_executor *executor, PyObject *result)
{
    if (!PySequence_Check(result) || PyUnicode_Check(result) || PyBytes_Check(result) ||
        PyByteArray_Check(result) || PyMemoryView_Check(result)) {
        return 0;
    }
    int is_mapping = PyObject_IsInstance(result, executor->server->state->mapping);
    return is_mapping < 0 ? -1 : !is_mapping;
}

/* Returns how many items result says that it has, most if it does not say; or -1 with
 * an exception set. */
static Py_ssize_t
said_length(PyObject *result, size_t most)
{
    PyTypeObject *type = Py_TYPE(result);
    bool says_it = PyType_GetSlot(type, Py_sq_length) != NULL ||
                   PyType_GetSlot(type, Py_mp_length) != NULL;
    return says_it ? PyObject_Size(result) : (Py_ssize_t)most;
}

/* It goes by a snapshot, for other threads may change a list meanwhile; of what has the
 * wrong length none is made, as that may be of any size. */
static Py_ssize_t
give_sequence(py_executor *executor, PyObject *result, PyObject *fail)
{
    int is_one = PyList_Check(result) ? 1 : is_sequence(executor, result);
    if (is_one <= 0) {
        return is_one < 0 ? -1 : refuse(executor, result);
    }
    size_t n_slots = fb_executor_claim_all(executor->io);
    Py_ssize_t length = said_length(result, n_slots);
    if (length != (Py_ssize_t)n_slots) {
        return length;
    }
    PyObject *replies = PySequence_Tuple(result);
    if (replies == NULL) {
        return -1;
    }
    Py_ssize_t n = give_tuple(executor, replies, fail);
    Py_DECREF(replies);
    return n;
}

/* ---- rows of numbers ------------------------------------------------------------- */

/* Not objects, whose addresses are nobody's business, nor structures. */
static bool
is_number_format(const char *format)
{
    const char *kind = format != NULL ? format : "B";
    kind += *kind != '\0' && strchr("@=<>!", *kind) != NULL;
    kind += *kind == 'Z'; /* complex */
    return *kind != '\0' && strchr("?bBchHiIlLqQnNefdg", *kind) != NULL &&
           kind[1] == '\0';
}

/* Some exporters, such as ctypes, give no strides of what is all contiguous. */
static bool
has_contiguous_rows(const Py_buffer *view)
{
    Py_ssize_t size = view->itemsize;
    for (int k = view->ndim - 1; k > 0 && view->strides != NULL; k--) {
        if (view->shape[k] > 1 && view->strides[k] != size) {
            return false;
        }
        size *= view->shape[k];
    }
    return true;
}

static Py_ssize_t
row_size(const Py_buffer *view)
{
    Py_ssize_t size = view->itemsize;
    for (int k = 1; k < view->ndim; k++) {
        size *= view->shape[k];
    }
    return size;
}

static int
give_row(py_executor *executor, size_t i, const char *row, Py_ssize_t len,
         PyObject *fail)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    if (py_held_is_done(executor, i)) {
        return 0;
    }
    if (!py_held_is_in_turn(slot)) {
        PyObject *bytes = PyBytes_FromStringAndSize(row, len);
        int error = bytes != NULL ? give_reply(executor, i, bytes, fail) : -1;
        Py_XDECREF(bytes);
        return error;
    }
    py_head head;
    py_head_init(&head);
    py_reply reply = {
        .head = &head,
        .content_type = "application/octet-stream",
        .data = row,
        .len = (uint64_t)len,
        .is_fleeting = true, /* the handler may use its memory for the next batch */
    };
    if (py_reply_send(executor, slot, &reply) < 0) {
        return fail_slot(fail, i);
    }
    (void)py_held_follow(executor, slot);
    return 0;
}

static Py_ssize_t
give_rows(py_executor *executor, const Py_buffer *view, PyObject *fail)
{
    Py_ssize_t n = view->shape[0];
    Py_ssize_t len = row_size(view);
    Py_ssize_t stride = view->strides != NULL ? view->strides[0] : len;
    if ((size_t)n != fb_executor_claim_all(executor->io)) {
        return n;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const char *row = (const char *)view->buf + i * stride;
        if (give_row(executor, (size_t)i, row, len, fail) < 0) {
            return -1;
        }
    }
    return n;
}

static Py_ssize_t
give_view(py_executor *executor, const Py_buffer *view, PyObject *fail)
{
    PyObject *reply_error = executor->server->state->reply_error;
    if (!is_number_format(view->format)) {
        PyErr_Format(reply_error,
                     "an array of %d dimensions of the format %.20s was returned: rows "
                     "of numbers can be replies, others as a list",
                     view->ndim, view->format);
        return -1;
    }
    if (!has_contiguous_rows(view)) {
        PyErr_Format(reply_error,
                     "an array of %d dimensions was returned whose rows are not "
                     "contiguous: make a contiguous copy of it",
                     view->ndim);
        return -1;
    }
    return give_rows(executor, view, fail);
}

/* One of one dimension is a sequence, if it is anything. */
static Py_ssize_t
give_buffer(py_executor *executor, PyObject *result, PyObject *fail)
{
    Py_buffer view;
    if (PyObject_GetBuffer(result, &view, PyBUF_RECORDS_RO) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear(); /* of what no other program can read, there may be items */
        return give_sequence(executor, result, fail);
    }
    bool has_rows = view.ndim >= 2;
    Py_ssize_t n = has_rows ? give_view(executor, &view, fail) : 0;
    PyBuffer_Release(&view);
    return has_rows ? n : give_sequence(executor, result, fail);
}

/* ---- iterators ------------------------------------------------------------------- */

static Py_ssize_t
give_each(py_executor *executor, PyObject *iterator, PyObject *fail)
{
    size_t n = fb_executor_claim_all(executor->io);
    size_t i = 0;
    PyObject *reply;
    while ((reply = PyIter_Next(iterator)) != NULL) {
        int error = i < n ? give_reply(executor, i, reply, fail) : 0;
        Py_DECREF(reply);
        if (error < 0) {
            return -1;
        }
        if (i++ == n) {
            break;
        }
    }
    return PyErr_Occurred() ? -1 : (Py_ssize_t)i;
}

static Py_ssize_t
give_iterator(py_executor *executor, PyObject *iterator, PyObject *fail)
{
    fb_server *server = executor->io->server;
    if (!fb_server_has_threads(server)) {
        fb_flusher_arm(&server->flusher); /* also for one slot */
    }
    Py_ssize_t n = give_each(executor, iterator, fail);
    if (n < 0 || n > (Py_ssize_t)fb_executor_claimed(executor->io)) {
        py_body_close(executor->server, iterator, NULL);
    }
    return n;
}

/* ---- all kinds ------------------------------------------------------------------- */

/* The handler has returned nothing. */
static Py_ssize_t
give_nothing(py_executor *executor)
{
    size_t n = fb_executor_claim_all(executor->io);
    for (size_t i = 0; i < n; i++) {
        if (!py_held_is_done(executor, i)) {
            return refuse(executor, Py_None);
        }
    }
    return (Py_ssize_t)n;
}

Py_ssize_t
py_replies_give(py_executor *executor, PyObject *result, PyObject *fail)
{
    if (PyTuple_Check(result)) {
        return give_tuple(executor, result, fail);
    }
    if (PyList_Check(result)) {
        return give_sequence(executor, result, fail);
    }
    if (PyIter_Check(result)) {
        return give_iterator(executor, result, fail);
    }
    if (result == Py_None) {
        return give_nothing(executor);
    }
    if (PyObject_CheckBuffer(result)) {
        return give_buffer(executor, result, fail);
    }
    return give_sequence(executor, result, fail);
}
