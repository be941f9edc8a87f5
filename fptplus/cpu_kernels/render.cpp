// Augmented views of a batch of images: brightened and contrasted, resampled and mirrored (see data/augment.py).

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

    // Resamples `length` of `size` pixels, from `start` on, by the triangle filter restricted to these pixels, which
    // have been through one of half-width `filtered`.
    Resampling(double start, double length, int64_t size, int64_t res, double filtered, bool mirrored) : res(res) {
        const double scale = length / res, end = start + length;
        const double reach = std::sqrt(std::max(scale * scale - filtered * filtered, 1.0));
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

// Changes both of three planes of `count` pixels.
void recolour(float* planes, int64_t count, float brightness, float contrasts, bool brightness_first) {
    if (brightness_first) brighten(planes, 3 * count, brightness);
    contrast(planes, count, contrasts);
    if (!brightness_first) brighten(planes, 3 * count, brightness);
}

// Resamples three planes of pixels, `width` in a row and `plane` from one to the next, times `factor`.
template <class T>
void resample(
    const T* planes, int64_t width, int64_t plane, float factor, const Resampling& rows, const Resampling& columns,
    float* out
) {
    const int64_t res = rows.res;
    std::vector<float> line(width + LANES);
    for (int64_t channel = 0; channel < 3; ++channel)
        for (int64_t y = 0; y < res; ++y) {
            const T* from = planes + channel * plane + rows.first[y] * width;
            in_sixteens(width, [&](int64_t x, auto count) {
                Vec sum = {};
                for (int64_t tap = 0; tap < rows.taps; ++tap)
                    sum += rows.weights[tap * res + y] * factor * load(from + tap * width + x, count);
                store(sum, LANES, line.data() + x);
            });
            float* to = out + (channel * res + y) * res;
            for (int64_t x = 0; x < res; ++x) {
                float sum = 0;
                for (int64_t tap = 0; tap < columns.taps; ++tap)
                    sum += columns.weights[tap * res + x] * line[columns.first[x] + tap];
                to[x] = sum;
            }
        }
}
}  // namespace

// images (B, 3, height, width) uint8, contiguous; boxes (B, 4): left, top, width and height as shares of the image;
// flipped, brightness_first and before_crop (B,) bytes; brightness and contrast (B,) factors; filtered (B, 2)
// half-widths of an earlier filter across and down; out (B, 3, res, res) fp32 in 0 to 1.
extern "C" void fptplus_render(
    const Array* images, const Array* boxes, const Array* flipped, const Array* brightness, const Array* contrasts,
    const Array* brightness_first, const Array* before_crop, const Array* filtered, const Array* out, int threads
) {
    const int64_t height = images->sizes[2], width = images->sizes[3], res = out->sizes[2];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t image = 0; image < images->sizes[0]; ++image) {
        const float* box = boxes->at<float>(image);
        const float* made_by = filtered->at<float>(image);
        const bool mirrored = *flipped->at<bool>(image);
        const Resampling columns(double(box[0]) * width, double(box[2]) * width, width, res, made_by[0], mirrored);
        const Resampling rows(double(box[1]) * height, double(box[3]) * height, height, res, made_by[1], false);
        const auto recoloured = [&](float* planes, int64_t count) {
            const bool first = *brightness_first->at<bool>(image);
            recolour(planes, count, *brightness->at<float>(image), *contrasts->at<float>(image), first);
        };
        const uint8_t* bytes = images->at<uint8_t>(image);
        const int64_t count = height * width;
        float* pixels = out->at<float>(image);
        if (*before_crop->at<bool>(image)) {
            std::vector<float> whole(3 * count);
            for (int64_t i = 0; i < 3 * count; ++i) whole[i] = bytes[i] * (1.0f / 255);
            recoloured(whole.data(), count);
            resample(whole.data(), width, count, 1, rows, columns, pixels);
        } else {
            resample(bytes, width, count, 1.0f / 255, rows, columns, pixels);
            recoloured(pixels, res * res);
        }
    }
}
