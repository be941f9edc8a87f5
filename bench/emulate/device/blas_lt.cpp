// cuBLASLt: descriptors remember what they are given; one algorithm does every product, without scratch memory.
// PyTorch allocates a workspace before it asks for an algorithm, and does not look at what the answer needs.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "library.h"

using namespace emulated;

namespace {

// A descriptor of any kind: its attributes, as the bytes that were given.
struct Attributes {
    std::map<int, std::string> values;

    template <typename Value>
    Value get(int attribute, Value otherwise) const {
        auto found = values.find(attribute);
        if (found != values.end())
            memcpy(&otherwise, found->second.data(), std::min(sizeof otherwise, found->second.size()));
        return otherwise;
    }
    template <typename Value>
    void set(int attribute, Value value) {
        values[attribute].assign(reinterpret_cast<const char*>(&value), sizeof value);
    }
};

template <typename Descriptor>
Attributes* attributes_of(Descriptor* descriptor) {
    return reinterpret_cast<Attributes*>(descriptor);
}

template <typename Descriptor>
Attributes* create(Descriptor** descriptor) {
    auto* attributes = new Attributes;
    *descriptor = reinterpret_cast<Descriptor*>(attributes);
    return attributes;
}

template <typename Descriptor>
cublasStatus_t destroy(Descriptor* descriptor) {
    delete attributes_of(descriptor);
    return CUBLAS_STATUS_SUCCESS;
}

template <typename Descriptor>
cublasStatus_t set(Descriptor* descriptor, int attribute, const void* value, size_t bytes) {
    if (!value || !bytes) return CUBLAS_STATUS_INVALID_VALUE;
    attributes_of(descriptor)->values[attribute].assign(static_cast<const char*>(value), bytes);
    return CUBLAS_STATUS_SUCCESS;
}

Product product_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t left, cublasLtMatrixLayout_t result) {
    const Attributes &of_operation = *attributes_of(operation), &of_left = *attributes_of(left);
    const Attributes& of_result = *attributes_of(result);
    bool is_plain = of_operation.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) == CUBLAS_OP_N;
    return {int64_t(of_result.get<uint64_t>(CUBLASLT_MATRIX_LAYOUT_ROWS, 0)),
            int64_t(of_result.get<uint64_t>(CUBLASLT_MATRIX_LAYOUT_COLS, 0)),
            int64_t(of_left.get<uint64_t>(is_plain ? CUBLASLT_MATRIX_LAYOUT_COLS : CUBLASLT_MATRIX_LAYOUT_ROWS, 0)),
            of_result.get<int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1),
            of_left.get<int32_t>(CUBLASLT_MATRIX_LAYOUT_TYPE, CUDA_R_32F),
            of_operation.get<int32_t>(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, CUBLAS_COMPUTE_32F)};
}

// An algorithm's attributes are numbers below 16, kept in its opaque 64 bytes.
uint32_t* setting_of(cublasLtMatmulAlgo_t* algorithm, int attribute) {
    static_assert(sizeof(cublasLtMatmulAlgo_t) == 16 * sizeof(uint32_t), "cuBLASLt's algorithm has another size");
    return attribute >= 0 && attribute < 16 ? reinterpret_cast<uint32_t*>(algorithm) + attribute : nullptr;
}

}  // namespace

EXPORT size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* descriptor, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
    Attributes* attributes = create(descriptor);
    attributes->set(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, int32_t(compute));
    attributes->set(CUBLASLT_MATMUL_DESC_SCALE_TYPE, int32_t(scale));
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t descriptor) { return destroy(descriptor); }
EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t descriptor,
                                                     cublasLtMatmulDescAttributes_t attribute, const void* value,
                                                     size_t bytes) {
    return set(descriptor, attribute, value, bytes);
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                                 uint64_t columns, int64_t leading_dimension) {
    Attributes* attributes = create(layout);
    attributes->set(CUBLASLT_MATRIX_LAYOUT_TYPE, int32_t(type));
    attributes->set(CUBLASLT_MATRIX_LAYOUT_ROWS, rows);
    attributes->set(CUBLASLT_MATRIX_LAYOUT_COLS, columns);
    attributes->set(CUBLASLT_MATRIX_LAYOUT_LD, leading_dimension);
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }
EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                       cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                       size_t bytes) {
    return set(layout, attribute, value, bytes);
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    create(preference);
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy(preference);
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                           cublasLtMatmulPreferenceAttributes_t attribute,
                                                           const void* value, size_t bytes) {
    return set(preference, attribute, value, bytes);
}

EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                                     cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                                     cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int requested,
                                                     cublasLtMatmulHeuristicResult_t results[], int* returned) {
    if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    results[0] = {};
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].wavesCount = 1;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                             cudaDataType_t, cudaDataType_t, cudaDataType_t, int id,
                                             cublasLtMatmulAlgo_t* algorithm) {
    *algorithm = {};
    *setting_of(algorithm, CUBLASLT_ALGO_CONFIG_ID) = uint32_t(id);
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              const cublasLtMatmulAlgo_t* algorithm,
                                              cublasLtMatmulHeuristicResult_t* result) {
    *result = {};
    result->algo = *algorithm;
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t* algorithm,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                           const void* value, size_t bytes) {
    uint32_t* setting = setting_of(algorithm, attribute);
    if (!setting || bytes > sizeof *setting) return CUBLAS_STATUS_INVALID_VALUE;
    *setting = 0;
    memcpy(setting, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                           size_t bytes, size_t* written) {
    const uint32_t* setting = setting_of(const_cast<cublasLtMatmulAlgo_t*>(algorithm), attribute);
    if (!setting || bytes > sizeof *setting) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, setting, bytes);
    if (written) *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void*, const void*,
                                     cublasLtMatrixLayout_t left, const void*, cublasLtMatrixLayout_t, const void*,
                                     const void*, cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t result,
                                     const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
    record(product_of(operation, left, result));
    library_call("cublasLtMatmul", stream);
    return CUBLAS_STATUS_SUCCESS;
}
