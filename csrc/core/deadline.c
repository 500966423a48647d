/* SPDX-License-Identifier: MIT */
/*
 * Reading a deadline. What is no number is no deadline: it may be somebody else's
 * field, and the server's own deadline holds.
 */
#include "core/deadline.h"

#include "core/token.h"

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL

/* More than anybody waits, so that nothing overflows. */
#define MOST_NS (1ULL << 60)

void
fb_deadline_init(fb_deadline *deadline, const char *name)
{
    size_t len = strlen(name);
    bool is_ms = len > 3 && strcmp(name + len - 3, "-ms") == 0;
    deadline->name = name;
    deadline->name_len = len;
    deadline->unit_ns = is_ms ? NS_PER_MS : NS_PER_S;
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Returns nanoseconds, or UINT64_MAX: it is no number. */
static uint64_t
read_number(const char *text, size_t len, uint64_t unit_ns)
{
    uint64_t ns = 0;
    size_t i = 0;
    for (; i < len && is_digit(text[i]); i++) {
        uint64_t more = ns * 10 + (uint64_t)(text[i] - '0') * unit_ns;
        ns = ns >= MOST_NS / 10 || more > MOST_NS ? MOST_NS : more;
    }
    size_t n_digits = i;
    if (i < len && text[i] == '.') {
        for (i++; i < len && is_digit(text[i]); i++, n_digits++) {
            unit_ns /= 10;
            ns += (uint64_t)(text[i] - '0') * unit_ns;
        }
    }
    if (i < len || n_digits == 0) {
        return UINT64_MAX;
    }
    return ns < MOST_NS ? ns : MOST_NS;
}

uint64_t
fb_deadline_read(const fb_deadline *deadline, const char *message,
                 const fb_request *req)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; deadline->name_len > 0 && i < req->n_headers; i++) {
        const fb_header *header = &req->headers[i];
        if (fb_token_is(message + header->name.off, header->name.len, deadline->name,
                        deadline->name_len)) {
            uint64_t ns = read_number(message + header->value.off, header->value.len,
                                      deadline->unit_ns);
            least = ns < least ? ns : least;
        }
    }
    return least;
}
