// See mod.rs for the contract.
#include "output.cuh"
#include "product.cuh"

// As in mod.rs.
struct Window {
    u32 frame, frames, position;
};

// A convolution over three frames is a product: what a row is multiplied with are three neighbouring frames, which stand side by
// side. A block makes a tile of one window, so that it needs no other's place; blocks behind a window's last row end at once.
//
// in (frames of all windows, channels), w (width, 3, channels). Every STRIDE frames of a window have a row; finish(window, row,
// column, values) gets eight values of one behind the activation.
template <class T, u32 TILE, u32 STRIDE, class Finish>
__device__ __forceinline__ void conv(const T* in, const Window* windows, const T* w, const float* bias, u32 channels, u32 width,
                                     Finish finish) {
    const Window window = windows[blockIdx.z];
    const u32 first_row = blockIdx.y * TILE, rows = (window.frames + STRIDE - 1) / STRIDE;
    if (first_row >= rows) return;
    const T* frames = in + (u64)window.frame * channels;
    const auto place_of = [&](u32 i, u32 k) {
        // Where it stands in the window with a frame of zeros in front of it; behind its last frame is another.
        const u32 at = (first_row + i) * STRIDE * channels + k;
        return at >= channels && at < (window.frames + 1) * channels ? frames + (at - channels) : nullptr;
    };
    product<T, TILE>(place_of, w, bias, blockIdx.x * TILE, 3 * channels, width, [&](u32 i, u32 column, float(&values)[8]) {
        if (first_row + i >= rows) return;
#pragma unroll
        for (u32 j = 0; j < 8; j++) values[j] = gelu(values[j]);
        finish(window, first_row + i, column, values);
    });
}

// hidden (frames, width) = GELU(mel (frames, mels) convolved with w + bias)
template <class T, u32 TILE>
__device__ __forceinline__ void first(const T* mel, const Window* windows, const T* w, const float* bias, T* hidden, u32 mels,
                                      u32 width) {
    conv<T, TILE, 1>(mel, windows, w, bias, mels, width, [&](const Window& window, u32 row, u32 column, float(&values)[8]) {
        store_sums(hidden, (u64)(window.frame + row) * width + column, values);
    });
}

// x (positions, width) = GELU(every other frame of hidden convolved with w + bias) + places (positions of a window, width)
template <class T, u32 TILE>
__device__ __forceinline__ void second(const T* hidden, const Window* windows, const T* w, const float* bias, const float* places,
                                       float* x, u32 width) {
    conv<T, TILE, 2>(hidden, windows, w, bias, width, width, [&](const Window& window, u32 row, u32 column, float(&values)[8]) {
#pragma unroll
        for (u32 half = 0; half < 8; half += 4) {
            float four[4];
            unpack(load16(places + (u64)row * width + column + half), four);
#pragma unroll
            for (u32 j = 0; j < 4; j++) values[half + j] += four[j];
        }
        store_sums(x, (u64)(window.position + row) * width + column, values);
    });
}

#define CONV(T, TILE, BLOCKS)                                                                                          \
    KERNEL(conv_first_##TILE##_##T, PRODUCT_THREADS, BLOCKS, const T* mel, const Window* windows, const T* w,             \
           const float* bias, T* hidden, u32 mels, u32 width) {                                                        \
        first<T, TILE>(mel, windows, w, bias, hidden, mels, width);                                                    \
    }                                                                                                                  \
    KERNEL(conv_second_##TILE##_##T, PRODUCT_THREADS, BLOCKS, const T* hidden, const Window* windows, const T* w,         \
           const float* bias, const float* places, float* x, u32 width) {                                              \
        second<T, TILE>(hidden, windows, w, bias, places, x, width);                                                   \
    }

CONV(f16, 128, 2)
CONV(bf16, 128, 2)
CONV(f16, 64, 4)
CONV(bf16, 64, 4)
