/* SPDX-License-Identifier: MIT */
/*
 * The Stack type: the buffer, and what says how to read it. Neither ever moves, so that
 * views of it need not be counted.
 */
#include "python/stack.h"

#include <string.h>

/* Where the first row begins: at a cache line, which is also the widest that vector
 * units load at once. */
#define ALIGNMENT 64

/* ---- making one ------------------------------------------------------------------ */

/* Ask what dtype is. Returns 0, or -1 with an exception set. */
static int
read_dtype(const py_state *state, py_stack *stack, PyObject *dtype)
{
    PyObject *pair = PyObject_CallOneArg(state->format_of, dtype);
    if (pair == NULL) {
        return -1;
    }
    int is_pair = PyArg_ParseTuple(pair, "Un", &stack->format, &stack->itemsize);
    Py_XINCREF(stack->format);
    Py_DECREF(pair);
    return is_pair ? 0 : -1;
}

static int
refuse_shape(PyObject *error, PyObject *shape)
{
    PyErr_Format(error,
                 "stack() shape=%R is not allowed: it must be an integer of at least "
                 "0, or a tuple of at most %d of them",
                 shape, PyBUF_MAX_NDIM - 1);
    return -1;
}

/* Add one dimension. Returns 0, or -1 with an exception set. */
static int
read_length(py_stack *stack, PyObject *length, PyObject *shape)
{
    if (!PyIndex_Check(length)) {
        return refuse_shape(PyExc_TypeError, shape);
    }
    Py_ssize_t n = PyNumber_AsSsize_t(length, NULL); /* the largest, if it is larger */
    if (n == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (n < 0 || n == PY_SSIZE_T_MAX || stack->ndim == PyBUF_MAX_NDIM) {
        return refuse_shape(PyExc_ValueError, shape);
    }
    stack->shape[stack->ndim++] = n;
    return 0;
}

/* Returns 0, or -1 with an exception set. */
static int
read_shape(py_stack *stack, PyObject *shape)
{
    if (!PyTuple_Check(shape)) {
        return read_length(stack, shape, shape);
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(shape); i++) {
        if (read_length(stack, PyTuple_GetItem(shape, i), shape) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Each stride is what the dimensions behind it take. Returns the bytes of all, or -1:
 * they are more than can be. */
static Py_ssize_t
lay_out(py_stack *stack)
{
    Py_ssize_t len = stack->itemsize;
    for (int i = stack->ndim - 1; i >= 0; i--) {
        stack->strides[i] = len;
        if (stack->shape[i] > 0 &&
            len > (PY_SSIZE_T_MAX - ALIGNMENT) / stack->shape[i]) {
            return -1;
        }
        len *= stack->shape[i];
    }
    return len;
}

/* Returns 0, or -1 with an exception set. */
static int
take_memory(py_stack *stack, PyObject *shape)
{
    Py_ssize_t len = lay_out(stack);
    if (len < 0) {
        PyErr_Format(PyExc_ValueError,
                     "stack() shape=%R is not allowed: %zd of these are more bytes "
                     "than there can be",
                     shape, stack->shape[0]);
        return -1;
    }
    stack->row_len = (size_t)stack->strides[0];
    stack->block = PyMem_Malloc((size_t)len + ALIGNMENT);
    if (stack->block == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    size_t off = ALIGNMENT - (uintptr_t)stack->block % ALIGNMENT;
    stack->rows = (char *)stack->block + off;
    return 0;
}

/* Returns 0, or -1 with an exception set. */
static int
make_mask(py_stack *stack)
{
    stack->mask = PyBytes_FromStringAndSize(NULL, stack->shape[0]);
    if (stack->mask == NULL) {
        return -1;
    }
    memset(PyBytes_AsString(stack->mask), 0, (size_t)stack->shape[0]);
    return 0;
}

py_stack *
py_stack_new(const py_state *state, size_t n_rows, PyObject *dtype, PyObject *shape)
{
    allocfunc alloc = PyType_GetSlot(state->stack_type, Py_tp_alloc);
    py_stack *stack = (py_stack *)alloc(state->stack_type, 0);
    if (stack == NULL) {
        return NULL;
    }
    stack->shape[stack->ndim++] = (Py_ssize_t)n_rows;
    if (read_dtype(state, stack, dtype) < 0 || read_shape(stack, shape) < 0 ||
        take_memory(stack, shape) < 0 || make_mask(stack) < 0) {
        Py_DECREF(stack);
        return NULL;
    }
    return stack;
}

static void
stack_dealloc(PyObject *self)
{
    py_stack *stack = (py_stack *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(stack->block);
    Py_XDECREF(stack->mask);
    Py_XDECREF(stack->format);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

/* ---- rows ------------------------------------------------------------------------ */

char *
py_stack_row(const py_stack *stack, size_t i)
{
    return stack->rows + i * stack->row_len;
}

void
py_stack_hold(py_stack *stack, size_t i)
{
    PyBytes_AsString(stack->mask)[i] = 1;
}

void
py_stack_mask_out(py_stack *stack, size_t i)
{
    memset(py_stack_row(stack, i), 0, stack->row_len);
}

/* ---- the buffer ------------------------------------------------------------------ */

static Py_ssize_t
n_bytes(const py_stack *stack)
{
    return stack->shape[0] * (Py_ssize_t)stack->row_len;
}

static int
stack_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    py_stack *stack = (py_stack *)self;
    const char *format = PyUnicode_AsUTF8(stack->format);
    if (format == NULL) {
        view->obj = NULL;
        return -1;
    }
    *view = (Py_buffer){
        .buf = stack->rows,
        .obj = Py_NewRef(self),
        .len = n_bytes(stack),
        .itemsize = stack->itemsize,
        .ndim = stack->ndim,
        .format = (char *)(uintptr_t)format, /* nobody writes there */
        .shape = stack->shape,
        .strides = stack->strides,
    };
    bool wants_columns = (flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS;
    if (wants_columns && !PyBuffer_IsContiguous(view, 'F')) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_BufferError, "a Stack lies row by row");
        return -1;
    }
    /* What was not asked for is not to be there. */
    if ((flags & PyBUF_FORMAT) == 0) {
        view->format = NULL;
    }
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES) {
        view->strides = NULL;
    }
    if ((flags & PyBUF_ND) == 0) {
        view->ndim = 1;
        view->shape = NULL;
    }
    return 0;
}

/* ---- what it says of itself ------------------------------------------------------ */

static Py_ssize_t
stack_length(PyObject *self)
{
    return ((py_stack *)self)->shape[0];
}

static PyObject *
get_shape(PyObject *self, void *closure)
{
    (void)closure;
    const py_stack *stack = (py_stack *)self;
    PyObject *shape = PyTuple_New(stack->ndim);
    for (int i = 0; shape != NULL && i < stack->ndim; i++) {
        PyObject *length = PyLong_FromSsize_t(stack->shape[i]);
        if (length == NULL || PyTuple_SetItem(shape, i, length) < 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

static PyObject *
get_format(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(((py_stack *)self)->format);
}

static PyObject *
get_itemsize(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSsize_t(((py_stack *)self)->itemsize);
}

static PyObject *
get_nbytes(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSsize_t(n_bytes((py_stack *)self));
}

static PyObject *
get_mask(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *mask = NULL;
    PyObject *view = PyMemoryView_FromObject(((py_stack *)self)->mask);
    PyObject *cast = PyUnicode_InternFromString("cast");
    PyObject *format = PyUnicode_FromString("?");
    if (view != NULL && cast != NULL && format != NULL) {
        mask = PyObject_CallMethodOneArg(view, cast, format);
    }
    Py_XDECREF(format);
    Py_XDECREF(cast);
    Py_XDECREF(view);
    return mask;
}

static PyObject *
stack_repr(PyObject *self)
{
    const py_stack *stack = (py_stack *)self;
    const char *mask = PyBytes_AsString(stack->mask);
    Py_ssize_t n_held = 0;
    for (Py_ssize_t i = 0; i < stack->shape[0]; i++) {
        n_held += mask[i];
    }
    PyObject *repr = NULL;
    PyObject *shape = get_shape(self, NULL);
    if (shape != NULL) {
        repr = PyUnicode_FromFormat("<Stack of %R in shape %R, %zd of %zd rows held>",
                                    stack->format, shape, n_held, stack->shape[0]);
        Py_DECREF(shape);
    }
    return repr;
}

/* ---- the type -------------------------------------------------------------------- */

static PyGetSetDef stack_getset[] = {
    {"shape", get_shape, NULL,
     PyDoc_STR("The number of rows, then the shape of one: a tuple of int."), NULL},
    {"format", get_format, NULL,
     PyDoc_STR("What an item is, as the struct module has it: str."), NULL},
    {"itemsize", get_itemsize, NULL, PyDoc_STR("Bytes of an item: int."), NULL},
    {"nbytes", get_nbytes, NULL, PyDoc_STR("Bytes of all rows: int."), NULL},
    {"mask", get_mask, NULL,
     PyDoc_STR("Which rows hold a body: a read-only memoryview of bool, one for each "
               "row. The others are all zeros, and their requests are answered."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot stack_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("The bodies of a batch as the rows of one array.\n\nA writable, "
                       "C-contiguous buffer of its own, which memoryview, "
                       "numpy.asarray and torch.frombuffer take without a copy.")},
    {Py_tp_dealloc, stack_dealloc},
    {Py_tp_repr, stack_repr},
    {Py_tp_getset, stack_getset},
    {Py_sq_length, stack_length},
    {Py_bf_getbuffer, stack_getbuffer},
    {0, NULL},
};

/* No garbage collection: a Stack refers to str and bytes alone. */
PyType_Spec py_stack_spec = {
    .name = "fastbatch.Stack",
    .basicsize = sizeof(py_stack),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stack_slots,
};
