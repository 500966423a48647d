/* SPDX-License-Identifier: MIT */
/*
 * The module's state: every object that its types share. Made by exec, read-only after.
 */
#ifndef FB_PYTHON_STATE_H
#define FB_PYTHON_STATE_H

#include "python/compat.h"

#define PY_N_METHODS 64 /* more than llhttp has */

typedef struct py_state {
    PyTypeObject *request_type;
    PyTypeObject *headers_type;
    PyTypeObject *batch_type;
    PyTypeObject *server_type;
    PyTypeObject *gateway_type;
    PyTypeObject *start_type;
    PyTypeObject *input_type;
    PyObject *reply_error;
    PyObject *logger;     /* logging.getLogger("fastbatch") */
    PyObject *parse_qs;   /* urllib.parse.parse_qs */
    PyObject *json_loads; /* json.loads */
    PyObject *brief;      /* reprlib.repr */
    PyObject *keys_view;  /* of collections.abc, as are the next two */
    PyObject *values_view;
    PyObject *items_view;
    PyObject *names;      /* a tuple of interned str: the methods, by llhttp's number */
    PyObject *http;       /* "http" */
    PyObject *https;      /* "https" */
    PyObject *version_10; /* "1.0" */
    PyObject *version_11; /* "1.1" */
    PyObject *close;      /* "close" */
} py_state;

extern PyModuleDef py_module_def;

/* Returns the state of the module that type belongs to. Borrowed. */
static inline py_state *
py_state_of_type(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

/* Log message through logging, with the exception that is set and its traceback. None
 * is set afterwards, unless logging raises what is no Exception. */
void py_log_exception(const py_state *state, const char *message);

/* Leave a context of contextvars that was entered; an exception that is set stays set.
 */
void py_leave_context(const py_state *state, PyObject *context);

/* Raise ReplyError with message, whose one %U stands for culprit, briefly shown. */
void py_raise_reply_error(const py_state *state, const char *message,
                          PyObject *culprit);

extern PyType_Spec py_request_spec;
extern PyType_Spec py_headers_spec;
extern PyType_Spec py_batch_spec;
extern PyType_Spec py_server_spec;
extern PyType_Spec py_gateway_spec;
extern PyType_Spec py_start_spec;
extern PyType_Spec py_input_spec;

#endif
