// See mod.rs for the contract.
#include "device.cuh"

// A block an item: a row of the embeddings is 0.8 to 2.5 KB, one or two loads of 16 bytes a thread.
constexpr u32 THREADS = 128;
constexpr u32 NONE = ~0u;

// As in mod.rs.
struct Item {
    u32 row, position, token;
};

template <class T>
__device__ __forceinline__ void embed(const Item* items, const u32* next, const T* embeddings, const float* positions, float* x,
                                      u32 width) {
    const Item item = items[blockIdx.x];
    const u64 token = item.token == NONE ? next[item.row] : item.token;
    const T* of_token = embeddings + token * width;
    const float* of_position = positions + (u64)item.position * width;
    float* out = x + (u64)blockIdx.x * width;
    for (u32 i = 8 * threadIdx.x; i < width; i += 8 * THREADS) {
        float values[8];
        unpack<T>(load16(of_token + i), values);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float sums[4];
            unpack(load16(of_position + i + 4 * half), sums);
#pragma unroll
            for (u32 j = 0; j < 4; j++) sums[j] += values[4 * half + j];
            store16(out + i + 4 * half, pack_of(sums));
        }
    }
}

KERNEL(embed_f16, THREADS, 8, const Item* items, const u32* next, const f16* embeddings, const float* positions, float* x,
       u32 width) {
    embed<f16>(items, next, embeddings, positions, x, width);
}

KERNEL(embed_bf16, THREADS, 8, const Item* items, const u32* next, const bf16* embeddings, const float* positions, float* x,
       u32 width) {
    embed<bf16>(items, next, embeddings, positions, x, width);
}
