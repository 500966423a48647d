/* SPDX-License-Identifier: MIT */
/*
 * Calls of the system, of the allocator and of Python that fail on a schedule:
 * FASTBATCH_FAULTS=1 of setup.py links this file into the extension, and the linker puts
 * what is wrapped here before what it stands for. tests/test_faults.py sets the faults.
 *
 * Left out is what cannot fail by its contract, and what libuv does not survive: without
 * memory for the list of its descriptors it goes on with one that is freed, and a failed
 * read or write of its eventfd ends the process. Attaching and detaching cannot fail:
 * they are delayed, so that other threads come in between.
 */
#include "core/heap.h"
#include "python/compat.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

/* Instead of an error: the call moves less than it could. */
#define SHORT 0

#define DELAY_NS 200000

enum kind {
    HEAP,      /* of core and io, and what libuv takes for its loop */
    PYTHON,    /* calls of the binding that make objects, or take memory */
    RECEIVE,   /* from a socket */
    SEND,      /* to a socket, from memory */
    SENDFILE,  /* to a socket, from a file */
    SHUTDOWN,  /* of one half of a socket */
    ACCEPT,    /* a connection */
    OPEN,      /* a file, an epoll, an eventfd, a timerfd */
    FILEWRITE, /* to a regular file */
    FILEREAD,  /* with pread(2) */
    OPTION,    /* ioctl(2) and setsockopt(2) */
    POLL,      /* epoll_wait(2): EINTR alone */
    THREAD,    /* making one */
    STATE,     /* attaching and detaching: a delay */
    N_KINDS,
};

static const char *const names[N_KINDS] = {
    "heap", "python",    "receive",  "send",   "sendfile", "shutdown", "accept",
    "open", "filewrite", "fileread", "option", "poll",     "thread",   "state",
};

/* Which calls of a kind fail, and how. */
struct plan {
    int error;               /* an errno value, or SHORT */
    unsigned long countdown; /* calls to the one that fails, it included; 0: none */
    unsigned per_mille;      /* of the calls fail, or 0 */
    bool is_here;            /* those of the thread that made the plan, or of others */
    pthread_t planner;
};

static struct plan plans[N_KINDS];
static uint32_t chance = 1;
static unsigned long n_failed;
static atomic_long n_held; /* blocks of PyMem, and objects of our types */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- for the tests --------------------------------------------------------------- */

#pragma GCC visibility push(default)
bool faults_nth(const char *kind, int error, unsigned long nth, bool is_here);
bool faults_rate(const char *kind, int error, unsigned per_mille, uint32_t seed);
unsigned long faults_end(void);
long faults_held(void);
#pragma GCC visibility pop

static bool
set_plan(const char *kind, struct plan plan)
{
    bool is_known = false;
    plan.planner = pthread_self();
    pthread_mutex_lock(&lock);
    for (int i = 0; i < N_KINDS; i++) {
        if (strcmp(kind, names[i]) == 0) {
            plans[i] = plan;
            is_known = true;
        }
    }
    pthread_mutex_unlock(&lock);
    return is_known;
}

/* The nth call of that kind from now fails, and it alone: of this thread, or of all
 * others. Returns false when there is no such kind. */
bool
faults_nth(const char *kind, int error, unsigned long nth, bool is_here)
{
    return set_plan(
        kind, (struct plan){.error = error, .countdown = nth, .is_here = is_here});
}

/* Of the calls of that kind in other threads so many fail, by chance. As faults_nth. */
bool
faults_rate(const char *kind, int error, unsigned per_mille, uint32_t seed)
{
    chance = seed * 2654435761U | 1;
    return set_plan(kind, (struct plan){.error = error, .per_mille = per_mille});
}

/* Nothing fails from now on. Returns how many calls did since this was called last. */
unsigned long
faults_end(void)
{
    pthread_mutex_lock(&lock);
    memset(plans, 0, sizeof(plans));
    unsigned long n = n_failed;
    n_failed = 0;
    pthread_mutex_unlock(&lock);
    return n;
}

/* Returns how many blocks and objects the binding holds; without those objects that
 * Python code can make itself. */
long
faults_held(void)
{
    return n_held;
}

/* ---- the schedule ---------------------------------------------------------------- */

static bool
draw(unsigned per_mille)
{
    chance ^= chance << 13;
    chance ^= chance >> 17;
    chance ^= chance << 5;
    return chance % 1000 < per_mille;
}

static bool
is_due(struct plan *plan)
{
    bool is_here = pthread_equal(plan->planner, pthread_self()) != 0;
    if (is_here != plan->is_here) {
        return false;
    }
    if (plan->countdown > 0) {
        return --plan->countdown == 0;
    }
    return plan->per_mille > 0 && draw(plan->per_mille);
}

/* Returns whether this call is to fail, with errno set, or to be cut when *error is
 * SHORT. */
static bool
strikes(enum kind kind, int *error)
{
    int before = errno;
    pthread_mutex_lock(&lock);
    bool is_hit = is_due(&plans[kind]);
    *error = plans[kind].error;
    n_failed += is_hit;
    pthread_mutex_unlock(&lock);
    errno = is_hit ? *error : before;
    return is_hit;
}

static bool
fails(enum kind kind)
{
    int error;
    return strikes(kind, &error);
}

/* For what moves bytes. Returns whether it is to fail; and *len, cut or not. */
static bool
fails_or_cuts(enum kind kind, size_t *len, size_t cut)
{
    int error;
    bool is_hit = strikes(kind, &error);
    if (is_hit && error == SHORT) {
        *len = *len < cut ? *len : cut;
        return false;
    }
    return is_hit;
}

static bool
is_a(int fd, mode_t type)
{
    struct stat status;
    return fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == type;
}

/* A function of its own for each that is wrapped, which differ in their types alone. */
#define WRAP(name, type, parameters, arguments, kind, failed)                          \
    type __real_##name parameters;                                                     \
    type __wrap_##name parameters;                                                     \
    type __wrap_##name parameters                                                      \
    {                                                                                  \
        return fails(kind) ? (failed) : __real_##name arguments;                       \
    }

/* ---- memory ---------------------------------------------------------------------- */

WRAP(fb_heap_take, void *, (fb_heap * heap, size_t size), (heap, size), HEAP, NULL)
WRAP(fb_heap_resize, void *, (fb_heap * heap, void *block, size_t size),
     (heap, block, size), HEAP, NULL)
WRAP(uv__calloc, void *, (size_t n, size_t size), (n, size), HEAP, NULL)

/* ---- the system ------------------------------------------------------------------ */

WRAP(accept4, int, (int fd, struct sockaddr *addr, socklen_t *len, int flags),
     (fd, addr, len, flags), ACCEPT, -1)
WRAP(shutdown, int, (int fd, int how), (fd, how), SHUTDOWN, -1)
WRAP(mkostemp, int, (char *path, int flags), (path, flags), OPEN, -1)
WRAP(timerfd_create, int, (int clock, int flags), (clock, flags), OPEN, -1)
WRAP(epoll_create1, int, (int flags), (flags), OPEN, -1)
WRAP(eventfd, int, (unsigned count, int flags), (count, flags), OPEN, -1)
WRAP(setsockopt, int, (int fd, int level, int name, const void *value, socklen_t len),
     (fd, level, name, value, len), OPTION, -1)
WRAP(epoll_wait, int, (int fd, struct epoll_event *events, int n, int ms),
     (fd, events, n, ms), POLL, -1)
WRAP(epoll_pwait, int,
     (int fd, struct epoll_event *events, int n, int ms, const sigset_t *mask),
     (fd, events, n, ms, mask), POLL, -1)
WRAP(pthread_create, int,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg),
     (thread, attr, run, arg), THREAD, errno)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int
__wrap_open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    unsigned mode = va_arg(more, unsigned);
    va_end(more);
    return fails(OPEN) ? -1 : __real_open(path, flags, mode);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *arg = va_arg(more, void *);
    va_end(more);
    return fails(OPTION) ? -1 : __real_ioctl(fd, request, arg);
}

ssize_t __real_read(int fd, void *to, size_t len);
ssize_t __wrap_read(int fd, void *to, size_t len);

ssize_t
__wrap_read(int fd, void *to, size_t len)
{
    if (is_a(fd, S_IFSOCK) && fails_or_cuts(RECEIVE, &len, 1)) {
        return -1;
    }
    return __real_read(fd, to, len);
}

ssize_t __real_pread(int fd, void *to, size_t len, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t len, off_t at);

ssize_t
__wrap_pread(int fd, void *to, size_t len, off_t at)
{
    bool is_hit = fails_or_cuts(FILEREAD, &len, len / 3 + 1);
    return is_hit ? -1 : __real_pread(fd, to, len, at);
}

static bool
send_fails(int fd, size_t *len)
{
    enum kind kind = is_a(fd, S_IFREG) ? FILEWRITE : SEND;
    bool is_spared = kind == SEND && !is_a(fd, S_IFSOCK);
    return !is_spared && fails_or_cuts(kind, len, *len / 3 + 1);
}

ssize_t __real_write(int fd, const void *from, size_t len);
ssize_t __wrap_write(int fd, const void *from, size_t len);

ssize_t
__wrap_write(int fd, const void *from, size_t len)
{
    return send_fails(fd, &len) ? -1 : __real_write(fd, from, len);
}

ssize_t __real_writev(int fd, const struct iovec *runs, int n);
ssize_t __wrap_writev(int fd, const struct iovec *runs, int n);

ssize_t
__wrap_writev(int fd, const struct iovec *runs, int n)
{
    size_t len = runs[0].iov_len;
    if (send_fails(fd, &len)) {
        return -1;
    }
    return len < runs[0].iov_len ? __real_write(fd, runs[0].iov_base, len)
                                 : __real_writev(fd, runs, n);
}

ssize_t __real_sendfile(int to, int from, off_t *at, size_t len);
ssize_t __wrap_sendfile(int to, int from, off_t *at, size_t len);

ssize_t
__wrap_sendfile(int to, int from, off_t *at, size_t len)
{
    bool is_hit = fails_or_cuts(SENDFILE, &len, len / 3 + 1);
    return is_hit ? -1 : __real_sendfile(to, from, at, len);
}

/* ---- attaching and detaching ----------------------------------------------------- */

static void
maybe_wait(void)
{
    if (fails(STATE)) {
        nanosleep(&(struct timespec){.tv_nsec = DELAY_NS}, NULL);
    }
}

PyThreadState *__real_PyEval_SaveThread(void);
PyThreadState *__wrap_PyEval_SaveThread(void);

PyThreadState *
__wrap_PyEval_SaveThread(void)
{
    maybe_wait();
    PyThreadState *thread = __real_PyEval_SaveThread();
    maybe_wait();
    return thread;
}

void __real_PyEval_RestoreThread(PyThreadState *thread);
void __wrap_PyEval_RestoreThread(PyThreadState *thread);

void
__wrap_PyEval_RestoreThread(PyThreadState *thread)
{
    maybe_wait();
    __real_PyEval_RestoreThread(thread);
    maybe_wait();
}

/* ---- Python ---------------------------------------------------------------------- */

static int
fail_int(void)
{
    PyErr_NoMemory();
    return -1;
}

#define OBJECT(name, parameters, arguments)                                            \
    WRAP(name, PyObject *, parameters, arguments, PYTHON, PyErr_NoMemory())
#define INT(name, parameters, arguments)                                               \
    WRAP(name, int, parameters, arguments, PYTHON, fail_int())

#define BLOCK(name, parameters, arguments)                                             \
    void *__real_##name parameters;                                                    \
    void *__wrap_##name parameters;                                                    \
    void *__wrap_##name parameters                                                     \
    {                                                                                  \
        void *block = fails(PYTHON) ? NULL : __real_##name arguments;                  \
        n_held += block != NULL;                                                       \
        return block;                                                                  \
    }

BLOCK(PyMem_Malloc, (size_t size), (size))
BLOCK(PyMem_Calloc, (size_t n, size_t size), (n, size))
BLOCK(PyMem_RawCalloc, (size_t n, size_t size), (n, size))

void __real_PyMem_Free(void *block);
void __wrap_PyMem_Free(void *block);

void
__wrap_PyMem_Free(void *block)
{
    n_held -= block != NULL;
    __real_PyMem_Free(block);
}

void __real_PyMem_RawFree(void *block);
void __wrap_PyMem_RawFree(void *block);

void
__wrap_PyMem_RawFree(void *block)
{
    n_held -= block != NULL;
    __real_PyMem_RawFree(block);
}

OBJECT(PyBytes_FromString, (const char *s), (s))
OBJECT(PyBytes_FromStringAndSize, (const char *s, Py_ssize_t n), (s, n))
OBJECT(PyCMethod_New,
       (PyMethodDef * def, PyObject *self, PyObject *module, PyTypeObject *type),
       (def, self, module, type))
OBJECT(PyContext_CopyCurrent, (void), ())
OBJECT(PyDictProxy_New, (PyObject * dict), (dict))
OBJECT(PyDict_Copy, (PyObject * dict), (dict))
OBJECT(PyDict_New, (void), ())
INT(PyDict_SetItem, (PyObject * dict, PyObject *key, PyObject *value),
    (dict, key, value))
INT(PyDict_SetItemString, (PyObject * dict, const char *key, PyObject *value),
    (dict, key, value))
INT(PyDict_Update, (PyObject * dict, PyObject *other), (dict, other))
OBJECT(PyErr_NewExceptionWithDoc,
       (const char *name, const char *doc, PyObject *base, PyObject *dict),
       (name, doc, base, dict))
OBJECT(PyImport_ImportModule, (const char *name), (name))
OBJECT(PyIter_Next, (PyObject * iterator), (iterator))
INT(PyList_Append, (PyObject * list, PyObject *item), (list, item))
OBJECT(PyList_AsTuple, (PyObject * list), (list))
OBJECT(PyList_New, (Py_ssize_t n), (n))
OBJECT(PyLong_FromLong, (long value), (value))
OBJECT(PyLong_FromLongLong, (long long value), (value))
OBJECT(PyLong_FromSize_t, (size_t value), (value))
OBJECT(PyLong_FromSsize_t, (Py_ssize_t value), (value))
OBJECT(PyLong_FromUnsignedLongLong, (unsigned long long value), (value))
OBJECT(PyMapping_Items, (PyObject * mapping), (mapping))
INT(PyModule_AddObjectRef, (PyObject * module, const char *name, PyObject *value),
    (module, name, value))
INT(PyModule_AddType, (PyObject * module, PyTypeObject *type), (module, type))
OBJECT(PyObject_Call, (PyObject * f, PyObject *args, PyObject *kwargs),
       (f, args, kwargs))
OBJECT(PyObject_CallNoArgs, (PyObject * f), (f))
OBJECT(PyObject_CallOneArg, (PyObject * f, PyObject *arg), (f, arg))
OBJECT(PyObject_GetAttr, (PyObject * object, PyObject *name), (object, name))
OBJECT(PyObject_GetAttrString, (PyObject * object, const char *name), (object, name))
OBJECT(PyObject_GetIter, (PyObject * object), (object))
OBJECT(PyObject_RichCompare, (PyObject * a, PyObject *b, int op), (a, b, op))
OBJECT(PyObject_Vectorcall,
       (PyObject * f, PyObject *const *args, size_t n, PyObject *kwnames),
       (f, args, n, kwnames))
OBJECT(PyTuple_New, (Py_ssize_t n), (n))
OBJECT(PyType_FromModuleAndSpec, (PyObject * module, PyType_Spec *spec, PyObject *base),
       (module, spec, base))
OBJECT(PyUnicode_DecodeASCII, (const char *s, Py_ssize_t n, const char *errors),
       (s, n, errors))
OBJECT(PyUnicode_DecodeLatin1, (const char *s, Py_ssize_t n, const char *errors),
       (s, n, errors))
OBJECT(PyUnicode_DecodeUTF8, (const char *s, Py_ssize_t n, const char *errors),
       (s, n, errors))
OBJECT(PyUnicode_FromString, (const char *s), (s))
OBJECT(PyUnicode_InternFromString, (const char *s), (s))
OBJECT(PyUnicode_Join, (PyObject * separator, PyObject *items), (separator, items))

int __real_PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags);
int __wrap_PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags);

int
__wrap_PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags)
{
    if (fails(PYTHON)) {
        view->obj = NULL;
        return fail_int();
    }
    return __real_PyObject_GetBuffer(object, view, flags);
}

PyObject *__real_PySequence_Tuple(PyObject *sequence);
PyObject *__wrap_PySequence_Tuple(PyObject *sequence);

PyObject *
__wrap_PySequence_Tuple(PyObject *sequence)
{
    bool takes_memory = !PyTuple_CheckExact(sequence);
    return takes_memory && fails(PYTHON) ? PyErr_NoMemory()
                                         : __real_PySequence_Tuple(sequence);
}

void __real_PyBytes_ConcatAndDel(PyObject **bytes, PyObject *more);
void __wrap_PyBytes_ConcatAndDel(PyObject **bytes, PyObject *more);

void
__wrap_PyBytes_ConcatAndDel(PyObject **bytes, PyObject *more)
{
    if (*bytes != NULL && more != NULL && fails(PYTHON)) {
        Py_CLEAR(*bytes);
        Py_DECREF(more);
        PyErr_NoMemory();
        return;
    }
    __real_PyBytes_ConcatAndDel(bytes, more);
}

void *__real_PyType_GetSlot(PyTypeObject *type, int slot);
void *__wrap_PyType_GetSlot(PyTypeObject *type, int slot);

static bool
is_counted(PyTypeObject *type)
{
    return PyType_HasFeature(type, Py_TPFLAGS_DISALLOW_INSTANTIATION) != 0;
}

static PyObject *
alloc_or_fail(PyTypeObject *type, Py_ssize_t n)
{
    if (fails(PYTHON)) {
        return PyErr_NoMemory();
    }
    allocfunc alloc = __real_PyType_GetSlot(type, Py_tp_alloc);
    PyObject *object = alloc(type, n);
    n_held += object != NULL && is_counted(type);
    return object;
}

static void
free_counted(void *object)
{
    PyTypeObject *type = Py_TYPE((PyObject *)object);
    freefunc free_slot = __real_PyType_GetSlot(type, Py_tp_free);
    n_held -= is_counted(type);
    free_slot(object);
}

/* Objects of our types are made, and freed, by what is in these slots. */
void *
__wrap_PyType_GetSlot(PyTypeObject *type, int slot)
{
    if (slot == Py_tp_alloc) {
        return (void *)alloc_or_fail;
    }
    return slot == Py_tp_free ? (void *)free_counted
                              : __real_PyType_GetSlot(type, slot);
}

/* ---- Python: as many arguments as a format says ---------------------------------- */

PyObject *__wrap_PyUnicode_FromFormat(const char *format, ...);

PyObject *
__wrap_PyUnicode_FromFormat(const char *format, ...)
{
    va_list args;
    if (fails(PYTHON)) {
        return PyErr_NoMemory();
    }
    va_start(args, format);
    PyObject *text = PyUnicode_FromFormatV(format, args);
    va_end(args);
    return text;
}

PyObject *__wrap_PyTuple_Pack(Py_ssize_t n, ...);

PyObject *
__wrap_PyTuple_Pack(Py_ssize_t n, ...)
{
    va_list args;
    PyObject *tuple = PyTuple_New(n); /* which may fail */
    va_start(args, n);
    for (Py_ssize_t i = 0; tuple != NULL && i < n; i++) {
        PyTuple_SetItem(tuple, i, Py_NewRef(va_arg(args, PyObject *)));
    }
    va_end(args);
    return tuple;
}

PyObject *__wrap_PyObject_CallFunctionObjArgs(PyObject *function, ...);

PyObject *
__wrap_PyObject_CallFunctionObjArgs(PyObject *function, ...)
{
    va_list more;
    PyObject *args[8];
    size_t n = 0;
    va_start(more, function);
    while (n < 8 && (args[n] = va_arg(more, PyObject *)) != NULL) {
        n++;
    }
    va_end(more);
    return PyObject_Vectorcall(function, args, n, NULL); /* which may fail */
}

/* Format N gives references away, also when it fails: it is let through. */
static PyObject *
build(const char *format, va_list args)
{
    bool is_hit = strchr(format, 'N') == NULL && fails(PYTHON);
    return is_hit ? PyErr_NoMemory() : Py_VaBuildValue(format, args);
}

/* PY_SSIZE_T_CLEAN had names of its own for these before 3.13. */
PyObject *__wrap_Py_BuildValue(const char *format, ...);
PyObject *__wrap__Py_BuildValue_SizeT(const char *format, ...);

PyObject *
__wrap_Py_BuildValue(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyObject *value = build(format, args);
    va_end(args);
    return value;
}

PyObject *
__wrap__Py_BuildValue_SizeT(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyObject *value = build(format, args);
    va_end(args);
    return value;
}
