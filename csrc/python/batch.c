/* SPDX-License-Identifier: MIT */
/*
 * The Batch type: a sequence of Requests, and reply() to answer them.
 */
#include "python/batch.h"

#include "python/answer.h"

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

/* ---- reply ----------------------------------------------------------------------- */

/* Returns the slot that may be answered now, or NULL with an exception set. */
static fb_slot *
find_slot(py_executor *executor, PyObject *index)
{
    Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if (i == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (executor == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the dispatch of this batch is over, or another thread's");
        return NULL;
    }
    if (i < 0 || !fb_executor_claim(executor->io, (size_t)i)) {
        PyErr_Format(PyExc_IndexError, "there is no slot %zd in this batch", i);
        return NULL;
    }
    fb_slot *slot = &executor->io->batch->slots[i];
    if (slot->is_answered) {
        PyErr_Format(PyExc_RuntimeError, "slot %zd is answered already", i);
        return NULL;
    }
    const fb_conn *conn = slot->owner;
    if (slot->turn != conn->n_answered) {
        PyErr_Format(PyExc_RuntimeError,
                     "slot %zd was pipelined behind one that is not answered yet", i);
        return NULL;
    }
    return slot;
}

/* Returns the slots behind slot i that were answered with it, as a tuple. */
static PyObject *
list_dropped(fb_executor *executor, size_t i)
{
    const fb_slot *slots = executor->batch->slots;
    size_t n = fb_executor_n_slots(executor);
    PyObject *list = PyList_New(0);
    for (size_t k = i + 1; list != NULL && k < n; k++) {
        if (slots[k].owner != slots[i].owner) {
            continue;
        }
        PyObject *index = PyLong_FromSize_t(k);
        if (index == NULL || PyList_Append(list, index) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(index);
    }
    PyObject *dropped = list != NULL ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return dropped;
}

static PyObject *
batch_reply(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2) {
        return PyErr_Format(PyExc_TypeError, "reply() takes 2 arguments, not %zd",
                            n_args);
    }
    py_executor *executor = py_batch_executor((py_batch *)self);
    fb_slot *slot = find_slot(executor, args[0]);
    if (slot == NULL || py_answer(executor, slot, args[1]) < 0) {
        return NULL;
    }
    if (!slot->is_last) {
        Py_RETURN_NONE;
    }
    return list_dropped(executor->io, (size_t)(slot - executor->io->batch->slots));
}

static PyObject *
batch_index(PyObject *self, PyObject *request)
{
    Py_ssize_t i = PySequence_Index(self, request);
    return i < 0 ? NULL : PyLong_FromSsize_t(i);
}

static PyObject *
batch_count(PyObject *self, PyObject *request)
{
    Py_ssize_t n = PySequence_Count(self, request);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

/* ---- the type -------------------------------------------------------------------- */

/* METH_FASTCALL functions have a signature of their own; the cast is CPython's idiom.
 * */
static PyMethodDef batch_methods[] = {
    {"reply", (PyCFunction)(void (*)(void))batch_reply, METH_FASTCALL,
     PyDoc_STR(
         "reply(index, reply, /)\n--\n\nAnswer slot index.\n\nReturns:\n"
         "    None; or, when the reply ends its connection, a tuple of the slots that\n"
         "    were pipelined behind it: they are not to be processed.\n\nRaises:\n"
         "    ReplyError: reply is no reply; the slot is still unanswered.\n"
         "    IndexError: there is no such slot.\n"
         "    RuntimeError: the slot is answered already, one that it was pipelined\n"
         "        behind is not, the dispatch is over, or it is another thread's.")},
    {"index", batch_index, METH_O,
     PyDoc_STR("index(request, /)\n--\n\nThe slot of a request.\n\nRaises:\n"
               "    ValueError: it has none.")},
    {"count", batch_count, METH_O,
     PyDoc_STR("count(request, /)\n--\n\n1 if the request is here, else 0.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("The requests that were ready together, in slots 0 to "
                       "len(batch) - 1.")},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
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
