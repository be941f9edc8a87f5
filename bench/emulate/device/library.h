// Shared by cuBLAS and cuDNN: their calls are counted like kernels, and what only they know is reported as unknown.
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

}  // namespace emulated
