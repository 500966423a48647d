/* SPDX-License-Identifier: MIT */
/*
 * Feeds bytes to core as a connection does, in any pieces, and writes down what comes
 * out.
 *
 * At every feed the input lies against a page that faults, and has moved since the
 * last. Requests are written down when their batch would be answered: at the end of the
 * piece that completed them, or when the batch is full. The form is that of
 * tests/wire/README.md.
 */
#ifndef FB_TESTS_FEEDER_H
#define FB_TESTS_FEEDER_H

#include "core/batch.h"
#include "core/http.h"
#include "guard.h"

typedef struct test_feeder {
    fb_limits limits; /* may be changed before the first byte */
    bool compacts;    /* drop what was answered after every piece */
    size_t spools;    /* put bodies elsewhere when so many bytes are there; 0: never */
    fb_heap heap;     /* of shown */
    fb_http http;
    fb_buf in; /* lies in room */
    guard room;
    fb_buf spooled;    /* of the body in hand */
    fb_batch batch;    /* requests not yet written down */
    fb_buf shown;      /* what came out, as text */
    size_t n_requests; /* complete so far */
    bool is_over;      /* rejected, or the last request ends the connection */
} test_feeder;

/* Returns a feeder with the default limits, for up to most bytes of input. */
test_feeder *feeder_new(size_t most);
void feeder_free(test_feeder *feeder);

/* Be as new, but for limits, compacts and spools. */
void feeder_reset(test_feeder *feeder);

/* Feed one piece. Borrows bytes. What comes after the end of the connection is not
 * parsed, as on a socket. */
void feeder_give(test_feeder *feeder, const char *bytes, size_t len);

/* Feed pieces of step bytes. */
void feeder_give_by(test_feeder *feeder, const char *bytes, size_t len, size_t step);

#endif
