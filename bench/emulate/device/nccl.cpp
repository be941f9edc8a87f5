// NCCL between the processes of one machine: small messages are really sent, since programs branch on them (shapes that
// ranks compare, sizes, flags); large ones only count as launched, like everything that kernels would write.
//
// The ranks of a communicator share a file in memory, named by the communicator's id. Each small collective has a
// number; a rank writes its message into its place, and reads the others' once they have the same number. Each rank
// alternates between two places, so that a slow reader never finds the next message in place of this one.
//
// The buffers that NCCL itself allocates on a device are not known, and not allocated.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device.h"

using namespace emulated;

namespace {

constexpr size_t QUEUE = 8;               // messages in transit from one rank to another
constexpr auto PATIENCE = std::chrono::seconds(600);

struct Place {
    std::atomic<uint64_t> number;
    char data[SMALL_BYTES];
};

// One rank's part of the shared file.
struct Member {
    std::atomic<uint64_t> joined, done;  // done: the last collective that it has read
    Place places[2];
};

// Messages in transit from one rank to another.
struct Queue {
    std::atomic<uint64_t> sent, received;
    Place places[QUEUE];
};

using Clock = std::chrono::steady_clock;

}  // namespace

struct ncclComm {
    std::string name;
    int rank, size, device;
    char* shared;
    size_t shared_bytes;
    uint64_t collectives = 0, splits = 0;
    std::atomic<bool> is_aborted{false};

    Member& member(int other) { return reinterpret_cast<Member*>(shared)[other]; }
    Queue& queue(int from, int to) {
        return reinterpret_cast<Queue*>(shared + size * sizeof(Member))[from * size + to];
    }

    // Waits until a condition holds; false if it never does.
    template <class Condition>
    bool wait(Condition holds) {
        auto end = Clock::now() + PATIENCE;
        for (int round = 0; !holds(); round++) {
            if (is_aborted || Clock::now() > end) return false;
            if (round < 100)
                std::this_thread::yield();
            else
                std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
        return true;
    }
};

namespace {

size_t size_of(ncclDataType_t type) {
    switch (int(type)) {
        case 2: case 3: case 7: return 4;
        case 4: case 5: case 8: return 8;
        case 6: case 9: return 2;
        default: return 1;
    }
}

float from_half(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 0    ? std::ldexp(float(mantissa), -24)
                  : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                   : std::ldexp(float(mantissa + 1024), exponent - 25);
    return bits & 0x8000 ? -value : value;
}

uint16_t to_half(float value) {
    uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    value = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (value >= 65520) return sign | 0x7c00;
    if (value < std::ldexp(1.f, -14)) return sign | uint16_t(std::nearbyint(std::ldexp(value, 24)));
    int exponent;
    float mantissa = std::frexp(value, &exponent);  // 0.5 to 1
    int rounded = int(std::nearbyint(std::ldexp(mantissa, 11)));
    return sign | uint16_t(((exponent + 13) << 10) + rounded);
}

float from_bfloat(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

uint16_t to_bfloat(float value) {
    uint32_t wide;
    memcpy(&wide, &value, 4);
    return std::isnan(value) ? 0x7fc0 : uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

template <class T>
T combined(T a, T b, int op) {
    switch (op) {
        case ncclProd: return a * b;
        case ncclMax: return a > b ? a : b;
        case ncclMin: return a < b ? a : b;
        default: return a + b;  // ncclSum, ncclAvg and operations with a factor
    }
}

template <class T>
void reduce_as(char* into, const std::vector<const char*>& parts, size_t count, int op) {
    for (size_t i = 0; i < count; i++) {
        T result = reinterpret_cast<const T*>(parts[0])[i];
        for (size_t part = 1; part < parts.size(); part++)
            result = combined(result, reinterpret_cast<const T*>(parts[part])[i], op);
        reinterpret_cast<T*>(into)[i] = op == ncclAvg ? T(result / T(parts.size())) : result;
    }
}

template <float (*FROM)(uint16_t), uint16_t (*TO)(float)>
void reduce_narrow(char* into, const std::vector<const char*>& parts, size_t count, int op) {
    for (size_t i = 0; i < count; i++) {
        float result = FROM(reinterpret_cast<const uint16_t*>(parts[0])[i]);
        for (size_t part = 1; part < parts.size(); part++)
            result = combined(result, FROM(reinterpret_cast<const uint16_t*>(parts[part])[i]), op);
        reinterpret_cast<uint16_t*>(into)[i] = TO(op == ncclAvg ? result / parts.size() : result);
    }
}

void reduce(char* into, const std::vector<const char*>& parts, size_t count, ncclDataType_t type, int op) {
    switch (int(type)) {
        case 0: return reduce_as<int8_t>(into, parts, count, op);
        case 2: return reduce_as<int32_t>(into, parts, count, op);
        case 3: return reduce_as<uint32_t>(into, parts, count, op);
        case 4: return reduce_as<int64_t>(into, parts, count, op);
        case 5: return reduce_as<uint64_t>(into, parts, count, op);
        case 6: return reduce_narrow<from_half, to_half>(into, parts, count, op);
        case 7: return reduce_as<float>(into, parts, count, op);
        case 8: return reduce_as<double>(into, parts, count, op);
        case 9: return reduce_narrow<from_bfloat, to_bfloat>(into, parts, count, op);
        default: return reduce_as<uint8_t>(into, parts, count, op);
    }
}

ncclResult_t join(ncclComm_t* made, const std::string& name, int size, int rank) {
    auto comm = new ncclComm;
    comm->name = name, comm->rank = rank, comm->size = size, comm->device = current_device();
    comm->shared_bytes = size * sizeof(Member) + size_t(size) * size * sizeof(Queue);
    int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, off_t(comm->shared_bytes)) != 0) {
        if (file >= 0) close(file);
        delete comm;
        return ncclSystemError;
    }
    void* shared = mmap(nullptr, comm->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) {
        delete comm;
        return ncclSystemError;
    }
    comm->shared = static_cast<char*>(shared);
    comm->member(rank).joined = 1;
    bool all = comm->wait([&] {
        for (int other = 0; other < size; other++)
            if (!comm->member(other).joined) return false;
        return true;
    });
    shm_unlink(name.c_str());  // all have it open: it vanishes when the last of them ends, for whatever reason
    *made = comm;
    return all ? ncclSuccess : ncclSystemError;
}

// Each rank's message, by ranks; empty if one never came. The next call overwrites them.
std::vector<const char*> exchanged(ncclComm* comm, const void* sent, size_t bytes) {
    uint64_t number = ++comm->collectives;
    auto all = [&](auto holds) {
        for (int other = 0; other < comm->size; other++)
            if (!holds(comm->member(other))) return false;
        return true;
    };
    // its place is free once all have read the last message but one
    if (!comm->wait([&] { return all([&](Member& other) { return other.done + 2 >= number; }); })) return {};
    Place& own = comm->member(comm->rank).places[number % 2];
    if (sent) cudaMemcpy(own.data, sent, bytes, cudaMemcpyDefault);
    own.number.store(number);
    if (!comm->wait([&] { return all([&](Member& other) { return other.places[number % 2].number >= number; }); }))
        return {};
    std::vector<const char*> messages;
    for (int other = 0; other < comm->size; other++) messages.push_back(comm->member(other).places[number % 2].data);
    return messages;
}

void have_read(ncclComm* comm) { comm->member(comm->rank).done.store(comm->collectives); }

// A collective of small messages: exchange them, and let a function compute this rank's result.
template <class Function>
ncclResult_t collective(const char* name, ncclComm* comm, const void* sent, size_t bytes, Function finish) {
    emulated_library_call(name);
    if (bytes > SMALL_BYTES || bytes == 0) return ncclSuccess;
    std::vector<const char*> messages = exchanged(comm, sent, bytes);
    if (messages.empty()) return comm->is_aborted ? ncclSuccess : ncclSystemError;
    finish(messages);
    have_read(comm);
    return ncclSuccess;
}

void deliver(void* to, const void* from, size_t bytes) { cudaMemcpy(to, from, bytes, cudaMemcpyDefault); }

void deliver_reduced(void* to, const std::vector<const char*>& messages, size_t skipped, size_t count,
                     ncclDataType_t type, int op) {
    std::vector<const char*> parts;
    for (const char* message : messages) parts.push_back(message + skipped);
    std::vector<char> result(count * size_of(type));
    reduce(result.data(), parts, count, type, op);
    deliver(to, result.data(), result.size());
}

// Messages between two ranks. In a group, sends precede receives.
struct Pending {
    ncclComm* comm;
    void* to;
    size_t bytes;
    int peer;
};
thread_local int group_depth = 0;
thread_local std::vector<Pending> pending;

ncclResult_t receive(const Pending& one) {
    Queue& queue = one.comm->queue(one.peer, one.comm->rank);
    uint64_t number = queue.received + 1;
    if (!one.comm->wait([&] { return queue.sent >= number; })) return ncclSystemError;
    deliver(one.to, queue.places[number % QUEUE].data, one.bytes);
    queue.received.store(number);
    return ncclSuccess;
}

ncclResult_t receive_pending() {
    std::vector<Pending> all;
    all.swap(pending);
    for (const Pending& one : all)
        if (ncclResult_t result = receive(one)) return result;
    return ncclSuccess;
}

std::string name_of(const ncclUniqueId& id) { return "/emulated-nccl-" + std::string(id.internal, 32); }

}  // namespace

EXPORT ncclResult_t ncclGetVersion(int* version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    std::random_device random;
    memset(id->internal, 0, sizeof id->internal);
    for (int i = 0; i < 32; i++) id->internal[i] = "0123456789abcdef"[random() % 16];
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
    return join(comm, name_of(id), size, rank);
}

EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t*) {
    return join(comm, name_of(id), size, rank);
}

#if NCCL_VERSION_CODE >= 22300
EXPORT ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int size, int rank, int, ncclUniqueId* ids,
                                             ncclConfig_t*) {
    return join(comm, name_of(ids[0]), size, rank);
}
#endif

#if NCCL_VERSION_CODE >= 21800
EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made, ncclConfig_t*) {
    int own[2] = {color, key};
    std::vector<const char*> messages = exchanged(comm, own, sizeof own);
    if (messages.empty()) return ncclSystemError;
    std::vector<std::pair<int, int>> members;  // key and old rank of those with this color
    for (int other = 0; other < comm->size; other++) {
        auto told = reinterpret_cast<const int*>(messages[other]);
        if (told[0] == color) members.push_back({told[1], other});
    }
    have_read(comm);
    uint64_t number = ++comm->splits;
    *made = nullptr;
    if (color < 0) return ncclSuccess;  // NCCL_SPLIT_NOCOLOR
    std::sort(members.begin(), members.end());
    int rank = 0;
    while (members[rank].second != comm->rank) rank++;
    std::string name = comm->name + "-" + std::to_string(number) + "." + std::to_string(color);
    return join(made, name, int(members.size()), rank);
}
#endif

EXPORT ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }

EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) return ncclSuccess;
    munmap(comm->shared, comm->shared_bytes);
    delete comm;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (comm) comm->is_aborted = true;  // kept: another thread may be waiting in it
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
    *error = ncclSuccess;
    return ncclSuccess;
}

EXPORT const char* ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess ? "no error" : "a rank of the emulated communicator has not come";
}

#if NCCL_VERSION_CODE >= 21300
EXPORT const char* ncclGetLastError(ncclComm_t) { return ""; }
#endif

EXPORT ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
    *count = comm->size;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
    *rank = comm->rank;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
    *device = comm->device;
    return ncclSuccess;
}

#if NCCL_VERSION_CODE >= 21900
EXPORT ncclResult_t ncclMemAlloc(void** address, size_t bytes) {
    return cudaMalloc(address, bytes) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

EXPORT ncclResult_t ncclMemFree(void* address) {
    return cudaFree(address) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

EXPORT ncclResult_t ncclCommRegister(const ncclComm_t, void* buffer, size_t, void** handle) {
    *handle = buffer;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }
#endif

EXPORT ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void*, ncclDataType_t, ncclScalarResidence_t,
                                             ncclComm_t) {
    *op = ncclNumOps;  // its factor is ignored: it scales only values that kernels compute
    return ncclSuccess;
}

EXPORT ncclResult_t ncclRedOpDestroy(ncclRedOp_t, ncclComm_t) { return ncclSuccess; }

EXPORT ncclResult_t ncclAllReduce(const void* sent, void* result, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                  ncclComm_t comm, cudaStream_t) {
    return collective("ncclAllReduce", comm, sent, count * size_of(type), [&](auto& messages) {
        deliver_reduced(result, messages, 0, count, type, op);
    });
}

EXPORT ncclResult_t ncclReduce(const void* sent, void* result, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               int root, ncclComm_t comm, cudaStream_t) {
    return collective("ncclReduce", comm, sent, count * size_of(type), [&](auto& messages) {
        if (comm->rank == root) deliver_reduced(result, messages, 0, count, type, op);
    });
}

EXPORT ncclResult_t ncclReduceScatter(const void* sent, void* result, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                      ncclComm_t comm, cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclReduceScatter", comm, sent, bytes * comm->size, [&](auto& messages) {
        deliver_reduced(result, messages, comm->rank * bytes, count, type, op);
    });
}

EXPORT ncclResult_t ncclBroadcast(const void* sent, void* result, size_t count, ncclDataType_t type, int root,
                                  ncclComm_t comm, cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclBroadcast", comm, comm->rank == root ? sent : nullptr, bytes,
                      [&](auto& messages) { deliver(result, messages[root], bytes); });
}

EXPORT ncclResult_t ncclBcast(void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                              cudaStream_t stream) {
    return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}

EXPORT ncclResult_t ncclAllGather(const void* sent, void* result, size_t count, ncclDataType_t type, ncclComm_t comm,
                                  cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclAllGather", comm, sent, bytes, [&](auto& messages) {
        for (int other = 0; other < comm->size; other++)
            deliver(static_cast<char*>(result) + other * bytes, messages[other], bytes);
    });
}

#if NCCL_VERSION_CODE >= 22800
EXPORT ncclResult_t ncclGather(const void* sent, void* result, size_t count, ncclDataType_t type, int root,
                               ncclComm_t comm, cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclGather", comm, sent, bytes, [&](auto& messages) {
        for (int other = 0; comm->rank == root && other < comm->size; other++)
            deliver(static_cast<char*>(result) + other * bytes, messages[other], bytes);
    });
}

EXPORT ncclResult_t ncclScatter(const void* sent, void* result, size_t count, ncclDataType_t type, int root,
                                ncclComm_t comm, cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclScatter", comm, comm->rank == root ? sent : nullptr, bytes * comm->size,
                      [&](auto& messages) { deliver(result, messages[root] + comm->rank * bytes, bytes); });
}

EXPORT ncclResult_t ncclAlltoAll(const void* sent, void* result, size_t count, ncclDataType_t type, ncclComm_t comm,
                                 cudaStream_t) {
    size_t bytes = count * size_of(type);
    return collective("ncclAlltoAll", comm, sent, bytes * comm->size, [&](auto& messages) {
        for (int other = 0; other < comm->size; other++)
            deliver(static_cast<char*>(result) + other * bytes, messages[other] + comm->rank * bytes, bytes);
    });
}
#endif

EXPORT ncclResult_t ncclSend(const void* sent, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                             cudaStream_t) {
    emulated_library_call("ncclSend");
    size_t bytes = count * size_of(type);
    if (bytes > SMALL_BYTES || bytes == 0) return ncclSuccess;
    Queue& queue = comm->queue(comm->rank, peer);
    uint64_t number = queue.sent + 1;
    if (!comm->wait([&] { return queue.received + QUEUE >= number; })) return ncclSystemError;
    cudaMemcpy(queue.places[number % QUEUE].data, sent, bytes, cudaMemcpyDefault);
    queue.sent.store(number);
    return ncclSuccess;
}

EXPORT ncclResult_t ncclRecv(void* result, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t) {
    emulated_library_call("ncclRecv");
    size_t bytes = count * size_of(type);
    if (bytes > SMALL_BYTES || bytes == 0) return ncclSuccess;
    pending.push_back({comm, result, bytes, peer});
    return group_depth ? ncclSuccess : receive_pending();
}

EXPORT ncclResult_t ncclGroupStart() {
    group_depth++;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclGroupEnd() { return --group_depth ? ncclSuccess : receive_pending(); }
