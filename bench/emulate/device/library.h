// Shared by the libraries above the runtime: their calls are counted like kernels, and what only they know is reported
// as unknown.
#pragma once
#include <cuda_runtime_api.h>

#include "device.h"

namespace emulated {

// A call that computes something in a stream, counted under a name that lives as long as the process.
void library_call(const char* name, cudaStream_t stream);

// Operators of a kind were told that they need no scratch memory; what they need on a GPU is not known.
void unknown_workspace(const char* operators);

// A matrix product: batch times (m, k) by (k, n).
struct Product {
    int64_t m, n, k, batch;
    int32_t type;          // cudaDataType of the left factor
    int32_t compute_type;  // cublasComputeType_t
};

void record(const Product& product);

// A library in use, by one thread of PyTorch.
struct Handle {
    cudaStream_t stream = nullptr;
};

}  // namespace emulated

// The functions of a library that make a handle, end it and say in which stream its calls run.
#define HANDLES(library)                                                                                               \
    EXPORT int library##Create(emulated::Handle** handle) {                                                            \
        *handle = new emulated::Handle;                                                                                \
        return 0;                                                                                                      \
    }                                                                                                                  \
    EXPORT int library##Destroy(emulated::Handle* handle) {                                                            \
        delete handle;                                                                                                 \
        return 0;                                                                                                      \
    }                                                                                                                  \
    EXPORT int library##SetStream(emulated::Handle* handle, cudaStream_t stream) {                                     \
        handle->stream = stream;                                                                                       \
        return 0;                                                                                                      \
    }
