// See mod.rs for the contract.
#include "device.cuh"

// A block is one group of queries, one head and a split of 128 keys. A warp takes 32 of them, and has all their keys and values
// under way before it needs the first: 8 KB, with e4m3 4 KB. It has no loop; blocks beside each other keep the memory busy, at
// least 4 a multiprocessor, 6 with e4m3, which needs fewer registers. That is 128 KB (96 KB) under way, where 20 to 40 KB cover
// the way to memory and back at the 25 GB/s that each of an H100's 132 multiprocessors gets, and leaves room for the blocks that
// are beginning or merging.
//
// Why 128: with 64 texts of 20 heads there are 15 thousand blocks of 32 KB, and what a split leaves behind, 272 bytes a query, is
// below 1 % of what it reads, so that larger splits would gain nothing. With one text, 1500 positions are 12 splits: for 20 heads
// 240 blocks, two on most multiprocessors, for 6 heads 72, one on half of them. All of it is 2 to 8 MB, a microsecond or two;
// larger splits would leave more of the machine idle, and smaller ones lengthen the merge, which reads 12 splits at once now, 6 with e4m3.
// The borders are the same whatever else there is to do, and so are the bits. Nothing of this is measured.
//
// Up to 16 queries are the rows of the tensor cores' tile; rows without a query cost nothing, as bytes are what is short. Keys go
// from global memory to the tensor cores as they come: products are summed over a head's width in any order, so the four lanes of
// a key take 16 bytes each, whatever columns the fragment's layout names, and the queries are taken the same way. So do values,
// which the cache keeps in pairs of positions for that. No shared memory and no barrier stands between loads and products.
//
// The warps' softmaxes meet in shared memory, the splits' in global memory, where the block that arrives last merges them: a
// launch of its own would cost a small model's step as much as the attention.
constexpr u32 WIDTH = 64;
constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * LANES;
constexpr u32 QUERIES = 16;
constexpr u32 KEYS = 32;
constexpr u32 TILES = KEYS / 8;
constexpr u32 SPLIT = WARPS * KEYS;

// What is left of one query behind some keys: (64) mix, highest score, sum of weights, two unused. So long that rows of it in
// shared memory begin in different banks.
constexpr u32 RECORD = WIDTH + 4;

template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;

// What tensor cores multiply: e4m3 widens to f16 exactly, whatever the queries are.
template <class T, class C> struct Multiplied {
    typedef C type;
};
template <class T> struct Multiplied<T, e4m3> {
    typedef f16 type;
};

struct Group {
    u32 slot, length, first, count;
};
__device__ __forceinline__ Group group_of(const u32* groups, u32 i) {
    const Pack pack = load16(groups + 4 * i);
    return {pack.words[0], pack.words[1], pack.words[2], pack.words[3]};
}

// The eight pairs of numbers that a lane brought, as tensor cores take them.
template <class C> __device__ __forceinline__ void widen(const Pack (&packs)[sizeof(C)], u32 (&pairs)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        if constexpr (sizeof(C) == 2)
            pairs[i] = packs[i / 4].words[i % 4];
        else
            pairs[i] = widen_pair(packs[0].words[i / 2] >> 16 * (i % 2));
    }
}

// A lane's part of the queries: of rows `lane / 4` and 8 below, two packs each of the columns that it takes of the keys.
template <class T, class C>
__device__ __forceinline__ void load_queries(const T* queries, Group group, u32 head, u32 heads, Pack (&rows)[2][2]) {
    using M = typename Multiplied<T, C>::type;
    const u32 lane = threadIdx.x % LANES, part = lane % 4;
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        const u32 query = lane / 4 + 8 * row;
        const T* place = queries + ((u64)(group.first + query) * heads + head) * WIDTH;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 column = sizeof(C) == 2 ? 32 * i + 8 * part : 16 * part + 8 * i;
            Pack& pack = rows[row][i];
            pack = query < group.count ? load16(place + column) : Pack();
            if constexpr (!same<T, M>) {
                float values[8];
                unpack<T>(pack, values);
#pragma unroll
                for (u32 j = 0; j < 4; j++) pack.words[j] = pair_of<M>(values[2 * j], values[2 * j + 1]);
            }
        }
    }
}

// A lane's part of the warp's keys, from position `first` on: of each tile of eight the key `lane / 4`. Behind the end the last
// one is read again, and nothing is kept of it.
template <class C>
__device__ __forceinline__ void load_keys(const C* keys, u32 first, u32 length, Pack (&packs)[TILES][sizeof(C)]) {
    const u32 lane = threadIdx.x % LANES, part = lane % 4;
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++) {
        const C* place = keys + min(first + 8 * tile + lane / 4, length - 1) * WIDTH;
#pragma unroll
        for (u32 i = 0; i < sizeof(C); i++) packs[tile][i] = load16_ahead(place + (64 * i + 16 * part) / sizeof(C));
    }
}

// The same of its values: of each tile the pair of positions `lane % 4`, eight dimensions of it.
template <class C>
__device__ __forceinline__ void load_values(const C* values, u32 first, u32 length, Pack (&packs)[TILES][sizeof(C)]) {
    const u32 lane = threadIdx.x % LANES, part = lane % 4;
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++) {
        const C* place = values + min(first / 2 + 4 * tile + part, (length - 1) / 2) * 2 * WIDTH;
#pragma unroll
        for (u32 i = 0; i < sizeof(C); i++) packs[tile][i] = load16_ahead(place + (128 * i + 16 * (lane / 4)) / sizeof(C));
    }
}

// scores[tile][i] += the product of query lane / 4 + 8 (i / 2) and key 2 (lane % 4) + i % 2 of the tile
template <class M, class C>
__device__ __forceinline__ void multiply(const Pack (&queries)[2][2], const Pack (&keys)[TILES][sizeof(C)],
                                         float (&scores)[TILES][4]) {
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++) {
        u32 pairs[8];
        widen<C>(keys[tile], pairs);
#pragma unroll
        for (u32 step = 0; step < 4; step++) {
            const u32 i = step / 2, word = step % 2 * 2;
            mma<M>(scores[tile],
                   {queries[0][i].words[word], queries[1][i].words[word], queries[0][i].words[word + 1],
                    queries[1][i].words[word + 1]},
                   {pairs[2 * step], pairs[2 * step + 1]});
        }
    }
}

// What a warp makes of its keys: for rows lane / 4 and 8 below the highest score and the sum of weights, and the mixes as tensor
// cores leave them.
struct Attended {
    float highest[2], sums[2], mix[8][4];
};

// The warp's keys are those from `first` on, at least one; keys and values are those of the slot and head.
template <class T, class C>
__device__ __forceinline__ void attend(const T* queries, Group group, u32 head, u32 heads, const C* keys, const C* values,
                                       float scale, u32 first, Attended& all) {
    using M = typename Multiplied<T, C>::type;
    const u32 part = threadIdx.x % LANES % 4;
    Pack query[2][2], key[TILES][sizeof(C)], value[TILES][sizeof(C)];
    load_queries<T, C>(queries, group, head, heads, query);
    load_keys(keys, first, group.length, key);
    load_values(values, first, group.length, value);
    // Everything is under way before the first product.
    __syncwarp();
    float scores[TILES][4] = {};
    multiply<M, C>(query, key, scores);
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 at = first + 8 * tile + 2 * part + i % 2;
            scores[tile][i] = at < group.length ? scores[tile][i] * scale : -INFINITY;
            all.highest[i / 2] = fmaxf(all.highest[i / 2], scores[tile][i]);
        }
#pragma unroll
    for (u32 row = 0; row < 2; row++)
#pragma unroll
        for (int bits = 1; bits < 4; bits *= 2)
            all.highest[row] = fmaxf(all.highest[row], __shfl_xor_sync(ALL, all.highest[row], bits));
    // (tiles, rows): two weights each, as they are multiplied. The sum is of the rounded ones, so that together they are a whole.
    u32 weights[TILES][2];
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            const M low = to<M>(expf(scores[tile][2 * row] - all.highest[row]));
            const M high = to<M>(expf(scores[tile][2 * row + 1] - all.highest[row]));
            all.sums[row] += to_float(low) + to_float(high);
            weights[tile][row] = (u32)low.bits | (u32)high.bits << 16;
        }
#pragma unroll
    for (u32 row = 0; row < 2; row++)
#pragma unroll
        for (int bits = 1; bits < 4; bits *= 2) all.sums[row] += __shfl_xor_sync(ALL, all.sums[row], bits);
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile += 2) {
        u32 low[8], high[8];
        widen<C>(value[tile], low);
        widen<C>(value[tile + 1], high);
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            mma<M>(all.mix[i], {weights[tile][0], weights[tile][1], weights[tile + 1][0], weights[tile + 1][1]},
                   {low[i], high[i]});
    }
}

// Leaves what the warp has for the block: records (warps, queries, RECORD).
template <class C>
__device__ __forceinline__ void leave(Shared<float> records, const Attended& all, u32 count) {
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, part = lane % 4;
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        const u32 query = lane / 4 + 8 * row, record = (warp * QUERIES + query) * RECORD;
        if (query >= count) continue;
        // Columns 2 part and 2 part + 1 of the eight products are the dimensions that these lanes of a pair's eight brought.
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 side = 0; side < 2; side++) {
                const u32 holder = 2 * part + side;
                float four[4];
#pragma unroll
                for (u32 j = 0; j < 4; j++) four[j] = all.mix[4 * i + j][2 * row + side];
                const u32 dimension = sizeof(C) == 2 ? 32 * i + 4 * holder : 8 * holder + 4 * i;
                shared_store16<float>(records, record + dimension, pack_of(four));
            }
        if (part == 0)
            shared_store16<float>(records, record + WIDTH, pack_of({all.highest[row], all.sums[row], 0, 0}));
    }
}

// A sixteenth of a record, which one thread merges: four dimensions.
struct Partial {
    float highest, sum, mix[4];
};
__device__ __forceinline__ Partial partial_of(Pack mix, Pack of_all) {
    Partial partial = {as_float(of_all.words[0]), as_float(of_all.words[1]), {}};
    unpack(mix, partial.mix);
    return partial;
}

// The same over the keys of all parts, in their order; at least one part has a key. Those without have no highest score.
template <u32 N> __device__ __forceinline__ Partial merged(const Partial (&parts)[N]) {
    Partial all = {-INFINITY, 0, {}};
#pragma unroll
    for (u32 i = 0; i < N; i++) all.highest = fmaxf(all.highest, parts[i].highest);
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        // No difference of infinities, as one part has a key.
        const float scale = expf(parts[i].highest - all.highest);
        all.sum += scale * parts[i].sum;
#pragma unroll
        for (u32 j = 0; j < 4; j++) all.mix[j] += scale * parts[i].mix[j];
    }
    return all;
}

// mixed (items, heads * 64) = the slots' values by softmax of query · key / 8, for queries (items, heads * 64).
// groups: slot, length, first item, items. keys (slots, heads, room, 64), values (slots, heads, room / 2, 64, 2), and for e4m3
// scales (slots, heads, 2). partials (items, heads, splits of the room, RECORD); arrivals (groups, heads), zero.
template <class T, class C>
__device__ __forceinline__ void cross_attention(const T* queries, const u32* groups, const C* keys, const C* values,
                                                const float* scales, float* partials, u32* arrivals, T* mixed, u32 room) {
    const u32 split = blockIdx.x, head = blockIdx.y, heads = gridDim.y;
    const Group group = group_of(groups, blockIdx.z);
    if (split * SPLIT >= group.length) return;
    const u64 slot = (u64)group.slot * heads + head;
    const u32 first = split * SPLIT + threadIdx.x / LANES * KEYS;
    const float key_scale = sizeof(C) == 1 ? scales[slot * 2] : 1.0f, value_scale = sizeof(C) == 1 ? scales[slot * 2 + 1] : 1.0f;
    SHARED(float, records, WARPS* QUERIES* RECORD);
    SHARED(u32, is_last, 1);
    Attended all = {{-INFINITY, -INFINITY}, {}, {}};
    if (first < group.length)
        attend(queries, group, head, heads, keys + slot * room * WIDTH, values + slot * room * WIDTH, 0.125f * key_scale, first,
               all);
    leave<C>(records, all, group.count);
    __syncthreads();

    // Sixteen threads a query.
    const u32 splits = (group.length + SPLIT - 1) / SPLIT, splits_of_room = (room + SPLIT - 1) / SPLIT;
    const u32 begin = threadIdx.x / 16, step = THREADS / 16, four = threadIdx.x % 16 * 4;
    for (u32 query = begin; query < group.count; query += step) {
        Partial parts[WARPS];
#pragma unroll
        for (u32 i = 0; i < WARPS; i++) {
            const u32 record = (i * QUERIES + query) * RECORD;
            parts[i] = partial_of(shared_load16<float>(records, record + four), shared_load16<float>(records, record + WIDTH));
        }
        Partial split_mix = merged(parts);
#pragma unroll
        for (u32 j = 0; j < 4; j++) split_mix.mix[j] *= value_scale;
        const u64 row = (u64)(group.first + query) * heads + head;
        float* record = partials + (row * splits_of_room + split) * RECORD;
        publish16(record + four, pack_of(split_mix.mix));
        if (four == 0) publish16(record + WIDTH, pack_of({split_mix.highest, split_mix.sum, 0, 0}));
    }
    __syncthreads();
    if (threadIdx.x == 0) is_last[0] = arrive_last(arrivals + (u64)blockIdx.z * heads + head, splits);
    __syncthreads();
    if (!is_last[0]) return;
    // Splits that are read at once: all of 1500 positions where there are registers for it.
    constexpr u32 AHEAD = sizeof(C) == 2 ? 12 : 6;
    for (u32 query = begin; query < group.count; query += step) {
        const u64 row = (u64)(group.first + query) * heads + head;
        const float* record = partials + row * splits_of_room * RECORD;
        Partial parts[1 + AHEAD];
        parts[0] = {-INFINITY, 0, {}};
        for (u32 start = 0; start < splits; start += AHEAD) {
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                const float* at = record + (start + i) * RECORD;
                parts[1 + i] = start + i < splits ? partial_of(published16(at + four), published16(at + WIDTH))
                                                  : Partial{-INFINITY, 0, {}};
            }
            parts[0] = merged(parts);
        }
        float mix[4];
#pragma unroll
        for (u32 j = 0; j < 4; j++) mix[j] = parts[0].mix[j] / parts[0].sum;
        store8(mixed + row * WIDTH + four, mix);
    }
}

// scores (chosen heads, items, columns) = query · key / 8 for each head of the set, in order, and the positions of each item's
// slot; columns behind them are left as they are.
template <class T, class C>
__device__ __forceinline__ void alignment(const T* queries, const u32* groups, const C* keys, const float* scales, float* scores,
                                          u32 room, u32 heads, u32 chosen, u32 items, u32 columns) {
    using M = typename Multiplied<T, C>::type;
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, part = lane % 4;
    const Group group = group_of(groups, blockIdx.z);
    const u32 first = blockIdx.x * SPLIT + warp * KEYS;
    if (first >= group.length) return;
    // The head whose bit is the blockIdx.y-th of the set.
    for (u32 i = 0; i < blockIdx.y; i++) chosen &= chosen - 1;
    const u32 head = __ffs(chosen) - 1;
    const u64 slot = (u64)group.slot * heads + head;
    Pack key[TILES][sizeof(C)], query[2][2];
    load_keys(keys + slot * room * WIDTH, first, group.length, key);
    load_queries<T, C>(queries, group, head, heads, query);
    float products[TILES][4] = {};
    multiply<M, C>(query, key, products);
    const float scale = (sizeof(C) == 1 ? scales[slot * 2] : 1.0f) * 0.125f;
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 row = lane / 4 + i / 2 * 8, at = first + 8 * tile + 2 * part + i % 2;
            if (row < group.count && at < group.length)
                scores[((u64)blockIdx.y * items + group.first + row) * columns + at] = products[tile][i] * scale;
        }
}

#define CROSS_ATTENTION(name, T, C, BLOCKS)                                                                              \
    KERNEL(name, THREADS, BLOCKS, const T* queries, const u32* groups, const C* keys, const C* values, const float* scales, \
           float* partials, u32* arrivals, T* mixed, u32 room) {                                                         \
        cross_attention<T, C>(queries, groups, keys, values, scales, partials, arrivals, mixed, room);                   \
    }

CROSS_ATTENTION(cross_attention_f16, f16, f16, 4)
CROSS_ATTENTION(cross_attention_bf16, bf16, bf16, 4)
CROSS_ATTENTION(cross_attention_f16_e4m3, f16, e4m3, 6)
CROSS_ATTENTION(cross_attention_bf16_e4m3, bf16, e4m3, 6)

#define ALIGNMENT(name, T, C)                                                                                             \
    KERNEL(name, THREADS, 6, const T* queries, const u32* groups, const C* keys, const float* scales, float* scores, u32 room, \
           u32 heads, u32 chosen, u32 items, u32 columns) {                                                               \
        alignment<T, C>(queries, groups, keys, scales, scores, room, heads, chosen, items, columns);                      \
    }

ALIGNMENT(cross_attention_scores_f16, f16, f16)
ALIGNMENT(cross_attention_scores_bf16, bf16, bf16)
ALIGNMENT(cross_attention_scores_f16_e4m3, f16, e4m3)
ALIGNMENT(cross_attention_scores_bf16_e4m3, bf16, e4m3)
