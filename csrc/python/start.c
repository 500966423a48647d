/* SPDX-License-Identifier: MIT */
/*
 * The StartResponse type. An application may hand it to other threads, so a call works
 * within the object's critical section.
 */
#include "python/start.h"

#include "io/spool.h"
#include "python/reply.h"
#include "python/text.h"

#include <pythread.h>
#include <unistd.h>

/* ---- life ------------------------------------------------------------------------ */

static PyObject *on_call(PyObject *self, PyObject *const *args, size_t n,
                         PyObject *names);

py_start *
py_start_new(const py_state *state)
{
    allocfunc alloc = PyType_GetSlot(state->start_type, Py_tp_alloc);
    py_start *start = (py_start *)alloc(state->start_type, 0);
    if (start != NULL) {
        start->call = on_call;
        atomic_init(&start->thread, PYTHREAD_INVALID_THREAD_ID);
        start->file.fd = -1;
        py_head_init(&start->head);
    }
    return start;
}

void
py_start_begin(py_start *start, py_executor *executor, fb_slot *slot)
{
    start->executor = executor;
    start->slot = slot;
    atomic_store(&start->thread, PyThread_get_thread_ident());
}

void
py_start_end(py_start *start)
{
    atomic_store(&start->thread, PYTHREAD_INVALID_THREAD_ID);
    start->executor = NULL;
    start->slot = NULL;
}

static void
drop_file(py_start *start)
{
    if (start->file.fd >= 0) {
        close(start->file.fd);
        start->file = (fb_file){.fd = -1};
    }
}

void
py_start_give(py_start *start)
{
    drop_file(start);
    Py_DECREF(start);
}

void
py_start_reset(py_start *start)
{
    py_head_reset(&start->head);
    drop_file(start);
    start->is_called = false;
    start->has_head = false;
    start->is_sealed = false;
    start->has_written = false;
    start->has_failed = false;
    start->is_broken = false;
}

int
py_start_seal(py_start *start)
{
    int error = 0;
    Py_BEGIN_CRITICAL_SECTION(start);
    start->is_sealed = start->has_head;
    if (!start->has_head) {
        const py_state *state = py_state_of_type(Py_TYPE(start));
        PyErr_SetString(state->reply_error,
                        start->is_called
                            ? "the application's call of start_response had failed"
                            : "the application did not call start_response");
        error = -1;
    }
    Py_END_CRITICAL_SECTION();
    return error;
}

/* ---- the status ------------------------------------------------------------------ */

/* Returns the number that "NNN reason" begins with, or -1. */
static int
status_of(const char *text, size_t len)
{
    int status = 0;
    if (len < 4 || text[3] != ' ') {
        return -1;
    }
    for (size_t i = 0; i < 3; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return -1;
        }
        status = status * 10 + (text[i] - '0');
    }
    return status >= FB_STATUS_MIN && status <= FB_STATUS_MAX ? status : -1;
}

static int
take_status(const py_state *state, py_head *head, PyObject *status)
{
    size_t len = 0;
    const char *text = PyUnicode_Check(status) ? py_text_latin1(status, &len) : NULL;
    int number = text != NULL ? status_of(text, len) : -1;
    if (number < 0 || !fb_field_value_is_valid(text, len)) {
        py_raise_reply_error(
            state, "the status %U is no str such as '200 OK', from 200 to 599", status);
        return -1;
    }
    head->status = number;
    head->reason = text + 4;
    head->reason_len = len - 4;
    py_head_keep(head, status);
    return 0;
}

/* ---- the fields ------------------------------------------------------------------ */

static int
take_field(const py_state *state, py_head *head, PyObject *item)
{
    if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
        py_raise_reply_error(state, "%U is no tuple of header name and value", item);
        return -1;
    }
    return py_head_add(state, head, PY_AUTHOR_APPLICATION, PyTuple_GetItem(item, 0),
                       PyTuple_GetItem(item, 1));
}

static int
take_fields(const py_state *state, py_head *head, PyObject *fields)
{
    if (!PyList_Check(fields)) {
        py_raise_reply_error(state, "the headers %U are no list of tuples", fields);
        return -1;
    }
    Py_ssize_t n = PyList_Size(fields);
    int error = py_head_reserve(head, (size_t)n);
    for (Py_ssize_t i = 0; error == 0 && i < n; i++) {
        PyObject *item = PyList_GetItemRef(fields, i); /* NULL: it got shorter */
        error = item != NULL ? take_field(state, head, item) : -1;
        Py_XDECREF(item);
    }
    return error;
}

/* ---- the call -------------------------------------------------------------------- */

/* Too late for another head: raise what exc_info holds. */
static void
raise_exc_info(const py_state *state, PyObject *exc_info)
{
    PyObject *error = NULL;
    PyObject *traceback = NULL;
    if (PyTuple_Check(exc_info) && PyTuple_Size(exc_info) == 3) {
        error = PyTuple_GetItem(exc_info, 1);
        traceback = PyTuple_GetItem(exc_info, 2);
    }
    if (error == NULL || !PyExceptionInstance_Check(error)) {
        py_raise_reply_error(state, "exc_info %U is no tuple of sys.exc_info()",
                             exc_info);
        return;
    }
    if (PyException_SetTraceback(error, traceback) < 0) {
        PyErr_Clear(); /* no traceback: it goes without */
    }
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
}

/* Returns 0 when the head may be set, or -1 with an exception set. */
static int
judge_call(const py_state *state, py_start *start, PyObject *exc_info)
{
    if (exc_info != NULL && exc_info != Py_None) {
        if (start->is_sealed) {
            raise_exc_info(state, exc_info);
            return -1;
        }
        return 0;
    }
    if (start->is_called) {
        PyErr_SetString(state->reply_error,
                        "start_response was called again without exc_info");
        return -1;
    }
    return 0;
}

/* Reading a head may run any code, and let other threads in: what is read is put in its
 * place when it is whole, if that is not too late by then. Returns as judge_call. */
static int
replace_head(const py_state *state, py_start *start, py_head *head, PyObject *exc_info)
{
    py_head old;
    if (start->is_sealed) {
        return judge_call(state, start, exc_info);
    }
    py_head_move(&old, &start->head);
    py_head_move(&start->head, head);
    start->has_head = true;
    py_head_reset(&old);
    return 0;
}

static int
set_head(const py_state *state, py_start *start, PyObject *status, PyObject *fields,
         PyObject *exc_info)
{
    py_head head;
    if (judge_call(state, start, exc_info) < 0) {
        return -1;
    }
    start->is_called = true;
    py_head_init(&head);
    int error = -1;
    /* The fields first: they may need more room for what is kept. */
    if (take_fields(state, &head, fields) == 0 &&
        take_status(state, &head, status) == 0) {
        error = replace_head(state, start, &head, exc_info);
    }
    if (error < 0) {
        start->has_head = start->is_sealed; /* not the one before, if there was one */
    }
    py_head_reset(&head);
    return error;
}

static PyObject *start_write(PyObject *self, PyObject *data);

static PyMethodDef write_def = {
    "write", start_write, METH_O,
    PyDoc_STR("write(body, /)\n--\n\nSend bytes of the body now, PEP 3333.")};

static PyObject *
on_call(PyObject *self, PyObject *const *args, size_t n, PyObject *names)
{
    const py_state *state = py_state_of_type(Py_TYPE(self));
    Py_ssize_t n_args = PyVectorcall_NARGS(n);
    Py_ssize_t n_names = names != NULL ? PyTuple_Size(names) : 0;
    if (n_args < 2 || n_args + n_names > 3 ||
        (n_names == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0),
                                                          "exc_info") != 0)) {
        PyErr_SetString(PyExc_TypeError, "start_response() takes a status, a list of "
                                         "headers and, at most, exc_info");
        return NULL;
    }
    int error;
    PyObject *exc_info = n_args + n_names == 3 ? args[2] : NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    error = set_head(state, (py_start *)self, args[0], args[1], exc_info);
    Py_END_CRITICAL_SECTION();
    /* A new write() each time: one that was kept is to be of this request alone. */
    return error < 0 ? NULL : PyCFunction_NewEx(&write_def, self, NULL);
}

/* ---- write ----------------------------------------------------------------------- */

/* A piece was not written, as libuv's error code says. Returns -1 with an exception
 * set. */
static int
raise_unwritten(py_start *start, int error)
{
    if (error == UV_EPIPE) {
        start->is_broken = true;
        PyErr_SetString(PyExc_BrokenPipeError, "the client has left");
    } else if (error == UV_ENOMEM) {
        PyErr_NoMemory();
    } else {
        PyErr_Format(PyExc_OSError, "write() cannot keep what is not sent yet: %s",
                     uv_strerror(error));
    }
    return -1;
}

/* Returns 0, or -1 with an exception set. Nothing is sent yet. */
static int
begin_writing(py_start *start, fb_head *made)
{
    const py_state *state = start->executor->server->state;
    py_asked asked = py_reply_asked(start->slot);
    if (py_start_seal(start) < 0 ||
        py_head_make(state, &start->head, &asked, PY_LENGTH_UNKNOWN, made) < 0) {
        return -1;
    }
    start->sends_body = py_head_sends_body(&start->head, &asked);
    start->keep_alive = made->keep_alive;
    start->framing = made->framing;
    start->missing = made->length;
    fb_slot_note(start->slot, made->status, 0);
    return 0;
}

static int
check_promise(py_start *start, size_t len)
{
    if (!start->sends_body || start->framing != FB_FRAMING_LENGTH) {
        return 0;
    }
    if (len > start->missing) {
        PyErr_SetString(start->executor->server->state->reply_error,
                        "more was written than Content-Length says");
        return -1;
    }
    start->missing -= len;
    return 0;
}

/* Returns false for want of memory. */
static bool
put_piece(const py_start *start, fb_buf *into, const char *bytes, size_t len)
{
    if (!start->sends_body) {
        return true;
    }
    return start->framing == FB_FRAMING_CHUNKED ? fb_reply_chunk(into, bytes, len)
                                                : fb_buf_append(into, bytes, len);
}

/* Under the executor's lock. Send what the socket takes: from memory, and then from the
 * file, if there is nothing else in between. */
static void
flush(py_start *start)
{
    fb_conn *conn = start->slot->owner;
    start->is_broken = fb_conn_flush_early(conn) == FB_EARLY_FAILED;
    fb_splice spliced = FB_SPLICE_SENT;
    while (start->file.left > 0 && spliced == FB_SPLICE_SENT && !start->is_broken &&
           fb_conn_has_sent_all(conn)) {
        size_t n;
        int fd = fb_conn_fd(conn);
        spliced = fb_file_splice(&start->file, fd, FB_SPLICE_BYTES, &n);
        fb_count_add_shared(&start->executor->io->server->stats->n_bytes_sent, n);
        start->is_broken = spliced == FB_SPLICE_FAIL;
    }
}

/* Returns whether a piece has to go to the file: memory holds enough, or the file has
 * what comes before it. */
static bool
is_to_be_filed(const py_start *start)
{
    return start->file.left > 0 ||
           fb_conn_unsent(start->slot->owner) > FB_OUTPUT_HIGH_WATER;
}

/* Returns 0 or libuv's error code. */
static int
put_in_file(py_start *start, const char *bytes, size_t len)
{
    fb_server *server = start->executor->io->server;
    fb_buf piece;
    fb_buf_init(&piece, &server->heap);
    int error = put_piece(start, &piece, bytes, len) ? 0 : UV_ENOMEM;
    if (error == 0 && start->file.fd < 0) {
        start->file = (fb_file){.fd = fb_spool_open(server->temp_dir)};
        error = start->file.fd < 0 ? start->file.fd : 0;
    }
    if (error == 0) {
        error = fb_spool_append(start->file.fd, piece.data, piece.len);
    }
    if (error == 0) {
        start->file.left += piece.len;
    }
    fb_buf_fini(&piece);
    return error;
}

/* As put_in_file; head goes before the first piece. */
static int
put_in_memory(const py_start *start, const fb_head *head, const char *bytes, size_t len)
{
    fb_out *out = fb_conn_out(start->slot->owner);
    if (out == NULL) {
        return UV_EPIPE;
    }
    const fb_stamp *stamp = &start->executor->io->stamp;
    if ((head != NULL && !fb_reply_head(&out->bytes, stamp, head)) ||
        !put_piece(start, &out->bytes, bytes, len)) {
        out->has_failed = true;
        return UV_ENOMEM;
    }
    return 0;
}

/* Under the executor's lock: nothing here may run Python code. As put_in_file. */
static int
put_and_flush(py_start *start, const fb_head *head, const char *bytes, size_t len)
{
    bool is_filed = head == NULL && is_to_be_filed(start);
    int error = is_filed ? put_in_file(start, bytes, len)
                         : put_in_memory(start, head, bytes, len);
    if (error == 0) {
        flush(start);
    }
    return error;
}

int
py_start_write(py_start *start, const char *bytes, size_t len)
{
    fb_head head;
    bool is_first = !start->has_written;
    if (start->is_broken) {
        return raise_unwritten(start, UV_EPIPE);
    }
    if (start->has_failed) {
        PyErr_SetString(PyExc_OSError, "a write() before this one had failed");
        return -1;
    }
    if ((is_first && begin_writing(start, &head) < 0) ||
        check_promise(start, len) < 0) {
        return -1;
    }
    start->has_written = true;
    fb_executor *executor = start->executor->io;
    fb_executor_lock(executor);
    int error = put_and_flush(start, is_first ? &head : NULL, bytes, len);
    if (error == 0 && start->sends_body) {
        start->slot->n_body += len;
    }
    start->has_failed = error != 0; /* a piece is missing: nothing may come behind it */
    fb_executor_unlock(executor);
    if (fb_server_has_threads(executor->server)) {
        fb_pool_tell(executor); /* as below */
    } else {
        fb_flusher_arm(&executor->server->flusher); /* for what is left in memory */
    }
    return error != 0 ? raise_unwritten(start, error) : 0;
}

static PyObject *
start_write(PyObject *self, PyObject *data)
{
    py_start *start = (py_start *)self;
    if (atomic_load(&start->thread) != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "write() may be called by the application alone, in the thread "
                        "that called it and before it returns");
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int error = view.len > 0 ? py_start_write(start, view.buf, (size_t)view.len) : 0;
    PyBuffer_Release(&view);
    if (error < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------- */

static int
start_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return py_head_traverse(&((py_start *)self)->head, visit, arg);
}

static int
start_clear(PyObject *self)
{
    py_head_reset(&((py_start *)self)->head);
    return 0;
}

static void
start_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    start_clear(self);
    drop_file((py_start *)self);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

static PyMemberDef start_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(py_start, call), Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot start_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("start_response of one request, PEP 3333.")},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, start_members},
    {Py_tp_traverse, start_traverse},
    {Py_tp_clear, start_clear},
    {Py_tp_dealloc, start_dealloc},
    {0, NULL},
};

PyType_Spec py_start_spec = {
    .name = "fastbatch._core.StartResponse",
    .basicsize = sizeof(py_start),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = start_slots,
};
