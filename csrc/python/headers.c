/* SPDX-License-Identifier: MIT */
/*
 * The Headers type. The spans are those of the Request, and are read within its
 * critical section, because they move when the dispatch ends.
 */
#include "python/headers.h"

#include <stddef.h>

typedef struct py_headers {
    PyObject_HEAD
    py_request *request; /* strong */
} py_headers;

PyObject *
py_headers_new(const py_state *state, py_request *request)
{
    allocfunc alloc = PyType_GetSlot(state->headers_type, Py_tp_alloc);
    py_headers *headers = (py_headers *)alloc(state->headers_type, 0);
    if (headers != NULL) {
        headers->request = (py_request *)Py_NewRef(request);
    }
    return (PyObject *)headers;
}

static void
headers_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((py_headers *)self)->request);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

/* ---- looking at fields; all within the critical section -------------------------- */

static size_t
n_fields(const py_request *request)
{
    return request->req != NULL ? request->req->n_headers : 0;
}

static char
lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool
is_same_name(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (lower(a[i]) != lower(b[i])) {
            return false;
        }
    }
    return true;
}

/* Returns the index of the first field from start on of that name, or n_fields. */
static size_t
find_field(const py_request *request, size_t start, const char *name, size_t len)
{
    size_t n = n_fields(request);
    for (size_t i = start; i < n; i++) {
        fb_span span = request->req->headers[i].name;
        if (span.len == len && is_same_name(request->data + span.off, name, len)) {
            return i;
        }
    }
    return n;
}

static PyObject *
make_value(const py_request *request, size_t i)
{
    fb_span span = request->req->headers[i].value;
    const char *bytes = span.len > 0 ? request->data + span.off : "";
    return PyUnicode_DecodeLatin1(bytes, (Py_ssize_t)span.len, NULL);
}

static PyObject *
make_name(const py_request *request, size_t i)
{
    fb_span span = request->req->headers[i].name;
    char name[256];
    if (span.len > sizeof(name)) {
        PyObject *text =
            PyUnicode_DecodeASCII(request->data + span.off, (Py_ssize_t)span.len, NULL);
        PyObject *lowered =
            text != NULL ? PyObject_CallMethod(text, "lower", NULL) : NULL;
        Py_XDECREF(text);
        return lowered;
    }
    for (size_t k = 0; k < span.len; k++) {
        name[k] = lower(request->data[span.off + k]);
    }
    return PyUnicode_DecodeASCII(name, (Py_ssize_t)span.len, NULL);
}

/* Returns a list of the values of that name, in order of arrival. */
static PyObject *
list_values(const py_request *request, const char *name, size_t len)
{
    PyObject *values = PyList_New(0);
    size_t n = n_fields(request);
    for (size_t i = find_field(request, 0, name, len); values != NULL && i < n;
         i = find_field(request, i + 1, name, len)) {
        PyObject *value = make_value(request, i);
        if (value == NULL || PyList_Append(values, value) < 0) {
            Py_CLEAR(values);
        }
        Py_XDECREF(value);
    }
    return values;
}

/* RFC 9110 5.3: several lines read as one list. Cookies are joined as RFC 6265 has it.
 * */
static PyObject *
join_values(const py_request *request, const char *name, size_t len)
{
    PyObject *values = list_values(request, name, len);
    if (values == NULL) {
        return NULL;
    }
    bool is_cookie = len == 6 && is_same_name(name, "cookie", 6);
    PyObject *separator = PyUnicode_FromString(is_cookie ? "; " : ", ");
    PyObject *joined = separator != NULL ? PyUnicode_Join(separator, values) : NULL;
    Py_XDECREF(separator);
    Py_DECREF(values);
    return joined;
}

/* Returns the value of that name, or NULL: with an exception set, or without one when
 * there is no such field. */
static PyObject *
find_value(const py_request *request, const char *name, size_t len)
{
    size_t n = n_fields(request);
    size_t first = find_field(request, 0, name, len);
    if (first == n) {
        return NULL;
    }
    if (find_field(request, first + 1, name, len) == n) {
        return make_value(request, first);
    }
    return join_values(request, name, len);
}

/* Returns a list of the distinct names, in lower case and order of arrival. */
static PyObject *
list_names(const py_request *request)
{
    PyObject *names = PyList_New(0);
    size_t n = n_fields(request);
    for (size_t i = 0; names != NULL && i < n; i++) {
        fb_span span = request->req->headers[i].name;
        if (find_field(request, 0, request->data + span.off, span.len) != i) {
            continue;
        }
        PyObject *name = make_name(request, i);
        if (name == NULL || PyList_Append(names, name) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *
make_bytes(const py_request *request, fb_span span)
{
    const char *bytes = span.len > 0 ? request->data + span.off : "";
    return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)span.len);
}

/* Bytes first: making a tuple may run the garbage collector, and with it other threads,
 * after which the spans may stand elsewhere. */
static PyObject *
make_pair(const py_request *request, size_t i)
{
    PyObject *pair = NULL;
    PyObject *name = make_bytes(request, request->req->headers[i].name);
    PyObject *value = make_bytes(request, request->req->headers[i].value);
    if (name != NULL && value != NULL) {
        pair = PyTuple_Pack(2, name, value);
    }
    Py_XDECREF(name);
    Py_XDECREF(value);
    return pair;
}

static PyObject *
list_raw(const py_request *request)
{
    PyObject *raw = PyList_New(0);
    size_t n = n_fields(request);
    for (size_t i = 0; raw != NULL && i < n; i++) {
        PyObject *pair = make_pair(request, i);
        if (pair == NULL || PyList_Append(raw, pair) < 0) {
            Py_CLEAR(raw);
        }
        Py_XDECREF(pair);
    }
    return raw;
}

/* ---- methods --------------------------------------------------------------------- */

static py_request *
request_of(PyObject *self)
{
    return ((py_headers *)self)->request;
}

/* Returns key as bytes, or NULL without an exception when it can be no field's name. */
static const char *
name_of(PyObject *key, size_t *len)
{
    if (!PyUnicode_Check(key)) {
        return NULL;
    }
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(key, &size);
    if (name == NULL) {
        PyErr_Clear(); /* lone surrogates */
        return NULL;
    }
    *len = (size_t)size;
    return name;
}

/* As find_value, for any key. */
static PyObject *
look_up(PyObject *self, PyObject *key)
{
    size_t len;
    PyObject *value = NULL;
    const char *name = name_of(key, &len);
    if (name != NULL) {
        py_request *request = request_of(self);
        Py_BEGIN_CRITICAL_SECTION(request);
        value = find_value(request, name, len);
        Py_END_CRITICAL_SECTION();
    }
    return value;
}

/* PyErr_SetObject alone would take a tuple apart, and None for no argument. */
static void
raise_key_error(PyObject *key)
{
    PyObject *error = PyObject_CallOneArg(PyExc_KeyError, key);
    if (error != NULL) {
        PyErr_SetObject(PyExc_KeyError, error);
        Py_DECREF(error);
    }
}

static PyObject *
headers_subscript(PyObject *self, PyObject *key)
{
    PyObject *value = look_up(self, key);
    if (value == NULL && !PyErr_Occurred()) {
        raise_key_error(key);
    }
    return value;
}

static PyObject *
headers_get(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args < 1 || n_args > 2) {
        return PyErr_Format(PyExc_TypeError, "get() takes 1 or 2 arguments, not %zd",
                            n_args);
    }
    PyObject *value = look_up(self, args[0]);
    if (value == NULL && !PyErr_Occurred()) {
        return Py_NewRef(n_args == 2 ? args[1] : Py_None);
    }
    return value;
}

static PyObject *
headers_get_all(PyObject *self, PyObject *key)
{
    size_t len;
    PyObject *values = NULL;
    const char *name = name_of(key, &len);
    if (name == NULL) {
        return PyList_New(0);
    }
    py_request *request = request_of(self);
    Py_BEGIN_CRITICAL_SECTION(request);
    values = list_values(request, name, len);
    Py_END_CRITICAL_SECTION();
    return values;
}

static int
headers_contains(PyObject *self, PyObject *key)
{
    size_t len;
    int contains = 0;
    const char *name = name_of(key, &len);
    if (name != NULL) {
        py_request *request = request_of(self);
        Py_BEGIN_CRITICAL_SECTION(request);
        contains = find_field(request, 0, name, len) < n_fields(request);
        Py_END_CRITICAL_SECTION();
    }
    return contains;
}

static PyObject *
names_of(PyObject *self)
{
    PyObject *names = NULL;
    py_request *request = request_of(self);
    Py_BEGIN_CRITICAL_SECTION(request);
    names = list_names(request);
    Py_END_CRITICAL_SECTION();
    return names;
}

static Py_ssize_t
headers_length(PyObject *self)
{
    PyObject *names = names_of(self);
    if (names == NULL) {
        return -1;
    }
    Py_ssize_t n = PyList_Size(names);
    Py_DECREF(names);
    return n;
}

static PyObject *
headers_iter(PyObject *self)
{
    PyObject *names = names_of(self);
    if (names == NULL) {
        return NULL;
    }
    PyObject *iter = PyObject_GetIter(names);
    Py_DECREF(names);
    return iter;
}

static PyObject *
get_raw(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *raw = NULL;
    py_request *request = request_of(self);
    Py_BEGIN_CRITICAL_SECTION(request);
    raw = list_raw(request);
    Py_END_CRITICAL_SECTION();
    return raw;
}

static PyObject *
headers_keys(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyObject_CallOneArg(py_state_of_type(Py_TYPE(self))->keys_view, self);
}

static PyObject *
headers_values(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyObject_CallOneArg(py_state_of_type(Py_TYPE(self))->values_view, self);
}

static PyObject *
headers_items(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyObject_CallOneArg(py_state_of_type(Py_TYPE(self))->items_view, self);
}

static PyObject *
to_dict(PyObject *mapping)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && PyDict_Update(dict, mapping) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
headers_repr(PyObject *self)
{
    PyObject *dict = to_dict(self);
    PyObject *repr = dict != NULL ? PyUnicode_FromFormat("<Headers %R>", dict) : NULL;
    Py_XDECREF(dict);
    return repr;
}

/* Equal to a mapping with the same items, as collections.abc.Mapping has it. */
static PyObject *
headers_richcompare(PyObject *self, PyObject *other, int op)
{
    if ((op != Py_EQ && op != Py_NE) ||
        (!PyDict_Check(other) && Py_TYPE(other) != Py_TYPE(self))) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = NULL;
    PyObject *left = to_dict(self);
    PyObject *right = left != NULL ? to_dict(other) : NULL;
    if (right != NULL) {
        result = PyObject_RichCompare(left, right, op);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

/* ---- the type -------------------------------------------------------------------- */

/* METH_FASTCALL functions have a signature of their own; the cast is CPython's idiom.
 * */
static PyMethodDef headers_methods[] = {
    {"get", (PyCFunction)(void (*)(void))headers_get, METH_FASTCALL,
     PyDoc_STR("get(name, default=None, /)\n--\n\nThe value of a field, or default.")},
    {"get_all", headers_get_all, METH_O,
     PyDoc_STR(
         "get_all(name, /)\n--\n\nThe values of a field, one for each line that was "
         "received.")},
    {"keys", headers_keys, METH_NOARGS, PyDoc_STR("keys()\n--\n\nThe names.")},
    {"values", headers_values, METH_NOARGS, PyDoc_STR("values()\n--\n\nThe values.")},
    {"items", headers_items, METH_NOARGS,
     PyDoc_STR("items()\n--\n\nNames and values.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef headers_getset[] = {
    {"raw", get_raw, NULL,
     PyDoc_STR(
         "All fields as they were sent, in order: a list of (name, value), bytes."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot headers_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR(
         "The header fields of one request: a case-insensitive, read-only "
         "mapping.\n\nNames are given in lower case. A field that was sent "
         "several times reads as one\nvalue joined by ', ' ('; ' for cookie), "
         "RFC 9110 section 5.3.")},
    {Py_tp_dealloc, headers_dealloc},
    {Py_tp_repr, headers_repr},
    {Py_tp_richcompare, headers_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, headers_iter},
    {Py_tp_methods, headers_methods},
    {Py_tp_getset, headers_getset},
    {Py_mp_subscript, headers_subscript},
    {Py_mp_length, headers_length},
    {Py_sq_contains, headers_contains},
    {0, NULL},
};

PyType_Spec py_headers_spec = {
    .name = "fastbatch.Headers",
    .basicsize = sizeof(py_headers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_MAPPING |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = headers_slots,
};
