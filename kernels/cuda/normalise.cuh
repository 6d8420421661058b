// Layer normalisation of one row by one warp; the row never leaves the registers.
#pragma once
#include "device.cuh"

constexpr float EPSILON = 1e-5f;

// Values that a lane loads at once: a warp's load of a row is 512 bytes in a piece.
constexpr u32 STEP = 4 * LANES;

// Takes a row x (width), adds delta (width) where there is one and leaves the sum in x, and calls store(i, values) for each
// four normalised values from i on. `CHUNKS * 128 >= width`, width is a multiple of 4. The variance is that of the differences
// from the mean, in a second pass over the registers: the difference of two large sums would lose it.
template <u32 CHUNKS, class D, class Store>
__device__ __forceinline__ void normalise_row(float* x, const D* delta, const float* gamma, const float* beta, u32 width,
                                              Store store) {
    const u32 lane = threadIdx.x % LANES;
    float row[CHUNKS][4];
    float sum = 0;
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
        const u32 i = chunk * STEP + lane * 4;
        if (i < width) {
            // Not through the read-only path: this kernel writes x.
            unpack(*(const Pack*)(x + i), row[chunk]);
            if (delta) {
#pragma unroll
                for (int j = 0; j < 4; j++) row[chunk][j] += to_float(delta[i + j]);
                store16(x + i, pack_of(row[chunk]));
            }
#pragma unroll
            for (int j = 0; j < 4; j++) sum += row[chunk][j];
        }
    }
    const float mean = warp_sum(sum) / width;
    float squares = 0;
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; chunk++)
        if (chunk * STEP + lane * 4 < width)
#pragma unroll
            for (int j = 0; j < 4; j++) squares += (row[chunk][j] - mean) * (row[chunk][j] - mean);
    const float scale = rsqrtf(warp_sum(squares) / width + EPSILON);
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
        const u32 i = chunk * STEP + lane * 4;
        if (i < width) {
            float g[4], b[4];
            unpack(load16(gamma + i), g);
            unpack(load16(beta + i), b);
#pragma unroll
            for (int j = 0; j < 4; j++) row[chunk][j] = (row[chunk][j] - mean) * scale * g[j] + b[j];
            store(i, row[chunk]);
        }
    }
}
