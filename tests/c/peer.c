/* SPDX-License-Identifier: MIT */
/*
 * Blocking sockets, and just enough HTTP to know where a reply ends.
 */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static void
require(bool holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(2);
    }
}

static struct sockaddr_in
loopback(int port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return addr;
}

int
peer_listen(int *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof(addr);
    require(fd >= 0, "socket");
    require(bind(fd, (struct sockaddr *)&addr, len) == 0, "bind");
    require(listen(fd, 1024) == 0, "listen");
    require(getsockname(fd, (struct sockaddr *)&addr, &len) == 0, "getsockname");
    *port = ntohs(addr.sin_port);
    return fd;
}

test_peer
peer_open(int port)
{
    test_peer new = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in addr = loopback(port);
    struct timeval timeout = {.tv_sec = PEER_TIMEOUT_MS / 1000};
    int on = 1;
    require(new.fd >= 0, "socket");
    setsockopt(new.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    require(connect(new.fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "connect");
    /* With these, calls can end with EINTR though no signal came: libuv's io_uring. */
    setsockopt(new.fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(new.fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    return new;
}

void
peer_close(test_peer *peer)
{
    close(peer->fd);
    free(peer->data);
    peer->data = NULL;
}

void
peer_reset(test_peer *peer)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    peer_close(peer);
}

bool
peer_send(test_peer *peer, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(peer->fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            return false;
        }
        if (sent > 0) {
            bytes += sent;
            len -= (size_t)sent;
        }
    }
    return true;
}

bool
peer_say(test_peer *peer, const char *text)
{
    return peer_send(peer, text, strlen(text));
}

void
peer_end(test_peer *peer)
{
    shutdown(peer->fd, SHUT_WR);
}

/* ---- reading --------------------------------------------------------------------- */

/* Returns whether something came. */
static bool
receive(test_peer *peer)
{
    if (peer->is_over || peer->is_reset) {
        return false;
    }
    if (peer->cap - peer->len < 65536) {
        peer->cap = peer->cap * 2 + 131072;
        peer->data = realloc(peer->data, peer->cap);
        require(peer->data != NULL, "realloc");
    }
    ssize_t n;
    do {
        n = recv(peer->fd, peer->data + peer->len, peer->cap - peer->len - 1, 0);
    } while (n < 0 && errno == EINTR);
    peer->is_over = n == 0;
    peer->is_reset = n < 0 && errno == ECONNRESET;
    require(n >= 0 || peer->is_reset, "the server is too slow: recv");
    peer->len += n > 0 ? (size_t)n : 0;
    peer->data[peer->len] = '\0';
    return n > 0;
}

/* Returns the offset behind the next empty line, or 0. */
static size_t
find_head_end(const test_peer *peer)
{
    if (peer->len == peer->at) {
        return 0;
    }
    const char *end =
        memmem(peer->data + peer->at, peer->len - peer->at, "\r\n\r\n", 4);
    return end == NULL ? 0 : (size_t)(end - peer->data) + 4;
}

static size_t
length_in(const char *head)
{
    const char *field = strcasestr(head, "\r\nContent-Length:");
    return field == NULL ? 0 : (size_t)strtoull(field + 17, NULL, 10);
}

peer_reply
peer_read(test_peer *peer)
{
    peer_reply none = {0};
    size_t body_at;
    while ((body_at = find_head_end(peer)) == 0) {
        if (!receive(peer)) {
            return none;
        }
    }
    peer->data[body_at - 2] = '\0'; /* the head is a string now */
    size_t len = length_in(peer->data + peer->at);
    while (peer->len - body_at < len) {
        if (!receive(peer)) {
            return none;
        }
    }
    peer_reply reply = {.head = peer->data + peer->at, .body_len = len};
    reply.body = peer->data + body_at;
    reply.says_close = strcasestr(reply.head, "\r\nConnection: close") != NULL;
    if (sscanf(reply.head, "HTTP/1.1 %d", &reply.status) != 1) {
        return none;
    }
    peer->at = body_at + len;
    return reply;
}

size_t
peer_drain(test_peer *peer)
{
    while (receive(peer)) {
    }
    return peer->len - peer->at;
}
