// See mod.rs for the contract.
#include "device.cuh"

// Rows change places with each other, so all of a group must be read before any is written. That holds by itself where one
// thread takes the same 16 bytes of all rows of a group: it reads them into its registers, then writes them. No other thread
// touches these, and no second array is needed.
constexpr u32 COPIES_MAX = 16;
constexpr u32 THREADS = 128;
// Positions of a block, of 8 packs each: four turns of its threads, and a few hundred blocks for a beam or two of a large model.
constexpr u32 POSITIONS = 64;
constexpr u32 PACKS = 8;

// As in mod.rs.
struct RowCopy {
    u32 from, to, positions;
};
struct Group {
    u32 count;
    RowCopy copies[COPIES_MAX];
};
// The sampler's state of a row: what it says is nothing to this.
struct RowState {
    u64 words[5];
};

// keys, values (layers, rows, heads, room, 64): the first `positions` of a row become those of another.
// A block is a piece of the positions of one head, and in z of one group, keys or values, and layer.
KERNEL(copy_rows_caches, THREADS, 6, const Group* groups, Pack* keys, Pack* values, u32 group_count, u32 rows, u32 room) {
    const u32 head = blockIdx.y, heads = gridDim.y;
    const u32 layer = blockIdx.z / group_count / 2;
    const Group& group = groups[blockIdx.z % group_count];
    Pack* cache = blockIdx.z / group_count % 2 ? values : keys;
    for (u32 pack = threadIdx.x; pack < POSITIONS * PACKS; pack += THREADS) {
        const u32 at = blockIdx.x * POSITIONS * PACKS + pack;
        const auto place_of = [&](u32 row) {
            return cache + (((u64)layer * rows + row) * heads + head) * room * PACKS + at;
        };
        Pack held[COPIES_MAX];
#pragma unroll
        for (u32 i = 0; i < COPIES_MAX; i++)
            if (i < group.count && at < group.copies[i].positions * PACKS) held[i] = *place_of(group.copies[i].from);
#pragma unroll
        for (u32 i = 0; i < COPIES_MAX; i++)
            if (i < group.count && at < group.copies[i].positions * PACKS) *place_of(group.copies[i].to) = held[i];
    }
}

// states, next (rows). A block of one warp is a group, a lane a copy.
KERNEL(copy_rows_states, LANES, 1, const Group* groups, RowState* states, u32* next) {
    const Group& group = groups[blockIdx.x];
    const bool copies = threadIdx.x < group.count;
    const u32 from = copies ? group.copies[threadIdx.x].from : 0, to = copies ? group.copies[threadIdx.x].to : 0;
    RowState state = {};
    u32 token = 0;
    if (copies) {
        state = states[from];
        token = next[from];
    }
    // All have read.
    __syncwarp();
    if (copies) {
        states[to] = state;
        next[to] = token;
    }
}
