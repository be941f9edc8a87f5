// The emulated CUDA device: declarations that its parts share.
//
//   card.cpp        what the device is, from the environment
//   processes.cpp   who uses how much of it, in a file that all processes map
//   memory.cpp      addresses without memory behind them; copies
//   values.cpp      what kernels would have computed reads as zero
//   streams.cpp     streams, events, graph capture
//   kernels.cpp     kernels: registered and counted by name; fills.cpp runs the one kind that runs
//   images.cpp      for which architectures a program was compiled
//   properties.cpp  what the runtime says about the device; errors
//   driver.cpp      libcuda.so.1: the primary context, virtual memory management
//   nvml.cpp        libnvidia-ml.so.1
//   library.cpp     calls of libraries: counted, recorded, their unknowns named
//   nccl.cpp        small messages between the processes of a machine
//   blas.cpp, blas_lt.cpp, cudnn*.cpp, solver.cpp, fourier.cpp, sparse.cpp
//                   the libraries that PyTorch calls (cudnn_parts.h lists cuDNN's)
//
// Whatever else PyTorch imports has a generated answer that fails by its name (build.py).
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emulated {

constexpr size_t KIB = size_t(1) << 10, MIB = size_t(1) << 20;
constexpr int MAX_DEVICES = 16;

// Copies and fills on a device, and messages between ranks, of up to so many bytes are real.
constexpr size_t SMALL_BYTES = 64 * KIB;

struct Card {
    char name[128];
    char uuid[40];  // 8-4-4-4-12 hexadecimal digits, of device 0; the last digit counts the devices
    size_t memory_bytes, context_bytes;
    int major, minor, num_sms, max_threads_per_sm, max_blocks_per_sm, registers_per_sm;
    size_t shared_per_block_bytes, shared_per_block_optin_bytes, shared_per_sm_bytes, l2_bytes;
    int memory_bus_bits, clock_khz, memory_clock_khz;
};

const Card& card();

// Devices that CUDA_VISIBLE_DEVICES leaves visible, and which of the machine's devices each of them is.
int visible_devices();
int physical_device(int visible);
int all_devices();

int current_device();
bool set_current_device(int device);

// Takes bytes from a device if it has them, for this process and before all others.
bool take(int device, size_t bytes);
void give_back(int device, size_t bytes);
// This process has a context from now on.
void begin_context(int device);
size_t used_bytes(int device);

// The i-th process that has a context on one of the machine's devices; false after the last.
bool process_at(int physical, int index, pid_t* pid, size_t* bytes);

// Addresses of a device, without memory; null if there are none left.
void* reserve_addresses(int device, size_t bytes, size_t alignment);
void release_addresses(void* address);
// Whether an address belongs to a device, and to which.
bool is_device_address(const void* address, int* device);

// Reports once on standard error that a function has no answer, and keeps its name.
void unanswered(const char* function);

}  // namespace emulated

// A library call that would launch kernels.
EXPORT void emulated_library_call(const char* function);
EXPORT unsigned long long emulated_launches();
