// Kernels that were launched, by name.
#pragma once
#include <cuda_runtime_api.h>

#include <unordered_map>

namespace emulated {

struct Launches {
    unsigned long long total = 0;
    std::unordered_map<const char*, unsigned long long> by_name;  // names live as long as the library that holds them

    void add(const char* name, unsigned long long times = 1) {
        total += times;
        by_name[name] += times;
    }
};

// Adds to this process's launches.
void count(const Launches& launches);

// Where launches into a stream go while it is captured; null outside a capture.
Launches* captured_launches(cudaStream_t stream);

}  // namespace emulated
