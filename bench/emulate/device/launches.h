// Numbers of launched kernels, by name.
#pragma once
#include <cuda_runtime_api.h>

#include <unordered_map>

namespace emulated {

struct Launches {
    unsigned long long total = 0;
    std::unordered_map<const char*, unsigned long long> by_name;  // names live as long as their library

    void add(const char* name, unsigned long long times = 1) {
        total += times;
        by_name[name] += times;
    }
};

// Adds to the launches of this process.
void count(const Launches& launches);

// Where launches into a stream are counted while it is captured; null outside a capture.
Launches* captured_launches(cudaStream_t stream);

}  // namespace emulated
