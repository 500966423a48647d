/* SPDX-License-Identifier: MIT */
/*
 * The Input type. What is read passes through a window on the body: all of it when the
 * body is in memory, a part that moves when it is in a file.
 *
 * An application may hand it to other threads, so a method works within the object's
 * critical section; while a file is read, it may be left.
 */
#include "python/input.h"

#include "io/spool.h"

#include <unistd.h>
#include <uv.h>

typedef struct py_input {
    PyObject_HEAD
    uint64_t len;       /* of the body, bytes */
    uint64_t at;        /* the next byte to be read */
    int fd;             /* of the temporary file, or -1; ours */
    PyObject *window;   /* bytes, never changed; or NULL: nothing yet */
    uint64_t window_at; /* of its first byte in the body */
} py_input;

static py_input *
new_input(const py_state *state)
{
    allocfunc alloc = PyType_GetSlot(state->input_type, Py_tp_alloc);
    py_input *input = (py_input *)alloc(state->input_type, 0);
    if (input != NULL) {
        input->fd = -1;
    }
    return input;
}

PyObject *
py_input_empty(const py_state *state)
{
    return (PyObject *)new_input(state);
}

PyObject *
py_input_new(const py_state *state, fb_slot *slot)
{
    py_input *input = new_input(state);
    if (input == NULL) {
        return NULL;
    }
    if (slot->file >= 0) {
        input->len = slot->req.n_spooled;
        input->fd = slot->file;
        slot->file = -1;
        return (PyObject *)input;
    }
    fb_span body = slot->req.body;
    input->len = body.len;
    input->window =
        PyBytes_FromStringAndSize(slot->data + body.off, (Py_ssize_t)body.len);
    if (input->window == NULL) {
        Py_DECREF(input);
        return NULL;
    }
    return (PyObject *)input;
}

static void
input_dealloc(PyObject *self)
{
    py_input *input = (py_input *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(input->window);
    if (input->fd >= 0) {
        close(input->fd);
    }
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

/* ---- the file -------------------------------------------------------------------- */

int
py_input_read_into(int fd, uint64_t at, char *to, uint64_t len)
{
    int error;
    Py_BEGIN_ALLOW_THREADS error = fb_spool_read(fd, to, (size_t)len, at);
    Py_END_ALLOW_THREADS if (error != 0)
    {
        PyErr_Format(PyExc_OSError, "a body cannot be read: %s", uv_strerror(error));
        return -1;
    }
    return 0;
}

PyObject *
py_input_read_file(int fd, uint64_t at, uint64_t len)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
    if (bytes == NULL) {
        return NULL;
    }
    if (py_input_read_into(fd, at, PyBytes_AsString(bytes), len) < 0) {
        Py_CLEAR(bytes);
    }
    return bytes;
}

/* ---- the window ------------------------------------------------------------------ */

static uint64_t
smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t
n_left(const py_input *input)
{
    return input->len - input->at;
}

/* Returns how many bytes of the window come at the place to be read. */
static uint64_t
n_in_window(const py_input *input)
{
    if (input->window == NULL || input->at < input->window_at) {
        return 0;
    }
    uint64_t end = input->window_at + (uint64_t)PyBytes_Size(input->window);
    return end > input->at ? end - input->at : 0;
}

/* Have the window stand where it is read. Returns 0, or -1 with an exception set. */
static int
move_window(py_input *input)
{
    if (n_in_window(input) > 0 || n_left(input) == 0) {
        return 0;
    }
    uint64_t at = input->at;
    PyObject *window =
        py_input_read_file(input->fd, at, smaller(n_left(input), FB_FILE_BLOCK));
    if (window == NULL) {
        return -1;
    }
    Py_XSETREF(input->window, window);
    input->window_at = at;
    return 0;
}

/* Returns the next len bytes, which the window has, and moves on. */
static PyObject *
take_from_window(py_input *input, uint64_t len)
{
    PyObject *bytes;
    uint64_t offset = input->at - input->window_at;
    if (offset == 0 && len == (uint64_t)PyBytes_Size(input->window)) {
        bytes = Py_NewRef(input->window);
    } else {
        bytes = PyBytes_FromStringAndSize(PyBytes_AsString(input->window) + offset,
                                          (Py_ssize_t)len);
    }
    if (bytes != NULL) {
        input->at += len;
    }
    return bytes;
}

/* ---- reading --------------------------------------------------------------------- */

/* Returns at most most bytes; fewer only at the end. */
static PyObject *
read_bytes(py_input *input, uint64_t most)
{
    uint64_t len = smaller(most, n_left(input));
    if (len == 0) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (n_in_window(input) >= len) {
        return take_from_window(input, len);
    }
    /* Moved on at once: another thread may read the next bytes meanwhile. */
    uint64_t at = input->at;
    input->at = at + len;
    PyObject *bytes = py_input_read_file(input->fd, at, len);
    if (bytes == NULL && input->at == at + len) {
        input->at = at; /* as if nobody had asked */
    }
    return bytes;
}

/* Returns how many bytes the rest of the line has in the window, up to most; *ends says
 * whether that is all of it. */
static uint64_t
line_in_window(const py_input *input, uint64_t most, bool *ends)
{
    uint64_t len = smaller(most, n_in_window(input));
    const char *from = PyBytes_AsString(input->window) + (input->at - input->window_at);
    const char *end = memchr(from, '\n', (size_t)len);
    *ends = end != NULL || len == most || len == n_left(input);
    return end != NULL ? (uint64_t)(end - from) + 1 : len;
}

/* The line goes on behind the window: collect it. */
static PyObject *
read_long_line(py_input *input, uint64_t most)
{
    PyObject *line = PyBytes_FromStringAndSize(NULL, 0);
    bool ends = false;
    while (line != NULL && !ends && most > 0 && n_left(input) > 0) {
        if (move_window(input) < 0) {
            Py_CLEAR(line);
            break;
        }
        if (n_in_window(input) == 0) {
            continue; /* another thread has read on, behind the window */
        }
        uint64_t len = line_in_window(input, most, &ends);
        PyObject *piece = take_from_window(input, len);
        most -= len;
        PyBytes_ConcatAndDel(&line, piece); /* NULL if either is */
    }
    return line;
}

/* Returns a line with its end, at most most bytes; empty at the end of the body. */
static PyObject *
read_line(py_input *input, uint64_t most)
{
    if (most == 0 || n_left(input) == 0) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    bool ends = false;
    if (n_in_window(input) > 0) {
        uint64_t len = line_in_window(input, most, &ends);
        if (ends) {
            return take_from_window(input, len);
        }
    }
    return read_long_line(input, most);
}

/* ---- methods --------------------------------------------------------------------- */

/* The one optional size of all methods. Returns 0 and *most, or -1 with an exception
 * set. None and what is negative stand for all. */
static int
read_size(const char *method, PyObject *const *args, Py_ssize_t n_args, uint64_t *most)
{
    *most = UINT64_MAX;
    if (n_args > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument, not %zd", method,
                     n_args);
        return -1;
    }
    if (n_args == 0 || args[0] == Py_None) {
        return 0;
    }
    Py_ssize_t size = PyNumber_AsSsize_t(args[0], NULL);
    if (size == -1 && PyErr_Occurred()) {
        return -1;
    }
    *most = size < 0 ? UINT64_MAX : (uint64_t)size;
    return 0;
}

static PyObject *
input_read(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    uint64_t most;
    PyObject *bytes;
    if (read_size("read", args, n_args, &most) < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    bytes = read_bytes((py_input *)self, most);
    Py_END_CRITICAL_SECTION();
    return bytes;
}

static PyObject *
input_readline(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    uint64_t most;
    PyObject *line;
    if (read_size("readline", args, n_args, &most) < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    line = read_line((py_input *)self, most);
    Py_END_CRITICAL_SECTION();
    return line;
}

/* Lines until there is no more, or until they have as many bytes as hint says. */
static PyObject *
list_lines(py_input *input, uint64_t hint)
{
    PyObject *lines = PyList_New(0);
    uint64_t n_read = 0;
    while (lines != NULL && n_read < hint) {
        PyObject *line = read_line(input, UINT64_MAX);
        bool is_end = line != NULL && PyBytes_Size(line) == 0;
        if (line == NULL || (!is_end && PyList_Append(lines, line) < 0)) {
            Py_CLEAR(lines);
        } else {
            n_read += (uint64_t)PyBytes_Size(line);
        }
        Py_XDECREF(line);
        if (is_end) {
            break;
        }
    }
    return lines;
}

static PyObject *
input_readlines(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    uint64_t hint;
    PyObject *lines;
    if (read_size("readlines", args, n_args, &hint) < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    lines = list_lines((py_input *)self, hint == 0 ? UINT64_MAX : hint);
    Py_END_CRITICAL_SECTION();
    return lines;
}

static PyObject *
input_next(PyObject *self)
{
    PyObject *line;
    Py_BEGIN_CRITICAL_SECTION(self);
    line = read_line((py_input *)self, UINT64_MAX);
    Py_END_CRITICAL_SECTION();
    if (line != NULL && PyBytes_Size(line) == 0) {
        Py_CLEAR(line); /* NULL without an exception: the end */
    }
    return line;
}

/* ---- the type -------------------------------------------------------------------- */

static PyMethodDef input_methods[] = {
    {"read", (PyCFunction)(void (*)(void))input_read, METH_FASTCALL,
     PyDoc_STR(
         "read(size=-1, /)\n--\n\nThe next size bytes, fewer at the end; all that "
         "is left if size is negative or None.")},
    {"readline", (PyCFunction)(void (*)(void))input_readline, METH_FASTCALL,
     PyDoc_STR("readline(size=-1, /)\n--\n\nThe next line with its end, at most size "
               "bytes of it; b'' when there is none.")},
    {"readlines", (PyCFunction)(void (*)(void))input_readlines, METH_FASTCALL,
     PyDoc_STR(
         "readlines(hint=-1, /)\n--\n\nThe lines that are left, as a list; no more "
         "once they have hint bytes.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot input_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The body of a request as a file, PEP 3333.")},
    {Py_tp_dealloc, input_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, input_next},
    {Py_tp_methods, input_methods},
    {0, NULL},
};

PyType_Spec py_input_spec = {
    .name = "fastbatch._core.Input",
    .basicsize = sizeof(py_input),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = input_slots,
};
