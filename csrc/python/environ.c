/* SPDX-License-Identifier: MIT */
/*
 * Making environ. The template has every key that all requests have, with its most
 * frequent value: a request sets what differs.
 */
#include "python/environ.h"

#include "core/target.h"
#include "io/conn.h"
#include "python/input.h"
#include "python/text.h"

#include <stdio.h>

static const char *const key_names[PY_N_KEYS] = {
    [PY_KEY_REQUEST_METHOD] = "REQUEST_METHOD",
    [PY_KEY_SERVER_PROTOCOL] = "SERVER_PROTOCOL",
    [PY_KEY_PATH_INFO] = "PATH_INFO",
    [PY_KEY_QUERY_STRING] = "QUERY_STRING",
    [PY_KEY_REQUEST_URI] = "REQUEST_URI",
    [PY_KEY_CONTENT_LENGTH] = "CONTENT_LENGTH",
    [PY_KEY_REMOTE_ADDR] = "REMOTE_ADDR",
    [PY_KEY_REMOTE_PORT] = "REMOTE_PORT",
    [PY_KEY_WSGI_INPUT] = "wsgi.input",
    [PY_KEY_WSGI_URL_SCHEME] = "wsgi.url_scheme",
};

/* ---- templates ------------------------------------------------------------------- */

static int
set_text(PyObject *dict, PyObject *key, const char *text)
{
    PyObject *value = PyUnicode_InternFromString(text);
    int error = value != NULL ? PyDict_SetItem(dict, key, value) : -1;
    Py_XDECREF(value);
    return error;
}

/* A copy of a dict has the room that the dict has, unless much of that is wasted. With
 * a few more keys there for a while there is room for the fields of a request, too, and
 * its environ need not grow. Keys of str, as they are quicker to look up. */
static int
make_room(PyObject *dict)
{
    static const char *const more[] = {"room.1", "room.2", "room.3", "room.4"};
    int error = 0;
    for (size_t i = 0; error == 0 && i < sizeof(more) / sizeof(more[0]); i++) {
        error = PyDict_SetItemString(dict, more[i], Py_None);
    }
    for (size_t i = 0; error == 0 && i < sizeof(more) / sizeof(more[0]); i++) {
        error = PyDict_DelItemString(dict, more[i]);
    }
    return error;
}

/* Returns a new template, what is given with the most frequent values; or NULL with an
 * exception set. */
static PyObject *
make_template(const py_environ *environ, PyObject *given, PyObject *input)
{
    PyObject *dict = PyDict_New();
    PyObject *const *keys = environ->keys;
    if (dict == NULL || PyDict_Update(dict, given) < 0 ||
        set_text(dict, keys[PY_KEY_REQUEST_METHOD], "GET") < 0 ||
        set_text(dict, keys[PY_KEY_SERVER_PROTOCOL], "HTTP/1.1") < 0 ||
        set_text(dict, keys[PY_KEY_PATH_INFO], "/") < 0 ||
        set_text(dict, keys[PY_KEY_QUERY_STRING], "") < 0 ||
        set_text(dict, keys[PY_KEY_REQUEST_URI], "/") < 0 ||
        set_text(dict, keys[PY_KEY_REMOTE_ADDR], "") < 0 ||
        PyDict_SetItem(dict, keys[PY_KEY_WSGI_INPUT], input) < 0 ||
        make_room(dict) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
make_templates(const py_environ *environ, PyObject *given, PyObject *input)
{
    Py_ssize_t n = PyTuple_Size(given);
    PyObject *templates = PyTuple_New(n);
    for (Py_ssize_t i = 0; templates != NULL && i < n; i++) {
        PyObject *dict = make_template(environ, PyTuple_GetItem(given, i), input);
        if (dict == NULL || PyTuple_SetItem(templates, i, dict) < 0) {
            Py_CLEAR(templates);
        }
    }
    return templates;
}

int
py_environ_init(py_environ *environ, PyObject *templates, const char *root_path,
                PyObject *input)
{
    for (size_t i = 0; i < PY_N_KEYS; i++) {
        environ->keys[i] = PyUnicode_InternFromString(key_names[i]);
        if (environ->keys[i] == NULL) {
            return -1;
        }
    }
    if ((environ->get = PyUnicode_InternFromString("GET")) == NULL ||
        (environ->slash = PyUnicode_InternFromString("/")) == NULL ||
        (environ->http_10 = PyUnicode_InternFromString("HTTP/1.0")) == NULL ||
        (environ->root_path = PyBytes_FromString(root_path)) == NULL ||
        py_names_init(&environ->names) < 0 ||
        (environ->templates = make_templates(environ, templates, input)) == NULL) {
        return -1;
    }
    return 0;
}

void
py_environ_clear(py_environ *environ)
{
    Py_CLEAR(environ->templates);
    Py_CLEAR(environ->root_path);
    for (size_t i = 0; i < PY_N_KEYS; i++) {
        Py_CLEAR(environ->keys[i]);
    }
    Py_CLEAR(environ->get);
    Py_CLEAR(environ->slash);
    Py_CLEAR(environ->http_10);
    py_names_clear(&environ->names);
    py_peers_clear(&environ->peers);
}

int
py_environ_traverse(const py_environ *environ, visitproc visit, void *arg)
{
    Py_VISIT(environ->templates);
    return 0;
}

/* ---- the target ------------------------------------------------------------------ */

/* Set key to a new reference, which it takes. */
static int
set_new(PyObject *dict, PyObject *key, PyObject *value)
{
    int error = value != NULL ? PyDict_SetItem(dict, key, value) : -1;
    Py_XDECREF(value);
    return error;
}

static PyObject *
make_latin1(const char *bytes, size_t len)
{
    return PyUnicode_DecodeLatin1(bytes, (Py_ssize_t)len, NULL);
}

/* Take root_path off a decoded path, if it begins with it. */
static size_t
skip_root(const py_environ *environ, const char *path, size_t len)
{
    size_t root_len = (size_t)PyBytes_Size(environ->root_path);
    if (root_len == 0 || len < root_len ||
        memcmp(path, PyBytes_AsString(environ->root_path), root_len) != 0) {
        return 0;
    }
    return len == root_len || path[root_len] == '/' ? root_len : 0;
}

/* PATH_INFO: the bytes of the decoded path as latin-1, PEP 3333 "Unicode Issues". */
static PyObject *
make_path_info(const py_environ *environ, const char *path, size_t len)
{
    if (len == 1 && path[0] == '*') {
        return make_latin1("", 0); /* OPTIONS *: it has no path */
    }
    if (memchr(path, '%', len) == NULL) {
        size_t skip = skip_root(environ, path, len);
        return make_latin1(path + skip, len - skip);
    }
    char *decoded = PyMem_Malloc(len);
    if (decoded == NULL) {
        return PyErr_NoMemory();
    }
    len = fb_percent_decode(decoded, path, len);
    size_t skip = skip_root(environ, decoded, len);
    PyObject *path_info = make_latin1(decoded + skip, len - skip);
    PyMem_Free(decoded);
    return path_info;
}

static int
set_target(const py_environ *environ, PyObject *dict, const fb_slot *slot)
{
    const fb_request *req = &slot->req;
    const char *target = slot->data + req->target.off;
    if (req->target.len == 1 && target[0] == '/') {
        return 0; /* as in the template; root_path cannot be "/" */
    }
    PyObject *const *keys = environ->keys;
    if (set_new(dict, keys[PY_KEY_REQUEST_URI], make_latin1(target, req->target.len)) <
            0 ||
        set_new(dict, keys[PY_KEY_PATH_INFO],
                make_path_info(environ, slot->data + req->path.off, req->path.len)) <
            0) {
        return -1;
    }
    if (req->query.len == 0) {
        return 0;
    }
    return set_new(dict, keys[PY_KEY_QUERY_STRING],
                   make_latin1(slot->data + req->query.off, req->query.len));
}

/* ---- the fields ------------------------------------------------------------------ */

/* A field that came before: one value, RFC 9110 5.3; cookies as RFC 6265 5.4 has them.
 */
static int
join_value(PyObject *dict, PyObject *key, PyObject *before, PyObject *value)
{
    bool is_cookie = PyUnicode_CompareWithASCIIString(key, "HTTP_COOKIE") == 0;
    return set_new(
        dict, key,
        PyUnicode_FromFormat(is_cookie ? "%U; %U" : "%U, %U", before, value));
}

/* Returns whether a field tells of the framing, which is done with: the body is there,
 * decoded, and CONTENT_LENGTH says how long it is. */
static bool
is_framing(const char *name, size_t len)
{
    return (len == 14 && py_text_is(name, len, "content-length")) ||
           (len == 17 && py_text_is(name, len, "transfer-encoding"));
}

static int
set_field(py_environ *environ, PyObject *dict, const fb_slot *slot,
          const fb_header *header)
{
    py_name *item;
    const char *name = slot->data + header->name.off;
    if (is_framing(name, header->name.len)) {
        return 0;
    }
    PyObject *value = NULL;
    PyObject *key = py_names_key(&environ->names, name, header->name.len, &item);
    if (key != NULL) {
        value = py_names_value(item, slot->data + header->value.off, header->value.len);
    }
    int error = -1;
    if (value != NULL) {
        PyObject *before = PyDict_GetItemWithError(dict, key);
        if (before != NULL) {
            error = join_value(dict, key, before, value);
        } else if (!PyErr_Occurred()) {
            error = PyDict_SetItem(dict, key, value);
        }
    }
    Py_XDECREF(value);
    Py_XDECREF(key);
    return error;
}

/* ---- the body -------------------------------------------------------------------- */

/* Returns whether the client said how the body ends: no CONTENT_LENGTH without. */
static bool
has_framing(const fb_slot *slot)
{
    for (size_t i = 0; i < slot->req.n_headers; i++) {
        const fb_header *header = &slot->req.headers[i];
        if (is_framing(slot->data + header->name.off, header->name.len)) {
            return true;
        }
    }
    return false;
}

static int
set_body(const py_environ *environ, const py_state *state, PyObject *dict,
         fb_slot *slot)
{
    PyObject *const *keys = environ->keys;
    uint64_t len = slot->req.n_spooled + slot->req.body.len;
    char digits[24];
    if (len > 0 || has_framing(slot)) {
        int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)len);
        if (set_new(dict, keys[PY_KEY_CONTENT_LENGTH], make_latin1(digits, (size_t)n)) <
            0) {
            return -1;
        }
    }
    if (len == 0) {
        return 0;
    }
    return set_new(dict, keys[PY_KEY_WSGI_INPUT], py_input_new(state, slot));
}

/* ---- the whole ------------------------------------------------------------------- */

static int
set_method(const py_environ *environ, const py_state *state, PyObject *dict,
           const fb_request *req)
{
    PyObject *const *keys = environ->keys;
    PyObject *method = PyTuple_GetItem(state->names, req->method);
    if (method == NULL ||
        (method != environ->get &&
         PyDict_SetItem(dict, keys[PY_KEY_REQUEST_METHOD], method) < 0)) {
        return -1;
    }
    return req->minor == 1
               ? 0
               : PyDict_SetItem(dict, keys[PY_KEY_SERVER_PROTOCOL], environ->http_10);
}

/* REMOTE_PORT is in neither RFC 3875 nor PEP 3333: without a port it is left out. */
static int
set_peer(py_environ *environ, const py_state *state, PyObject *dict,
         const fb_slot *slot)
{
    PyObject *const *keys = environ->keys;
    if (slot->req.is_https &&
        PyDict_SetItem(dict, keys[PY_KEY_WSGI_URL_SCHEME], state->https) < 0) {
        return -1;
    }
    const py_peer *peer = py_peers_find(&environ->peers, &slot->client);
    if (peer == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyDict_SetItem(dict, keys[PY_KEY_REMOTE_ADDR], peer->host) < 0) {
        return -1;
    }
    return peer->port != NULL
               ? PyDict_SetItem(dict, keys[PY_KEY_REMOTE_PORT], peer->port)
               : 0;
}

static int
set_request(py_environ *environ, const py_state *state, PyObject *dict, fb_slot *slot)
{
    if (set_method(environ, state, dict, &slot->req) < 0 ||
        set_target(environ, dict, slot) < 0 ||
        set_peer(environ, state, dict, slot) < 0) {
        return -1;
    }
    for (size_t i = 0; i < slot->req.n_headers; i++) {
        if (set_field(environ, dict, slot, &slot->req.headers[i]) < 0) {
            return -1;
        }
    }
    return set_body(environ, state, dict, slot);
}

PyObject *
py_environ_make(py_environ *environ, const py_state *state, fb_slot *slot)
{
    size_t listener = fb_conn_listener(slot->owner);
    PyObject *template = PyTuple_GetItem(environ->templates, (Py_ssize_t)listener);
    PyObject *dict = template != NULL ? PyDict_Copy(template) : NULL;
    if (dict != NULL && set_request(environ, state, dict, slot) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}
