// See mod.rs for the contract.
#include "device.cuh"

// A block is one row of logits. A row (some 50,000 numbers) was just written and stands in the L2 cache, so it is read again
// for each question rather than kept: what counts is the number of passes, one for a greedy token, two more for a drawn one.
// 512 threads: 16 warps hide the cache's latency, and two blocks fit a multiprocessor.
constexpr u32 WARPS = 16;
constexpr u32 THREADS = WARPS * LANES;
constexpr u32 NONE = ~0u;
constexpr u32 TOP_MAX = 17;

// As in mod.rs.
struct Item {
    u32 row, chosen, top;
};
struct RowState {
    u64 seed;
    float temperature;
    u32 timestamps, first_timestamp_max, count, last_is_time, previous_is_time, latest, timestamp_max;
};
struct Vocabulary {
    u32 size, end, no_timestamps, first_timestamp, timestamps;
};

// What may come next: text from `text` on, times in [times, times_end); all but what the lists forbid.
struct Allowed {
    u32 text, text_end, times, times_end;
    const u32* never;
    const u32* not_first; // null behind the first token
    u32 no_timestamps;    // NONE where the token may come

    __device__ __forceinline__ bool text_holds(u32 i) const { return i >= text && i < text_end && unlisted(i); }
    __device__ __forceinline__ bool times_hold(u32 i) const { return i >= times && i < times_end && unlisted(i); }
    __device__ __forceinline__ bool unlisted(u32 i) const {
        const u32 bit = 1u << i % 32;
        return i != no_timestamps && !(never[i / 32] & bit) && !(not_first && not_first[i / 32] & bit);
    }
};

__device__ __forceinline__ Allowed allowed_of(const RowState& state, const Vocabulary& words, const u32* lists) {
    Allowed allowed;
    allowed.never = lists;
    allowed.not_first = state.count == 0 ? lists + (words.size + 31) / 32 : nullptr;
    allowed.no_timestamps = NONE;
    allowed.text = 0;
    allowed.text_end = words.first_timestamp;
    allowed.times = words.first_timestamp;
    allowed.times_end = words.size;
    if (!state.timestamps) return allowed;
    allowed.no_timestamps = words.no_timestamps;
    const u32 times = state.timestamp_max < words.timestamps ? state.timestamp_max + 1 : words.timestamps;
    allowed.times_end = min(words.size, words.first_timestamp + times);
    if (state.last_is_time && state.previous_is_time)
        allowed.times_end = 0;
    else if (state.last_is_time)
        allowed.text = words.end;
    // Times do not go back, and a text takes some time: only a start may repeat the end before it.
    if (state.latest != NONE) allowed.times = state.latest + !(state.last_is_time && !state.previous_is_time);
    if (state.count == 0) {
        allowed.text_end = 0;
        allowed.times_end = min(allowed.times_end, words.first_timestamp + state.first_timestamp_max + 1);
    }
    return allowed;
}

__device__ __forceinline__ void push(RowState& state, u32 token, const Vocabulary& words) {
    const u32 is_time = token >= words.first_timestamp;
    state.previous_is_time = state.count == 0 || state.last_is_time;
    state.last_is_time = is_time;
    if (is_time) state.latest = token;
    state.count++;
}

// The largest of some numbers, the first index that has it, and the sum of exp(x - largest).
struct Peak {
    float max, sum;
    u32 at;

    __device__ __forceinline__ void take(float x, u32 i) {
        if (x > max) {
            // An infinite maximum is the empty peak's, whose sum is 0.
            sum = max == -INFINITY ? 1.0f : sum * expf(max - x) + 1.0f;
            max = x;
            at = i;
        } else if (x > -INFINITY) {
            sum += expf(x - max);
        }
    }
    __device__ __forceinline__ void join(const Peak& other) {
        if (other.max == -INFINITY) return;
        const bool first = other.max > max || (other.max == max && other.at < at);
        const float top = fmaxf(max, other.max);
        sum = (max == -INFINITY ? 0.0f : sum * expf(max - top)) + other.sum * expf(other.max - top);
        max = top;
        at = first ? other.at : at;
    }
    __device__ __forceinline__ float log_sum() const { return max + logf(sum); }
};

__device__ __forceinline__ Peak empty_peak() { return Peak{-INFINITY, 0.0f, NONE}; }

// Joins all threads' peaks, in an order that is always the same; every thread gets the result.
__device__ __forceinline__ Peak join_all(Peak peak, Shared<float> maxima, Shared<float> sums, Shared<u32> places) {
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
#pragma unroll
    for (int bits = 16; bits; bits /= 2) {
        Peak other;
        other.max = __shfl_xor_sync(ALL, peak.max, bits);
        other.sum = __shfl_xor_sync(ALL, peak.sum, bits);
        other.at = __shfl_xor_sync(ALL, peak.at, bits);
        peak.join(other);
    }
    __syncthreads();
    if (lane == 0) {
        maxima[warp] = peak.max;
        sums[warp] = peak.sum;
        places[warp] = peak.at;
    }
    __syncthreads();
    Peak all = empty_peak();
    for (u32 i = 0; i < WARPS; i++) {
        Peak other;
        other.max = maxima[i];
        other.sum = sums[i];
        other.at = places[i];
        all.join(other);
    }
    return all;
}

// The `index`th random number in 0..1 of a seed: SplitMix64, as on the host.
__device__ __forceinline__ double unit_of(u64 seed, u32 index) {
    u64 z = seed + 0x9e3779b97f4a7c15ull * ((u64)index + 1);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

// What a token weighs in a draw.
__device__ __forceinline__ float weight(const Allowed& allowed, const float* row, u32 i, float max, float warmth) {
    return allowed.text_holds(i) || allowed.times_hold(i) ? expf((row[i] - max) * warmth) : 0.0f;
}

// logits (items, vocabulary); items (items); states (rows), moved on by the token; next (rows): the token;
// tokens, scores (items, 17): the answers; lists: two bits a token, (2, vocabulary / 32): never, and never first.
KERNEL(sample, THREADS, 2, const float* logits, const Item* items, RowState* states, u32* next, u32* tokens, float* scores,
       const u32* lists, u32 vocabulary, u32 end_token, u32 no_timestamps, u32 first_timestamp, u32 timestamps) {
    const Vocabulary words = {vocabulary, end_token, no_timestamps, first_timestamp, timestamps};
    SHARED(float, maxima, WARPS);
    SHARED(float, sums, WARPS);
    SHARED(u32, places, WARPS);
    SHARED(double, masses, WARPS);
    SHARED(u32, drawn, 1);
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const Item item = items[blockIdx.x];
    const float* row = logits + (u64)blockIdx.x * words.size;
    RowState state = states[item.row];
    if (item.chosen != NONE) push(state, item.chosen, words);
    Allowed allowed = allowed_of(state, words, lists);

    Peak text = empty_peak(), times = empty_peak();
    for (u32 i = threadIdx.x; i < words.size; i += THREADS) {
        const float x = row[i];
        if (allowed.text_holds(i))
            text.take(x, i);
        else if (allowed.times_hold(i))
            times.take(x, i);
    }
    text = join_all(text, maxima, sums, places);
    times = join_all(times, maxima, sums, places);
    // All timestamps together outweigh the best text: it is time for one. Where nothing is allowed this compares nothing.
    if (state.timestamps && times.max > -INFINITY && times.log_sum() > text.max) {
        text = empty_peak();
        allowed.text_end = 0;
    }
    Peak all = text;
    all.join(times);
    const float total = all.log_sum();
    const bool any = all.max > -INFINITY;

    if (item.top) {
        float last = INFINITY;
        u32 last_at = NONE;
        for (u32 rank = 0; rank < item.top; rank++) {
            Peak best = empty_peak();
            for (u32 i = threadIdx.x; i < words.size; i += THREADS) {
                const float x = row[i];
                const bool later = x < last || (x == last && i > last_at);
                if (later && x > best.max && (allowed.text_holds(i) || allowed.times_hold(i))) best = Peak{x, 1.0f, i};
            }
            best = join_all(best, maxima, sums, places);
            last = best.max;
            last_at = best.at;
            if (threadIdx.x == 0) {
                tokens[blockIdx.x * TOP_MAX + rank] = best.at;
                scores[blockIdx.x * TOP_MAX + rank] = best.at == NONE ? 0.0f : best.max - total;
            }
        }
        if (threadIdx.x == 0) states[item.row] = state;
        return;
    }

    u32 token = words.end;
    if (any) {
        const bool end_holds = allowed.text_holds(words.end) || allowed.times_hold(words.end);
        token = end_holds && row[words.end] == all.max ? words.end : all.at;
        if (state.temperature > 0) {
            // Each warp adds up a stretch of the row of its own; the one in which the drawn mass is reached goes through its
            // stretch again, in order. Sums are in f64, so that 50,000 of them lose nothing that a draw could show.
            const u32 stretch = (words.size + THREADS - 1) / THREADS * LANES;
            const u32 begin = warp * stretch, end = min(begin + stretch, words.size);
            const float warmth = 1.0f / state.temperature;
            double mass = 0;
            for (u32 i = begin + lane; i < end; i += LANES) mass += weight(allowed, row, i, all.max, warmth);
            mass = warp_sum(mass);
            if (lane == 0) masses[warp] = mass;
            if (threadIdx.x == 0) drawn[0] = token;
            __syncthreads();
            double below = 0, everything = 0;
            for (u32 i = 0; i < WARPS; i++) everything += masses[i];
            const double wanted = unit_of(state.seed, state.count) * everything;
            u32 reached = 0;
            while (reached < WARPS && below + masses[reached] <= wanted) below += masses[reached++];
            if (warp == reached) {
                u32 found = NONE;
                for (u32 start = begin; start < end && found == NONE; start += LANES) {
                    const u32 i = start + lane;
                    double here = i < end ? weight(allowed, row, i, all.max, warmth) : 0.0f;
                    const bool counts = here > 0;
                    for (u32 by = 1; by < LANES; by *= 2) {
                        const double before = __shfl_up_sync(ALL, here, by);
                        if (lane >= by) here += before;
                    }
                    const u32 over = __ballot_sync(ALL, counts && below + here > wanted);
                    if (over) found = start + __ffs(over) - 1;
                    below += __shfl_sync(ALL, here, LANES - 1);
                }
                if (lane == 0 && found != NONE) drawn[0] = found;
            }
            __syncthreads();
            token = drawn[0];
        }
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x * TOP_MAX] = token;
        scores[blockIdx.x * TOP_MAX] = any ? row[token] - total : 0.0f;
        next[item.row] = token;
        push(state, token, words);
        states[item.row] = state;
    }
}
