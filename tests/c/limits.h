/* SPDX-License-Identifier: MIT */
/*
 * Limits for servers under test: the defaults, and time-outs that never come. To be
 * changed by whoever is about one of them.
 */
#ifndef FB_TESTS_LIMITS_H
#define FB_TESTS_LIMITS_H

#include "core/limits.h"

static inline fb_limits
test_limits(void)
{
    return (fb_limits){
        .batch_size = FB_BATCH_SLOTS,
        .max_target = FB_MAX_TARGET,
        .max_headers = FB_MAX_HEADERS,
        .max_head = FB_MAX_HEAD,
        .max_body = FB_MAX_BODY,
        .max_body_memory = FB_MAX_BODY_MEMORY,
        .max_connections = FB_MAX_CONNECTIONS,
        .max_keepalive_requests = FB_MAX_KEEPALIVE_REQUESTS,
        .max_input_memory = FB_MAX_INPUT_MEMORY,
        .min_rate = FB_MIN_RATE,
        .backlog = FB_BACKLOG,
        .queue_timeout_ms = 60000,
        .keepalive_timeout_ms = 60000,
        .head_timeout_ms = 60000,
        .body_timeout_ms = 60000,
        .write_timeout_ms = 60000,
        .graceful_timeout_ms = 60000,
    };
}

#endif
