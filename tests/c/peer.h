/* SPDX-License-Identifier: MIT */
/*
 * A client that does exactly what it is told, and waits for nothing longer than
 * PEER_TIMEOUT_MS.
 */
#ifndef FB_TESTS_PEER_H
#define FB_TESTS_PEER_H

#include <stdbool.h>
#include <stddef.h>

#define PEER_TIMEOUT_MS 10000

typedef struct test_peer {
    int fd;
    char *data;   /* received */
    size_t len;   /* bytes of it */
    size_t cap;   /* room */
    size_t at;    /* where the next reply begins */
    bool is_over; /* the server said that it sends no more */
    bool is_reset;
} test_peer;

typedef struct peer_reply {
    int status;       /* 0: there was no whole reply */
    const char *head; /* a string up to the empty line; valid until the next read */
    const char *body;
    size_t body_len;
    bool says_close;
} peer_reply;

/* Returns a listening socket on a free port of the loopback, and that port. */
int peer_listen(int *port);

/* Connect. Ends the program when it cannot. */
test_peer peer_open(int port);
void peer_close(test_peer *peer);

/* Close so that the server gets a reset. */
void peer_reset(test_peer *peer);

/* Send all of it; returns false when the server has left. */
bool peer_send(test_peer *peer, const char *bytes, size_t len);
bool peer_say(test_peer *peer, const char *text);

/* Say that nothing more will be sent. */
void peer_end(test_peer *peer);

/* Read the next reply that has a Content-Length, or none and no body. */
peer_reply peer_read(test_peer *peer);

/* Read whatever comes until the server closes. Returns how many bytes follow the last
 * reply read; is_reset tells how it closed. */
size_t peer_drain(test_peer *peer);

#endif
