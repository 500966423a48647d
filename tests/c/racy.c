/* SPDX-License-Identifier: MIT */
/*
 * A race on purpose: what ThreadSanitizer has to report, so that it is known to look.
 * It is built as a library of its own by tests/test_tsan.py.
 */
#include <pthread.h>
#include <stddef.h>

int fb_count_to(int most);

static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *
add(void *most)
{
    for (int i = 0; i < *(int *)most; i++) {
#ifndef IS_RACY
        pthread_mutex_lock(&lock);
#endif
        count++;
#ifndef IS_RACY
        pthread_mutex_unlock(&lock);
#endif
    }
    return NULL;
}

/* Count in two threads at once. Returns what was reached. */
int
fb_count_to(int most)
{
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, add, &most) != 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    (void)lock;
    return count;
}
