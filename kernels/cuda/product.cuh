// A square of a product of many rows, on tensor cores, for whoever says where the rows stand and what becomes of the sums.
#pragma once
#include "device.cuh"

// A block makes TILE rows by TILE columns, its 4 warps a quarter each, 32 of the depth at a time.
//
// TILE is 128 where there is enough to do: a warp's 64 by 64 takes 16 loads of four matrices from shared memory for 64 products
// of tensor cores, so that these are the limit and not the loads, and its 128 sums and fragments leave room for two blocks a
// multiprocessor: one multiplies while the other waits or ends. With TILE 64 four times as many blocks share the work, at twice
// the loads for a product; it is for products that would leave multiprocessors without a block.
//
// Stages of 16 or 8 KB are filled ahead by copies that go on behind, as many as the 48 KiB of shared memory hold that every
// device gives unasked: 3 or 6.
constexpr u32 PRODUCT_THREADS = 4 * LANES;
constexpr u32 PRODUCT_BYTES = 48 << 10;
constexpr u32 PRODUCT_DEPTH = 32;

// Where the values [8 pack, 8 pack + 8) of a row of a stage stand. Rows are 64 bytes; the packs change places every two rows, so that
// eight rows' of one depth, which are loaded at once, are in banks of their own.
__device__ __forceinline__ u32 place_in_stage(u32 row, u32 pack) { return row * PRODUCT_DEPTH + (pack ^ row / 2 % 4) * 8; }

// The sums over k of x (tile, depth) · w (width, depth) from row `first` on, plus bias (width) from there on where there is one:
// finish(i, column, sums) gets eight neighbouring columns of row i of the tile, of which the first is `column`. place_of(i, k) is
// where the values [k, k + 8) of row i stand, null for zeros. Depth and width are multiples of 8.
//
// Each sum is added up over the depth in the same order wherever it stands in a tile of either size.
template <class T, u32 TILE, class PlaceOf, class Finish>
__device__ __forceinline__ void product(PlaceOf place_of, const T* w, const float* bias, u32 first, u32 depth, u32 width,
                                        Finish finish) {
    constexpr u32 SIDE = TILE / 2;
    constexpr u32 STAGE = 2 * TILE * PRODUCT_DEPTH;
    constexpr u32 STAGES = PRODUCT_BYTES / (STAGE * sizeof(T));
    constexpr u32 PACKS = PRODUCT_DEPTH / 8;
    constexpr u32 ROWS_AT_ONCE = PRODUCT_THREADS / PACKS;
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const u32 group = lane / 4, part = lane % 4;
    const u32 rows_at = warp / 2 * SIDE, columns_at = warp % 2 * SIDE;
    // (stages, x and w, tile, 32)
    DYNAMIC_SHARED(T, stages, 0, STAGES * STAGE);

    const u32 steps = (depth + PRODUCT_DEPTH - 1) / PRODUCT_DEPTH;
    const auto fetch = [&](u32 step) {
        if (step < steps) {
            const u32 stage = step % STAGES * STAGE;
            const u32 pack = threadIdx.x % PACKS, k = step * PRODUCT_DEPTH + pack * 8;
#pragma unroll
            for (u32 turn = 0; turn < TILE; turn += ROWS_AT_ONCE) {
                const u32 i = turn + threadIdx.x / PACKS;
                // Of 32 columns each fragment takes two neighbours of each 8, so that a lane's sums are of 8 neighbours.
                const u32 column = i / 32 * 32 + i % 8 / 2 * 8 + i % 32 / 8 * 2 + i % 2;
                const T* of_x = k < depth ? place_of(i, k) : nullptr;
                const bool in_w = k < depth && first + i < width;
                const T* of_w = in_w ? w + (u64)(first + i) * depth + k : w;
                copy16_later<T>(stages, stage + place_in_stage(i, pack), of_x ? of_x : w, of_x != nullptr);
                copy16_later<T>(stages, stage + place_in_stage(TILE + column, pack), of_w, in_w);
            }
        }
        // Behind the last step too, so that the same number of groups stands between a stage's copies and its turn.
        commit_copies();
    };
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; step++) fetch(step);

    float sums[SIDE / 16][SIDE / 8][4] = {};
    for (u32 step = 0; step < steps; step++) {
        wait_for_copies<STAGES - 2>();
        // What all have copied is there, and nobody reads the stage of the step before any more, which is filled next.
        __syncthreads();
        fetch(step + STAGES - 1);
        const u32 stage = step % STAGES * STAGE;
        // The rows and packs that this lane names for four matrices: of x two by two, of w the four of a row.
        Pack x[PACKS / 2][SIDE / 16];
#pragma unroll
        for (u32 half = 0; half < PACKS / 2; half++)
#pragma unroll
            for (u32 m = 0; m < SIDE / 16; m++)
                x[half][m] = load_matrices<T>(
                    stages, stage + place_in_stage(rows_at + m * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
        for (u32 n = 0; n < SIDE / 8; n++) {
            const Pack y =
                load_matrices<T>(stages, stage + place_in_stage(TILE + columns_at + n * 8 + lane % 8, lane / 8));
#pragma unroll
            for (u32 half = 0; half < PACKS / 2; half++)
#pragma unroll
                for (u32 m = 0; m < SIDE / 16; m++)
                    mma<T>(sums[m][n], x[half][m].words, {y.words[2 * half], y.words[2 * half + 1]});
        }
    }

#pragma unroll
    for (u32 q = 0; q < SIDE / 32; q++) {
        const u32 column = first + columns_at + q * 32 + part * 8;
        if (column >= width) continue;
        float biases[8] = {};
        if (bias)
#pragma unroll
            for (u32 half = 0; half < 8; half += 4) {
                float four[4];
                unpack(load16(bias + column + half), four);
#pragma unroll
                for (u32 i = 0; i < 4; i++) biases[half + i] = four[i];
            }
#pragma unroll
        for (u32 m = 0; m < SIDE / 16; m++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float row[8];
#pragma unroll
                for (u32 i = 0; i < 8; i++) row[i] = sums[m][q * 4 + i / 2][half * 2 + i % 2] + biases[i];
                finish(rows_at + m * 16 + half * 8 + group, column, row);
            }
    }
}
