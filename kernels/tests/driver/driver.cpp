// A driver and a run-time compiler that pretend: the functions that kernels::gpu calls, on the processor's memory.
//
// What a stream is asked for is done when somebody waits for it, as late as a device may do it, so that a missing wait shows. A
// kernel adds 1 to the float that its first parameter points to. Mistakes of the caller, and what it leaves behind at the end of
// the process, are printed. Variables of the environment say what device this is and what fails.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

static long setting(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value ? atol(value) : otherwise;
}

static void mistake(const char* format, ...) {
    va_list values;
    va_start(values, format);
    printf("mistake: ");
    vprintf(format, values);
    printf("\n");
    fflush(stdout);
    va_end(values);
}

static int broken = 0; // what every call answers once the device is lost

// Things that were made and not destroyed, by kind. A device that is lost has lost them.
static std::map<std::string, std::map<void*, size_t>> living;
static struct AtEnd {
    ~AtEnd() {
        if (broken) return;
        for (auto& kind : living)
            if (!kind.second.empty()) mistake("%zu %s left", kind.second.size(), kind.first.c_str());
    }
} at_end;

static void* born(const char* kind, void* thing, size_t size = 0) {
    living[kind][thing] = size;
    return thing;
}
static void died(const char* kind, void* thing) {
    if (!living[kind].erase(thing)) mistake("a %s is destroyed that is none", kind);
}
static void alive(const char* kind, void* thing) {
    if (!living[kind].count(thing)) mistake("a %s is used that is none", kind);
}

using Work = std::function<void()>;
using List = std::vector<Work>;
static List queue, captured;
static bool capturing = false, spoilt = false;
static void* current = nullptr;
static thread_local bool bound = false;

enum { SUCCESS = 0, INVALID = 1, MEMORY = 2, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

// What a call answers before it does anything: DRIVER_FAILS="cuName=719" has one fail.
static int answer(const char* name, bool needs_context) {
    if (broken) return broken;
    if (needs_context && !bound) mistake("%s without a context", name);
    const char* fails = getenv("DRIVER_FAILS");
    size_t length = strlen(name);
    return fails && !strncmp(fails, name, length) && fails[length] == '=' ? atoi(fails + length + 1) : SUCCESS;
}
#define BEGIN_WITHOUT_CONTEXT() \
    if (int said = answer(__func__, false)) return said
#define BEGIN() \
    if (int said = answer(__func__, true)) return said

static int ask(Work work) {
    (capturing ? captured : queue).push_back(work);
    return SUCCESS;
}
static int drain() {
    if (capturing) return spoilt = true, CAPTURE_UNSUPPORTED;
    for (auto& work : queue) work();
    queue.clear();
    return broken;
}
static int not_captured() { return capturing ? (spoilt = true, CAPTURE_UNSUPPORTED) : SUCCESS; }

API int cuDriverGetVersion(int* version) { return *version = setting("DRIVER_VERSION", 13000), SUCCESS; }
API int cuInit(unsigned) {
    BEGIN_WITHOUT_CONTEXT();
    return SUCCESS;
}
API int cuDeviceGetCount(int* count) {
    BEGIN_WITHOUT_CONTEXT();
    return *count = setting("DRIVER_DEVICES", 2), SUCCESS;
}
API int cuDeviceGet(int* device, int ordinal) {
    BEGIN_WITHOUT_CONTEXT();
    return *device = ordinal + 100, SUCCESS;
}
API int cuDeviceGetName(char* name, int room, int device) {
    BEGIN_WITHOUT_CONTEXT();
    return snprintf(name, room, "Pretended %d", device), SUCCESS;
}
API int cuDeviceGetUuid_v2(unsigned char* uuid, int) {
    BEGIN_WITHOUT_CONTEXT();
    for (int i = 0; i < 16; i++) uuid[i] = i;
    return SUCCESS;
}
API int cuDeviceGetAttribute(int* value, int attribute, int) {
    BEGIN_WITHOUT_CONTEXT();
    long capability = setting("DRIVER_CAPABILITY", 90);
    switch (attribute) {
    case 16: *value = 132; break;                // multiprocessors
    case 75: *value = capability / 10; break;    // capability, major
    case 76: *value = capability % 10; break;    // and minor
    case 97: *value = 227 << 10; break;          // shared memory of a block
    case 115: *value = 1; break;                 // memory pools
    default: mistake("attribute %d", attribute);
    }
    return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(void** context, int device) {
    BEGIN_WITHOUT_CONTEXT();
    *context = born("context", new int(device));
    return SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int) {
    for (auto& one : living["context"]) return died("context", one.first), SUCCESS;
    return mistake("a context is released that is none"), INVALID;
}
API int cuCtxGetCurrent(void** context) { return *context = bound ? current : nullptr, SUCCESS; }
API int cuCtxSetCurrent(void* context) { return current = context, bound = context != nullptr, SUCCESS; }
static size_t used() {
    size_t all = 0;
    for (auto& one : living["allocation"]) all += one.second;
    return all;
}
API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    BEGIN();
    *total = 1 << 30;
    *free = *total - used();
    return SUCCESS;
}
API int cuStreamCreate(void** stream, unsigned flags) {
    BEGIN();
    if (flags != 1) mistake("a stream that the default one holds up");
    *stream = born("stream", new int);
    return SUCCESS;
}
API int cuStreamDestroy_v2(void* stream) { return died("stream", stream), SUCCESS; }
API int cuStreamSynchronize(void* stream) {
    BEGIN();
    alive("stream", stream);
    return drain();
}

// ---- kernels ----

struct Function {
    std::string name;
    unsigned shared = 48 << 10;
};
API int cuModuleLoadData(void** module, const void* image) {
    BEGIN();
    if (memcmp(image, "machine code of ", 16)) return 200;
    *module = born("module", new std::vector<Function*>);
    return SUCCESS;
}
API int cuModuleUnload(void* module) {
    BEGIN();
    if (!queue.empty()) mistake("a module is unloaded under its kernels");
    for (auto* function : *(std::vector<Function*>*)module) died("function", function);
    return died("module", module), SUCCESS;
}
API int cuModuleGetFunction(void** function, void* module, const char* name) {
    BEGIN();
    alive("module", module);
    if (capturing) mistake("%s is loaded while a graph is captured", name);
    *function = born("function", new Function{name});
    ((std::vector<Function*>*)module)->push_back((Function*)*function);
    return SUCCESS;
}
API int cuFuncSetAttribute(Function* function, int attribute, int value) {
    BEGIN();
    alive("function", function);
    if (attribute != 8) mistake("attribute %d of a function", attribute);
    if (value > (227 << 10)) return INVALID;
    return function->shared = value, SUCCESS;
}
API int cuLaunchKernel(Function* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared,
                       void* stream, void** parameters, void** extra) {
    BEGIN();
    alive("function", function);
    alive("stream", stream);
    if (extra) mistake("extra parameters");
    if (shared > function->shared) return INVALID;
    float* place = *(float**)parameters[0];
    int breaks = setting("DRIVER_BREAKS", 0);
    return ask([=] { breaks ? (void)(broken = breaks) : (void)(*place += 1); });
}

// ---- memory ----

API int cuMemAlloc_v2(void** place, size_t bytes) {
    BEGIN();
    if (int said = not_captured()) return said;
    if (!bytes) return INVALID;
    if (bytes > (1 << 30) - used()) return MEMORY;
    *place = born("allocation", aligned_alloc(256, (bytes + 255) / 256 * 256), bytes);
    memset(*place, 0xff, bytes);
    return SUCCESS;
}
API int cuMemFree_v2(void* place) {
    if (int said = not_captured()) return said;
    if (!queue.empty()) mistake("memory is freed that may be in use");
    return died("allocation", place), free(place), SUCCESS;
}
API int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
    BEGIN();
    if (int said = not_captured()) return said;
    *place = born("pinned allocation", malloc(bytes));
    memset(*place, 0xff, bytes);
    return SUCCESS;
}
API int cuMemFreeHost(void* place) {
    if (!queue.empty()) mistake("pinned memory is freed that may be in use");
    return died("pinned allocation", place), free(place), SUCCESS;
}
static int copy(void* to, const void* from, size_t bytes) {
    if (!bytes) mistake("a copy of nothing");
    return ask([=] { memcpy(to, from, bytes); });
}
API int cuMemsetD8Async(void* to, unsigned char byte, size_t bytes, void*) {
    BEGIN();
    return ask([=] { memset(to, byte, bytes); });
}
API int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void*) {
    BEGIN();
    return copy(to, from, bytes);
}
API int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void*) {
    BEGIN();
    return copy(to, from, bytes);
}
API int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void*) {
    BEGIN();
    return copy(to, from, bytes);
}

// ---- events and graphs ----

API int cuEventCreate(void** event, unsigned flags) {
    BEGIN();
    *event = born("event", new unsigned(flags));
    return SUCCESS;
}
API int cuEventDestroy_v2(void* event) { return died("event", event), SUCCESS; }
API int cuEventRecord(void* event, void*) {
    BEGIN();
    alive("event", event);
    return not_captured();
}
API int cuEventSynchronize(void* event) {
    BEGIN();
    alive("event", event);
    return drain();
}
API int cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    BEGIN();
    if (*(unsigned*)from & 2 || *(unsigned*)to & 2) mistake("events without times");
    return *milliseconds = 1.5f, SUCCESS;
}
API int cuStreamBeginCapture_v2(void*, int mode) {
    BEGIN();
    if (mode != 1) mistake("a capture that holds up other threads");
    captured.clear();
    return capturing = true, spoilt = false, SUCCESS;
}
API int cuStreamEndCapture(void*, List** graph) {
    BEGIN();
    capturing = false;
    if (spoilt) return *graph = nullptr, CAPTURE_INVALIDATED;
    born("graph", *graph = new List(captured));
    return SUCCESS;
}
API int cuGraphInstantiateWithFlags(List** executable, List* graph, unsigned long long) {
    BEGIN();
    alive("graph", graph);
    born("executable graph", *executable = new List(*graph));
    return SUCCESS;
}
API int cuGraphLaunch(List* executable, void*) {
    BEGIN();
    alive("executable graph", executable);
    for (auto& work : *executable) ask(work);
    return SUCCESS;
}
API int cuGraphExecDestroy(void* executable) { return died("executable graph", executable), SUCCESS; }
API int cuGraphDestroy(void* graph) { return died("graph", graph), SUCCESS; }

// ---- the compiler ----

API int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, SUCCESS; }
API int nvrtcGetNumSupportedArchs(int* count) { return *count = 2, SUCCESS; }
API int nvrtcGetSupportedArchs(int* list) { return list[0] = 80, list[1] = 90, SUCCESS; }
API const char* nvrtcGetErrorString(int) { return "an error"; }
API int nvrtcCreateProgram(std::string** program, const char*, const char* name, int, const char* const*, const char* const*) {
    born("program", *program = new std::string("machine code of " + std::string(name)));
    return SUCCESS;
}
API int nvrtcCompileProgram(std::string* program, int count, const char* const* options) {
    if (strcmp(options[count - 1], "--gpu-architecture=sm_90a")) mistake("compiled for %s", options[count - 1]);
    return alive("program", program), SUCCESS;
}
API int nvrtcGetProgramLogSize(std::string*, size_t* size) { return *size = 1, SUCCESS; }
API int nvrtcGetProgramLog(std::string*, char* log) { return *log = 0, SUCCESS; }
API int nvrtcGetCUBINSize(std::string* program, size_t* size) { return *size = program->size(), SUCCESS; }
API int nvrtcGetCUBIN(std::string* program, char* bytes) {
    return memcpy(bytes, program->data(), program->size()), SUCCESS;
}
API int nvrtcDestroyProgram(std::string** program) { return died("program", *program), SUCCESS; }
