// What a call of the runtime returns; the last error of a thread stays until it is asked for.
#pragma once
#include <cuda_runtime_api.h>

namespace emulated {

extern thread_local cudaError_t last_error;

inline cudaError_t succeed() { return cudaSuccess; }

inline cudaError_t fail(cudaError_t error) { return last_error = error; }

}  // namespace emulated
