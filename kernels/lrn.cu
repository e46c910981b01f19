// lrn.cu: local response normalisation across channels, and its gradient.
//
//   computes   lrn_forward: y[k] = x[k] * p[k], p[k] = base[k] ^ -BETA, base[k] = BIAS + ALPHA / SIZE * sum of x^2 over the
//              channels k - BEFORE .. k + AFTER of the pixel, as far as there are any; BEFORE = SIZE / 2, AFTER = (SIZE - 1) / 2
//              lrn_terms: t[k] = g[k] * x[k] * p[k] / base[k]
//              lrn_grad: dx[k] = g[k] * p[k] - 2 * ALPHA * BETA / SIZE * x[k] * sum of t over k - AFTER .. k + BEFORE
//   shapes     x in X; y, g in Y; dx in DX; all [PIXELS, C];  t : [PIXELS, C] f32
//   launch     one thread a value: grid (ceil(TOTAL / 256)), block 256
//   constants  P_X, P_Y, P_DX storage (0 f32, 1 bf16, 2 fp16)
//   limits     TOTAL < 2^31;  BIAS > 0
//   order      channels upwards, in f64
//   source     Krizhevsky et al., NIPS 2012; the window is PyTorch's
//   twins      src/gpu/lrn.rs  src/cpu/lrn.rs  tests/kernels/lrn.rs  benches/ops/lrn.rs
#include "lib/num.cuh"

constexpr int THREADS = 256;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_DX>::type DX;

#define PLACE                                                                                                                \
    const u32 at = blockIdx.x * THREADS + threadIdx.x;                                                                       \
    if (at >= (u32)total) return;                                                                                            \
    const int k = (int)(at % (u32)c), before = size / 2, after = (size - 1) / 2;                                             \
    const double share = (double)alpha / (double)size

// What channel k of the pixel that holds `x` is divided by, before the exponent.
DEV double base_of(const X* x, int k, int c, int before, int after, double share, double bias) {
    double sum = 0.0;
    for (int i = max(-before, -k); i <= min(after, c - 1 - k); i++) {
        const double v = (double)widen(x[i]);
        sum += v * v;
    }
    return bias + share * sum;
}
DEV double power_of(double base, double beta) { return exp2(-beta * log2(base)); }

extern "C" __global__ __launch_bounds__(THREADS)
void lrn_forward(const X* __restrict__ x, Y* __restrict__ y, int total, int c, int size, float alpha, float beta,
                 float bias) {
    PLACE;
    const double power = power_of(base_of(x + at, k, c, before, after, share, (double)bias), (double)beta);
    y[at] = narrow<Y>((float)((double)widen(x[at]) * power));
}

extern "C" __global__ __launch_bounds__(THREADS)
void lrn_terms(const Y* __restrict__ g, const X* __restrict__ x, float* __restrict__ t, int total, int c, int size,
               float alpha, float beta, float bias) {
    PLACE;
    const double base = base_of(x + at, k, c, before, after, share, (double)bias);
    t[at] = (float)((double)widen(g[at]) * (double)widen(x[at]) * power_of(base, (double)beta) / base);
}

extern "C" __global__ __launch_bounds__(THREADS)
void lrn_grad(const Y* __restrict__ g, const X* __restrict__ x, const float* __restrict__ t, DX* __restrict__ dx, int total, int c,
              int size, float alpha, float beta, float bias) {
    PLACE;
    double sum = 0.0;
    for (int i = max(-after, -k); i <= min(before, c - 1 - k); i++) sum += (double)t[(i64)at + i];
    const double power = power_of(base_of(x + at, k, c, before, after, share, (double)bias), (double)beta);
    dx[at] = narrow<DX>((float)((double)widen(g[at]) * power - 2.0 * share * (double)beta * (double)widen(x[at]) * sum));
}
