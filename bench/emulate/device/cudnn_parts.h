// Shared by the parts of cuDNN: handles, descriptors that remember what they are given, and the installed library.
//
//   cudnn.cpp             handles, versions, errors, descriptors
//   cudnn_layers.cpp      convolution, normalisation and others by one call each
//   cudnn_recurrent.cpp   recurrent networks
//   cudnn_graph.cpp       graphs of operators: what all of them have in common
//   cudnn_planner.cpp     plans by the installed cuDNN, for a device that it does not see
//   cudnn_recall.cpp      plans where the installed cuDNN cannot make them
#pragma once
#include <cudnn.h>

#include <vector>

#include "library.h"

struct cudnnContext {
    cudaStream_t stream = nullptr;
};

struct cudnnTensorStruct {
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    std::vector<int> dimensions, strides;
};

struct cudnnFilterStruct {
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnTensorFormat_t format = CUDNN_TENSOR_NCHW;
    std::vector<int> dimensions;
};

namespace emulated {

// A function of the cuDNN that PyTorch would use on a GPU; null if there is none of that name.
void* installed_cudnn(const char* function);

inline cudnnStatus_t called(cudnnHandle_t handle, const char* name) {
    library_call(name, handle->stream);
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace emulated
