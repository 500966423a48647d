/* SPDX-License-Identifier: MIT */
/*
 * The access log of a server: which replies have a line, and when it is formed.
 *
 * A request that was answered has its line at the end of the dispatch, when its bytes
 * are still there. A reply that is not over then, a stream or a file, has its line held
 * until it is. Lines go to a file, or wait for the binding to fetch them.
 *
 * Slots are logged by the thread of the server; lines are held and finished by any.
 */
#ifndef FB_IO_ACCESS_H
#define FB_IO_ACCESS_H

#include "core/batch.h"
#include "core/line.h"
#include "io/conn.h"
#include "io/executor.h"
#include "io/log_file.h"

typedef struct fb_access_setup {
    bool is_on;
    bool has_file; /* lines go to fd; else fb_access.lines is to be emptied by others */
    fb_line_format format;
    int fd; /* taken */
} fb_access_setup;

typedef struct fb_access {
    bool is_on;
    bool is_timed; /* slots are to say when they were answered */
    bool has_file;
    bool is_dropping; /* what was handed on last was dropped */
    fb_line_form form;
    uv_mutex_t lock; /* for all below but file */
    bool has_lock;   /* it is to be destroyed */
    fb_buf lines;    /* formed, and not handed on */
    fb_heap *heap;   /* kept */
    fb_log_file file;
    fb_count n_dropped; /* lines that were not kept */
    fb_address client;  /* the last one, */
    size_t client_len;  /* and its text */
    char client_text[FB_ADDRESS_TEXT_BYTES];
} fb_access;

/* A line that waits for its reply to be over. */
typedef struct fb_held {
    fb_access *access; /* kept */
    fb_buf text;       /* its parts before and behind the outcome */
    size_t n_before;   /* bytes of the first */
    uint64_t began;    /* nanoseconds: when the request was read */
    int status;        /* 0: not known yet */
    uint64_t n_body;   /* bytes of the body so far */
} fb_held;

/* Make an access log in zeroed memory. Takes the descriptor. Returns 0 or libuv's error
 * code; fb_access_close must follow either way. */
int fb_access_open(fb_access *access, fb_heap *heap, const fb_access_setup *setup);
void fb_access_close(fb_access *access);

/* Have lines written, while the loop runs; stop writes all of them, see
 * fb_log_file_stop. Returns 0 or libuv's error code. */
int fb_access_start(fb_access *access);
void fb_access_stop(fb_access *access);

/* Form the lines of n slots that were answered in the dispatch of executor. */
void fb_access_log_slots(fb_access *access, const fb_executor *executor,
                         const fb_slot *slots, size_t n);

/* The server itself has answered the message in hand of conn. */
void fb_access_log_own(fb_access *access, const fb_conn *conn, int status);

/* Hold the line of slot, in the dispatch of executor, with what was noted of its reply,
 * until fb_access_finish. Returns it; or NULL: there is no log, or no memory. */
fb_held *fb_access_hold(fb_access *access, const fb_executor *executor, fb_slot *slot);

/* Takes held, which may be NULL: its reply is over. */
void fb_access_finish(fb_held *held);

/* Takes the lines that nobody is writing: puts them into lines, to be finished by the
 * caller, and returns whether there are any. */
bool fb_access_take_lines(fb_access *access, fb_buf *lines);
bool fb_access_has_lines(fb_access *access);

/* Hand on what there is, for it may be long before there is more. */
void fb_access_hand_on(fb_access *access);

/* From any thread, while the access log is open: go on in the file of fd, which is
 * taken. */
void fb_access_reopen(fb_access *access, int fd);

/* Lines are being lost: returns whether that is to be reported, and its errno, or 0,
 * once. */
bool fb_access_has_error(const fb_access *access);
int fb_access_take_error(fb_access *access);

/* Returns how many lines were lost. From any thread. */
uint64_t fb_access_lost(const fb_access *access);

#endif
