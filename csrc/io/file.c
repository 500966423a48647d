/* SPDX-License-Identifier: MIT */
/*
 * Sending files: sendfile(2), and pread(2) for a block.
 */
#include "io/file.h"

#include "core/limits.h"

#include <errno.h>
#include <sys/sendfile.h>
#include <unistd.h>

static size_t
smaller(uint64_t left, size_t most)
{
    return left < most ? (size_t)left : most;
}

static void
move_on(fb_file *file, size_t n)
{
    file->offset += n;
    file->left -= n;
}

fb_pull
fb_file_pull(fb_file *file, fb_buf *into)
{
    size_t most = smaller(file->left, FB_FILE_BLOCK);
    if (most == 0) {
        return FB_PULL_END;
    }
    if (!fb_buf_reserve(into, most)) {
        return FB_PULL_FAIL;
    }
    ssize_t n;
    do {
        n = pread(file->fd, into->data + into->len, most, (off_t)file->offset);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        file->is_short = n == 0;
        return FB_PULL_FAIL;
    }
    into->len += (size_t)n;
    move_on(file, (size_t)n);
    return file->left == 0 ? FB_PULL_END : FB_PULL_MORE;
}

fb_splice
fb_file_splice(fb_file *file, int fd, size_t most, size_t *n_sent)
{
    *n_sent = 0;
    if (file->left == 0) {
        return FB_SPLICE_END;
    }
    off_t offset = (off_t)file->offset;
    ssize_t n = sendfile(fd, file->fd, &offset, smaller(file->left, most));
    if (n < 0 && errno == EINTR) {
        return FB_SPLICE_SENT;
    }
    /* Full; or a file that cannot be sent so, but may be read. */
    if (n < 0 && (errno == EAGAIN || errno == EINVAL || errno == ENOSYS)) {
        return FB_SPLICE_FULL;
    }
    if (n <= 0) {
        file->is_short = n == 0;
        return FB_SPLICE_FAIL;
    }
    *n_sent = (size_t)n;
    move_on(file, (size_t)n);
    return file->left == 0 ? FB_SPLICE_END : FB_SPLICE_SENT;
}
