// See mod.rs for the contract.
#include "normalise.cuh"
#include "output.cuh"

// A block makes 16 columns of the product for all rows; its 8 warps share out the depth, 32 of it at a time.
//
// The bytes are the weights', so everything serves their way in. A lane loads 16 bytes of a row of weights and gives them to
// the tensor cores as they come: products are summed over the depth in any order, so the four lanes of a group take 8
// neighbours each instead of the pairs that the fragment's layout names, and the rows of x are taken the same way. No shared
// memory and no barrier stands between weights and products. A warp has AHEAD steps under way: 2 loads of 16 bytes a lane and
// step, 4 KB a warp, 32 KB a block, and two blocks or more a multiprocessor.
constexpr u32 WARPS = 8;
constexpr u32 THREADS = WARPS * LANES;
constexpr u32 COLUMNS = 16;
constexpr u32 DEPTH = 32;
constexpr u32 AHEAD = 4;

// Where the pack of a row's values [8 i, 8 i + 8) stands in shared memory. Rows are multiples of 128 bytes, so all would begin
// in one bank; every other row has the halves of each 128 bytes swapped, and the eight lanes that are served at once (two rows,
// 64 bytes each) find all banks.
__device__ __forceinline__ u32 place_of(u32 row, u32 i, u32 depth) { return row * depth + (i ^ (row % 2 * 4)) * 8; }

// y (rows, width) = what `output` says of x (rows, depth) · w (width, depth) transposed + bias (width).
// rows <= 8 TILES. NORMED: x is f32 and is normalised first; otherwise x is T.
template <class T, bool NORMED, u32 TILES>
__device__ __forceinline__ void skinny(const void* x, const float* gamma, const float* beta, const T* w, const float* bias,
                                       void* y, u32 rows, u32 depth, u32 width, u32 output) {
    constexpr u32 ROWS = 8 * TILES;
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const u32 group = lane / 4, part = lane % 4;
    // (warps, rows, columns): the warps' sums
    DYNAMIC_SHARED(float, sums, 0, WARPS * ROWS * COLUMNS);
    // (rows, depth), normalised
    DYNAMIC_SHARED(T, normed, WARPS * ROWS * COLUMNS * 4, NORMED ? ROWS * depth : 0);
    if (NORMED) {
        for (u32 row = warp; row < ROWS; row += WARPS) {
            if (row < rows) {
                normalise_row<10>((float*)x + row * depth, (const T*)nullptr, gamma, beta, depth,
                                  [&](u32 i, const float(&values)[4]) {
                                      const u32 place = place_of(row, i / 8, depth) + i % 8;
#pragma unroll
                                      for (u32 j = 0; j < 4; j++) normed[place + j] = to<T>(values[j]);
                                  });
            } else {
                for (u32 i = lane; i < depth / 8; i += LANES) shared_store16<T>(normed, row * depth + i * 8, Pack());
            }
        }
        __syncthreads();
    }
    const u32 tiles = (width + COLUMNS - 1) / COLUMNS;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const u32 first = tile * COLUMNS;
        // The last tile of a width that is no multiple of 16 reads its last row again and keeps nothing of it.
        const T* low = w + (u64)min(first + group, width - 1) * depth + part * 8;
        const T* high = w + (u64)min(first + group + 8, width - 1) * depth + part * 8;
        float products[TILES][4] = {};
        for (u32 start = warp * DEPTH; start < depth; start += WARPS * DEPTH * AHEAD) {
            Pack lows[AHEAD], highs[AHEAD];
#pragma unroll
            for (u32 step = 0; step < AHEAD; step++) {
                const u32 k = start + step * WARPS * DEPTH;
                lows[step] = k < depth ? load16_once(low + k) : Pack();
                highs[step] = k < depth ? load16_once(high + k) : Pack();
            }
#pragma unroll
            for (u32 step = 0; step < AHEAD; step++) {
                const u32 k = start + step * WARPS * DEPTH;
                if (k >= depth) break;
                const u32 first_half[4] = {lows[step].words[0], highs[step].words[0], lows[step].words[1],
                                           highs[step].words[1]};
                const u32 second_half[4] = {lows[step].words[2], highs[step].words[2], lows[step].words[3],
                                            highs[step].words[3]};
#pragma unroll
                for (u32 t = 0; t < TILES; t++) {
                    const u32 row = t * 8 + group;
                    Pack value = Pack();
                    if (NORMED)
                        value = shared_load16<T>(normed, place_of(row, k / 8 + part, depth));
                    else if (row < rows)
                        value = load16((const T*)x + row * depth + k + part * 8);
                    mma<T>(products[t], first_half, {value.words[0], value.words[1]});
                    mma<T>(products[t], second_half, {value.words[2], value.words[3]});
                }
            }
        }
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 row = t * 8 + part * 2 + i % 2, column = group + i / 2 * 8;
                sums[(warp * ROWS + row) * COLUMNS + column] = products[t][i];
            }
        __syncthreads();
        const u32 row = threadIdx.x / COLUMNS, column = first + threadIdx.x % COLUMNS;
        if (row < rows && column < width) {
            // Always in this order, whatever else is in the batch.
            float sum = bias ? bias[column] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < WARPS; i++) sum += sums[i * ROWS * COLUMNS + threadIdx.x];
            const u64 place = (u64)row * width + column;
            if (output == GELU) sum = gelu(sum);
            if (output == ADD)
                ((float*)y)[place] += sum;
            else if (output == STORE_FLOAT)
                ((float*)y)[place] = sum;
            else
                ((T*)y)[place] = to<T>(sum);
        }
        // The next tile's sums go where these were.
        __syncthreads();
    }
}

#define SKINNY(name, T, NORMED, TILES)                                                                             \
    KERNEL(name, THREADS, 2, const void* x, const float* gamma, const float* beta, const T* w, const float* bias,     \
           void* y, u32 rows, u32 depth, u32 width, u32 output) {                                                  \
        skinny<T, NORMED, TILES>(x, gamma, beta, w, bias, y, rows, depth, width, output);                          \
    }

SKINNY(skinny_8_f16, f16, false, 1)
SKINNY(skinny_8_bf16, bf16, false, 1)
SKINNY(skinny_16_f16, f16, false, 2)
SKINNY(skinny_16_bf16, bf16, false, 2)
SKINNY(skinny_normed_8_f16, f16, true, 1)
SKINNY(skinny_normed_8_bf16, bf16, true, 1)
SKINNY(skinny_normed_16_f16, f16, true, 2)
SKINNY(skinny_normed_16_bf16, bf16, true, 2)
