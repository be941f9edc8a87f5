// Plans by the installed cuDNN itself, for a device that it does not see: since 9.8 it takes a device's properties as
// text ("deviceless" planning, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), and its heuristics and the scratch memory of each
// engine need nothing else. So the card is described to it, and its answers are those that it gives on the card.
#include "cudnn_graph.h"

#if CUDNN_VERSION < 90800

emulated::Planner* emulated::installed_planner() { return nullptr; }
EXPORT void emulated_load_planner() {}

#else

#include <string>

using namespace emulated;

namespace {

// The properties of a device that cuDNN reads, by its names for them.
std::string describe(const cudaDeviceProp& p, int clock_khz, int memory_clock_khz) {
    auto number = [](const char* name, long long value) {
        return std::string(",\"") + name + "\":" + std::to_string(value);
    };
    auto three = [](const char* name, const int* values) {
        return std::string(",\"") + name + "\":[" + std::to_string(values[0]) + "," + std::to_string(values[1]) + "," +
               std::to_string(values[2]) + "]";
    };
    return std::string("{\"deviceName\":\"") + p.name + "\"" + number("cudaDeviceId", 0) +
           number("deviceVer", 100 * p.major + 10 * p.minor) + number("driverVer", CUDART_VERSION) +
           three("maxGridSize", p.maxGridSize) + three("maxBlockSize", p.maxThreadsDim) +
           number("regsPerBlock", p.regsPerBlock) + number("multiProcessorCount", p.multiProcessorCount) +
           number("smCountOrigin", 0) + number("smClockRateKHz", clock_khz) +
           number("memClockRateKHz", memory_clock_khz) + number("l2CacheSize", p.l2CacheSize) +
           number("warpSize", p.warpSize) + number("maxSharedMemoryPerBlock", p.sharedMemPerBlock) +
           number("maxSharedMemoryPerBlockOptin", p.sharedMemPerBlockOptin) +
           number("reservedSharedMemoryPerBlock", p.reservedSharedMemPerBlock) +
           number("maxRegistersPerSM", p.regsPerMultiprocessor) +
           number("maxCtasPerSM", p.maxBlocksPerMultiProcessor) + number("maxThreadsPerBlock", p.maxThreadsPerBlock) +
           number("maxThreadsPerSM", p.maxThreadsPerMultiProcessor) + number("pciDeviceId", p.pciDeviceID) +
           number("isTccDriver", 0) + number("supportCoopLaunch", 1) + number("totalGlobalMem", p.totalGlobalMem) + "}";
}

template <typename Function>
Function find(const char* name) {
    return reinterpret_cast<Function>(installed_cudnn(name));
}

class InstalledPlanner : public Planner {
public:
    // Whether this cuDNN accepts a description of the card.
    bool start() {
        if (!load()) return false;
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, current_device()) != cudaSuccess) return false;
        return take(describe(properties, card().clock_khz, card().memory_clock_khz));
    }

    // Whether there is a cuDNN with an interface for graphs.
    bool load() {
        create_ = find<decltype(create_)>("cudnnBackendCreateDescriptor");
        destroy_ = find<decltype(destroy_)>("cudnnBackendDestroyDescriptor");
        set_ = find<decltype(set_)>("cudnnBackendSetAttribute");
        get_ = find<decltype(get_)>("cudnnBackendGetAttribute");
        finalize_ = find<decltype(finalize_)>("cudnnBackendFinalize");
        return create_ && destroy_ && set_ && get_ && finalize_;
    }

    // Whether it accepts a text for a device's properties.
    bool take(const std::string& text) {
        return create_(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &card_) == CUDNN_STATUS_SUCCESS &&
               set_(card_, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, int64_t(text.size()),
                    text.data()) == CUDNN_STATUS_SUCCESS &&
               finalize_(card_) == CUDNN_STATUS_SUCCESS;
    }

    cudnnStatus_t create(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) override {
        return create_(type, descriptor);
    }
    cudnnStatus_t destroy(cudnnBackendDescriptor_t descriptor) override { return destroy_(descriptor); }
    cudnnStatus_t set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendAttributeType_t type, int64_t count, const void* elements) override {
        return set_(descriptor, name, type, count, elements);
    }
    cudnnStatus_t get(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendAttributeType_t type, int64_t requested, int64_t* count, void* elements) override {
        return get_(descriptor, name, type, requested, count, elements);
    }
    cudnnStatus_t finalize(cudnnBackendDescriptor_t descriptor, cudnnBackendDescriptorType_t type) override {
        cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
        if (type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)
            status = set_(descriptor, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &card_);
        if (type == CUDNN_BACKEND_ENGINE_DESCRIPTOR)
            status = set_(descriptor, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &card_);
        return status == CUDNN_STATUS_SUCCESS ? finalize_(descriptor) : status;
    }
    cudnnStatus_t workspace(cudnnBackendDescriptor_t configuration, const char*, int64_t* bytes) override {
        return get_(configuration, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, nullptr, bytes);
    }

private:
    decltype(&cudnnBackendCreateDescriptor) create_ = nullptr;
    decltype(&cudnnBackendDestroyDescriptor) destroy_ = nullptr;
    decltype(&cudnnBackendSetAttribute) set_ = nullptr;
    decltype(&cudnnBackendGetAttribute) get_ = nullptr;
    decltype(&cudnnBackendFinalize) finalize_ = nullptr;
    cudnnBackendDescriptor_t card_ = nullptr;
};

}  // namespace

Planner* emulated::installed_planner() {
    static InstalledPlanner planner;
    static bool can_plan = planner.start();
    return can_plan ? &planner : nullptr;
}

// For a process that others are forked from, so that none of them has to: cuDNN loads its libraries when it is given a
// description, even an empty one, which it rejects.
EXPORT void emulated_load_planner() {
    InstalledPlanner planner;
    if (planner.load()) planner.take("{}");
}

#endif
