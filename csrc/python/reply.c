/* SPDX-License-Identifier: MIT */
/*
 * Reading a reply, checking it, and writing it into its connection's output.
 *
 * Everything that can be wrong is found before the first byte is written, so that a bad
 * reply leaves no trace on the wire.
 */
#include "python/reply.h"

#include "core/status.h"
#include "python/body.h"

#include <stddef.h>

#define N_FIELDS_INLINE 16 /* fields without taking memory */

/* A reply while it is read. init makes an empty one; fini releases what it holds. */
typedef struct reply {
    int status;
    const char *data; /* the body's bytes; not for a stream */
    size_t len;
    Py_buffer view;           /* holds data, when view.obj is set */
    PyObject *text;           /* a str that holds data, borrowed, or NULL */
    PyObject *iterator;       /* of a stream */
    PyObject *first;          /* its first item, or NULL when it gave none */
    bool is_given;            /* iterator is the connection's to close */
    const char *content_type; /* by the body's type; NULL: the fields have it */
    fb_field *fields;
    size_t n_fields;
    PyObject *kept;  /* a list of what fields points into, or NULL */
    bool has_length; /* the handler's fields hold Content-Length */
    uint64_t length; /* that length */
    bool has_date;
    bool has_server;
    bool wants_close;                        /* they hold Connection: close */
    fb_field inline_fields[N_FIELDS_INLINE]; /* last: not zeroed */
} reply;

static void
init_reply(reply *r)
{
    memset(r, 0, offsetof(reply, inline_fields));
    r->fields = r->inline_fields;
    r->status = 200;
}

static void
fini_reply(reply *r)
{
    if (r->view.obj != NULL) {
        PyBuffer_Release(&r->view);
    }
    Py_XDECREF(r->iterator);
    Py_XDECREF(r->first);
    Py_XDECREF(r->kept);
    if (r->fields != r->inline_fields) {
        PyMem_Free(r->fields);
    }
}

/* ---- fields ---------------------------------------------------------------------- */

/* Returns the bytes of a name or a value, kept alive by r; or NULL with an exception.
 * */
static const char *
field_bytes(const py_state *state, reply *r, PyObject *text, size_t *len)
{
    PyObject *bytes = NULL;
    if (PyUnicode_Check(text)) {
        bytes = PyUnicode_AsLatin1String(text);
        if (bytes == NULL) {
            PyErr_Clear();
            py_raise_reply_error(state, "the header name or value %U is not latin-1",
                                 text);
            return NULL;
        }
    } else if (PyBytes_Check(text)) {
        bytes = Py_NewRef(text);
    } else {
        py_raise_reply_error(state, "the header name or value %U is not str or bytes",
                             text);
        return NULL;
    }
    int error = PyList_Append(r->kept, bytes);
    const char *data = PyBytes_AsString(bytes);
    *len = (size_t)PyBytes_Size(bytes);
    Py_DECREF(bytes);
    return error < 0 ? NULL : data;
}

/* Returns whether the bytes are the text, which is in lower case, in any case. */
static bool
is_same(const char *bytes, size_t len, const char *lower)
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

static bool
is_name(const fb_field *field, const char *lower)
{
    return is_same(field->name, field->name_len, lower);
}

/* Content-Length as a number: digits alone, RFC 9110 8.6. */
static bool
read_length(const fb_field *field, uint64_t *length)
{
    *length = 0;
    for (size_t i = 0; i < field->value_len; i++) {
        char c = field->value[i];
        if (c < '0' || c > '9' || *length > (UINT64_MAX - 9) / 10) {
            return false;
        }
        *length = *length * 10 + (uint64_t)(c - '0');
    }
    return field->value_len > 0;
}

static int
take_length(const py_state *state, reply *r, const fb_field *field)
{
    uint64_t length;
    if (!read_length(field, &length) || (r->has_length && r->length != length)) {
        PyErr_SetString(state->reply_error, "Content-Length is not one number");
        return -1;
    }
    r->has_length = true;
    r->length = length;
    return 0;
}

static int
take_connection(const py_state *state, reply *r, const fb_field *field)
{
    if (is_same(field->value, field->value_len, "close")) {
        r->wants_close = true;
        return 0;
    }
    PyErr_SetString(state->reply_error,
                    "of the values of Connection a handler may give 'close' alone");
    return -1;
}

/* Fields of the connection are the server's to write. Returns 1 when field is to be
 * sent, 0 when it was taken care of, -1 with an exception set. */
static int
judge_field(const py_state *state, reply *r, const fb_field *field)
{
    switch (field->name_len) {
    case 4:
        r->has_date = r->has_date || is_name(field, "date");
        return 1;
    case 6:
        r->has_server = r->has_server || is_name(field, "server");
        return 1;
    case 10:
        if (is_name(field, "connection")) {
            return take_connection(state, r, field);
        }
        break;
    case 12:
        if (is_name(field, "content-type")) {
            r->content_type = NULL;
        }
        return 1;
    case 14:
        return is_name(field, "content-length") ? take_length(state, r, field) : 1;
    default:
        break;
    }
    if (is_name(field, "transfer-encoding") || is_name(field, "keep-alive") ||
        is_name(field, "upgrade") || is_name(field, "trailer")) {
        PyErr_Format(state->reply_error, "the header %.20s is the server's to send",
                     field->name);
        return -1;
    }
    return 1;
}

static int
read_field(const py_state *state, reply *r, PyObject *name, PyObject *value)
{
    fb_field field;
    field.name = field_bytes(state, r, name, &field.name_len);
    if (field.name == NULL) {
        return -1;
    }
    field.value = field_bytes(state, r, value, &field.value_len);
    if (field.value == NULL) {
        return -1;
    }
    if (!fb_field_name_is_valid(field.name, field.name_len)) {
        py_raise_reply_error(state, "%U is no header name", name);
        return -1;
    }
    if (!fb_field_value_is_valid(field.value, field.value_len)) {
        py_raise_reply_error(state, "the header value %U holds a control character",
                             value);
        return -1;
    }
    int verdict = judge_field(state, r, &field);
    if (verdict == 1) {
        r->fields[r->n_fields++] = field;
    }
    return verdict < 0 ? -1 : 0;
}

static int
read_pair(const py_state *state, reply *r, PyObject *item)
{
    /* A snapshot: the handler's own list may change under us. */
    PyObject *pair = PyTuple_Check(item) ? Py_NewRef(item) : NULL;
    if (pair == NULL && PyList_Check(item)) {
        pair = PyList_AsTuple(item);
    }
    if (pair == NULL || PyTuple_Size(pair) != 2) {
        Py_XDECREF(pair);
        PyErr_Clear();
        py_raise_reply_error(state, "%U is no pair of header name and value", item);
        return -1;
    }
    int error =
        read_field(state, r, PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1));
    Py_DECREF(pair);
    return error;
}

static bool
make_field_room(reply *r, size_t n)
{
    r->kept = PyList_New(0);
    if (n > N_FIELDS_INLINE) {
        r->fields = PyMem_Calloc(n, sizeof(fb_field));
        if (r->fields == NULL) {
            r->fields = r->inline_fields;
            PyErr_NoMemory();
            return false;
        }
    }
    return r->kept != NULL;
}

/* Asked beforehand, so that what an __iter__ raises is not taken for the answer. */
static bool
is_iterable(PyObject *object)
{
    return PyType_GetSlot(Py_TYPE(object), Py_tp_iter) != NULL ||
           PySequence_Check(object);
}

/* Returns the fields as a new list or tuple of ours, or NULL with an exception set. */
static PyObject *
snapshot_of(const py_state *state, PyObject *headers)
{
    if (PyDict_Check(headers) || PyObject_HasAttrString(headers, "items")) {
        return PyMapping_Items(headers);
    }
    if (!PyUnicode_Check(headers) && !PyBytes_Check(headers) && is_iterable(headers)) {
        return PySequence_Tuple(headers);
    }
    py_raise_reply_error(
        state, "headers %U are neither a mapping nor pairs of name and value", headers);
    return NULL;
}

static int
read_headers(const py_state *state, reply *r, PyObject *headers)
{
    if (headers == Py_None) {
        return 0;
    }
    PyObject *snapshot = snapshot_of(state, headers);
    PyObject *items = snapshot != NULL ? PySequence_Tuple(snapshot) : NULL;
    Py_XDECREF(snapshot);
    if (items == NULL) {
        return -1;
    }
    Py_ssize_t n = PyTuple_Size(items);
    int error = make_field_room(r, (size_t)n) ? 0 : -1;
    for (Py_ssize_t i = 0; error == 0 && i < n; i++) {
        error = read_pair(state, r, PyTuple_GetItem(items, i));
    }
    Py_DECREF(items);
    return error;
}

/* ---- bodies ---------------------------------------------------------------------- */

static int
read_text(const py_state *state, reply *r, PyObject *text)
{
    Py_ssize_t len;
    r->data = PyUnicode_AsUTF8AndSize(text, &len);
    if (r->data == NULL) {
        PyErr_Clear();
        PyErr_SetString(state->reply_error,
                        "a text body holds lone surrogates, which UTF-8 cannot encode");
        return -1;
    }
    r->len = (size_t)len;
    r->text = text;
    r->content_type = "text/plain; charset=utf-8";
    return 0;
}

static int
read_buffer(const py_state *state, reply *r, PyObject *body)
{
    if (PyObject_GetBuffer(body, &r->view, PyBUF_SIMPLE) < 0) {
        r->view.obj = NULL;
        if (!PyErr_ExceptionMatches(PyExc_BufferError)) {
            return -1; /* raised by its own __buffer__ */
        }
        PyErr_Clear();
        py_raise_reply_error(state, "the body %U is not contiguous bytes", body);
        return -1;
    }
    r->data = r->view.buf;
    r->len = (size_t)r->view.len;
    r->content_type = "application/octet-stream";
    return 0;
}

/* The first item is asked for now: what a generator raises before it is a plain 500. */
static int
read_stream(const py_state *state, reply *r, PyObject *body)
{
    if (!is_iterable(body)) {
        py_raise_reply_error(state, "%U is no body", body);
        return -1;
    }
    r->iterator = PyObject_GetIter(body);
    if (r->iterator == NULL) {
        return -1;
    }
    r->content_type = "application/octet-stream";
    r->first = PyIter_Next(r->iterator);
    if (r->first == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyObject_CheckBuffer(r->first)) {
        py_raise_reply_error(state, "a streamed body gave %U, which is not bytes-like",
                             r->first);
        return -1;
    }
    return 0;
}

static int
read_body(const py_state *state, reply *r, PyObject *body)
{
    if (body == Py_None) {
        return 0;
    }
    if (PyUnicode_Check(body)) {
        return read_text(state, r, body);
    }
    if (PyObject_CheckBuffer(body)) {
        return read_buffer(state, r, body);
    }
    if (PyMapping_Check(body) && !PySequence_Check(body)) {
        PyErr_SetString(state->reply_error,
                        "a mapping is no body: encode it, for example with json.dumps");
        return -1;
    }
    return read_stream(state, r, body);
}

static int
read_status(const py_state *state, reply *r, PyObject *status)
{
    long number = PyLong_Check(status) ? PyLong_AsLong(status) : -1;
    if (number < FB_STATUS_MIN || number > FB_STATUS_MAX) {
        PyErr_Clear();
        py_raise_reply_error(state, "the status %U is no integer from 200 to 599",
                             status);
        return -1;
    }
    r->status = (int)number;
    return 0;
}

static int
read_tuple(const py_state *state, reply *r, PyObject *tuple)
{
    Py_ssize_t n = PyTuple_Size(tuple);
    if (n != 2 && n != 3) {
        PyErr_Format(state->reply_error,
                     "a tuple of %zd is neither (status, body) nor "
                     "(status, headers, body)",
                     n);
        return -1;
    }
    if (read_status(state, r, PyTuple_GetItem(tuple, 0)) < 0 ||
        read_body(state, r, PyTuple_GetItem(tuple, n - 1)) < 0) {
        return -1;
    }
    return n == 3 ? read_headers(state, r, PyTuple_GetItem(tuple, 1)) : 0;
}

static int
read_reply(const py_state *state, reply *r, PyObject *value)
{
    if (PyUnicode_Check(value)) {
        return read_text(state, r, value);
    }
    if (value == Py_None) {
        r->status = 204;
        return 0;
    }
    if (PyTuple_Check(value)) {
        return read_tuple(state, r, value);
    }
    if (PyObject_CheckBuffer(value)) {
        return read_buffer(state, r, value);
    }
    py_raise_reply_error(state,
                         "%U is no reply: give str, bytes, None, (status, body) or "
                         "(status, headers, body)",
                         value);
    return -1;
}

/* ---- framing --------------------------------------------------------------------- */

static bool
is_stream(const reply *r)
{
    return r->first != NULL;
}

/* Returns whether body bytes follow the head. */
static bool
sends_body(const reply *r, const fb_slot *slot)
{
    return !slot->req.is_head && fb_status_has_body(r->status);
}

/* RFC 9112 6: how the end of the body is told. */
static int
set_framing(const py_state *state, const reply *r, const fb_slot *slot, fb_head *head)
{
    head->length = r->has_length ? r->length : r->len;
    if (r->status == 204 || (r->status == 304 && !r->has_length)) {
        head->framing = FB_FRAMING_NONE;
        return 0;
    }
    if (r->status == 205) {
        head->length = 0;
        head->framing = FB_FRAMING_LENGTH;
        return 0;
    }
    if (!is_stream(r) && r->has_length && r->length != r->len &&
        (sends_body(r, slot) || r->len > 0)) {
        PyErr_Format(state->reply_error,
                     "Content-Length is %llu, but the body has %zu bytes",
                     (unsigned long long)r->length, r->len);
        return -1;
    }
    head->framing = FB_FRAMING_LENGTH;
    if (is_stream(r) && !r->has_length) {
        bool is_chunked = !head->is_http10 && sends_body(r, slot);
        head->framing = is_chunked ? FB_FRAMING_CHUNKED : FB_FRAMING_NONE;
        /* On 1.0 the end of the connection is the end of the body, RFC 9112 6.3. */
        head->keep_alive = head->keep_alive && (is_chunked || !sends_body(r, slot));
    }
    return 0;
}

static int
make_head(py_server *server, const reply *r, const fb_slot *slot, fb_head *head)
{
    *head = (fb_head){
        .status = r->status,
        .content_type = fb_status_has_body(r->status) ? r->content_type : NULL,
        .fields = r->fields,
        .n_fields = r->n_fields,
        .is_http10 = slot->req.minor == 0,
        .keep_alive = !r->wants_close && fb_conn_keeps_alive(slot->owner, slot),
        .has_date = r->has_date,
        .has_server = r->has_server,
    };
    return set_framing(server->state, r, slot, head);
}

/* ---- writing --------------------------------------------------------------------- */

/* A body that outlives the dispatch: a stream, or long bytes. Returns 0, or -1 with an
 * exception set; *body is {0} when there is no need of one. */
static int
make_body(py_server *server, reply *r, const fb_slot *slot, const fb_head *head,
          fb_body *body)
{
    *body = (fb_body){0};
    if (!sends_body(r, slot)) {
        return 0;
    }
    if (is_stream(r)) {
        *body = py_body_stream(server, Py_NewRef(r->iterator), Py_NewRef(r->first),
                               head->framing, head->length);
        r->is_given = body->ops != NULL;
    } else if (r->len >= FB_ZERO_COPY_BYTES) {
        *body = py_body_in_place(server, &r->view, r->text, r->data, r->len);
    } else {
        return 0;
    }
    return body->ops != NULL ? 0 : -1;
}

/* Takes body. Returns false when there is no memory; then out is as it was, or has
 * failed and will send nothing more. */
static bool
write_reply(const fb_stamp *stamp, const reply *r, const fb_slot *slot,
            const fb_head *head, fb_body body, fb_out *out)
{
    size_t before = out->bytes.len;
    if (!fb_reply_head(&out->bytes, stamp, head)) {
        if (body.ops != NULL) {
            body.ops->release(body.owner);
        }
        return false;
    }
    if (body.ops != NULL) {
        return fb_out_add_body(out, body);
    }
    if (sends_body(r, slot) && !fb_buf_append(&out->bytes, r->data, r->len)) {
        out->bytes.len = before;
        return false;
    }
    return true;
}

/* Under the flusher's lock: nothing here may run Python code, or wait. */
static bool
put_reply(fb_server *server, fb_slot *slot, const reply *r, const fb_head *head,
          fb_body body)
{
    fb_out *out = fb_conn_out(slot->owner);
    if (out == NULL) {
        if (body.ops != NULL) {
            body.ops->release(body.owner);
        }
    } else if (!write_reply(&server->stamp, r, slot, head, body, out)) {
        return false;
    }
    fb_conn_answered(slot->owner, slot, head->keep_alive);
    return true;
}

static int
answer(py_server *server, fb_slot *slot, reply *r)
{
    fb_head head;
    fb_body body;
    if (make_head(server, r, slot, &head) < 0 ||
        make_body(server, r, slot, &head, &body) < 0) {
        return -1;
    }
    fb_flusher_lock(&server->server->flusher);
    bool ok = put_reply(server->server, slot, r, &head, body);
    fb_flusher_unlock(&server->server->flusher);
    if (!ok) {
        PyErr_NoMemory();
    }
    return ok ? 0 : -1;
}

/* An iterator that did not become a body is closed here: exactly once, whatever
 * happens. */
static void
close_unsent(py_server *server, const reply *r)
{
    if (r->iterator != NULL && !r->is_given) {
        PyObject *raised = PyErr_GetRaisedException();
        py_body_close_iterator(server, r->iterator);
        PyErr_SetRaisedException(raised);
    }
}

int
py_reply_answer(py_server *server, fb_slot *slot, PyObject *value)
{
    reply r;
    init_reply(&r);
    int error = read_reply(server->state, &r, value);
    if (error == 0) {
        error = answer(server, slot, &r);
    }
    close_unsent(server, &r);
    fini_reply(&r);
    return error;
}
