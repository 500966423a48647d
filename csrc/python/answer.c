/* SPDX-License-Identifier: MIT */
/*
 * Reading what a request handler returned. Nothing of it is sent before all was read.
 */
#include "python/answer.h"

/* ---- fields ---------------------------------------------------------------------- */

static int
read_pair(const py_state *state, py_answer *a, PyObject *item)
{
    /* A snapshot: the handler's own list may change under us. */
    PyObject *pair = PyTuple_Check(item) ? Py_NewRef(item) : NULL;
    if (pair == NULL && PyList_Check(item)) {
        pair = PyList_AsTuple(item);
    }
    if (pair == NULL || PyTuple_Size(pair) != 2) {
        Py_XDECREF(pair);
        PyErr_Clear();
        py_raise_reply_error(state, "%U is no pair of header name and value", item);
        return -1;
    }
    int error = py_head_add(state, &a->head, PY_AUTHOR_HANDLER,
                            PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1));
    Py_DECREF(pair);
    return error;
}

/* Asked beforehand, so that what an __iter__ raises is not taken for the answer. */
static bool
is_iterable(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_iter) != NULL ||
           PySequence_Check(object);
}

/* Returns whether headers have items(): 1 or 0, or -1 with an exception set that asking
 * has raised. (PyObject_HasAttrString would swallow it.) Most are of a kind that need
 * not be asked. */
static int
has_items(PyObject *headers)
{
    if (PyDict_Check(headers)) {
        return 1;
    }
    if (PyTuple_CheckExact(headers) || PyList_CheckExact(headers)) {
        return 0;
    }
    PyObject *items = PyObject_GetAttrString(headers, "items");
    if (items != NULL) {
        Py_DECREF(items);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* Returns the fields as a new list or tuple of ours, or NULL with an exception set. */
static PyObject *
snapshot_of(const py_state *state, PyObject *headers)
{
    int is_mapping = has_items(headers);
    if (is_mapping != 0) {
        return is_mapping > 0 ? PyMapping_Items(headers) : NULL;
    }
    if (!PyUnicode_Check(headers) && !PyBytes_Check(headers) && is_iterable(headers)) {
        return PySequence_Tuple(headers);
    }
    py_raise_reply_error(
        state, "headers %U are neither a mapping nor pairs of name and value", headers);
    return NULL;
}

static int
read_headers(const py_state *state, py_answer *a, PyObject *headers)
{
    if (headers == Py_None) {
        return 0;
    }
    PyObject *snapshot = snapshot_of(state, headers);
    PyObject *items = snapshot != NULL ? PySequence_Tuple(snapshot) : NULL;
    Py_XDECREF(snapshot);
    if (items == NULL) {
        return -1;
    }
    Py_ssize_t n = PyTuple_Size(items);
    int error = py_head_reserve(&a->head, (size_t)n);
    for (Py_ssize_t i = 0; error == 0 && i < n; i++) {
        error = read_pair(state, a, PyTuple_GetItem(items, i));
    }
    Py_DECREF(items);
    return error;
}

/* ---- bodies ---------------------------------------------------------------------- */

static int
read_text(const py_state *state, py_answer *a, PyObject *text)
{
    Py_ssize_t len;
    a->reply.data = PyUnicode_AsUTF8AndSize(text, &len);
    if (a->reply.data == NULL) {
        PyErr_Clear();
        PyErr_SetString(state->reply_error,
                        "a text body holds lone surrogates, which UTF-8 cannot encode");
        return -1;
    }
    a->reply.len = (uint64_t)len;
    a->reply.holder = text;
    a->reply.content_type = "text/plain; charset=utf-8";
    return 0;
}

/* Returns whether the bytes of body were had, in view, which has no owner otherwise;
 * and an exception is set then. */
static bool
open_view(PyObject *body, Py_buffer *view)
{
    if (PyBytes_Check(body)) {
        return PyObject_GetBuffer(body, view, PyBUF_SIMPLE) == 0;
    }
    /* Some exporters have no format for what they have bytes of. */
    bool is_open = PyObject_GetBuffer(body, view, PyBUF_ND | PyBUF_FORMAT) == 0;
    if (!is_open && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        is_open = PyObject_GetBuffer(body, view, PyBUF_SIMPLE) == 0;
    }
    view->obj = is_open ? view->obj : NULL;
    return is_open;
}

/* Returns whether they are addresses of objects, which are nobody's business. */
static bool
holds_objects(const Py_buffer *view)
{
    bool is_name = false; /* of a field, between colons */
    for (const char *c = view->format; c != NULL && *c != '\0'; c++) {
        if (*c == 'O' && !is_name) {
            return true;
        }
        is_name ^= *c == ':';
    }
    return false;
}

static int
read_buffer(const py_state *state, py_answer *a, PyObject *body)
{
    if (!open_view(body, &a->reply.view)) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError)) {
            return -1; /* raised by its own __buffer__ */
        }
        PyErr_Clear();
        py_raise_reply_error(state, "the body %U is not contiguous bytes", body);
        return -1;
    }
    if (holds_objects(&a->reply.view)) {
        py_raise_reply_error(state, "the body %U holds objects, not bytes", body);
        return -1;
    }
    a->reply.data = a->reply.view.buf;
    a->reply.len = (uint64_t)a->reply.view.len;
    a->reply.content_type = "application/octet-stream";
    return 0;
}

/* In a context of its own, because streams go by turns: what one sets in a ContextVar
 * is not to be seen by others. */
static int
begin_stream(const py_state *state, py_answer *a, PyObject *body)
{
    a->stream.context = PyContext_CopyCurrent();
    if (a->stream.context == NULL || PyContext_Enter(a->stream.context) < 0) {
        return -1;
    }
    a->stream.iterator = PyObject_GetIter(body);
    a->reply.closes = a->stream.iterator;
    if (a->stream.iterator != NULL) {
        a->stream.first = PyIter_Next(a->stream.iterator);
    }
    py_leave_context(state, a->stream.context);
    return PyErr_Occurred() ? -1 : 0;
}

/* The first item is asked for now: what a generator raises before it is a plain 500. */
static int
read_stream(const py_state *state, py_answer *a, PyObject *body)
{
    if (!is_iterable(body)) {
        py_raise_reply_error(state, "%U is no body", body);
        return -1;
    }
    a->reply.content_type = "application/octet-stream";
    if (begin_stream(state, a, body) < 0) {
        return -1;
    }
    if (a->stream.first == NULL) {
        return 0;
    }
    if (!PyObject_CheckBuffer(a->stream.first)) {
        py_raise_reply_error(state, "a streamed body gave %U, which is not bytes-like",
                             a->stream.first);
        return -1;
    }
    a->reply.stream = &a->stream;
    a->reply.len = PY_LENGTH_UNKNOWN;
    return 0;
}

static int
read_body(const py_state *state, py_answer *a, PyObject *body)
{
    if (body == Py_None) {
        return 0;
    }
    if (PyUnicode_Check(body)) {
        return read_text(state, a, body);
    }
    if (PyObject_CheckBuffer(body)) {
        return read_buffer(state, a, body);
    }
    if (PyMapping_Check(body) && !PySequence_Check(body)) {
        PyErr_SetString(state->reply_error,
                        "a mapping is no body: encode it, for example with json.dumps");
        return -1;
    }
    return read_stream(state, a, body);
}

static int
read_status(const py_state *state, py_answer *a, PyObject *status)
{
    long number = PyLong_Check(status) ? PyLong_AsLong(status) : -1;
    if (number < FB_STATUS_MIN || number > FB_STATUS_MAX) {
        PyErr_Clear();
        py_raise_reply_error(state, "the status %U is no integer from 200 to 599",
                             status);
        return -1;
    }
    a->head.status = (int)number;
    return 0;
}

static int
read_tuple(const py_state *state, py_answer *a, PyObject *tuple)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    if (n != 2 && n != 3) {
        PyErr_Format(state->reply_error,
                     "a tuple of %zd is neither (status, body) nor "
                     "(status, headers, body)",
                     n);
        return -1;
    }
    if (read_status(state, a, PyTuple_GetItem(tuple, 0)) < 0 ||
        read_body(state, a, PyTuple_GetItem(tuple, n - 1)) < 0) {
        return -1;
    }
    return n == 3 ? read_headers(state, a, PyTuple_GetItem(tuple, 1)) : 0;
}

static int
read_reply(const py_state *state, py_answer *a, PyObject *value)
{
    if (PyUnicode_Check(value)) {
        return read_text(state, a, value);
    }
    if (value == Py_None) {
        a->head.status = 204;
        return 0;
    }
    if (PyTuple_Check(value)) {
        return read_tuple(state, a, value);
    }
    if (PyObject_CheckBuffer(value)) {
        return read_buffer(state, a, value);
    }
    py_raise_reply_error(state,
                         "%U is no reply: give str, bytes, None, (status, body) or "
                         "(status, headers, body)",
                         value);
    return -1;
}

/* ---- answering ------------------------------------------------------------------- */

int
py_answer_read(const py_executor *executor, py_answer *a, PyObject *value)
{
    py_head_init(&a->head);
    a->reply = (py_reply){.head = &a->head};
    a->stream = (py_stream){0};
    return read_reply(executor->server->state, a, value);
}

int
py_answer_check(const py_executor *executor, const fb_slot *slot, const py_answer *a)
{
    fb_head made;
    py_asked asked = py_reply_asked(slot);
    return py_head_make(executor->server->state, &a->head, &asked, a->reply.len, &made);
}

int
py_answer_send(py_executor *executor, fb_slot *slot, py_answer *a)
{
    return py_reply_send(executor, slot, &a->reply);
}

void
py_answer_fini(const py_executor *executor, py_answer *a)
{
    if (a->reply.closes != NULL && !a->reply.is_given) {
        py_body_close(executor->server, a->reply.closes, a->stream.context);
    }
    if (a->reply.view.obj != NULL) {
        PyBuffer_Release(&a->reply.view);
    }
    Py_XDECREF(a->stream.iterator);
    Py_XDECREF(a->stream.first);
    Py_XDECREF(a->stream.context);
    py_head_reset(&a->head);
}

int
py_answer_slot(py_executor *executor, fb_slot *slot, PyObject *value)
{
    py_answer a;
    int error = py_answer_read(executor, &a, value);
    if (error == 0 && slot->is_answered) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the slot was answered while its reply was read");
        error = -1;
    }
    if (error == 0) {
        error = py_answer_send(executor, slot, &a);
    }
    py_answer_fini(executor, &a);
    return error;
}
