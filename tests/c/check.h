/* SPDX-License-Identifier: MIT */
/*
 * What a test program needs: a test is a function, RUN runs it, a failed CHECK says
 * where and lets the test go on, check_report makes the exit status.
 */
#ifndef FB_TESTS_CHECK_H
#define FB_TESTS_CHECK_H

#include <stdio.h>
#include <string.h>

static int check_passed;     /* tests */
static int check_failed;     /* tests */
static int check_complaints; /* failed checks of the test that runs */

#define CHECK(condition)                                                               \
    ((condition) ? (void)0                                                             \
                 : (void)(check_complaints++,                                          \
                          printf("%s:%d: %s\n", __FILE__, __LINE__, #condition)))

#define CHECK_SIZE(got, want) check_size(__FILE__, __LINE__, #got, (got), (want))

#define CHECK_TEXT(got, len, want)                                                     \
    check_text(__FILE__, __LINE__, #got, (got), (len), (want), strlen(want))

#define RUN(test) (test(), check_count(#test))

static inline void
check_size(const char *file, int line, const char *what, size_t got, size_t want)
{
    if (got != want) {
        check_complaints++;
        printf("%s:%d: %s is %zu, not %zu\n", file, line, what, got, want);
    }
}

static inline void
check_text(const char *file, int line, const char *what, const char *got,
           size_t got_len, const char *want, size_t want_len)
{
    if (got_len != want_len || (want_len > 0 && memcmp(got, want, want_len) != 0)) {
        check_complaints++;
        printf("%s:%d: %s is\n%.*s\n    not\n%.*s\n", file, line, what, (int)got_len,
               got, (int)want_len, want);
    }
}

/* Close one test, a function or a file fed one way. */
static inline void
check_count(const char *name)
{
    if (check_complaints == 0) {
        check_passed++;
        return;
    }
    printf("failed: %s\n", name);
    check_failed++;
    check_complaints = 0;
}

static inline int
check_report(const char *program)
{
    printf("%s: %d passed, %d failed\n", program, check_passed, check_failed);
    return check_failed == 0 ? 0 : 1;
}

#endif
