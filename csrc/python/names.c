/* SPDX-License-Identifier: MIT */
/*
 * The table of CGI names. A name is folded into its CGI form on the stack, hashed on
 * the way, and compared with what stands in its place.
 */
#include "python/names.h"

#include "python/text.h"

#define PREFIX "HTTP_"
#define PREFIX_LEN 5

/* Bytes: a longer name, with its prefix, or a longer value, is not kept. Those that
 * clients repeat are shorter. */
#define NAME_BYTES 64
#define VALUE_BYTES 512

static char
cgi_char(char c)
{
    if (c == '-') {
        return '_';
    }
    return c >= 'a' && c <= 'z' ? (char)(c - ('a' - 'A')) : c;
}

/* Write the CGI form to to, which has room for it. Returns its hash (FNV-1a). */
static uint32_t
fold(char *to, const char *name, size_t len)
{
    uint32_t hash = 2166136261U;
    memcpy(to, PREFIX, PREFIX_LEN);
    for (size_t i = 0; i < len; i++) {
        char c = cgi_char(name[i]);
        to[PREFIX_LEN + i] = c;
        hash = (hash ^ (unsigned char)c) * 16777619U;
    }
    return hash ^ hash >> 16;
}

/* The two that have no prefix, RFC 3875 4.1.2 and 4.1.3. */
static bool
is_plain(const char *cgi, size_t len)
{
    return len == PREFIX_LEN + 12 && memcmp(cgi + PREFIX_LEN, "CONTENT_TYPE", 12) == 0;
}

/* Not interned: clients choose names, and an interned str may be there for ever. */
static PyObject *
make_key(const char *cgi, size_t len)
{
    size_t skip = is_plain(cgi, len) ? PREFIX_LEN : 0;
    return PyUnicode_DecodeASCII(cgi + skip, (Py_ssize_t)(len - skip), NULL);
}

static bool
is_text(PyObject *text, const char *bytes, size_t len)
{
    size_t text_len;
    const char *has = text != NULL ? py_text_latin1(text, &text_len) : NULL;
    return has != NULL && text_len == len && memcmp(has, bytes, len) == 0;
}

static PyObject *
make_long_key(const char *name, size_t len)
{
    char *cgi = PyMem_Malloc(PREFIX_LEN + len);
    if (cgi == NULL) {
        return PyErr_NoMemory();
    }
    fold(cgi, name, len);
    PyObject *key = PyUnicode_DecodeASCII(cgi, (Py_ssize_t)(PREFIX_LEN + len), NULL);
    PyMem_Free(cgi);
    return key;
}

PyObject *
py_names_key(py_names *names, const char *name, size_t len, py_name **item)
{
    char cgi[NAME_BYTES];
    *item = NULL;
    if (len > NAME_BYTES - PREFIX_LEN) {
        return make_long_key(name, len);
    }
    py_name *found = &names->items[fold(cgi, name, len) % PY_NAMES];
    size_t skip = is_plain(cgi, PREFIX_LEN + len) ? PREFIX_LEN : 0;
    if (!is_text(found->key, cgi + skip, PREFIX_LEN + len - skip)) {
        PyObject *key = make_key(cgi, PREFIX_LEN + len);
        if (key == NULL) {
            return NULL;
        }
        Py_XSETREF(found->key, key);
        Py_CLEAR(found->value);
        found->keeps_value = false;
    }
    *item = found;
    return Py_NewRef(found->key);
}

/* Put in an interned name. Returns its item, or NULL with an exception set. */
static py_name *
put_name(py_names *names, const char *name)
{
    py_name *item;
    PyObject *key = py_names_key(names, name, strlen(name), &item);
    if (key == NULL) {
        return NULL;
    }
    PyUnicode_InternInPlace(&key);
    Py_XSETREF(item->key, key);
    return item;
}

int
py_names_init(py_names *names)
{
    /* Whose values clients repeat, and which are not credentials: those are not to lie
     * in memory for longer than they have to. */
    static const char *const kept[] = {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-type",
        "cache-control",
        "origin",
        "x-forwarded-proto",
        "x-forwarded-host",
    };
    static const char *const others[] = {
        "cookie",    "authorization",   "referer",
        "range",     "if-none-match",   "if-modified-since",
        "x-real-ip", "x-forwarded-for", "x-requested-with",
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (put_name(names, others[i]) == NULL) {
            return -1;
        }
    }
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        py_name *item = put_name(names, kept[i]);
        if (item == NULL) {
            return -1;
        }
        item->keeps_value = true;
    }
    return 0;
}

PyObject *
py_names_value(py_name *item, const char *value, size_t len)
{
    if (item != NULL && is_text(item->value, value, len)) {
        return Py_NewRef(item->value);
    }
    PyObject *text = PyUnicode_DecodeLatin1(value, (Py_ssize_t)len, NULL);
    if (text != NULL && item != NULL && item->keeps_value && len <= VALUE_BYTES) {
        Py_XSETREF(item->value, Py_NewRef(text));
    }
    return text;
}

void
py_names_clear(py_names *names)
{
    for (size_t i = 0; i < PY_NAMES; i++) {
        Py_CLEAR(names->items[i].key);
        Py_CLEAR(names->items[i].value);
    }
}
