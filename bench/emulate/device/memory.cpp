// Device memory: addresses with nothing behind them, so that a card of any size fits any machine.
//
// What kernels would compute does not exist. Small copies move real bytes, since programs branch on them (shapes that
// ranks compare, sizes, flags); everything else that is copied to the host is zero.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "device.h"
#include "errors.h"
#include "values.h"

namespace emulated {
namespace {

constexpr size_t PAGE_BYTES = 2 * MIB;  // cudaMalloc's granularity
constexpr size_t REAL_HOST_COPY_BYTES = 1 * MIB;

// The addresses of one device, reused from the lowest on, so that every machine gets the same ones.
class AddressSpace {
  public:
    void* reserve(size_t bytes, size_t alignment) {
        if (!base_ && !map()) return nullptr;
        uintptr_t candidate = base_;
        for (auto& [start, size] : ranges_) {
            candidate = round_up(candidate, alignment);
            if (candidate + bytes <= start) break;
            candidate = std::max(candidate, start + size);
        }
        candidate = round_up(candidate, alignment);
        if (candidate + bytes > base_ + size_) return nullptr;
        ranges_[candidate] = bytes;
        return reinterpret_cast<void*>(candidate);
    }

    size_t release(uintptr_t start) {
        auto range = ranges_.find(start);
        if (range == ranges_.end()) return 0;
        size_t bytes = range->second;
        // this also discards what small copies left there
        mmap(reinterpret_cast<void*>(start), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
             -1, 0);
        ranges_.erase(range);
        forget_written(start, bytes);
        return bytes;
    }

    bool contains(uintptr_t address) const { return base_ && address >= base_ && address < base_ + size_; }

    // Start and size of the range that an address lies in.
    bool range_of(uintptr_t address, uintptr_t* start, size_t* bytes) const {
        auto after = ranges_.upper_bound(address);
        if (after == ranges_.begin()) return false;
        auto range = std::prev(after);
        *start = range->first;
        *bytes = range->second;
        return address < range->first + range->second;
    }

  private:
    static uintptr_t round_up(uintptr_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

    bool map() {
        for (size_t factor = 16; factor > 0; factor /= 2) {  // fragments and reserved addresses take more than the memory
            size_t bytes = card().memory_bytes * factor + PAGE_BYTES;
            void* base = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (base == MAP_FAILED) continue;
            base_ = round_up(reinterpret_cast<uintptr_t>(base), PAGE_BYTES);
            size_ = bytes - PAGE_BYTES;
            return true;
        }
        return false;
    }

    uintptr_t base_ = 0;
    size_t size_ = 0;
    std::map<uintptr_t, size_t> ranges_;
};

std::mutex mutex;
AddressSpace spaces[MAX_DEVICES];
std::map<uintptr_t, size_t> pinned, managed;  // host memory: start and size

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

int device_of(const void* address) {
    for (int device = 0; device < MAX_DEVICES; device++)
        if (spaces[device].contains(number(address))) return device;
    return -1;
}

// Makes device addresses readable and writable; a small segment all at once.
void make_real(const void* address, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex);
    int device = device_of(address);
    uintptr_t start;
    size_t size;
    if (device < 0 || !spaces[device].range_of(number(address), &start, &size)) return;
    if (size > PAGE_BYTES) {
        uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
        uintptr_t end = (number(address) + bytes + page - 1) / page * page;
        start = number(address) / page * page;
        size = end - start;
    }
    mprotect(reinterpret_cast<void*>(start), size, PROT_READ | PROT_WRITE);
}

bool is_on_device(const void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    return device_of(address) >= 0;
}

cudaError_t copy(void* to, const void* from, size_t bytes) {
    bool to_device = is_on_device(to), from_device = is_on_device(from);
    size_t limit = to_device && from_device ? SMALL_BYTES : REAL_HOST_COPY_BYTES;
    if (bytes <= limit || (!to_device && !from_device)) {
        if (to_device) make_real(to, bytes);
        if (from_device) make_real(from, bytes);
        memmove(to, from, bytes);
        if (to_device) note_written(to, bytes);
    } else if (!to_device) {
        memset(to, 0, bytes);
    }
    return succeed();
}

cudaError_t fill(void* address, int value, size_t bytes) {
    bool to_device = is_on_device(address);
    if (to_device && bytes > SMALL_BYTES) return succeed();
    if (to_device) make_real(address, bytes);
    memset(address, value, bytes);
    if (to_device) note_written(address, bytes);
    return succeed();
}

cudaError_t allocate(void** address, size_t bytes) {
    *address = nullptr;
    if (bytes == 0) return succeed();
    int device = current_device();
    size_t size = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (!take(device, size)) return fail(cudaErrorMemoryAllocation);
    *address = reserve_addresses(device, size, PAGE_BYTES);
    if (*address) return succeed();
    give_back(device, size);
    return fail(cudaErrorMemoryAllocation);
}

cudaError_t release(void* address) {
    if (!address) return succeed();
    std::lock_guard<std::mutex> guard(mutex);
    int device = device_of(address);
    size_t bytes = device < 0 ? 0 : spaces[device].release(number(address));
    if (bytes == 0) return fail(cudaErrorInvalidValue);
    give_back(device, bytes);
    return succeed();
}

cudaError_t allocate_on_host(void** address, size_t bytes) {
    *address = calloc(1, bytes ? bytes : 1);
    if (!*address) return fail(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> guard(mutex);
    pinned[number(*address)] = bytes;
    return succeed();
}

cudaError_t allocate_managed(void** address, size_t bytes) {
    *address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*address == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> guard(mutex);
    managed[number(*address)] = bytes;
    return succeed();
}

// Returns whether the address was that of managed memory.
bool release_managed(void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    auto range = managed.find(number(address));
    if (range == managed.end()) return false;
    munmap(address, range->second);
    managed.erase(range);
    return true;
}

bool is_in(const std::map<uintptr_t, size_t>& ranges, const void* address) {
    auto after = ranges.upper_bound(number(address));
    return after != ranges.begin() && number(address) < std::prev(after)->first + std::prev(after)->second;
}

// The default pool of each device, for the allocator that PyTorch calls cudaMallocAsync.
struct Pool {
    uint64_t used = 0, peak = 0, threshold = 0;
};
Pool pools[MAX_DEVICES];

}  // namespace

void* reserve_addresses(int device, size_t bytes, size_t alignment) {
    std::lock_guard<std::mutex> guard(mutex);
    return spaces[device].reserve(bytes, std::max(alignment, PAGE_BYTES));
}

void release_addresses(void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    int device = device_of(address);
    if (device >= 0) spaces[device].release(number(address));
}

bool is_device_address(const void* address, int* device) {
    std::lock_guard<std::mutex> guard(mutex);
    *device = device_of(address);
    return *device >= 0;
}

}  // namespace emulated

using namespace emulated;

EXPORT cudaError_t cudaMalloc(void** address, size_t bytes) { return allocate(address, bytes); }
EXPORT cudaError_t cudaFree(void* address) {
    begin_context(current_device());  // cudaFree(nullptr) is how programs create a context
    return release_managed(address) ? succeed() : release(address);
}
EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    begin_context(current_device());
    size_t used = used_bytes(current_device());
    *total = card().memory_bytes;
    *free = used > *total ? 0 : *total - used;
    return succeed();
}
EXPORT cudaError_t cudaMallocHost(void** address, size_t bytes) { return allocate_on_host(address, bytes); }
EXPORT cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) { return allocate_on_host(address, bytes); }
// Managed memory moves to the card when a kernel touches it, which none does: it stays with the host.
EXPORT cudaError_t cudaMallocManaged(void** address, size_t bytes, unsigned) { return allocate_managed(address, bytes); }
#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaMemPrefetchAsync(const void*, size_t, cudaMemLocation, unsigned, cudaStream_t) {
    return succeed();
}
EXPORT cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, cudaMemLocation) { return succeed(); }
#else
EXPORT cudaError_t cudaMemPrefetchAsync(const void*, size_t, int, cudaStream_t) { return succeed(); }
EXPORT cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, int) { return succeed(); }
#endif
EXPORT cudaError_t cudaFreeHost(void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    pinned.erase(number(address));
    free(address);
    return succeed();
}
EXPORT cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned) {
    std::lock_guard<std::mutex> guard(mutex);
    pinned[number(address)] = bytes;
    return succeed();
}
EXPORT cudaError_t cudaHostUnregister(void* address) {
    std::lock_guard<std::mutex> guard(mutex);
    pinned.erase(number(address));
    return succeed();
}
EXPORT cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
    *device = host;
    return succeed();
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = cudaMemoryTypeUnregistered;
    std::lock_guard<std::mutex> guard(mutex);
    int device = device_of(address);
    if (device >= 0) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = device;
        attributes->devicePointer = const_cast<void*>(address);
    } else if (is_in(pinned, address) || is_in(managed, address)) {
        attributes->type = is_in(managed, address) ? cudaMemoryTypeManaged : cudaMemoryTypeHost;
        attributes->hostPointer = attributes->devicePointer = const_cast<void*>(address);
    }
    return succeed();
}

EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return copy(to, from, bytes); }
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    return copy(to, from, bytes);
}
EXPORT cudaError_t cudaMemcpyPeer(void* to, int, const void* from, int, size_t bytes) { return copy(to, from, bytes); }
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
    return copy(to, from, bytes);
}
EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                     size_t height, cudaMemcpyKind, cudaStream_t) {
    for (size_t row = 0; row < height; row++)
        copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    return succeed();
}
EXPORT cudaError_t cudaMemset(void* address, int value, size_t bytes) { return fill(address, value, bytes); }
EXPORT cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
    return fill(address, value, bytes);
}
// Variables of a program's own kernels, which never run.
EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return succeed(); }
EXPORT cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
    *address = const_cast<void*>(symbol);
    return succeed();
}

EXPORT cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) {
    cudaError_t result = allocate(address, bytes);
    if (result == cudaSuccess && bytes) {
        Pool& pool = pools[current_device()];
        pool.used += (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
        pool.peak = std::max(pool.peak, pool.used);
    }
    return result;
}
EXPORT cudaError_t cudaFreeAsync(void* address, cudaStream_t) {
    int device;
    size_t bytes = 0;
    uintptr_t start;
    if (address && is_device_address(address, &device)) {
        std::lock_guard<std::mutex> guard(mutex);
        spaces[device].range_of(number(address), &start, &bytes);
        pools[device].used -= bytes;
    }
    return release(address);
}
EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    *pool = reinterpret_cast<cudaMemPool_t>(&pools[device]);
    return succeed();
}
EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
    Pool& pool = *reinterpret_cast<Pool*>(handle);
    switch (attribute) {
        case cudaMemPoolAttrReleaseThreshold: *static_cast<uint64_t*>(value) = pool.threshold; break;
        case cudaMemPoolAttrReservedMemCurrent:
        case cudaMemPoolAttrUsedMemCurrent: *static_cast<uint64_t*>(value) = pool.used; break;
        case cudaMemPoolAttrReservedMemHigh:
        case cudaMemPoolAttrUsedMemHigh: *static_cast<uint64_t*>(value) = pool.peak; break;
        default: *static_cast<int*>(value) = 1;
    }
    return succeed();
}
EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
    Pool& pool = *reinterpret_cast<Pool*>(handle);
    if (attribute == cudaMemPoolAttrReleaseThreshold) pool.threshold = *static_cast<uint64_t*>(value);
    if (attribute == cudaMemPoolAttrReservedMemHigh || attribute == cudaMemPoolAttrUsedMemHigh) pool.peak = pool.used;
    return succeed();
}
EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return succeed(); }
EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return succeed(); }
