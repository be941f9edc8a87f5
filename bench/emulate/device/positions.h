// Interfaces with many functions that differ in their types alone, written down by the positions of the arguments that
// matter. On x86-64 an integer or pointer argument has the same place whatever its type is; none of these functions
// takes a floating-point number by value, and what lies beyond a function's own arguments is not read.
#pragma once
#include <cstdint>

#define ARGUMENTS                                                                                                      \
    uintptr_t a0, uintptr_t a1, uintptr_t a2, uintptr_t a3, uintptr_t a4, uintptr_t a5, uintptr_t a6, uintptr_t a7,    \
        uintptr_t a8, uintptr_t a9, uintptr_t a10, uintptr_t a11, uintptr_t a12, uintptr_t a13, uintptr_t a14,         \
        uintptr_t a15, uintptr_t a16, uintptr_t a17, uintptr_t a18, uintptr_t a19, uintptr_t a20, uintptr_t a21

// The argument at a position, as a pointer; null if there is none.
template <typename T>
T* pointed(uintptr_t argument) {
    return reinterpret_cast<T*>(argument);
}
