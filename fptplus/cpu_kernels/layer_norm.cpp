// LayerNorm over the channels of tokens in fp32, with the result in the type of the products.

#include <cmath>

#include "vectors.h"

using namespace fptplus;

namespace {

template <class Function>
inline float sum_over(int64_t d, Function function) {
    Vec sum = {};
    in_sixteens(d, [&](int64_t c, auto width) { sum += function(c, width); });
    return sum_of(sum);
}

template <class T>
void forward(
    const Array& x, const float* weight, const float* bias, float eps, const Array& out, const Array& stats, int threads
) {
    const int64_t d = x.sizes[2];
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t image = 0; image < x.sizes[0]; ++image)
        for (int64_t token = 0; token < x.sizes[1]; ++token) {
            const float* row = x.at<float>(image, token);
            const float mean = sum_over(d, [=](int64_t c, auto width) { return load(row + c, width); }) / d;
            const float squares = sum_over(d, [=](int64_t c, auto width) {
                const Vec distance = first_of(load(row + c, width) - mean, width);
                return distance * distance;
            });
            const float scale = 1 / std::sqrt(squares / d + eps);
            T* to = out.at<T>(image, token);
            in_sixteens(d, [=](int64_t c, auto width) {
                const Vec normed = (load(row + c, width) - mean) * scale;
                store(normed * load(weight + c, width) + load(bias + c, width), width, to + c);
            });
            stats.at<float>(image, token)[0] = mean;
            stats.at<float>(image, token)[1] = scale;
        }
}

// grad_x = scale * (g - mean(g) - normed * mean(g * normed)) + residual, with g = weight * grad.
template <class T>
void backward(
    const Array& x, const float* weight, const Array& stats, const Array& grad, const Array& residual,
    const Array& grad_x, const Array& sums, int threads
) {
    const int64_t d = x.sizes[2];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t image = 0; image < x.sizes[0]; ++image) {
        float *of_weight = sums.at<float>(image, 0), *of_bias = sums.at<float>(image, 1);
        std::fill(of_weight, of_weight + d, 0.0f);
        std::fill(of_bias, of_bias + d, 0.0f);
        for (int64_t token = 0; token < x.sizes[1]; ++token) {
            const float *row = x.at<float>(image, token), *both = stats.at<float>(image, token);
            const float mean = both[0], scale = both[1];
            const T* given = grad.at<T>(image, token);
            const auto normed = [=](int64_t c, auto width) { return (load(row + c, width) - mean) * scale; };
            const auto weighted = [=](int64_t c, auto width) { return load(given + c, width) * load(weight + c, width); };
            const float level = sum_over(d, weighted) / d;
            const float slope =
                sum_over(d, [=](int64_t c, auto width) { return weighted(c, width) * normed(c, width); }) / d;
            const float* beside = token < residual.sizes[1] ? residual.at<float>(image, token) : nullptr;
            float* to = grad_x.at<float>(image, token);
            in_sixteens(d, [=](int64_t c, auto width) {
                const Vec g = load(given + c, width), unit = normed(c, width);
                const Vec own = scale * (g * load(weight + c, width) - level - unit * slope);
                store(beside ? own + load(beside + c, width) : own, width, to + c);
                store(load(of_weight + c, width) + g * unit, width, of_weight + c);
                store(load(of_bias + c, width) + g, width, of_bias + c);
            });
        }
    }
}
}  // namespace

extern "C" {

// x (B, tokens, d) in fp32, eps one number; out like x, stats (B, tokens, 2): each token's mean and 1 / deviation.
void fptplus_layer_norm(
    const Array* x, const Array* weight, const Array* bias, const Array* eps, const Array* out, const Array* stats,
    int threads
) {
    with_float_type(*out, [&](auto number) {
        forward<decltype(number)>(
            *x, weight->at<float>(0), bias->at<float>(0), *eps->at<float>(0), *out, *stats, threads);
    });
}

// residual (B, some tokens, d) is added to the gradient of the first tokens; sums (B, 2, d): the
// gradients of weight and bias, summed over each image's tokens.
void fptplus_layer_norm_backward(
    const Array* x, const Array* weight, const Array* stats, const Array* grad, const Array* residual,
    const Array* grad_x, const Array* sums, int threads
) {
    with_float_type(*grad, [&](auto number) {
        backward<decltype(number)>(*x, weight->at<float>(0), *stats, *grad, *residual, *grad_x, *sums, threads);
    });
}

}  // extern "C"
