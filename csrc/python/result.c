/* SPDX-License-Identifier: MIT */
/*
 * Looking at what an application returned, PEP 3333 "Buffering and Streaming".
 */
#include "python/result.h"

#include "core/limits.h"

#include <uv.h>

void
py_result_fini(py_result *r)
{
    if (r->view.obj != NULL) {
        PyBuffer_Release(&r->view);
    }
    Py_XDECREF(r->body);
    Py_XDECREF(r->iterator);
    Py_XDECREF(r->object);
    Py_XDECREF(r->context);
}

bool
py_result_is_list(const py_result *r)
{
    return PyList_CheckExact(r->object) || PyTuple_CheckExact(r->object);
}

/* Keep body, a new reference, if its bytes can be had. Returns 0, or -1 with an
 * exception set. */
static int
take_body(const py_state *state, py_result *r, PyObject *body)
{
    r->body = body;
    if (PyObject_GetBuffer(body, &r->view, PyBUF_SIMPLE) == 0) {
        return 0;
    }
    r->view.obj = NULL;
    if (PyErr_ExceptionMatches(PyExc_TypeError) ||
        PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Clear();
        py_raise_reply_error(state, "the application gave %U where bytes are due",
                             body);
    }
    return -1;
}

/* Returns a new reference, or NULL with an exception set. */
static PyObject *
join(PyObject *items)
{
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
    PyObject *joined =
        empty != NULL ? PyObject_CallMethod(empty, "join", "(O)", items) : NULL;
    Py_XDECREF(empty);
    return joined;
}

/* A list or a tuple is all there: its items are one body. */
static int
read_items(const py_state *state, py_result *r)
{
    r->is_whole = true;
    if (PyList_CheckExact(r->object) && PyList_Size(r->object) == 1) {
        PyObject *item = PyList_GetItemRef(r->object, 0);
        return item != NULL ? take_body(state, r, item) : -1;
    }
    /* A snapshot of a list, which another thread may change. */
    PyObject *items = PySequence_Tuple(r->object);
    if (items == NULL) {
        return -1;
    }
    PyObject *body = NULL;
    Py_ssize_t n = PyTuple_Size(items);
    if (n == 1) {
        body = Py_NewRef(PyTuple_GetItem(items, 0));
    } else if (n > 1) {
        body = join(items);
    }
    Py_DECREF(items);
    if (n == 0) {
        return 0;
    }
    return body != NULL ? take_body(state, r, body) : -1;
}

/* Look for the first item that is not empty, for not too long: while there is none, the
 * head may still change, and other connections wait. */
static int
read_first_item(const py_state *state, py_result *r)
{
    uint64_t began = 0;
    for (;;) {
        PyObject *item = PyIter_Next(r->iterator);
        if (item == NULL) {
            r->is_whole = true;
            return PyErr_Occurred() ? -1 : 0;
        }
        if (take_body(state, r, item) < 0) {
            return -1;
        }
        if (r->view.len > 0) {
            return 0;
        }
        PyBuffer_Release(&r->view);
        Py_CLEAR(r->body);
        uint64_t now = uv_hrtime();
        began = began == 0 ? now : began;
        if (now - began > FB_EARLY_FLUSH_NS) {
            return 0;
        }
    }
}

/* Returns whether result says that it has one item, PEP 3333 "Handling the
 * Content-Length Header"; or -1 with an exception set that is no Exception. */
static int
has_one_item(PyObject *result)
{
    if (PyType_GetSlot(Py_TYPE(result), Py_sq_length) == NULL &&
        PyType_GetSlot(Py_TYPE(result), Py_mp_length) == NULL) {
        return 0;
    }
    Py_ssize_t n = PyObject_Size(result);
    if (n < 0 && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* it does not say */
        return 0;
    }
    return n < 0 ? -1 : n == 1;
}

static int
read_iterable(const py_state *state, py_result *r)
{
    if (PyUnicode_Check(r->object) || PyBytes_Check(r->object)) {
        py_raise_reply_error(state, "the application returned %U, not a list of bytes",
                             r->object);
        return -1;
    }
    if (PyType_GetSlot(Py_TYPE(r->object), Py_tp_iter) == NULL &&
        !PySequence_Check(r->object)) {
        py_raise_reply_error(state, "the application returned %U, which is no iterable",
                             r->object);
        return -1;
    }
    int is_one = has_one_item(r->object);
    if (is_one < 0) {
        return -1;
    }
    r->iterator = PyObject_GetIter(r->object);
    if (r->iterator == NULL || read_first_item(state, r) < 0) {
        return -1;
    }
    r->is_whole = r->is_whole || (is_one && r->body != NULL);
    return 0;
}

int
py_result_read(const py_state *state, py_result *r)
{
    return py_result_is_list(r) ? read_items(state, r) : read_iterable(state, r);
}
