/* SPDX-License-Identifier: MIT */
/*
 * wsgi.input: the body of a request as a file, PEP 3333 "Input and Error Streams". The
 * body is all there, in memory or in a temporary file; its end is the end of the file.
 */
#ifndef FB_PYTHON_INPUT_H
#define FB_PYTHON_INPUT_H

#include "core/batch.h"
#include "python/state.h"

/* Returns the input of a slot, or NULL with an exception set. It takes the slot's file,
 * and copies what is in memory. */
PyObject *py_input_new(const py_state *state, fb_slot *slot);

/* Returns an input that has nothing: one for all requests without a body. */
PyObject *py_input_empty(const py_state *state);

/* Read len bytes of a file. Returns 0, or -1 with an exception set. Other threads may
 * run meanwhile. */
int py_input_read_into(int fd, uint64_t at, char *to, uint64_t len);

/* Returns len bytes of a file as a new bytes, or NULL with an exception set. Other
 * threads may run meanwhile. */
PyObject *py_input_read_file(int fd, uint64_t at, uint64_t len);

#endif
