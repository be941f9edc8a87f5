// Small fills, the one kind of kernel that runs.
#pragma once

namespace emulated {

// Does what a kernel would, by its mangled name and arguments, if it fills a small tensor with one value.
void fill_if_small(const char* kernel, void** arguments);

}  // namespace emulated
