// Augmented views of a batch of images: resampled, mirrored, brightened and contrasted (see data/augment.py).

#include <cmath>
#include <vector>

#include "vectors.h"

using namespace fptplus;

namespace {

// How each of `res` resampled pixels is summed: `taps` neighbouring pixels from `first` on, times their weights.
struct Resampling {
    int64_t res, taps;
    std::vector<int32_t> first;
    std::vector<float> weights;  // (taps, res)

    // Resamples `length` of `size` pixels, from `start` on, by the triangle filter restricted to these pixels.
    Resampling(double start, double length, int64_t size, int64_t res, bool mirrored) : res(res) {
        const double scale = length / res, reach = std::max(scale, 1.0), end = start + length;
        taps = std::min<int64_t>(size, int64_t(std::ceil(2 * reach)) + 1);
        first.resize(res);
        weights.resize(taps * res);
        for (int64_t i = 0; i < res; ++i) {
            const double center = start + (i + 0.5) * scale;
            const int64_t lowest = int64_t(std::floor(center - reach - 0.5)) + 1;
            const int64_t from = std::max<int64_t>(0, std::min(lowest, size - taps));
            const int64_t to = mirrored ? res - 1 - i : i;
            first[to] = int32_t(from);
            float sum = 0;
            for (int64_t tap = 0; tap < taps; ++tap) {
                const double pixel = from + tap + 0.5;
                const double weight = pixel > start && pixel < end ? 1 - std::abs(pixel - center) / reach : 0;
                sum += weights[tap * res + to] = float(std::max(0.0, weight));
            }
            for (int64_t tap = 0; tap < taps; ++tap) weights[tap * res + to] /= sum;
        }
    }
};

inline float between_0_and_1(float x) { return std::min(1.0f, std::max(0.0f, x)); }

void brighten(float* pixels, int64_t count, float factor) {
    for (int64_t i = 0; i < count; ++i) pixels[i] = between_0_and_1(pixels[i] * factor);
}

// Changes the contrast of three planes of `count` pixels.
void contrast(float* planes, int64_t count, float factor) {
    double sums[3];
    for (int64_t channel = 0; channel < 3; ++channel) {
        Vec sum = {};
        in_sixteens(count, [&](int64_t i, auto width) { sum += load(planes + channel * count + i, width); });
        sums[channel] = sum_of(sum);
    }
    const float grey = float((0.2989 * sums[0] + 0.587 * sums[1] + 0.114 * sums[2]) / count);
    for (int64_t i = 0; i < 3 * count; ++i) planes[i] = between_0_and_1(planes[i] * factor + grey * (1 - factor));
}
}  // namespace

// images (B, 3, height, width) uint8; boxes (B, 4): left, top, width and height as shares of the image; flipped and
// brightness_first (B,) bytes; brightness and contrast (B,) factors; out (B, 3, res, res) fp32 in 0 to 1.
extern "C" void fptplus_render(
    const Array* images, const Array* boxes, const Array* flipped, const Array* brightness, const Array* contrasts,
    const Array* brightness_first, const Array* out, int threads
) {
    const int64_t height = images->sizes[2], width = images->sizes[3], res = out->sizes[2];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t image = 0; image < images->sizes[0]; ++image) {
        const float* box = boxes->at<float>(image);
        const Resampling columns(double(box[0]) * width, double(box[2]) * width, width, res, *flipped->at<bool>(image));
        const Resampling rows(double(box[1]) * height, double(box[3]) * height, height, res, false);
        std::vector<float> line(width + LANES);
        float* pixels = out->at<float>(image);
        for (int64_t channel = 0; channel < 3; ++channel)
            for (int64_t y = 0; y < res; ++y) {
                const uint8_t* from = images->at<uint8_t>(image, channel, rows.first[y]);
                in_sixteens(width, [&](int64_t x, auto count) {
                    Vec sum = {};
                    for (int64_t tap = 0; tap < rows.taps; ++tap)
                        sum += rows.weights[tap * res + y] / 255 * load(from + tap * images->strides[2] + x, count);
                    store(sum, LANES, line.data() + x);
                });
                float* to = pixels + (channel * res + y) * res;
                for (int64_t x = 0; x < res; ++x) {
                    float sum = 0;
                    for (int64_t tap = 0; tap < columns.taps; ++tap)
                        sum += columns.weights[tap * res + x] * line[columns.first[x] + tap];
                    to[x] = sum;
                }
            }
        const int64_t count = res * res;
        const bool first = *brightness_first->at<bool>(image);
        if (first) brighten(pixels, 3 * count, *brightness->at<float>(image));
        contrast(pixels, count, *contrasts->at<float>(image));
        if (!first) brighten(pixels, 3 * count, *brightness->at<float>(image));
    }
}
