// PyTorch's allocator: what is asked of it is written down, and it is asked the same again (requests.py).

#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdint>
#include <vector>

namespace allocator = c10::cuda::CUDACachingAllocator;

namespace {

struct Event {
    int64_t address;
    int64_t num_bytes;  // 0 if the block is given back
};

std::vector<Event> events;
bool is_listening = false;

void note(const allocator::TraceEntry& entry) {
    if (!is_listening) return;
    const auto address = static_cast<int64_t>(entry.addr_);
    if (entry.action_ == allocator::TraceEntry::ALLOC) events.push_back({address, static_cast<int64_t>(entry.size_)});
    if (entry.action_ == allocator::TraceEntry::FREE_REQUESTED) events.push_back({address, 0});
}

}  // namespace

extern "C" {

// Forget what was heard, and begin or stop to listen.
void requests_listen(int enable) {
    static const bool is_attached = (allocator::attachAllocatorTraceTracker(note), true);
    (void)is_attached;
    events.clear();
    is_listening = enable != 0;
}

size_t requests_count() { return events.size(); }

const Event* requests_heard() { return events.data(); }

// Make requests in their order: a positive number asks for a block of so many bytes, -1 - n gives back block n, and 0
// counts as a new block that is never there. `blocks` has the addresses of the blocks that are there at first, 0 for one
// that is not, and takes those of the new ones. Returns whether all requests were met.
int requests_ask(const int64_t* requests, size_t count, int64_t* blocks, size_t num_blocks) {
    try {
        for (const int64_t* request = requests; request != requests + count; ++request) {
            if (*request < 0) {
                int64_t& block = blocks[-1 - *request];
                if (block != 0) allocator::raw_delete(reinterpret_cast<void*>(block));
                block = 0;
            } else {
                void* block = *request == 0 ? nullptr : allocator::raw_alloc(static_cast<size_t>(*request));
                blocks[num_blocks++] = reinterpret_cast<int64_t>(block);
            }
        }
    } catch (const std::exception&) {
        return 0;
    }
    return 1;
}

}  // extern "C"
