// See mod.rs for the contract.
#include "output.cuh"
#include "product.cuh"

// y (rows, width) = what `output` says of x (rows, depth) · w (width, depth) transposed + bias (width). Blocks are numbered along
// the columns first: those that run at once share few rows of x, and the weights stay in the L2 cache.
template <class T, u32 TILE>
__device__ __forceinline__ void matmul(const T* x, const T* w, const float* bias, void* y, u32 rows, u32 depth, u32 width,
                                       u32 output) {
    const u32 first_row = blockIdx.y * TILE;
    const auto place_of = [&](u32 i, u32 k) {
        return first_row + i < rows ? x + (u64)(first_row + i) * depth + k : nullptr;
    };
    const auto finish = [&](u32 i, u32 column, float(&sums)[8]) {
        if (first_row + i >= rows) return;
        const u64 place = (u64)(first_row + i) * width + column;
        if (output == GELU) {
#pragma unroll
            for (u32 j = 0; j < 8; j++) sums[j] = gelu(sums[j]);
        }
        if (output == ADD) {
#pragma unroll
            for (u32 half = 0; half < 8; half += 4) {
                float before[4];
                // Not through the read-only path: this kernel writes y.
                unpack(*(const Pack*)((const float*)y + place + half), before);
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[half + j] += before[j];
            }
        }
        if (output == ADD || output == STORE_FLOAT)
            store_sums((float*)y, place, sums);
        else
            store_sums((T*)y, place, sums);
    };
    product<T, TILE>(place_of, w, bias, blockIdx.x * TILE, depth, width, finish);
}

#define MATMUL(name, T, TILE, BLOCKS)                                                                             \
    KERNEL(name, PRODUCT_THREADS, BLOCKS, const T* x, const T* w, const float* bias, void* y, u32 rows, u32 depth,   \
           u32 width, u32 output) {                                                                               \
        matmul<T, TILE>(x, w, bias, y, rows, depth, width, output);                                               \
    }

MATMUL(matmul_128_f16, f16, 128, 2)
MATMUL(matmul_128_bf16, bf16, 128, 2)
MATMUL(matmul_64_f16, f16, 64, 4)
MATMUL(matmul_64_bf16, bf16, 64, 4)
