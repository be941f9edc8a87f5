// What a kernel would have computed reads as zero, not as what lay in that memory before.
//
// Kernels write to tensors that PyTorch has just allocated, mostly in memory that it has used before. So the real bytes
// that small copies and fills have left in a block are cleared when PyTorch's allocator gives the block away again. It
// tells its profiler of each block by a function of another library, which this one stands in front of.
#include "values.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>

#include "device.h"

namespace emulated {
namespace {

constexpr uintptr_t PAGE_BYTES = 4 * KIB;

std::mutex mutex;
std::set<uintptr_t> written;  // pages of devices with real bytes in them

uintptr_t page_of(uintptr_t address) { return address / PAGE_BYTES * PAGE_BYTES; }

void clear(uintptr_t start, uintptr_t end) {
    std::lock_guard<std::mutex> guard(mutex);
    for (auto page = written.lower_bound(page_of(start)); page != written.end() && *page < end;) {
        uintptr_t first = std::max(start, *page), last = std::min(end, *page + PAGE_BYTES);
        memset(reinterpret_cast<void*>(first), 0, last - first);
        page = last - first == PAGE_BYTES ? written.erase(page) : std::next(page);
    }
}

}  // namespace

void note_written(const void* address, size_t bytes) {
    if (bytes == 0) return;
    std::lock_guard<std::mutex> guard(mutex);
    uintptr_t start = reinterpret_cast<uintptr_t>(address);
    for (uintptr_t page = page_of(start); page < start + bytes; page += PAGE_BYTES) written.insert(page);
}

void forget_written(uintptr_t start, size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex);
    written.erase(written.lower_bound(start), written.lower_bound(start + bytes));
}

}  // namespace emulated

using namespace emulated;

// c10::reportMemoryUsageToProfiler(void*, int64_t, size_t, size_t, Device); a block that is given back has fewer than 0
// bytes.
#define REPORT _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

EXPORT void REPORT(void* address, int64_t bytes, size_t allocated, size_t reserved, uint16_t device) {
    static auto report =
        reinterpret_cast<decltype(&REPORT)>(dlsym(dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD), TEXT(REPORT)));
    uintptr_t start = reinterpret_cast<uintptr_t>(address);
    if (bytes > 0) clear(start, start + uintptr_t(bytes));
    if (report) report(address, bytes, allocated, reserved, device);
}
