/* SPDX-License-Identifier: MIT */
/*
 * The Server type: one worker. serve() detaches for as long as the loop runs and
 * attaches for a dispatch, for Python's signal handlers, for a stream's next items, and
 * to let go of bodies that were sent.
 */
#include "python/server.h"

#include "python/batch.h"
#include "python/body.h"
#include "python/held.h"
#include "python/limits.h"
#include "python/stats.h"

#include "io/thread.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

/* ---- attaching ------------------------------------------------------------------- */

void
py_server_attach(py_server *self)
{
    PyEval_RestoreThread(self->thread);
}

void
py_server_detach(py_server *self)
{
    self->thread = PyEval_SaveThread();
}

bool
py_server_keep_raised(py_server *self)
{
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        return false;
    }
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *none = NULL;
    if (!atomic_compare_exchange_strong(&self->raised, &none, raised)) {
        Py_DECREF(raised); /* the first one is what the user asked for */
    }
    return true;
}

void
py_server_log(py_server *self, const char *message)
{
    py_log_exception(self->state, message);
    if (PyErr_Occurred()) {
        (void)py_server_keep_raised(self);
    }
}

/* ---- dispatch -------------------------------------------------------------------- */

py_request *
py_executor_request(py_executor *self, size_t i)
{
    if (self->requests[i] == NULL) {
        self->requests[i] = py_request_new(self->server->state);
        if (self->requests[i] == NULL) {
            return NULL;
        }
    }
    if (self->requests[i]->req == NULL) {
        py_request_show(self->requests[i], &self->io->batch->slots[i]);
    }
    return self->requests[i];
}

static bool
begin_batch(py_executor *self)
{
    if (self->batch == NULL) {
        self->batch = py_batch_new(self->server->state);
        if (self->batch == NULL) {
            return false;
        }
    }
    py_batch_begin(self->batch, self);
    return true;
}

/* The batch shows nothing any more; Requests that the handler kept become its own. */
static void
end_batch(py_executor *self)
{
    size_t n = fb_executor_claimed(self->io);
    for (size_t i = 0; i < n; i++) {
        py_request *request = self->requests[i];
        if (request != NULL && request->req != NULL && !py_request_part(request)) {
            self->requests[i] = NULL;
        }
    }
    if (self->batch == NULL) {
        return;
    }
    py_batch_end(self->batch);
    if (!py_is_ours_alone((PyObject *)self->batch)) {
        Py_CLEAR(self->batch); /* kept: it stays empty, and is not shown again */
    }
}

static void
clear_executor(py_executor *executor)
{
    Py_CLEAR(executor->dispatcher);
    Py_CLEAR(executor->batch);
    for (size_t i = 0; i < FB_BATCH_SLOTS; i++) {
        Py_CLEAR(executor->requests[i]);
    }
}

/* Returns false when an exception is kept that stops the server. */
static bool
judge_exception(py_server *self, const char *message)
{
    if (py_server_keep_raised(self)) {
        return false;
    }
    py_server_log(self, message);
    return true;
}

/* Attached. Returns false to have the server stop. */
static bool
dispatch(py_executor *self)
{
    PyObject *result = NULL;
    if (begin_batch(self)) {
        result = PyObject_CallOneArg(self->dispatcher, (PyObject *)self->batch);
    }
    bool goes_on =
        result != NULL || judge_exception(self->server, "the dispatcher failed");
    Py_XDECREF(result);
    py_held_end(self);
    end_batch(self);
    /* close() of an unsent body may raise, too. */
    return goes_on && atomic_load(&self->server->raised) == NULL;
}

static bool
on_dispatch(void *owner, fb_batch *batch)
{
    (void)batch; /* the loop's executor knows it */
    py_server *self = owner;
    py_server_attach(self);
    bool goes_on = dispatch(&self->executor);
    py_server_detach(self);
    return goes_on;
}

static bool
on_wakeup(void *owner)
{
    py_server *self = owner;
    py_server_attach(self);
    bool goes_on =
        PyErr_CheckSignals() == 0 || judge_exception(self, "a signal handler failed");
    py_server_detach(self);
    return goes_on;
}

/* ---- the access log -------------------------------------------------------------- */

/* Attached: give the lines that are formed to the logger, and let nothing of what that
 * raises hurt the service. */
static void
log_lines(py_server *self)
{
    fb_buf lines;
    if (self->log_lines == NULL ||
        !fb_access_take_lines(&self->server->access, &lines)) {
        return;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(lines.data, (Py_ssize_t)lines.len);
    fb_buf_fini(&lines);
    PyObject *result =
        bytes != NULL ? PyObject_CallOneArg(self->log_lines, bytes) : NULL;
    if (result == NULL && !py_server_keep_raised(self)) {
        py_server_log(self, "lines of the access log were lost");
    }
    Py_XDECREF(result);
    Py_XDECREF(bytes);
}

/* Attached. */
static void
report_lost_lines(py_server *self)
{
    int error = fb_access_take_error(&self->server->access);
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        py_server_log(self, "lines of the access log are lost");
    }
}

/* Returns whether there is something to do for an access log that is on. */
static bool
has_log_work(const py_server *self)
{
    fb_access *access = &self->server->access;
    return access->is_on && (fb_access_has_error(access) ||
                             (self->log_lines != NULL && fb_access_has_lines(access)));
}

/* ---- between two iterations ------------------------------------------------------ */

/* Attached. */
static void
rest(py_server *self)
{
    py_body_drop_released(self);
    log_lines(self);
    report_lost_lines(self);
    if (atomic_load(&self->raised) != NULL) {
        fb_server_stop(self->server, FB_STOP_GRACEFUL);
    }
}

static py_server *
server_of_rest(fb_job *job)
{
    return (py_server *)(void *)((char *)job - offsetof(py_server, rest));
}

static void
run_rest(fb_job *job, fb_executor *executor)
{
    (void)executor;
    rest(server_of_rest(job));
}

static void
finish_rest(fb_job *job)
{
    server_of_rest(job)->is_resting = false;
}

static void
on_rest(void *owner)
{
    py_server *self = owner;
    if (self->is_resting ||
        (atomic_load(&self->released) == NULL && !has_log_work(self))) {
        return;
    }
    if (fb_server_has_threads(self->server)) {
        self->rest = (fb_job){.run = run_rest, .finish = finish_rest};
        self->is_resting = fb_pool_submit(&self->server->pool, NULL, &self->rest);
        return;
    }
    py_server_attach(self);
    rest(self);
    py_server_detach(self);
}

static const fb_server_ops ops = {
    .dispatch = on_dispatch,
    .wakeup = on_wakeup,
    .rest = on_rest,
};

/* ---- construction ---------------------------------------------------------------- */

static int
raise_uv(int error)
{
    /* libuv's codes are negated errno values on every system that we build for. */
    PyObject *args = Py_BuildValue("(is)", -error, uv_strerror(error));
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
        Py_DECREF(args);
    }
    return -1;
}

static void
close_fds(const int *fds, size_t from, size_t n)
{
    for (size_t i = from; i < n; i++) {
        close(fds[i]);
    }
}

static void
close_listed(PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++) {
        int fd = PyObject_AsFileDescriptor(PyTuple_GetItem(tuple, i));
        if (fd >= 0) {
            close(fd);
        }
    }
}

/* Returns the descriptors as an array of *n to be freed, or NULL with an exception set.
 * */
static int *
read_fds(PyObject *listeners, size_t *n)
{
    PyObject *tuple = PySequence_Tuple(listeners);
    if (tuple == NULL) {
        return NULL;
    }
    Py_ssize_t size = PyTuple_Size(tuple);
    int *fds = PyMem_Calloc((size_t)size + 1, sizeof(int));
    for (Py_ssize_t i = 0; fds != NULL && i < size; i++) {
        fds[i] = PyObject_AsFileDescriptor(PyTuple_GetItem(tuple, i));
        if (fds[i] < 0) {
            PyMem_Free(fds);
            Py_DECREF(tuple);
            return NULL;
        }
    }
    if (fds == NULL) {
        close_listed(tuple);
        PyErr_NoMemory();
    }
    Py_DECREF(tuple);
    *n = (size_t)size;
    return fds;
}

static int
check_server_value(const char *server_value)
{
    size_t len = strlen(server_value);
    if (len >= FB_SERVER_VALUE_BYTES || !fb_field_value_is_valid(server_value, len)) {
        PyErr_SetString(PyExc_ValueError, "the server_header is no field value");
        return -1;
    }
    return 0;
}

static int
open_server(py_server *self, fb_server_setup *setup)
{
    self->server = PyMem_RawCalloc(1, sizeof(fb_server));
    if (self->server == NULL) {
        close_fds(setup->fds, 0, setup->n_fds);
        close_fds(&setup->access.fd, 0, setup->access.has_file ? 1 : 0);
        PyErr_NoMemory();
        return -1;
    }
    self->executor.io = &self->server->executor;
    int error = fb_server_open(self->server, setup);
    if (error != 0) {
        size_t n_taken = self->server->n_listeners;
        fb_server_close(self->server);
        close_fds(setup->fds, n_taken, setup->n_fds);
        self->is_closed = true;
        return raise_uv(error);
    }
    return 0;
}

/* What Server() is given. */
typedef struct arguments {
    PyObject *dispatcher; /* borrowed, as is listeners */
    PyObject *listeners;
    const char *server_value; /* borrowed */
    const char *temp_dir;     /* borrowed */
    const char *trusted;      /* borrowed */
    int proxy_protocol;       /* a bool */
    int wakeup_fd;
    PyObject *limits; /* borrowed */
    PyObject *access_log;
    const char *access_log_format; /* borrowed, as is access_log */
    PyObject *stats;               /* borrowed, or NULL */
    unsigned int heartbeat_ms;
    PyObject *roster; /* borrowed, as those below */
    PyObject *queues;
    PyObject *deadline_header; /* bytes */
} arguments;

/* Returns 0, or -1 with an exception set. */
static int
parse_arguments(PyObject *args, PyObject *kwargs, arguments *parsed)
{
    char *names[] = {
        "dispatcher",      "listeners",
        "limits",          "server_header",
        "temp_dir",        "trusted",
        "proxy_protocol",  "wakeup_fd",
        "access_log",      "access_log_format",
        "stats",           "heartbeat_ms",
        "roster",          "queues",
        "deadline_header", NULL,
    };
    bool ok = PyArg_ParseTupleAndKeywords(
        args, kwargs, "OO$OyyypiOsOIOOS:Server", names, &parsed->dispatcher,
        &parsed->listeners, &parsed->limits, &parsed->server_value, &parsed->temp_dir,
        &parsed->trusted, &parsed->proxy_protocol, &parsed->wakeup_fd,
        &parsed->access_log, &parsed->access_log_format, &parsed->stats,
        &parsed->heartbeat_ms, &parsed->roster, &parsed->queues,
        &parsed->deadline_header);
    return ok ? 0 : -1;
}

/* Returns 0, or -1 with an exception set; the descriptor is taken only if setup says
 * so. */
static int
read_access(py_server *self, const arguments *given, fb_access_setup *setup)
{
    bool is_json = strcmp(given->access_log_format, "json") == 0;
    *setup = (fb_access_setup){
        .format = is_json ? FB_LINE_JSON : FB_LINE_COMBINED,
        .fd = -1,
    };
    if (given->access_log == Py_None) {
        return 0;
    }
    setup->is_on = true;
    if (PyCallable_Check(given->access_log)) {
        self->log_lines = Py_NewRef(given->access_log);
        return 0;
    }
    setup->has_file = true;
    setup->fd = PyObject_AsFileDescriptor(given->access_log);
    return setup->fd < 0 ? -1 : 0;
}

/* Returns 0, with *stats NULL where none are given; or -1 with an exception set. */
static int
read_stats_memory(py_server *self, PyObject *given, fb_stats **stats)
{
    if (given == NULL || given == Py_None) {
        return 0;
    }
    *stats = py_stats_in(given, PyBUF_WRITABLE, &self->stats_view);
    return *stats != NULL ? 0 : -1;
}

/* Returns 0, with *roster NULL where none is given; or -1 with an exception set. */
static int
read_roster(py_server *self, PyObject *given, fb_roster **roster)
{
    if (given == Py_None) {
        return 0;
    }
    Py_buffer *view = &self->roster_view;
    if (PyObject_GetBuffer(given, view, PyBUF_WRITABLE) < 0) {
        view->obj = NULL;
        return -1;
    }
    if (view->len < (Py_ssize_t)sizeof(fb_roster) ||
        (uintptr_t)view->buf % _Alignof(fb_roster) != 0) {
        PyBuffer_Release(view);
        PyErr_Format(PyExc_ValueError, "a roster takes %zu bytes, aligned to %zu",
                     sizeof(fb_roster), _Alignof(fb_roster));
        return -1;
    }
    *roster = view->buf;
    return 0;
}

static int
server_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    py_server *self = (py_server *)op;
    arguments given = {0};
    if (parse_arguments(args, kwargs, &given) < 0) {
        return -1;
    }
    if (self->server != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Server is initialised once");
        return -1;
    }
    size_t n_fds;
    int *fds = read_fds(given.listeners, &n_fds);
    if (fds == NULL) {
        return -1;
    }
    fb_limits limits;
    fb_stats *stats = NULL;
    fb_roster *roster = NULL;
    fb_access_setup access;
    if (read_access(self, &given, &access) < 0 ||
        py_limits_read(given.limits, &limits) < 0 ||
        read_stats_memory(self, given.stats, &stats) < 0 ||
        read_roster(self, given.roster, &roster) < 0 ||
        py_queues_read(given.queues, &self->queues) < 0 ||
        check_server_value(given.server_value) < 0) {
        close_fds(fds, 0, n_fds);
        close_fds(&access.fd, 0, access.fd >= 0 ? 1 : 0);
        PyMem_Free(fds);
        return -1;
    }
    self->state = py_state_of_type(Py_TYPE(op));
    self->executor.server = self;
    self->executor.dispatcher = Py_NewRef(given.dispatcher);
    self->deadline_header = Py_NewRef(given.deadline_header);
    fb_server_setup setup = {
        .limits = &limits,
        .fds = fds,
        .n_fds = n_fds,
        .queues = self->queues.rules,
        .n_queues = self->queues.n_rules,
        .routes = self->queues.routes,
        .n_routes = self->queues.n_routes,
        .deadline_field = PyBytes_AsString(given.deadline_header),
        .server_value = given.server_value,
        .temp_dir = given.temp_dir,
        .trusted = given.trusted,
        .speaks_proxy = given.proxy_protocol != 0,
        .access = access,
        .wakeup_fd = given.wakeup_fd,
        .roster = roster,
        .stats = stats,
        .heartbeat_ms = given.heartbeat_ms,
        .ops = &ops,
        .owner = self,
    };
    int error = open_server(self, &setup);
    PyMem_Free(fds);
    return error;
}

/* ---- methods --------------------------------------------------------------------- */

/* Returns 0 when serve may begin, or -1 with an exception set. */
static int
begin_serving(py_server *self)
{
    int error = -1;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->server == NULL || self->is_closed || self->is_serving) {
        PyErr_SetString(PyExc_RuntimeError, "a Server serves once");
    } else {
        self->is_serving = true;
        error = 0;
    }
    Py_END_CRITICAL_SECTION();
    return error;
}

/* From here on stop() leaves the loop alone. */
static void
end_serving(py_server *self)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    self->is_serving = false;
    self->is_closed = true;
    Py_END_CRITICAL_SECTION();
}

static PyObject *
server_serve(PyObject *op, PyObject *unused)
{
    (void)unused;
    py_server *self = (py_server *)op;
    if (begin_serving(self) < 0) {
        return NULL;
    }
    py_server_detach(self);
    int error = fb_server_run(self->server);
    self->is_abandoned = fb_pool_is_busy(&self->server->pool);
    if (self->is_abandoned) {
        fb_pool_end(&self->server->pool);
    } else {
        fb_pool_wait_for_end(&self->server->pool);
    }
    py_server_attach(self);
    log_lines(self);
    report_lost_lines(self);
    end_serving(self);
    if (!self->is_abandoned) { /* else when the last of them lets go of self */
        fb_server_close(self->server);
        py_body_drop_released(self);
    }
    PyObject *raised = atomic_exchange(&self->raised, NULL);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        return NULL;
    }
    if (error != 0) {
        raise_uv(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- handler threads ------------------------------------------------------------- */

/* Work for as long as there is something to do. */
static void
work(py_executor *executor)
{
    fb_executor *io = executor->io;
    fb_pool *pool = &io->server->pool;
    fb_work kind = FB_WORK_END;
    fb_job *job = NULL;
    do {
        PyThreadState *thread = PyEval_SaveThread();
        if (kind == FB_WORK_BATCH) {
            fb_pool_give_back(pool, io);
        } else if (kind == FB_WORK_JOB) {
            fb_pool_finish(pool, io, job);
        }
        kind = fb_pool_wait(pool, io, &job);
        if (kind == FB_WORK_BATCH) {
            fb_executor_begin(io);
        }
        PyEval_RestoreThread(thread);
        if (kind == FB_WORK_BATCH && !dispatch(executor)) {
            fb_server_stop(io->server, FB_STOP_GRACEFUL);
        } else if (kind == FB_WORK_JOB) {
            job->run(job, io);
        }
    } while (kind != FB_WORK_END);
}

/* Returns the executor for another thread; NULL when the server has ended, as it may
 * have before its threads are there, or has threads enough. */
static fb_executor *
join_pool(py_server *self)
{
    fb_executor *io = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->server != NULL && !self->is_closed) {
        io = fb_pool_join(&self->server->pool);
    }
    Py_END_CRITICAL_SECTION();
    return io;
}

static PyObject *
server_handle(PyObject *op, PyObject *dispatcher)
{
    py_server *self = (py_server *)op;
    py_executor *executor = PyMem_Calloc(1, sizeof(*executor));
    if (executor == NULL) {
        return PyErr_NoMemory();
    }
    executor->io = join_pool(self);
    if (executor->io != NULL) {
        fb_sigpipe sigpipe;
        executor->server = self;
        executor->dispatcher = Py_NewRef(dispatcher);
        fb_sigpipe_block(&sigpipe);
        work(executor);
        fb_sigpipe_unblock(&sigpipe);
        clear_executor(executor);
        fb_pool_leave(&self->server->pool);
    }
    PyMem_Free(executor);
    Py_RETURN_NONE;
}

static PyObject *
server_is_abandoned(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((py_server *)op)->is_abandoned);
}

static PyObject *
server_stop(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char *names[] = {"now", NULL};
    py_server *self = (py_server *)op;
    int now = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:stop", names, &now)) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->server != NULL && !self->is_closed) {
        fb_server_stop(self->server, now ? FB_STOP_NOW : FB_STOP_GRACEFUL);
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

/* Takes the descriptor. */
static PyObject *
server_set_access_log(PyObject *op, PyObject *argument)
{
    py_server *self = (py_server *)op;
    int fd = PyObject_AsFileDescriptor(argument);
    if (fd < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->server != NULL && !self->is_closed) {
        fb_access_reopen(&self->server->access, fd);
    } else {
        close(fd);
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

static PyObject *
server_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    const py_server *self = (py_server *)op;
    fb_server *server = self->server;
    if (server == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this Server was not initialised");
        return NULL;
    }
    fb_server_publish(server);
    return py_stats_dict(server->stats, self->queues.n_rules);
}

/* ---- the type -------------------------------------------------------------------- */

static int
server_traverse(PyObject *op, visitproc visit, void *arg)
{
    py_server *self = (py_server *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->executor.dispatcher);
    Py_VISIT(self->log_lines);
    PyObject *raised = atomic_load(&self->raised);
    Py_VISIT(raised);
    return 0;
}

static int
server_clear(PyObject *op)
{
    py_server *self = (py_server *)op;
    clear_executor(&self->executor);
    Py_CLEAR(self->log_lines);
    PyObject *raised = atomic_exchange(&self->raised, NULL);
    Py_XDECREF(raised);
    return 0;
}

static void
server_dealloc(PyObject *op)
{
    py_server *self = (py_server *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->server != NULL) {
        fb_server_close(self->server);
        py_body_drop_released(self);
        PyMem_RawFree(self->server);
    }
    if (self->stats_view.obj != NULL) {
        PyBuffer_Release(&self->stats_view);
    }
    if (self->roster_view.obj != NULL) {
        PyBuffer_Release(&self->roster_view);
    }
    py_queues_fini(&self->queues);
    Py_CLEAR(self->deadline_header);
    server_clear(op);
    freefunc free_slot = PyType_GetSlot(type, Py_tp_free);
    free_slot(op);
    Py_DECREF(type);
}

/* METH_KEYWORDS functions have a signature of their own; the cast is CPython's idiom.
 * */
static PyMethodDef server_methods[] = {
    {"serve", server_serve, METH_NOARGS,
     PyDoc_STR("serve()\n--\n\nRun the loop on this thread until it is stopped.")},
    {"stop", (PyCFunction)(void (*)(void))server_stop, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "stop(now=False)\n--\n\nFrom any thread: stop accepting, answer what has "
         "arrived, end; with now end at once.")},
    {"handle", server_handle, METH_O,
     PyDoc_STR("handle(dispatcher, /)\n--\n\nBe a handler thread, until the server has "
               "ended.")},
    {"is_abandoned", server_is_abandoned, METH_NOARGS,
     PyDoc_STR("is_abandoned()\n--\n\nWhether serve() has ended without waiting for "
               "handler threads.")},
    {"set_access_log", server_set_access_log, METH_O,
     PyDoc_STR("set_access_log(fd, /)\n--\n\nFrom any thread: have the access log go "
               "on in that file, which is taken.")},
    {"stats", server_stats, METH_NOARGS,
     PyDoc_STR("stats()\n--\n\nCounters since the start.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("One worker: one event loop with its listeners and its "
                       "batches.")},
    {Py_tp_init, server_init},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_methods, server_methods},
    {0, NULL},
};

PyType_Spec py_server_spec = {
    .name = "fastbatch._core.Server",
    .basicsize = sizeof(py_server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};
