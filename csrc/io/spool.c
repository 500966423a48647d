/* SPDX-License-Identifier: MIT */
/*
 * Making, filling and reading temporary files.
 */
#include "io/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

static int
last_error(void)
{
    return uv_translate_sys_error(errno);
}

/* For file systems that have no O_TMPFILE: a name, for a moment. */
static int
open_named(const char *dir)
{
    char path[4096];
    int len = snprintf(path, sizeof(path), "%s/fastbatch-XXXXXX", dir);
    if (len < 0 || len >= (int)sizeof(path)) {
        return UV_ENAMETOOLONG;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        return last_error();
    }
    (void)unlink(path);
    return fd;
}

int
fb_spool_open(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
        return fd;
    }
    bool has_none = errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL;
    return has_none ? open_named(dir) : last_error();
}

int
fb_spool_append(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return last_error();
        }
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

int
fb_spool_read(int fd, char *to, size_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t n = pread(fd, to, len, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? last_error() : UV_EOF;
        }
        to += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}
