// GELU, x * Phi(x) with the standard normal distribution Phi and density phi, and its derivative Phi(x) + x * phi(x).

#include "vectors.h"

using namespace fptplus;

namespace {

struct Normal {  // distribution and density at sixteen points
    Vec below, density;
};

// Abramowitz and Stegun 7.1.26: the tail is exp(-x * x / 2) times a polynomial, to 1.5e-7.
inline Normal normal_at(Vec x) {
    const Vec exponential = exp2_of(x * x * (-0.5f * LOG2_E));
    const Vec t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * (x < 0.0f ? -x : x));
    Vec polynomial = t * 1.061405429f - 1.453152027f;
    polynomial = polynomial * t + 1.421413741f;
    polynomial = polynomial * t - 0.284496736f;
    polynomial = polynomial * t + 0.254829592f;
    const Vec tail = 0.5f * t * polynomial * exponential;
    return {x < 0.0f ? tail : 1.0f - tail, 0.39894228f * exponential};
}

// Calls function(first, count) like in_sixteens, each thread on its own range.
template <class Function>
void in_parallel(int64_t size, int threads, Function function) {
    const int64_t stretch = (size / threads / LANES + 1) * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < size; start += stretch)
        in_sixteens(std::min(stretch, size - start), [=](int64_t i, auto count) { function(start + i, count); });
}

template <class T>
void gelu(const T* x, int64_t size, T* out, int threads) {
    in_parallel(size, threads, [=](int64_t i, auto count) {
        const Vec numbers = load(x + i, count);
        store(numbers * normal_at(numbers).below, count, out + i);
    });
}

template <class T>
void gelu_backward(const T* x, const T* grad, int64_t size, T* out, T* grad_x, int threads) {
    in_parallel(size, threads, [=](int64_t i, auto count) {
        const Vec numbers = load(x + i, count);
        const Normal normal = normal_at(numbers);
        store(numbers * normal.below, count, out + i);
        store(load(grad + i, count) * (normal.below + numbers * normal.density), count, grad_x + i);
    });
}
}  // namespace

extern "C" {

// The arrays have one axis.
void fptplus_gelu(const Array* x, const Array* out, int threads) {
    with_float_type(*x, [&](auto number) {
        typedef decltype(number) T;
        gelu(x->at<T>(0), x->sizes[0], out->at<T>(0), threads);
    });
}

// `out` gets the recomputed GELU of x; `grad_x` may be `grad`.
void fptplus_gelu_backward(const Array* x, const Array* grad, const Array* out, const Array* grad_x, int threads) {
    with_float_type(*x, [&](auto number) {
        typedef decltype(number) T;
        gelu_backward(x->at<T>(0), grad->at<T>(0), x->sizes[0], out->at<T>(0), grad_x->at<T>(0), threads);
    });
}

}  // extern "C"
