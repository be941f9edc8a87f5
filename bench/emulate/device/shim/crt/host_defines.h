// Stands in for a header of the CUDA toolkit that the wheels do not ship: its qualifiers, as a host compiler needs them.
#pragma once
#define __host__
#define __device__
#define __global__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDAAPI_
#define __location__(where)
#define __specialization_static static
#define __forceinline__ inline
#define __no_return__
#define __inline_hint__
#define __VECTOR_FUNCTIONS_DECL__ static inline
