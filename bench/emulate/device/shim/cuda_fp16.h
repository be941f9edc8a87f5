// Stands in for the CUDA toolkit's header, whose operators a host compiler does not need: the types alone.
#pragma once
struct __half {
    unsigned short bits;
};
typedef __half half;
struct __half2 {
    __half x, y;
};
