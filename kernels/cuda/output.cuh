// What becomes of the sums of a product.
#pragma once
#include "device.cuh"

// As Output in product.rs.
constexpr u32 STORE = 0, GELU = 1, ADD = 2, STORE_FLOAT = 3;

// x Φ(x), by the error function and not by its likeness of hyperbolic tangents.
__device__ __forceinline__ float gelu(float x) { return x * (0.5f * (1.0f + erff(x * 0.70710678f))); }

// Eight sums of neighbouring columns to place `place` of y, at a multiple of 16 bytes.
template <class T> __device__ __forceinline__ void store_sums(T* y, u64 place, const float (&sums)[8]) {
    Pack pack;
#pragma unroll
    for (u32 i = 0; i < 4; i++) pack.words[i] = pair_of<T>(sums[2 * i], sums[2 * i + 1]);
    store16(y + place, pack);
}
template <> __device__ __forceinline__ void store_sums<float>(float* y, u64 place, const float (&sums)[8]) {
#pragma unroll
    for (u32 half = 0; half < 8; half += 4)
        store16(y + place + half, pack_of({sums[half], sums[half + 1], sums[half + 2], sums[half + 3]}));
}
