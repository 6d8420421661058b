// See mod.rs for the contract.
#include "normalise.cuh"

// A warp a row and four warps a block: rows are short (at most 5 KB), so one warp's loads, all issued before the first is
// needed, keep enough bytes under way, and no block barrier is paid. Blocks of 128 threads leave a multiprocessor up to 16 of
// them, which is more than the registers of the widest rows allow.
constexpr u32 WARPS = 4;

// x (rows, width) += delta (rows, width) where there is one; y (rows, width) = the normalised rows
template <class T, u32 CHUNKS>
__device__ __forceinline__ void layer_norm(float* x, const T* delta, const float* gamma, const float* beta, T* y, u32 rows,
                                           u32 width) {
    const u64 row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= rows) return;
    T* out = y + row * width;
    normalise_row<CHUNKS>(x + row * width, delta ? delta + row * width : nullptr, gamma, beta, width,
                          [&](u32 i, const float(&values)[4]) { store8(out + i, values); });
}

#define LAYER_NORM(name, T, CHUNKS)                                                                              \
    KERNEL(name, WARPS* LANES, 8, float* x, const T* delta, const float* gamma, const float* beta, T* y, u32 rows, \
           u32 width) {                                                                                          \
        layer_norm<T, CHUNKS>(x, delta, gamma, beta, y, rows, width);                                            \
    }

// Up to 512 wide (tiny, base), and up to 1280 (large): registers for the widest row would halve the rows under way of the narrow.
LAYER_NORM(layer_norm_512_f16, f16, 4)
LAYER_NORM(layer_norm_512_bf16, bf16, 4)
LAYER_NORM(layer_norm_1280_f16, f16, 10)
LAYER_NORM(layer_norm_1280_bf16, bf16, 10)
