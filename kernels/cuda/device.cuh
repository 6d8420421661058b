// What a kernel is written with, beside plain C++: types of two bytes, vector loads, tensor cores, sums over a warp.
//
// All inline PTX of the project is here, a helper an instruction, each beside the twin that the emulator runs. No header of
// the toolkit is read, so that a program can compile its kernels on a machine that has only a driver and NVRTC.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef KERNELS_EMULATED
#include "emulator.h"

// A kernel that blocks of up to `threads` threads run, `blocks` of them at once on a multiprocessor, which says how many
// registers a thread may have: KERNEL(name, threads, blocks, parameters...) { body }
#define KERNEL(name, threads, blocks, ...)                       \
    static void name(__VA_ARGS__);                               \
    static emulator::Kernel name##_kernel(#name, threads, name); \
    static void name(__VA_ARGS__)
// An array of `count` elements in shared memory.
#define SHARED(T, name, count)          \
    static const char name##_place = 0; \
    Shared<T> name = emulator::fixed<T>(&name##_place, count)
// `count` elements of the shared memory that the launch asks for, from byte `offset` on.
#define DYNAMIC_SHARED(T, name, offset, count) Shared<T> name = emulator::dynamic<T>(offset, count)
using emulator::Shared;

#else

#define KERNEL(name, threads, blocks, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
extern __shared__ __align__(128) u8 dynamic_shared[];
#define DYNAMIC_SHARED(T, name, offset, count) Shared<T> name = (T*)(dynamic_shared + (offset))
template <class T> using Shared = T*;
#define INFINITY __int_as_float(0x7f800000)

#endif

constexpr u32 LANES = 32;
constexpr u32 ALL = ~0u;

// ---- numbers of two bytes ----

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

#ifdef KERNELS_EMULATED
inline float to_float(f16 x) {
    _Float16 value;
    memcpy(&value, &x, 2);
    return (float)value;
}
inline float to_float(bf16 x) {
    u32 bits = (u32)x.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline void from_float(float x, f16& to) {
    _Float16 value = (_Float16)x;
    memcpy(&to, &value, 2);
}
inline void from_float(float x, bf16& to) {
    u32 bits;
    memcpy(&bits, &x, 4);
    // To the nearest, a tie to the even one; what is no number stays none.
    to.bits = x != x ? 0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#else
__device__ __forceinline__ float to_float(f16 x) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
}
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ void from_float(float x, f16& to) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
}
__device__ __forceinline__ void from_float(float x, bf16& to) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
}
#endif
__device__ __forceinline__ void from_float(float x, float& to) { to = x; }

template <class T> __device__ __forceinline__ T to(float x) {
    T value;
    from_float(x, value);
    return value;
}

// 2^x within two of the last place, and 0 for what is below the normal numbers.
#ifdef KERNELS_EMULATED
inline float fast_exp2(float x) { return x < -126 ? 0.0f : exp2f(x); }
#else
__device__ __forceinline__ float fast_exp2(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
#endif

// ---- sixteen bytes ----

// What one load instruction brings: four floats or eight numbers of two bytes.
struct __attribute__((aligned(16))) Pack {
    u32 words[4];
};

#ifdef KERNELS_EMULATED
inline void check_vector(const void* place, size_t bytes) {
    if ((uintptr_t)place % bytes) emulator::fail("a vector of %zu bytes of global memory is misaligned", bytes);
}
inline Pack load16(const void* place) {
    check_vector(place, 16);
    Pack pack;
    memcpy(&pack, place, 16);
    return pack;
}
inline Pack load16_once(const void* place) { return load16(place); }
inline Pack load16_ahead(const void* place) { return load16(place); }
inline void store16(void* place, Pack pack) {
    check_vector(place, 16);
    memcpy(place, &pack, 16);
}
template <class T> Pack shared_load16(Shared<T> from, u32 i) {
    T* place = from.vector(i, 16);
    emulator::note_read(from.traces, i * sizeof(T), 16);
    return load16(place);
}
template <class T> void shared_store16(Shared<T> to, u32 i, Pack pack) {
    T* place = to.vector(i, 16);
    emulator::note_write(to.traces, i * sizeof(T), 16);
    store16(place, pack);
}
inline float as_float(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline u32 as_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
#else
// From memory that nobody writes while the kernel runs.
__device__ __forceinline__ Pack load16(const void* place) {
    Pack pack;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
        : "l"(place));
    return pack;
}
// The same for what is read once in a launch, such as weights: it takes no room from what is read again.
__device__ __forceinline__ Pack load16_once(const void* place) {
    Pack pack;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
        : "l"(place));
    return pack;
}
// The same, and under way before whatever stands behind the next __syncwarp(): compilers put loads off until registers are free,
// but not past a barrier, which these do not cross as loads of what nobody writes would.
__device__ __forceinline__ Pack load16_ahead(const void* place) {
    Pack pack;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
                 : "l"(place)
                 : "memory");
    return pack;
}
__device__ __forceinline__ void store16(void* place, Pack pack) { *(Pack*)place = pack; }
template <class T> __device__ __forceinline__ Pack shared_load16(T* from, u32 i) { return *(const Pack*)(from + i); }
template <class T> __device__ __forceinline__ void shared_store16(T* to, u32 i, Pack pack) { *(Pack*)(to + i) = pack; }
__device__ __forceinline__ float as_float(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ u32 as_bits(float value) { return __float_as_uint(value); }
#endif

// Four floats from a pack, and back.
__device__ __forceinline__ void unpack(Pack pack, float (&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] = as_float(pack.words[i]);
}
__device__ __forceinline__ Pack pack_of(const float (&values)[4]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < 4; i++) pack.words[i] = as_bits(values[i]);
    return pack;
}
// Eight numbers of two bytes from a pack.
template <class T> __device__ __forceinline__ void unpack(Pack pack, float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = to_float(T{(u16)(pack.words[i / 2] >> (16 * (i % 2)))});
}
// Two numbers of two bytes in a word, the first in its low half.
template <class T> __device__ __forceinline__ u32 pair_of(float low, float high) {
    return (u32)to<T>(low).bits | (u32)to<T>(high).bits << 16;
}
// Two words in one store of eight bytes.
__device__ __forceinline__ void store8(void* place, u32 first, u32 second) {
#ifdef KERNELS_EMULATED
    check_vector(place, 8);
#endif
    struct __attribute__((aligned(8))) Two {
        u32 words[2];
    };
    *(Two*)place = Two{{first, second}};
}
// Four numbers of two bytes in one.
template <class T> __device__ __forceinline__ void store8(T* place, const float (&values)[4]) {
    store8(place, pair_of<T>(values[0], values[1]), pair_of<T>(values[2], values[3]));
}

// ---- copies into shared memory that go on behind ----
//
// A thread begins copies, commits those begun since it last did as a group, and waits until all but its latest groups have
// landed. Then it may read what it copied; others may behind a barrier. Until then what was there is gone and nothing is there yet.

#ifdef KERNELS_EMULATED
template <class T> void copy16_later(Shared<T> to, u32 i, const void* from, bool inside) {
    if (inside) check_vector(from, 16);
    emulator::begin_copy(to.vector(i, 16), to.traces + i * sizeof(T) / emulator::GRAIN, inside ? from : nullptr, 16);
}
inline void commit_copies() { emulator::self().copy_groups++; }
template <u32 LEFT> void wait_for_copies() { emulator::land_copies(LEFT); }
#else
__device__ __forceinline__ u32 shared_address(const void* place) { return (u32)__cvta_generic_to_shared(place); }
// Sixteen bytes to element i on, or zeros where they are not inside of what there is to copy; the address is one of the device's
// all the same. They pass the L1 cache by; the line that they are in is brought to the L2
// cache whole, since what stands behind them is wanted next.
template <class T> __device__ __forceinline__ void copy16_later(T* to, u32 i, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to + i)), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
// All but the latest LEFT groups.
template <u32 LEFT> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory");
}
#endif

// ---- numbers of one byte ----

// A sign, four bits of exponent and three of fraction, for caches: up to 448, no infinities, 0x7f is no number.
struct e4m3 {
    u8 bits;
};
constexpr float E4M3_MAX = 448.0f;

// The nearest, a tie to the even one; the greatest for all beyond it.
__device__ __forceinline__ void from_float(float x, e4m3& to) {
    const u32 bits = as_bits(x), size = bits & 0x7fffffff;
    u32 code = 0x7f;
    if (size <= 0x7f800000) {
        const float value = fminf(as_float(size), E4M3_MAX);
        const u32 exact = as_bits(value);
        // Below the least normal number, 2^-6, steps are 2^-9, as those of f32 are from 2^14 on.
        code = value < 0.015625f ? as_bits(value + 16384.0f) - as_bits(16384.0f)
                                 : ((exact + 0x7ffff + (exact >> 20 & 1)) >> 20) - ((127 - 7) << 3);
    }
    to.bits = (u8)((bits >> 24 & 0x80) | code);
}

// The two in the low half of a word as two of f16, exactly: the first in the low half.
#ifdef KERNELS_EMULATED
inline u32 times_256(u32 pair) {
    return pair_of<f16>(256 * to_float(f16{(u16)pair}), 256 * to_float(f16{(u16)(pair >> 16)}));
}
#else
__device__ __forceinline__ u32 times_256(u32 pair) {
    u32 product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(pair), "r"(0x5c005c00u));
    return product;
}
#endif
// For devices that have no instruction for it. Exponent and fraction stand side by side in both types; f16 counts exponents
// from 15 and e4m3 from 7, which is a factor of 256, for the numbers below the normal ones too. What is no number becomes 480.
__device__ __forceinline__ u32 widen_pair_by_shifts(u32 codes) {
    const u32 apart = (codes & 0xff) | (codes & 0xff00) << 8;
    return times_256((apart << 8 & 0x80008000) | (apart << 7 & 0x3f803f80));
}
#ifdef KERNELS_EMULATED
inline u32 widen_pair(u32 codes) {
    auto value = [](u32 code) {
        const int exponent = (int)(code >> 3 & 15), fraction = (int)(code & 7);
        if ((code & 0x7f) == 0x7f) return NAN;
        const float size = exponent ? ldexpf(8 + fraction, exponent - 10) : ldexpf(fraction, -9);
        return code & 0x80 ? -size : size;
    };
    return pair_of<f16>(value(codes & 0xff), value(codes >> 8 & 0xff));
}
#elif __CUDA_ARCH__ >= 890
__device__ __forceinline__ u32 widen_pair(u32 codes) {
    u32 pair;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((u16)codes));
    return pair;
}
#else
__device__ __forceinline__ u32 widen_pair(u32 codes) { return widen_pair_by_shifts(codes); }
#endif

// ---- tensor cores ----

// sums (16, 8) += a (16, 16) · b (16, 8) by all lanes of a warp; f32 sums of f16 or bf16 products.
// With g = lane / 4 and c = lane % 4 a lane holds, of a: words 0..3 = rows g, g+8, g, g+8 at columns 2c, 2c, 2c+8, 2c+8 and the
// one behind; of b: words 0, 1 = rows 2c, 2c+8 and the one behind, of column g; of sums: rows g, g, g+8, g+8 of columns 2c, 2c+1.
// (PTX ISA, "Matrix Fragments for mma.m16n8k16".)
#ifdef KERNELS_EMULATED
template <class T> void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    u32 given[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto* lanes = emulator::meet(emulator::MMA, given, sizeof given);
    auto value = [&](u32 lane, u32 word, u32 half) {
        u32 pair;
        memcpy(&pair, lanes[lane] + 4 * word, 4);
        return to_float(T{(u16)(pair >> (16 * half))});
    };
    u32 me = emulator::self().number % LANES;
    for (u32 i = 0; i < 4; i++) {
        u32 row = me / 4 + 8 * (i / 2), column = me % 4 * 2 + i % 2;
        float sum = 0;
        for (u32 k = 0; k < 16; k++) {
            u32 holder = k % 8 / 2;
            sum += value(row % 8 * 4 + holder, row / 8 + 2 * (k / 8), k % 2) *
                   value(column * 4 + holder, 4 + k / 8, k % 2);
        }
        sums[i] += sum;
    }
}
#else
template <class T> __device__ __forceinline__ void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> __device__ __forceinline__ void mma<f16>(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> __device__ __forceinline__ void mma<bf16>(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Four matrices of 8 rows of 8 numbers of two bytes, taken from shared memory as tensor cores want them, by all lanes of a warp: lane
// i names where row i % 8 of matrix i / 8 begins. Word m of a lane becomes of matrix m the numbers 2 (lane % 4) and the one
// behind in row lane / 4; transposed, of those two rows the number lane / 4. (PTX ISA, "ldmatrix".) Taken so from rows of b's
// columns, or transposed from rows of b, two words are an mma's b.
#ifdef KERNELS_EMULATED
// What lanes name, and who reads what: the lane that a number comes to.
struct MatrixRow {
    const void* numbers;
    emulator::Trace* traces;

    u32 read(u32 column) const {
        emulator::note_read(traces, 2 * column, 2);
        u16 number;
        memcpy(&number, (const u16*)numbers + column, 2);
        return number;
    }
};
template <class T> Pack take_matrices(Shared<T> from, u32 i, bool transposed) {
    static_assert(sizeof(T) == 2);
    const MatrixRow named = {from.vector(i, 16), from.traces + i};
    auto* lanes = emulator::meet(emulator::MATRICES, &named, sizeof named);
    const u32 lane = lane_of_self(), across = lane % 4 * 2, down = lane / 4;
    Pack pack = Pack();
    for (u32 m = 0; m < 4; m++)
        for (u32 half = 0; half < 2; half++) {
            MatrixRow row;
            memcpy(&row, lanes[8 * m + (transposed ? across + half : down)], sizeof row);
            pack.words[m] |= row.read(transposed ? down : across + half) << (16 * half);
        }
    return pack;
}
template <class T> Pack load_matrices(Shared<T> from, u32 i) { return take_matrices<T>(from, i, false); }
template <class T> Pack load_matrices_transposed(Shared<T> from, u32 i) { return take_matrices<T>(from, i, true); }
#else
// Volatile, as what stands there is another thing behind each barrier.
template <class T> __device__ __forceinline__ Pack load_matrices(const T* from, u32 i) {
    Pack pack;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
                 : "r"(shared_address(from + i))
                 : "memory");
    return pack;
}
template <class T> __device__ __forceinline__ Pack load_matrices_transposed(const T* from, u32 i) {
    Pack pack;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
                 : "r"(shared_address(from + i))
                 : "memory");
    return pack;
}
#endif

// ---- sums over a warp: every lane gets the result ----

template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2) x += __shfl_xor_sync(ALL, x, bits);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, bits));
    return x;
}

// ---- blocks that share a result ----
//
// Each block of a result publishes its part of it, passes a barrier, and arrives by one of its threads, once. The block that
// arrives last, and no other, may read what all have published, behind one more barrier.

#ifdef KERNELS_EMULATED
inline void publish16(void* place, Pack pack) {
    emulator::note_published(place);
    store16(place, pack);
}
inline Pack published16(const void* place) {
    emulator::note_published_read(place);
    return load16(place);
}
inline bool arrive_last(u32* arrivals, u32 blocks) {
    const bool last = *arrivals == blocks - 1;
    *arrivals = *arrivals >= blocks - 1 ? 0 : *arrivals + 1;
    emulator::note_arrival(last);
    return last;
}
#else
__device__ __forceinline__ void publish16(void* place, Pack pack) { store16(place, pack); }
// From the L2 cache: the L1 cache of a multiprocessor does not see what others write.
__device__ __forceinline__ Pack published16(const void* place) {
    Pack pack;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pack.words[0]), "=r"(pack.words[1]), "=r"(pack.words[2]), "=r"(pack.words[3])
                 : "l"(place)
                 : "memory");
    return pack;
}
// Whether this block is the last of `blocks` to arrive. What was published before is visible to who finds itself the last;
// `arrivals` is zero before the first and, by the instruction itself, behind the last.
__device__ __forceinline__ bool arrive_last(u32* arrivals, u32 blocks) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(arrivals), "r"(blocks - 1)
                 : "memory");
    return before == blocks - 1;
}
#endif
