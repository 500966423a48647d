/* SPDX-License-Identifier: MIT */
/*
 * The llhttp adapter. It pauses llhttp at the end of every message, so that one call
 * gives at most one request and nothing behind a bad message is ever parsed.
 *
 * Message rules kept here because llhttp does not: Host (RFC 9112 3.2), the forms of
 * the request-target (3.2.1 to 3.2.4), versions (RFC 9110 2.5), unknown methods (9.1),
 * Expect (10.1.1), every limit, trailers (never merged, 6.5.1), no way out of HTTP
 * (CONNECT is 501, Upgrade is ignored, 7.8).
 *
 * Chunked bodies are closed up in place: the data of each chunk moves down to the end
 * of the one before, over framing that llhttp is done with.
 */
#include "core/http.h"

#include "core/target.h"
#include "core/token.h"

#include <assert.h>

static bool
reject(fb_http *http, int status, const char *reason)
{
    http->status = status;
    http->reason = reason;
    return false;
}

/* ---- llhttp's callbacks, in the order in which a message meets them -------------- */

static char *
message_of(const fb_http *http)
{
    return http->input + http->req.start;
}

static uint32_t
offset_of(const fb_http *http, const char *at)
{
    return (uint32_t)(at - message_of(http));
}

/* One space, RFC 9112 3: llhttp takes any number, and two readers that take a request
 * line apart differently are how requests are smuggled. */
static bool
follows_one_space(fb_http *http, const char *at)
{
    return at[-2] != ' ' ||
           reject(http, 400, "more than one space in the request line");
}

/* Pieces of one span lie side by side in the input: the first sets it, others extend.
 * */
static void
extend_span(const fb_http *http, fb_span *span, const char *at, size_t len)
{
    if (span->len == 0) {
        span->off = offset_of(http, at);
    }
    span->len += (uint32_t)len;
}

/* Known before anything can be refused: a reply to HEAD has no body, also a bad one. */
static int
on_method_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    http->req.method = parser->method;
    http->req.is_head = parser->method == HTTP_HEAD;
    return HPE_OK;
}

static int
on_protocol(llhttp_t *parser, const char *at, size_t len)
{
    /* llhttp reads RTSP and ICE as well, and may give the name in pieces. */
    static const char name[] = "HTTP";
    fb_http *http = parser->data;
    http->has_target = true;
    if (http->n_protocol == 0 && !follows_one_space(http, at)) {
        return HPE_USER;
    }
    if (len > 4U - http->n_protocol || memcmp(at, name + http->n_protocol, len) != 0) {
        reject(http, 400, "the protocol is not HTTP");
        return HPE_USER;
    }
    http->n_protocol = (uint8_t)(http->n_protocol + len);
    return HPE_OK;
}

static int
on_url(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    if (http->req.target.len == 0 && !follows_one_space(http, at)) {
        return HPE_USER;
    }
    extend_span(http, &http->req.target, at, len);
    if (http->req.target.len > http->limits->max_target) {
        reject(http, 414, "the request-target is too long");
        return HPE_USER;
    }
    return HPE_OK;
}

static fb_header *
field_in_hand(fb_http *http)
{
    return &http->req.headers[http->req.n_headers];
}

static bool
span_is(const char *message, fb_span span, const char *lower, size_t len)
{
    return fb_token_is(message + span.off, span.len, lower, len);
}

static int
on_header_field(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    if (http->phase == FB_PHASE_BODY || http->n_fields >= http->limits->max_headers) {
        return HPE_OK; /* a trailer, or one too many: that is said when its name ends */
    }
    fb_header *field = field_in_hand(http);
    if (!http->is_field_kept) {
        *field = (fb_header){{0, 0}, {0, 0}};
        http->is_field_kept = true;
    }
    extend_span(http, &field->name, at, len);
    return HPE_OK;
}

static int
on_header_field_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    if (http->phase == FB_PHASE_BODY) {
        return HPE_OK;
    }
    if (http->n_fields >= http->limits->max_headers) {
        reject(http, 431, "too many header fields");
        return HPE_USER;
    }
    http->n_fields++;
    const fb_header *field = field_in_hand(http);
    if (span_is(message_of(http), field->name, "proxy-connection", 16)) {
        /* No standard knows it, but llhttp reads it as Connection: make it a field
         * like any other. */
        parser->header_state = 0;
    }
    return HPE_OK;
}

static int
on_header_value(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    if (http->phase != FB_PHASE_BODY) {
        extend_span(http, &field_in_hand(http)->value, at, len);
    }
    return HPE_OK;
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Optional white space around a value is not part of it, RFC 9112 5.1. */
static void
strip_value(const char *message, fb_span *value)
{
    while (value->len > 0 && is_blank(message[value->off])) {
        value->off++;
        value->len--;
    }
    while (value->len > 0 && is_blank(message[value->off + value->len - 1])) {
        value->len--;
    }
}

/* Take the first element off a list, RFC 9110 5.6.1. Returns it, maybe empty. */
static fb_span
pop_element(const char *message, fb_span *list)
{
    const char *begin = message + list->off;
    const char *comma = memchr(begin, ',', list->len);
    uint32_t len = comma != NULL ? (uint32_t)(comma - begin) : list->len;
    uint32_t used = comma != NULL ? len + 1 : len;
    fb_span element = {list->off, len};
    list->off += used;
    list->len -= used;
    strip_value(message, &element);
    return element;
}

/* Expect, RFC 9110 10.1.1: a 1.0 client cannot mean it; of others we know one value. */
static bool
take_expect(fb_http *http, fb_span value)
{
    if (http->parser.http_minor == 0) {
        return true;
    }
    while (value.len > 0) {
        fb_span element = pop_element(message_of(http), &value);
        bool is_known = span_is(message_of(http), element, "100-continue", 12);
        if (!is_known && element.len > 0) {
            return reject(http, 417, "an unknown expectation");
        }
        http->expects_continue = http->expects_continue || is_known;
    }
    return http->expects_continue || reject(http, 417, "an empty expectation");
}

static bool
take_field(fb_http *http)
{
    const char *message = message_of(http);
    fb_header *field = field_in_hand(http);
    strip_value(message, &field->value);
    if (span_is(message, field->name, "host", 4)) {
        http->n_hosts++;
        http->host = field->value;
    } else if (span_is(message, field->name, "expect", 6)) {
        if (!take_expect(http, field->value)) {
            return false;
        }
    } else if (span_is(message, field->name, "transfer-encoding", 17)) {
        http->has_other_coding |= !span_is(message, field->value, "chunked", 7);
    }
    /* X_Foo would pass for X-Foo once it is a CGI name; no honest client sends it. */
    if (memchr(message + field->name.off, '_', field->name.len) != NULL) {
        http->req.n_dropped++;
    } else {
        http->req.n_headers++;
    }
    return true;
}

static int
on_header_value_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    if (http->phase == FB_PHASE_BODY) {
        return HPE_OK;
    }
    http->is_field_kept = false;
    return take_field(http) ? HPE_OK : HPE_USER;
}

/* ---- the head as a whole --------------------------------------------------------- */

/* The authority of an absolute-form target replaces Host, RFC 9112 3.2.2. */
static void
override_host(fb_http *http, fb_span authority)
{
    for (size_t i = 0; i < http->req.n_headers; i++) {
        fb_header *field = &http->req.headers[i];
        if (span_is(message_of(http), field->name, "host", 4)) {
            field->value = authority;
        }
    }
}

static bool
check_host(fb_http *http)
{
    if (http->n_hosts > 1) {
        return reject(http, 400, "more than one Host");
    }
    if (http->n_hosts == 0) {
        return http->req.minor == 0 || reject(http, 400, "no Host");
    }
    return fb_host_is_valid(message_of(http) + http->host.off, http->host.len) ||
           reject(http, 400, "a malformed Host");
}

static bool
check_target(fb_http *http)
{
    fb_span authority = {0, 0};
    bool is_options = http->req.method == HTTP_OPTIONS;
    fb_target_form form =
        fb_target_parse(message_of(http), &http->req, is_options, &authority);
    if (form == FB_TARGET_BAD) {
        return reject(http, 400, "a malformed request-target");
    }
    if (form == FB_TARGET_FOREIGN) {
        return reject(http, 421, "the scheme of the target is not HTTP's");
    }
    if (form == FB_TARGET_ABSOLUTE) {
        override_host(http, authority);
    }
    return true;
}

static bool
check_head(fb_http *http)
{
    const llhttp_t *parser = &http->parser;
    if (parser->http_major != 1 || parser->http_minor > 1) {
        return reject(http, 505, "the version is not HTTP/1.0 or HTTP/1.1");
    }
    http->req.minor = parser->http_minor;
    if (parser->method == HTTP_CONNECT) {
        return reject(http, 501, "CONNECT is not served");
    }
    http->is_chunked = (parser->flags & F_CHUNKED) != 0;
    if ((parser->flags & F_TRANSFER_ENCODING) != 0 && http->req.minor == 0) {
        /* RFC 9112 6.1: framing by a version that does not know it is an attack. */
        return reject(http, 400, "Transfer-Encoding on HTTP/1.0");
    }
    if (http->is_chunked && http->has_other_coding) {
        /* RFC 9112 6.1: its body would come out still coded, as if that was the
         * content. Without chunked at the end llhttp says 400, 6.3 rule 4. */
        return reject(http, 501, "a transfer coding other than chunked");
    }
    if (!check_host(http) || !check_target(http)) {
        return false;
    }
    return parser->content_length <= http->limits->max_body || http->is_chunked ||
           reject(http, 413, "the body is too long");
}

static int
on_headers_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    if (!check_head(http)) {
        return -1;
    }
    /* An Upgrade is ignored, RFC 9110 7.8: without this llhttp would stop after it. */
    parser->upgrade = 0;
    /* RFC 9112 9.3: close wins, also over the keep-alive of HTTP/1.0. */
    http->req.keep_alive = llhttp_should_keep_alive(parser) != 0 &&
                           (parser->flags & F_CONNECTION_CLOSE) == 0;
    /* Not before the rest of the head has been judged, too. */
    http->wants_continue = http->expects_continue;
    http->phase = FB_PHASE_BODY;
    /* Chunk framing is counted from here: stop, so that "here" is known. */
    return http->is_chunked ? HPE_PAUSED : HPE_OK;
}

/* ---- the body -------------------------------------------------------------------- */

/* Chunk extensions, RFC 9112 7.1.1, are ignored, but must be some: llhttp takes empty
 * names and values, and a quoted string that begins within a value. */
static int
on_extension_name(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    (void)at;
    http->has_extension = http->has_extension || len > 0;
    return HPE_OK;
}

static int
on_extension_value(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    if (!http->has_extension) {
        http->is_extension_quoted = len > 0 && at[0] == '"';
        http->has_extension = len > 0;
    }
    if (!http->is_extension_quoted && memchr(at, '"', len) != NULL) {
        reject(http, 400, "a quote within the value of a chunk extension");
        return HPE_USER;
    }
    return HPE_OK;
}

static int
on_extension_part_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    if (!http->has_extension) {
        reject(http, 400, "an empty name or value of a chunk extension");
        return HPE_USER;
    }
    http->has_extension = false;
    return HPE_OK;
}

static int
on_chunk_header(llhttp_t *parser)
{
    fb_http *http = parser->data;
    uint64_t len = http->req.n_spooled + http->req.body.len;
    if (parser->content_length > http->limits->max_body - len) {
        reject(http, 413, "the body is too long");
        return HPE_USER;
    }
    return HPE_OK;
}

static int
on_body(llhttp_t *parser, const char *at, size_t len)
{
    fb_http *http = parser->data;
    fb_span *body = &http->req.body;
    if (body->len == 0 && http->req.n_spooled == 0) {
        body->off = offset_of(http, at);
    }
    char *end = message_of(http) + body->off + body->len;
    if (end != at) {
        memmove(end, at, len);
    }
    body->len += (uint32_t)len;
    http->data_end = (size_t)(at + len - http->input);
    http->wants_continue = false;
    return HPE_OK;
}

static int
on_message_complete(llhttp_t *parser)
{
    fb_http *http = parser->data;
    if (http->req.keep_alive) {
        /* A trailer may not say close: llhttp would refuse what follows. */
        parser->flags &= (uint16_t)~F_CONNECTION_CLOSE;
    }
    http->wants_continue = false;
    http->phase = FB_PHASE_COMPLETE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_method_complete = on_method_complete,
    .on_protocol = on_protocol,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_chunk_extension_name = on_extension_name,
    .on_chunk_extension_name_complete = on_extension_part_complete,
    .on_chunk_extension_value = on_extension_value,
    .on_chunk_extension_value_complete = on_extension_part_complete,
    .on_chunk_header = on_chunk_header,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* ---- feeding --------------------------------------------------------------------- */

void
fb_http_init(fb_http *http, const fb_limits *limits)
{
    llhttp_init(&http->parser, HTTP_REQUEST, &settings);
    http->parser.data = http;
    http->limits = limits;
    http->phase = FB_PHASE_COMPLETE;
    http->parsed = 0;
    http->status = 0;
    http->reason = NULL;
}

static void
begin_message(fb_http *http)
{
    memset(&http->req, 0, offsetof(fb_request, headers));
    http->req.start = http->parsed;
    http->phase = FB_PHASE_START;
    http->framing_len = 0;
    http->n_fields = 0;
    http->n_protocol = 0;
    http->n_empty_lines = 0;
    http->n_hosts = 0;
    http->is_field_kept = false;
    http->has_extension = false;
    http->has_target = false;
    http->is_chunked = false;
    http->has_other_coding = false;
    http->expects_continue = false;
    http->wants_continue = false;
}

/* How far llhttp may run: to the next byte at which a limit could be reached. */
static size_t
run_length(const fb_http *http, size_t len)
{
    const fb_limits *limits = http->limits;
    size_t most = len;
    if (http->phase != FB_PHASE_BODY) {
        most = limits->max_head - http->framing_len;
        size_t target_most = limits->max_target + 1 - http->req.target.len;
        if (!http->has_target && target_most < most) {
            most = target_most;
        }
    } else if (http->is_chunked) {
        most = FB_CHUNK_FRAMING - http->framing_len;
    }
    return len < most ? len : most;
}

/* llhttp's list of methods is closed. A well-formed method that is not on it is 501,
 * anything else 400; while it cannot be told yet, wait for more. */
static fb_feed
judge_method(fb_http *http, const fb_buf *in)
{
    const char *begin = in->data + http->req.start;
    const char *at = begin;
    const char *end = in->data + in->len;
    http->phase = FB_PHASE_METHOD;
    http->parsed = in->len;
    while (at < end && at - begin < FB_METHOD_BYTES && fb_token_has(*at)) {
        at++;
    }
    if (at - begin == FB_METHOD_BYTES || (at < end && at > begin && *at == ' ')) {
        reject(http, 501, "an unknown method");
        return FB_FEED_REJECT;
    }
    if (at < end) {
        reject(http, 400, "a malformed method");
        return FB_FEED_REJECT;
    }
    return FB_FEED_MORE;
}

/* What an error of llhttp's own means to the client. */
static void
judge_error(fb_http *http, llhttp_errno_t error)
{
    const char *reason = llhttp_get_error_reason(&http->parser);
    http->status = 400;
    http->reason = reason != NULL ? reason : "malformed";
    if (error == HPE_PAUSED_H2_UPGRADE) {
        reject(http, 505, "the preface of HTTP/2");
    } else if (error == HPE_INVALID_VERSION &&
               strcmp(http->reason, "Invalid HTTP version") == 0) {
        reject(http, 505, "the version is not HTTP/1.0 or HTTP/1.1");
    } else if (error == HPE_INVALID_CONSTANT &&
               strcmp(http->reason, "Invalid method for HTTP/x.x request") == 0) {
        reject(http, 501, "the method is not one of HTTP");
    }
}

/* Count what was framing of the run that began at the given offset. */
static void
count_framing(fb_http *http, size_t began)
{
    if (http->data_end != 0) {
        http->framing_len = http->parsed - http->data_end;
    } else {
        http->framing_len += http->parsed - began;
    }
}

/* Run llhttp once, over part of what is there. */
static llhttp_errno_t
run(fb_http *http, fb_buf *in)
{
    size_t began = http->parsed;
    size_t len = run_length(http, in->len - began);
    assert(len > 0); /* check_framing came first */
    const char *begin = in->data + began;
    bool was_body = http->phase == FB_PHASE_BODY;
    http->input = in->data;
    http->data_end = 0;
    if (http->phase == FB_PHASE_START) {
        http->phase = FB_PHASE_HEAD;
    }
    llhttp_errno_t error = llhttp_execute(&http->parser, begin, len);
    if (error == HPE_OK) {
        http->parsed += len;
    } else {
        http->parsed = (size_t)(llhttp_get_error_pos(&http->parser) - in->data);
    }
    if (error == HPE_PAUSED) {
        llhttp_resume(&http->parser);
        error = HPE_OK;
    }
    if (!was_body && http->phase == FB_PHASE_BODY) {
        http->framing_len = 0;
    } else {
        count_framing(http, began);
    }
    return error;
}

static bool
check_framing(fb_http *http)
{
    if (http->phase == FB_PHASE_HEAD && http->framing_len >= http->limits->max_head) {
        return reject(http, 431, "the head is too long");
    }
    if (http->phase == FB_PHASE_BODY && http->is_chunked &&
        http->framing_len >= FB_CHUNK_FRAMING) {
        return reject(http, 400, "too much between the data of two chunks");
    }
    return true;
}

/* All that is here was parsed: of a chunked body only the data is still of use. */
static void
drop_framing(fb_http *http, fb_buf *in)
{
    bool has_begun = http->req.body.len > 0 || http->req.n_spooled > 0;
    if (http->phase == FB_PHASE_BODY && http->is_chunked && has_begun) {
        in->len = http->req.start + http->req.body.off + http->req.body.len;
        http->parsed = in->len;
    }
}

/* Empty lines before a request line are ignored, RFC 9112 2.2; they are no message yet.
 * llhttp would also skip a CR or LF that stands alone. A CR at the end of the input
 * stays in it, as the first byte of what may become a message. */
static bool
skip_empty_lines(fb_http *http, const fb_buf *in)
{
    for (; http->parsed < in->len; http->parsed++) {
        bool is_after_cr = http->parsed > http->req.start;
        char c = in->data[http->parsed];
        if (is_after_cr ? c != '\n' : c == '\n') {
            return reject(http, 400, "a bare CR or LF before the request line");
        }
        if (is_after_cr) {
            http->req.start = http->parsed + 1;
            if (++http->n_empty_lines > FB_EMPTY_LINES) {
                return reject(http, 400, "too many empty lines");
            }
        } else if (c != '\r') {
            break;
        }
    }
    return true;
}

fb_feed
fb_http_feed(fb_http *http, fb_buf *in)
{
    assert(http->phase != FB_PHASE_HELD);
    if (http->phase == FB_PHASE_COMPLETE) {
        begin_message(http);
    }
    if (http->phase == FB_PHASE_START && !skip_empty_lines(http, in)) {
        return FB_FEED_REJECT;
    }
    while (http->parsed < in->len) {
        if (http->phase == FB_PHASE_METHOD) {
            return judge_method(http, in);
        }
        llhttp_errno_t error = run(http, in);
        if (http->phase == FB_PHASE_COMPLETE) {
            return FB_FEED_REQUEST;
        }
        if (http->status != 0) {
            return FB_FEED_REJECT;
        }
        if (error == HPE_INVALID_METHOD) {
            return judge_method(http, in);
        }
        if (error != HPE_OK) {
            judge_error(http, error);
            return FB_FEED_REJECT;
        }
        if (!check_framing(http)) {
            return FB_FEED_REJECT;
        }
    }
    drop_framing(http, in);
    return FB_FEED_MORE;
}

void
fb_http_compact(fb_http *http, fb_buf *in)
{
    size_t used = http->phase == FB_PHASE_COMPLETE ? http->parsed : http->req.start;
    fb_buf_consume(in, used);
    http->parsed -= used;
    http->req.start = 0;
}

void
fb_http_drop_body(fb_http *http, fb_buf *in)
{
    fb_span *body = &http->req.body;
    assert(http->phase == FB_PHASE_BODY && http->parsed == in->len &&
           in->len == http->req.start + body->off + body->len);
    in->len -= body->len;
    http->parsed = in->len;
    http->req.n_spooled += body->len;
    body->len = 0;
}

void
fb_http_recall(fb_http *http, const fb_request *req)
{
    fb_request_copy(&http->req, req);
    http->parser.method = req->method;
    http->parser.http_major = 1;
    http->parser.http_minor = req->minor;
    http->has_target = true;
    http->wants_continue = false;
}

size_t
fb_http_body_missing(const fb_http *http)
{
    if (http->phase != FB_PHASE_BODY || http->is_chunked) {
        return 0;
    }
    return (size_t)http->parser.content_length;
}
