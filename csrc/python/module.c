/* SPDX-License-Identifier: MIT */
/*
 * The module fastbatch._core: its state, its constants, its types.
 *
 * exec stores each object in the state at once and returns on the first failure; clear
 * takes whatever is there.
 */
#include "core/http.h"
#include "core/limits.h"
#include "core/status.h"
#include "io/roster.h"
#include "python/state.h"
#include "python/stats.h"

#include <uv.h>

void
py_log_exception(const py_state *state, const char *message)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *error = PyObject_GetAttrString(state->logger, "error");
    PyObject *args = Py_BuildValue("(s)", message);
    PyObject *kwargs = Py_BuildValue("{sO}", "exc_info", raised);
    PyObject *result = NULL;
    if (error != NULL && args != NULL && kwargs != NULL) {
        result = PyObject_Call(error, args, kwargs);
    }
    if (result == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(state->logger); /* logging failed: the last resort */
    }
    Py_XDECREF(result);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(error);
    Py_XDECREF(raised);
}

void
py_leave_context(const py_state *state, PyObject *context)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (PyContext_Exit(context) < 0) {
        py_log_exception(state, "a context was left by somebody else");
    }
    PyErr_SetRaisedException(raised);
}

void
py_raise_reply_error(const py_state *state, const char *message, PyObject *culprit)
{
    PyObject *shown = PyObject_CallOneArg(state->brief, culprit);
    if (shown != NULL) {
        PyErr_Format(state->reply_error, message, shown);
        Py_DECREF(shown);
    }
}

/* ---- constants ------------------------------------------------------------------- */

typedef struct limit {
    const char *name;
    long long value;
} limit;

static const limit limits[] = {
    {"batch_slots", FB_BATCH_SLOTS},
    {"batch_wait_us", FB_BATCH_WAIT_US},
    {"batch_wait_bound_us", FB_BATCH_WAIT_BOUND_US},
    {"deadline_ms", FB_DEADLINE_MS},
    {"queue_size", FB_QUEUE_SIZE},
    {"queue_size_bound", FB_QUEUE_SIZE_BOUND},
    {"queue_full_status", FB_QUEUE_FULL_STATUS},
    {"queues_bound", FB_QUEUES_BOUND},
    {"route_path_bytes", FB_ROUTE_PATH_BYTES},
    {"backlog", FB_BACKLOG},
    {"threads", FB_THREADS},
    {"threads_bound", FB_THREADS_BOUND},
    {"max_target", FB_MAX_TARGET},
    {"max_headers", FB_MAX_HEADERS},
    {"headers_bound", FB_HEADERS_BOUND},
    {"max_head", FB_MAX_HEAD},
    {"head_bound", FB_HEAD_BOUND},
    {"max_body", FB_MAX_BODY},
    {"body_bound", FB_BODY_BOUND},
    {"max_body_memory", FB_MAX_BODY_MEMORY},
    {"body_memory_bound", FB_BODY_MEMORY_BOUND},
    {"file_block", FB_FILE_BLOCK},
    {"max_connections", FB_MAX_CONNECTIONS},
    {"connections_bound", FB_CONNECTIONS_BOUND},
    {"backlog_bound", FB_BACKLOG_BOUND},
    {"keepalive_requests_bound", FB_KEEPALIVE_REQUESTS_BOUND},
    {"max_keepalive_requests", FB_MAX_KEEPALIVE_REQUESTS},
    {"max_input_memory", FB_MAX_INPUT_MEMORY},
    {"input_memory_bound", FB_INPUT_MEMORY_BOUND},
    {"min_rate", FB_MIN_RATE},
    {"rate_bound", FB_RATE_BOUND},
    {"queue_timeout_ms", FB_QUEUE_TIMEOUT_MS},
    {"method_bytes", FB_METHOD_BYTES},
    {"chunk_framing", FB_CHUNK_FRAMING},
    {"input_bytes", FB_INPUT_BYTES},
    {"output_high_water", FB_OUTPUT_HIGH_WATER},
    {"max_networks", FB_MAX_NETWORKS},
    {"proxy_header_bytes", FB_PROXY_HEADER_BYTES},
    {"server_value_bytes", FB_SERVER_VALUE_BYTES - 1},
    {"zero_copy_bytes", FB_ZERO_COPY_BYTES},
    {"workers_bound", FB_WORKERS_BOUND},
    {"worker_requests_bound", FB_WORKER_REQUESTS_BOUND},
    {"worker_memory_bound", FB_WORKER_MEMORY_BOUND},
    {"worker_timeout_ms", FB_WORKER_TIMEOUT_MS},
    {"timeout_bound_ms", FB_TIMEOUT_BOUND_MS},
    {"keepalive_timeout_ms", FB_KEEPALIVE_TIMEOUT_MS},
    {"head_timeout_ms", FB_HEAD_TIMEOUT_MS},
    {"body_timeout_ms", FB_BODY_TIMEOUT_MS},
    {"write_timeout_ms", FB_WRITE_TIMEOUT_MS},
    {"graceful_timeout_ms", FB_GRACEFUL_TIMEOUT_MS},
    {"linger_timeout_ms", FB_LINGER_TIMEOUT_MS},
};

/* Add dict to the module as a read-only mapping. Takes dict, which may be NULL. */
static int
add_mapping(PyObject *module, const char *name, PyObject *dict)
{
    PyObject *proxy = dict != NULL ? PyDictProxy_New(dict) : NULL;
    int error = proxy != NULL ? PyModule_AddObjectRef(module, name, proxy) : -1;
    Py_XDECREF(proxy);
    Py_XDECREF(dict);
    return error;
}

static int
add_limits(PyObject *module)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof(limits) / sizeof(limits[0]); i++) {
        PyObject *value = PyLong_FromLongLong(limits[i].value);
        if (value == NULL || PyDict_SetItemString(dict, limits[i].name, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return add_mapping(module, "LIMITS", dict);
}

static int
add_versions(PyObject *module)
{
    PyObject *llhttp = PyUnicode_FromFormat("%d.%d.%d", LLHTTP_VERSION_MAJOR,
                                            LLHTTP_VERSION_MINOR, LLHTTP_VERSION_PATCH);
    PyObject *dict =
        Py_BuildValue("{sssN}", "libuv", uv_version_string(), "llhttp", llhttp);
    return add_mapping(module, "VERSIONS", dict);
}

static int
add_reasons(PyObject *module)
{
    PyObject *dict = PyDict_New();
    for (int status = 100; dict != NULL && status <= FB_STATUS_MAX; status++) {
        PyObject *key = PyLong_FromLong(status);
        PyObject *reason = PyUnicode_FromString(fb_status_reason(status));
        if (key == NULL || reason == NULL ||
            (PyUnicode_GetLength(reason) > 0 &&
             PyDict_SetItem(dict, key, reason) < 0)) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(reason);
    }
    return add_mapping(module, "REASONS", dict);
}

static int
add_queue_bounds(PyObject *module)
{
    PyObject *bounds = py_stats_queue_bounds();
    int error = PyModule_AddObjectRef(module, "QUEUE_BOUNDS_US", bounds);
    Py_XDECREF(bounds);
    return error;
}

/* ---- what the types share -------------------------------------------------------- */

static PyObject *
import_attr(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *attr = module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return attr;
}

static PyObject *
make_logger(void)
{
    PyObject *get_logger = import_attr("logging", "getLogger");
    PyObject *logger =
        get_logger != NULL ? PyObject_CallFunction(get_logger, "s", "fastbatch") : NULL;
    Py_XDECREF(get_logger);
    return logger;
}

/* The methods of llhttp by its numbers; gaps are NULL. */
#define METHOD_ROW(number, name, string) [number] = #string,
static const char *const method_names[PY_N_METHODS] = {HTTP_ALL_METHOD_MAP(METHOD_ROW)};
#undef METHOD_ROW

static PyObject *
make_names(void)
{
    PyObject *names = PyTuple_New(PY_N_METHODS);
    for (Py_ssize_t i = 0; names != NULL && i < PY_N_METHODS; i++) {
        const char *text = method_names[i] != NULL ? method_names[i] : "";
        PyObject *name = PyUnicode_InternFromString(text);
        if (name == NULL || PyTuple_SetItem(names, i, name) < 0) {
            Py_CLEAR(names);
        }
    }
    return names;
}

static int
make_strings(py_state *state)
{
    state->http = PyUnicode_InternFromString("http");
    state->https = PyUnicode_InternFromString("https");
    state->version_10 = PyUnicode_InternFromString("1.0");
    state->version_11 = PyUnicode_InternFromString("1.1");
    state->close = PyUnicode_InternFromString("close");
    bool ok = state->http != NULL && state->https != NULL &&
              state->version_10 != NULL && state->version_11 != NULL &&
              state->close != NULL;
    return ok ? 0 : -1;
}

static int
make_imports(py_state *state)
{
    if ((state->logger = make_logger()) == NULL ||
        (state->parse_qs = import_attr("urllib.parse", "parse_qs")) == NULL ||
        (state->json_loads = import_attr("fastbatch._json", "loads")) == NULL ||
        (state->json_exactly = import_attr("fastbatch._json", "loads_exactly")) ==
            NULL ||
        (state->format_of = import_attr("fastbatch._dtype", "format_of")) == NULL ||
        (state->brief = import_attr("reprlib", "repr")) == NULL ||
        (state->keys_view = import_attr("collections.abc", "KeysView")) == NULL ||
        (state->values_view = import_attr("collections.abc", "ValuesView")) == NULL ||
        (state->items_view = import_attr("collections.abc", "ItemsView")) == NULL ||
        (state->mapping = import_attr("collections.abc", "Mapping")) == NULL) {
        return -1;
    }
    return 0;
}

/* ---- types ----------------------------------------------------------------------- */

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

/* isinstance(headers, collections.abc.Mapping) and the like are true. */
static int
register_abc(const char *abc_name, PyTypeObject *type)
{
    PyObject *abc = import_attr("collections.abc", abc_name);
    PyObject *result =
        abc != NULL ? PyObject_CallMethod(abc, "register", "O", type) : NULL;
    Py_XDECREF(result);
    Py_XDECREF(abc);
    return result != NULL ? 0 : -1;
}

static int
make_types(PyObject *module, py_state *state)
{
    if ((state->request_type = add_type(module, &py_request_spec)) == NULL ||
        (state->headers_type = add_type(module, &py_headers_spec)) == NULL ||
        (state->batch_type = add_type(module, &py_batch_spec)) == NULL ||
        (state->server_type = add_type(module, &py_server_spec)) == NULL ||
        (state->gateway_type = add_type(module, &py_gateway_spec)) == NULL ||
        (state->start_type = add_type(module, &py_start_spec)) == NULL ||
        (state->input_type = add_type(module, &py_input_spec)) == NULL ||
        (state->stack_type = add_type(module, &py_stack_spec)) == NULL ||
        register_abc("Mapping", state->headers_type) < 0 ||
        register_abc("Sequence", state->batch_type) < 0) {
        return -1;
    }
    state->reply_error = PyErr_NewExceptionWithDoc(
        "fastbatch.ReplyError",
        "What a handler returned is no reply; the message says what is wrong with it.",
        PyExc_ValueError, NULL);
    if (state->reply_error == NULL) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "ReplyError", state->reply_error);
}

/* ---- the module ------------------------------------------------------------------ */

static int
module_exec(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if ((state->names = make_names()) == NULL || make_strings(state) < 0 ||
        make_imports(state) < 0 || make_types(module, state) < 0 ||
        add_limits(module) < 0 || add_reasons(module) < 0 || add_versions(module) < 0 ||
        add_queue_bounds(module) < 0 ||
        PyModule_AddIntConstant(module, "STATS_BYTES", sizeof(fb_stats)) < 0 ||
        PyModule_AddIntConstant(module, "ROSTER_BYTES", sizeof(fb_roster)) < 0) {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    py_state *state = PyModule_GetState(module);
    Py_VISIT(state->request_type);
    Py_VISIT(state->headers_type);
    Py_VISIT(state->batch_type);
    Py_VISIT(state->server_type);
    Py_VISIT(state->gateway_type);
    Py_VISIT(state->start_type);
    Py_VISIT(state->input_type);
    Py_VISIT(state->stack_type);
    Py_VISIT(state->reply_error);
    Py_VISIT(state->logger);
    Py_VISIT(state->parse_qs);
    Py_VISIT(state->json_loads);
    Py_VISIT(state->json_exactly);
    Py_VISIT(state->format_of);
    Py_VISIT(state->brief);
    Py_VISIT(state->keys_view);
    Py_VISIT(state->values_view);
    Py_VISIT(state->items_view);
    Py_VISIT(state->mapping);
    return 0;
}

static int
module_clear(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    Py_CLEAR(state->request_type);
    Py_CLEAR(state->headers_type);
    Py_CLEAR(state->batch_type);
    Py_CLEAR(state->server_type);
    Py_CLEAR(state->gateway_type);
    Py_CLEAR(state->start_type);
    Py_CLEAR(state->input_type);
    Py_CLEAR(state->stack_type);
    Py_CLEAR(state->reply_error);
    Py_CLEAR(state->logger);
    Py_CLEAR(state->parse_qs);
    Py_CLEAR(state->json_loads);
    Py_CLEAR(state->json_exactly);
    Py_CLEAR(state->format_of);
    Py_CLEAR(state->brief);
    Py_CLEAR(state->keys_view);
    Py_CLEAR(state->values_view);
    Py_CLEAR(state->items_view);
    Py_CLEAR(state->mapping);
    Py_CLEAR(state->names);
    Py_CLEAR(state->http);
    Py_CLEAR(state->https);
    Py_CLEAR(state->version_10);
    Py_CLEAR(state->version_11);
    Py_CLEAR(state->close);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"read_stats", py_stats_read, METH_VARARGS,
     PyDoc_STR("read_stats(buffer, n_queues=1, /)\n--\n\nThe counters of the server "
               "that was given this buffer, in whatever process it is.")},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_MOD_GIL_NOT_USED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef py_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastbatch._core",
    .m_doc = "The C side of fastbatch: loop, parser, batches, replies.",
    .m_size = sizeof(py_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&py_module_def);
}
