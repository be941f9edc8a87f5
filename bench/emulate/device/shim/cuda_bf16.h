// Stands in for the CUDA toolkit's header, whose operators a host compiler does not need: the type alone.
#pragma once
struct __nv_bfloat16 {
    unsigned short bits;
};
