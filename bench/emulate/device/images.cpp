// Which of a program's compiled codes the card runs. Programs ask for its architecture to choose their own parameters,
// and CUB fails if it was not compiled for the answer: on a card of 8.9 PyTorch runs its code for 8.6, and must hear 8.6.
//
// A fat binary is a list of images, each with a header; layout as NVIDIA's `cuobjdump` and the open tools that read it
// know it.
#include "images.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>

namespace emulated {
namespace {

constexpr uint32_t WRAPPER_MAGIC = 0x466243b1, BINARY_MAGIC = 0xba55ed50;
constexpr uint16_t PTX = 1, MACHINE_CODE = 2;

struct Wrapper {
    uint32_t magic, version;
    const char* binary;
    void* unused;
};
struct Header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;  // of all images with their headers
};
struct ImageHeader {
    uint16_t kind, unknown;
    uint32_t header_bytes;
    uint64_t image_bytes;
    uint32_t compressed_bytes, options;
    uint16_t minor, major;  // of the format
    uint32_t architecture;
};

std::mutex mutex;
std::deque<void*> wrappers;  // a deque, since handles point into it

// Whether a card runs an image: machine code of its own generation that is not newer, or any older PTX.
bool runs(const ImageHeader& image, int card) {
    int architecture = int(image.architecture);
    if (image.kind == MACHINE_CODE) return architecture / 10 == card / 10 && architecture <= card;
    return image.kind == PTX && architecture <= card;
}

}  // namespace

void** register_images(const void* wrapper) {
    std::lock_guard<std::mutex> guard(mutex);
    wrappers.push_back(const_cast<void*>(wrapper));
    return &wrappers.back();
}

int architecture_run(void* const* handle, int card) {
    auto wrapper = handle ? static_cast<const Wrapper*>(*handle) : nullptr;
    if (!wrapper || wrapper->magic != WRAPPER_MAGIC) return card;
    const Header& header = *reinterpret_cast<const Header*>(wrapper->binary);
    if (header.magic != BINARY_MAGIC) return card;
    int best = 0;
    const char* end = wrapper->binary + header.header_bytes + header.bytes;
    for (const char* at = wrapper->binary + header.header_bytes; at + sizeof(ImageHeader) <= end;) {
        auto& image = *reinterpret_cast<const ImageHeader*>(at);
        if (image.header_bytes == 0) break;
        if (runs(image, card)) best = std::max(best, int(image.architecture));
        at += image.header_bytes + image.image_bytes;
    }
    return best ? best : card;
}

}  // namespace emulated
