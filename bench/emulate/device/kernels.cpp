// Kernels: known by the names they were registered under, and counted when they are launched. None runs but small fills.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>

#include "device.h"
#include "errors.h"
#include "fills.h"
#include "images.h"
#include "launches.h"

namespace emulated {
namespace {

std::mutex mutex;
Launches launched;
struct Kernel {
    const char* name;
    void** images;  // handle of its fat binary
};
std::unordered_map<const void*, Kernel> kernels;

struct Configuration {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};
thread_local Configuration pushed;

const char* name_of(const void* function) {
    auto found = kernels.find(function);
    return found == kernels.end() ? "unregistered kernel" : found->second.name;
}

cudaError_t launch(const void* function, cudaStream_t stream, void** arguments) {
    Launches* captured = captured_launches(stream);
    const char* name;
    {
        std::lock_guard<std::mutex> guard(mutex);
        name = name_of(function);
        (captured ? *captured : launched).add(name);
    }
    if (!captured) fill_if_small(name, arguments);
    return succeed();
}

int architecture_of(const void* function) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = kernels.find(function);
    return architecture_run(found == kernels.end() ? nullptr : found->second.images, 10 * card().major + card().minor);
}

int blocks_that_fit(int threads, size_t shared_bytes) {
    if (threads <= 0) return 0;
    int by_threads = card().max_threads_per_sm / threads;
    int by_shared = shared_bytes ? int(card().shared_per_sm_bytes / shared_bytes) : card().max_blocks_per_sm;
    return std::min({by_threads, by_shared, card().max_blocks_per_sm});
}

}  // namespace

void count(const Launches& more) {
    std::lock_guard<std::mutex> guard(mutex);
    for (auto& [name, times] : more.by_name) launched.add(name, times);
}

}  // namespace emulated

using namespace emulated;

EXPORT void emulated_library_call(const char* function) {
    std::lock_guard<std::mutex> guard(mutex);
    launched.add(function);
}

EXPORT unsigned long long emulated_launches() {
    std::lock_guard<std::mutex> guard(mutex);
    return launched.total;
}

// Writes "count name\n" for each kernel into a buffer, and returns the bytes that all of it takes.
EXPORT size_t emulated_launches_by_name(char* buffer, size_t capacity) {
    std::lock_guard<std::mutex> guard(mutex);
    std::string text;
    for (auto& [name, times] : launched.by_name) text += std::to_string(times) + " " + name + "\n";
    if (buffer && capacity) strncpy(buffer, text.c_str(), capacity);
    return text.size() + 1;
}

EXPORT cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
    return launch(function, stream, arguments);
}
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3, dim3, void** arguments, size_t,
                                               cudaStream_t stream) {
    return launch(function, stream, arguments);
}
#if CUDART_VERSION >= 11080
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* function, void** arguments) {
    return launch(function, configuration->stream, arguments);
}
#endif

// Functions that compiled CUDA code calls by itself.
EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
    pushed = {grid, block, shared_bytes, stream};
    return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared_bytes = pushed.shared_bytes;
    *static_cast<cudaStream_t*>(stream) = pushed.stream;
    return succeed();
}
EXPORT void** __cudaRegisterFatBinary(void* wrapper) { return register_images(wrapper); }
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void** images, const char* function, char*, const char* name, int, uint3*, uint3*,
                                   dim3*, dim3*, int*) {
    std::lock_guard<std::mutex> guard(mutex);
    kernels[function] = {name, images};
}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT void __cudaRegisterManagedVar(void**, void**, char*, const char*, int, size_t, int, int) {}
EXPORT char __cudaInitModule(void**) { return 0; }
#if CUDART_VERSION >= 12000
EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
    return succeed();
}
EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
    return launch(kernel, stream, arguments);
}
EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) { return succeed(); }
#endif

EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return succeed(); }
EXPORT cudaError_t cudaFuncSetCacheConfig(const void*, cudaFuncCache) { return succeed(); }
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;  // not those of any particular kernel
    attributes->ptxVersion = attributes->binaryVersion = architecture_of(function);
    attributes->maxDynamicSharedSizeBytes = int(card().shared_per_block_bytes);
    return succeed();
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                                 size_t shared_bytes) {
    *blocks = blocks_that_fit(threads, shared_bytes);
    return succeed();
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                                          size_t shared_bytes, unsigned) {
    *blocks = blocks_that_fit(threads, shared_bytes);
    return succeed();
}
EXPORT cudaError_t cudaProfilerStart() { return succeed(); }
EXPORT cudaError_t cudaProfilerStop() { return succeed(); }
