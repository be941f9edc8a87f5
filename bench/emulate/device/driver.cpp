// libcuda.so.1: the primary context, which must be reported active or autograd finds no stream of the device, and the
// virtual memory calls of PyTorch's expandable segments. The device's memory is kept by the preloaded library.
#include <cuda.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "device.h"

using namespace emulated;

namespace {

std::mutex mutex;
CUcontext const CONTEXT = reinterpret_cast<CUcontext>(16);

struct Handle {
    int device;
    size_t bytes;
    int count;  // number of owners: its creator, and its mappings
};

std::map<CUdeviceptr, Handle*> mapped;

void release(Handle* handle) {
    if (--handle->count) return;
    give_back(handle->device, handle->bytes);
    delete handle;
}

}  // namespace

// Functions of this library by name, in the version that exists.
static CUresult find_function(const char* symbol, void** function) {
    static void* self = dlopen("libcuda.so.1", RTLD_NOW);
    *function = self ? dlsym(self, symbol) : nullptr;
    for (int version = 2; self && !*function && version < 5; version++)
        *function = dlsym(self, (std::string(symbol) + "_v" + std::to_string(version)).c_str());
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
#if CUDA_VERSION >= 12000
EXPORT CUresult cuGetProcAddress(const char* symbol, void** function, int, cuuint64_t,
                                 CUdriverProcAddressQueryResult* result) {
    CUresult found = find_function(symbol, function);
    if (result) *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return found;
}
#undef cuGetProcAddress
#endif
EXPORT CUresult cuGetProcAddress(const char* symbol, void** function, int, cuuint64_t) {
    return find_function(symbol, function);
}
// The runtime inside the installed cuDNN asks for undocumented tables, and plans just as well without them.
EXPORT CUresult cuGetExportTable(const void** table, const CUuuid*) {
    *table = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
EXPORT CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int* count) {
    *count = visible_devices();
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    *device = ordinal;
    return ordinal < visible_devices() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
EXPORT CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    snprintf(name, size_t(length), "%s", card().name);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
    *bytes = card().memory_bytes;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = card().major; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = card().minor; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = card().num_sms; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = card().max_threads_per_sm; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = int(card().shared_per_block_bytes); break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = int(card().shared_per_block_optin_bytes);
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = card().registers_per_sm; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = card().clock_khz; break;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = card().memory_clock_khz; break;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = card().memory_bus_bits; break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = int(card().l2_bytes); break;
        case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = 1; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* is_active) {
    if (flags) *flags = 0;
    if (is_active) *is_active = 1;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    *context = CONTEXT;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = CONTEXT;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPushCurrent(CUcontext) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPopCurrent(CUcontext* context) {
    if (context) *context = CONTEXT;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
    *device = current_device();
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
    *text = error == CUDA_SUCCESS                ? "no error"
            : error == CUDA_ERROR_OUT_OF_MEMORY  ? "out of memory"
            : error == CUDA_ERROR_INVALID_DEVICE ? "invalid device ordinal"
            : error == CUDA_ERROR_INVALID_VALUE  ? "invalid argument"
                                                 : "the emulated device has no answer";
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorName(CUresult error, const char** name) { return cuGetErrorString(error, name); }
EXPORT CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
    int device;
    bool is_device = is_device_address(reinterpret_cast<void*>(address), &device);
    if (!is_device) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *static_cast<unsigned*>(value) = CU_MEMORYTYPE_DEVICE;
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *static_cast<int*>(value) = device;
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *static_cast<CUdeviceptr*>(value) = address;
    return CUDA_SUCCESS;
}

// Kernels that are compiled while the program runs: loaded, counted, dropped.
EXPORT CUresult cuModuleLoadData(CUmodule* module, const void*) {
    *module = reinterpret_cast<CUmodule>(new char);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}
EXPORT CUresult cuModuleLoad(CUmodule* module, const char*) { return cuModuleLoadData(module, nullptr); }
EXPORT CUresult cuModuleUnload(CUmodule module) {
    delete reinterpret_cast<char*>(module);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
    *function = reinterpret_cast<CUfunction>(strdup(name));  // as long as the process lives, like its count
    return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : 0;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
EXPORT CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                               CUstream, void**, void**) {
    emulated_library_call(reinterpret_cast<const char*>(function));
    return CUDA_SUCCESS;
}
EXPORT CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                          unsigned, CUstream, void**) {
    emulated_library_call(reinterpret_cast<const char*>(function));
    return CUDA_SUCCESS;
}
#if CUDA_VERSION >= 11080
EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction function, void**, void**) {  // Triton's
    emulated_library_call(reinterpret_cast<const char*>(function));
    return CUDA_SUCCESS;
}
#endif
EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int threads, size_t) {
    *blocks = threads > 0 ? card().max_threads_per_sm / threads : 0;
    return CUDA_SUCCESS;
}

// Virtual memory: addresses and memory are separate.
EXPORT CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                              CUmemAllocationGranularity_flags) {
    *bytes = 2 * MIB;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr,
                                    unsigned long long) {
    *address = reinterpret_cast<CUdeviceptr>(reserve_addresses(current_device(), bytes, alignment));
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t) {
    release_addresses(reinterpret_cast<void*>(address));
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* properties,
                            unsigned long long) {
    int device = properties->location.id;
    if (!take(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new Handle{device, bytes, 1});
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemMap(CUdeviceptr address, size_t, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
    std::lock_guard<std::mutex> guard(mutex);
    auto* memory = reinterpret_cast<Handle*>(handle);
    memory->count++;
    mapped[address] = memory;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex);
    for (auto part = mapped.lower_bound(address); part != mapped.end() && part->first < address + bytes;) {
        release(part->second);
        part = mapped.erase(part);
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    std::lock_guard<std::mutex> guard(mutex);
    release(reinterpret_cast<Handle*>(handle));
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }
EXPORT CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    std::lock_guard<std::mutex> guard(mutex);
    auto after = mapped.upper_bound(address);
    if (after == mapped.begin()) return CUDA_ERROR_INVALID_VALUE;
    *base = std::prev(after)->first;
    *bytes = std::prev(after)->second->bytes;
    return CUDA_SUCCESS;
}

#if CUDA_VERSION >= 12090
// The driver never logs anything.
EXPORT CUresult cuLogsRegisterCallback(CUlogsCallback, void*, CUlogsCallbackHandle* handle) {
    *handle = nullptr;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle) { return CUDA_SUCCESS; }
#endif
