/* SPDX-License-Identifier: MIT */
/*
 * Accepting. When there are as many connections as allowed, or no descriptors,
 * accepting pauses: who waits stays in the kernel's queue, and nothing spins.
 */
#include "io/listener.h"

#include "io/server.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static void on_readable(uv_poll_t *poll, int status, int events);
static void on_turn(uv_timer_t *turn);

static void
pause_accepting(fb_listener *listener)
{
    listener->is_paused = true;
    uv_poll_stop(&listener->poll);
    fb_server_start_tick(listener->server);
}

/* ---- fair shares ----------------------------------------------------------------- */

/* Returns whether others are to have the next connection, if they want it. At the end
 * everybody takes what there is, since nobody may be left to do so. */
static bool
is_for_others(const fb_listener *listener)
{
    const fb_server *server = listener->server;
    return server->place != NULL && server->stopping == FB_STOP_NO &&
           fb_roster_is_ahead(server->roster, server->place);
}

/* The timer is not set back by who leaves meanwhile: with much coming and going the
 * turn would never come. */
static void
leave_to_others(fb_listener *listener)
{
    listener->is_paused = true;
    uv_poll_stop(&listener->poll);
    if (!uv_is_active((uv_handle_t *)&listener->turn)) {
        uv_timer_start(&listener->turn, on_turn, FB_ACCEPT_DEFER_MS, 0);
    }
}

/* Returns how many to take in a turn: one of a few, so that others which are only a
 * little late have their share; more of many, so that a crowd is let in soon. */
static int
turn_size(const fb_listener *listener)
{
    uint64_t n = 1 + fb_count_get(&listener->server->n_conns) / FB_ROSTER_SLACK;
    return n < FB_ACCEPT_BURST ? (int)n : FB_ACCEPT_BURST;
}

/* ---- accepting ------------------------------------------------------------------- */

/* Returns whether there may be more to accept. */
static bool
accept_one(fb_listener *listener)
{
    if (fb_server_is_full(listener->server)) {
        fb_server_make_room(listener->server);
        pause_accepting(listener);
        return false;
    }
    struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof(peer);
    int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        fb_conn_open(listener, fd, (const struct sockaddr *)&peer);
        return true;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        fb_server_make_room(listener->server);
        pause_accepting(listener);
        return false;
    }
    /* Of the others, all but EAGAIN say that one peer has left before it was accepted.
     * */
    return errno != EAGAIN && errno != EWOULDBLOCK;
}

static void
on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    fb_listener *listener = poll->data;
    for (int i = 0; i < FB_ACCEPT_BURST && listener->is_open; i++) {
        if (is_for_others(listener)) {
            leave_to_others(listener);
            return;
        }
        if (!accept_one(listener)) {
            return;
        }
    }
}

static void
on_turn(uv_timer_t *turn)
{
    fb_listener *listener = turn->data;
    fb_listener_resume(listener);
    for (int i = turn_size(listener); i > 0 && listener->is_open; i--) {
        if (!accept_one(listener)) {
            return;
        }
    }
}

/* Returns the address family of a stream socket, or libuv's error code. */
static int
family_of(int fd)
{
    int type = 0;
    struct sockaddr_storage addr;
    socklen_t type_len = sizeof(type);
    socklen_t addr_len = sizeof(addr);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &addr_len) != 0) {
        return uv_translate_sys_error(errno);
    }
    return type == SOCK_STREAM ? addr.ss_family : UV_ESOCKTNOSUPPORT;
}

int
fb_listener_open(fb_listener *listener, fb_server *server, int fd, int backlog)
{
    int family = family_of(fd);
    if (family < 0) {
        return family;
    }
    if (listen(fd, backlog) != 0) {
        return uv_translate_sys_error(errno);
    }
    int error = uv_poll_init(&server->loop, &listener->poll, fd);
    if (error != 0) {
        return error;
    }
    uv_timer_init(&server->loop, &listener->turn);
    listener->turn.data = listener;
    listener->poll.data = listener;
    listener->server = server;
    listener->fd = fd;
    listener->is_tcp = family != AF_UNIX;
    listener->is_open = true;
    return uv_poll_start(&listener->poll, UV_READABLE, on_readable);
}

void
fb_listener_resume(fb_listener *listener)
{
    if (listener->is_open && listener->is_paused) {
        listener->is_paused = false;
        uv_poll_start(&listener->poll, UV_READABLE, on_readable);
    }
}

void
fb_listener_close(fb_listener *listener)
{
    if (listener->is_open) {
        listener->is_open = false;
        uv_close((uv_handle_t *)&listener->poll, NULL);
        uv_close((uv_handle_t *)&listener->turn, NULL);
        close(listener->fd);
    }
}
