/* SPDX-License-Identifier: MIT */
/*
 * Reading the rules and routes of queues. The Python layer says what is allowed; the
 * bounds here only keep C safe.
 */
#include "python/queues.h"

#include "core/status.h"

/* Returns 0, or -1 with an exception set. */
static int
read_number(PyObject *queue, const char *name, uint64_t least, uint64_t most,
            uint64_t *number)
{
    PyObject *value = PyMapping_GetItemString(queue, name);
    if (value == NULL) {
        return -1;
    }
    *number = PyLong_AsUnsignedLongLong(value);
    Py_DECREF(value);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (*number < least || *number > most) {
        PyErr_Format(PyExc_ValueError, "%s of a queue is out of its bounds", name);
        return -1;
    }
    return 0;
}

static int
read_rules(PyObject *queue, fb_queue_rules *rules)
{
    uint64_t is_whole, concurrency, batch_size, wait_us, deadline_ms, size, status;
    if (read_number(queue, "is_whole", 0, 1, &is_whole) < 0 ||
        read_number(queue, "concurrency", 1, FB_THREADS_BOUND, &concurrency) < 0 ||
        read_number(queue, "batch_size", 1, FB_BATCH_SLOTS, &batch_size) < 0 ||
        read_number(queue, "batch_wait_us", 0, FB_BATCH_WAIT_BOUND_US, &wait_us) < 0 ||
        read_number(queue, "deadline_ms", 0, FB_TIMEOUT_BOUND_MS, &deadline_ms) < 0 ||
        read_number(queue, "queue_size", 1, FB_QUEUE_SIZE_BOUND, &size) < 0 ||
        read_number(queue, "full_status", 400, FB_STATUS_MAX, &status) < 0) {
        return -1;
    }
    *rules = (fb_queue_rules){
        .is_whole = is_whole != 0,
        .concurrency = (size_t)concurrency,
        .batch_size = (size_t)batch_size,
        .batch_wait_ns = wait_us * 1000,
        .deadline_ns = deadline_ms * 1000 * 1000,
        .size = (size_t)size,
        .full_status = (int)status,
    };
    return 0;
}

/* ---- routes ---------------------------------------------------------------------- */

/* Returns room for one more, zeroed; NULL with an exception set. */
static fb_route *
add_route(py_queues *queues)
{
    size_t n = queues->n_routes + 1;
    fb_route *routes = PyMem_Realloc(queues->routes, n * sizeof(*routes));
    if (routes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    queues->routes = routes;
    queues->n_routes = n;
    routes[n - 1] = (fb_route){0};
    return &routes[n - 1];
}

/* Returns 0, or -1 with an exception set. */
static int
read_route(PyObject *pair, uint32_t queue, py_queues *queues)
{
    const char *method;
    PyObject *path;
    if (!PyTuple_Check(pair)) {
        PyErr_SetString(PyExc_TypeError, "a route is a tuple of method and path");
        return -1;
    }
    fb_route *route = add_route(queues);
    if (route == NULL || !PyArg_ParseTuple(pair, "sS:route", &method, &path) ||
        PyList_Append(queues->paths, path) < 0) {
        return -1;
    }
    route->queue = queue;
    route->path = PyBytes_AsString(path);
    route->path_len = (size_t)PyBytes_Size(path);
    if (!fb_route_read_method(method, &route->method)) {
        PyErr_Format(PyExc_ValueError, "no request has the method %s", method);
        return -1;
    }
    if (route->path_len == 0 || route->path_len > FB_ROUTE_PATH_BYTES) {
        PyErr_SetString(PyExc_ValueError, "the path of a route is out of its bounds");
        return -1;
    }
    return 0;
}

/* Returns 0, or -1 with an exception set. */
static int
read_routes(PyObject *given, uint32_t queue, py_queues *queues)
{
    PyObject *listed = PyMapping_GetItemString(given, "routes");
    PyObject *routes = listed != NULL ? PySequence_Tuple(listed) : NULL;
    Py_XDECREF(listed);
    int error = routes != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; error == 0 && i < PyTuple_Size(routes); i++) {
        error = read_route(PyTuple_GetItem(routes, i), queue, queues);
    }
    Py_XDECREF(routes);
    return error;
}

int
py_queues_read(PyObject *given, py_queues *queues)
{
    PyObject *list = PySequence_Tuple(given);
    queues->paths = PyList_New(0);
    if (list == NULL || queues->paths == NULL) {
        Py_XDECREF(list);
        return -1;
    }
    int error = 0;
    Py_ssize_t n = PyTuple_Size(list);
    if (n < 1 || n > FB_QUEUES_BOUND) {
        PyErr_Format(PyExc_ValueError, "a server has 1 to %d queues, not %zd",
                     FB_QUEUES_BOUND, n);
        error = -1;
    }
    for (Py_ssize_t i = 0; error == 0 && i < n; i++) {
        PyObject *queue = PyTuple_GetItem(list, i);
        error = read_rules(queue, &queues->rules[i]);
        if (error == 0) {
            error = read_routes(queue, (uint32_t)i, queues);
        }
    }
    queues->n_rules = (size_t)n;
    Py_DECREF(list);
    return error;
}

void
py_queues_fini(py_queues *queues)
{
    PyMem_Free(queues->routes);
    Py_XDECREF(queues->paths);
    *queues = (py_queues){0};
}
