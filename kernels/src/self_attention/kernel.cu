// See mod.rs for the contract.
#include "device.cuh"

// A block is one token and one head: 4 warps share out the keys. Eight lanes hold a key, 16 bytes each, so that a load of a
// warp is four keys in a piece, and a group of eight lanes goes through every 16th key with a softmax of its own as it goes.
// AHEAD keys and their values are under way in each group, 16 KB a block; with head counts from 6 to 20 and a few rows there
// are enough blocks for the few MB a step that these caches are. Scores need no shared memory and no barrier; the groups meet
// once, at the end.
constexpr u32 WIDTH = 64;
constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * LANES;
constexpr u32 GROUP = WIDTH / 8;
constexpr u32 GROUPS = THREADS / GROUP;
constexpr u32 AHEAD = 4;

// mixed (items, heads * 64) = the values of each item's row up to itself, by softmax of query · key / 8.
// qkv (items, 3 heads * 64); keys, values (rows, heads, room, 64); items: row, position, first item of the row in this launch.
// The item's own key and value go into the caches.
template <class T>
__device__ __forceinline__ void self_attention(const T* qkv, const u32* items, T* keys, T* values, T* mixed, u32 room) {
    const u32 item = blockIdx.x, head = blockIdx.y, heads = gridDim.y;
    const u32 group = threadIdx.x / GROUP, part = threadIdx.x % GROUP;
    const u32 row = items[3 * item], position = items[3 * item + 1], first = items[3 * item + 2];
    // Keys before this one stand in the cache, those of this launch where they were computed: other blocks write them into the
    // cache at the same time.
    const u32 cached = position - (item - first);
    const u64 cache = ((u64)row * heads + head) * room * WIDTH + part * 8;
    const u64 stride = 3 * heads * WIDTH;
    const T* own = qkv + head * WIDTH + part * 8;

    float query[8];
    unpack<T>(load16(own + item * stride), query);
#pragma unroll
    for (u32 i = 0; i < 8; i++) query[i] *= 0.125f;
    if (group == 0) {
        store16(keys + cache + (u64)position * WIDTH, load16(own + item * stride + heads * WIDTH));
        store16(values + cache + (u64)position * WIDTH, load16(own + item * stride + 2 * heads * WIDTH));
    }

    float highest = -INFINITY, sum = 0, mix[8] = {};
    // The same turns for all lanes of a warp, which exchange values.
    for (u32 start = 0; start <= position; start += GROUPS * AHEAD) {
        Pack key[AHEAD], value[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 at = start + i * GROUPS + group;
            key[i] = value[i] = Pack();
            if (at < cached) {
                key[i] = load16(keys + cache + (u64)at * WIDTH);
                value[i] = load16(values + cache + (u64)at * WIDTH);
            } else if (at <= position) {
                const T* fresh = own + (first + at - cached) * stride;
                key[i] = load16(fresh + heads * WIDTH);
                value[i] = load16(fresh + 2 * heads * WIDTH);
            }
        }
        float scores[AHEAD], before = highest;
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            float k[8], score = 0;
            unpack<T>(key[i], k);
#pragma unroll
            for (u32 j = 0; j < 8; j++) score += query[j] * k[j];
#pragma unroll
            for (u32 bits = 1; bits < GROUP; bits *= 2) score += __shfl_xor_sync(ALL, score, bits);
            scores[i] = start + i * GROUPS + group <= position ? score : -INFINITY;
            highest = fmaxf(highest, scores[i]);
        }
        // A group that has met no key yet has nothing to scale, and the difference of infinities is no number.
        const float scale = before == -INFINITY ? 0.0f : expf(before - highest);
        sum *= scale;
#pragma unroll
        for (u32 j = 0; j < 8; j++) mix[j] *= scale;
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const float weight = scores[i] == -INFINITY ? 0.0f : expf(scores[i] - highest);
            float v[8];
            unpack<T>(value[i], v);
            sum += weight;
#pragma unroll
            for (u32 j = 0; j < 8; j++) mix[j] += weight * v[j];
        }
    }

    SHARED(float, all_highest, GROUPS);
    SHARED(float, all_sums, GROUPS);
    SHARED(float, all_mixes, GROUPS* WIDTH);
    if (part == 0) {
        all_highest[group] = highest;
        all_sums[group] = sum;
    }
#pragma unroll
    for (u32 j = 0; j < 8; j++) all_mixes[group * WIDTH + part * 8 + j] = mix[j];
    __syncthreads();
    if (threadIdx.x < WIDTH) {
        float top = -INFINITY, total = 0, out = 0;
        for (u32 i = 0; i < GROUPS; i++) top = fmaxf(top, all_highest[i]);
        for (u32 i = 0; i < GROUPS; i++) {
            const float one = all_highest[i];
            const float scale = one == -INFINITY ? 0.0f : expf(one - top);
            total += scale * all_sums[i];
            out += scale * all_mixes[i * WIDTH + threadIdx.x];
        }
        mixed[((u64)item * heads + head) * WIDTH + threadIdx.x] = to<T>(out / total);
    }
}

#define SELF_ATTENTION(name, T)                                                                               \
    KERNEL(name, THREADS, 6, const T* qkv, const u32* items, T* keys, T* values, T* mixed, u32 room) {           \
        self_attention<T>(qkv, items, keys, values, mixed, room);                                             \
    }

SELF_ATTENTION(self_attention_f16, f16)
SELF_ATTENTION(self_attention_bf16, bf16)
