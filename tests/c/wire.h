/* SPDX-License-Identifier: MIT */
/*
 * The requests of tests/wire, and what must come out of them: see its README.
 */
#ifndef FB_TESTS_WIRE_H
#define FB_TESTS_WIRE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct wire_file {
    char *name;   /* without folder and ending */
    char *bytes;  /* what a client sends */
    size_t len;   /* of bytes */
    char *expect; /* what core makes of it, a string */
    bool rejects; /* expect ends in a rejection */
} wire_file;

typedef struct wire_files {
    wire_file *files; /* sorted by name, accepted before rejected */
    size_t n_files;
} wire_files;

/* Read folder, which holds accept and reject. Ends the program when it cannot. */
wire_files wire_read(const char *folder);
void wire_free(wire_files *wire);

#endif
