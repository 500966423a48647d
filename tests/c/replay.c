/* SPDX-License-Identifier: MIT */
/*
 * Feeds files to a fuzzer's test, for compilers that have no libFuzzer and for finds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            perror(argv[i]);
            return 1;
        }
        uint8_t *data = malloc(1 << 20);
        size_t size = data != NULL ? fread(data, 1, 1 << 20, file) : 0;
        fclose(file);
        uint8_t *exact = malloc(size + 1); /* so that a sanitizer sees where it ends */
        if (data == NULL || exact == NULL) {
            return 1;
        }
        for (size_t at = 0; at < size; at++) {
            exact[at] = data[at];
        }
        printf("%s\n", argv[i]);
        fflush(stdout);
        LLVMFuzzerTestOneInput(exact, size);
        free(data);
        free(exact);
    }
    return 0;
}
