/* SPDX-License-Identifier: MIT */
/*
 * The module's state: every object that its types share. Made by exec, read-only after.
 *
 * What threads share. The module needs no GIL: it says so, and importing it leaves the
 * GIL off. Nothing at file scope is mutable, and this is all that more than one thread
 * may touch, with the rule that makes it safe on a free-threaded Python:
 *
 *   immutable    it is complete before a second thread can see it, and never changes
 *   owned        one thread alone has it; the hand-over to another orders the two
 *   locked       changed and looked at under that lock alone
 *   atomic       each access is one
 *
 *   py_state, its objects, its types     immutable once exec has returned
 *   the options of a server: limits,     immutable once fb_server_open has returned
 *     trust, server_value, temp_dir,
 *     listeners, access->form's format,
 *     routes, rules of its queues
 *   fb_server: its loop, its lists,      owned by the thread of serve(); others call
 *     queues and what they collect,        fb_server_stop: an atomic and a wake-up
 *     timers
 *   fb_stats, fb_heap                    atomic; those that handler threads count, too,
 *                                          are added to by one operation
 *   fb_conn, its exchange and outs       owned by the loop; from the hand-over of its
 *                                          slots until they are taken back locked by
 *                                          the lock of its executor
 *   fb_conn->fd                          immutable
 *   fb_slot: what was asked              immutable from the hand-over to the end of the
 *                                          dispatch
 *   fb_slot: how it was answered         locked by the lock of its executor
 *   fb_executor                          owned by the thread that dispatches; what says
 *                                          "under lock" is locked by its lock;
 *                                          is_slow is atomic
 *   fb_pool, fb_hand, jobs               as each says: owned by the loop, or locked by
 *                                          the lock of the pool
 *   fb_flusher                           is_ending is locked by the lock of the loop's
 *                                          executor; the rest is owned by the loop
 *   fb_access, fb_held                   locked by its lock; a held line is owned by
 *                                          whoever has its body
 *   fb_log_file                          as each says: owned by the loop, owned by its
 *                                          thread, locked by its lock, or atomic
 *   py_server: is_serving, is_closed     locked: its critical section
 *   py_server: is_abandoned              owned by the thread of serve(), which others
 *                                          join before they look
 *   py_server: raised, released          atomic
 *   py_server: the rest                  immutable, or owned by the thread of serve()
 *   py_executor with replies that are    owned by the thread that dispatches: each
 *     held, py_gateway with its caches     handler thread has its own
 *     (names, peers, start)
 *   py_body                              owned by its out, with the connection's; while
 *                                          it is BUSY by the thread that has its job
 *   Request, its slot or its copy        locked: its critical section; the thread of
 *                                          the dispatch shows it another slot when it
 *                                          has the only reference
 *   Headers                              immutable; the fields are those of its
 *                                          Request, and locked with it
 *   Batch                                owned by the thread of the dispatch: to others
 *                                          it is empty, and so it is afterwards; thread
 *                                          is atomic, and read before anything else
 *                                          but queue: as a Request's slot
 *   Stack                                owned by whoever made it until it is given
 *                                          out; then all is immutable but the items,
 *                                          which those that have it agree on
 *   StartResponse: the head              locked: its critical section; immutable once
 *                                          it is sealed
 *   StartResponse: what write() needs    owned as Batch
 *   Input                                locked: its critical section, which is left
 *                                          while a file is read
 *   libuv: what it has at file scope     its own: once-only, atomic or locked
 *
 * A critical section is left wherever its thread may wait or let the collector run, so
 * what was read of an object before such a call is read anew behind it.
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
    PyTypeObject *stack_type;
    PyObject *reply_error;
    PyObject *logger;       /* logging.getLogger("fastbatch") */
    PyObject *parse_qs;     /* urllib.parse.parse_qs */
    PyObject *json_loads;   /* fastbatch._json.loads */
    PyObject *json_exactly; /* fastbatch._json.loads_exactly */
    PyObject *format_of;    /* fastbatch._dtype.format_of */
    PyObject *brief;        /* reprlib.repr */
    PyObject *keys_view;    /* of collections.abc, as are the next two */
    PyObject *values_view;
    PyObject *items_view;
    PyObject *mapping;    /* collections.abc.Mapping */
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
extern PyType_Spec py_stack_spec;

#endif
