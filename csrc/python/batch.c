/* SPDX-License-Identifier: MIT */
/*
 * The Batch type: a sequence of Requests, and reply() to answer them.
 */
#include "python/batch.h"

#include "python/columns.h"
#include "python/held.h"
#include "python/replies.h"

#include <pythread.h>

py_batch *
py_batch_new(const py_state *state)
{
    allocfunc alloc = PyType_GetSlot(state->batch_type, Py_tp_alloc);
    py_batch *batch = (py_batch *)alloc(state->batch_type, 0);
    if (batch != NULL) {
        atomic_init(&batch->thread, PYTHREAD_INVALID_THREAD_ID);
    }
    return batch;
}

void
py_batch_begin(py_batch *batch, py_executor *executor)
{
    batch->executor = executor;
    batch->queue = executor->io->batch->queue;
    batch->sends_early = false;
    atomic_store_explicit(&batch->thread, PyThread_get_thread_ident(),
                          memory_order_relaxed);
}

void
py_batch_end(py_batch *batch)
{
    atomic_store_explicit(&batch->thread, PYTHREAD_INVALID_THREAD_ID,
                          memory_order_relaxed);
    batch->executor = NULL;
}

py_executor *
py_batch_executor(const py_batch *batch)
{
    /* Another thread may have the batch, but the slots are gone at any moment there. */
    unsigned long thread = atomic_load_explicit(&batch->thread, memory_order_relaxed);
    return thread == PyThread_get_thread_ident() ? batch->executor : NULL;
}

static void
batch_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

static Py_ssize_t
batch_length(PyObject *self)
{
    const py_executor *executor = py_batch_executor((py_batch *)self);
    return executor != NULL ? (Py_ssize_t)fb_executor_claim_all(executor->io) : 0;
}

static PyObject *
batch_item(PyObject *self, Py_ssize_t i)
{
    py_executor *executor = py_batch_executor((py_batch *)self);
    if (executor == NULL || i < 0 || !fb_executor_claim(executor->io, (size_t)i)) {
        PyErr_SetString(PyExc_IndexError, "no such slot");
        return NULL;
    }
    return Py_XNewRef((PyObject *)py_executor_request(executor, (size_t)i));
}

static PyObject *
batch_slice(PyObject *self, PyObject *slice)
{
    Py_ssize_t start, stop, step;
    if (PySlice_Unpack(slice, &start, &stop, &step) < 0) {
        return NULL;
    }
    Py_ssize_t n = PySlice_AdjustIndices(batch_length(self), &start, &stop, step);
    PyObject *part = PyTuple_New(n);
    for (Py_ssize_t i = 0; part != NULL && i < n; i++) {
        PyObject *request = batch_item(self, start + i * step);
        if (request == NULL || PyTuple_SetItem(part, i, request) < 0) {
            Py_CLEAR(part);
        }
    }
    return part;
}

static PyObject *
batch_subscript(PyObject *self, PyObject *key)
{
    if (PySlice_Check(key)) {
        return batch_slice(self, key);
    }
    Py_ssize_t i = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (i == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return batch_item(self, i < 0 ? i + batch_length(self) : i);
}

/* ---- replying -------------------------------------------------------------------- */

/* Returns what batch shows to the calling thread, or NULL with an exception set. */
static py_executor *
find_executor(PyObject *self)
{
    py_executor *executor = py_batch_executor((py_batch *)self);
    if (executor == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the dispatch of this batch is over, or another thread's");
    }
    return executor;
}

/* Returns the number of the slot, which waits for its reply, or -1 with an exception
 * set. */
static Py_ssize_t
find_slot(py_executor *executor, PyObject *index)
{
    Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if (i == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (i < 0 || !fb_executor_claim(executor->io, (size_t)i)) {
        PyErr_Format(PyExc_IndexError, "there is no slot %zd in this batch", i);
        return -1;
    }
    if (py_held_is_done(executor, (size_t)i)) {
        PyErr_Format(PyExc_RuntimeError, "slot %zd is answered already", i);
        return -1;
    }
    return i;
}

/* Returns those slots up to n, from the first on, as a new tuple. */
static PyObject *
list_slots(const py_executor *executor, size_t first, size_t n,
           bool (*is_listed)(const py_executor *, size_t, const void *),
           const void *asked)
{
    PyObject *list = PyList_New(0);
    for (size_t i = first; list != NULL && i < n; i++) {
        if (!is_listed(executor, i, asked)) {
            continue;
        }
        PyObject *index = PyLong_FromSize_t(i);
        if (index == NULL || PyList_Append(list, index) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(index);
    }
    PyObject *listed = list != NULL ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return listed;
}

static bool
is_owned(const py_executor *executor, size_t i, const void *owner)
{
    return executor->io->batch->slots[i].owner == owner;
}

static bool
is_waiting(const py_executor *executor, size_t i, const void *unused)
{
    (void)unused;
    return !py_held_is_done(executor, i);
}

/* Slots that others wait behind leave at once, where the loop cannot see to it. */
static void
send_early(const py_batch *batch, py_executor *executor)
{
    fb_server *server = executor->io->server;
    if (batch->sends_early && !fb_server_has_threads(server)) {
        fb_flusher_arm(&server->flusher);
    }
}

static PyObject *
batch_reply(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2) {
        return PyErr_Format(PyExc_TypeError, "reply() takes 2 arguments, not %zd",
                            n_args);
    }
    py_executor *executor = find_executor(self);
    Py_ssize_t i = executor != NULL ? find_slot(executor, args[0]) : -1;
    fb_slot *last = i >= 0 ? py_held_reply(executor, (size_t)i, args[1]) : NULL;
    if (last == NULL) {
        return NULL;
    }
    send_early((py_batch *)self, executor);
    if (!last->is_last) {
        Py_RETURN_NONE;
    }
    size_t behind = (size_t)(last - executor->io->batch->slots) + 1;
    size_t n = fb_executor_n_slots(executor->io);
    return list_slots(executor, behind, n, is_owned, last->owner);
}

static PyObject *
batch_reply_all(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2) {
        return PyErr_Format(PyExc_TypeError, "reply_all() takes 2 arguments, not %zd",
                            n_args);
    }
    py_executor *executor = find_executor(self);
    Py_ssize_t n = executor != NULL ? py_replies_give(executor, args[0], args[1]) : -1;
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
batch_take_all(PyObject *self, PyObject *unused)
{
    (void)unused;
    py_executor *executor = find_executor(self);
    if (executor == NULL) {
        return NULL;
    }
    ((py_batch *)self)->sends_early = true;
    return PyLong_FromSize_t(fb_executor_claim_all(executor->io));
}

static PyObject *
batch_unanswered(PyObject *self, PyObject *unused)
{
    (void)unused;
    py_executor *executor = find_executor(self);
    if (executor == NULL) {
        return NULL;
    }
    size_t n = fb_executor_claim_all(executor->io);
    return list_slots(executor, 0, n, is_waiting, NULL);
}

/* ---- a sequence ------------------------------------------------------------------ */

/* Returns 0 with the bound that was given, as collections.abc.Sequence has it, or -1
 * with an exception set. */
static int
read_bound(PyObject *argument, Py_ssize_t n, Py_ssize_t *bound)
{
    Py_ssize_t i = PyNumber_AsSsize_t(argument, NULL);
    if (i == -1 && PyErr_Occurred()) {
        return -1;
    }
    *bound = i < 0 ? Py_MAX(i + n, 0) : i;
    return 0;
}

static PyObject *
batch_index(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    Py_ssize_t n = batch_length(self);
    Py_ssize_t start = 0;
    Py_ssize_t stop = n;
    if (n_args < 1 || n_args > 3) {
        return PyErr_Format(PyExc_TypeError, "index() takes 1 to 3 arguments, not %zd",
                            n_args);
    }
    if ((n_args > 1 && read_bound(args[1], n, &start) < 0) ||
        (n_args > 2 && args[2] != Py_None && read_bound(args[2], n, &stop) < 0)) {
        return NULL;
    }
    for (Py_ssize_t i = start; i < Py_MIN(stop, n); i++) {
        PyObject *request = batch_item(self, i);
        int is_it = -1;
        if (request != NULL) {
            is_it = PyObject_RichCompareBool(request, args[0], Py_EQ);
            Py_DECREF(request);
        }
        if (is_it != 0) {
            return is_it > 0 ? PyLong_FromSsize_t(i) : NULL;
        }
    }
    PyErr_SetString(PyExc_ValueError, "it has no slot here");
    return NULL;
}

static PyObject *
batch_count(PyObject *self, PyObject *request)
{
    Py_ssize_t n = PySequence_Count(self, request);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
batch_repr(PyObject *self)
{
    Py_ssize_t n = batch_length(self);
    return PyUnicode_FromFormat("<Batch of %zd request%s>", n, n == 1 ? "" : "s");
}

static PyObject *
get_queue(PyObject *self, void *closure)
{
    (void)closure;
    uint32_t queue;
    Py_BEGIN_CRITICAL_SECTION(self);
    queue = ((py_batch *)self)->queue;
    Py_END_CRITICAL_SECTION();
    return PyLong_FromUnsignedLong(queue);
}

/* ---- the type -------------------------------------------------------------------- */

/* METH_FASTCALL functions have a signature of their own; the cast is CPython's idiom.
 * */
static PyMethodDef batch_methods[] = {
    {"reply", (PyCFunction)(void (*)(void))batch_reply, METH_FASTCALL,
     PyDoc_STR(
         "reply(index, reply, /)\n--\n\nAnswer slot index.\n\nA reply to a request "
         "that was pipelined behind one that is not answered\nyet is read and judged "
         "now, and sent when it is its turn.\n\nReturns:\n"
         "    None; or, when the reply ends its connection, or one that waited for it\n"
         "    does, a tuple of the slots that were pipelined behind: they are not to\n"
         "    be processed.\n\nRaises:\n"
         "    ReplyError: reply is no reply; the slot is still unanswered.\n"
         "    IndexError: there is no such slot.\n"
         "    RuntimeError: the slot is answered already, the dispatch is over, or it "
         "is\n        another thread's.")},
    {"reply_all", (PyCFunction)(void (*)(void))batch_reply_all, METH_FASTCALL,
     PyDoc_STR("reply_all(result, fail, /)\n--\n\nAnswer each slot with its item of "
               "what a batch handler has returned.")},
    {"take_all", batch_take_all, METH_NOARGS,
     PyDoc_STR("take_all()\n--\n\nHave all slots handled here, and each reply leave "
               "when it is given.\n\nReturns:\n    how many slots there are.")},
    {"unanswered", batch_unanswered, METH_NOARGS,
     PyDoc_STR("unanswered()\n--\n\nThe slots that have no reply yet, as a tuple.")},
    {"stack", (PyCFunction)(void (*)(void))py_batch_stack, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(PY_STACK_DOC)},
    {"json", py_batch_json, METH_NOARGS, PyDoc_STR(PY_JSON_DOC)},
    {"index", (PyCFunction)(void (*)(void))batch_index, METH_FASTCALL,
     PyDoc_STR("index(request, start=0, stop=None, /)\n--\n\nThe slot of a request."
               "\n\nRaises:\n    ValueError: it has none.")},
    {"count", batch_count, METH_O,
     PyDoc_STR("count(request, /)\n--\n\n1 if the request is here, else 0.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef batch_getset[] = {
    {"queue", get_queue, NULL,
     PyDoc_STR("Which of the server's queues it is of: that of a batch handler among "
               "its\nroutes, or 0 for all else."),
     NULL},
    {"bodies", py_batch_bodies, NULL, PyDoc_STR(PY_BODIES_DOC), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("The requests that were ready together, in slots 0 to "
                       "len(batch) - 1.")},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_repr, batch_repr},
    {Py_tp_methods, batch_methods},
    {Py_tp_getset, batch_getset},
    {Py_sq_length, batch_length},
    {Py_sq_item, batch_item},
    {Py_mp_length, batch_length},
    {Py_mp_subscript, batch_subscript},
    {0, NULL},
};

PyType_Spec py_batch_spec = {
    .name = "fastbatch.Batch",
    .basicsize = sizeof(py_batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_SEQUENCE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = batch_slots,
};
