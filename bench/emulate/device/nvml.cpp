// libnvidia-ml.so.1: the same device, its memory and the processes on it. It has no meters of power or clocks.
#include <cuda.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "device.h"

using namespace emulated;

namespace {

enum Result { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

// As in NVIDIA's nvml.h; the version numbers are part of the interface.
struct Memory {
    unsigned long long total, free, used;
};
struct MemoryV2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct ProcessInfo {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};
struct PciInfo {
    char legacy_bus_id[16];
    unsigned domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
};

using Device = void*;
Device handle_of(int physical) { return reinterpret_cast<Device>(uintptr_t(physical) + 1); }
int physical_of(Device device) { return int(reinterpret_cast<uintptr_t>(device)) - 1; }

unsigned long long used_of(int physical) {
    unsigned long long used = 0;
    pid_t pid;
    size_t bytes;
    for (int index = 0; process_at(physical, index, &pid, &bytes); index++) used += bytes;
    return used;
}

void write_uuid(char* text, size_t length, int physical) {
    char uuid[sizeof card().uuid];
    snprintf(uuid, sizeof uuid, "%s", card().uuid);
    unsigned last = 0;
    size_t tail = strlen(uuid) - 2;
    sscanf(uuid + tail, "%2x", &last);
    snprintf(uuid + tail, 3, "%02x", (last + unsigned(physical)) & 0xff);
    snprintf(text, length, "GPU-%s", uuid);
}

int find_uuid(const char* text, Device* device) {
    for (int physical = 0; physical < all_devices(); physical++) {
        char uuid[64];
        write_uuid(uuid, sizeof uuid, physical);
        if (strcmp(uuid, text)) continue;
        *device = handle_of(physical);
        return SUCCESS;
    }
    return NOT_FOUND;
}

int list_processes(Device device, unsigned* count, ProcessInfo* processes) {
    pid_t pid;
    size_t bytes;
    unsigned found = 0;
    for (; process_at(physical_of(device), int(found), &pid, &bytes); found++)
        if (processes && found < *count) processes[found] = {unsigned(pid), bytes, ~0u, ~0u};
    bool is_enough = processes && found <= *count;
    *count = found;
    return is_enough || !found ? SUCCESS : INSUFFICIENT_SIZE;
}

}  // namespace

EXPORT int nvmlInit() { return SUCCESS; }
EXPORT int nvmlInit_v2() { return SUCCESS; }
EXPORT int nvmlInitWithFlags(unsigned) { return SUCCESS; }
EXPORT int nvmlShutdown() { return SUCCESS; }
EXPORT const char* nvmlErrorString(int result) {
    return result == SUCCESS ? "Success" : result == NOT_SUPPORTED ? "Not Supported" : "Not Found";
}
EXPORT int nvmlSystemGetDriverVersion(char* text, unsigned length) {
    snprintf(text, length, "emulated");
    return SUCCESS;
}
EXPORT int nvmlSystemGetCudaDriverVersion(int* version) {
    *version = CUDA_VERSION;
    return SUCCESS;
}
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int* version) { return nvmlSystemGetCudaDriverVersion(version); }
EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = unsigned(all_devices());
    return SUCCESS;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
    *device = handle_of(int(index));
    return int(index) < all_devices() ? SUCCESS : INVALID_ARGUMENT;
}
EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) { return find_uuid(uuid, device); }
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char* text, Device* device) {
    unsigned domain = 0, bus = 0;
    if (sscanf(text, "%x:%x", &domain, &bus) != 2 || bus < 1 || int(bus) > all_devices()) return NOT_FOUND;
    *device = handle_of(int(bus) - 1);
    return SUCCESS;
}
EXPORT int nvmlDeviceGetIndex(Device device, unsigned* index) {
    *index = unsigned(physical_of(device));
    return SUCCESS;
}
EXPORT int nvmlDeviceGetUUID(Device device, char* text, unsigned length) {
    write_uuid(text, length, physical_of(device));
    return SUCCESS;
}
EXPORT int nvmlDeviceGetName(Device, char* text, unsigned length) {
    snprintf(text, length, "%s", card().name);
    return SUCCESS;
}
EXPORT int nvmlDeviceGetCudaComputeCapability(Device, int* major, int* minor) {
    *major = card().major;
    *minor = card().minor;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
    memset(info, 0, sizeof *info);
    info->bus = unsigned(1 + physical_of(device));
    snprintf(info->legacy_bus_id, sizeof info->legacy_bus_id, "0000:%02X:00.0", info->bus);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return SUCCESS;
}
EXPORT int nvmlDeviceGetMemoryInfo(Device device, Memory* memory) {
    memory->total = card().memory_bytes;
    memory->used = used_of(physical_of(device));
    memory->free = memory->used > memory->total ? 0 : memory->total - memory->used;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2* memory) {
    Memory plain;
    nvmlDeviceGetMemoryInfo(device, &plain);
    memory->total = plain.total;
    memory->free = plain.free;
    memory->used = plain.used;
    memory->reserved = 0;
    return SUCCESS;
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(Device device, unsigned* count, ProcessInfo* processes) {
    return list_processes(device, count, processes);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count, ProcessInfo* processes) {
    return list_processes(device, count, processes);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses(Device device, unsigned* count, ProcessInfo* processes) {
    return list_processes(device, count, processes);
}
EXPORT int nvmlSystemGetProcessName(unsigned pid, char* text, unsigned length) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/exe", pid);
    ssize_t size = readlink(path, text, length - 1);
    if (size < 0) return NOT_FOUND;
    text[size] = 0;
    return SUCCESS;
}

// Answers of a card without meters.
#define NOT_SUPPORTED_HERE(name) \
    EXPORT int name() { return NOT_SUPPORTED; }
NOT_SUPPORTED_HERE(nvmlDeviceGetPowerUsage)
NOT_SUPPORTED_HERE(nvmlDeviceGetTotalEnergyConsumption)
NOT_SUPPORTED_HERE(nvmlDeviceGetEnforcedPowerLimit)
NOT_SUPPORTED_HERE(nvmlDeviceGetTemperature)
NOT_SUPPORTED_HERE(nvmlDeviceGetClockInfo)
NOT_SUPPORTED_HERE(nvmlDeviceGetMaxClockInfo)
NOT_SUPPORTED_HERE(nvmlDeviceGetUtilizationRates)
NOT_SUPPORTED_HERE(nvmlDeviceGetEccMode)
NOT_SUPPORTED_HERE(nvmlDeviceGetMigMode)
NOT_SUPPORTED_HERE(nvmlDeviceGetMaxMigDeviceCount)
NOT_SUPPORTED_HERE(nvmlDeviceGetMigDeviceHandleByIndex)
NOT_SUPPORTED_HERE(nvmlDeviceGetDeviceHandleFromMigDeviceHandle)
NOT_SUPPORTED_HERE(nvmlDeviceGetCurrentClocksThrottleReasons)
NOT_SUPPORTED_HERE(nvmlDeviceGetCurrentClocksEventReasons)
NOT_SUPPORTED_HERE(nvmlDeviceGetGpuFabricInfoV)
NOT_SUPPORTED_HERE(nvmlDeviceGetNvLinkRemoteDeviceType)
NOT_SUPPORTED_HERE(nvmlDeviceGetNvLinkRemotePciInfo_v2)
