// cuDNN's recurrent networks: weights have their sizes and places. Only cuDNN knows the scratch memory, and what is
// kept for the backward pass.
//
// All weights lie in one buffer: the matrices of each layer and direction, gate by gate (first those of the input, then
// those of the recurrence, then the projection). After all matrices come the biases, in the same order.
#include "cudnn_parts.h"

using namespace emulated;

struct cudnnRNNStruct {
    cudnnRNNMode_t mode = CUDNN_LSTM;
    cudnnRNNBiasMode_t bias = CUDNN_RNN_DOUBLE_BIAS;
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    bool is_bidirectional = false, skips_input = false;
    int input_size = 0, hidden_size = 0, projection_size = 0, num_layers = 0;
};

struct cudnnRNNDataStruct {};  // nothing in it is read again

namespace {

struct Matrix {
    int rows = 0, columns = 0;
    size_t offset = 0;  // in numbers
    bool has_bias = false;
    size_t bias_offset = 0;
};

size_t bytes_of(cudnnDataType_t type) {
    return type == CUDNN_DATA_DOUBLE ? sizeof(double) : type == CUDNN_DATA_FLOAT ? sizeof(float) : sizeof(uint16_t);
}

int num_gates(const cudnnRNNStruct& rnn) { return rnn.mode == CUDNN_LSTM ? 4 : rnn.mode == CUDNN_GRU ? 3 : 1; }

bool has_projection(const cudnnRNNStruct& rnn) { return rnn.projection_size && rnn.projection_size != rnn.hidden_size; }

int num_matrices(const cudnnRNNStruct& rnn) { return 2 * num_gates(rnn) + has_projection(rnn); }

int num_directions(const cudnnRNNStruct& rnn) { return rnn.is_bidirectional ? 2 : 1; }

int output_size(const cudnnRNNStruct& rnn) { return has_projection(rnn) ? rnn.projection_size : rnn.hidden_size; }

Matrix shape_of(const cudnnRNNStruct& rnn, int pseudo_layer, int index) {
    Matrix matrix;
    int gates = num_gates(rnn);
    bool is_first = pseudo_layer < num_directions(rnn), is_projection = index == 2 * gates;
    matrix.rows = is_projection ? rnn.projection_size : rnn.hidden_size;
    matrix.columns = is_projection                        ? rnn.hidden_size
                     : index >= gates                     ? output_size(rnn)
                     : !is_first                          ? output_size(rnn) * num_directions(rnn)
                     : rnn.skips_input                    ? 0
                                                          : rnn.input_size;
    matrix.has_bias = !is_projection && (rnn.bias == CUDNN_RNN_DOUBLE_BIAS ||
                                         (rnn.bias == CUDNN_RNN_SINGLE_INP_BIAS && index < gates) ||
                                         (rnn.bias == CUDNN_RNN_SINGLE_REC_BIAS && index >= gates));
    return matrix;
}

// Places of all matrices before a given one, and the end of all of them if it does not exist.
Matrix place(const cudnnRNNStruct& rnn, int pseudo_layer, int index) {
    size_t matrices = 0, biases = 0;
    Matrix wanted;
    for (int layer = 0; layer < rnn.num_layers * num_directions(rnn); layer++)
        for (int i = 0; i < num_matrices(rnn); i++) {
            Matrix matrix = shape_of(rnn, layer, i);
            matrix.offset = matrices;
            matrix.bias_offset = biases;
            if (layer == pseudo_layer && i == index) wanted = matrix;
            matrices += size_t(matrix.rows) * size_t(matrix.columns);
            biases += matrix.has_bias ? size_t(matrix.rows) : 0;
        }
    if (!wanted.rows) wanted.offset = matrices + biases;
    wanted.bias_offset += matrices;
    return wanted;
}

size_t weight_bytes(const cudnnRNNStruct& rnn) { return place(rnn, -1, 0).offset * bytes_of(rnn.type); }

char* address(const void* weights, size_t offset, const cudnnRNNStruct& rnn) {
    return static_cast<char*>(const_cast<void*>(weights)) + offset * bytes_of(rnn.type);
}

cudnnStatus_t unknown_bytes(size_t* bytes) {
    unknown_workspace("recurrent network");
    if (bytes) *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace

EXPORT cudnnStatus_t cudnnCreateRNNDescriptor(cudnnRNNDescriptor_t* rnn) {
    *rnn = new cudnnRNNStruct;
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnDestroyRNNDescriptor(cudnnRNNDescriptor_t rnn) {
    delete rnn;
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnCreateRNNDataDescriptor(cudnnRNNDataDescriptor_t* data) {
    *data = new cudnnRNNDataStruct;
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnDestroyRNNDataDescriptor(cudnnRNNDataDescriptor_t data) {
    delete data;
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnSetRNNDataDescriptor(cudnnRNNDataDescriptor_t, cudnnDataType_t, cudnnRNNDataLayout_t, int,
                                               int, int, const int[], void*) {
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnSetRNNDescriptor_v8(cudnnRNNDescriptor_t rnn, cudnnRNNAlgo_t, cudnnRNNMode_t mode,
                                              cudnnRNNBiasMode_t bias, cudnnDirectionMode_t direction,
                                              cudnnRNNInputMode_t input, cudnnDataType_t type, cudnnDataType_t,
                                              cudnnMathType_t, int32_t input_size, int32_t hidden_size,
                                              int32_t projection_size, int32_t num_layers, cudnnDropoutDescriptor_t,
                                              uint32_t) {
    *rnn = {mode,       bias,        type,            direction == CUDNN_BIDIRECTIONAL, input == CUDNN_SKIP_INPUT,
            input_size, hidden_size, projection_size, num_layers};
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnGetRNNWeightSpaceSize(cudnnHandle_t, cudnnRNNDescriptor_t rnn, size_t* bytes) {
    *bytes = weight_bytes(*rnn);
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnGetRNNTempSpaceSizes(cudnnHandle_t, cudnnRNNDescriptor_t, cudnnForwardMode_t,
                                               cudnnRNNDataDescriptor_t, size_t* workspace, size_t* reserve) {
    unknown_bytes(workspace);
    return unknown_bytes(reserve);
}
EXPORT cudnnStatus_t cudnnGetRNNWeightParams(cudnnHandle_t, cudnnRNNDescriptor_t rnn, int32_t pseudo_layer, size_t,
                                             const void* weights, int32_t index, cudnnTensorDescriptor_t matrix_tensor,
                                             void** matrix_address, cudnnTensorDescriptor_t bias_tensor,
                                             void** bias_address) {
    Matrix matrix = place(*rnn, pseudo_layer, index);
    if (matrix_tensor)
        *matrix_tensor = {
            rnn->type, {1, matrix.rows, matrix.columns}, {matrix.rows * matrix.columns, matrix.columns, 1}};
    if (bias_tensor) *bias_tensor = {rnn->type, {1, matrix.rows, 1}, {matrix.rows, 1, 1}};
    if (matrix_address) *matrix_address = matrix.columns ? address(weights, matrix.offset, *rnn) : nullptr;
    if (bias_address) *bias_address = matrix.has_bias ? address(weights, matrix.bias_offset, *rnn) : nullptr;
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnRNNForward(cudnnHandle_t handle, cudnnRNNDescriptor_t, cudnnForwardMode_t, const int32_t[],
                                     cudnnRNNDataDescriptor_t, const void*, cudnnRNNDataDescriptor_t, void*,
                                     cudnnTensorDescriptor_t, const void*, void*, cudnnTensorDescriptor_t, const void*,
                                     void*, size_t, const void*, size_t, void*, size_t, void*) {
    return called(handle, "cudnnRNNForward");
}
EXPORT cudnnStatus_t cudnnRNNBackwardData_v8(cudnnHandle_t handle, cudnnRNNDescriptor_t, const int32_t[],
                                             cudnnRNNDataDescriptor_t, const void*, const void*,
                                             cudnnRNNDataDescriptor_t, void*, cudnnTensorDescriptor_t, const void*,
                                             const void*, void*, cudnnTensorDescriptor_t, const void*, const void*,
                                             void*, size_t, const void*, size_t, void*, size_t, void*) {
    return called(handle, "cudnnRNNBackwardData");
}
EXPORT cudnnStatus_t cudnnRNNBackwardWeights_v8(cudnnHandle_t handle, cudnnRNNDescriptor_t, cudnnWgradMode_t,
                                                const int32_t[], cudnnRNNDataDescriptor_t, const void*,
                                                cudnnTensorDescriptor_t, const void*, cudnnRNNDataDescriptor_t,
                                                const void*, size_t, void*, size_t, void*, size_t, void*) {
    return called(handle, "cudnnRNNBackwardWeights");
}

#if CUDNN_MAJOR < 9  // the interface that PyTorch 2.0 and its contemporaries use
namespace {

using Tensor = const cudnnTensorDescriptor_t;
using Network = const cudnnRNNDescriptor_t;

// The input's size comes with its tensor: (batch, features, 1).
Matrix place(Network rnn, Tensor input, int pseudo_layer, int index) {
    rnn->input_size = input->dimensions[1];
    return place(*rnn, pseudo_layer, index);
}

}  // namespace

EXPORT cudnnStatus_t cudnnSetRNNDescriptor_v6(cudnnHandle_t, cudnnRNNDescriptor_t rnn, const int hidden_size,
                                              const int num_layers, cudnnDropoutDescriptor_t, cudnnRNNInputMode_t input,
                                              cudnnDirectionMode_t direction, cudnnRNNMode_t mode, cudnnRNNAlgo_t,
                                              cudnnDataType_t) {
    *rnn = {mode, CUDNN_RNN_DOUBLE_BIAS, rnn->type, direction == CUDNN_BIDIRECTIONAL, input == CUDNN_SKIP_INPUT,
            0,    hidden_size,           0,         num_layers};
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnSetRNNMatrixMathType(cudnnRNNDescriptor_t, cudnnMathType_t) { return CUDNN_STATUS_SUCCESS; }
EXPORT cudnnStatus_t cudnnSetRNNProjectionLayers(cudnnHandle_t, cudnnRNNDescriptor_t rnn, const int recurrent_size,
                                                 const int) {
    rnn->projection_size = recurrent_size;
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnGetRNNParamsSize(cudnnHandle_t, Network rnn, Tensor input, size_t* bytes,
                                           cudnnDataType_t type) {
    rnn->type = type;
    *bytes = place(rnn, input, -1, 0).offset * bytes_of(type);
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnGetRNNLinLayerMatrixParams(cudnnHandle_t, Network rnn, const int pseudo_layer, Tensor input,
                                                     const cudnnFilterDescriptor_t all, const void* weights,
                                                     const int index, cudnnFilterDescriptor_t filter, void** found) {
    rnn->type = all->type;
    Matrix matrix = place(rnn, input, pseudo_layer, index);
    *filter = {rnn->type, CUDNN_TENSOR_NCHW, {1, matrix.rows, matrix.columns}};
    *found = address(weights, matrix.offset, *rnn);
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnGetRNNLinLayerBiasParams(cudnnHandle_t, Network rnn, const int pseudo_layer, Tensor input,
                                                   const cudnnFilterDescriptor_t all, const void* weights,
                                                   const int index, cudnnFilterDescriptor_t filter, void** found) {
    rnn->type = all->type;
    Matrix matrix = place(rnn, input, pseudo_layer, index);
    *filter = {rnn->type, CUDNN_TENSOR_NCHW, {1, matrix.rows, 1}};
    *found = address(weights, matrix.bias_offset, *rnn);
    return CUDNN_STATUS_SUCCESS;
}
EXPORT cudnnStatus_t cudnnGetRNNWorkspaceSize(cudnnHandle_t, Network, const int, const cudnnTensorDescriptor_t*,
                                              size_t* bytes) {
    return unknown_bytes(bytes);
}
EXPORT cudnnStatus_t cudnnGetRNNTrainingReserveSize(cudnnHandle_t, Network, const int, const cudnnTensorDescriptor_t*,
                                                    size_t* bytes) {
    return unknown_bytes(bytes);
}
EXPORT cudnnStatus_t cudnnRNNForwardInference(cudnnHandle_t handle, Network, const int, const cudnnTensorDescriptor_t*,
                                              const void*, Tensor, const void*, Tensor, const void*,
                                              const cudnnFilterDescriptor_t, const void*,
                                              const cudnnTensorDescriptor_t*, void*, Tensor, void*, Tensor, void*,
                                              void*, size_t) {
    return called(handle, "cudnnRNNForward");
}
EXPORT cudnnStatus_t cudnnRNNForwardTraining(cudnnHandle_t handle, Network, const int, const cudnnTensorDescriptor_t*,
                                             const void*, Tensor, const void*, Tensor, const void*,
                                             const cudnnFilterDescriptor_t, const void*, const cudnnTensorDescriptor_t*,
                                             void*, Tensor, void*, Tensor, void*, void*, size_t, void*, size_t) {
    return called(handle, "cudnnRNNForward");
}
EXPORT cudnnStatus_t cudnnRNNBackwardData(cudnnHandle_t handle, Network, const int, const cudnnTensorDescriptor_t*,
                                          const void*, const cudnnTensorDescriptor_t*, const void*, Tensor, const void*,
                                          Tensor, const void*, const cudnnFilterDescriptor_t, const void*, Tensor,
                                          const void*, Tensor, const void*, const cudnnTensorDescriptor_t*, void*,
                                          Tensor, void*, Tensor, void*, void*, size_t, void*, size_t) {
    return called(handle, "cudnnRNNBackwardData");
}
EXPORT cudnnStatus_t cudnnRNNBackwardWeights(cudnnHandle_t handle, Network, const int, const cudnnTensorDescriptor_t*,
                                             const void*, Tensor, const void*, const cudnnTensorDescriptor_t*,
                                             const void*, const void*, size_t, const cudnnFilterDescriptor_t, void*,
                                             const void*, size_t) {
    return called(handle, "cudnnRNNBackwardWeights");
}
#endif
