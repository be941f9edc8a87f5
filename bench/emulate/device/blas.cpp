// cuBLAS: handles remember their settings; products and solvers are counted but compute nothing.
// PyTorch gives cuBLAS its scratch memory (cublasSetWorkspace), so none is hidden here.
#include <cublas_v2.h>

#include "library.h"

using namespace emulated;

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
};

namespace {

cublasStatus_t called(cublasHandle_t handle, const char* name) {
    library_call(name, handle->stream);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t multiplied(cublasHandle_t handle, const char* name, const Product& product) {
    record(product);
    return called(handle, name);
}

// A result that the caller reads on the host; results on the device are zero, like everything that kernels write.
template <typename Number>
cublasStatus_t answered(cublasHandle_t handle, const char* name, Number* result) {
    if (handle->pointer_mode == CUBLAS_POINTER_MODE_HOST) *result = Number{};
    return called(handle, name);
}

// What the functions without a compute type use for their numbers.
cublasComputeType_t compute_type(cublasHandle_t handle, cudaDataType type) {
    if (type == CUDA_R_64F || type == CUDA_C_64F) return CUBLAS_COMPUTE_64F;
    return handle->math_mode & CUBLAS_TF32_TENSOR_OP_MATH ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

}  // namespace

EXPORT cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->math_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
    *mode = handle->math_mode;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    handle->pointer_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
    *mode = handle->pointer_mode;
    return CUBLAS_STATUS_SUCCESS;
}
// Memory and multiprocessors that products may use; they use none.
EXPORT cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
#if CUBLAS_VERSION >= 110900
EXPORT cublasStatus_t cublasSetSmCountTarget(cublasHandle_t, int) { return CUBLAS_STATUS_SUCCESS; }
#endif

// Products of one type: the functions' letter, the type in C and cuBLAS's name of the type.
#define PRODUCTS(T, Number, TYPE)                                                                                      \
    EXPORT cublasStatus_t cublas##T##gemm_v2(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m,       \
                                             int n, int k, const Number*, const Number*, int, const Number*, int,      \
                                             const Number*, Number*, int) {                                            \
        return multiplied(handle, "cublas" #T "gemm", {m, n, k, 1, TYPE, compute_type(handle, TYPE)});                 \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##gemmStridedBatched(                                                               \
        cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k, const Number*,               \
        const Number*, int, long long, const Number*, int, long long, const Number*, Number*, int, long long,          \
        int batch) {                                                                                                   \
        return multiplied(handle, "cublas" #T "gemmStridedBatched",                                                    \
                          {m, n, k, batch, TYPE, compute_type(handle, TYPE)});                                         \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##gemmBatched(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m,   \
                                                 int n, int k, const Number*, const Number* const[], int,              \
                                                 const Number* const[], int, const Number*, Number* const[], int,      \
                                                 int batch) {                                                          \
        return multiplied(handle, "cublas" #T "gemmBatched",                                                           \
                          {m, n, k, batch, TYPE, compute_type(handle, TYPE)});                                         \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##gemv_v2(cublasHandle_t handle, cublasOperation_t trans, int m, int n,             \
                                             const Number*, const Number*, int, const Number*, int, const Number*,     \
                                             Number*, int) {                                                           \
        bool is_plain = trans == CUBLAS_OP_N;                                                                          \
        return multiplied(handle, "cublas" #T "gemv",                                                                  \
                          {is_plain ? m : n, 1, is_plain ? n : m, 1, TYPE, compute_type(handle, TYPE)});               \
    }

PRODUCTS(S, float, CUDA_R_32F)
PRODUCTS(D, double, CUDA_R_64F)
PRODUCTS(C, cuComplex, CUDA_C_32F)
PRODUCTS(Z, cuDoubleComplex, CUDA_C_64F)

EXPORT cublasStatus_t cublasSgemmEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                    const float*, const void*, cudaDataType type, int, const void*, cudaDataType, int,
                                    const float*, void*, cudaDataType, int) {
    return multiplied(handle, "cublasSgemmEx", {m, n, k, 1, type, compute_type(handle, type)});
}
EXPORT cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                   const void*, const void*, cudaDataType type, int, const void*, cudaDataType, int,
                                   const void*, void*, cudaDataType, int, cublasComputeType_t compute,
                                   cublasGemmAlgo_t) {
    return multiplied(handle, "cublasGemmEx", {m, n, k, 1, type, compute});
}
EXPORT cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m,
                                                 int n, int k, const void*, const void*, cudaDataType type, int,
                                                 long long, const void*, cudaDataType, int, long long, const void*,
                                                 void*, cudaDataType, int, long long, int batch,
                                                 cublasComputeType_t compute, cublasGemmAlgo_t) {
    return multiplied(handle, "cublasGemmStridedBatchedEx", {m, n, k, batch, type, compute});
}
EXPORT cublasStatus_t cublasGemmBatchedEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n,
                                          int k, const void*, const void* const[], cudaDataType type, int,
                                          const void* const[], cudaDataType, int, const void*, void* const[],
                                          cudaDataType, int, int batch, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return multiplied(handle, "cublasGemmBatchedEx", {m, n, k, batch, type, compute});
}

#define DOT(name, Number)                                                                                              \
    EXPORT cublasStatus_t cublas##name##_v2(cublasHandle_t handle, int, const Number*, int, const Number*, int,        \
                                            Number* result) {                                                          \
        return answered(handle, "cublas" #name, result);                                                               \
    }

DOT(Sdot, float)
DOT(Ddot, double)
DOT(Cdotu, cuComplex)
DOT(Cdotc, cuComplex)
DOT(Zdotu, cuDoubleComplex)
DOT(Zdotc, cuDoubleComplex)

EXPORT cublasStatus_t cublasDotEx(cublasHandle_t handle, int, const void*, cudaDataType, int, const void*, cudaDataType,
                                  int, void* result, cudaDataType result_type, cudaDataType) {
    if (result_type == CUDA_R_64F || result_type == CUDA_C_32F)
        return answered(handle, "cublasDotEx", static_cast<double*>(result));
    if (result_type == CUDA_R_32F) return answered(handle, "cublasDotEx", static_cast<float*>(result));
    return answered(handle, "cublasDotEx", static_cast<uint16_t*>(result));  // half precision of either kind
}

// Solvers of one type. `info` says how it went: 0 is well. It is on the host, or on the card for factorizations.
#define SOLVERS(T, Number)                                                                                             \
    EXPORT cublasStatus_t cublas##T##trsm_v2(cublasHandle_t handle, cublasSideMode_t, cublasFillMode_t,                \
                                             cublasOperation_t, cublasDiagType_t, int, int, const Number*,             \
                                             const Number*, int, Number*, int) {                                       \
        return called(handle, "cublas" #T "trsm");                                                                     \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##trsmBatched(cublasHandle_t handle, cublasSideMode_t, cublasFillMode_t,            \
                                                 cublasOperation_t, cublasDiagType_t, int, int, const Number*,         \
                                                 const Number* const[], int, Number* const[], int, int) {              \
        return called(handle, "cublas" #T "trsmBatched");                                                              \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##getrfBatched(cublasHandle_t handle, int, Number* const[], int, int*, int* info,   \
                                                  int batch) {                                                         \
        cudaMemset(info, 0, batch * sizeof(int));                                                                      \
        return called(handle, "cublas" #T "getrfBatched");                                                             \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##getrsBatched(cublasHandle_t handle, cublasOperation_t, int, int,                  \
                                                  const Number* const[], int, const int*, Number* const[], int,        \
                                                  int* info, int) {                                                    \
        *info = 0;                                                                                                     \
        return called(handle, "cublas" #T "getrsBatched");                                                             \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##geqrfBatched(cublasHandle_t handle, int, int, Number* const[], int,               \
                                                  Number* const[], int* info, int) {                                   \
        *info = 0;                                                                                                     \
        return called(handle, "cublas" #T "geqrfBatched");                                                             \
    }                                                                                                                  \
    EXPORT cublasStatus_t cublas##T##gelsBatched(cublasHandle_t handle, cublasOperation_t, int, int, int,              \
                                                 Number* const[], int, Number* const[], int, int* info, int*, int) {   \
        *info = 0;                                                                                                     \
        return called(handle, "cublas" #T "gelsBatched");                                                              \
    }

SOLVERS(S, float)
SOLVERS(D, double)
SOLVERS(C, cuComplex)
SOLVERS(Z, cuDoubleComplex)
