// Calls of the libraries: they are counted, their products recorded on request, their unknown scratch memory named.
#include "library.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "launches.h"

namespace emulated {
namespace {

std::mutex mutex;
std::vector<Product> products;
std::atomic<bool> are_products_recorded{false};
std::set<std::string> unknown;

}  // namespace

void library_call(const char* name, cudaStream_t stream) {
    if (Launches* captured = captured_launches(stream))
        captured->add(name);
    else
        emulated_library_call(name);
}

void unknown_workspace(const char* operators) {
    std::lock_guard<std::mutex> guard(mutex);
    unknown.insert(operators);
}

void record(const Product& product) {
    if (!are_products_recorded) return;
    std::lock_guard<std::mutex> guard(mutex);
    products.push_back(product);
}

}  // namespace emulated

using namespace emulated;

// Kinds of operators whose scratch memory is not known, separated by commas; valid until the thread asks again.
EXPORT const char* emulated_unknown_workspaces() {
    thread_local std::string text;
    std::lock_guard<std::mutex> guard(mutex);
    text.clear();
    for (const std::string& operators : unknown) text += (text.empty() ? "" : ", ") + operators;
    return text.c_str();
}

// Starts or stops the recording of matrix products, and forgets what was recorded.
EXPORT void emulated_products_enable(int enable) {
    std::lock_guard<std::mutex> guard(mutex);
    products.clear();
    are_products_recorded = enable != 0;
}

// Copies up to capacity products, in the order of their calls, and returns how many there are.
EXPORT size_t emulated_products_read(Product* buffer, size_t capacity) {
    std::lock_guard<std::mutex> guard(mutex);
    std::copy_n(products.begin(), std::min(capacity, products.size()), buffer);
    return products.size();
}
