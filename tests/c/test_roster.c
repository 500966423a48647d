/* SPDX-License-Identifier: MIT */
/*
 * Who is ahead of whom, and whose place is free.
 */
#include "check.h"
#include "io/roster.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static fb_roster *roster;

static void
begin(void)
{
    memset((void *)roster, 0, sizeof(*roster));
}

/* Have workers with so many connections, and look at the first one. */
static bool
first_is_ahead(size_t n, const uint64_t *n_conns)
{
    begin();
    const fb_place *first = &roster->places[0];
    for (size_t i = 0; i < n; i++) {
        fb_place *place = fb_roster_join(roster);
        fb_count_set(&place->n_conns, n_conns[i]);
    }
    return fb_roster_is_ahead(roster, first);
}

static void
who_has_more_than_the_mean_and_an_eighth_is_ahead(void)
{
    static const struct {
        size_t n;
        uint64_t n_conns[4];
        bool is_ahead;
    } cases[] = {
        {1, {0}, false},         {1, {100000}, false},     {2, {0, 0}, false},
        {2, {1, 0}, true},       {2, {0, 1}, false},       {2, {1, 1}, false},
        {2, {2, 1}, true},       {2, {9, 7}, false}, /* exactly */
        {2, {10, 7}, true},      {2, {900, 700}, false},   {2, {901, 699}, true},
        {4, {1, 1, 1, 0}, true}, {4, {3, 3, 3, 3}, false}, {4, {0, 3, 3, 3}, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool got = first_is_ahead(cases[i].n, cases[i].n_conns);
        CHECK(got == cases[i].is_ahead);
        if (got != cases[i].is_ahead) {
            printf("in case %zu\n", i);
        }
    }
}

/* Whatever the numbers are, somebody takes the next connection at once. */
static void
not_all_are_ahead(void)
{
    uint64_t random = 1;
    for (int round = 0; round < 1000; round++) {
        begin();
        size_t n = 1 + (size_t)round % 7;
        for (size_t i = 0; i < n; i++) {
            random = random * 6364136223846793005U + 1442695040888963407U;
            fb_count_set(&fb_roster_join(roster)->n_conns, random >> 33 >> round % 31);
        }
        size_t n_ahead = 0;
        for (size_t i = 0; i < n; i++) {
            n_ahead += fb_roster_is_ahead(roster, &roster->places[i]) ? 1 : 0;
        }
        CHECK(n_ahead < n);
    }
}

static void
who_has_left_does_not_count(void)
{
    static const uint64_t n_conns[] = {5, 0};
    CHECK(first_is_ahead(2, n_conns));
    fb_roster_leave(&roster->places[1]);
    CHECK(!fb_roster_is_ahead(roster, &roster->places[0]));
}

static void
a_place_that_was_left_is_taken_again_and_counts_from_0(void)
{
    begin();
    fb_place *first = fb_roster_join(roster);
    fb_place *second = fb_roster_join(roster);
    CHECK(first != second);
    fb_count_set(&first->n_conns, 7);
    fb_roster_leave(first);
    CHECK(fb_roster_join(roster) == first);
    CHECK_SIZE(fb_count_get(&first->n_conns), 0);
}

static void
there_are_so_many_places(void)
{
    begin();
    for (size_t i = 0; i < FB_ROSTER_PLACES; i++) {
        CHECK(fb_roster_join(roster) == &roster->places[i]);
    }
    CHECK(fb_roster_join(roster) == NULL);
    CHECK(!fb_roster_is_ahead(roster, &roster->places[FB_ROSTER_PLACES - 1]));
}

/* Run in a child, which then ends as if it was killed. */
static void
in_child(void (*run)(fb_place *place), fb_place *place)
{
    pid_t pid = fork();
    if (pid == 0) {
        run(place);
        _exit(0);
    }
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void
join(fb_place *place)
{
    (void)place;
    (void)fb_roster_join(roster);
}

static void
the_place_of_a_process_that_died_is_taken_by_the_next(void)
{
    begin();
    CHECK(fb_roster_join(roster) == &roster->places[0]);
    in_child(join, NULL);
    CHECK(atomic_load(&roster->places[1].pid) != 0);
    CHECK(fb_roster_join(roster) == &roster->places[1]);
    CHECK(atomic_load(&roster->places[1].pid) == getpid());
}

static void
a_process_that_died_does_not_count_wherever_its_place_was(void)
{
    begin();
    fb_place *first = fb_roster_join(roster);
    in_child(join, NULL);
    fb_roster_leave(first);
    CHECK(fb_roster_join(roster) == first);
    CHECK(atomic_load(&roster->places[1].pid) == 0);
    fb_count_set(&first->n_conns, 1);
    CHECK(!fb_roster_is_ahead(roster, first));
}

static void
a_child_does_not_give_up_its_parents_place(void)
{
    begin();
    fb_place *place = fb_roster_join(roster);
    in_child(fb_roster_leave, place);
    CHECK(atomic_load(&place->pid) == getpid());
}

int
main(void)
{
    roster = mmap(NULL, sizeof(*roster), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (roster == MAP_FAILED) {
        return 1;
    }
    RUN(who_has_more_than_the_mean_and_an_eighth_is_ahead);
    RUN(not_all_are_ahead);
    RUN(who_has_left_does_not_count);
    RUN(a_place_that_was_left_is_taken_again_and_counts_from_0);
    RUN(there_are_so_many_places);
    RUN(the_place_of_a_process_that_died_is_taken_by_the_next);
    RUN(a_process_that_died_does_not_count_wherever_its_place_was);
    RUN(a_child_does_not_give_up_its_parents_place);
    return check_report("test_roster");
}
