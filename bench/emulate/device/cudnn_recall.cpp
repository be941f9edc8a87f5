// Plans where the installed cuDNN cannot make them without a device (before 9.8): descriptors remember what is set in
// them, every graph has one engine, and its scratch memory is not known.
#include <map>
#include <memory>
#include <string>

#include "cudnn_graph.h"

using namespace emulated;

namespace {

struct Contents;

struct Value {
    int64_t count = 0;
    std::string bytes;
    std::vector<std::shared_ptr<Contents>> descriptors;  // kept as they were, instead of as bytes
};

struct Contents {
    std::map<cudnnBackendAttributeName_t, Value> values;
};

// What a cudnnBackendDescriptor_t points to.
struct Descriptor {
    std::shared_ptr<Contents> contents = std::make_shared<Contents>();
};

Descriptor& descriptor_of(cudnnBackendDescriptor_t pointer) { return *static_cast<Descriptor*>(pointer); }

size_t bytes_of(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
        case CUDNN_TYPE_CHAR: return sizeof(char);
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_DOUBLE: return sizeof(int64_t);
        case CUDNN_TYPE_HANDLE:
        case CUDNN_TYPE_VOID_PTR: return sizeof(void*);
#if CUDNN_MAJOR >= 9
        case CUDNN_TYPE_FRACTION: return sizeof(cudnnFraction_t);
#endif
        default: return sizeof(int);  // floats, 32-bit integers and enumerations
    }
}

std::shared_ptr<Contents> configuration_of(const Contents& heuristic) {
    auto engine = std::make_shared<Contents>(), configuration = std::make_shared<Contents>();
    auto graph = heuristic.values.find(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (graph != heuristic.values.end()) engine->values[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] = graph->second;
    int64_t first = 0;
    engine->values[CUDNN_ATTR_ENGINE_GLOBAL_INDEX] = {
        1, std::string(reinterpret_cast<const char*>(&first), sizeof first), {}};
    configuration->values[CUDNN_ATTR_ENGINECFG_ENGINE] = {1, {}, {engine}};
    return configuration;
}

class RecallingPlanner : public Planner {
public:
    cudnnStatus_t create(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t* descriptor) override {
        *descriptor = new Descriptor;
        return CUDNN_STATUS_SUCCESS;
    }
    cudnnStatus_t destroy(cudnnBackendDescriptor_t descriptor) override {
        delete &descriptor_of(descriptor);
        return CUDNN_STATUS_SUCCESS;
    }
    cudnnStatus_t set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendAttributeType_t type, int64_t count, const void* elements) override {
        Value value{count, {}, {}};
        if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
            auto* others = static_cast<const cudnnBackendDescriptor_t*>(elements);
            for (int64_t i = 0; i < count; i++) value.descriptors.push_back(descriptor_of(others[i]).contents);
        } else {
            value.bytes.assign(static_cast<const char*>(elements), size_t(count) * bytes_of(type));
        }
        descriptor_of(descriptor).contents->values[name] = value;
        return CUDNN_STATUS_SUCCESS;
    }
    cudnnStatus_t get(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                      cudnnBackendAttributeType_t type, int64_t requested, int64_t* count, void* elements) override {
        Value value = recall(*descriptor_of(descriptor).contents, name);
        *count = value.count;
        if (!elements) return CUDNN_STATUS_SUCCESS;
        size_t given = size_t(std::min(requested, value.count));
        auto* others = static_cast<cudnnBackendDescriptor_t*>(elements);
        if (value.descriptors.empty())
            value.bytes.copy(static_cast<char*>(elements), given * bytes_of(type));
        else
            for (size_t i = 0; i < given; i++) descriptor_of(others[i]).contents = value.descriptors[i];
        return CUDNN_STATUS_SUCCESS;
    }
    cudnnStatus_t finalize(cudnnBackendDescriptor_t, cudnnBackendDescriptorType_t) override {
        return CUDNN_STATUS_SUCCESS;
    }
    cudnnStatus_t workspace(cudnnBackendDescriptor_t, const char* operators, int64_t* bytes) override {
        unknown_workspace(operators);
        *bytes = 0;
        return CUDNN_STATUS_SUCCESS;
    }

private:
    // What was set, or what follows from it; engines have neither settings nor notes.
    static Value recall(const Contents& contents, cudnnBackendAttributeName_t name) {
        if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) return {1, {}, {configuration_of(contents)}};
        if (name == CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT) {
            int64_t one = 1;
            return {1, std::string(reinterpret_cast<const char*>(&one), sizeof one), {}};
        }
        auto found = contents.values.find(name);
        return found == contents.values.end() ? Value{} : found->second;
    }
};

}  // namespace

Planner* emulated::recalling_planner() {
    static RecallingPlanner planner;
    return &planner;
}
