// The result of a runtime call; a thread's last error stays until it is asked for.
#pragma once
#include <cuda_runtime_api.h>

namespace emulated {

extern thread_local cudaError_t last_error;

inline cudaError_t succeed() { return cudaSuccess; }

inline cudaError_t fail(cudaError_t error) { return last_error = error; }

}  // namespace emulated
