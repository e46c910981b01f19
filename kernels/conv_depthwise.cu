// conv_depthwise.cu: convolutions with one channel a group on both sides, their input gradients and weight gradients.
//
//   computes   conv_depthwise: y[pixel, c] = list(sum over taps t of x[source(pixel, t), c] * w[t][c]), taps as in lib/taps.cuh
//              conv_depthwise_grad_weight: parts[split][c][t] = sum over the split's pixels of y[pixel, c] * x[source(pixel, t), c]
//   shapes     x : [N, H, W, C] in X;  y : [N, P, Q, C] in Y, the gradient for the second entry;  w : [R * S, C] f32;
//              parts : [splits, C, pitch] f32, summed by conv_grad_weight_sum
//   launch     conv_depthwise: one thread for eight channels of four pixels: grid (ceil(ceil(pixels / 4) * ceil(C / 8) / 256), 1,
//              phases), block 256
//              conv_depthwise_grad_weight: grid (ceil(C / 64), R * S, splits), block 256
//   constants  P_X and P_Y storage (0 f32, 1 bf16, 2 fp16), P_C channels, P_TAPS >= R * S, P_EPI, P_CAP, P_HALF as in epilogue.cuh
//   limits     fewer than 2^31 pixels
//   order      taps in row-major order;  of a split each of 32 lanes sums every 32nd pixel, 64 at a time, then lanes in order
//   source     none
//   twins      src/gpu/conv.rs  src/cpu/conv.rs  tests/kernels/conv.rs  benches/ops/conv.rs
#include "lib/epilogue.cuh"
#include "lib/taps.cuh"

constexpr int C = P_C, TAPS = P_TAPS, THREADS = 256;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_HALF>::type Half;
constexpr int RUN = 4;                    // pixels of a thread
constexpr int VECTORS = (C + VEC - 1) / VEC;
constexpr int WIDE = 8, LANES = THREADS / WIDE, BLOCK = 64; // vectors and pixel lanes of a block, terms of a partial sum
static_assert(C > 0 && TAPS > 0, "conv_depthwise: sizes");
static_assert(TAPS * 16 <= 48 << 10, "conv_depthwise: shared memory");

extern "C" __global__ __launch_bounds__(THREADS, 2)
void conv_depthwise(const X* __restrict__ x, const float* __restrict__ w, Y* y, EPI_PARAMS, GEOMETRY_PARAMS, int n) {
    __shared__ Tap list[TAPS];
    const Geometry g = GEOMETRY_VALUE;
    const Phase phase = phase_of(g, blockIdx.z);
    const int taps = build_taps(g, phase, list);
    __syncthreads();
    const i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
    const int c0 = (int)(at % VECTORS) * VEC, first = (int)(at / VECTORS) * RUN;
    Pixel pixels[RUN];
#pragma unroll
    for (int i = 0; i < RUN; i++) pixels[i] = pixel_of(g, phase, n, first + i);
    float sum[RUN][VEC] = {};
    for (int t = 0; t < taps; t++) {
        const Tap tap = list[t];
        float weights[VEC];
        load_row<C>(w + (i64)tap.weight * C, c0, weights);
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            const int source = source_of(g, pixels[i], tap);
            if (source < 0) continue;
            float v[VEC];
            load_row<C>(x + (i64)source * C, c0, v);
#pragma unroll
            for (int j = 0; j < VEC; j++) sum[i][j] = fmaf(v[j], weights[j], sum[i][j]);
        }
    }
    const Epilogue<P_EPI, C, Half, P_CAP> epilogue = EPI_OPERANDS;
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        if (pixels[i].result < 0) continue;
        epilogue.apply(sum[i], pixels[i].result, c0);
        store_row<C>(y + (i64)pixels[i].result * C, c0, sum[i]);
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 2)
void conv_depthwise_grad_weight(const X* __restrict__ x, const Y* __restrict__ dy, float* parts, GEOMETRY_PARAMS, int n, int split_pixels,
                                int pitch) {
    __shared__ float sums[LANES][WIDE * VEC];
    const Geometry g = GEOMETRY_VALUE;
    const Phase phase = phase_of(g, 0);
    const int vector = threadIdx.x % WIDE, lane = threadIdx.x / WIDE, t = blockIdx.y, split = blockIdx.z;
    const int c0 = (blockIdx.x * WIDE + vector) * VEC;
    const Tap tap = {t / g.s * g.dh - g.ph, t % g.s * g.dw - g.pw, t, 0};
    const int from = split * split_pixels, pixels = n * g.p * g.q;
    const int to = c0 >= C ? from : pixels - from < split_pixels ? pixels : from + split_pixels;
    float total[VEC] = {}, sum[VEC] = {};
    int terms = 0;
    for (int at = from + lane; at < to; at += LANES) {
        const Pixel pixel = pixel_of(g, phase, n, at);
        const int source = source_of(g, pixel, tap);
        if (source < 0) continue;
        float a[VEC], b[VEC];
        load_row<C>(x + (i64)source * C, c0, a);
        load_row<C>(dy + (i64)pixel.result * C, c0, b);
#pragma unroll
        for (int i = 0; i < VEC; i++) sum[i] = fmaf(a[i], b[i], sum[i]);
        if (++terms % BLOCK == 0) {
#pragma unroll
            for (int i = 0; i < VEC; i++) total[i] += sum[i], sum[i] = 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < VEC; i++) sums[lane][vector * VEC + i] = total[i] + sum[i];
    __syncthreads();
    const int channel = blockIdx.x * WIDE * VEC + threadIdx.x;
    if (threadIdx.x < WIDE * VEC && channel < C) {
        float all = 0.0f;
        for (int i = 0; i < LANES; i++) all += sums[i][threadIdx.x];
        parts[((i64)split * C + channel) * pitch + t] = all;
    }
}
