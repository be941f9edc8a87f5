// What the runtime says about the device, about its versions and about what went wrong.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "device.h"
#include "errors.h"

namespace emulated {

thread_local cudaError_t last_error = cudaSuccess;

namespace {

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

constexpr ErrorText ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorUnknown, "cudaErrorUnknown", "the emulated device has no answer"},
};

const ErrorText& text_of(cudaError_t error) {
    for (const ErrorText& entry : ERRORS)
        if (entry.error == error) return entry;
    return ERRORS[sizeof ERRORS / sizeof *ERRORS - 1];
}

// The digits of the card's UUID; its last digit counts the devices.
void write_uuid(cudaUUID_t* uuid, int device) {
    std::string digits;
    for (const char* c = card().uuid; *c; c++)
        if (*c != '-') digits += *c;
    for (int i = 0; i < 16; i++) uuid->bytes[i] = char(strtol(digits.substr(2 * i, 2).c_str(), nullptr, 16));
    uuid->bytes[15] = char(uuid->bytes[15] + physical_device(device));
}

bool is_device(int device) { return device >= 0 && device < visible_devices(); }

}  // namespace
}  // namespace emulated

using namespace emulated;

EXPORT cudaError_t cudaGetDeviceCount(int* count) {
    *count = visible_devices();
    return *count ? succeed() : fail(cudaErrorNoDevice);
}
EXPORT cudaError_t cudaGetDevice(int* device) {
    *device = current_device();
    return succeed();
}
EXPORT cudaError_t cudaSetDevice(int device) {
    if (!set_current_device(device)) return fail(cudaErrorInvalidDevice);
    begin_context(device);
    return succeed();
}
EXPORT cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return succeed();
}
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return succeed();
}

EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (!is_device(device)) return fail(cudaErrorInvalidDevice);
    const Card& card = emulated::card();
    cudaDeviceProp p;
    memset(&p, 0, sizeof p);
    snprintf(p.name, sizeof p.name, "%s", card.name);
    write_uuid(&p.uuid, device);
    p.totalGlobalMem = card.memory_bytes;
    p.sharedMemPerBlock = card.shared_per_block_bytes;
    p.sharedMemPerBlockOptin = card.shared_per_block_optin_bytes;
    p.sharedMemPerMultiprocessor = card.shared_per_sm_bytes;
    p.reservedSharedMemPerBlock = card.major >= 8 ? KIB : 0;
    p.regsPerBlock = p.regsPerMultiprocessor = card.registers_per_sm;
    p.warpSize = 32;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 2147483647;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 64 * KIB;
    p.memPitch = 2147483647;
    p.textureAlignment = p.surfaceAlignment = 512;
    p.texturePitchAlignment = 32;
    p.major = card.major;
    p.minor = card.minor;
    p.multiProcessorCount = card.num_sms;
    p.maxThreadsPerMultiProcessor = card.max_threads_per_sm;
    p.maxBlocksPerMultiProcessor = card.max_blocks_per_sm;
    p.l2CacheSize = int(card.l2_bytes);
    p.memoryBusWidth = card.memory_bus_bits;
#if CUDART_VERSION < 13000
    p.clockRate = card.clock_khz;
    p.memoryClockRate = card.memory_clock_khz;
#endif
    p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = p.managedMemory = 1;
    p.concurrentManagedAccess = p.computePreemptionSupported = p.cooperativeLaunch = 1;
    p.streamPrioritiesSupported = p.globalL1CacheSupported = p.localL1CacheSupported = 1;
    p.asyncEngineCount = 2;
    p.pciBusID = 1 + physical_device(device);
#if CUDART_VERSION >= 12000
    p.memoryPoolsSupported = p.hostRegisterSupported = 1;
    p.clusterLaunch = card.major >= 9;
#endif
    *properties = p;
    return succeed();
}

EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, device) != cudaSuccess) return fail(cudaErrorInvalidDevice);
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
        case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
        case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[1]; break;
        case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
        case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
        case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
        case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(p.sharedMemPerBlock); break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(p.sharedMemPerMultiprocessor); break;
        case cudaDevAttrWarpSize: *value = p.warpSize; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerMultiprocessor; break;
        case cudaDevAttrClockRate: *value = card().clock_khz; break;
        case cudaDevAttrMemoryClockRate: *value = card().memory_clock_khz; break;
        case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
        case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
        case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
        case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
        case cudaDevAttrPciBusId: *value = p.pciBusID; break;
        case cudaDevAttrTextureAlignment: *value = int(p.textureAlignment); break;
        case cudaDevAttrTotalConstantMemory: *value = int(p.totalConstMem); break;
        case cudaDevAttrAsyncEngineCount: *value = p.asyncEngineCount; break;
        case cudaDevAttrCooperativeLaunch: *value = 1; break;
        case cudaDevAttrUnifiedAddressing: *value = 1; break;
        case cudaDevAttrManagedMemory: *value = 1; break;
        case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
        default: *value = 0;
    }
    return succeed();
}

EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return succeed();
}
EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
    snprintf(text, size_t(length), "0000:%02x:00.0", 1 + physical_device(device));
    return succeed();
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    *can = device != peer && is_device(device) && is_device(peer);
    return succeed();
}
EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return succeed(); }
EXPORT cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return succeed(); }

EXPORT cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
EXPORT cudaError_t cudaPeekAtLastError() { return last_error; }
EXPORT const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }
EXPORT const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }

#if CUDART_VERSION < 12000
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
#endif

// Functions of the driver, by name; under their plain names, or the versioned ones that headers map them to.
static cudaError_t driver_function(const char* symbol, void** function, cudaDriverEntryPointQueryResult* result) {
    static void* driver = dlopen("libcuda.so.1", RTLD_NOW);
    *function = driver ? dlsym(driver, symbol) : nullptr;
    for (int version = 2; driver && !*function && version < 5; version++)
        *function = dlsym(driver, (std::string(symbol) + "_v" + std::to_string(version)).c_str());
    if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    if (!*function) unanswered(symbol);
    return *function ? succeed() : fail(cudaErrorSymbolNotFound);
}
#if CUDART_VERSION >= 12050
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
    return driver_function(symbol, function, result);
}
#endif
#if CUDART_VERSION < 13000 && CUDART_VERSION >= 12000
EXPORT cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long,
                                           cudaDriverEntryPointQueryResult* result) {
    return driver_function(symbol, function, result);
}
#elif CUDART_VERSION < 12000
EXPORT cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long) {
    return driver_function(symbol, function, nullptr);
}
#endif
