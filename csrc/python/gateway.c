/* SPDX-License-Identifier: MIT */
/*
 * From a slot to environ, to the application, to the reply.
 *
 * Theory. The application returns an iterable, and may call start_response as late as
 * when its first item is asked for. A list, a part of a file, and what has all of its
 * Content-Length in the first item, are answered at once and closed. Anything else is a
 * stream: it goes on when the dispatch is over, and is closed when it ends, whatever
 * ends it.
 */
#include "python/gateway.h"

#include "python/batch.h"
#include "python/input.h"
#include "python/reply.h"
#include "python/result.h"

#include <unistd.h>

/* ---- files ----------------------------------------------------------------------- */

/* Returns 1 and the file, if result is a wrapped one of which a part can be sent as it
 * is, with a descriptor of ours; 0 if not; -1 with an exception set. */
static int
read_file(const py_gateway *self, PyObject *result, fb_file *file)
{
    if ((PyObject *)Py_TYPE(result) != self->file_wrapper) {
        return 0;
    }
    PyObject *region = PyObject_CallMethod(result, "region", NULL);
    if (region == NULL) {
        return -1;
    }
    int verdict = 0;
    unsigned long long offset, len;
    if (region != Py_None) {
        verdict = PyArg_ParseTuple(region, "iKK", &file->fd, &offset, &len) ? 1 : -1;
    }
    Py_DECREF(region);
    if (verdict == 1) {
        file->offset = offset;
        file->left = len;
    }
    return verdict;
}

static int
send_file(py_executor *executor, fb_slot *slot, py_start *start, fb_file *file,
          py_result *r)
{
    py_head *head = &start->head;
    if (head->has_length && head->length < file->left) {
        file->left = head->length; /* what is more is not to be sent, PEP 3333 */
    }
    py_reply reply = {
        .head = head,
        .len = file->left,
        .file = file,
        .closes = r->object,
    };
    int error = py_reply_send(executor, slot, &reply);
    r->is_handed_on = reply.is_given;
    return error;
}

/* Returns 1 when result was sent as a file, 0 when it is to be iterated, -1 with an
 * exception set. */
static int
try_file(const py_gateway *self, py_executor *executor, fb_slot *slot, py_start *start,
         py_result *r)
{
    fb_file file = {0};
    int verdict = start->has_written ? 0 : read_file(self, r->object, &file);
    if (verdict <= 0) {
        return verdict;
    }
    int error = py_start_seal(start);
    if (error == 0) {
        error = send_file(executor, slot, start, &file, r);
    }
    if (!r->is_handed_on) {
        close(file.fd);
    }
    return error < 0 ? -1 : 1;
}

/* ---- contexts -------------------------------------------------------------------- */

/* An exception that is set stays set. */
static void
enter_context(py_result *r)
{
    if (!r->is_inside) {
        PyObject *raised = PyErr_GetRaisedException();
        r->is_inside = PyContext_Enter(r->context) == 0;
        PyErr_Clear();
        PyErr_SetRaisedException(raised);
    }
}

/* Before a stream is handed on: from then on another thread may run it, and that in the
 * same context. */
static void
leave_context(const py_state *state, py_result *r)
{
    if (r->is_inside) {
        r->is_inside = false;
        py_leave_context(state, r->context);
    }
}

/* ---- sending --------------------------------------------------------------------- */

/* More than Content-Length promises is not sent; the log says so. */
static void
report_excess(py_server *server, uint64_t promised)
{
    PyErr_Format(server->state->reply_error,
                 "the application gave more than its Content-Length of %llu",
                 (unsigned long long)promised);
    py_server_log(server, "what is too much was not sent");
}

/* Returns whether g has all of the body that is to be sent. */
static bool
is_all_there(const py_result *r, const py_start *start, const py_asked *asked)
{
    const py_head *head = &start->head;
    return r->is_whole || !py_head_sends_body(head, asked) ||
           (head->has_length && (uint64_t)r->view.len >= head->length);
}

static int
send_whole(py_executor *executor, fb_slot *slot, const py_start *start, py_result *r)
{
    const py_head *head = &start->head;
    py_asked asked = py_reply_asked(slot);
    uint64_t len = (uint64_t)r->view.len;
    if (!py_head_sends_body(head, &asked)) {
        /* What a GET would have had is known of a list alone, and if it is not empty.
         */
        len = r->is_whole && len > 0 && !head->has_length ? len : PY_LENGTH_UNKNOWN;
    } else if (head->has_length && len > head->length) {
        report_excess(executor->server, head->length);
        len = head->length;
    }
    py_reply reply = {
        .head = head,
        .len = len,
        .data = r->body != NULL ? r->view.buf : NULL,
    };
    if (r->body != NULL && PyBytes_CheckExact(r->body)) {
        reply.holder = r->body;
    } else {
        reply.view = r->view;
        r->view.obj = NULL;
    }
    int error = py_reply_send(executor, slot, &reply);
    if (reply.view.obj != NULL) {
        PyBuffer_Release(&reply.view);
    }
    return error;
}

static int
send_stream(py_executor *executor, fb_slot *slot, py_start *start, py_result *r)
{
    py_stream stream = {
        .iterator = r->iterator,
        .first = r->body,
        .context = r->context,
        .is_wsgi = true,
    };
    py_reply reply = {
        .head = &start->head,
        .len = PY_LENGTH_UNKNOWN,
        .stream = &stream,
        .closes = r->object,
    };
    leave_context(executor->server->state, r);
    int error = py_reply_send(executor, slot, &reply);
    r->is_handed_on = reply.is_given;
    return error;
}

/* Add a body to what the client of slot is sent. Takes body. */
static void
put_body(py_executor *executor, fb_slot *slot, fb_body body)
{
    fb_executor_lock(executor->io);
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL) {
        (void)fb_out_add_body(out, body); /* without memory, out has failed */
    } else {
        body.ops->release(body.owner);
    }
    fb_executor_unlock(executor->io);
}

static void
finish_slot(py_executor *executor, fb_slot *slot, bool keep_alive)
{
    fb_executor_lock(executor->io);
    fb_conn_answered(slot->owner, slot, keep_alive);
    fb_executor_unlock(executor->io);
    fb_pool_tell(executor->io);
}

/* What write() has put in a file goes next. Returns 0, or -1 with an exception set. */
static int
put_file(py_executor *executor, fb_slot *slot, py_start *start)
{
    if (start->file.left == 0) {
        return 0;
    }
    fb_body body = py_body_file(executor, NULL, &start->file, NULL);
    if (body.ops == NULL) {
        return -1;
    }
    start->file = (fb_file){.fd = -1};
    put_body(executor, slot, body);
    return 0;
}

/* Not even the first byte is there: the head goes later, as soon as it is final. */
static int
send_later(py_executor *executor, fb_slot *slot, py_start *start, py_result *r)
{
    py_stream stream = {
        .iterator = r->iterator,
        .context = r->context,
        .is_wsgi = true,
        .is_unsent = true,
        .start = start,
        .asked = py_reply_asked(slot),
    };
    /* On 1.0 the end may be that of the connection; it has to be said now. */
    stream.asked.keep_alive = stream.asked.keep_alive && !stream.asked.is_http10;
    fb_body body = py_body_stream(executor, slot, &stream, r->object);
    if (body.ops == NULL) {
        return -1;
    }
    r->is_handed_on = true;
    leave_context(executor->server->state, r);
    put_body(executor, slot, body);
    finish_slot(executor, slot, stream.asked.keep_alive);
    return 0;
}

/* Returns whether write() gave as much as Content-Length says: then nothing more is
 * asked for, PEP 3333 "Handling the Content-Length Header". */
static bool
has_written_all(const py_start *start)
{
    return start->has_written && start->framing == FB_FRAMING_LENGTH &&
           start->missing == 0;
}

/* Returns a new iterator that gives nothing, or NULL with an exception set. */
static PyObject *
new_empty_iterator(void)
{
    PyObject *nothing = PyTuple_New(0);
    PyObject *iterator = nothing != NULL ? PyObject_GetIter(nothing) : NULL;
    Py_XDECREF(nothing);
    return iterator;
}

/* After write(): the head is sent, and the rest follows as a stream. There is none
 * where no body is sent, or all that was promised is given. */
static int
send_rest(py_executor *executor, fb_slot *slot, py_start *start, py_result *r)
{
    bool has_rest = start->sends_body && !has_written_all(start);
    bool goes_on = has_rest && r->iterator != NULL;
    if (start->has_failed) {
        PyErr_SetString(executor->server->state->reply_error,
                        "a piece given to write() is lost");
        return -1;
    }
    if (put_file(executor, slot, start) < 0) {
        return -1;
    }
    py_stream stream = {
        .iterator = goes_on ? Py_NewRef(r->iterator) : new_empty_iterator(),
        .first = has_rest ? r->body : NULL,
        .context = r->context,
        .framing = start->sends_body ? start->framing : FB_FRAMING_NONE,
        .missing = start->missing,
        .is_wsgi = true,
    };
    fb_body body = {0};
    if (stream.iterator != NULL) {
        body = py_body_stream(executor, slot, &stream, r->object);
        Py_DECREF(stream.iterator);
    }
    if (body.ops == NULL) {
        return -1;
    }
    r->is_handed_on = true;
    leave_context(executor->server->state, r);
    put_body(executor, slot, body);
    finish_slot(executor, slot, start->keep_alive);
    return 0;
}

static int
send_result(py_executor *executor, fb_slot *slot, py_start *start, py_result *r)
{
    py_asked asked = py_reply_asked(slot);
    if (start->has_written) {
        return send_rest(executor, slot, start, r);
    }
    if (r->body == NULL && !r->is_whole) {
        return send_later(executor, slot, start, r);
    }
    if (py_start_seal(start) < 0) {
        return -1;
    }
    return is_all_there(r, start, &asked) ? send_whole(executor, slot, start, r)
                                          : send_stream(executor, slot, start, r);
}

/* ---- one slot -------------------------------------------------------------------- */

/* Returns what the application returned, new; or NULL with an exception set. */
static PyObject *
call_application(py_gateway *self, py_executor *executor, fb_slot *slot,
                 py_start *start)
{
    PyObject *environ = py_environ_make(&self->environ, self->state, slot);
    if (environ == NULL) {
        return NULL;
    }
    PyObject *args[] = {NULL, environ, (PyObject *)start};
    size_t n_args =
        2 | PY_VECTORCALL_ARGUMENTS_OFFSET; /* methods use the first place */
    py_start_begin(start, executor, slot);
    PyObject *result = PyObject_Vectorcall(self->application, args + 1, n_args, NULL);
    py_start_end(start);
    Py_DECREF(environ);
    return result;
}

static int
answer_with(py_gateway *self, py_executor *executor, fb_slot *slot, py_start *start,
            py_result *r)
{
    int verdict = try_file(self, executor, slot, start, r);
    if (verdict != 0) {
        return verdict < 0 ? -1 : 0;
    }
    int error = has_written_all(start) ? 0 : py_result_read(self->state, r);
    return error < 0 ? -1 : send_result(executor, slot, start, r);
}

/* Close what the application returned, unless it is being sent. The reply leaves before
 * that, because close() may take as long as it likes: the flusher sees to it, unless
 * the slot is the only one, which it leaves to the end of the dispatch. */
static void
close_result(py_executor *executor, const fb_slot *slot, const py_result *r)
{
    if (r->object == NULL || r->is_handed_on || py_result_is_list(r)) {
        return;
    }
    fb_executor_lock(executor->io);
    if (executor->io->batch->n_slots == 1 && !slot->is_taken_back) {
        (void)fb_conn_flush_early(slot->owner); /* what fails, fails again at the end */
    }
    fb_executor_unlock(executor->io);
    py_body_close(executor->server, r->object, NULL);
}

/* What report raises itself is logged; what is no Exception, the server keeps. */
static void
report_error(py_gateway *self, py_executor *executor, size_t i, PyObject *raised)
{
    PyObject *request = (PyObject *)py_executor_request(executor, i);
    PyObject *args[] = {request, raised};
    PyObject *result =
        request != NULL ? PyObject_Vectorcall(self->report, args, 2, NULL) : NULL;
    Py_XDECREF(result);
    if (result == NULL && !py_server_keep_raised(executor->server)) {
        py_server_log(executor->server, "an error could not be reported");
    }
}

/* Returns whether the exception that is set only says that the client has left. */
static bool
is_of_no_interest(const py_start *start)
{
    return start != NULL && start->is_broken &&
           PyErr_ExceptionMatches(PyExc_BrokenPipeError);
}

/* The exception that is set is the slot's: log it, and say so to the client. Returns 0;
 * or -1 when the server keeps the exception, which is to stop it. */
static int
fail_slot(py_gateway *self, py_executor *executor, size_t i, const py_start *start)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    bool is_its_own = PyErr_ExceptionMatches(PyExc_Exception);
    bool is_dull = is_of_no_interest(start);
    PyObject *raised = PyErr_GetRaisedException();
    if (!slot->is_answered) {
        if (start != NULL && start->has_written) {
            py_reply_break_off(executor, slot);
        } else {
            py_reply_send_plain(executor, slot, 500);
        }
    }
    if (is_its_own && !is_dull) {
        report_error(self, executor, i, raised);
        Py_DECREF(raised);
    } else if (is_dull) {
        Py_DECREF(raised);
    } else {
        PyErr_SetRaisedException(raised);
        (void)py_server_keep_raised(executor->server);
    }
    return atomic_load(&executor->server->raised) != NULL ? -1 : 0;
}

static py_start *
take_start(py_gateway *self)
{
    py_start *start = self->start;
    self->start = NULL;
    return start != NULL ? start : py_start_new(self->state);
}

/* What an application kept of it is its own from now on. */
static void
give_start(py_gateway *self, py_start *start)
{
    if (start != NULL && self->start == NULL && py_is_ours_alone((PyObject *)start)) {
        py_start_reset(start);
        self->start = start;
    } else if (start != NULL) {
        py_start_give(start);
    }
}

static int
answer_in_context(py_gateway *self, py_executor *executor, size_t i, py_start *start,
                  py_result *r)
{
    fb_slot *slot = &executor->io->batch->slots[i];
    r->object = call_application(self, executor, slot, start);
    int error = r->object != NULL ? answer_with(self, executor, slot, start, r) : -1;
    if (error < 0) {
        enter_context(r);
        error = fail_slot(self, executor, i, start);
    }
    close_result(executor, slot, r);
    return error;
}

/* Each request has a context of its own: streams go by turns, and what one sets in a
 * ContextVar is not to be seen by others. Returns as fail_slot. */
static int
answer_slot(py_gateway *self, py_executor *executor, size_t i)
{
    int error;
    py_start *start = take_start(self);
    py_result r = {.context = start != NULL ? PyContext_CopyCurrent() : NULL};
    if (r.context != NULL && PyContext_Enter(r.context) == 0) {
        r.is_inside = true;
        error = answer_in_context(self, executor, i, start, &r);
        leave_context(self->state, &r);
    } else {
        error = fail_slot(self, executor, i, NULL);
    }
    py_result_fini(&r);
    give_start(self, start);
    return error;
}

static PyObject *
gateway_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    py_gateway *self = (py_gateway *)op;
    char *names[] = {"", NULL};
    PyTypeObject *batch_type = py_state_of_type(Py_TYPE(op))->batch_type;
    PyObject *batch;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Gateway", names, batch_type,
                                     &batch)) {
        return NULL;
    }
    if (self->environ.templates == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this Gateway was not initialised");
        return NULL;
    }
    py_executor *executor = py_batch_executor((py_batch *)batch);
    for (size_t i = 0; executor != NULL && fb_executor_claim(executor->io, i); i++) {
        /* A reply that says close answers those behind it, too. */
        if (!executor->io->batch->slots[i].is_answered &&
            answer_slot(self, executor, i) < 0) {
            break;
        }
    }
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------- */

static int
gateway_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char *names[] = {"application",  "templates", "root_path",
                     "file_wrapper", "report",    NULL};
    py_gateway *self = (py_gateway *)op;
    PyObject *application, *templates, *file_wrapper, *report;
    const char *root_path;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$O!yOO:Gateway", names,
                                     &application, &PyTuple_Type, &templates,
                                     &root_path, &file_wrapper, &report)) {
        return -1;
    }
    if (self->application != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Gateway is initialised once");
        return -1;
    }
    self->state = py_state_of_type(Py_TYPE(op));
    self->application = Py_NewRef(application);
    self->file_wrapper = Py_NewRef(file_wrapper);
    self->report = Py_NewRef(report);
    PyObject *input = py_input_empty(self->state);
    int error = input != NULL
                    ? py_environ_init(&self->environ, templates, root_path, input)
                    : -1;
    Py_XDECREF(input);
    return error;
}

static int
gateway_traverse(PyObject *op, visitproc visit, void *arg)
{
    py_gateway *self = (py_gateway *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->application);
    Py_VISIT(self->file_wrapper);
    Py_VISIT(self->report);
    Py_VISIT((PyObject *)self->start);
    return py_environ_traverse(&self->environ, visit, arg);
}

static int
gateway_clear(PyObject *op)
{
    py_gateway *self = (py_gateway *)op;
    Py_CLEAR(self->application);
    Py_CLEAR(self->file_wrapper);
    Py_CLEAR(self->report);
    if (self->start != NULL) {
        py_start_give(self->start);
        self->start = NULL;
    }
    py_environ_clear(&self->environ);
    return 0;
}

static void
gateway_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    gateway_clear(op);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(op);
    Py_DECREF(type);
}

static PyType_Slot gateway_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The dispatcher for a WSGI application, PEP 3333.")},
    {Py_tp_init, gateway_init},
    {Py_tp_call, gateway_call},
    {Py_tp_dealloc, gateway_dealloc},
    {Py_tp_traverse, gateway_traverse},
    {Py_tp_clear, gateway_clear},
    {0, NULL},
};

PyType_Spec py_gateway_spec = {
    .name = "fastbatch._core.Gateway",
    .basicsize = sizeof(py_gateway),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gateway_slots,
};
