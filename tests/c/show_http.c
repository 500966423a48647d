/* SPDX-License-Identifier: MIT */
/*
 * Prints what core makes of the bytes on its standard input: the .expect file of a new
 * file in tests/wire/accept, to be read with care before it is kept.
 */
#include "feeder.h"

#include <stdio.h>

#define MOST (1 << 20) /* bytes of input */

int
main(void)
{
    static char input[MOST];
    size_t len = fread(input, 1, sizeof(input), stdin);
    test_feeder *feeder = feeder_new(MOST);
    feeder_give(feeder, input, len);
    if (feeder->shown.len > 0) {
        fwrite(feeder->shown.data, 1, feeder->shown.len, stdout);
    }
    if (feeder->http.status != 0) {
        fprintf(stderr, "%s\n", feeder->http.reason);
    } else if (!feeder->is_over && feeder->http.phase != FB_PHASE_START) {
        fprintf(stderr, "incomplete\n");
    }
    feeder_free(feeder);
    return 0;
}
