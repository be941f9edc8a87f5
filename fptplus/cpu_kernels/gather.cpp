// Gathers rows from wherever they are. Large rows bypass the caches: nothing is read that will be overwritten, and what
// a training step has in the caches stays there.

#include "vectors.h"

using namespace fptplus;

namespace {

constexpr int64_t LARGE_BYTES = 1 << 20, LINE_BYTES = 64, AHEAD_BYTES = 32 * LINE_BYTES;

void copy(const char* from, int64_t size, char* to) {
    int64_t done = 0;
#ifdef FPTPLUS_AVX512
    if (size >= LARGE_BYTES && reinterpret_cast<uintptr_t>(to) % LINE_BYTES == 0) {
        for (; done + LINE_BYTES <= size; done += LINE_BYTES) {
            __builtin_prefetch(from + done + AHEAD_BYTES);
            _mm512_stream_si512(reinterpret_cast<__m512i*>(to + done), _mm512_loadu_si512(from + done));
        }
        _mm_sfence();
    }
#endif
    std::memcpy(to + done, from + done, size - done);
}
}  // namespace

// addresses (B,) of rows; out (B, bytes). It uses one thread, which may run alongside those of the training step.
extern "C" void fptplus_gather(const Array* addresses, const Array* out, int) {
    for (int64_t row = 0; row < out->sizes[0]; ++row)
        copy(reinterpret_cast<const char*>(addresses->at<int64_t>(0)[row]), out->sizes[1], out->at<char>(row));
}
