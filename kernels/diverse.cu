// diverse.cu: images resized into a frame of zeros by chance, the adjoint for their gradients, and the blur of a gradient.
//
//   computes   diverse_resize: with probability p an image resized into a frame of zeros, and the frame resized to the image
//              where it is larger, both bilinear; else the image.  diverse_resize_grad: the adjoint of the same draw
//   shapes     y, x : [N, H, W, C] f32;  index, restart : [N] i32;  state : [N, 2], turns first;  seed : its lower and upper
//              word, then one that is not read
//   launch     PARTS blocks an image, an element a thread: grid (N * PARTS), block 256
//   constants  none
//   limits     y is not x;  LOW and CHOICES of a side, then its frame, as Diversity::sides: half to twice the size
//   order      each element adds up by rows, then columns: the bits of the CPU
//   source     Xie et al. 2019, https://arxiv.org/abs/1803.06978;  bilinear as PyTorch's interpolate
//   twins      src/gpu/momentum.rs  src/cpu/diverse.rs  tests/kernels/momentum.rs
//
//   computes   diverse_blur: each channel convolved with TAPS taps along rows, then along columns, zeros outside
//   shapes     y, g : [N, H, W, C] f32;  taps : [TAPS]
//   launch     a block takes a tile of 16 x 16 pixels of one channel of an image: grid (N * C * TILES), block 256
//   constants  none
//   limits     y is not g;  TAPS odd, at most 31
//   order      by taps: the bits of the CPU
//   source     Dong et al. 2019, https://arxiv.org/abs/1904.02884
//   twins      src/gpu/momentum.rs  src/cpu/momentum.rs  tests/kernels/momentum.rs
#include "lib/rng.cuh"

constexpr int FLAT = 256;

// Two pixels around a place, with their weights.
struct Pair { int at[2]; float weight[2]; };

// What pixel `i` of `to` is made of among `from` pixels.
DEV Pair linear(int i, int from, int to) {
    const float place = fmaxf(__fadd_rn(__fmul_rn((float)from / (float)to, (float)i + 0.5f), -0.5f), 0.0f);
    const int low = min((int)place, from - 1);
    const float share = __fadd_rn(place, -(float)low);
    return {{low, min(low + 1, from - 1)}, {__fadd_rn(1.0f, -share), share}};
}

// One side of an image: pixels, pixels when resized, zeros before these, pixels of the frame.
struct Side {
    int size, resized, before, frame;

    DEV Side(int size, int low, int choices, int frame, u32 bits, u32 place) : size(size), frame(frame) {
        resized = low + (int)__umulhi(bits, (u32)choices);
        before = (int)__umulhi(place, (u32)max(frame - resized, 1));
    }
    // f(pixel of the image, weight) for what pixel `i` of the result is made of.
    template <class F> DEV void parts(int i, F f) const {
        const Pair framed = linear(i, frame, size);
#pragma unroll
        for (int a = 0; a < 2; a++) {
            const int inner = framed.at[a] - before;
            if (framed.weight[a] == 0.0f || inner < 0 || inner >= resized) continue;
            const Pair source = linear(inner, size, resized);
#pragma unroll
            for (int b = 0; b < 2; b++) {
                if (source.weight[b] != 0.0f) f(source.at[b], __fmul_rn(framed.weight[a], source.weight[b]));
            }
        }
    }
    // f(pixel of the result, weight) for what pixel `i` of the image is a part of. Pixels move by at most three from where
    // the scales alone put them.
    template <class F> DEV void uses(int i, F f) const {
        const float middle = (((float)i + 0.5f) * (float)resized / (float)size + (float)before) * (float)size / (float)frame;
        const int first = max((int)middle - REACH, 0), last = min((int)middle + REACH, size - 1);
        for (int to = first; to <= last; to++) {
            parts(to, [&](int at, float weight) {
                if (at == i) f(to, weight);
            });
        }
    }
    static constexpr int REACH = 6;
};

template <bool ADJOINT> DEV void resize(float* y, const float* x, const int* index, const int* restart, const float* state,
                                        const int* seed, float p, const int (&height)[4], const int (&width)[4], int channels,
                                        int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = part * FLAT + (int)threadIdx.x, elems = height[0] * width[0] * channels;
    if (i >= elems) return;
    x += (i64)image * elems, y += (i64)image * elems;
    const i64 words = (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]);
    u32 w[4];
    // A block of numbers behind those of every pixel.
    Stream(words, index[image], (int)state[2 * image], DRAW_TRANSFER, restart[image]).block(0x3ffffffcu, w);
    if (unit(w[0]) >= p) {
        y[i] = x[i];
        return;
    }
    const Side rows(height[0], height[1], height[2], height[3], w[1], w[2]);
    const Side columns(width[0], width[1], width[2], width[3], w[1], w[3]);
    const int channel = i % channels, column = i / channels % width[0], row = i / channels / width[0];
    float sum = 0.0f;
    const auto across = [&](int from_row, float a) {
        const auto add = [&](int from, float b) {
            sum = __fadd_rn(sum, __fmul_rn(__fmul_rn(a, b), x[(from_row * width[0] + from) * channels + channel]));
        };
        if constexpr (ADJOINT) columns.uses(column, add);
        else columns.parts(column, add);
    };
    if constexpr (ADJOINT) rows.uses(row, across);
    else rows.parts(row, across);
    y[i] = sum;
}

extern "C" __global__ __launch_bounds__(FLAT)
void diverse_resize(float* y, const float* x, const int* index, const int* restart, const float* state, const int* seed, float p,
                    int h, int low_h, int choices_h, int frame_h, int w, int low_w, int choices_w, int frame_w, int channels,
                    int parts) {
    const int height[4] = {h, low_h, choices_h, frame_h}, width[4] = {w, low_w, choices_w, frame_w};
    resize<false>(y, x, index, restart, state, seed, p, height, width, channels, parts);
}

// Four blocks at least: held to more, it spills on sm_80.
extern "C" __global__ __launch_bounds__(FLAT, 4)
void diverse_resize_grad(float* y, const float* x, const int* index, const int* restart, const float* state, const int* seed,
                         float p, int h, int low_h, int choices_h, int frame_h, int w, int low_w, int choices_w, int frame_w,
                         int channels, int parts) {
    const int height[4] = {h, low_h, choices_h, frame_h}, width[4] = {w, low_w, choices_w, frame_w};
    resize<true>(y, x, index, restart, state, seed, p, height, width, channels, parts);
}

constexpr int TILE = 16, MOST = 31, WIDE = TILE + MOST - 1;

extern "C" __global__ __launch_bounds__(TILE * TILE)
void diverse_blur(float* y, const float* g, const float* __restrict__ taps, int count, int h, int w, int channels, int tiles_h,
                  int tiles_w) {
    __shared__ float tile[WIDE][WIDE + 1], rows[WIDE][TILE + 1];
    int b = (int)blockIdx.x;
    const int left = b % tiles_w * TILE;
    b /= tiles_w;
    const int top = b % tiles_h * TILE;
    b /= tiles_h;
    const int channel = b % channels, reach = count / 2, wide = TILE + 2 * reach;
    const i64 image = (i64)(b / channels) * h * w * channels + channel;
    for (int i = (int)threadIdx.x; i < wide * wide; i += TILE * TILE) {
        const int row = top + i / wide - reach, column = left + i % wide - reach;
        const bool inside = row >= 0 && row < h && column >= 0 && column < w;
        tile[i / wide][i % wide] = inside ? g[image + (i64)(row * w + column) * channels] : 0.0f;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < wide * TILE; i += TILE * TILE) {
        const int column = left + i % TILE - reach;
        float sum = 0.0f;
        for (int t = 0; t < count; t++) {
            if (column + t >= 0 && column + t < w) sum = __fadd_rn(sum, __fmul_rn(taps[t], tile[i / TILE][i % TILE + t]));
        }
        rows[i / TILE][i % TILE] = sum;
    }
    __syncthreads();
    const int row = top + (int)threadIdx.x / TILE, column = left + (int)threadIdx.x % TILE;
    float sum = 0.0f;
    for (int t = 0; t < count; t++) {
        const int from = row + t - reach;
        if (from >= 0 && from < h) sum = __fadd_rn(sum, __fmul_rn(taps[t], rows[(int)threadIdx.x / TILE + t][(int)threadIdx.x % TILE]));
    }
    if (row < h && column < w) y[image + (i64)(row * w + column) * channels] = sum;
}
