// See mod.rs for the contract.
#include "device.cuh"

// A block a question: there are few, and a row's 200 KB come from the L2 cache. The sum of exponentials is kept beside the
// maximum so far, so that the row is read once.
constexpr u32 WARPS = 8;
constexpr u32 THREADS = WARPS * LANES;

// As in mod.rs.
struct Question {
    u32 row, first, count, among;
};

// The largest of some numbers and the sum of exp(x - largest).
struct Sum {
    float max, sum;

    __device__ __forceinline__ void join(const Sum& other) {
        const float top = fmaxf(max, other.max);
        // Of nothing, or of what is all forbidden, there is nothing to scale.
        const float mine = max == -INFINITY ? 0.0f : sum * expf(max - top);
        const float theirs = other.max == -INFINITY ? 0.0f : other.sum * expf(other.max - top);
        max = top;
        sum = mine + theirs;
    }
};

KERNEL(probabilities, THREADS, 4, const float* logits, u32 vocabulary, const Question* questions, const u32* tokens,
       float* scores) {
    SHARED(float, maxima, WARPS);
    SHARED(float, sums, WARPS);
    const Question question = questions[blockIdx.x];
    const float* row = logits + (u64)question.row * vocabulary;
    Sum all{-INFINITY, 0.0f};
    for (u32 i = threadIdx.x; i < question.among; i += THREADS) all.join(Sum{row[i], 1.0f});
#pragma unroll
    for (int bits = 16; bits; bits /= 2) {
        Sum other;
        other.max = __shfl_xor_sync(ALL, all.max, bits);
        other.sum = __shfl_xor_sync(ALL, all.sum, bits);
        all.join(other);
    }
    if (threadIdx.x % LANES == 0) {
        maxima[threadIdx.x / LANES] = all.max;
        sums[threadIdx.x / LANES] = all.sum;
    }
    __syncthreads();
    all = Sum{-INFINITY, 0.0f};
    for (u32 warp = 0; warp < WARPS; warp++) all.join(Sum{maxima[warp], sums[warp]});
    const float log_sum = all.max + logf(all.sum);
    for (u32 i = threadIdx.x; i < question.count; i += THREADS)
        scores[question.first + i] = row[tokens[question.first + i]] - log_sum;
}
