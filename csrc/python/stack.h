/* SPDX-License-Identifier: MIT */
/*
 * Stack: bodies of one size as the rows of an array, in one writable buffer of its own.
 * It is filled by whoever makes it, before anybody else sees it; then its owner is
 * whoever has it, as with a bytearray.
 */
#ifndef FB_PYTHON_STACK_H
#define FB_PYTHON_STACK_H

#include "python/state.h"

typedef struct py_stack {
    PyObject_HEAD
    void *block;         /* ours */
    char *rows;          /* in block, where the first row is aligned */
    size_t row_len;      /* bytes of a row */
    PyObject *mask;      /* bytes, one for each row: 1 when it holds a body, else 0 */
    PyObject *format;    /* str: what an item is, as struct has it */
    Py_ssize_t itemsize; /* bytes of an item */
    int ndim;            /* of shape and strides, in use */
    Py_ssize_t shape[PyBUF_MAX_NDIM]; /* the number of rows first */
    Py_ssize_t strides[PyBUF_MAX_NDIM];
} py_stack;

/* Returns a new Stack of n_rows rows, whose bytes are whatever was there and which hold
 * no bodies; or NULL with an exception set: dtype or shape, as Batch.stack takes them,
 * are none, or there is no memory. */
py_stack *py_stack_new(const py_state *state, size_t n_rows, PyObject *dtype,
                       PyObject *shape);

/* Returns where the row_len bytes of row i go. Valid until the end of stack. */
char *py_stack_row(const py_stack *stack, size_t i);

/* Row i is filled, and holds a body; or it holds none: it is all zeros. */
void py_stack_hold(py_stack *stack, size_t i);
void py_stack_mask_out(py_stack *stack, size_t i);

#endif
