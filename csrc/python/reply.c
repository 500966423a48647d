/* SPDX-License-Identifier: MIT */
/*
 * Putting a reply into its connection's output.
 *
 * Everything that can be wrong is found before the first byte is written, so that a bad
 * reply leaves no trace on the wire.
 */
#include "python/reply.h"

py_asked
py_reply_asked(const fb_slot *slot)
{
    return (py_asked){
        .is_head = slot->req.is_head,
        .is_http10 = slot->req.minor == 0,
        .keep_alive = fb_conn_keeps_alive(slot->owner, slot),
    };
}

/* For the access log. What a stream has sent is noted when it is over. */
static void
note_reply(fb_slot *slot, const py_reply *reply, const py_asked *asked)
{
    bool is_known = reply->stream == NULL && reply->len != PY_LENGTH_UNKNOWN;
    bool has_body = is_known && py_head_sends_body(reply->head, asked);
    fb_slot_note(slot, reply->head->status, has_body ? reply->len : 0);
}

/* A body that outlives the dispatch: a stream, a file, or long bytes. Returns 0, or -1
 * with an exception set; *body is {0} when there is no need of one. */
static int
make_body(py_executor *executor, fb_slot *slot, py_reply *reply, const py_asked *asked,
          const fb_head *head, fb_body *body)
{
    *body = (fb_body){0};
    if (!py_head_sends_body(reply->head, asked)) {
        return 0;
    }
    if (reply->stream != NULL) {
        py_stream stream = *reply->stream;
        stream.framing = head->framing;
        stream.missing = head->length;
        *body = py_body_stream(executor, slot, &stream, reply->closes);
        reply->is_given = body->ops != NULL;
    } else if (reply->file != NULL) {
        *body = py_body_file(executor, slot, reply->file, reply->closes);
        reply->is_given = body->ops != NULL;
    } else if (reply->len >= FB_ZERO_COPY_BYTES && !reply->is_fleeting) {
        *body = py_body_in_place(executor->server, &reply->view, reply->holder,
                                 reply->data, reply->len);
    } else {
        return 0;
    }
    return body->ops != NULL ? 0 : -1;
}

/* Takes body. Returns false when there is no memory; then out is as it was, or has
 * failed and will send nothing more. */
static bool
write_reply(const fb_stamp *stamp, const fb_head *head, const char *data, size_t len,
            fb_body body, fb_out *out)
{
    size_t before = out->bytes.len;
    if (!fb_reply_head(&out->bytes, stamp, head)) {
        if (body.ops != NULL) {
            body.ops->release(body.owner);
        }
        return false;
    }
    if (body.ops != NULL) {
        return fb_out_add_body(out, body);
    }
    if (!fb_buf_append(&out->bytes, data, len)) {
        out->bytes.len = before;
        return false;
    }
    return true;
}

/* Under the executor's lock: nothing here may run Python code, or wait. */
static bool
put_reply(const fb_executor *executor, fb_slot *slot, const fb_head *head,
          const char *data, size_t len, fb_body body)
{
    fb_out *out = fb_conn_out(slot->owner);
    if (out == NULL) {
        if (body.ops != NULL) {
            body.ops->release(body.owner);
        }
    } else if (!write_reply(&executor->stamp, head, data, len, body, out)) {
        return false;
    }
    fb_conn_answered(slot->owner, slot, head->keep_alive);
    return true;
}

int
py_reply_send(py_executor *executor, fb_slot *slot, py_reply *reply)
{
    fb_head head;
    fb_body body;
    py_asked asked = py_reply_asked(slot);
    if (py_head_make(executor->server->state, reply->head, &asked, reply->len, &head) <
        0) {
        return -1;
    }
    note_reply(slot, reply, &asked);
    if (make_body(executor, slot, reply, &asked, &head, &body) < 0) {
        return -1;
    }
    if (!reply->head->has_type && fb_status_has_body(head.status)) {
        head.content_type = reply->content_type;
    }
    bool copies = reply->data != NULL && py_head_sends_body(reply->head, &asked);
    fb_executor_lock(executor->io);
    bool ok = put_reply(executor->io, slot, &head, reply->data,
                        copies ? (size_t)reply->len : 0, body);
    fb_executor_unlock(executor->io);
    fb_pool_tell(executor->io);
    if (!ok) {
        PyErr_NoMemory();
    }
    return ok ? 0 : -1;
}

void
py_reply_send_plain(py_executor *executor, fb_slot *slot, int status)
{
    py_asked asked = py_reply_asked(slot);
    fb_executor_lock(executor->io);
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL &&
        !fb_reply_plain(&out->bytes, &executor->io->stamp, status, asked.is_head,
                        asked.is_http10, asked.keep_alive)) {
        out->has_failed = true;
    }
    fb_slot_note(slot, status, asked.is_head ? 0 : fb_reply_plain_len(status));
    fb_conn_answered(slot->owner, slot, asked.keep_alive);
    fb_executor_unlock(executor->io);
    fb_pool_tell(executor->io);
}

/* ---- breaking off ---------------------------------------------------------------- */

static fb_pull
fail_at_once(void *owner, fb_buf *into)
{
    (void)owner;
    (void)into;
    return FB_PULL_FAIL;
}

static void
release_nothing(void *owner)
{
    (void)owner;
}

static const fb_body_ops broken_ops = {
    .pull = fail_at_once,
    .release = release_nothing,
};

void
py_reply_break_off(py_executor *executor, fb_slot *slot)
{
    fb_executor_lock(executor->io);
    fb_out *out = fb_conn_out(slot->owner);
    if (out != NULL) {
        (void)fb_out_add_body(out, (fb_body){.ops = &broken_ops}); /* it fails, too */
    }
    fb_conn_answered(slot->owner, slot, false);
    fb_executor_unlock(executor->io);
    fb_pool_tell(executor->io);
}
