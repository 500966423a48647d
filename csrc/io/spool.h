/* SPDX-License-Identifier: MIT */
/*
 * Temporary files for bodies that are too long to be held in memory. They have no name:
 * with the last descriptor they are gone.
 */
#ifndef FB_IO_SPOOL_H
#define FB_IO_SPOOL_H

#include <stddef.h>
#include <stdint.h>

/* Returns the descriptor of a new, empty file in the directory dir, or libuv's error
 * code. */
int fb_spool_open(const char *dir);

/* Append all of len bytes; it may wait for the disk. Returns 0 or libuv's error code.
 */
int fb_spool_append(int fd, const char *bytes, size_t len);

/* Read all of len bytes, from offset at on. Returns 0 or libuv's error code: UV_EOF
 * when there are fewer. */
int fb_spool_read(int fd, char *to, size_t len, uint64_t at);

#endif
