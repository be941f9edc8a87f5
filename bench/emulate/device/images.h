// The compiled code that a program brings along.
#pragma once

namespace emulated {

// Notes a fat binary: the code of a program's kernels, compiled for one or more architectures.
void** register_images(const void* wrapper);

// The architecture (86 for compute capability 8.6) whose code a card of architecture `card` runs; `card` if the fat
// binary cannot be read.
int architecture_run(void* const* handle, int card);

}  // namespace emulated
