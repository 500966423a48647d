/* SPDX-License-Identifier: MIT */
/*
 * The ring behind a time-ordered list.
 */
#include "io/times.h"

#include <stddef.h>

void
fb_times_init(fb_time_list *list, uint64_t wait_ms)
{
    list->ends.prev = &list->ends;
    list->ends.next = &list->ends;
    list->wait_ms = wait_ms;
}

void
fb_times_stop(fb_time_node *node)
{
    if (node->prev == NULL) {
        return;
    }
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->prev = NULL;
    node->next = NULL;
}

void
fb_times_start(fb_time_list *list, fb_time_node *node, uint64_t now)
{
    fb_times_stop(node);
    node->since = now;
    node->prev = list->ends.prev;
    node->next = &list->ends;
    node->prev->next = node;
    list->ends.prev = node;
}

fb_time_node *
fb_times_expired(const fb_time_list *list, uint64_t now)
{
    fb_time_node *first = list->ends.next;
    if (list->wait_ms == 0 || first == &list->ends) {
        return NULL;
    }
    bool is_over = now >= first->since && now - first->since >= list->wait_ms;
    return is_over ? first : NULL;
}
