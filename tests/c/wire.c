/* SPDX-License-Identifier: MIT */
/*
 * Reading tests/wire: a .http file each, beside it a .expect file.
 */
#include "wire.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
fail(const char *path)
{
    perror(path);
    exit(1);
}

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static char *
text(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *made = NULL;
    if (vasprintf(&made, format, args) < 0) {
        fail("vasprintf");
    }
    va_end(args);
    return made;
}

/* Returns the bytes of a file and a NUL behind them; NULL when there is none. */
static char *
read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    long end = ftell(file);
    rewind(file);
    if (end < 0) {
        fail(path);
    }
    *len = (size_t)end;
    char *bytes = malloc(*len + 1);
    if (bytes == NULL || fread(bytes, 1, *len, file) != *len) {
        fail(path);
    }
    bytes[*len] = '\0';
    fclose(file);
    return bytes;
}

static int
is_request(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot != NULL && strcmp(dot, ".http") == 0;
}

static wire_file
read_one(const char *folder, const char *file_name, bool rejects)
{
    wire_file file = {.rejects = rejects};
    size_t ignored;
    file.name = text("%.*s", (int)(strlen(file_name) - strlen(".http")), file_name);
    char *path = text("%s/%s.http", folder, file.name);
    char *expect_path = text("%s/%s.expect", folder, file.name);
    file.bytes = read_file(path, &file.len);
    char *requests = read_file(expect_path, &ignored);
    if (file.bytes == NULL || (requests == NULL && !rejects)) {
        fail(file.bytes == NULL ? path : expect_path);
    }
    /* A rejected file needs an .expect only for the good requests before the bad one;
     * the status is in its name. */
    file.expect = rejects ? text("%sreject %.3s\n", requests ? requests : "", file_name)
                          : text("%s", requests);
    free(requests);
    free(path);
    free(expect_path);
    return file;
}

static void
read_folder(wire_files *wire, const char *folder, bool rejects)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_request, alphasort);
    if (n <= 0) {
        fail(folder);
    }
    size_t most = wire->n_files + (size_t)n;
    wire->files = realloc(wire->files, most * sizeof(wire_file));
    if (wire->files == NULL) {
        fail(folder);
    }
    for (int i = 0; i < n; i++) {
        wire->files[wire->n_files++] = read_one(folder, entries[i]->d_name, rejects);
        free(entries[i]);
    }
    free(entries);
}

wire_files
wire_read(const char *folder)
{
    wire_files wire = {NULL, 0};
    char *accept = text("%s/accept", folder);
    char *reject = text("%s/reject", folder);
    read_folder(&wire, accept, false);
    read_folder(&wire, reject, true);
    free(accept);
    free(reject);
    return wire;
}

void
wire_free(wire_files *wire)
{
    for (size_t i = 0; i < wire->n_files; i++) {
        free(wire->files[i].name);
        free(wire->files[i].bytes);
        free(wire->files[i].expect);
    }
    free(wire->files);
    *wire = (wire_files){NULL, 0};
}
