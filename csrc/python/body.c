/* SPDX-License-Identifier: MIT */
/*
 * Streaming iterators with backpressure, and keeping objects alive while they are sent.
 *
 * release is called detached, on any thread: it only puts the body on a list of the
 * server, and that list is worked off when attached next.
 *
 * Without handler threads the loop attaches and asks a stream for its next item; with
 * them that is a job for one of them, and the connection waits.
 */
#include "python/body.h"

#include <unistd.h>

/* For the counters and the access log: its status is known at last. */
static void
note_head(const py_body *body, int status)
{
    fb_stats_note_replies(body->server->server->stats, status, 1);
    if (body->held != NULL) {
        body->held->status = status;
    }
}

/* For the access log. */
static void
note_bytes(const py_body *body, uint64_t n)
{
    if (body->held != NULL) {
        body->held->n_body += n;
    }
}

static void
finish_line(py_body *body)
{
    if (body->held != NULL) {
        body->held->n_body -= body->file.left; /* noted as a whole, and not sent */
        fb_access_finish(body->held);
        body->held = NULL;
    }
}

static void drop(py_body *body);

static py_body *
body_of(fb_job *job)
{
    return (py_body *)(void *)((char *)job - offsetof(py_body, job));
}

/* What close() or a stream raised may be kept, to end the server. */
static void
stop_if_raised(py_server *server)
{
    if (atomic_load(&server->raised) != NULL) {
        fb_server_stop(server->server, FB_STOP_GRACEFUL);
    }
}

static void
run_drop(fb_job *job, fb_executor *executor)
{
    (void)executor;
    drop(body_of(job));
    stop_if_raised(body_of(job)->server);
}

static void
finish_drop(fb_job *job)
{
    PyMem_RawFree(body_of(job));
}

static void
unpin(py_body *body)
{
    if (body->executor != NULL) {
        atomic_fetch_sub(&body->executor->n_streams, 1);
        body->executor = NULL;
    }
}

/* To be let go of by its thread, or by whoever attaches next. */
static void
let_go(py_body *body)
{
    py_server *server = body->server;
    finish_line(body);
    if (body->pulled.heap != NULL) {
        fb_buf_fini(&body->pulled); /* the server's memory goes with the server */
    }
    if (body->executor != NULL) {
        body->job = (fb_job){.run = run_drop, .finish = finish_drop};
        if (fb_pool_submit(&server->server->pool, body->executor, &body->job)) {
            return;
        }
        unpin(body); /* the executor may go before the body does */
    }
    body->next = atomic_load(&server->released);
    while (!atomic_compare_exchange_weak(&server->released, &body->next, body)) {
    }
}

static void
on_release(void *owner)
{
    py_body *body = owner;
    body->is_released = true;
    if (body->pulling != PY_PULLING_BUSY) {
        let_go(body);
    }
}

/* ---- pulling --------------------------------------------------------------------- */

static bool
put_framed(const py_stream *stream, fb_buf *into, const char *bytes, size_t len)
{
    if (stream->framing == FB_FRAMING_CHUNKED) {
        return fb_reply_chunk(into, bytes, len);
    }
    return fb_buf_append(into, bytes, len);
}

/* Returns whether as much was given as Content-Length says. */
static bool
is_complete(const py_stream *stream)
{
    return stream->is_wsgi && !stream->is_unsent &&
           stream->framing == FB_FRAMING_LENGTH && stream->missing == 0;
}

/* More came than Content-Length says. Returns 0 when it is to be cut, or -1 with an
 * exception set. */
static int
judge_excess(const py_body *body)
{
    const py_state *state = body->server->state;
    PyErr_SetString(state->reply_error,
                    "a streamed body is longer than its Content-Length");
    if (!body->stream.is_wsgi) {
        return -1;
    }
    py_server_log(body->server, "what is too much was not sent");
    return 0;
}

/* Returns 0, or -1 with an exception set. */
static int
put_bytes(py_body *body, fb_buf *into, const Py_buffer *view)
{
    py_stream *stream = &body->stream;
    size_t len = (size_t)view->len;
    if (stream->framing == FB_FRAMING_LENGTH) {
        if (len > stream->missing) {
            if (judge_excess(body) < 0) {
                return -1;
            }
            len = (size_t)stream->missing;
        }
        stream->missing -= len;
    }
    if (!put_framed(stream, into, view->buf, len)) {
        PyErr_NoMemory();
        return -1;
    }
    note_bytes(body, len);
    return 0;
}

/* Such heads are rare, and made on any thread: each has a stamp of its own. */
static void
make_stamp(const py_server *server, fb_stamp *stamp)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fb_stamp_init(stamp, server->server->server_value);
    fb_stamp_update(stamp, now.tv_sec);
}

/* The head that start_response was given, before a body of len bytes. */
static int
put_head(py_body *body, fb_buf *into, uint64_t len)
{
    py_stream *stream = &body->stream;
    const py_server *server = body->server;
    fb_head made;
    if (py_start_seal(stream->start) < 0 ||
        py_head_make(server->state, &stream->start->head, &stream->asked, len, &made) <
            0) {
        return -1;
    }
    fb_stamp stamp;
    make_stamp(server, &stamp);
    if (!fb_reply_head(into, &stamp, &made)) {
        PyErr_NoMemory();
        return -1;
    }
    note_head(body, made.status);
    stream->is_unsent = false;
    stream->framing = made.framing;
    stream->missing = made.length;
    return 0;
}

/* Returns FB_PULL_FAIL with an exception set. */
static fb_pull
put_view(py_body *body, fb_buf *into, const Py_buffer *view)
{
    py_stream *stream = &body->stream;
    if (stream->is_unsent && view->len > 0) {
        if (put_head(body, into, PY_LENGTH_UNKNOWN) < 0) {
            return FB_PULL_FAIL;
        }
        if (!py_head_sends_body(&stream->start->head, &stream->asked)) {
            return FB_PULL_END;
        }
    }
    return put_bytes(body, into, view) < 0 ? FB_PULL_FAIL : FB_PULL_MORE;
}

static fb_pull
put_item(py_body *body, fb_buf *into, PyObject *item)
{
    Py_buffer view;
    if (PyObject_GetBuffer(item, &view, PyBUF_SIMPLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError) &&
            !PyErr_ExceptionMatches(PyExc_TypeError)) {
            return FB_PULL_FAIL; /* raised by its own __buffer__ */
        }
        PyErr_Clear();
        py_raise_reply_error(body->server->state,
                             "a streamed body gave %U, which is not bytes-like", item);
        return FB_PULL_FAIL;
    }
    fb_pull pulled = put_view(body, into, &view);
    PyBuffer_Release(&view);
    return pulled;
}

/* Returns the next item, or NULL: with an exception set, or at the end. */
static PyObject *
next_item(py_stream *stream)
{
    PyObject *item = stream->first;
    if (item != NULL) {
        stream->first = NULL;
        return item;
    }
    return PyIter_Next(stream->iterator);
}

static fb_pull
end_stream(py_body *body, fb_buf *into)
{
    py_stream *stream = &body->stream;
    if (stream->is_unsent) {
        /* Of HEAD nothing is known: a GET may have had a body. */
        uint64_t len = stream->asked.is_head ? PY_LENGTH_UNKNOWN : 0;
        return put_head(body, into, len) < 0 ? FB_PULL_FAIL : FB_PULL_END;
    }
    if (stream->framing == FB_FRAMING_CHUNKED && !fb_reply_last_chunk(into)) {
        PyErr_NoMemory();
        return FB_PULL_FAIL;
    }
    if (stream->framing == FB_FRAMING_LENGTH && stream->missing > 0) {
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
    fb_pull pulled = FB_PULL_MORE;
    while (pulled == FB_PULL_MORE && into->len == 0 &&
           uv_hrtime() - began < FB_EARLY_FLUSH_NS) {
        PyObject *item = next_item(&body->stream);
        if (item == NULL) {
            return PyErr_Occurred() ? FB_PULL_FAIL : end_stream(body, into);
        }
        pulled = put_item(body, into, item);
        Py_DECREF(item);
    }
    return pulled == FB_PULL_MORE && is_complete(&body->stream) ? FB_PULL_END : pulled;
}

/* Nothing was sent yet, so that the client can be told that it failed. */
static fb_pull
put_failure(const py_body *body, fb_buf *into)
{
    const py_asked *asked = &body->stream.asked;
    into->len = 0;
    note_head(body, 500);
    note_bytes(body, asked->is_head ? 0 : fb_reply_plain_len(500));
    fb_stamp stamp;
    make_stamp(body->server, &stamp);
    bool ok = fb_reply_plain(into, &stamp, 500, asked->is_head, asked->is_http10,
                             asked->keep_alive);
    return ok ? FB_PULL_END : FB_PULL_FAIL;
}

/* Attached. */
static fb_pull
pull(py_body *body, fb_buf *into)
{
    py_server *server = body->server;
    fb_pull pulled = FB_PULL_FAIL;
    if (PyContext_Enter(body->stream.context) == 0) {
        pulled = pull_item(body, into);
        py_leave_context(server->state, body->stream.context);
    }
    if (pulled == FB_PULL_FAIL) {
        if (!py_server_keep_raised(server)) {
            py_server_log(server, "a streamed reply broke off");
        }
        stop_if_raised(server);
        if (body->stream.is_unsent) {
            pulled = put_failure(body, into);
        }
    }
    return pulled;
}

static fb_pull
on_pull(void *owner, fb_buf *into)
{
    py_body *body = owner;
    py_server_attach(body->server);
    fb_pull pulled = pull(body, into);
    py_server_detach(body->server);
    return pulled;
}

/* ---- pulling by handler threads -------------------------------------------------- */

static void
run_pull(fb_job *job, fb_executor *executor)
{
    (void)executor;
    py_body *body = body_of(job);
    body->verdict = pull(body, &body->pulled);
}

static void
finish_pull(fb_job *job)
{
    py_body *body = body_of(job);
    body->pulling = PY_PULLING_READY;
    if (body->is_released) {
        let_go(body);
    } else {
        fb_conn_resume(body->conn);
    }
}

/* What was pulled goes into an empty buffer of the same heap. */
static fb_pull
take_pulled(py_body *body, fb_buf *into)
{
    fb_buf empty = *into;
    *into = body->pulled;
    body->pulled = empty;
    body->pulling = PY_PULLING_IDLE;
    return body->verdict;
}

static fb_pull
on_pull_later(void *owner, fb_buf *into)
{
    py_body *body = owner;
    switch (body->pulling) {
    case PY_PULLING_READY:
        return take_pulled(body, into);
    case PY_PULLING_IDLE:
        body->job = (fb_job){.run = run_pull, .finish = finish_pull};
        body->pulling = PY_PULLING_BUSY;
        if (fb_pool_submit(&body->server->server->pool, body->executor, &body->job)) {
            return FB_PULL_LATER;
        }
        body->pulling = PY_PULLING_IDLE;
        return FB_PULL_FAIL;
    case PY_PULLING_BUSY:
        break;
    }
    return FB_PULL_LATER;
}

/* ---- files: without Python, but for the log -------------------------------------- */

static void
judge_failure(py_body *body)
{
    if (!body->file.is_short) {
        return; /* the client has left: nobody's fault */
    }
    py_server_attach(body->server);
    PyErr_SetString(body->server->state->reply_error,
                    "a file got shorter while it was sent");
    py_server_log(body->server, "a streamed reply broke off");
    py_server_detach(body->server);
}

static fb_pull
on_pull_file(void *owner, fb_buf *into)
{
    py_body *body = owner;
    fb_pull pulled = fb_file_pull(&body->file, into);
    if (pulled == FB_PULL_FAIL) {
        judge_failure(body);
    }
    return pulled;
}

static fb_splice
on_splice_file(void *owner, int fd, size_t most, size_t *n_sent)
{
    py_body *body = owner;
    fb_splice spliced = fb_file_splice(&body->file, fd, most, n_sent);
    if (spliced == FB_SPLICE_FAIL) {
        judge_failure(body);
    }
    return spliced;
}

/* ---- making and dropping --------------------------------------------------------- */

static const fb_body_ops stream_ops = {.pull = on_pull, .release = on_release};
static const fb_body_ops later_ops = {.pull = on_pull_later, .release = on_release};
static const fb_body_ops in_place_ops = {.release = on_release};
static const fb_body_ops file_ops = {
    .pull = on_pull_file,
    .splice = on_splice_file,
    .release = on_release,
};

static py_body *
new_body(py_server *server)
{
    py_body *body = PyMem_RawCalloc(1, sizeof(*body));
    if (body == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    body->server = server;
    body->file.fd = -1;
    return body;
}

/* Only the thread that the handler runs on may go on with body. */
static void
pin(py_body *body, fb_executor *executor)
{
    if (fb_server_has_threads(executor->server)) {
        body->executor = executor;
        atomic_fetch_add(&executor->n_streams, 1);
    }
}

fb_body
py_body_stream(py_executor *executor, fb_slot *slot, const py_stream *stream,
               PyObject *closes)
{
    fb_server *server = executor->io->server;
    py_body *body = new_body(executor->server);
    if (body == NULL) {
        return (fb_body){0};
    }
    body->stream = *stream;
    Py_XINCREF(stream->iterator);
    Py_XINCREF(stream->first);
    Py_XINCREF(stream->context);
    Py_XINCREF((PyObject *)stream->start);
    body->closes = Py_XNewRef(closes);
    body->held = fb_access_hold(&server->access, executor->io, slot);
    pin(body, executor->io);
    body->conn = slot->owner;
    fb_buf_init(&body->pulled, &server->heap);
    bool has_threads = fb_server_has_threads(server);
    return (fb_body){.ops = has_threads ? &later_ops : &stream_ops, .owner = body};
}

fb_body
py_body_file(py_executor *executor, fb_slot *slot, const fb_file *file,
             PyObject *closes)
{
    py_body *body = new_body(executor->server);
    if (body == NULL) {
        return (fb_body){0};
    }
    body->file = *file;
    body->closes = Py_XNewRef(closes);
    if (closes != NULL) {
        pin(body, executor->io);
    }
    if (slot != NULL) {
        body->held = fb_access_hold(&executor->io->server->access, executor->io, slot);
    }
    return (fb_body){.ops = &file_ops, .owner = body};
}

fb_body
py_body_in_place(py_server *server, Py_buffer *view, PyObject *object, const char *data,
                 uint64_t len)
{
    py_body *body = new_body(server);
    if (body == NULL) {
        return (fb_body){0};
    }
    if (object != NULL) {
        body->object = Py_NewRef(object);
    } else {
        body->view = *view;
        view->obj = NULL;
    }
    return (fb_body){
        .ops = &in_place_ops,
        .owner = body,
        .data = data,
        .len = (size_t)len,
    };
}

static void
call_close(py_server *server, PyObject *object)
{
    PyObject *close_method = PyObject_GetAttr(object, server->state->close);
    if (close_method == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            return;
        }
    } else {
        PyObject *result = PyObject_CallNoArgs(close_method);
        Py_XDECREF(result);
        Py_DECREF(close_method);
    }
    if (PyErr_Occurred() && !py_server_keep_raised(server)) {
        py_server_log(server, "close() of a streamed reply failed");
    }
}

void
py_body_close(py_server *server, PyObject *object, PyObject *context)
{
    PyObject *raised = PyErr_GetRaisedException();
    bool is_entered = context != NULL && PyContext_Enter(context) == 0;
    PyErr_Clear(); /* it is entered already: then it is the right one */
    call_close(server, object);
    if (is_entered) {
        py_leave_context(server->state, context);
    }
    PyErr_SetRaisedException(raised);
}

/* Attached: let go of all that it has, and leave its memory. */
static void
drop(py_body *body)
{
    if (body->closes != NULL) {
        py_body_close(body->server, body->closes, body->stream.context);
    }
    Py_XDECREF(body->closes);
    Py_XDECREF(body->stream.iterator);
    Py_XDECREF(body->stream.first);
    Py_XDECREF(body->stream.context);
    Py_XDECREF((PyObject *)body->stream.start);
    Py_XDECREF(body->object);
    if (body->view.obj != NULL) {
        PyBuffer_Release(&body->view);
    }
    if (body->file.fd >= 0) {
        close(body->file.fd);
    }
    unpin(body);
}

void
py_body_drop_released(py_server *server)
{
    py_body *body;
    while ((body = atomic_exchange(&server->released, NULL)) != NULL) {
        while (body != NULL) {
            py_body *next = body->next;
            drop(body);
            PyMem_RawFree(body);
            body = next;
        }
    }
}
