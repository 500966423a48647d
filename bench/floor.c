/* SPDX-License-Identifier: MIT */
/*
 * The floor: what libuv and llhttp cost when nothing is done with a request. One
 * thread, no Python; every request is parsed and gets the same reply, as long as the
 * one fastbatch gives for "Hello, World!". All replies to one read leave in one write.
 * It is no server to use: it has no timeout and no limit beyond llhttp's.
 *
 * Usage: floor. Takes a free port of 127.0.0.1, prints {"port": N} when it
 * listens, and ends at SIGTERM.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <llhttp.h>
#include <uv.h>

#define REPLY                                                                          \
    "HTTP/1.1 200 OK\r\nServer: the-floor\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"  \
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\n"            \
    "Hello, World!"

enum {
    BACKLOG = 2048,
    IN_BYTES = 16 * 1024,        /* per connection; one read gives no more than this */
    MAX_REPLIES = IN_BYTES / 16, /* to one read; the shortest request has 18 bytes */
    REPLY_BYTES = sizeof REPLY - 1
};

typedef struct conn {
    uv_tcp_t tcp;
    uv_write_t write; /* at most one is under way: until it is done nothing is read */
    llhttp_t parser;  /* keeps its place between reads, so no byte need be kept */
    unsigned n_owed;  /* requests that the last read completed */
    bool wants_close; /* the peer asked for it, or spoke HTTP/1.0 */
    char in[IN_BYTES];
} conn;

static char replies[MAX_REPLIES * REPLY_BYTES]; /* the reply, over and over */
static llhttp_settings_t settings;

static void
on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void
close_conn(conn *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->tcp)) {
        uv_close((uv_handle_t *)&c->tcp, on_closed);
    }
}

static int
on_message_complete(llhttp_t *parser)
{
    conn *c = parser->data;
    c->n_owed++;
    c->wants_close = !llhttp_should_keep_alive(parser);
    return 0;
}

static void
on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    *buf = uv_buf_init(((conn *)handle->data)->in, IN_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void
on_written(uv_write_t *write, int status)
{
    conn *c = write->data;
    if (status < 0 || c->wants_close ||
        uv_read_start(write->handle, on_alloc, on_read) < 0) {
        close_conn(c);
    }
}

static void
reply(conn *c)
{
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    uv_buf_t out = uv_buf_init(replies, c->n_owed * REPLY_BYTES);
    int sent = uv_try_write(stream, &out, 1);
    if (sent == (int)out.len && !c->wants_close) {
        return;
    }
    if (sent == (int)out.len || (sent < 0 && sent != UV_EAGAIN)) {
        close_conn(c);
        return;
    }
    size_t skip = sent > 0 ? (size_t)sent : 0;
    out = uv_buf_init(replies + skip, (unsigned)(out.len - skip));
    uv_read_stop(stream);
    if (uv_write(&c->write, stream, &out, 1, on_written) < 0) {
        close_conn(c);
    }
}

static void
on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    conn *c = stream->data;
    c->n_owed = 0;
    if (n < 0 || llhttp_execute(&c->parser, buf->base, (size_t)n) != HPE_OK) {
        close_conn(c);
    } else if (c->n_owed > 0) {
        reply(c);
    }
}

static void
on_connection(uv_stream_t *listener, int status)
{
    conn *c = status == 0 ? malloc(sizeof *c) : NULL;
    if (c == NULL) {
        return;
    }
    uv_tcp_init(listener->loop, &c->tcp);
    llhttp_init(&c->parser, HTTP_REQUEST, &settings);
    c->tcp.data = c->write.data = c->parser.data = c;
    c->wants_close = false;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) < 0 ||
        uv_tcp_nodelay(&c->tcp, 1) < 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0) {
        close_conn(c);
    }
}

/* Returns the port that the listener has, or -1 when it does not listen. */
static int
start_listening(uv_tcp_t *listener)
{
    struct sockaddr_in address;
    int size = sizeof address;
    if (uv_ip4_addr("127.0.0.1", 0, &address) < 0 ||
        uv_tcp_init(uv_default_loop(), listener) < 0 ||
        uv_tcp_bind(listener, (struct sockaddr *)&address, 0) < 0 ||
        uv_listen((uv_stream_t *)listener, BACKLOG, on_connection) < 0 ||
        uv_tcp_getsockname(listener, (struct sockaddr *)&address, &size) < 0) {
        return -1;
    }
    return ntohs(address.sin_port);
}

int
main(void)
{
    uv_tcp_t listener;
    for (size_t i = 0; i < sizeof replies; i++) {
        replies[i] = REPLY[i % REPLY_BYTES];
    }
    llhttp_settings_init(&settings);
    settings.on_message_complete = on_message_complete;
    signal(SIGPIPE, SIG_IGN);
    int port = start_listening(&listener);
    if (port < 0) {
        fprintf(stderr, "floor: cannot listen on 127.0.0.1\n");
        return 1;
    }
    printf("{\"port\": %d}\n", port);
    fflush(stdout);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
