/* SPDX-License-Identifier: MIT */
/*
 * How long clients say that they wait.
 */
#include "check.h"
#include "core/deadline.h"
#include "guard.h"

#define S 1000000000ULL
#define MS 1000000ULL

static guard room;

static char *
place(const char *bytes, size_t len)
{
    return memcpy(guard_place(&room, len), bytes, len);
}

/* Returns what a request with the fields says, which are "Name:value" each. */
static uint64_t
read(const char *name, const char *const *fields, size_t n)
{
    char text[256];
    fb_deadline deadline;
    fb_request req = {.n_headers = (uint16_t)n};
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        const char *colon = strchr(fields[i], ':');
        size_t name_len = (size_t)(colon - fields[i]);
        size_t value_len = strlen(colon + 1);
        req.headers[i].name = (fb_span){(uint32_t)len, (uint32_t)name_len};
        req.headers[i].value =
            (fb_span){(uint32_t)(len + name_len + 1), (uint32_t)value_len};
        memcpy(text + len, fields[i], name_len + 1 + value_len);
        len += name_len + 1 + value_len;
    }
    fb_deadline_init(&deadline, name);
    return fb_deadline_read(&deadline, place(text, len), &req);
}

static uint64_t
read_one(const char *name, const char *field)
{
    return read(name, &field, 1);
}

static void
test_number_is_of_seconds(void)
{
    CHECK(read_one("timeout", "timeout:2") == 2 * S);
    CHECK(read_one("timeout", "TimeOut:0") == 0);
    CHECK(read_one("timeout", "timeout:1.5") == 1500 * MS);
    CHECK(read_one("timeout", "timeout:.25") == 250 * MS);
    CHECK(read_one("timeout", "timeout:3.") == 3 * S);
    CHECK(read_one("timeout", "timeout:0.000000001") == 1);
    CHECK(read_one("timeout", "timeout:0.00000000099999999999999999") == 0);
}

static void
test_or_of_milliseconds_as_the_name_says(void)
{
    CHECK(read_one("rq-timeout-ms", "rq-timeout-ms:1500") == 1500 * MS);
    CHECK(read_one("rq-timeout-ms", "rq-timeout-ms:0.5") == MS / 2);
    CHECK(read_one("-ms", "-ms:1") == S);
}

static void
test_what_is_no_number_is_no_deadline(void)
{
    const char *const bad[] = {
        "t:",    "t:.",  "t:-1",  "t:+1",  "t:1s",   "t:1e3",
        "t:1,5", "t: 1", "t:0x1", "t:nan", "t:1.5.", "t:inf",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK(read_one("t", bad[i]) == UINT64_MAX);
    }
}

static void
test_large_number_does_not_wrap(void)
{
    uint64_t most = read_one("t", "t:99999999999999999999999999999999999999.9");
    CHECK(most > 3600 * S && most < UINT64_MAX / 2);
    CHECK(read_one("t", "t:1152921504606846976") == most);
    CHECK(read_one("t", "t:3600") == 3600 * S);
}

static void
test_other_fields_do_not_count(void)
{
    CHECK(read_one("timeout", "timeout2:1") == UINT64_MAX);
    CHECK(read_one("timeout", "timeou:1") == UINT64_MAX);
    CHECK(read_one("", "timeout:1") == UINT64_MAX);
    CHECK(read("timeout", NULL, 0) == UINT64_MAX);
}

static void
test_of_several_the_shortest_counts(void)
{
    const char *const fields[] = {"t:3", "u:1", "t:2", "t:x", "t:4"};
    CHECK(read("t", fields, 5) == 2 * S);
}

int
main(void)
{
    guard_init(&room, 256);
    RUN(test_number_is_of_seconds);
    RUN(test_or_of_milliseconds_as_the_name_says);
    RUN(test_what_is_no_number_is_no_deadline);
    RUN(test_large_number_does_not_wrap);
    RUN(test_other_fields_do_not_count);
    RUN(test_of_several_the_shortest_counts);
    guard_fini(&room);
    return check_report("test_deadline");
}
