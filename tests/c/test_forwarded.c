/* SPDX-License-Identifier: MIT */
/*
 * Whom we trust, and what we believe them.
 */
#include "check.h"
#include "core/forwarded.h"
#include "guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static guard room;

/* ---- addresses ------------------------------------------------------------------- */

static void
addresses_are_read_and_written(void)
{
    static const char *const texts[] = {
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "2001:db8::a",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:255.255.255.255",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char text[FB_ADDRESS_TEXT_BYTES];
        fb_address address;
        CHECK(fb_address_parse(&address, texts[i], strlen(texts[i])));
        fb_address_write(&address, text);
        CHECK_TEXT(text, strlen(text), texts[i]);
    }
}

static void
what_is_no_address_is_refused(void)
{
    static const char *const texts[] = {
        "",
        "1",
        "1.2.3",
        "1.2.3.4.",
        "1.2.3.04",
        "1.2.3.4 ",
        " ::1",
        "1.2.3.4:5",
        "[::1]",
        "::1%1",
        "::1/128",
        ":",
        ":::",
        "g::",
        "localhost",
        "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255:0",
        "0000000000000000000000000000000000000000000000001.2.3.4",
    };
    fb_address address;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        CHECK(!fb_address_parse(&address, texts[i], strlen(texts[i])));
    }
    CHECK(!fb_address_parse(&address, "1.2.3.4\0", 8));
    CHECK(!fb_address_parse(&address, "::1\0::2", 7));
}

static void
addresses_of_the_system_are_taken_over(void)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(443)};
    struct sockaddr unix_ = {.sa_family = AF_UNIX};
    char text[FB_ADDRESS_TEXT_BYTES];
    v4.sin_addr.s_addr = htonl(0x01020304);
    v6.sin6_addr = in6addr_loopback;
    fb_address address = fb_address_of((struct sockaddr *)&v4);
    fb_address_write(&address, text);
    CHECK_TEXT(text, strlen(text), "1.2.3.4");
    CHECK_SIZE(address.port, 80);
    address = fb_address_of((struct sockaddr *)&v6);
    fb_address_write(&address, text);
    CHECK_TEXT(text, strlen(text), "::1");
    CHECK_SIZE(address.port, 443);
    address = fb_address_of(&unix_);
    CHECK_SIZE(address.family, FB_FAMILY_NONE);
    fb_address_write(&address, text);
    CHECK_SIZE(strlen(text), 0);
}

/* ---- trust ----------------------------------------------------------------------- */

static fb_address
address_of(const char *text)
{
    fb_address address = {.family = FB_FAMILY_NONE};
    if (strcmp(text, "unix") != 0) {
        CHECK(fb_address_parse(&address, text, strlen(text)));
    }
    return address;
}

typedef struct trust_case {
    const char *networks;
    const char *peer; /* or "unix" */
    bool is_trusted;
} trust_case;

static const trust_case trust_cases[] = {
    {"", "127.0.0.1", false},
    {"", "unix", false},
    {"", "::", false},
    {"*", "127.0.0.1", true},
    {"*", "::1", true},
    {"*", "unix", true},
    {"unix", "unix", true},
    {"unix", "127.0.0.1", false},
    {"127.0.0.1", "127.0.0.1", true},
    {"127.0.0.1", "127.0.0.2", false},
    {"127.0.0.1", "::1", false},
    {"127.0.0.1", "unix", false},
    {"127.0.0.1", "::ffff:127.0.0.1", true},
    {"127.0.0.1", "::127.0.0.1", false},
    {"::1", "::1", true},
    {"::1", "::2", false},
    {"::1", "127.0.0.1", false},
    {"::", "0.0.0.0", false},
    {"10.0.0.0/8", "10.255.255.255", true},
    {"10.0.0.0/8", "11.0.0.0", false},
    {"10.0.0.0/9", "10.127.255.255", true},
    {"10.0.0.0/9", "10.128.0.0", false},
    {"10.0.0.0/31", "10.0.0.1", true},
    {"10.0.0.0/31", "10.0.0.2", false},
    {"10.0.0.0/32", "10.0.0.1", false},
    {"0.0.0.0/0", "255.1.2.3", true},
    {"0.0.0.0/0", "::1", false},
    {"0.0.0.0/0", "::ffff:1.2.3.4", true},
    {"0.0.0.0/0", "unix", false},
    {"::/0", "ffff::", true},
    {"::/0", "1.2.3.4", false},
    {"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true},
    {"2001:db8::/32", "2001:db8:ffff::1", true},
    {"2001:db8::/32", "2001:db9::1", false},
    {"2001:db8::/33", "2001:db8:8000::1", false},
    {"2001:db8::/128", "2001:db8::", true},
    {"2001:db8::/127", "2001:db8::1", true},
    {"2001:db8::/127", "2001:db8::2", false},
    {"::1,unix,10.0.0.1", "10.0.0.1", true},
    {"::1,unix,10.0.0.1", "unix", true},
    {"::1,unix,10.0.0.1", "10.0.0.2", false},
};

static void
networks_have_the_addresses_of_their_prefix(void)
{
    static fb_trust trust;
    for (size_t i = 0; i < sizeof(trust_cases) / sizeof(trust_cases[0]); i++) {
        const trust_case *want = &trust_cases[i];
        memset(&trust, 0, sizeof(trust));
        CHECK(fb_trust_read(&trust, want->networks));
        fb_address peer = address_of(want->peer);
        peer.port = 1234;
        CHECK(fb_trust_has(&trust, &peer) == want->is_trusted);
        if (check_complaints > 0) {
            printf("in %s: %s\n", want->networks, want->peer);
        }
    }
}

static void
malformed_networks_are_refused(void)
{
    static const char *const lists[] = {
        ",",
        "1.2.3.4,",
        ",1.2.3.4",
        "1.2.3.4, ::1",
        "1.2.3",
        "1.2.3.4/33",
        "1.2.3.4/",
        "1.2.3.4/-1",
        "1.2.3.4/08",
        "::/129",
        "1.2.3.4/8/8",
        "/8",
        "1.2.3.4/65537",
        "UNIX",
        "**",
        "localhost",
        "[::1]",
        "1.2.3.4:80",
        "1.2.3.4/255.0.0.0",
    };
    static fb_trust trust;
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        memset(&trust, 0, sizeof(trust));
        CHECK(!fb_trust_read(&trust, lists[i]));
        if (check_complaints > 0) {
            printf("in %s\n", lists[i]);
        }
    }
}

static void
there_may_be_so_many_networks(void)
{
    static fb_trust trust;
    static char list[(FB_MAX_NETWORKS + 1) * 4];
    memset(&trust, 0, sizeof(trust));
    for (size_t i = 0; i <= FB_MAX_NETWORKS; i++) {
        memcpy(list + i * 4, "::1,", 4);
    }
    list[sizeof(list) - 1] = '\0';
    list[sizeof(list) - 5] = '\0';
    CHECK(fb_trust_read(&trust, list));
    list[sizeof(list) - 5] = ',';
    memset(&trust, 0, sizeof(trust));
    CHECK(!fb_trust_read(&trust, list));
}

/* ---- forwarded fields ------------------------------------------------------------ */

/* Fields, "name:value" each, and what is read; client NULL: the peer itself. */
typedef struct fields_case {
    const char *fields[4];
    const char *client;
    uint16_t port;
    bool is_https;
} fields_case;

#define FOR "X-Forwarded-For:"
#define PROTO "X-Forwarded-Proto:"

/* Trusted are 10.0.0.0/8 and fd00::/8. */
static const fields_case read_cases[] = {
    {{NULL}, NULL, 0, false},
    {{"Forwarded:for=1.2.3.4;proto=https", "X-Forwarded-For2:1.2.3.4"}, NULL, 0, false},
    {{FOR "1.2.3.4"}, "1.2.3.4", 0, false},
    {{"x-FORWARDED-for:1.2.3.4"}, "1.2.3.4", 0, false},
    {{FOR "1.2.3.4:56"}, "1.2.3.4", 56, false},
    {{FOR "2001:db8::1"}, "2001:db8::1", 0, false},
    {{FOR "[2001:db8::1]"}, "2001:db8::1", 0, false},
    {{FOR "[2001:db8::1]:65535"}, "2001:db8::1", 65535, false},
    {{FOR "5.6.7.8, 1.2.3.4"}, "1.2.3.4", 0, false},
    {{FOR "5.6.7.8,\t1.2.3.4 ,10.0.0.1"}, "1.2.3.4", 0, false},
    {{FOR "5.6.7.8, 10.9.9.9, fd00::1, 10.0.0.1"}, "5.6.7.8", 0, false},
    {{FOR "10.0.0.3, 10.0.0.2:80"}, "10.0.0.3", 0, false},
    {{FOR "::ffff:10.0.0.3, ::ffff:10.0.0.2"}, "::ffff:10.0.0.3", 0, false},
    {{FOR "5.6.7.8", FOR "1.2.3.4"}, "1.2.3.4", 0, false},
    {{FOR "1.2.3.4", "Accept:*", FOR "10.0.0.1"}, "1.2.3.4", 0, false},
    {{FOR "7.7.7.7", FOR "5.6.7.8,10.0.0.1", FOR "10.0.0.2"}, "5.6.7.8", 0, false},
    {{FOR ""}, NULL, 0, false},
    {{FOR ", ,"}, NULL, 0, false},
    {{FOR ",1.2.3.4,,"}, "1.2.3.4", 0, false},
    {{FOR "1.2.3.4", FOR ""}, "1.2.3.4", 0, false},
    /* What nobody vouches for is not even read. */
    {{FOR "unknown, <script>, 1.2.3.4"}, "1.2.3.4", 0, false},
    {{FOR "unknown", FOR "1.2.3.4"}, "1.2.3.4", 0, false},
    {{PROTO "https"}, NULL, 0, true},
    {{PROTO "HTTPS"}, NULL, 0, true},
    {{PROTO "http"}, NULL, 0, false},
    {{"x-forwarded-proto:Https", FOR "1.2.3.4"}, "1.2.3.4", 0, true},
    {{FOR "1.2.3.4", PROTO "https", FOR "10.0.0.1"}, "1.2.3.4", 0, true},
};

static const char *const bad_fields[][4] = {
    {FOR "unknown"},
    {FOR "_hidden"},
    {FOR "example.com"},
    {FOR "1.2.3"},
    {FOR "1.2.3.4:"},
    {FOR "1.2.3.4:65536"},
    {FOR "1.2.3.4:080"},
    {FOR "1.2.3.4:80:80"},
    {FOR "1.2.3.4;5.6.7.8"},
    {FOR "1.2.3.4 5.6.7.8"},
    {FOR "\"1.2.3.4\""},
    {FOR "[1.2.3.4]"},
    {FOR "[::1"},
    {FOR "["},
    {FOR "[]"},
    {FOR "[]:80"},
    {FOR "[::1]80"},
    {FOR "[::1]:"},
    {FOR "[::1]:x"},
    {FOR "[::1]]"},
    {FOR "::1]"},
    {FOR ":80"},
    {FOR ":"},
    {FOR "fe80::1%eth0"},
    {FOR "1.2.3.4, unknown"},
    {FOR "unknown, 10.0.0.1"},
    {FOR "unknown", FOR "10.0.0.1"},
    {PROTO ""},
    {PROTO "ftp"},
    {PROTO "httpss"},
    {PROTO "https, https"},
    {PROTO "https", PROTO "https"},
    {PROTO "http", "Accept:*", PROTO "https"},
    {PROTO "https", FOR "unknown"},
};

/* Put the fields at the end of the room, as a message of nothing else. */
static bool
read_fields(const char *const fields[4], fb_forwarded *forwarded)
{
    static fb_trust trust;
    static fb_request req;
    memset(&trust, 0, sizeof(trust));
    CHECK(fb_trust_read(&trust, "10.0.0.0/8,fd00::/8"));
    size_t len = 0;
    req.n_headers = 0;
    for (size_t i = 0; i < 4 && fields[i] != NULL; i++) {
        size_t name_len = strcspn(fields[i], ":");
        size_t whole = strlen(fields[i]);
        req.headers[req.n_headers++] = (fb_header){
            .name = {(uint32_t)len, (uint32_t)name_len},
            .value = {(uint32_t)(len + name_len + 1), (uint32_t)(whole - name_len - 1)},
        };
        len += whole;
    }
    char *message = guard_place(&room, len);
    for (size_t i = 0; i < req.n_headers; i++) {
        memcpy(message + req.headers[i].name.off, fields[i], strlen(fields[i]));
    }
    return fb_forwarded_read(&trust, message, &req, forwarded);
}

static void
fields_say_who_the_client_is_and_how_it_came(void)
{
    for (size_t i = 0; i < sizeof(read_cases) / sizeof(read_cases[0]); i++) {
        const fields_case *want = &read_cases[i];
        fb_forwarded got;
        CHECK(read_fields(want->fields, &got));
        CHECK(got.has_client == (want->client != NULL));
        CHECK(got.is_https == want->is_https);
        if (want->client != NULL) {
            char text[FB_ADDRESS_TEXT_BYTES];
            fb_address_write(&got.client, text);
            CHECK_TEXT(text, strlen(text), want->client);
            CHECK_SIZE(got.client.port, want->port);
        }
        if (check_complaints > 0) {
            printf("in read case %zu\n", i);
        }
    }
}

static void
malformed_fields_are_refused(void)
{
    for (size_t i = 0; i < sizeof(bad_fields) / sizeof(bad_fields[0]); i++) {
        fb_forwarded got;
        CHECK(!read_fields(bad_fields[i], &got));
        if (check_complaints > 0) {
            printf("in bad case %zu\n", i);
        }
    }
}

int
main(void)
{
    guard_init(&room, 4096);
    RUN(addresses_are_read_and_written);
    RUN(what_is_no_address_is_refused);
    RUN(addresses_of_the_system_are_taken_over);
    RUN(networks_have_the_addresses_of_their_prefix);
    RUN(malformed_networks_are_refused);
    RUN(there_may_be_so_many_networks);
    RUN(fields_say_who_the_client_is_and_how_it_came);
    RUN(malformed_fields_are_refused);
    guard_fini(&room);
    return check_report("test_forwarded");
}
