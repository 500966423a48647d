/* SPDX-License-Identifier: MIT */
/*
 * Bytes of str objects, without a copy.
 */
#ifndef FB_PYTHON_TEXT_H
#define FB_PYTHON_TEXT_H

#include "python/compat.h"

#include <stdbool.h>
#include <string.h>

/* Returns text, a str, encoded as latin-1; or NULL, without an exception, when it
 * cannot be. The bytes are text's own: valid for as long as it is. */
static inline const char *
py_text_latin1(PyObject *text, size_t *len)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        PyErr_Clear();
        return NULL;
    }
#endif
    if (PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND) {
        return NULL;
    }
    *len = (size_t)PyUnicode_GET_LENGTH(text);
    return (const char *)PyUnicode_1BYTE_DATA(text);
}

/* Returns whether the bytes are the text, which is in lower case, in any case. */
static inline bool
py_text_is(const char *bytes, size_t len, const char *lower)
{
    if (len != strlen(lower)) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char c = bytes[i];
        if ((c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c) != lower[i]) {
            return false;
        }
    }
    return true;
}

#endif
