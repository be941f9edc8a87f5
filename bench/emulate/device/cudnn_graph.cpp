// Graphs of operators (cuDNN's backend interface): planned for the card, counted by name when they are executed.
//
//   tensors, operators -> operation graph -> heuristic or engine -> engine configuration -> execution plan
//
// Handles stay here because they belong to no real device; plans do because finishing one would compile its kernels.
#include "cudnn_graph.h"

#include <memory>
#include <mutex>
#include <unordered_map>

using namespace emulated;

namespace {

struct Graph {
    const char* operators;
    cudnnBackendDescriptor_t executed = nullptr;  // the plan that was executed first
};

// What is known of a descriptor in addition to what its planner knows.
struct Known {
    cudnnBackendDescriptorType_t type{};
    std::shared_ptr<Graph> graph;
    cudnnBackendDescriptor_t configuration = nullptr;  // of a plan
    int64_t workspace_bytes = 0;                       // of a plan
};

std::mutex mutex;
std::unordered_map<cudnnBackendDescriptor_t, Known> known;

Planner& planner() {
    static Planner* the_planner = installed_planner() ? installed_planner() : recalling_planner();
    return *the_planner;
}

// The installed cuDNN also calls its own functions by these names; calls from inside are passed straight on.
thread_local int depth = 0;

struct Inside {
    Inside() { depth++; }
    ~Inside() { depth--; }
};

const char* operators_of(cudnnBackendDescriptorType_t type) {
    switch (type) {
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return "convolution";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: return "convolution backward (data)";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: return "convolution backward (filter)";
        case CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR: return "normalisation";
        case CUDNN_BACKEND_OPERATION_NORM_BACKWARD_DESCRIPTOR: return "normalisation backward";
        default: return nullptr;
    }
}

// Attention consists of products and whatever is between them; PyTorch makes no other graph of products.
const char* operators_of(const cudnnBackendDescriptor_t* operations, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        auto found = known.find(operations[i]);
        if (found == known.end()) continue;
        if (const char* name = operators_of(found->second.type)) return name;
    }
    return "attention (cuDNN)";
}

// Graphs are passed on from descriptor to descriptor.
void note(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, int64_t count, const void* elements) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = known.find(descriptor);
    if (found == known.end() || count < 1) return;
    auto* others = static_cast<const cudnnBackendDescriptor_t*>(elements);
    switch (name) {
        case CUDNN_ATTR_OPERATIONGRAPH_OPS:
            found->second.graph = std::make_shared<Graph>(Graph{operators_of(others, count)});
            break;
        case CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG: found->second.configuration = others[0]; [[fallthrough]];
        case CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH:
        case CUDNN_ATTR_ENGINE_OPERATION_GRAPH:
        case CUDNN_ATTR_ENGINECFG_ENGINE: {
            auto other = known.find(others[0]);
            if (other != known.end()) found->second.graph = other->second.graph;
            break;
        }
        default: break;
    }
}

Known known_of(cudnnBackendDescriptor_t descriptor) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = known.find(descriptor);
    return found == known.end() ? Known{} : found->second;
}

cudnnStatus_t finish_plan(cudnnBackendDescriptor_t plan) {
    Known facts = known_of(plan);
    if (!facts.configuration || !facts.graph) return CUDNN_STATUS_BAD_PARAM;
    int64_t bytes = 0;
    cudnnStatus_t status = planner().workspace(facts.configuration, facts.graph->operators, &bytes);
    std::lock_guard<std::mutex> guard(mutex);
    known[plan].workspace_bytes = bytes;
    return status;
}

}  // namespace

EXPORT cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                  cudnnBackendDescriptor_t* descriptor) {
    if (depth) return planner().create(type, descriptor);
    Inside inside;
    cudnnStatus_t status = planner().create(type, descriptor);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    std::lock_guard<std::mutex> guard(mutex);
    known[*descriptor] = {type, nullptr};
    return status;
}

EXPORT cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    if (depth) return planner().destroy(descriptor);
    Inside inside;
    {
        std::lock_guard<std::mutex> guard(mutex);
        known.erase(descriptor);
    }
    return planner().destroy(descriptor);
}

EXPORT cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t count, const void* elements) {
    if (depth) return planner().set(descriptor, name, type, count, elements);
    if (type == CUDNN_TYPE_HANDLE) return CUDNN_STATUS_SUCCESS;
    Inside inside;
    note(descriptor, name, count, elements);
    return planner().set(descriptor, name, type, count, elements);
}

EXPORT cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                              cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                              int64_t requested, int64_t* count, void* elements) {
    if (depth) return planner().get(descriptor, name, type, requested, count, elements);
    Inside inside;
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        if (count) *count = 1;
        if (requested && elements) *static_cast<int64_t*>(elements) = known_of(descriptor).workspace_bytes;
        return CUDNN_STATUS_SUCCESS;
    }
    int64_t given = 0;
    cudnnStatus_t status = planner().get(descriptor, name, type, requested, &given, elements);
    if (count) *count = given;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && elements) {
        std::lock_guard<std::mutex> guard(mutex);
        auto* configurations = static_cast<cudnnBackendDescriptor_t*>(elements);
        for (int64_t i = 0; i < given && i < requested; i++) known[configurations[i]].graph = known[descriptor].graph;
    }
    return status;
}

EXPORT cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    if (depth) return planner().finalize(descriptor, known_of(descriptor).type);
    Inside inside;
    cudnnBackendDescriptorType_t type = known_of(descriptor).type;
    if (type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) return finish_plan(descriptor);
    return planner().finalize(descriptor, type);
}

// A graph is executed by one plan, unless PyTorch measures which one is fastest (torch.backends.cudnn.benchmark). Which
// would be is not known here: all but the first, which cuDNN's heuristic has ranked first, cannot be executed.
EXPORT cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                         cudnnBackendDescriptor_t) {
    std::shared_ptr<Graph> graph = known_of(plan).graph;
    if (!graph) return CUDNN_STATUS_BAD_PARAM;
    bool is_first;
    {
        std::lock_guard<std::mutex> guard(mutex);
        if (!graph->executed) graph->executed = plan;
        is_first = graph->executed == plan;
    }
    if (!is_first) {
        unknown_workspace("operators chosen by cudnn.benchmark");
        return CUDNN_STATUS_NOT_SUPPORTED;
    }
    return called(handle, graph->operators);
}
