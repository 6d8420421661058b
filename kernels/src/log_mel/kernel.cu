// See mod.rs for the contract.
#include "device.cuh"

// A frame's 400 samples are taken as 200 complex ones, even samples real and odd ones imaginary, whose transform gives the 201 bins
// of the real one. 200 = 8 · 25: threads make 25 transforms of 8 and 8 of 25 for each frame, each wholly in registers, and meet
// in shared memory once between. That is some 11 thousand operations a frame with the window and the bands, where a product with the
// matrix of the transform takes 320 thousand, or half or a quarter of them where its symmetries are used: 10 µs of an H100 for 30 s of
// sound, which would be as much as a small model's encoder takes for a sixth of it. On tensor cores it would need three
// products of parts to be exact enough.
//
// A block is 16 frames: neighbours in a half of a warp, so that all lanes of it do the same at the same place of the tables, and
// whatever shared memory they touch lies side by side. (32 would make a warp of it, and 51 KB.) 128 threads make the 8 transforms of
// 25 of 16 frames at once, at some 80 registers. 30 s are 188 blocks, for the 132 multiprocessors of an H100, each of which has room for
// 5 or 6. Nothing of this is measured.
constexpr u32 FRAMES = 16;
constexpr u32 THREADS = 128;
constexpr u32 WARPS = THREADS / LANES;
constexpr u32 GROUPS = THREADS / FRAMES;
constexpr u32 HOP = 160;
constexpr u32 SAMPLES = 400;
constexpr u32 HALF = SAMPLES / 2;
constexpr u32 MELS_MAX = 128;

// Samples of a block's frames, and the same in pairs.
constexpr u32 SPAN = (FRAMES - 1) * HOP + SAMPLES;
constexpr u32 HOP_PAIRS = HOP / 2;
// One word between hops, so that neighbouring frames begin in different banks.
__device__ __forceinline__ u32 place_of_pair(u32 pair) { return pair + pair / HOP_PAIRS; }

// Where the tables begin in `numbers`, as in mod.rs: a window over 32768; turns of 1/200 and 1/400, each cosine and -sine.
constexpr u32 TURNS_200 = SAMPLES;
constexpr u32 TURNS_400 = TURNS_200 + 2 * HALF;

struct Window {
    u32 pcm, samples, from, heard, row, frames;
};
struct Band {
    u32 first, count, weights;
};
struct Complex {
    float re, im;
};

__device__ __forceinline__ Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
__device__ __forceinline__ Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
__device__ __forceinline__ Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// A quarter turn back.
__device__ __forceinline__ Complex back(Complex a) { return {a.im, -a.re}; }
__device__ __forceinline__ Complex turn_of(const float* turns, u32 i) { return {turns[2 * i], turns[2 * i + 1]}; }

// The transform of x[0], x[STEP] and so on, in place.
template <u32 STEP> __device__ __forceinline__ void transform_4(Complex* x) {
    const Complex even = x[0] + x[2 * STEP], evens = x[0] - x[2 * STEP];
    const Complex odd = x[STEP] + x[3 * STEP], odds = back(x[STEP] - x[3 * STEP]);
    x[0] = even + odd;
    x[STEP] = evens + odds;
    x[2 * STEP] = even - odd;
    x[3 * STEP] = evens - odds;
}
__device__ __forceinline__ void transform_8(Complex (&x)[8]) {
    constexpr float ROOT = 0.70710678f;
    transform_4<2>(x);
    transform_4<2>(x + 1);
    const Complex odd[4] = {x[1],
                            {ROOT * (x[3].re + x[3].im), ROOT * (x[3].im - x[3].re)},
                            back(x[5]),
                            {ROOT * (x[7].im - x[7].re), -ROOT * (x[7].re + x[7].im)}};
    const Complex even[4] = {x[0], x[2], x[4], x[6]};
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        x[k] = even[k] + odd[k];
        x[k + 4] = even[k] - odd[k];
    }
}
template <u32 STEP> __device__ __forceinline__ void transform_5(Complex* x) {
    constexpr float COS_1 = 0.309016994f, COS_2 = -0.809016994f, SIN_1 = 0.951056516f, SIN_2 = 0.587785252f;
    const Complex zero = x[0], outer = x[STEP] + x[4 * STEP], inner = x[2 * STEP] + x[3 * STEP];
    const Complex outers = back(x[STEP] - x[4 * STEP]), inners = back(x[2 * STEP] - x[3 * STEP]);
    const Complex mean_1 = {zero.re + COS_1 * outer.re + COS_2 * inner.re, zero.im + COS_1 * outer.im + COS_2 * inner.im};
    const Complex mean_2 = {zero.re + COS_2 * outer.re + COS_1 * inner.re, zero.im + COS_2 * outer.im + COS_1 * inner.im};
    const Complex tilt_1 = {SIN_1 * outers.re + SIN_2 * inners.re, SIN_1 * outers.im + SIN_2 * inners.im};
    const Complex tilt_2 = {SIN_2 * outers.re - SIN_1 * inners.re, SIN_2 * outers.im - SIN_1 * inners.im};
    x[0] = zero + outer + inner;
    x[STEP] = mean_1 + tilt_1;
    x[2 * STEP] = mean_2 + tilt_2;
    x[3 * STEP] = mean_2 - tilt_2;
    x[4 * STEP] = mean_1 - tilt_1;
}
// Number k of the result comes to x[k % 5 * 5 + k / 5].
__device__ __forceinline__ void transform_25(Complex (&x)[25]) {
    // Of i / 25 of a turn.
    const float cosines[17] = {1,             0.968583161f,  0.87630668f,   0.728968627f,  0.535826795f,  0.309016994f,
                               0.0627905195f, -0.187381315f, -0.425779292f, -0.63742399f,  -0.809016994f, -0.929776486f,
                               -0.992114701f, -0.992114701f, -0.929776486f, -0.809016994f, -0.63742399f};
    const float sines[17] = {0,            0.248689887f, 0.481753674f, 0.684547106f,  0.844327926f,  0.951056516f,
                             0.998026728f, 0.982287251f, 0.904827052f, 0.770513243f,  0.587785252f,  0.368124553f,
                             0.125333234f, -0.125333234f, -0.368124553f, -0.587785252f, -0.770513243f};
#pragma unroll
    for (u32 a = 0; a < 5; a++) {
        transform_5<5>(x + a);
#pragma unroll
        for (u32 c = 1; c < 5; c++)
            if (a > 0) x[a + 5 * c] = x[a + 5 * c] * Complex{cosines[a * c], -sines[a * c]};
    }
#pragma unroll
    for (u32 c = 0; c < 5; c++) transform_5<1>(x + 5 * c);
}

// The row of shared memory in which bin k stands behind both transforms.
__device__ __forceinline__ u32 row_of(u32 k) { return k == HALF ? HALF : k % 8 * 25 + k / 8; }

// A pair of samples from `at` on: mirrored before the first, silent behind the last.
__device__ __forceinline__ u32 pair_at(const short* pcm, u32 samples, int at) {
    u32 pair = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u32 from = at + i < 0 ? -(at + i) : at + i;
        if (from < samples) pair |= (u32)(u16)pcm[from] << (16 * i);
    }
    return pair;
}

// Frames of a window that are frames of its segment.
__device__ __forceinline__ u32 heard_of(Window window) {
    const u32 frames = window.samples / HOP;
    return frames > window.from ? min(min(frames - window.from, window.heard), window.frames) : 0;
}

// logs (rows, mels) = log10 of the bands of those frames of the windows' segments that the windows hear, from `pcm`;
// loudest (windows, parts) = the greatest of 16 frames each.
KERNEL(log_mel_bands, THREADS, 4, const short* pcm, const Window* windows, const float* numbers, const Band* bands, float* logs,
       float* loudest, u32 mels, u32 parts) {
    const Window window = windows[blockIdx.y];
    const u32 first = blockIdx.x * FRAMES, frame = threadIdx.x % FRAMES, group = threadIdx.x / FRAMES;
    // One frame more than the window can have takes part in the greatest: it hears the last samples.
    const u32 frames = window.samples / HOP + 1;
    if (first >= frames) return;
    pcm += window.pcm;

    SHARED(u32, pairs, SPAN / 2 + SPAN / HOP + 1);
    for (u32 i = threadIdx.x; i < SPAN / 8; i += THREADS) {
        const int at = (int)(first * HOP + 8 * i) - (int)HALF;
        Pack pack;
        if (at >= 0 && (u32)at + 8 <= window.samples) {
            pack = load16(pcm + at);
        } else {
#pragma unroll
            for (u32 j = 0; j < 4; j++) pack.words[j] = pair_at(pcm, window.samples, at + 2 * (int)j);
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) pairs[place_of_pair(4 * i) + j] = pack.words[j];
    }
    __syncthreads();

    // (bins and what comes before them, frames)
    SHARED(float, re, (HALF + 1) * FRAMES);
    SHARED(float, im, HALF* FRAMES);
    for (u32 i = group; i < 25; i += GROUPS) {
        Complex x[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            const u32 pair = i + 25 * j, word = pairs[place_of_pair(frame * HOP_PAIRS + pair)];
            const Complex weights = turn_of(numbers, pair);
            x[j] = {(float)(short)(u16)word * weights.re, (float)(short)(u16)(word >> 16) * weights.im};
        }
        transform_8(x);
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
            const Complex turned = k ? x[k] * turn_of(numbers + TURNS_200, i * k) : x[k];
            re[(25 * k + i) * FRAMES + frame] = turned.re;
            im[(25 * k + i) * FRAMES + frame] = turned.im;
        }
    }
    __syncthreads();
    {
        const u32 row = group * 25;
        Complex x[25];
#pragma unroll
        for (u32 i = 0; i < 25; i++) x[i] = {re[(row + i) * FRAMES + frame], im[(row + i) * FRAMES + frame]};
        transform_25(x);
#pragma unroll
        for (u32 k = 0; k < 25; k++) {
            re[(row + k) * FRAMES + frame] = x[k % 5 * 5 + k / 5].re;
            im[(row + k) * FRAMES + frame] = x[k % 5 * 5 + k / 5].im;
        }
    }
    __syncthreads();
    // Bins k and 200 - k, squared, to where they stood.
    for (u32 k = group; k <= HALF / 2; k += GROUPS) {
        const u32 low = row_of(k) * FRAMES + frame, high = row_of(HALF - k) * FRAMES + frame;
        if (k == 0) {
            const float even = re[low], odd = im[low];
            re[low] = (even + odd) * (even + odd);
            re[high] = (even - odd) * (even - odd);
        } else {
            const Complex a = {re[low], im[low]}, b = {re[high], im[high]};
            // Transforms of the even and of the odd samples.
            const Complex even = {0.5f * (a.re + b.re), 0.5f * (a.im - b.im)};
            const Complex odd = {0.5f * (a.im + b.im), 0.5f * (b.re - a.re)};
            const Complex turned = odd * turn_of(numbers + TURNS_400, k);
            const Complex sum = even + turned, difference = even - turned;
            re[low] = sum.re * sum.re + sum.im * sum.im;
            re[high] = difference.re * difference.re + difference.im * difference.im;
        }
    }
    __syncthreads();
    // The logarithms stand where the imaginary parts stood, a frame's side by side, and come from there in whole rows. Frames begin two
    // banks apart, so that two bands of 16 find all banks.
    static_assert(FRAMES * (MELS_MAX + 2) <= HALF * FRAMES, "the logarithms have room");
    const u32 pitch = mels + 2;
    float top = -INFINITY;
    for (u32 mel = group; mel < mels; mel += GROUPS) {
        const Band band = bands[mel];
        float energy = 0;
        for (u32 i = 0; i < band.count; i++)
            energy += numbers[band.weights + i] * re[row_of(band.first + i) * FRAMES + frame];
        const float value = log10f(fmaxf(energy, 1e-10f));
        im[frame * pitch + mel] = value;
        if (first + frame < frames) top = fmaxf(top, value);
    }
    SHARED(float, tops, WARPS);
    const u32 lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    top = warp_max(top);
    if (lane == 0) tops[warp] = top;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 1; i < WARPS; i++) top = fmaxf(top, tops[i]);
        loudest[blockIdx.y * parts + blockIdx.x] = top;
    }
    const u32 heard = heard_of(window);
    for (u32 i = warp; i < FRAMES; i += WARPS) {
        const u32 of_window = first + i - window.from;
        if (first + i < window.from || of_window >= heard) continue;
        float* row = logs + (u64)(window.row + of_window) * mels;
        for (u32 mel = lane; mel < mels; mel += LANES) row[mel] = im[i * pitch + mel];
    }
}

// A thread makes eight numbers of a row: 32 bytes are read and 16 written.
constexpr u32 FINISH_THREADS = 256;
constexpr u32 FINISH_WARPS = FINISH_THREADS / LANES;

// spectrogram (rows, mels) = the logarithms, no more than 8 below the loudest of the segment, plus 4, over 4; zeros where the
// window hears nothing.
template <class T>
__device__ __forceinline__ void finish(const Window* windows, const float* logs, const float* loudest, T* spectrogram, u32 mels,
                                       u32 parts) {
    const Window window = windows[blockIdx.y];
    const u32 i = (blockIdx.x * FINISH_THREADS + threadIdx.x) * 8, count = window.frames * mels;
    if (blockIdx.x * FINISH_THREADS * 8 >= count) return;
    float top = -INFINITY;
    for (u32 part = threadIdx.x; part * FRAMES <= window.samples / HOP; part += FINISH_THREADS)
        top = fmaxf(top, loudest[blockIdx.y * parts + part]);
    SHARED(float, tops, FINISH_WARPS);
    top = warp_max(top);
    if (threadIdx.x % LANES == 0) tops[threadIdx.x / LANES] = top;
    __syncthreads();
    if (i >= count) return;
#pragma unroll
    for (u32 j = 0; j < FINISH_WARPS; j++) top = fmaxf(top, tops[j]);

    const u64 place = (u64)window.row * mels + i;
    float values[8] = {};
    if (i / mels < heard_of(window)) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float four[4];
            unpack(load16(logs + place + 4 * half), four);
#pragma unroll
            for (u32 j = 0; j < 4; j++) values[4 * half + j] = (fmaxf(four[j], top - 8) + 4) * 0.25f;
        }
    }
    Pack pack;
#pragma unroll
    for (u32 j = 0; j < 4; j++) pack.words[j] = pair_of<T>(values[2 * j], values[2 * j + 1]);
    store16(spectrogram + place, pack);
}

#define FINISH(T)                                                                                                      \
    KERNEL(log_mel_finish_##T, FINISH_THREADS, 4, const Window* windows, const float* logs, const float* loudest,      \
           T* spectrogram, u32 mels, u32 parts) {                                                                      \
        finish<T>(windows, logs, loudest, spectrogram, mels, parts);                                                   \
    }

FINISH(f16)
FINISH(bf16)
