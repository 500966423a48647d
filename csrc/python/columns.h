/* SPDX-License-Identifier: MIT */
/*
 * The bodies of a batch all at once: methods of Batch, which _core.pyi describes.
 */
#ifndef FB_PYTHON_COLUMNS_H
#define FB_PYTHON_COLUMNS_H

#include "python/state.h"

#define PY_BODIES_DOC                                                                  \
    "The bodies, one for each slot: a tuple of memoryview, each of the bytes that "    \
    "the\n"                                                                            \
    "Request's body is."

#define PY_STACK_DOC                                                                   \
    "stack($self, /, dtype, shape)\n--\n\n"                                            \
    "The bodies as the rows of one array: Stack.\n\n"                                  \
    "A request whose body has another size than a row is answered 400, alone; its "    \
    "row\n"                                                                            \
    "is all zeros, and False in the mask, as is that of one answered before.\n\n"      \
    "Args:\n"                                                                          \
    "    dtype: of the items: 'f', 'f4', 'float32', numpy.float32, torch.float32...\n" \
    "    shape: of a row: an int, or a tuple of int; () is a single item.\n\n"         \
    "Raises:\n"                                                                        \
    "    TypeError, ValueError: dtype or shape is none.\n"                             \
    "    OSError: a body that is in a file cannot be read.\n"                          \
    "    RuntimeError: the dispatch is over, or it is another thread's."

#define PY_JSON_DOC                                                                    \
    "json()\n--\n\n"                                                                   \
    "The bodies as Request.json() reads them: a list.\n\n"                             \
    "A request whose body is no JSON is answered 400, alone, and its item is None, "   \
    "as\n"                                                                             \
    "is that of one answered before."

/* A getter and two methods of Batch, of which self is one. They return a new object, or
 * NULL with an exception set. */
PyObject *py_batch_bodies(PyObject *self, void *closure);
PyObject *py_batch_stack(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *py_batch_json(PyObject *self, PyObject *unused);

#endif
