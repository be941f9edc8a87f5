// What the device is: EMULATED_GPU, "key=value" separated by semicolons, as launch.py writes it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"

namespace emulated {
namespace {

std::string value_of(const char* settings, const char* key) {
    std::string wanted = std::string(key) + "=";
    for (const char* part = settings; part && *part;) {
        const char* end = strchr(part, ';');
        std::string entry = end ? std::string(part, end) : std::string(part);
        if (entry.compare(0, wanted.size(), wanted) == 0) return entry.substr(wanted.size());
        part = end ? end + 1 : nullptr;
    }
    fprintf(stderr, "emulated device: EMULATED_GPU must have %s, got '%s'\n", key, settings);
    abort();
}

Card read_card() {
    const char* settings = getenv("EMULATED_GPU");
    if (!settings) {
        fprintf(stderr, "emulated device: EMULATED_GPU must describe the card; start the program by `bench emulate`\n");
        abort();
    }
    auto number = [&](const char* key) { return strtoll(value_of(settings, key).c_str(), nullptr, 10); };
    Card card{};
    snprintf(card.name, sizeof card.name, "%s", value_of(settings, "name").c_str());
    snprintf(card.uuid, sizeof card.uuid, "%s", value_of(settings, "uuid").c_str());
    card.memory_bytes = number("memory_bytes");
    card.context_bytes = number("context_bytes");
    card.major = int(number("major"));
    card.minor = int(number("minor"));
    card.num_sms = int(number("num_sms"));
    card.max_threads_per_sm = int(number("max_threads_per_sm"));
    card.max_blocks_per_sm = int(number("max_blocks_per_sm"));
    card.registers_per_sm = int(number("registers_per_sm"));
    card.shared_per_block_bytes = number("shared_per_block_bytes");
    card.shared_per_block_optin_bytes = number("shared_per_block_optin_bytes");
    card.shared_per_sm_bytes = number("shared_per_sm_bytes");
    card.l2_bytes = number("l2_bytes");
    card.memory_bus_bits = int(number("memory_bus_bits"));
    card.clock_khz = int(number("clock_khz"));
    card.memory_clock_khz = int(number("memory_clock_khz"));
    return card;
}

std::vector<int> read_visible() {
    std::vector<int> devices;
    const char* mask = getenv("CUDA_VISIBLE_DEVICES");
    if (!mask) {
        for (int device = 0; device < all_devices(); device++) devices.push_back(device);
        return devices;
    }
    for (const char* entry = mask; *entry;) {  // like CUDA, up to the first entry that is not a device
        char* end;
        long device = strtol(entry, &end, 10);
        if (end == entry || device < 0 || device >= all_devices()) break;
        devices.push_back(int(device));
        entry = *end == ',' ? end + 1 : end;
    }
    return devices;
}

const std::vector<int>& visible() {
    static const std::vector<int> devices = read_visible();
    return devices;
}

thread_local int current = 0;

}  // namespace

const Card& card() {
    static const Card the_card = read_card();  // when first asked, so that a forked process may have its own
    return the_card;
}

int all_devices() {
    const char* count = getenv("EMULATED_GPU_COUNT");
    int devices = count ? atoi(count) : 1;
    return devices < 0 ? 0 : devices > MAX_DEVICES ? MAX_DEVICES : devices;
}

int visible_devices() { return int(visible().size()); }

int physical_device(int device) { return visible()[device]; }

int current_device() { return current; }

bool set_current_device(int device) {
    if (device < 0 || device >= visible_devices()) return false;
    current = device;
    return true;
}

static std::mutex mutex;
static std::string names;  // ", " before each

void unanswered(const char* function) {
    std::lock_guard<std::mutex> guard(mutex);
    std::string entry = std::string(", ") + function;
    if ((names + ",").find(entry + ",") != std::string::npos) return;
    names += entry;
    fprintf(stderr, "emulated device: no answer to %s\n", function);
}

}  // namespace emulated

EXPORT void emulated_no_answer(const char* function) { emulated::unanswered(function); }

// Functions that had no answer, separated by ", "; empty if all had one. Valid until another function has none.
EXPORT const char* emulated_unanswered() {
    std::lock_guard<std::mutex> guard(emulated::mutex);
    return emulated::names.empty() ? "" : emulated::names.c_str() + 2;
}

// Measuring code looks for this name: a process that has it has no GPU.
EXPORT int emulated_device() { return 1; }
