// See mod.rs for the contract.
#include "device.cuh"

// A block is 128 queries of one head and window, and goes through the window's keys and values 64 at a time.
//
// Each of its 4 warps has 32 queries, whose scores, weights and sums never leave its registers: what comes of the first product
// lies as the second wants it. Keys and values are copied into one half of shared memory while those in the other are
// multiplied, which takes one barrier for 64 keys. A row of a head is 128 bytes, all banks, so its packs are woven (place_of):
// the eight rows of a matrix are taken at once.
//
// Why 32 queries a warp: 64 keys and values are 16 KB of shared memory for each warp, 128 cycles of a multiprocessor, in which the
// tensor cores of an H100 can make 128 products of 16 by 8 by 16; 32 queries need 128, 16 would need 64 and wait for shared memory.
// Most of a thread's registers go there, which leaves two blocks a multiprocessor: while the warps of one take exponentials,
// 8192 for 64 keys at 16 a cycle and as long as its products, those of the other multiply. Why 64 keys: more would not fit the
// registers, fewer would scale the sums more often. Nothing of this is measured.
constexpr u32 WIDTH = 64;
constexpr u32 PACKS = WIDTH / 8;
constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * LANES;
constexpr u32 TILES = 2; // of 16 queries, of a warp
constexpr u32 QUERIES = TILES * 16;
constexpr u32 KEYS = 64;
constexpr u32 STAGE = 2 * KEYS * WIDTH;

// Scores are powers of e over the root of the width; 2 to the power of a score times this is the same. It goes into the
// multiplication that takes the highest score off, and so costs nothing and rounds nothing.
constexpr float FACTOR = 0.125f * 1.44269504f;

struct Window {
    u32 first, length;
};

// Where the pack of a row's numbers [8 i, 8 i + 8) stands in a tile.
__device__ __forceinline__ u32 place_of(u32 row, u32 i) { return row * WIDTH + (i ^ row % 8) * 8; }

// Begins to copy the keys and values of the positions from `first` on to a stage; zeros behind the end.
template <class T>
__device__ __forceinline__ void copy_stage(Shared<T> tiles, u32 stage, const T* keys, const T* values, u64 stride, u32 first,
                                           u32 length) {
#pragma unroll
    for (u32 i = 0; i < KEYS * PACKS / THREADS; i++) {
        const u32 row = i * THREADS / PACKS + threadIdx.x / PACKS, pack = threadIdx.x % PACKS, to = stage + place_of(row, pack);
        const bool inside = first + row < length;
        const u64 from = (inside ? first + row : 0) * stride + pack * 8;
        copy16_later<T>(tiles, to, keys + from, inside);
        copy16_later<T>(tiles, to + KEYS * WIDTH, values + from, inside);
    }
    commit_copies();
}

// mixed (positions, heads * 64) = for each window the values of its positions by softmax of query · key / 8.
// qkv (positions, 3 heads * 64); windows: first position, positions.
template <class T> __device__ __forceinline__ void encoder_attention(const T* qkv, const Window* windows, T* mixed) {
    const Window window = windows[blockIdx.z];
    const u32 head = blockIdx.y, heads = gridDim.y, length = window.length;
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, part = lane % 4;
    const u32 first = (blockIdx.x * WARPS + warp) * QUERIES;
    if (blockIdx.x * WARPS * QUERIES >= length) return;
    const u64 stride = 3 * heads * WIDTH;
    const T* queries = qkv + window.first * stride + head * WIDTH;
    const T* keys = queries + heads * WIDTH;
    const T* values = keys + heads * WIDTH;
    SHARED(T, tiles, 2 * STAGE);
    copy_stage<T>(tiles, 0, keys, values, stride, 0, length);

    // The queries go through the stage that nothing is copied to yet.
    const u32 own = warp * QUERIES * WIDTH;
#pragma unroll
    for (u32 i = 0; i < QUERIES * PACKS / LANES; i++) {
        const u32 row = i * LANES / PACKS + lane / PACKS, pack = lane % PACKS;
        const bool inside = first + row < length;
        shared_store16<T>(tiles, STAGE + own + place_of(row, pack),
                          inside ? load16(queries + (first + row) * stride + pack * 8) : Pack());
    }
    __syncwarp();
    Pack query[TILES][WIDTH / 16];
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 step = 0; step < WIDTH / 16; step++)
            query[t][step] = load_matrices<T>(tiles, STAGE + own + place_of(16 * t + lane % 16, 2 * step + lane / 16));

    // Of the rows lane / 4 and 8 below of each tile, the sums each lane's own until the end.
    float mix[TILES][WIDTH / 8][4] = {}, sums[TILES][2] = {};
    float highest[TILES][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}};
    const u32 turns = (length + KEYS - 1) / KEYS;
    for (u32 turn = 0; turn < turns; turn++) {
        const u32 stage = turn % 2 * STAGE;
        // Everybody's copies have landed, and everybody is done with the other stage.
        wait_for_copies<0>();
        __syncthreads();
        if (turn + 1 < turns) copy_stage<T>(tiles, STAGE - stage, keys, values, stride, (turn + 1) * KEYS, length);
        // A warp without queries only copies.
        if (first >= length) continue;

        float scores[TILES][KEYS / 8][4] = {};
#pragma unroll
        for (u32 step = 0; step < WIDTH / 16; step++)
#pragma unroll
            for (u32 pair = 0; pair < KEYS / 16; pair++) {
                const u32 row = 16 * pair + lane / 16 * 8 + lane % 8;
                const Pack key = load_matrices<T>(tiles, stage + place_of(row, 2 * step + lane / 8 % 2));
#pragma unroll
                for (u32 t = 0; t < TILES; t++) {
                    mma<T>(scores[t][2 * pair], query[t][step].words, {key.words[0], key.words[1]});
                    mma<T>(scores[t][2 * pair + 1], query[t][step].words, {key.words[2], key.words[3]});
                }
            }
        if ((turn + 1) * KEYS > length) {
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    if (turn * KEYS + 8 * j + 2 * part + i % 2 >= length)
#pragma unroll
                        for (u32 t = 0; t < TILES; t++) scores[t][j][i] = -INFINITY;
        }
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                float top = highest[t][row];
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j++) top = fmaxf(top, fmaxf(scores[t][j][2 * row], scores[t][j][2 * row + 1]));
                top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
                top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
                // Every turn has a key, so `top` is a number, and nothing is scaled by the difference of infinities.
                const float scale = fast_exp2((highest[t][row] - top) * FACTOR), off = top * FACTOR;
                highest[t][row] = top;
                sums[t][row] *= scale;
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (u32 i = 2 * row; i < 2 * row + 2; i++) {
                        scores[t][j][i] = fast_exp2(scores[t][j][i] * FACTOR - off);
                        sums[t][row] += scores[t][j][i];
                    }
#pragma unroll
                for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
                    for (u32 i = 2 * row; i < 2 * row + 2; i++) mix[t][j][i] *= scale;
            }
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            u32 weights[TILES][4];
#pragma unroll
            for (u32 t = 0; t < TILES; t++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const float(&from)[4] = scores[t][2 * step + i / 2];
                    weights[t][i] = pair_of<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
                }
#pragma unroll
            for (u32 pair = 0; pair < WIDTH / 16; pair++) {
                const u32 place = place_of(16 * step + lane % 16, 2 * pair + lane / 16);
                const Pack value = load_matrices_transposed<T>(tiles, stage + KEYS * WIDTH + place);
#pragma unroll
                for (u32 t = 0; t < TILES; t++) {
                    mma<T>(mix[t][2 * pair], weights[t], {value.words[0], value.words[1]});
                    mma<T>(mix[t][2 * pair + 1], weights[t], {value.words[2], value.words[3]});
                }
            }
        }
    }
    if (first >= length) return;

    // Through the stage that nobody reads any more, so that rows are stored whole.
    const u32 free = turns % 2 * STAGE + own;
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            float sum = sums[t][row];
            sum += __shfl_xor_sync(ALL, sum, 1);
            sum += __shfl_xor_sync(ALL, sum, 2);
            const float scale = 1 / sum;
#pragma unroll
            for (u32 j = 0; j < WIDTH / 8; j++)
#pragma unroll
                for (u32 i = 0; i < 2; i++)
                    tiles[free + place_of(16 * t + 8 * row + lane / 4, j) + 2 * part + i] = to<T>(mix[t][j][2 * row + i] * scale);
        }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < QUERIES * PACKS / LANES; i++) {
        const u32 row = i * LANES / PACKS + lane / PACKS, pack = lane % PACKS;
        if (first + row < length)
            store16(mixed + ((u64)(window.first + first + row) * heads + head) * WIDTH + pack * 8,
                    shared_load16<T>(tiles, free + place_of(row, pack)));
    }
}

KERNEL(encoder_attention_f16, THREADS, 2, const f16* qkv, const Window* windows, f16* mixed) {
    encoder_attention<f16>(qkv, windows, mixed);
}
KERNEL(encoder_attention_bf16, THREADS, 2, const bf16* qkv, const Window* windows, bf16* mixed) {
    encoder_attention<bf16>(qkv, windows, mixed);
}
