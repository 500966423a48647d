/* SPDX-License-Identifier: MIT */
/*
 * A reader of replies that knows what is to come.
 */
#include "reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
require(bool holds, const reply_reader *reader, const char *what)
{
    if (holds) {
        return;
    }
    fprintf(stderr, "reply %zu of %zu, byte %llu of its body: %s\n%.*s\n",
            reader->n_read, reader->n_due, (unsigned long long)reader->at, what,
            (int)reader->line_len, reader->line);
    abort();
}

void
reader_reset(reply_reader *reader)
{
    memset(reader, 0, offsetof(reply_reader, line));
}

void
reader_expect(reply_reader *reader, const reply_due *due)
{
    require(reader->n_due < READER_MOST_DUE, reader, "too many for the test");
    reader->due[reader->n_due++] = *due;
}

static void
finish_reply(reply_reader *reader)
{
    reader->place = READER_HEAD;
    reader->line_len = 0;
    reader->n_read += reader->own_status == 0;
}

/* What the server says by itself comes last and closes. */
static reply_due
own_reply(reply_reader *reader, int status)
{
    require(status >= 400, reader, "a reply to nothing");
    const char *length = strstr(reader->line, "\r\nContent-Length: ");
    require(length != NULL, reader, "no length");
    reader->own_status = status;
    return (reply_due){
        .status = (uint16_t)status,
        .len = strtoull(length + 18, NULL, 10),
        .framing = FB_FRAMING_LENGTH,
        .says_close = true,
        .may_break_off = true, /* the answer to a HEAD has no body */
    };
}

static void
check_framing(const reply_reader *reader)
{
    const reply_due *now = &reader->now;
    const char *length = strstr(reader->line, "\r\nContent-Length: ");
    const char *coding = strstr(reader->line, "\r\nTransfer-Encoding: chunked\r\n");
    if (now->framing == FB_FRAMING_LENGTH) {
        require(length != NULL && coding == NULL, reader, "not by length");
        require(now->data == NULL || strtoull(length + 18, NULL, 10) == now->len,
                reader, "another length");
    } else if (now->framing == FB_FRAMING_CHUNKED) {
        require(length == NULL && coding != NULL, reader, "not chunked");
    } else {
        require(length == NULL && coding == NULL, reader, "framed");
    }
}

/* A head is in line, as a string. */
static void
read_head(reply_reader *reader)
{
    int status = 0;
    require(sscanf(reader->line, "HTTP/1.1 %3d ", &status) == 1, reader, "no reply");
    if (status == 100) {
        require(strcmp(reader->line, "HTTP/1.1 100 Continue\r\n\r\n") == 0, reader,
                "100, and more");
        reader->n_continue++;
        reader->line_len = 0;
        return;
    }
    bool is_own = reader->n_read == reader->n_due;
    reader->now = is_own ? own_reply(reader, status) : reader->due[reader->n_read];
    reader->at = 0;
    require(status == reader->now.status, reader, "another status");
    bool closes = strstr(reader->line, "\r\nConnection: close\r\n") != NULL;
    require(closes == reader->now.says_close || reader->now.may_close, reader,
            closes ? "says close" : "does not say close");
    reader->is_last = closes;
    check_framing(reader);
    if (reader->now.data == NULL && !is_own) {
        const char *length = strstr(reader->line, "\r\nContent-Length: ");
        reader->now.len = strtoull(length + 18, NULL, 10);
    }
    if (reader->now.is_head ||
        (reader->now.framing == FB_FRAMING_LENGTH && reader->now.len == 0)) {
        finish_reply(reader);
    } else {
        reader->place =
            reader->now.framing == FB_FRAMING_CHUNKED ? READER_CHUNK_SIZE : READER_BODY;
        reader->line_len = 0;
    }
}

/* Take bytes into line up to its end. Returns how many; *is_whole: with its end. */
static size_t
take_line(reply_reader *reader, const char *bytes, size_t len, const char *end,
          bool *is_whole)
{
    size_t end_len = strlen(end);
    for (size_t i = 0; i < len; i++) {
        require(reader->line_len + 1 < READER_HEAD_BYTES, reader, "a line too long");
        reader->line[reader->line_len++] = bytes[i];
        reader->line[reader->line_len] = '\0';
        if (reader->line_len >= end_len &&
            memcmp(reader->line + reader->line_len - end_len, end, end_len) == 0) {
            *is_whole = true;
            return i + 1;
        }
    }
    *is_whole = false;
    return len;
}

static size_t
take_data(reply_reader *reader, const char *bytes, size_t len, uint64_t most)
{
    size_t n = most < len ? (size_t)most : len;
    const reply_due *now = &reader->now;
    require(n <= now->len - reader->at, reader, "more than its body");
    require(now->data == NULL || memcmp(now->data + reader->at, bytes, n) == 0, reader,
            "another body");
    reader->at += n;
    return n;
}

static size_t
take_chunk_size(reply_reader *reader, const char *bytes, size_t len)
{
    bool is_whole;
    size_t n = take_line(reader, bytes, len, "\r\n", &is_whole);
    if (is_whole) {
        char *end;
        reader->left = strtoull(reader->line, &end, 16);
        require(end > reader->line && *end == '\r', reader, "no size of a chunk");
        reader->place = reader->left == 0 ? READER_CHUNK_END : READER_CHUNK_DATA;
        reader->line_len = 0;
    }
    return n;
}

static size_t
take_chunk_end(reply_reader *reader, const char *bytes, size_t len)
{
    bool is_whole;
    size_t n = take_line(reader, bytes, len, "\r\n", &is_whole);
    if (!is_whole) {
        return n;
    }
    require(reader->line_len == 2, reader, "more behind a chunk");
    reader->line_len = 0;
    if (reader->left == 0) {
        require(reader->at == reader->now.len, reader, "the last chunk came early");
        finish_reply(reader);
        return n;
    }
    reader->place = READER_CHUNK_SIZE;
    return n;
}

static size_t
take(reply_reader *reader, const char *bytes, size_t len)
{
    bool is_whole;
    size_t n;
    switch (reader->place) {
    case READER_HEAD:
        require(!reader->is_last, reader, "something follows a reply that said close");
        n = take_line(reader, bytes, len, "\r\n\r\n", &is_whole);
        if (is_whole) {
            read_head(reader);
        }
        return n;
    case READER_BODY:
        n = take_data(reader, bytes, len, reader->now.len - reader->at);
        require(n > 0, reader, "more than its body");
        if (reader->at == reader->now.len && reader->now.framing == FB_FRAMING_LENGTH) {
            finish_reply(reader);
        }
        return n;
    case READER_CHUNK_SIZE:
        return take_chunk_size(reader, bytes, len);
    case READER_CHUNK_DATA:
        n = take_data(reader, bytes, len, reader->left);
        require(n > 0, reader, "more than its body");
        reader->left -= n;
        if (reader->left == 0) {
            reader->left = 1; /* not the last chunk */
            reader->place = READER_CHUNK_END;
        }
        return n;
    case READER_CHUNK_END:
        return take_chunk_end(reader, bytes, len);
    }
    return len;
}

void
reader_feed(reply_reader *reader, const char *bytes, size_t len)
{
    while (len > 0) {
        size_t n = take(reader, bytes, len);
        bytes += n;
        len -= n;
    }
}

bool
reader_is_between(const reply_reader *reader)
{
    return reader->place == READER_HEAD && reader->line_len == 0;
}

bool
reader_has_all(const reply_reader *reader)
{
    return reader_is_between(reader) &&
           (reader->is_last || reader->n_read == reader->n_due);
}

void
reader_end(const reply_reader *reader)
{
    bool is_to_the_end = reader->place == READER_BODY &&
                         reader->now.framing == FB_FRAMING_NONE &&
                         reader->at == reader->now.len;
    bool is_broken_off = !reader_is_between(reader) && reader->place != READER_HEAD &&
                         reader->now.may_break_off;
    require(reader_has_all(reader) || is_to_the_end || is_broken_off, reader,
            "the connection ended before all was sent");
}
