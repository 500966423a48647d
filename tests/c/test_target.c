/* SPDX-License-Identifier: MIT */
/*
 * The request-target and Host, also such bytes as llhttp would never let through.
 */
#include "check.h"
#include "core/target.h"
#include "guard.h"

static guard room;

/* A target and what it is taken apart into; NULL for what is not looked at. */
typedef struct target_case {
    const char *target;
    fb_target_form form;
    const char *path;
    const char *query;
    const char *authority;
} target_case;

static const target_case cases[] = {
    {"/", FB_TARGET_ORIGIN, "/", "", ""},
    {"/a/b", FB_TARGET_ORIGIN, "/a/b", "", ""},
    {"/a?", FB_TARGET_ORIGIN, "/a", "", ""},
    {"/a?b=c", FB_TARGET_ORIGIN, "/a", "b=c", ""},
    {"/?a?b", FB_TARGET_ORIGIN, "/", "a?b", ""},
    {"//a", FB_TARGET_ORIGIN, "//a", "", ""},
    {"/%00%zz%", FB_TARGET_ORIGIN, "/%00%zz%", "", ""},
    {"/*", FB_TARGET_ORIGIN, "/*", "", ""},
    {"http://a", FB_TARGET_ABSOLUTE, "/", "", "a"},
    {"http://a/", FB_TARGET_ABSOLUTE, "/", "", "a"},
    {"http://a/?", FB_TARGET_ABSOLUTE, "/", "", "a"},
    {"http://a?b", FB_TARGET_ABSOLUTE, "/", "b", "a"},
    {"http://a:80/b?c", FB_TARGET_ABSOLUTE, "/b", "c", "a:80"},
    {"http://[::1]:80/b", FB_TARGET_ABSOLUTE, "/b", "", "[::1]:80"},
    {"HTTPS://A//b", FB_TARGET_ABSOLUTE, "//b", "", "A"},
    {"hTTp://a/", FB_TARGET_ABSOLUTE, "/", "", "a"},
    {"a+b-c.1://d/", FB_TARGET_FOREIGN, NULL, NULL, NULL},
    {"ftp://a/b", FB_TARGET_FOREIGN, NULL, NULL, NULL},
    {"htt://a/", FB_TARGET_FOREIGN, NULL, NULL, NULL},
    {"httpx://a/", FB_TARGET_FOREIGN, NULL, NULL, NULL},
    {"httpss://a/", FB_TARGET_FOREIGN, NULL, NULL, NULL},
    {"ftp://a:b/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"", FB_TARGET_BAD, NULL, NULL, NULL},
    {"*", FB_TARGET_BAD, NULL, NULL, NULL}, /* with OPTIONS alone, see below */
    {"**", FB_TARGET_BAD, NULL, NULL, NULL},
    {"a", FB_TARGET_BAD, NULL, NULL, NULL},
    {"?a", FB_TARGET_BAD, NULL, NULL, NULL},
    {"#", FB_TARGET_BAD, NULL, NULL, NULL},
    {"a:80", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a#b", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a?#b", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a b", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a\tb", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a\r", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a\x7f", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/a\x80", FB_TARGET_BAD, NULL, NULL, NULL},
    {"/?\xff", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http:", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http:/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http:/a", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http:///a", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://?a", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://:80/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://a@b/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://a:b/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://a#b", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://a/#", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://[::1/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"http://\xe9/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"1http://a/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"://a/", FB_TARGET_BAD, NULL, NULL, NULL},
    {"h_p://a/", FB_TARGET_BAD, NULL, NULL, NULL},
};

/* Parse a target that stands, as in a message, behind other bytes, and with nothing
 * readable after it. */
static fb_target_form
parse(const char *target, size_t len, bool is_options, fb_request *req,
      fb_span *authority, const char **message)
{
    char *begin = guard_place(&room, len + 4);
    memcpy(begin, "GET ", 4);
    memcpy(begin + 4, target, len);
    *req = (fb_request){.target = {4, (uint32_t)len}};
    *authority = (fb_span){0, 0};
    *message = begin;
    return fb_target_parse(begin, req, is_options, authority);
}

static void
test_targets_are_taken_apart(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const target_case *it = &cases[i];
        static fb_request req;
        fb_span authority;
        const char *message;
        fb_target_form form =
            parse(it->target, strlen(it->target), false, &req, &authority, &message);
        if (form != it->form) {
            printf("%s is form %d, not %d\n", it->target, form, it->form);
        }
        CHECK(form == it->form);
        if (it->path != NULL && form == it->form) {
            CHECK_TEXT(message + req.path.off, req.path.len, it->path);
            CHECK_TEXT(message + req.query.off, req.query.len, it->query);
            CHECK_TEXT(message + authority.off, authority.len, it->authority);
        }
    }
}

static void
test_asterisk_is_for_options_alone(void)
{
    static fb_request req;
    fb_span authority;
    const char *message;
    CHECK(parse("*", 1, true, &req, &authority, &message) == FB_TARGET_ASTERISK);
    CHECK_TEXT(message + req.path.off, req.path.len, "*");
    CHECK_SIZE(req.query.len, 0);
    CHECK(parse("*", 1, false, &req, &authority, &message) == FB_TARGET_BAD);
    CHECK(parse("*a", 2, true, &req, &authority, &message) == FB_TARGET_BAD);
}

static void
test_nul_is_in_no_target(void)
{
    static fb_request req;
    fb_span authority;
    const char *message;
    CHECK(parse("/\0", 2, false, &req, &authority, &message) == FB_TARGET_BAD);
    CHECK(parse("/?\0", 3, false, &req, &authority, &message) == FB_TARGET_BAD);
    CHECK(parse("h\0://a/", 7, false, &req, &authority, &message) == FB_TARGET_BAD);
    CHECK(parse("h://a\0/", 7, false, &req, &authority, &message) == FB_TARGET_BAD);
    CHECK(parse("\0", 1, false, &req, &authority, &message) == FB_TARGET_BAD);
}

static bool
is_host(const char *bytes, size_t len)
{
    char *place = guard_place(&room, len);
    memcpy(place, bytes, len);
    return fb_host_is_valid(place, len);
}

static void
test_hosts_that_are_valid(void)
{
    static const char *const hosts[] = {
        "",           "a",
        "a.b-c_d~",   "a:",
        "a:80",       "127.0.0.1:8000",
        "[::]",       "[::1]:443",
        "[::1]:",     "%41",
        "a%2f",       "!$&'()*+,;=",
        ".",          "a:0000080",
        "[a:B::0:F]", "[::1.2.3.4]",
        "a:65535",    "a:0",
        "[v1.a]",     "[VaF.:~]:1",
    };
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        if (!is_host(hosts[i], strlen(hosts[i]))) {
            printf("refused: %s\n", hosts[i]);
            CHECK(false);
        }
    }
}

static void
test_hosts_that_are_not(void)
{
    static const char *const hosts[] = {
        ":",           ":80",       "a b",    " a",      "a ",        "a/",
        "a:b",         "a:80:80",   "a:-1",   "a:+1",    "[",         "[]",
        "[::1",        "::1",       "]",      "[::1]a",  "[::1]80",   "[g]",
        "a@b",         "a?",        "a#",     "a\\b",    "\"a\"",     "a%",
        "a%4",         "a%4g",      "a%g4",   "a\tb",    "\x7f",      "\x80",
        "<a>",         "{a}",       "a|b",    "a^b",     "a`b",       "[[::1]]",
        "[1.2.3.4]",   "[a:B:0:F]", "[:::]",  "[::1%1]", "[::12345]", "[v1]",
        "[v.a]",       "[v1.]",     "[vg.a]", "[v1.a@]", "a:65536",   "a:4294967297",
        "[::1]:65536",
    };
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        if (is_host(hosts[i], strlen(hosts[i]))) {
            printf("let through: %s\n", hosts[i]);
            CHECK(false);
        }
    }
    CHECK(!is_host("\0", 1));
    CHECK(!is_host("a\0", 2));
    CHECK(!is_host("[\0]", 3));
    CHECK(!is_host("[::1\0]", 6));
    CHECK(!is_host("[v1.\0]", 6));
    CHECK(!is_host("a:\0", 3));
}

static void
test_percent_escapes(void)
{
    static const struct {
        const char *from;
        const char *to;
        size_t len;
    } escapes[] = {
        {"", "", 0},      {"/plain", "/plain", 6},   {"%41%4a%4A", "AJJ", 3},
        {"%00", "\0", 1}, {"%ff%FF", "\xff\xff", 2}, {"%2", "%2", 2},
        {"%", "%", 1},    {"a%", "a%", 2},           {"%zz", "%zz", 3},
        {"%4", "%4", 2},  {"%%41", "%A", 2},         {"%2541", "%41", 3}, /* once */
        {"+", "+", 1},
    };
    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        char to[16];
        size_t len = fb_percent_decode(to, escapes[i].from, strlen(escapes[i].from));
        CHECK_SIZE(len, escapes[i].len);
        CHECK(memcmp(to, escapes[i].to, escapes[i].len) == 0);
    }
}

int
main(void)
{
    guard_init(&room, 256);
    RUN(test_targets_are_taken_apart);
    RUN(test_asterisk_is_for_options_alone);
    RUN(test_nul_is_in_no_target);
    RUN(test_hosts_that_are_valid);
    RUN(test_hosts_that_are_not);
    guard_fini(&room);
    RUN(test_percent_escapes);
    return check_report("test_target");
}
