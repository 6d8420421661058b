// See mod.rs for the contract.
#include "device.cuh"

// Eight lanes take a row of a head, 16 bytes each. Filling: a group of eight takes two positions, whose values it weaves; a block
// takes 64, so that a window of 1500 is 24 blocks a head. Scales: a block takes all positions of a head, 24 or 40 blocks and
// 192 KB each, AHEAD loads under way in every thread; fewer, larger pieces would need a pass of their own to meet, which costs
// more than the idle multiprocessors do, and what was read is in the L2 cache when it is read again.
constexpr u32 WIDTH = 64;
constexpr u32 THREADS = 256;
constexpr u32 GROUP = WIDTH / 8;
constexpr u32 GROUPS = THREADS / GROUP;
constexpr u32 AHEAD = 4;

__device__ __forceinline__ u32 low_halves(u32 first, u32 second) { return (first & 0xffff) | second << 16; }
__device__ __forceinline__ u32 high_halves(u32 first, u32 second) { return first >> 16 | (second & 0xffff0000); }

// Eight values of two positions, woven: (8, 2)
template <class T> __device__ __forceinline__ void store_woven(T* place, Pack first, Pack second) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        Pack woven;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            woven.words[2 * i] = low_halves(first.words[2 * half + i], second.words[2 * half + i]);
            woven.words[2 * i + 1] = high_halves(first.words[2 * half + i], second.words[2 * half + i]);
        }
        store16(place + 8 * half, woven);
    }
}

__device__ __forceinline__ u32 four_codes(const float (&values)[8], u32 first, float scale) {
    u32 codes = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) codes |= (u32)to<e4m3>(values[first + i] / scale).bits << 8 * i;
    return codes;
}

// keys (heads, room, 64) and values (heads, room / 2, 64, 2) of a slot = those of kv (positions, 2 heads * 64), each divided by
// its head's of scales (heads, 2) where they become bytes.
template <class T, class C>
__device__ __forceinline__ void fill(const T* kv, const float* scales, C* keys, C* values, u32 positions, u32 room) {
    const u32 head = blockIdx.y, heads = gridDim.y, part = threadIdx.x % GROUP;
    const u32 first = (blockIdx.x * GROUPS + threadIdx.x / GROUP) * 2;
    if (first >= positions) return;
    const bool both = first + 1 < positions;
    const u64 stride = 2 * heads * WIDTH;
    const T* place = kv + first * stride + head * WIDTH + part * 8;
    const Pack key[2] = {load16(place), both ? load16(place + stride) : Pack()};
    const Pack value[2] = {load16(place + heads * WIDTH), both ? load16(place + stride + heads * WIDTH) : Pack()};
    const u64 row = (u64)head * room + first;
    C* key_place = keys + row * WIDTH + part * 8;
    C* value_place = values + row * WIDTH + part * 16;
    if constexpr (sizeof(C) == 2) {
        store16(key_place, key[0]);
        if (both) store16(key_place + WIDTH, key[1]);
        store_woven(value_place, value[0], value[1]);
    } else {
        const float key_scale = scales[head * 2], value_scale = scales[head * 2 + 1];
        float numbers[8];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            if (i == 1 && !both) break;
            unpack<T>(key[i], numbers);
            store8(key_place + i * WIDTH, four_codes(numbers, 0, key_scale), four_codes(numbers, 4, key_scale));
        }
        float others[8];
        unpack<T>(value[0], numbers);
        unpack<T>(value[1], others);
        Pack woven;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            woven.words[i] = 0;
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                const u32 dimension = 2 * i + j;
                woven.words[i] |= (u32)to<e4m3>(numbers[dimension] / value_scale).bits << 16 * j;
                woven.words[i] |= (u32)to<e4m3>(others[dimension] / value_scale).bits << (16 * j + 8);
            }
        }
        store16(value_place, woven);
    }
}

// scales (heads, 2) = what the keys (or, for blocks of the second row, the values) of kv (positions, 2 heads * 64) are divided by
// to become e4m3.
template <class T> __device__ __forceinline__ void find_scales(const T* kv, float* scales, u32 positions) {
    const u32 head = blockIdx.x, heads = gridDim.x, which = blockIdx.y;
    const u32 group = threadIdx.x / GROUP, part = threadIdx.x % GROUP;
    const u64 stride = 2 * heads * WIDTH;
    const T* place = kv + (which * heads + head) * WIDTH + part * 8;
    // Magnitudes are compared as whole numbers: their order is the same, and what is no number is above all.
    u32 greatest = 0;
    for (u32 start = group; start < positions; start += GROUPS * AHEAD) {
        Pack packs[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 at = start + i * GROUPS;
            packs[i] = at < positions ? load16(place + at * stride) : Pack();
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            float numbers[8];
            unpack<T>(packs[i], numbers);
#pragma unroll
            for (u32 j = 0; j < 8; j++) greatest = max(greatest, as_bits(numbers[j]) & 0x7fffffff);
        }
    }
#pragma unroll
    for (int bits = 16; bits; bits /= 2) greatest = max(greatest, __shfl_xor_sync(ALL, greatest, bits));
    SHARED(u32, of_warps, THREADS / LANES);
    if (threadIdx.x % LANES == 0) of_warps[threadIdx.x / LANES] = greatest;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < THREADS / LANES; i++) greatest = max(greatest, of_warps[i]);
        const float magnitude = as_float(greatest);
        // Where all are so small that they become zeros, a scale of about zero would make them no numbers instead.
        scales[head * 2 + which] = magnitude < 1e-30f ? 1.0f : magnitude / E4M3_MAX;
    }
}

#define FILL(name, T, C)                                                                                             \
    KERNEL(name, THREADS, 4, const T* kv, const float* scales, C* keys, C* values, u32 positions, u32 room) {          \
        fill<T, C>(kv, scales, keys, values, positions, room);                                                       \
    }

FILL(cross_cache_fill_f16, f16, f16)
FILL(cross_cache_fill_bf16, bf16, bf16)
FILL(cross_cache_fill_f16_e4m3, f16, e4m3)
FILL(cross_cache_fill_bf16_e4m3, bf16, e4m3)

KERNEL(cross_cache_scales_f16, THREADS, 4, const f16* kv, float* scales, u32 positions) {
    find_scales<f16>(kv, scales, positions);
}
KERNEL(cross_cache_scales_bf16, THREADS, 4, const bf16* kv, float* scales, u32 positions) {
    find_scales<bf16>(kv, scales, positions);
}
