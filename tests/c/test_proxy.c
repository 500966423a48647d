/* SPDX-License-Identifier: MIT */
/*
 * PROXY headers, each judged at every length: the verdict on a whole header never
 * depends on how it came, and nothing is read behind what has come.
 */
#include "check.h"
#include "core/limits.h"
#include "core/proxy.h"
#include "guard.h"

static guard room;

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4_ENDS                                                                        \
    "\xc0\xa8\x00\x01\x0a\x00\x00\x02\xdc\x04\x01\xbb" /* 192.168.0.1:56324 */
#define V6_ONE "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
#define V6_ENDS V6_ONE V6_ONE "\x30\x39\x01\xbb"

/* What a header says; client "" is of no family. */
typedef struct good_case {
    const char *bytes;
    size_t len;
    fb_proxy_origin origin;
    const char *client;
    uint16_t port;
} good_case;

typedef struct bad_case {
    const char *bytes;
    size_t len;
} bad_case;

#define GOOD(bytes, origin, client, port)                                              \
    {bytes, sizeof(bytes) - 1, FB_PROXY_##origin, client, port}
#define BAD(bytes) {bytes, sizeof(bytes) - 1}

static const good_case good_cases[] = {
    GOOD("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", CLIENT, "192.168.0.1",
         56324),
    GOOD("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", CLIENT, "0.0.0.0", 0),
    GOOD("PROXY TCP4 1.2.3.4 1.2.3.4 65535 0\r\n", CLIENT, "1.2.3.4", 65535),
    GOOD("PROXY TCP6 ::1 2001:db8::1 1 2\r\n", CLIENT, "::1", 1),
    GOOD("PROXY TCP6 2001:DB8:0:0:0:0:0:A :: 1 2\r\n", CLIENT, "2001:db8::a", 1),
    GOOD("PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", CLIENT, "::ffff:1.2.3.4", 1),
    /* The longest of version 1: 107 bytes, as its specification has it. */
    GOOD("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
         UNKNOWN, NULL, 0),
    GOOD("PROXY UNKNOWN\r\n", UNKNOWN, NULL, 0),
    GOOD("PROXY UNKNOWN \r\n", UNKNOWN, NULL, 0),
    GOOD("PROXY UNKNOWN TCP4 ,;~ \r\n", UNKNOWN, NULL, 0),
    GOOD(SIGNATURE "\x20\x00\x00\x00", LOCAL, NULL, 0),
    GOOD(SIGNATURE "\x20\x11\x00\x0c" V4_ENDS, LOCAL, NULL, 0),
    GOOD(SIGNATURE "\x20\xff\x00\x03\xff\xff\xff", LOCAL, NULL, 0),
    GOOD(SIGNATURE "\x21\x00\x00\x00", UNKNOWN, NULL, 0),
    GOOD(SIGNATURE "\x21\x00\x00\x05\xff\xff\xff\xff\xff", UNKNOWN, NULL, 0),
    GOOD(SIGNATURE "\x21\x10\x00\x0c" V4_ENDS, UNKNOWN, NULL, 0),
    GOOD(SIGNATURE "\x21\x01\x00\x00", UNKNOWN, NULL, 0),
    GOOD(SIGNATURE "\x21\x11\x00\x0c" V4_ENDS, CLIENT, "192.168.0.1", 56324),
    GOOD(SIGNATURE "\x21\x12\x00\x0c" V4_ENDS, CLIENT, "192.168.0.1", 56324),
    GOOD(SIGNATURE "\x21\x21\x00\x24" V6_ENDS, CLIENT, "::1", 12345),
    GOOD(SIGNATURE "\x21\x22\x00\x24" V6_ENDS, CLIENT, "::1", 12345),
    GOOD(SIGNATURE "\x21\x11\x00\x0f" V4_ENDS "\x04\x00\x00", CLIENT, "192.168.0.1",
         56324),
    GOOD(SIGNATURE "\x21\x11\x00\x16" V4_ENDS "\x04\x00\x02\x00\x00\x02\x00\x02hi",
         CLIENT, "192.168.0.1", 56324),
    GOOD(SIGNATURE "\x21\x21\x00\x29" V6_ENDS "\xee\x00\x02hi", CLIENT, "::1", 12345),
};

static const bad_case bad_cases[] = {
    BAD("GET / HTTP/1.1\r\n"),
    BAD("\r\nGET / HTTP/1.1\r\n"),
    BAD("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    BAD("\x16\x03\x01"),
    BAD(" PROXY UNKNOWN\r\n"),
    BAD("proxy UNKNOWN\r\n"),
    BAD("PROXY\tUNKNOWN\r\n"),
    BAD("PROXY\r\n"),
    BAD("PROXY \r\n"),
    BAD("PROXY  UNKNOWN\r\n"),
    BAD("PROXY UNKNOWN\n"),
    BAD("PROXY UNKNOWN\r\r\n"),
    BAD("PROXY UNKNOWN\t\r\n"),
    BAD("PROXY UNKNOWN \0\r\n"),
    BAD("PROXY UNKNOWN \x80\r\n"),
    BAD("PROXY UNKNOWN \x7f\r\n"),
    BAD("PROXY unknown\r\n"),
    BAD("PROXY UNKNOWNS\r\n"),
    BAD("PROXY TCP 1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4\r\n"),
    BAD("PROXY TCP4 1.2.3.4\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n"),
    BAD("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1  2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4\t1 2\r\n"),
    BAD("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 0x1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 host 1 2\r\n"),
    BAD("PROXY TCP4 ::1 ::1 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 ::1 1 2\r\n"),
    BAD("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"),
    BAD("PROXY TCP6 [::1] [::1] 1 2\r\n"),
    BAD("PROXY TCP6 ::1%lo ::1 1 2\r\n"),
    BAD("PROXY TCP6 :::1 ::1 1 2\r\n"),
    BAD("PROXY TCP6 12345::1 ::1 1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 99999 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 4294967297 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 0x1 2\r\n"),
    BAD("PROXY TCP4 1.2.3.4 1.2.3.4 1 http\r\n"),
    /* 108 bytes, and a line that has no end within 107. */
    BAD("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535 \r\n"),
    BAD("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535   "),
    BAD("\r\n\r\n\0\r\nQUIT\r"),
    BAD("\r\n\r\n\r\n"),
    BAD(SIGNATURE "\x10\x00\x00\x00"),
    BAD(SIGNATURE "\x11\x11\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x31\x11\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x22\x11\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x2f\x00\x00\x00"),
    BAD(SIGNATURE "\x21\x13\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x21\x1f\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x21\x41\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x21\xf0\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x21\x11\x00\x00"),
    BAD(SIGNATURE "\x21\x11\x00\x0b" V4_ENDS),
    BAD(SIGNATURE "\x21\x21\x00\x0c" V4_ENDS),
    BAD(SIGNATURE "\x21\x21\x00\x23" V6_ENDS),
    BAD(SIGNATURE "\x21\x31\x00\x24" V6_ENDS),
    BAD(SIGNATURE "\x21\x11\x00\x0d" V4_ENDS "\x04"),
    BAD(SIGNATURE "\x21\x11\x00\x0e" V4_ENDS "\x04\x00"),
    BAD(SIGNATURE "\x21\x11\x00\x0f" V4_ENDS "\x04\x00\x01"),
    BAD(SIGNATURE "\x21\x11\x00\x10" V4_ENDS "\x04\x00\x00\x04"),
    BAD(SIGNATURE "\x21\x11\x00\x11" V4_ENDS "\x04\xff\xff\x00\x00"),
    BAD(SIGNATURE "\x21\x11\xff\xff" V4_ENDS),
    BAD(SIGNATURE "\x20\x00\x0f\xf1"),
};

/* Judge the first len of bytes, with nothing readable behind them. */
static fb_proxy_verdict
judge(const char *bytes, size_t len, fb_proxy *proxy)
{
    char *place = guard_place(&room, len);
    memcpy(place, bytes, len);
    return fb_proxy_parse(place, len, proxy);
}

static void
check_said(const good_case *want, const fb_proxy *proxy)
{
    char text[FB_ADDRESS_TEXT_BYTES];
    CHECK_SIZE(proxy->len, want->len);
    CHECK(proxy->origin == want->origin);
    if (want->origin == FB_PROXY_CLIENT) {
        fb_address_write(&proxy->client, text);
        CHECK_TEXT(text, strlen(text), want->client);
        CHECK_SIZE(proxy->client.port, want->port);
    }
}

static void
check_good(const good_case *want)
{
    fb_proxy proxy;
    for (size_t len = 0; len < want->len; len++) {
        CHECK(judge(want->bytes, len, &proxy) == FB_PROXY_MORE);
    }
    CHECK(judge(want->bytes, want->len, &proxy) == FB_PROXY_DONE);
    check_said(want, &proxy);
    /* What follows is the client's, be it the like of another header. */
    char more[512];
    static const char *const tails[] = {"GET / HTTP/1.1\r\n", "\r\n", "PROXY ", "\n"};
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        memcpy(more, want->bytes, want->len);
        memcpy(more + want->len, tails[i], strlen(tails[i]));
        CHECK(judge(more, want->len + strlen(tails[i]), &proxy) == FB_PROXY_DONE);
        check_said(want, &proxy);
    }
}

static void
whole_headers_say_who_the_client_is_in_any_split(void)
{
    for (size_t i = 0; i < sizeof(good_cases) / sizeof(good_cases[0]); i++) {
        check_good(&good_cases[i]);
        if (check_complaints > 0) {
            printf("in good case %zu\n", i);
        }
    }
}

static void
malformed_headers_are_bad_in_any_split(void)
{
    fb_proxy proxy;
    for (size_t i = 0; i < sizeof(bad_cases) / sizeof(bad_cases[0]); i++) {
        const bad_case *bad = &bad_cases[i];
        bool was_bad = false;
        for (size_t len = 0; len <= bad->len; len++) {
            fb_proxy_verdict verdict = judge(bad->bytes, len, &proxy);
            CHECK(verdict == (was_bad ? FB_PROXY_BAD : verdict));
            CHECK(verdict != FB_PROXY_DONE);
            was_bad = verdict == FB_PROXY_BAD;
        }
        CHECK(was_bad);
        if (check_complaints > 0) {
            printf("in bad case %zu\n", i);
        }
    }
}

static void
what_is_no_header_is_seen_at_its_first_byte(void)
{
    fb_proxy proxy;
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        bool may_begin = c == 'P' || c == '\r';
        CHECK(judge(&c, 1, &proxy) == (may_begin ? FB_PROXY_MORE : FB_PROXY_BAD));
    }
}

/* A header of version 2 with a block of len bytes: zeros, which are also vectors. */
static size_t
fill_v2(char *to, char family, size_t len)
{
    memset(to, 0, 16 + len);
    memcpy(to, SIGNATURE "\x21", 13);
    to[13] = family;
    to[14] = (char)(len >> 8);
    to[15] = (char)(len & 0xff);
    return 16 + len;
}

static void
client_of_a_unix_socket_has_no_address(void)
{
    char bytes[512];
    fb_proxy proxy;
    size_t len = fill_v2(bytes, 0x31, 216);
    memcpy(bytes + 16, "/run/client", 11);
    CHECK(judge(bytes, len, &proxy) == FB_PROXY_DONE);
    CHECK(proxy.origin == FB_PROXY_CLIENT);
    CHECK_SIZE(proxy.client.family, FB_FAMILY_NONE);
    len = fill_v2(bytes, 0x31, 215);
    CHECK(judge(bytes, len, &proxy) == FB_PROXY_BAD);
}

static void
tls_of_the_client_is_told_by_a_vector_of_version_2(void)
{
    static const struct {
        const char *vectors;
        size_t len;
        bool is_https;
    } cases[] = {
        {"", 0, false},
        {"\x20\0\x05\x01\0\0\0\0", 8, true},
        {"\x20\0\x05\x07\0\0\0\x01", 8, true},
        {"\x20\0\x05\x06\0\0\0\0", 8, false},
        {"\x04\0\x01\x20\x20\0\x0d\x01\0\0\0\0\x21\0\x05TLSv1", 20, true},
        {"\x21\0\x05\x01\0\0\0\0", 8, false},
    };
    char bytes[64];
    fb_proxy proxy;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t len = fill_v2(bytes, 0x11, 12 + cases[i].len);
        memcpy(bytes + 28, cases[i].vectors, cases[i].len);
        CHECK(judge(bytes, len, &proxy) == FB_PROXY_DONE);
        CHECK(proxy.is_https == cases[i].is_https);
    }
    size_t len = fill_v2(bytes, 0x11, 12 + 7);
    memcpy(bytes + 28, "\x20\0\x04\x01\0\0\0", 7);
    CHECK(judge(bytes, len, &proxy) == FB_PROXY_BAD);
}

static void
version_2_is_bounded(void)
{
    static char bytes[FB_PROXY_HEADER_BYTES + 16];
    fb_proxy proxy;
    /* 4,068 bytes of vectors of 3. */
    size_t len = fill_v2(bytes, 0x11, FB_PROXY_HEADER_BYTES - 16);
    CHECK(judge(bytes, len - 1, &proxy) == FB_PROXY_MORE);
    CHECK(judge(bytes, len, &proxy) == FB_PROXY_DONE);
    CHECK_SIZE(proxy.len, FB_PROXY_HEADER_BYTES);
    fill_v2(bytes, 0x11, FB_PROXY_HEADER_BYTES - 15);
    CHECK(judge(bytes, 15, &proxy) == FB_PROXY_MORE);
    CHECK(judge(bytes, 16, &proxy) == FB_PROXY_BAD);
}

int
main(void)
{
    guard_init(&room, FB_PROXY_HEADER_BYTES + 16);
    RUN(whole_headers_say_who_the_client_is_in_any_split);
    RUN(malformed_headers_are_bad_in_any_split);
    RUN(what_is_no_header_is_seen_at_its_first_byte);
    RUN(client_of_a_unix_socket_has_no_address);
    RUN(tls_of_the_client_is_told_by_a_vector_of_version_2);
    RUN(version_2_is_bounded);
    guard_fini(&room);
    return check_report("test_proxy");
}
