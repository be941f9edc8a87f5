// Real bytes on a device.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulated {

// Notes that real bytes were written to a device.
void note_written(const void* address, size_t bytes);

// Addresses of a device have been released, with all that was written there.
void forget_written(uintptr_t start, size_t bytes);

}  // namespace emulated
