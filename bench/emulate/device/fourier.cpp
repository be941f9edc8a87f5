// cuFFT: transforms are counted but compute nothing. How much scratch memory a plan takes is known to cuFFT alone: the
// answer is none, reported as unknown.
#include <cuda_runtime_api.h>
#include <cufft.h>

#include <map>
#include <mutex>

#include "library.h"

using namespace emulated;

namespace {

std::mutex mutex;
std::map<cufftHandle, cudaStream_t> streams;  // of the plans that exist

}  // namespace

EXPORT cufftResult cufftCreate(cufftHandle* plan) {
    static cufftHandle last = 0;
    std::lock_guard<std::mutex> guard(mutex);
    streams[*plan = ++last] = nullptr;
    return CUFFT_SUCCESS;
}
EXPORT cufftResult cufftDestroy(cufftHandle plan) {
    std::lock_guard<std::mutex> guard(mutex);
    streams.erase(plan);
    return CUFFT_SUCCESS;
}
EXPORT cufftResult cufftSetStream(cufftHandle plan, cudaStream_t stream) {
    std::lock_guard<std::mutex> guard(mutex);
    streams[plan] = stream;
    return CUFFT_SUCCESS;
}
// PyTorch allocates the scratch memory itself, and says where it is.
EXPORT cufftResult cufftSetAutoAllocation(cufftHandle, int) { return CUFFT_SUCCESS; }
EXPORT cufftResult cufftSetWorkArea(cufftHandle, void*) { return CUFFT_SUCCESS; }
EXPORT cufftResult cufftXtMakePlanMany(cufftHandle, int, long long*, long long*, long long, long long, cudaDataType,
                                       long long*, long long, long long, cudaDataType, long long, size_t* work_bytes,
                                       cudaDataType) {
    unknown_workspace("Fourier transforms in cuFFT");
    *work_bytes = 0;
    return CUFFT_SUCCESS;
}
EXPORT cufftResult cufftXtExec(cufftHandle plan, void*, void*, int) {
    cudaStream_t stream;
    {
        std::lock_guard<std::mutex> guard(mutex);
        stream = streams[plan];
    }
    library_call("cufftXtExec", stream);
    return CUFFT_SUCCESS;
}
