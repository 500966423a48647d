/* SPDX-License-Identifier: MIT */
/*
 * Reading and judging the fields of a reply, and how the end of its body is told.
 */
#include "python/head.h"

#include "python/text.h"

#include <stddef.h>

void
py_head_init(py_head *head)
{
    memset(head, 0, offsetof(py_head, inline_fields));
    head->status = 200;
    head->fields = head->inline_fields;
    head->kept = head->inline_kept;
}

void
py_head_move(py_head *to, py_head *from)
{
    memcpy(to, from, offsetof(py_head, inline_fields));
    if (from->fields == from->inline_fields) {
        to->fields = to->inline_fields;
        memcpy(to->fields, from->fields, from->n_fields * sizeof(*to->fields));
    }
    if (from->kept == from->inline_kept) {
        to->kept = to->inline_kept;
        memcpy(to->kept, from->kept, from->n_kept * sizeof(*to->kept));
    }
    py_head_init(from);
}

void
py_head_reset(py_head *head)
{
    if (head->n_kept == 0 && head->kept == head->inline_kept) {
        py_head_init(head);
        return;
    }
    py_head old; /* letting go of an object may run code that looks at head */
    py_head_move(&old, head);
    for (size_t i = 0; i < old.n_kept; i++) {
        Py_DECREF(old.kept[i]);
    }
    if (old.kept != old.inline_kept) {
        PyMem_Free(old.kept);
    }
    if (old.fields != old.inline_fields) {
        PyMem_Free(old.fields);
    }
}

int
py_head_reserve(py_head *head, size_t n)
{
    if (n <= PY_HEAD_FIELDS) {
        return 0;
    }
    fb_field *fields = PyMem_Calloc(n, sizeof(*fields));
    PyObject **kept = PyMem_Calloc(2 * n + 1, sizeof(PyObject *));
    if (fields == NULL || kept == NULL) {
        PyMem_Free(fields);
        PyMem_Free(kept);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(kept, head->kept, head->n_kept * sizeof(*kept));
    head->fields = fields;
    head->kept = kept;
    return 0;
}

void
py_head_keep(py_head *head, PyObject *object)
{
    head->kept[head->n_kept++] = Py_NewRef(object);
}

int
py_head_traverse(const py_head *head, visitproc visit, void *arg)
{
    for (size_t i = 0; i < head->n_kept; i++) {
        Py_VISIT(head->kept[i]);
    }
    return 0;
}

/* ---- judging --------------------------------------------------------------------- */

static bool
is_name(const fb_field *field, const char *lower)
{
    return py_text_is(field->name, field->name_len, lower);
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
    return field->value_len > 0 && *length < PY_LENGTH_UNKNOWN;
}

static int
take_length(const py_state *state, py_head *head, const fb_field *field)
{
    uint64_t length;
    if (!read_length(field, &length) || (head->has_length && head->length != length)) {
        PyErr_SetString(state->reply_error, "Content-Length is not one number");
        return -1;
    }
    head->has_length = true;
    head->length = length;
    return 0;
}

static int
take_connection(const py_state *state, py_head *head, const fb_field *field)
{
    if (py_text_is(field->value, field->value_len, "close")) {
        head->wants_close = true;
        return 0;
    }
    PyErr_SetString(state->reply_error,
                    "of the values of Connection a handler may give 'close' alone");
    return -1;
}

/* The lengths of the names below, as bits: most fields have another. */
#define SERVERS_LENGTHS                                                                \
    (1U << 2 | 1U << 7 | 1U << 8 | 1U << 10 | 1U << 16 | 1U << 17 | 1U << 18 | 1U << 19)

/* Returns whether the field is of the connection, and so the server's alone. */
static bool
is_servers(const fb_field *field, py_author author)
{
    if (field->name_len > 19 || (SERVERS_LENGTHS >> field->name_len & 1) == 0) {
        return false;
    }
    static const char *const always[] = {
        "transfer-encoding", "keep-alive", "upgrade",
        "trailer",           "te",         "proxy-connection",
    };
    static const char *const hop_by_hop[] = {
        "connection",
        "proxy-authenticate",
        "proxy-authorization",
        "trailers",
    };
    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++) {
        if (is_name(field, always[i])) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof(hop_by_hop) / sizeof(hop_by_hop[0]); i++) {
        if (author == PY_AUTHOR_APPLICATION && is_name(field, hop_by_hop[i])) {
            return true;
        }
    }
    return false;
}

/* Returns 1 when field is to be sent, 0 when it was taken care of, -1 with an exception
 * set. */
static int
judge_field(const py_state *state, py_head *head, py_author author,
            const fb_field *field)
{
    if (is_name(field, "content-length")) {
        return take_length(state, head, field);
    }
    if (author == PY_AUTHOR_HANDLER && is_name(field, "connection")) {
        return take_connection(state, head, field);
    }
    if (is_servers(field, author)) {
        PyErr_Format(state->reply_error, "the header %.20s is the server's to send",
                     field->name);
        return -1;
    }
    head->has_type = head->has_type || is_name(field, "content-type");
    head->has_date = head->has_date || is_name(field, "date");
    head->has_server = head->has_server || is_name(field, "server");
    return 1;
}

/* ---- adding ---------------------------------------------------------------------- */

/* Returns the bytes of a name or a value, which are text's own; or NULL with an
 * exception set. */
static const char *
bytes_of(const py_state *state, py_author author, PyObject *text, size_t *len)
{
    if (PyUnicode_Check(text)) {
        const char *bytes = py_text_latin1(text, len);
        if (bytes == NULL) {
            py_raise_reply_error(state, "the header name or value %U is not latin-1",
                                 text);
        }
        return bytes;
    }
    if (author == PY_AUTHOR_HANDLER && PyBytes_Check(text)) {
        *len = (size_t)PyBytes_Size(text);
        return PyBytes_AsString(text);
    }
    py_raise_reply_error(state,
                         author == PY_AUTHOR_HANDLER
                             ? "the header name or value %U is not str or bytes"
                             : "the header name or value %U is not str",
                         text);
    return NULL;
}

int
py_head_add(const py_state *state, py_head *head, py_author author, PyObject *name,
            PyObject *value)
{
    fb_field field;
    field.name = bytes_of(state, author, name, &field.name_len);
    if (field.name == NULL) {
        return -1;
    }
    field.value = bytes_of(state, author, value, &field.value_len);
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
    int verdict = judge_field(state, head, author, &field);
    if (verdict == 1) {
        head->fields[head->n_fields++] = field;
        py_head_keep(head, name);
        py_head_keep(head, value);
    }
    return verdict < 0 ? -1 : 0;
}

/* ---- framing --------------------------------------------------------------------- */

static int
check_length(const py_state *state, const py_head *head, uint64_t len)
{
    if (len == head->length) {
        return 0;
    }
    PyErr_Format(state->reply_error,
                 "Content-Length is %llu, but the body has %llu bytes",
                 (unsigned long long)head->length, (unsigned long long)len);
    return -1;
}

static int
set_framing(const py_state *state, const py_head *head, bool sends_body, uint64_t len,
            fb_head *made)
{
    if (head->status == 204 || (head->status == 304 && !head->has_length)) {
        made->framing = FB_FRAMING_NONE;
        return 0;
    }
    made->framing = FB_FRAMING_LENGTH;
    if (head->status == 205) {
        made->length = 0;
        return 0;
    }
    if (head->has_length) {
        made->length = head->length;
        bool is_checked = len != PY_LENGTH_UNKNOWN && (sends_body || len > 0);
        return is_checked ? check_length(state, head, len) : 0;
    }
    made->length = len;
    if (len == PY_LENGTH_UNKNOWN) {
        bool is_chunked = !made->is_http10 && sends_body;
        made->framing = is_chunked ? FB_FRAMING_CHUNKED : FB_FRAMING_NONE;
        /* On 1.0 the end of the connection is the end of the body, RFC 9112 6.3. */
        made->keep_alive = made->keep_alive && (is_chunked || !sends_body);
    }
    return 0;
}

int
py_head_make(const py_state *state, const py_head *head, const py_asked *asked,
             uint64_t len, fb_head *made)
{
    *made = (fb_head){
        .status = head->status,
        .reason = head->reason,
        .reason_len = head->reason_len,
        .fields = head->fields,
        .n_fields = head->n_fields,
        .is_http10 = asked->is_http10,
        .keep_alive = asked->keep_alive && !head->wants_close,
        .has_date = head->has_date,
        .has_server = head->has_server,
    };
    return set_framing(state, head, py_head_sends_body(head, asked), len, made);
}
