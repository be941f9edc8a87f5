// Streams, events and graph capture. Nothing runs, so whatever was queued is done; only capture has a state.
#include <cuda_runtime_api.h>

#include <chrono>
#include <mutex>
#include <vector>

#include "device.h"
#include "errors.h"
#include "launches.h"

namespace emulated {
namespace {

struct UserObject {
    void* value;
    cudaHostFn_t destroy;
    unsigned count;
};

void release(UserObject* object, unsigned count) {
    object->count -= count;
    if (object->count) return;
    object->destroy(object->value);
    delete object;
}

}  // namespace

// A graph is the kernels that were launched while it was captured.
struct Graph {
    Launches launches;
    bool is_capturing = false;
    unsigned long long id = 0;
    std::vector<UserObject*> held;
};

namespace {

std::mutex mutex;

struct Stream {
    int priority = 0;
    unsigned flags = 0;
    Graph* graph = nullptr;  // the graph that it captures into, or last captured into
};

struct Event {
    std::chrono::steady_clock::time_point time;
    Graph* graph = nullptr;
};

// The stream of a handle; null, 1 and 2 are the default streams.
Stream& stream_of(cudaStream_t handle) {
    static Stream standard;
    return reinterpret_cast<uintptr_t>(handle) <= 2 ? standard : *reinterpret_cast<Stream*>(handle);
}

cudaStreamCaptureStatus status_of(const Stream& stream) {
    return stream.graph && stream.graph->is_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
}

cudaError_t create(cudaStream_t* handle, unsigned flags, int priority) {
    begin_context(current_device());
    auto* stream = new Stream;
    stream->flags = flags;
    stream->priority = priority;
    *handle = reinterpret_cast<cudaStream_t>(stream);
    return succeed();
}

cudaError_t create(cudaEvent_t* handle) {
    begin_context(current_device());
    *handle = reinterpret_cast<cudaEvent_t>(new Event);
    return succeed();
}

cudaError_t record(cudaEvent_t handle, cudaStream_t stream) {
    std::lock_guard<std::mutex> guard(mutex);
    Event& event = *reinterpret_cast<Event*>(handle);
    event.time = std::chrono::steady_clock::now();
    event.graph = status_of(stream_of(stream)) == cudaStreamCaptureStatusActive ? stream_of(stream).graph : nullptr;
    return succeed();
}

cudaError_t begin_capture(cudaStream_t handle, Graph* graph) {
    std::lock_guard<std::mutex> guard(mutex);
    static unsigned long long captures = 0;
    Stream& stream = stream_of(handle);
    if (status_of(stream) == cudaStreamCaptureStatusActive) return fail(cudaErrorIllegalState);
    graph->is_capturing = true;
    graph->id = ++captures;
    stream.graph = graph;
    return succeed();
}

cudaError_t capture_info(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                         cudaGraph_t* graph, const cudaGraphNode_t** nodes, size_t* count) {
    std::lock_guard<std::mutex> guard(mutex);
    Stream& stream = stream_of(handle);
    bool is_active = status_of(stream) == cudaStreamCaptureStatusActive;
    if (status) *status = status_of(stream);
    if (id) *id = is_active ? stream.graph->id : 0;
    if (graph) *graph = is_active ? reinterpret_cast<cudaGraph_t>(stream.graph) : nullptr;
    if (nodes) *nodes = nullptr;
    if (count) *count = 0;
    return succeed();
}

cudaError_t instantiate(cudaGraphExec_t* executable, cudaGraph_t graph) {
    auto* copy = new Graph;
    copy->launches = reinterpret_cast<Graph*>(graph)->launches;
    *executable = reinterpret_cast<cudaGraphExec_t>(copy);
    return succeed();
}

cudaError_t destroy(void* handle) {
    auto* graph = static_cast<Graph*>(handle);
    for (UserObject* object : graph->held) release(object, 1);
    delete graph;
    return succeed();
}

}  // namespace

Launches* captured_launches(cudaStream_t handle) {
    std::lock_guard<std::mutex> guard(mutex);
    Stream& stream = stream_of(handle);
    return status_of(stream) == cudaStreamCaptureStatusActive ? &stream.graph->launches : nullptr;
}

}  // namespace emulated

using namespace emulated;

EXPORT cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create(stream, 0, 0); }
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { return create(stream, flags, 0); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    return create(stream, flags, priority);
}
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (reinterpret_cast<uintptr_t>(stream) > 2) delete reinterpret_cast<Stream*>(stream);
    return succeed();
}
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    *priority = stream_of(stream).priority;
    return succeed();
}
EXPORT cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    *flags = stream_of(stream).flags;
    return succeed();
}
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t) { return succeed(); }
EXPORT cudaError_t cudaStreamQuery(cudaStream_t) { return succeed(); }
EXPORT cudaError_t cudaDeviceSynchronize() {
    begin_context(current_device());
    return succeed();
}
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    std::lock_guard<std::mutex> guard(mutex);
    Graph* graph = reinterpret_cast<Event*>(event)->graph;
    if (graph && graph->is_capturing) stream_of(handle).graph = graph;  // it joins the capture
    return succeed();
}
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
    callback(stream, cudaSuccess, data);
    return succeed();
}
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
    function(data);
    return succeed();
}

EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) { return create(event); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return create(event); }
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete reinterpret_cast<Event*>(event);
    return succeed();
}
EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return record(event, stream); }
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return record(event, stream);
}
EXPORT cudaError_t cudaEventQuery(cudaEvent_t) { return succeed(); }
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) { return succeed(); }
// The host's time between two marks; for a device that computes nothing it is meaningless.
EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    auto elapsed = reinterpret_cast<Event*>(end)->time - reinterpret_cast<Event*>(start)->time;
    *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count();
    return succeed();
}

EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    return begin_capture(stream, new Graph);
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    std::lock_guard<std::mutex> guard(mutex);
    Stream& stream = stream_of(handle);
    *graph = nullptr;
    if (status_of(stream) != cudaStreamCaptureStatusActive) return fail(cudaErrorIllegalState);
    stream.graph->is_capturing = false;
    *graph = reinterpret_cast<cudaGraph_t>(stream.graph);
    stream.graph = nullptr;
    return succeed();
}
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return capture_info(stream, status, nullptr, nullptr, nullptr, nullptr);
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return succeed(); }

#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* id, cudaGraph_t* graph, const cudaGraphNode_t** nodes,
                                            const cudaGraphEdgeData** edges, size_t* count) {
    if (edges) *edges = nullptr;
    return capture_info(stream, status, id, graph, nodes, count);
}
EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t, cudaGraphNode_t*, const cudaGraphEdgeData*, size_t,
                                                       unsigned) {
    return succeed();
}
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    return instantiate(executable, graph);
}
#else
#undef cudaStreamGetCaptureInfo
EXPORT cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                               unsigned long long* id, cudaGraph_t* graph,
                                               const cudaGraphNode_t** nodes, size_t* count) {
    return capture_info(stream, status, id, graph, nodes, count);
}
EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t, cudaGraphNode_t*, size_t, unsigned) {
    return succeed();
}
#if CUDART_VERSION >= 12000
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    return instantiate(executable, graph);
}
#else
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* id) {
    return capture_info(stream, status, id, nullptr, nullptr, nullptr);
}
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, cudaGraphNode_t*, char*,
                                        size_t) {
    return instantiate(executable, graph);
}
#endif
#endif
EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    return instantiate(executable, graph);
}
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    count(reinterpret_cast<Graph*>(executable)->launches);
    return succeed();
}
EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    if (!nodes) *count = reinterpret_cast<Graph*>(graph)->launches.total;
    return nodes ? fail(cudaErrorNotSupported) : succeed();
}
EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy(graph); }
EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return destroy(executable); }

EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* value, cudaHostFn_t destroy, unsigned count,
                                        unsigned) {
    *object = reinterpret_cast<cudaUserObject_t>(new UserObject{value, destroy, count});
    return succeed();
}
EXPORT cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
    release(reinterpret_cast<UserObject*>(object), count);
    return succeed();
}
EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                             unsigned flags) {
    auto* held = reinterpret_cast<UserObject*>(object);
    if (!(flags & cudaGraphUserObjectMove)) held->count += count;
    for (unsigned i = 0; i < count; i++) reinterpret_cast<Graph*>(graph)->held.push_back(held);
    return succeed();
}
