/* SPDX-License-Identifier: MIT */
/*
 * Which queue the method and the path of a request lead to.
 */
#include "check.h"
#include "core/route.h"
#include "guard.h"

#include <llhttp.h>

static guard room;

static char *
place(const char *bytes, size_t len)
{
    return memcpy(guard_place(&room, len), bytes, len);
}

static const fb_route routes[] = {
    {.path = "/a", .path_len = 2, .method = HTTP_POST, .queue = 1},
    {.path = "/a", .path_len = 2, .method = FB_ANY_METHOD, .queue = 2},
    {.path = "/a", .path_len = 2, .method = HTTP_GET, .queue = 3},
    {.path = "/b c\xc3\xa9", .path_len = 6, .method = HTTP_GET, .queue = 4},
    {.path = "/%41", .path_len = 4, .method = HTTP_GET, .queue = 5},
};

static uint32_t
find(llhttp_method_t method, const char *path)
{
    size_t len = strlen(path);
    char *message = place(path, len);
    fb_request req = {.method = (uint8_t)method, .path = {0, (uint32_t)len}};
    return fb_route_find(routes, sizeof(routes) / sizeof(routes[0]), message, &req);
}

static void
test_very_method_comes_before_any(void)
{
    CHECK(find(HTTP_POST, "/a") == 1);
    CHECK(find(HTTP_GET, "/a") == 3);
    CHECK(find(HTTP_PUT, "/a") == 2);
    CHECK(find(HTTP_HEAD, "/a") == 2);
}

static void
test_path_is_matched_whole(void)
{
    CHECK(find(HTTP_POST, "/") == 0);
    CHECK(find(HTTP_POST, "/a/") == 0);
    CHECK(find(HTTP_POST, "/A") == 0);
    CHECK(find(HTTP_POST, "/ab") == 0);
    CHECK(find(HTTP_POST, "*") == 0);
    CHECK(find(HTTP_POST, "") == 0);
}

static void
test_path_is_decoded_once(void)
{
    CHECK(find(HTTP_POST, "/%61") == 1);
    CHECK(find(HTTP_POST, "%2Fa") == 1);
    CHECK(find(HTTP_GET, "/b%20c%C3%a9") == 4);
    CHECK(find(HTTP_GET, "/%2541") == 5);
    CHECK(find(HTTP_GET, "/%41") == 0);
    CHECK(find(HTTP_GET, "/a%") == 0);
    CHECK(find(HTTP_GET, "/a%6") == 0);
}

static void
test_longest_path_is_found_in_any_writing(void)
{
    static char path[FB_ROUTE_PATH_BYTES + 1];
    static char escaped[3 * FB_ROUTE_PATH_BYTES + 4];
    memset(path, 'x', FB_ROUTE_PATH_BYTES);
    for (size_t i = 0; i <= FB_ROUTE_PATH_BYTES; i++) {
        memcpy(escaped + 3 * i, "%78", 4);
    }
    fb_route route = {.path = path, .path_len = FB_ROUTE_PATH_BYTES, .queue = 1};
    route.method = FB_ANY_METHOD;
    for (size_t n = FB_ROUTE_PATH_BYTES - 1; n <= FB_ROUTE_PATH_BYTES + 1; n++) {
        fb_request req = {.path = {0, (uint32_t)(3 * n)}};
        char *message = place(escaped, 3 * n);
        uint32_t want = n == FB_ROUTE_PATH_BYTES ? 1 : 0;
        CHECK(fb_route_find(&route, 1, message, &req) == want);
    }
}

static void
test_methods_are_known_by_name(void)
{
    int method = 0;
    CHECK(fb_route_read_method("*", &method) && method == FB_ANY_METHOD);
    CHECK(fb_route_read_method("GET", &method) && method == HTTP_GET);
    CHECK(fb_route_read_method("DELETE", &method) && method == HTTP_DELETE);
    CHECK(fb_route_read_method("QUERY", &method) && method == HTTP_QUERY);
    CHECK(!fb_route_read_method("get", &method));
    CHECK(!fb_route_read_method("", &method));
    CHECK(!fb_route_read_method("NOSUCH", &method));
}

int
main(void)
{
    guard_init(&room, 4 * FB_ROUTE_PATH_BYTES);
    RUN(test_very_method_comes_before_any);
    RUN(test_path_is_matched_whole);
    RUN(test_path_is_decoded_once);
    RUN(test_longest_path_is_found_in_any_writing);
    RUN(test_methods_are_known_by_name);
    guard_fini(&room);
    return check_report("test_route");
}
