/* SPDX-License-Identifier: MIT */
/*
 * Streaming iterators with backpressure, and keeping objects alive while they are sent.
 *
 * release is called detached, on the loop's thread: it only puts the body on a list of
 * the server, and that list is worked off when attached next.
 */
#include "python/body.h"

static void on_release(void *owner);
static fb_pull on_pull(void *owner, fb_buf *into);

static const fb_body_ops ops = {.pull = on_pull, .release = on_release};

static void
on_release(void *owner)
{
    py_body *body = owner;
    body->next = body->server->released;
    body->server->released = body;
}

/* ---- pulling --------------------------------------------------------------------- */

static bool
put_framed(py_body *body, fb_buf *into, const char *bytes, size_t len)
{
    if (body->framing == FB_FRAMING_CHUNKED) {
        return fb_reply_chunk(into, bytes, len);
    }
    return fb_buf_append(into, bytes, len);
}

/* Returns 0, or -1 with an exception set. */
static int
put_bytes(py_body *body, fb_buf *into, const Py_buffer *view)
{
    size_t len = (size_t)view->len;
    if (body->framing == FB_FRAMING_LENGTH) {
        if (len > body->missing) {
            PyErr_SetString(body->server->state->reply_error,
                            "a streamed body is longer than its Content-Length");
            return -1;
        }
        body->missing -= len;
    }
    if (!put_framed(body, into, view->buf, len)) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int
put_item(py_body *body, fb_buf *into, PyObject *item)
{
    Py_buffer view;
    if (PyObject_GetBuffer(item, &view, PyBUF_SIMPLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError) &&
            !PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1; /* raised by its own __buffer__ */
        }
        PyErr_Clear();
        py_raise_reply_error(body->server->state,
                             "a streamed body gave %U, which is not bytes-like", item);
        return -1;
    }
    int result = put_bytes(body, into, &view);
    PyBuffer_Release(&view);
    return result;
}

/* Returns the next item, or NULL: with an exception set, or at the end. */
static PyObject *
next_item(py_body *body)
{
    PyObject *item = body->first;
    if (item != NULL) {
        body->first = NULL;
        return item;
    }
    return PyIter_Next(body->iterator);
}

static fb_pull
end_stream(py_body *body, fb_buf *into)
{
    if (body->framing == FB_FRAMING_CHUNKED && !fb_reply_last_chunk(into)) {
        PyErr_NoMemory();
        return FB_PULL_FAIL;
    }
    if (body->framing == FB_FRAMING_LENGTH && body->missing > 0) {
        PyErr_SetString(body->server->state->reply_error,
                        "a streamed body is shorter than its Content-Length");
        return FB_PULL_FAIL;
    }
    return FB_PULL_END;
}

/* Attached. One item, because the next one may be long in coming; but an iterator that
 * gives nothing, again and again, may not hold the loop. */
static fb_pull
pull_item(py_body *body, fb_buf *into)
{
    uint64_t began = uv_hrtime();
    while (into->len == 0 && uv_hrtime() - began < FB_EARLY_FLUSH_NS) {
        PyObject *item = next_item(body);
        if (item == NULL) {
            return PyErr_Occurred() ? FB_PULL_FAIL : end_stream(body, into);
        }
        int error = put_item(body, into, item);
        Py_DECREF(item);
        if (error < 0) {
            return FB_PULL_FAIL;
        }
    }
    return FB_PULL_MORE;
}

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    py_body *body = owner;
    py_server *server = body->server;
    py_server_attach(server);
    fb_pull pulled = pull_item(body, into);
    if (pulled == FB_PULL_FAIL) {
        if (py_server_keep_raised(server)) {
            fb_server_stop(server->server, FB_STOP_GRACEFUL);
        } else {
            py_log_exception(server->state, "a streamed reply broke off");
        }
    }
    py_server_detach(server);
    return pulled;
}

/* ---- making and dropping --------------------------------------------------------- */

static py_body *
new_body(py_server *server)
{
    py_body *body = PyMem_Calloc(1, sizeof(*body));
    if (body == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    body->server = server;
    return body;
}

fb_body
py_body_stream(py_server *server, PyObject *iterator, PyObject *first,
               fb_framing framing, uint64_t length)
{
    py_body *body = new_body(server);
    if (body == NULL) {
        Py_DECREF(iterator);
        Py_XDECREF(first);
        return (fb_body){0};
    }
    body->iterator = iterator;
    body->first = first;
    body->framing = framing;
    body->missing = length;
    return (fb_body){.ops = &ops, .owner = body};
}

fb_body
py_body_in_place(py_server *server, Py_buffer *view, PyObject *object, const char *data,
                 size_t len)
{
    py_body *body = new_body(server);
    if (body == NULL) {
        return (fb_body){0};
    }
    if (view->obj != NULL) {
        body->view = *view;
        view->obj = NULL;
    } else {
        body->object = Py_NewRef(object);
    }
    return (fb_body){.ops = &ops, .owner = body, .data = data, .len = len};
}

void
py_body_close_iterator(py_server *server, PyObject *iterator)
{
    PyObject *close = PyObject_GetAttr(iterator, server->state->close);
    if (close == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            return;
        }
    } else {
        PyObject *result = PyObject_CallNoArgs(close);
        Py_XDECREF(result);
        Py_DECREF(close);
    }
    if (PyErr_Occurred() && !py_server_keep_raised(server)) {
        py_log_exception(server->state, "close() of a streamed reply failed");
    }
}

static void
drop(py_body *body)
{
    if (body->iterator != NULL) {
        py_body_close_iterator(body->server, body->iterator);
    }
    Py_XDECREF(body->iterator);
    Py_XDECREF(body->first);
    Py_XDECREF(body->object);
    if (body->view.obj != NULL) {
        PyBuffer_Release(&body->view);
    }
    PyMem_Free(body);
}

void
py_body_drop_released(py_server *server)
{
    while (server->released != NULL) {
        py_body *body = server->released;
        server->released = body->next;
        drop(body);
    }
}
