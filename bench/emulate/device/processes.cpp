// Who uses how much of the machine's devices: a table in a file that every process of the machine's emulation maps.
// Without EMULATED_GPU_STATE each process has the devices to itself.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "device.h"

namespace emulated {
namespace {

constexpr int MAX_PROCESSES = 256;

struct Process {
    std::atomic<int> pid;
    std::atomic<uint8_t> has_context[MAX_DEVICES];
    std::atomic<uint64_t> bytes[MAX_DEVICES];
};

Process* map_table() {
    size_t size = sizeof(Process) * MAX_PROCESSES;
    const char* path = getenv("EMULATED_GPU_STATE");
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (path && (file < 0 || ftruncate(file, off_t(size)) != 0)) {
        fprintf(stderr, "emulated device: EMULATED_GPU_STATE must be a file that can be written, got '%s'\n", path);
        abort();
    }
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void* table = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, file, 0);
    if (file >= 0) close(file);
    if (table == MAP_FAILED) {
        perror("emulated device: table of processes");
        abort();
    }
    return static_cast<Process*>(table);
}

Process* table() {
    static Process* const processes = map_table();
    return processes;
}

// A process that has ended holds no memory any more, even if its parent has yet to ask about it.
bool is_zombie(int pid) {
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (size <= 0) return false;
    text[size] = 0;
    const char* name_ends = strrchr(text, ')');  // the name before it may contain any character
    return name_ends && name_ends[1] == ' ' && name_ends[2] == 'Z';
}

bool is_alive(int pid) { return pid != 0 && (kill(pid, 0) == 0 || errno != ESRCH) && !is_zombie(pid); }

void clear(Process& process) {
    for (int device = 0; device < MAX_DEVICES; device++) {
        process.has_context[device] = 0;
        process.bytes[device] = 0;
    }
}

Process& claim_slot(int pid) {
    Process* processes = table();
    for (int index = 0; index < MAX_PROCESSES; index++) {
        // a slot with this number belongs to a dead process, or to this one before it became another program
        int owner = pid;
        processes[index].pid.compare_exchange_strong(owner, 0);
    }
    for (int index = 0; index < MAX_PROCESSES; index++) {
        int owner = processes[index].pid;
        if (!is_alive(owner) && processes[index].pid.compare_exchange_strong(owner, pid)) {
            clear(processes[index]);
            return processes[index];
        }
    }
    fprintf(stderr, "emulated device: more than %d processes at once\n", MAX_PROCESSES);
    abort();
}

Process& own() {
    static std::mutex mutex;
    static Process* slot = nullptr;
    std::lock_guard<std::mutex> guard(mutex);
    if (!slot || slot->pid != getpid()) slot = &claim_slot(getpid());  // a forked process is a different one
    return *slot;
}

size_t held_bytes(Process& process, int physical) {
    if (!process.has_context[physical]) return 0;
    return card().context_bytes + process.bytes[physical];
}

}  // namespace

size_t used_bytes(int device) {
    int physical = physical_device(device);
    size_t total = 0;
    for (int index = 0; index < MAX_PROCESSES; index++)
        if (is_alive(table()[index].pid)) total += held_bytes(table()[index], physical);
    return total;
}

void begin_context(int device) { own().has_context[physical_device(device)] = 1; }

bool take(int device, size_t bytes) {
    begin_context(device);
    if (bytes > card().memory_bytes) return false;
    own().bytes[physical_device(device)] += bytes;  // first, so that no other process takes the same bytes
    if (used_bytes(device) <= card().memory_bytes) return true;
    give_back(device, bytes);
    return false;
}

void give_back(int device, size_t bytes) { own().bytes[physical_device(device)] -= bytes; }

bool process_at(int physical, int index, pid_t* pid, size_t* bytes) {
    for (int slot = 0; slot < MAX_PROCESSES; slot++) {
        Process& process = table()[slot];
        if (!process.has_context[physical] || !is_alive(process.pid) || index-- > 0) continue;
        *pid = process.pid;
        *bytes = held_bytes(process, physical);
        return true;
    }
    return false;
}

}  // namespace emulated
