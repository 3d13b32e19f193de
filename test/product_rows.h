// How many rows make the products that end in something of their own (product_hopper.cuh) serve, and where they do. For GPU tests.
#ifndef PRODUCT_ROWS_H
#define PRODUCT_ROWS_H

#include "device.h"

static inline bool on_hopper(void) { return device_open(0).capability == 90; }

// rows that give each pair of multiprocessors `each` tiles of 256 rows and `width` columns, but for `less` of the last rows
static inline int rows_for(int each, int columns, int width, int less) {
    return ceil_div(each * (device_open(0).cores / 2), ceil_div(columns, width)) * 256 - less;
}

#endif
