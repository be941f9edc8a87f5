// cuSPARSE: products of a sparse and a dense matrix, and the sorting of indices, are counted but compute nothing. Their
// scratch memory is known to cuSPARSE alone: the answer is none, reported as unknown.
//
// Products of two sparse matrices have no answer, since the size of their result depends on values; nor have triangular
// and block-sparse solvers. They fail by name.
#include <cuda_runtime_api.h>

#include "library.h"
#include "positions.h"

using namespace emulated;

namespace {

int create(uintptr_t descriptor) {
    *pointed<void*>(descriptor) = new char;
    return 0;
}

}  // namespace

HANDLES(cusparse)
EXPORT int cusparseSetPointerMode(Handle*, int) { return 0; }
EXPORT const char* cusparseGetErrorString(int status) {
    return status ? "the emulated device has no answer" : "CUSPARSE_STATUS_SUCCESS";
}

#define DESCRIPTOR(create_name, destroy_name)                                                                          \
    EXPORT int cusparse##create_name(ARGUMENTS) { return create(a0); }                                                 \
    EXPORT int cusparse##destroy_name(char* descriptor) {                                                              \
        delete descriptor;                                                                                             \
        return 0;                                                                                                      \
    }
DESCRIPTOR(CreateCsr, DestroySpMat)
DESCRIPTOR(CreateDnMat, DestroyDnMat)
DESCRIPTOR(CreateDnVec, DestroyDnVec)
DESCRIPTOR(CreateMatDescr, DestroyMatDescr)
EXPORT int cusparseCreateCoo(ARGUMENTS) { return create(a0); }
EXPORT int cusparseCreateCsc(ARGUMENTS) { return create(a0); }
#define SETTING(name)                                                                                                  \
    EXPORT int cusparse##name(ARGUMENTS) { return 0; }
SETTING(CsrSetPointers)
SETTING(CsrSetStridedBatch)
SETTING(CooSetStridedBatch)
SETTING(DnMatSetStridedBatch)
SETTING(SpMatSetAttribute)
SETTING(SetMatDiagType)
SETTING(SetMatFillMode)
SETTING(SetMatIndexBase)
SETTING(SetMatType)

#define COMPUTED(name)                                                                                                 \
    EXPORT int cusparse##name(ARGUMENTS) {                                                                             \
        library_call("cusparse" #name, pointed<Handle>(a0)->stream);                                                   \
        return 0;                                                                                                      \
    }
#define SIZE(name, size)                                                                                               \
    EXPORT int cusparse##name(ARGUMENTS) {                                                                             \
        unknown_workspace("sparse products in cuSPARSE");                                                              \
        *pointed<size_t>(size) = 0;                                                                                    \
        return 0;                                                                                                      \
    }
COMPUTED(SpMM)
SIZE(SpMM_bufferSize, a10)
COMPUTED(SpMV)
SIZE(SpMV_bufferSize, a9)
COMPUTED(SDDMM)
COMPUTED(SDDMM_preprocess)
SIZE(SDDMM_bufferSize, a10)
COMPUTED(CreateIdentityPermutation)
COMPUTED(Xcoo2csr)
COMPUTED(XcoosortByRow)
SIZE(Xcoosort_bufferSizeExt, a6)
COMPUTED(Xcsrsort)
SIZE(Xcsrsort_bufferSizeExt, a6)
