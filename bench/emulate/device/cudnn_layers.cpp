// cuDNN's single-layer functions. Only cuDNN knows the scratch memory of its algorithms: the answer is none, and it is
// reported as unknown. PyTorch convolves by graphs (cudnn_graph.cpp) unless TORCH_CUDNN_V8_API_DISABLED is set.
#include "cudnn_parts.h"

using namespace emulated;

namespace {

cudnnStatus_t unknown_bytes(const char* operators, size_t* bytes) {
    unknown_workspace(operators);
    *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}

// The only algorithm, whether it is looked up or measured.
template <typename Performance, typename Algorithm>
cudnnStatus_t choose(Algorithm algorithm, int requested, int* returned, Performance* results) {
    if (requested < 1) return CUDNN_STATUS_BAD_PARAM;
    *results = {};
    results->algo = algorithm;
    results->status = CUDNN_STATUS_SUCCESS;
    results->determinism = CUDNN_DETERMINISTIC;
    results->mathType = CUDNN_DEFAULT_MATH;
    *returned = 1;
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace

using Tensor = const cudnnTensorDescriptor_t;
using Filter = const cudnnFilterDescriptor_t;
using Convolution = const cudnnConvolutionDescriptor_t;

EXPORT cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, Tensor, Filter, Convolution, Tensor,
                                                            const int requested, int* returned,
                                                            cudnnConvolutionFwdAlgoPerf_t* results) {
    return choose(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t, Tensor, const void*, Filter, const void*,
                                                            Convolution, Tensor, void*, const int requested,
                                                            int* returned, cudnnConvolutionFwdAlgoPerf_t* results,
                                                            void*, size_t) {
    return choose(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, Filter, Tensor, Convolution, Tensor,
                                                                 const int requested, int* returned,
                                                                 cudnnConvolutionBwdDataAlgoPerf_t* results) {
    return choose(CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(cudnnHandle_t, Filter, const void*, Tensor,
                                                                 const void*, Convolution, Tensor, void*,
                                                                 const int requested, int* returned,
                                                                 cudnnConvolutionBwdDataAlgoPerf_t* results, void*,
                                                                 size_t) {
    return choose(CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, Tensor, Tensor, Convolution, Filter,
                                                                   const int requested, int* returned,
                                                                   cudnnConvolutionBwdFilterAlgoPerf_t* results) {
    return choose(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(cudnnHandle_t, Tensor, const void*, Tensor,
                                                                   const void*, Convolution, Filter, void*,
                                                                   const int requested, int* returned,
                                                                   cudnnConvolutionBwdFilterAlgoPerf_t* results, void*,
                                                                   size_t) {
    return choose(CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, requested, returned, results);
}
EXPORT cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, Tensor, Filter, Convolution, Tensor,
                                                             cudnnConvolutionFwdAlgo_t, size_t* bytes) {
    return unknown_bytes("convolution", bytes);
}
EXPORT cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, Filter, Tensor, Convolution, Tensor,
                                                                  cudnnConvolutionBwdDataAlgo_t, size_t* bytes) {
    return unknown_bytes("convolution", bytes);
}
EXPORT cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, Tensor, Tensor, Convolution, Filter,
                                                                    cudnnConvolutionBwdFilterAlgo_t, size_t* bytes) {
    return unknown_bytes("convolution", bytes);
}
EXPORT cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void*, Tensor, const void*, Filter,
                                             const void*, Convolution, cudnnConvolutionFwdAlgo_t, void*, size_t,
                                             const void*, Tensor, void*) {
    return called(handle, "cudnnConvolutionForward");
}
EXPORT cudnnStatus_t cudnnConvolutionBiasActivationForward(cudnnHandle_t handle, const void*, Tensor, const void*,
                                                           Filter, const void*, Convolution, cudnnConvolutionFwdAlgo_t,
                                                           void*, size_t, const void*, Tensor, const void*, Tensor,
                                                           const void*, const cudnnActivationDescriptor_t, Tensor,
                                                           void*) {
    return called(handle, "cudnnConvolutionBiasActivationForward");
}
EXPORT cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void*, Filter, const void*, Tensor,
                                                  const void*, Convolution, cudnnConvolutionBwdDataAlgo_t, void*,
                                                  size_t, const void*, Tensor, void*) {
    return called(handle, "cudnnConvolutionBackwardData");
}
EXPORT cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void*, Tensor, const void*, Tensor,
                                                    const void*, Convolution, cudnnConvolutionBwdFilterAlgo_t, void*,
                                                    size_t, const void*, Filter, void*) {
    return called(handle, "cudnnConvolutionBackwardFilter");
}

EXPORT cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t, Tensor, Tensor, Tensor, Tensor,
    const cudnnActivationDescriptor_t, size_t* bytes) {
    return unknown_bytes("batch normalisation", bytes);
}
EXPORT cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    const cudnnActivationDescriptor_t, size_t* bytes) {
    return unknown_bytes("batch normalisation", bytes);
}
EXPORT cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t, cudnnBatchNormMode_t,
                                                                          cudnnBatchNormOps_t,
                                                                          const cudnnActivationDescriptor_t, Tensor,
                                                                          size_t* bytes) {
    return unknown_bytes("batch normalisation", bytes);
}
EXPORT cudnnStatus_t cudnnBatchNormalizationForwardTrainingEx(
    cudnnHandle_t handle, cudnnBatchNormMode_t, cudnnBatchNormOps_t, const void*, const void*, Tensor, const void*,
    Tensor, const void*, Tensor, void*, Tensor, const void*, const void*, double, void*, void*, double, void*, void*,
    cudnnActivationDescriptor_t, void*, size_t, void*, size_t) {
    return called(handle, "cudnnBatchNormalizationForwardTrainingEx");
}
EXPORT cudnnStatus_t cudnnBatchNormalizationForwardInference(cudnnHandle_t handle, cudnnBatchNormMode_t, const void*,
                                                             const void*, Tensor, const void*, Tensor, void*, Tensor,
                                                             const void*, const void*, const void*, const void*,
                                                             double) {
    return called(handle, "cudnnBatchNormalizationForwardInference");
}
EXPORT cudnnStatus_t cudnnBatchNormalizationBackwardEx(
    cudnnHandle_t handle, cudnnBatchNormMode_t, cudnnBatchNormOps_t, const void*, const void*, const void*, const void*,
    Tensor, const void*, Tensor, const void*, Tensor, const void*, Tensor, void*, Tensor, void*, Tensor, const void*,
    const void*, void*, void*, double, const void*, const void*, cudnnActivationDescriptor_t, void*, size_t, void*,
    size_t) {
    return called(handle, "cudnnBatchNormalizationBackwardEx");
}

EXPORT cudnnStatus_t cudnnPoolingForward(cudnnHandle_t handle, const cudnnPoolingDescriptor_t, const void*, Tensor,
                                         const void*, const void*, Tensor, void*) {
    return called(handle, "cudnnPoolingForward");
}

using Transformer = const cudnnSpatialTransformerDescriptor_t;

EXPORT cudnnStatus_t cudnnSpatialTfGridGeneratorForward(cudnnHandle_t handle, Transformer, const void*, void*) {
    return called(handle, "cudnnSpatialTfGridGeneratorForward");
}
EXPORT cudnnStatus_t cudnnSpatialTfGridGeneratorBackward(cudnnHandle_t handle, Transformer, const void*, void*) {
    return called(handle, "cudnnSpatialTfGridGeneratorBackward");
}
EXPORT cudnnStatus_t cudnnSpatialTfSamplerForward(cudnnHandle_t handle, cudnnSpatialTransformerDescriptor_t,
                                                  const void*, Tensor, const void*, const void*, const void*,
                                                  cudnnTensorDescriptor_t, void*) {
    return called(handle, "cudnnSpatialTfSamplerForward");
}
EXPORT cudnnStatus_t cudnnSpatialTfSamplerBackward(cudnnHandle_t handle, cudnnSpatialTransformerDescriptor_t,
                                                   const void*, Tensor, const void*, const void*, Tensor, void*,
                                                   const void*, Tensor, const void*, const void*, const void*, void*) {
    return called(handle, "cudnnSpatialTfSamplerBackward");
}
