/* SPDX-License-Identifier: MIT */
/*
 * One line of the access log, in one of two forms: what Apache and nginx call combined,
 * or a JSON object. Whatever the client sent, a line is of printable ASCII, and one.
 *
 * What a request asked for is known before what it was given, when the reply is a
 * stream: a line can be formed in two steps.
 */
#ifndef FB_CORE_LINE_H
#define FB_CORE_LINE_H

#include "core/buf.h"
#include "core/request.h"

#include <time.h>

typedef enum fb_line_format {
    FB_LINE_COMBINED,
    FB_LINE_JSON,
} fb_line_format;

/* How lines are formed, and the time that they say. */
typedef struct fb_line_form {
    fb_line_format format;
    unsigned ms;       /* milliseconds of the second */
    time_t at;         /* the second that text was made for */
    size_t second_len; /* bytes of second */
    char second[48];   /* as text, without the milliseconds */
} fb_line_form;

/* What a client asked for. */
typedef struct fb_line {
    const char *client; /* its address as text */
    size_t client_len;  /* 0: it has none */
    const char *method; /* NULL: its request line was not understood */
    unsigned major;     /* of its HTTP version; 0: none was said */
    unsigned minor;
    const fb_request *req; /* the rest, unless method is NULL */
    const char *data;      /* the message's first byte */
} fb_line;

/* What it was given. */
typedef struct fb_outcome {
    int status;
    uint64_t n_body;      /* bytes of the body */
    uint64_t duration_ns; /* nanoseconds; in JSON alone */
} fb_outcome;

void fb_line_form_init(fb_line_form *form, fb_line_format format);

/* Lines are of this time from now on. */
void fb_line_form_set_time(fb_line_form *form, const struct timespec *now);

/* Append a line. Returns false, with out as it was, when there is no memory. */
bool fb_line_append(fb_buf *out, const fb_line_form *form, const fb_line *line,
                    const fb_outcome *outcome);

/* The first step: append what is known, and say in *n_before how much of it stands
 * before the outcome. Returns as fb_line_append. */
bool fb_line_begin(fb_buf *held, const fb_line_form *form, const fb_line *line,
                   size_t *n_before);

/* The second step: append the line that held is the first of. As fb_line_append. */
bool fb_line_finish(fb_buf *out, const fb_line_form *form, const fb_buf *held,
                    size_t n_before, const fb_outcome *outcome);

#endif
