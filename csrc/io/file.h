/* SPDX-License-Identifier: MIT */
/*
 * A part of an open file, as the body of a reply: spliced into the socket by the kernel
 * while the socket takes it, and read for a block when it does not, because a write is
 * how libuv tells that it takes more.
 */
#ifndef FB_IO_FILE_H
#define FB_IO_FILE_H

#include "core/out.h"

typedef struct fb_file {
    int fd;          /* borrowed; its own position is neither used nor moved */
    uint64_t offset; /* bytes: what is sent next */
    uint64_t left;   /* bytes to be sent */
    bool is_short;   /* it failed because it does not have them any more */
} fb_file;

/* As fb_body_ops.pull and .splice. A file that is shorter than it was fails. */
fb_pull fb_file_pull(fb_file *file, fb_buf *into);
fb_splice fb_file_splice(fb_file *file, int fd, size_t most, size_t *n_sent);

#endif
