// Runs CUDA kernels on the processor, so that their arithmetic and their use of shared memory can be tested anywhere.
//
// A kernel file is compiled as plain C++ with this header in front. The threads of a block are fibers that run in turn,
// each until it waits for others; blocks run one after the other. What a kernel may use is here, and nothing else.
//
// Found, each with a sentence that names the block and the thread:
//   - shared memory that is read before anybody wrote it, or touched outside of its bounds;
//   - races: two threads touch the same shared memory, one of them writing, with no barrier between (__syncthreads, or
//     __syncwarp within a warp), whatever order the threads happen to run in;
//   - copies into shared memory whose place is read or written before they were waited for, or that nobody waits for;
//   - barriers and warp operations that not all threads reach, or that they reach at different places;
//   - parts of a result that blocks publish, read or arrived for out of turn (device.cuh, "blocks that share a result");
//   - misaligned vector loads, and arguments whose sizes are not those of the kernel's parameters.
// Not seen: other races between blocks and in global memory, speed, and what is in the strings of inline PTX, for which the
// emulator runs the twin beside each. Memory outside of a global buffer is AddressSanitizer's to see.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct dim3 {
    unsigned x, y, z;
};

namespace emulator {

constexpr unsigned WARP = 32;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif

// ---- fibers ----

#if defined(__x86_64__) && !defined(EMULATOR_PORTABLE)
// Callee-saved registers and the stack pointer are all that a call must keep.
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
struct Context {
    void* stack_pointer = nullptr;
    void prepare(char* stack, void (*entry)()) {
        void** top = (void**)((uintptr_t)(stack + STACK) & ~(uintptr_t)15);
        *--top = nullptr; // where a caller's address would be: keeps the alignment a function expects
        *--top = (void*)entry;
        for (int i = 0; i < 6; i++) *--top = nullptr;
        stack_pointer = top;
    }
    void leave_for(Context& to) { emulator_switch(&stack_pointer, to.stack_pointer); }
};
#else
} // namespace emulator
#include <ucontext.h>
namespace emulator {
struct Context {
    ucontext_t context;
    void prepare(char* stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void leave_for(Context& to) { swapcontext(&context, &to.context); }
};
#endif

// ---- a block and its threads ----

enum class State { Ready, AtBarrier, AtWarp, Ended };

// A copy into shared memory that has begun and not landed.
struct Copy {
    unsigned char* to;
    struct Trace* traces;
    const void* from; // null for zeros
    size_t bytes;
    unsigned group;
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack;
    dim3 index{};
    unsigned number = 0;
    State state = State::Ready;
    int place = 0;            // the line of the barrier, or the kind of warp operation, that it waits at
    unsigned operations = 0;  // warp operations so far
    bool published = false;   // whether it published anything, and the barriers that its block had passed when it last did
    uint32_t published_at = 0;
    std::vector<Copy> copies; // under way, in the order in which they began
    unsigned copy_groups = 0; // committed
};

struct Warp {
    unsigned arrived = 0;
    unsigned synced = 0; // how many __syncwarp it has passed
    // What lanes give to each other. Two, in turn: a lane may enter the next operation before others have read this one.
    alignas(16) unsigned char given[2][WARP][32];
};

// Who touched two bytes of shared memory last.
struct Trace {
    bool written = false;
    bool awaited = false; // a copy is under way to it
    uint16_t writer = 0;
    uint16_t reader = 0; // a thread, or one of the two below
    uint32_t write_block = 0, write_warp = 0; // barriers that block and warp had passed
    uint32_t read_block = UINT32_MAX, read_warp = 0;
};
constexpr uint16_t LANES_OF_WARP = 0x4000; // several threads of one warp; its number is in the low bits
constexpr uint16_t SEVERAL_WARPS = 0x8000;
constexpr size_t GRAIN = 2;

struct Block {
    dim3 index{}, size{}, grid{};
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Fiber* running = nullptr;
    Context scheduler;
    unsigned arrived = 0;
    unsigned synced = 0; // how many __syncthreads it has passed
    std::function<void()> body;
    std::string failure;
    std::vector<unsigned char> dynamic;
    std::vector<Trace> dynamic_traces;
    struct Array {
        std::vector<unsigned char> bytes;
        std::vector<Trace> traces;
    };
    std::map<const void*, Array> arrays; // of a fixed size, by where they are declared
    std::set<const void*> published;     // by the blocks of this launch
    bool arrived_at_all = false, arrived_last = false; // of the blocks that share a result, and by whom and when
    unsigned arrived_by = 0;
    uint32_t arrived_at = 0;
};

inline Block& block() {
    static thread_local Block block;
    return block;
}

inline Fiber& self() { return *block().running; }

// Ends the launch with a sentence. The fibers are left where they are.
[[noreturn]] inline void fail(const char* format, ...) {
    Block& b = block();
    char text[256], where[160];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    snprintf(where, sizeof where, " (block %u,%u,%u thread %u,%u,%u)", b.index.x, b.index.y, b.index.z,
             b.running->index.x, b.running->index.y, b.running->index.z);
    b.failure = std::string(text) + where;
    b.running->context.leave_for(b.scheduler);
    __builtin_unreachable();
}

inline void pause() { self().context.leave_for(block().scheduler); }

inline void barrier(int line) {
    Block& b = block();
    Fiber& me = self();
    me.state = State::AtBarrier;
    me.place = line;
    for (Fiber& other : b.fibers)
        if (other.state == State::AtBarrier && other.place != line)
            fail("threads wait at different barriers, in lines %d and %d", other.place, line);
    if (++b.arrived < b.fibers.size()) return pause();
    b.arrived = 0;
    b.synced++;
    for (Fiber& other : b.fibers) other.state = State::Ready;
}

// All lanes of a warp meet; each gives `bytes` bytes, which the others find in what is returned.
inline unsigned char (*meet(int kind, const void* given, size_t bytes))[32] {
    Block& b = block();
    Fiber& me = self();
    Warp& warp = b.warps[me.number / WARP];
    auto* slots = warp.given[me.operations++ % 2];
    if (bytes) memcpy(slots[me.number % WARP], given, bytes);
    Fiber* lanes = &b.fibers[me.number / WARP * WARP];
    me.state = State::AtWarp;
    me.place = kind;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (lanes[lane].state == State::AtWarp && lanes[lane].place != kind)
            fail("lanes of a warp wait at different operations");
    if (++warp.arrived < WARP) {
        pause();
    } else {
        warp.arrived = 0;
        for (unsigned lane = 0; lane < WARP; lane++) lanes[lane].state = State::Ready;
    }
    return slots;
}
enum Kind { SYNC, SHUFFLE, VOTE, MMA, MATRICES };

// By itself, for a frame that is never left, as that of enter(), must have no arrays: AddressSanitizer would think them alive when
// the stack is used anew.
__attribute__((noinline)) inline void check_end(const Fiber& me) {
    if (!me.copies.empty()) fail("a thread ends while a copy of its own is under way");
}

inline void enter() {
    block().body();
    Fiber& me = self();
    check_end(me);
    me.state = State::Ended;
    pause();
    __builtin_unreachable();
}

// ---- shared memory ----

// Two threads are in order where a barrier lies between: of the block, or of the warp that both are in.
inline bool in_order(unsigned other_warp, uint32_t at_block, uint32_t at_warp) {
    Block& b = block();
    unsigned mine = self().number / WARP;
    return at_block < b.synced || (other_warp == mine && at_warp < b.warps[mine].synced);
}

inline void after_write(const Trace& trace) {
    if (trace.written && trace.writer != self().number &&
        !in_order(trace.writer / WARP, trace.write_block, trace.write_warp))
        fail("a race: thread number %u wrote this shared memory, with no barrier since", trace.writer);
}

inline void note_read(Trace* traces, size_t offset, size_t bytes) {
    Block& b = block();
    uint16_t me = self().number, warp = me / WARP;
    for (size_t i = offset / GRAIN; i < (offset + bytes + GRAIN - 1) / GRAIN; i++) {
        Trace& trace = traces[i];
        if (trace.awaited) fail("shared memory is read that a copy under way has yet to fill (byte %zu)", i * GRAIN);
        if (!trace.written) fail("shared memory is read that nobody wrote (byte %zu)", i * GRAIN);
        after_write(trace);
        if (trace.read_block != b.synced) {
            trace.reader = me;
        } else if (trace.reader != me) {
            bool same = trace.reader & LANES_OF_WARP ? (trace.reader & 0xfff) == warp
                                                     : !(trace.reader & SEVERAL_WARPS) && trace.reader / WARP == warp;
            trace.reader = same ? (LANES_OF_WARP | warp) : SEVERAL_WARPS;
        }
        trace.read_block = b.synced;
        trace.read_warp = b.warps[warp].synced;
    }
}

inline void note_write(Trace* traces, size_t offset, size_t bytes) {
    Block& b = block();
    uint16_t me = self().number;
    for (size_t i = offset / GRAIN; i < (offset + bytes + GRAIN - 1) / GRAIN; i++) {
        Trace& trace = traces[i];
        if (trace.awaited) fail("shared memory is written that a copy is under way to (byte %zu)", i * GRAIN);
        after_write(trace);
        if (trace.read_block == b.synced && trace.reader != me) {
            unsigned warp = trace.reader & LANES_OF_WARP ? trace.reader & 0xfff : trace.reader / WARP;
            if (trace.reader & SEVERAL_WARPS || !in_order(warp, trace.read_block, trace.read_warp))
                fail("a race: other threads read this shared memory, with no barrier since");
        }
        trace.written = true;
        trace.writer = me;
        trace.write_block = b.synced;
        trace.write_warp = b.warps[me / WARP].synced;
    }
}

// An array in shared memory: each access is checked.
template <class T> struct Shared {
    static_assert(sizeof(T) % GRAIN == 0, "races are told apart two bytes at a time");
    T* values;
    Trace* traces;
    size_t count;

    struct Element {
        const Shared& in;
        size_t i;
        operator T() const { return in.read(i); }
        const Element& operator=(T value) const { return in.write(i, value), *this; }
        const Element& operator=(const Element& other) const { return *this = (T)other; }
        const Element& operator+=(T value) const { return *this = (T)*this + value; }
    };
    Element operator[](size_t i) const { return Element{*this, i}; }

    void bound(size_t i, size_t length) const {
        if (i > count || length > count - i)
            fail("shared memory is touched outside of its bounds: element %zu of %zu", i + length - 1, count);
    }
    T read(size_t i) const {
        bound(i, 1);
        note_read(traces, i * sizeof(T), sizeof(T));
        return values[i];
    }
    void write(size_t i, T value) const {
        bound(i, 1);
        note_write(traces, i * sizeof(T), sizeof(T));
        values[i] = value;
    }
    // `bytes` bytes from element i on, which must begin at a multiple of as many.
    T* vector(size_t i, size_t bytes) const {
        bound(i, bytes / sizeof(T));
        if ((uintptr_t)(values + i) % bytes) fail("a vector of %zu bytes of shared memory is misaligned", bytes);
        return values + i;
    }
};

// Where shared memory begins in what was allocated for it: at a multiple of 128 bytes, as on a device.
constexpr size_t ALIGNED = 128;
inline unsigned char* aligned(std::vector<unsigned char>& bytes) {
    return (unsigned char*)(((uintptr_t)bytes.data() + ALIGNED - 1) & ~(uintptr_t)(ALIGNED - 1));
}

// Filled with ones, which are no number in any type: what nobody wrote is seen even where reads are not checked.
constexpr unsigned char POISON = 0xff;

template <class T> Shared<T> fixed(const void* key, size_t count) {
    auto& array = block().arrays[key];
    if (array.bytes.empty()) {
        array.bytes.assign(count * sizeof(T) + ALIGNED, POISON);
        array.traces.resize((count * sizeof(T) + GRAIN - 1) / GRAIN);
    }
    return {(T*)aligned(array.bytes), array.traces.data(), count};
}

template <class T> Shared<T> dynamic(size_t offset, size_t count) {
    Block& b = block();
    if (offset + count * sizeof(T) > b.dynamic_traces.size() * GRAIN)
        fail("%zu bytes of dynamic shared memory are used, the launch gives %zu", offset + count * sizeof(T),
             b.dynamic_traces.size() * GRAIN);
    return {(T*)(aligned(b.dynamic) + offset), b.dynamic_traces.data() + offset / GRAIN, count};
}

// ---- copies into shared memory that go on behind ----

// A copy that begins is a write in what it may race with, and leaves nothing to read until it lands.
inline void begin_copy(void* to, Trace* traces, const void* from, size_t bytes) {
    note_write(traces, 0, bytes);
    for (size_t i = 0; i < bytes / GRAIN; i++) {
        traces[i].written = false;
        traces[i].awaited = true;
    }
    memset(to, POISON, bytes);
    Fiber& me = self();
    me.copies.push_back({(unsigned char*)to, traces, from, bytes, me.copy_groups});
}

// Lands the copies of all groups that the thread has committed but the latest `left`.
inline void land_copies(unsigned left) {
    Fiber& me = self();
    size_t landed = 0;
    while (landed < me.copies.size() && me.copies[landed].group + left < me.copy_groups) {
        const Copy& copy = me.copies[landed++];
        for (size_t i = 0; i < copy.bytes / GRAIN; i++) copy.traces[i].awaited = false;
        note_write(copy.traces, 0, copy.bytes);
        if (copy.from)
            memcpy(copy.to, copy.from, copy.bytes);
        else
            memset(copy.to, 0, copy.bytes);
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + landed);
}

// ---- blocks that share a result ----

inline void note_published(const void* place) {
    Block& b = block();
    if (b.arrived_at_all) fail("something is published by a block that has arrived");
    b.published.insert(place);
    self().published = true;
    self().published_at = b.synced;
}

inline void note_arrival(bool last) {
    Block& b = block();
    if (b.arrived_at_all) fail("a block arrives twice");
    for (const Fiber& other : b.fibers)
        if (other.published && other.number != self().number && other.published_at >= b.synced)
            fail("a block arrives with no barrier since thread number %u published", other.number);
    b.arrived_at_all = true;
    b.arrived_last = last;
    b.arrived_by = self().number;
    b.arrived_at = b.synced;
}

inline void note_published_read(const void* place) {
    Block& b = block();
    if (!b.arrived_last) fail("what was published is read by a block that is not the last to arrive");
    if (self().number != b.arrived_by && b.arrived_at >= b.synced)
        fail("what was published is read with no barrier since the block's arrival");
    if (!b.published.count(place)) fail("what nobody published is read");
}

// ---- launches ----

struct Kernel {
    const char* name;
    unsigned threads_max;
    std::vector<size_t> sizes;
    std::function<std::function<void()>(void**)> bind;
    Kernel* next;

    template <class... P>
    Kernel(const char* name, unsigned threads_max, void (*kernel)(P...))
        : name(name), threads_max(threads_max), sizes{sizeof(P)...}, next(first()) {
        bind = [kernel](void** arguments) { return bound(kernel, arguments, std::index_sequence_for<P...>()); };
        first() = this;
    }
    template <class... P, size_t... I>
    static std::function<void()> bound(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
        return [=] { kernel(*(P*)arguments[I]...); };
    }
    static Kernel*& first() {
        static Kernel* first = nullptr;
        return first;
    }
};

inline std::string describe(const Block& b) {
    unsigned ended = 0, at_barrier = 0, at_warp = 0, line = 0;
    for (const Fiber& fiber : b.fibers) {
        ended += fiber.state == State::Ended;
        at_warp += fiber.state == State::AtWarp;
        if (fiber.state == State::AtBarrier) at_barrier++, line = fiber.place;
    }
    char text[256];
    snprintf(text, sizeof text,
             "not all threads reach the same point: %u wait at the barrier in line %u, %u at an operation of their warp, "
             "%u have ended (block %u,%u,%u)",
             at_barrier, line, at_warp, ended, b.index.x, b.index.y, b.index.z);
    return text;
}

// The order in which threads run: 0 ascending, 1 descending, any other number the seed of a shuffle.
inline std::vector<unsigned> order_of(unsigned count, unsigned order) {
    std::vector<unsigned> threads(count);
    for (unsigned i = 0; i < count; i++) threads[i] = order == 1 ? count - 1 - i : i;
    uint64_t state = order;
    for (unsigned i = count; order > 1 && i > 1; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(threads[i - 1], threads[(state >> 33) % i]);
    }
    return threads;
}

inline bool run_block(Block& b, size_t dynamic_bytes, const std::vector<unsigned>& order) {
    b.arrays.clear();
    b.dynamic.assign(dynamic_bytes + ALIGNED, POISON);
    b.dynamic_traces.assign((dynamic_bytes + GRAIN - 1) / GRAIN, Trace());
    b.arrived = b.synced = 0;
    b.arrived_at_all = b.arrived_last = false;
    for (Warp& warp : b.warps) warp.arrived = warp.synced = 0;
    for (unsigned i = 0; i < b.fibers.size(); i++) {
        Fiber& fiber = b.fibers[i];
        if (!fiber.stack) fiber.stack.reset(new char[STACK]);
        fiber.index = {i % b.size.x, i / b.size.x % b.size.y, i / b.size.x / b.size.y};
        fiber.number = i;
        fiber.state = State::Ready;
        fiber.operations = 0;
        fiber.published = false;
        fiber.copies.clear();
        fiber.copy_groups = 0;
        fiber.context.prepare(fiber.stack.get(), enter);
    }
    for (;;) {
        bool moved = false, ended = true;
        for (unsigned i : order) {
            Fiber& fiber = b.fibers[i];
            if (fiber.state == State::Ready) {
                b.running = &fiber;
                b.scheduler.leave_for(fiber.context);
                if (!b.failure.empty()) return false;
                moved = true;
            }
            ended &= fiber.state == State::Ended;
        }
        if (ended) return true;
        if (!moved) return b.failure = describe(b), false;
    }
}

inline std::string launch(const char* name, dim3 grid, dim3 size, size_t dynamic_bytes, void** arguments,
                          const size_t* sizes, size_t count, unsigned order) {
    const Kernel* kernel = Kernel::first();
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    if (!kernel) return std::string("there is no kernel ") + name;
    if (kernel->sizes != std::vector<size_t>(sizes, sizes + count))
        return std::string("the arguments are not of the sizes that the parameters have of ") + name;
    unsigned threads = size.x * size.y * size.z;
    if (!threads || threads % WARP || threads > kernel->threads_max)
        return std::string("a block must be of whole warps and within the launch bounds of ") + name;
    Block& b = block();
    b.size = size;
    b.grid = grid;
    if (b.fibers.size() != threads) {
        b.fibers.clear();
        b.fibers.resize(threads);
        b.warps.resize(threads / WARP);
    }
    b.body = kernel->bind(arguments);
    b.failure.clear();
    b.published.clear();
    std::vector<unsigned> threads_in_order = order_of(threads, order);
    for (unsigned i : order_of(grid.x * grid.y * grid.z, order)) {
        b.index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        if (!run_block(b, dynamic_bytes, threads_in_order)) {
            b.fibers.clear(); // their stacks are in the middle of something
            return b.failure;
        }
    }
    return "";
}

} // namespace emulator

// ---- the language of kernels ----

#define threadIdx (emulator::self().index)
#define blockIdx (emulator::block().index)
#define blockDim (emulator::block().size)
#define gridDim (emulator::block().grid)

#define __syncthreads() emulator::barrier(__LINE__)

inline void whole_warp(unsigned mask) {
    if (mask != ~0u) emulator::fail("a warp operation names some lanes only; kernels here use whole warps");
}

inline void __syncwarp(unsigned mask = ~0u) {
    whole_warp(mask);
    emulator::meet(emulator::SYNC, nullptr, 0);
    // The lane that runs on first counts for all.
    auto& me = emulator::self();
    auto& warp = emulator::block().warps[me.number / emulator::WARP];
    warp.synced = me.operations > warp.synced ? me.operations : warp.synced;
}

template <class T> T shuffled(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 8);
    whole_warp(mask);
    auto* given = emulator::meet(emulator::SHUFFLE, &value, sizeof value);
    memcpy(&value, given[from % emulator::WARP], sizeof value);
    return value;
}
inline unsigned lane_of_self() { return emulator::self().number % emulator::WARP; }
template <class T> T __shfl_sync(unsigned mask, T value, int lane) { return shuffled(mask, value, lane); }
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return shuffled(mask, value, lane_of_self() ^ bits);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = lane_of_self();
    return shuffled(mask, value, lane >= by ? lane - by : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = lane_of_self();
    return shuffled(mask, value, lane + by < emulator::WARP ? lane + by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    whole_warp(mask);
    unsigned char yes = vote != 0;
    auto* given = emulator::meet(emulator::VOTE, &yes, 1);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < emulator::WARP; lane++) votes |= (unsigned)given[lane][0] << lane;
    return votes;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == ~0u; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Only one fiber runs at a time, so each of these is whole by itself.
template <class T> T atomicAdd(T* place, T value) {
    T before = *place;
    *place = before + value;
    return before;
}
template <class T> T atomicMax(T* place, T value) {
    T before = *place;
    *place = before > value ? before : value;
    return before;
}

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }

extern "C" inline __attribute__((used, visibility("default"))) int
emulator_launch(const char* name, const unsigned* grid, const unsigned* size, size_t dynamic_bytes, void** arguments,
                const size_t* sizes, size_t count, unsigned order, char* message, size_t room) {
    std::string failure = emulator::launch(name, {grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]},
                                           dynamic_bytes, arguments, sizes, count, order);
    snprintf(message, room, "%s", failure.c_str());
    return failure.empty() ? 0 : 1;
}
