// The planner of a graph of operators: descriptors, and the scratch memory of an engine's configuration.
#pragma once
#include "cudnn_parts.h"

namespace emulated {

// cuDNN's interface for graphs, without handles and without execution.
class Planner {
public:
    virtual cudnnStatus_t create(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) = 0;
    virtual cudnnStatus_t destroy(cudnnBackendDescriptor_t descriptor) = 0;
    virtual cudnnStatus_t set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t count, const void* elements) = 0;
    virtual cudnnStatus_t get(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                              cudnnBackendAttributeType_t type, int64_t requested, int64_t* count, void* elements) = 0;
    virtual cudnnStatus_t finalize(cudnnBackendDescriptor_t descriptor, cudnnBackendDescriptorType_t type) = 0;
    // Bytes that a plan with this configuration needs while it runs, for operators of a kind.
    virtual cudnnStatus_t workspace(cudnnBackendDescriptor_t configuration, const char* operators, int64_t* bytes) = 0;

protected:
    ~Planner() = default;
};

// The installed cuDNN, if it can plan for a device that it does not see; otherwise null.
Planner* installed_planner();

// A planner with one engine for every graph; what it needs is not known.
Planner* recalling_planner();

}  // namespace emulated
