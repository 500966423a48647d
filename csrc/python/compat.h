/* SPDX-License-Identifier: MIT */
/*
 * What CPython 3.11 and 3.12 lack of the public interface that 3.13 has, and what no
 * CPython has.
 */
#ifndef FB_PYTHON_COMPAT_H
#define FB_PYTHON_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>

#ifndef Py_BEGIN_CRITICAL_SECTION
/* Before 3.13 the GIL makes every getter a critical section already. */
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

#if PY_VERSION_HEX < 0x030D0000
static inline PyObject *
PyList_GetItemRef(PyObject *list, Py_ssize_t i)
{
    return Py_XNewRef(PyList_GetItem(list, i));
}
#endif

#if PY_VERSION_HEX < 0x030C0000
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY

static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *raised)
{
    if (raised == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef(Py_TYPE(raised)), raised, PyException_GetTraceback(raised));
}
#endif

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PY_IS_WATCHED 1
#endif
#endif

/* Returns whether there is one reference to object, the caller's; then the caller also
 * sees whatever other threads did to it, in its critical section, before they let go of
 * theirs. Of what has weak references that may be wrong. */
static inline bool
py_is_ours_alone(PyObject *object)
{
    if (Py_REFCNT(object) != 1) {
        return false;
    }
    atomic_thread_fence(memory_order_acquire);
#ifdef PY_IS_WATCHED /* ThreadSanitizer knows nothing of fences */
    Py_BEGIN_CRITICAL_SECTION(object);
    Py_END_CRITICAL_SECTION();
#endif
    return true;
}

#endif
