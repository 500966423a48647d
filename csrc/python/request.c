/* SPDX-License-Identifier: MIT */
/*
 * The Request type. Its getters may be called by any thread that the handler gave the
 * Request to, so each works within the object's critical section.
 */
#include "python/request.h"

#include "core/target.h"
#include "python/headers.h"
#include "python/input.h"

#include <stddef.h>
#include <unistd.h>

/* ---- showing a slot, and parting from it ----------------------------------------- */

py_request *
py_request_new(const py_state *state)
{
    allocfunc alloc = PyType_GetSlot(state->request_type, Py_tp_alloc);
    py_request *request = (py_request *)alloc(state->request_type, 0);
    if (request != NULL) {
        request->file = -1;
    }
    return request;
}

void
py_request_show(py_request *request, fb_slot *slot)
{
    request->req = &slot->req;
    request->data = slot->data;
    request->slot = slot;
}

static void
forget_values(py_request *request)
{
    Py_CLEAR(request->target);
    Py_CLEAR(request->path);
    Py_CLEAR(request->query_string);
    Py_CLEAR(request->body);
    Py_CLEAR(request->client);
}

static size_t
larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t
span_end(fb_span span)
{
    return (size_t)span.off + span.len;
}

/* How many bytes of the message anything in req points into. */
static size_t
extent_of(const fb_request *req)
{
    size_t extent = larger(span_end(req->target), span_end(req->body));
    for (size_t i = 0; i < req->n_headers; i++) {
        extent = larger(extent, span_end(req->headers[i].name));
        extent = larger(extent, span_end(req->headers[i].value));
    }
    return extent;
}

static PyObject *get_client(PyObject *self, void *closure);

static void
copy_message(py_request *request)
{
    size_t head =
        offsetof(fb_request, headers) + request->req->n_headers * sizeof(fb_header);
    size_t extent = extent_of(request->req);
    char *own = PyMem_Malloc(head + extent);
    if (own != NULL) {
        fb_request_copy((fb_request *)(void *)own, request->req);
        memcpy(own + head, request->data, extent);
    }
    request->file = request->slot->file;
    request->slot->file = -1;
    request->own = own;
    request->req = (const fb_request *)(void *)own;
    request->data = own != NULL ? own + head : NULL;
    request->slot = NULL;
}

bool
py_request_part(py_request *request)
{
    if (py_is_ours_alone((PyObject *)request)) {
        forget_values(request);
        request->slot = NULL;
        request->req = NULL;
        return true;
    }
    /* The client's address is the slot's: ask while there is one. */
    PyObject *client = get_client((PyObject *)request, NULL);
    if (client == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(client);
    Py_BEGIN_CRITICAL_SECTION(request);
    copy_message(request);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(request);
    return false;
}

static void
request_dealloc(PyObject *self)
{
    py_request *request = (py_request *)self;
    PyTypeObject *type = Py_TYPE(self);
    forget_values(request);
    PyMem_Free(request->own);
    if (request->file >= 0) {
        close(request->file);
    }
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(self);
    Py_DECREF(type);
}

/* ---- values ---------------------------------------------------------------------- */

static const char *
bytes_of(const py_request *request, fb_span span)
{
    return request->data + span.off;
}

/* The parser lets nothing but ASCII into a target. */
static PyObject *
make_text(const py_request *request, fb_span span)
{
    return PyUnicode_DecodeLatin1(bytes_of(request, span), (Py_ssize_t)span.len, NULL);
}

static PyObject *
make_path(const py_request *request)
{
    fb_span span = request->req->path;
    const char *bytes = bytes_of(request, span);
    if (span.len == 0) {
        return PyUnicode_FromString("/"); /* "http://host": RFC 9112 3.2.1 */
    }
    if (memchr(bytes, '%', span.len) == NULL) {
        return make_text(request, span);
    }
    char *decoded = PyMem_Malloc(span.len);
    if (decoded == NULL) {
        return PyErr_NoMemory();
    }
    size_t len = fb_percent_decode(decoded, bytes, span.len);
    PyObject *path = PyUnicode_DecodeUTF8(decoded, (Py_ssize_t)len, "replace");
    PyMem_Free(decoded);
    return path;
}

static PyObject *
make_target(const py_request *request)
{
    return make_text(request, request->req->target);
}

static PyObject *
make_query_string(const py_request *request)
{
    return make_text(request, request->req->query);
}

static PyObject *
make_spooled_body(const py_request *request)
{
    int file = request->slot != NULL ? request->slot->file : request->file;
    if (file < 0) {
        PyErr_SetString(PyExc_RuntimeError, "the body was given to wsgi.input");
        return NULL;
    }
    return py_input_read_file(file, 0, request->req->n_spooled);
}

static PyObject *
make_body(const py_request *request)
{
    if (request->req->n_spooled > 0) {
        return make_spooled_body(request);
    }
    fb_span span = request->req->body;
    return PyBytes_FromStringAndSize(span.len > 0 ? bytes_of(request, span) : "",
                                     (Py_ssize_t)span.len);
}

static PyObject *
make_client(const py_request *request)
{
    char host[FB_ADDRESS_TEXT_BYTES];
    const fb_slot *slot = request->slot;
    if (slot == NULL || slot->client.family == FB_FAMILY_NONE) {
        return Py_NewRef(Py_None);
    }
    fb_address_write(&slot->client, host);
    return Py_BuildValue("(si)", host, (int)slot->client.port);
}

/* ---- getters --------------------------------------------------------------------- */

typedef PyObject *(*make_value)(const py_request *request);

/* A Request shows nothing when it is no slot's, and had no memory for a copy. */
static bool
shows_nothing(const py_request *request)
{
    if (request->req != NULL) {
        return false;
    }
    PyErr_SetString(PyExc_RuntimeError, "this Request is of no request");
    return true;
}

/* Returns the value in place, made now if it was not yet. */
static PyObject *
get_or_make(py_request *request, PyObject **place, make_value make)
{
    PyObject *value = NULL;
    Py_BEGIN_CRITICAL_SECTION(request);
    if (*place == NULL && !shows_nothing(request)) {
        value = make(request);
        /* Another thread may have been here while a file was read. */
        if (*place == NULL) {
            *place = Py_XNewRef(value);
        }
    } else {
        value = Py_XNewRef(*place);
    }
    Py_END_CRITICAL_SECTION();
    return value;
}

static PyObject *
get_target(PyObject *self, void *closure)
{
    (void)closure;
    py_request *request = (py_request *)self;
    return get_or_make(request, &request->target, make_target);
}

static PyObject *
get_path(PyObject *self, void *closure)
{
    (void)closure;
    py_request *request = (py_request *)self;
    return get_or_make(request, &request->path, make_path);
}

static PyObject *
get_query_string(PyObject *self, void *closure)
{
    (void)closure;
    py_request *request = (py_request *)self;
    return get_or_make(request, &request->query_string, make_query_string);
}

PyObject *
py_request_body(py_request *request)
{
    return get_or_make(request, &request->body, make_body);
}

static PyObject *
get_body(PyObject *self, void *closure)
{
    (void)closure;
    return py_request_body((py_request *)self);
}

static PyObject *
get_client(PyObject *self, void *closure)
{
    (void)closure;
    py_request *request = (py_request *)self;
    return get_or_make(request, &request->client, make_client);
}

/* ---- JSON ------------------------------------------------------------------------ */

/* The digits of the least integers that have no 64 bits: 18446744073709551616 and
 * -9223372036854775809. */
#define LONG_POSITIVE 20
#define LONG_NEGATIVE 19

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Returns whether so many digits follow each other that they may be an integer of more
 * than 64 bits, which not all parsers read exactly. It looks at few bytes: one in 19 is
 * within such a run. */
static bool
has_long_run(const char *bytes, size_t len)
{
    for (size_t i = LONG_NEGATIVE - 1; i < len; i += LONG_NEGATIVE) {
        if (!is_digit(bytes[i])) {
            continue;
        }
        size_t from = i;
        while (from > 0 && is_digit(bytes[from - 1])) {
            from--;
        }
        size_t to = i + 1;
        while (to < len && is_digit(bytes[to])) {
            to++;
        }
        bool is_negative = from > 0 && bytes[from - 1] == '-';
        if (to - from >= (is_negative ? LONG_NEGATIVE : LONG_POSITIVE)) {
            return true;
        }
    }
    return false;
}

/* What of a request is no span. */
typedef struct traits {
    int method;
    int minor;
    bool is_https;
} traits;

/* Returns 0, or -1 with an exception set. */
static int
read_traits(py_request *request, traits *to)
{
    int error = -1;
    Py_BEGIN_CRITICAL_SECTION(request);
    if (!shows_nothing(request)) {
        const fb_request *req = request->req;
        *to = (traits){req->method, req->minor, req->is_https};
        error = 0;
    }
    Py_END_CRITICAL_SECTION();
    return error;
}

static PyObject *
get_method(PyObject *self, void *closure)
{
    (void)closure;
    traits of_request;
    if (read_traits((py_request *)self, &of_request) < 0) {
        return NULL;
    }
    const py_state *state = py_state_of_type(Py_TYPE(self));
    return Py_XNewRef(PyTuple_GetItem(state->names, of_request.method));
}

static PyObject *
get_http_version(PyObject *self, void *closure)
{
    (void)closure;
    traits of_request;
    if (read_traits((py_request *)self, &of_request) < 0) {
        return NULL;
    }
    const py_state *state = py_state_of_type(Py_TYPE(self));
    return Py_NewRef(of_request.minor == 0 ? state->version_10 : state->version_11);
}

static PyObject *
get_scheme(PyObject *self, void *closure)
{
    (void)closure;
    traits of_request;
    if (read_traits((py_request *)self, &of_request) < 0) {
        return NULL;
    }
    const py_state *state = py_state_of_type(Py_TYPE(self));
    return Py_NewRef(of_request.is_https ? state->https : state->http);
}

static PyObject *
get_headers(PyObject *self, void *closure)
{
    (void)closure;
    return py_headers_new(py_state_of_type(Py_TYPE(self)), (py_request *)self);
}

static PyObject *
get_query(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *query = NULL;
    PyObject *text = get_query_string(self, NULL);
    if (text != NULL) {
        /* parse_qs(text, keep_blank_values=True) */
        query = PyObject_CallFunctionObjArgs(py_state_of_type(Py_TYPE(self))->parse_qs,
                                             text, Py_True, NULL);
        Py_DECREF(text);
    }
    return query;
}

PyObject *
py_request_parse(const py_state *state, PyObject *body)
{
    const char *bytes = PyBytes_AsString(body);
    bool is_exact = has_long_run(bytes, (size_t)PyBytes_Size(body));
    PyObject *loads = is_exact ? state->json_exactly : state->json_loads;
    return PyObject_CallOneArg(loads, body);
}

static PyObject *
request_json(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *value = NULL;
    PyObject *body = get_body(self, NULL);
    if (body != NULL) {
        value = py_request_parse(py_state_of_type(Py_TYPE(self)), body);
        Py_DECREF(body);
    }
    return value;
}

static PyObject *
request_repr(PyObject *self)
{
    PyObject *repr = NULL;
    PyObject *method = get_method(self, NULL);
    PyObject *target = method != NULL ? get_target(self, NULL) : NULL;
    if (target != NULL) {
        repr = PyUnicode_FromFormat("<Request %U %U>", method, target);
    }
    Py_XDECREF(method);
    Py_XDECREF(target);
    return repr;
}

/* ---- the type -------------------------------------------------------------------- */

static PyGetSetDef request_getset[] = {
    {"method", get_method, NULL, PyDoc_STR("The method, in upper case: str."), NULL},
    {"target", get_target, NULL,
     PyDoc_STR("The request-target as it was sent, RFC 9112 section 3.2: str."), NULL},
    {"path", get_path, NULL,
     PyDoc_STR("The target's path, percent-decoded; bytes that are no UTF-8 read as "
               "U+FFFD: str."),
     NULL},
    {"query_string", get_query_string, NULL,
     PyDoc_STR("What follows the target's first '?', still percent-encoded: str."),
     NULL},
    {"query", get_query, NULL,
     PyDoc_STR(
         "query_string as urllib.parse.parse_qs reads it, blank values kept: a new "
         "dict of str to list of str at every read."),
     NULL},
    {"http_version", get_http_version, NULL, PyDoc_STR("'1.0' or '1.1': str."), NULL},
    {"headers", get_headers, NULL, PyDoc_STR("The header fields: Headers."), NULL},
    {"body", get_body, NULL, PyDoc_STR("The body, decoded of any chunking: bytes."),
     NULL},
    {"client", get_client, NULL,
     PyDoc_STR(
         "The client's address: (host, port), or None on a unix socket. Behind a "
         "trusted proxy it is what the proxy says; the port is 0 if it says none."),
     NULL},
    {"scheme", get_scheme, NULL,
     PyDoc_STR("'http', or 'https' if a trusted proxy says so: str."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef request_methods[] = {
    {"json", request_json, METH_NOARGS,
     PyDoc_STR(
         "json()\n--\n\nThe body, as json.loads reads it; by orjson or msgspec where "
         "one is installed.\n\nRaises:\n    ValueError: it is no JSON, or is nested "
         "too "
         "deeply.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR(
         "One HTTP request. Every attribute is computed when it is first "
         "read.\n\nIt may be kept for as long as the handler's code likes.")},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_repr, request_repr},
    {Py_tp_getset, request_getset},
    {Py_tp_methods, request_methods},
    {0, NULL},
};

/* No garbage collection: a Request refers to str, bytes and tuple alone. No weak
 * references: with one, a thread could come by a Request that is being reused. */
PyType_Spec py_request_spec = {
    .name = "fastbatch.Request",
    .basicsize = sizeof(py_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};
