/* SPDX-License-Identifier: MIT */
/*
 * Limits as Python gives them: a mapping from names to whole numbers.
 */
#ifndef FB_PYTHON_LIMITS_H
#define FB_PYTHON_LIMITS_H

#include "core/limits.h"
#include "python/compat.h"

/* Read every field of limits from mapping. Borrows mapping. Returns 0, or -1 with an
 * exception set: KeyError for one that is missing, ValueError for one out of bounds. */
int py_limits_read(PyObject *mapping, fb_limits *limits);

#endif
