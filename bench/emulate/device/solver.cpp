// cuSOLVER: factorizations, eigenvalues and singular values are counted but compute nothing.
//
// How much scratch memory an algorithm takes is known to cuSOLVER alone: the answer is none, reported as unknown. The
// numbers on the card that say how a call went become 0 (it went well), since PyTorch reads them.
#include <cuda_runtime_api.h>

#include "library.h"
#include "positions.h"

using namespace emulated;

namespace {

int called(uintptr_t handle, const char* name, uintptr_t outcomes, uintptr_t how_many) {
    cudaMemset(pointed<void>(outcomes), 0, sizeof(int) * uint32_t(how_many));
    library_call(name, pointed<Handle>(handle)->stream);
    return 0;
}

template <typename Size>
int unknown_size(uintptr_t size) {
    unknown_workspace("linear algebra in cuSOLVER");
    *pointed<Size>(size) = 0;
    return 0;
}

}  // namespace

// A function of each of the four types by the positions of its outcomes and of how many there are, and the one that
// says how large its scratch memory must be by the position of that size.
#define ONE(name, outcomes, count)                                                                                     \
    EXPORT int cusolverDn##name(ARGUMENTS) { return called(a0, "cusolverDn" #name, outcomes, count); }
#define SIZE(name, size)                                                                                               \
    EXPORT int cusolverDn##name##_bufferSize(ARGUMENTS) { return unknown_size<int>(size); }
#define FUNCTION(s, d, c, z, outcomes, count) ONE(s, outcomes, count) ONE(d, outcomes, count) \
    ONE(c, outcomes, count) ONE(z, outcomes, count)
#define SIZED(s, d, c, z, size, outcomes, count) SIZE(s, size) SIZE(d, size) SIZE(c, size) SIZE(z, size)               \
    FUNCTION(s, d, c, z, outcomes, count)

SIZED(Sgetrf, Dgetrf, Cgetrf, Zgetrf, a5, a7, 1)
SIZED(Sgeqrf, Dgeqrf, Cgeqrf, Zgeqrf, a5, a8, 1)
SIZED(Sorgqr, Dorgqr, Cungqr, Zungqr, a7, a9, 1)
SIZED(Sormqr, Dormqr, Cunmqr, Zunmqr, a11, a13, 1)
SIZED(Spotrf, Dpotrf, Cpotrf, Zpotrf, a5, a7, 1)
SIZED(Ssytrf, Dsytrf, Csytrf, Zsytrf, a4, a8, 1)
SIZED(Ssyevd, Dsyevd, Cheevd, Zheevd, a7, a9, 1)
SIZED(SsyevjBatched, DsyevjBatched, CheevjBatched, ZheevjBatched, a7, a9, a11)
SIZED(Sgesvd, Dgesvd, Cgesvd, Zgesvd, a3, a15, 1)
SIZED(Sgesvdj, Dgesvdj, Cgesvdj, Zgesvdj, a12, a14, 1)
SIZED(SgesvdjBatched, DgesvdjBatched, CgesvdjBatched, ZgesvdjBatched, a11, a13, a15)
SIZED(SgesvdaStridedBatched, DgesvdaStridedBatched, CgesvdaStridedBatched, ZgesvdaStridedBatched, a16, a18, a20)
FUNCTION(Sgetrs, Dgetrs, Cgetrs, Zgetrs, a9, 1)
FUNCTION(Spotrs, Dpotrs, Cpotrs, Zpotrs, a8, 1)
FUNCTION(SpotrfBatched, DpotrfBatched, CpotrfBatched, ZpotrfBatched, a5, a6)
FUNCTION(SpotrsBatched, DpotrsBatched, CpotrsBatched, ZpotrsBatched, a8, 1)

// Functions of all types, whose scratch memory lies on the card and on the host.
#define GENERIC(name, device, host, outcomes, count)                                                                   \
    EXPORT int cusolverDn##name##_bufferSize(ARGUMENTS) {                                                              \
        unknown_size<size_t>(device);                                                                                  \
        return unknown_size<size_t>(host);                                                                             \
    }                                                                                                                  \
    ONE(name, outcomes, count)

GENERIC(Xpotrf, a8, a9, a12, 1)
GENERIC(Xgeqrf, a10, a11, a14, 1)
GENERIC(Xsytrs, a11, a12, a15, 1)
GENERIC(Xsyevd, a11, a12, a15, 1)
GENERIC(XsyevBatched, a11, a12, a15, a16)
GENERIC(Xgeev, a17, a18, a21, 1)
ONE(Xpotrs, a11, 1)

HANDLES(cusolverDn)

// Settings that change how numbers are computed.
#define SETTINGS(kind)                                                                                                 \
    EXPORT int cusolverDnCreate##kind(void** settings) {                                                               \
        *settings = new char;                                                                                          \
        return 0;                                                                                                      \
    }                                                                                                                  \
    EXPORT int cusolverDnDestroy##kind(char* settings) {                                                               \
        delete settings;                                                                                               \
        return 0;                                                                                                      \
    }
SETTINGS(Params)
SETTINGS(GesvdjInfo)
SETTINGS(SyevjInfo)
EXPORT int cusolverDnXgesvdjSetMaxSweeps(void*, int) { return 0; }
EXPORT int cusolverDnXgesvdjSetSortEig(void*, int) { return 0; }
EXPORT int cusolverDnXgesvdjSetTolerance(void*, double) { return 0; }
