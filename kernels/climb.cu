// climb.cu: losses against given logits, the moments and the step of Adam, and starts close to the image.
//
//   computes   climb_kl: y = sum p (log p - log q), p = softmax(clean), q = softmax(z);  climb_kl_grad: y = q - p
//   shapes     z, clean : [N, CLASSES] f32;  y : [N], of climb_kl_grad [N, CLASSES]
//   launch     a warp takes an image: grid (ceil(N / 8)), block 256
//   constants  none
//   limits     arithmetic in f64;  a NaN makes the row NaN
//   order      sums over a row by warps: fixed by CLASSES
//   source     Zhang et al. 2019, https://arxiv.org/abs/1901.08573
//   twins      src/gpu/climb.rs  src/cpu/climb.rs  tests/kernels/climb.rs
//
//   computes   climb_moment: y = keep * m + (1 - keep) * g, with SQUARE of g * g
//              climb_adam: y = clip(x0 + clamp(x + alpha * d - x0, -eps, eps), 0, 1),
//              d = m / (1 - first^t) / (sqrt(v / (1 - second^t)) + 1e-8), t = turns + 1
//   shapes     y, m, v, g, x, x0 : [N, ELEMS] f32;  alpha, eps : [N];  state : [N, 2], turns first
//   launch     PARTS blocks an image, an element a thread: grid (N * PARTS), block 256
//   constants  none
//   limits     y may be m, or x;  powers in f64
//   order      no reductions: the bits of the CPU
//   source     Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
//   twins      src/gpu/climb.rs  src/cpu/climb.rs  tests/kernels/climb.rs
//
//   computes   climb_shake: y = clip(x0 + length * N(0,1), 0, 1), numbers by purpose Start
//   shapes     y, x0 : [N, HW, C] f32, numbers drawn in the order [C, HW];  index, restart : [N] i32;  length : [N];
//              seed : its lower and upper word, then a step
//   launch     PARTS blocks an image, four elements a thread: grid (N * PARTS), block 256
//   constants  none
//   limits     0 <= restart < 2^16
//   order      no reductions: the bits of the CPU
//   source     Zhang et al. 2019
//   twins      src/gpu/climb.rs  src/cpu/climb.rs  tests/kernels/climb.rs
#include "lib/reduce_row.cuh"
#include "lib/rng.cuh"

constexpr int FLAT = 256;
typedef Team<32> Warp;

// One row of logits: its highest value, and the sum of exp(z - top).
struct Softmax {
    const float* z;
    double top, total;

    DEV Softmax(const float* z, int classes) : z(z) {
        double best = __uint_as_float(0xff800000u), part = 0.0;
        for (int i = Warp::rank(); i < classes; i += 32) best = MaxOrNan()(best, (double)z[i]);
        top = Warp::join(best, MaxOrNan());
        for (int i = Warp::rank(); i < classes; i += 32) part += exp((double)z[i] - top);
        total = Warp::sum(part);
    }
    DEV double share(int i) const { return exp((double)z[i] - top) / total; }
    DEV double log_share(int i) const { return (double)z[i] - top - log(total); }
};

// The row of a warp; the last one again where there are no more, which must not be stored twice.
DEV int row_of(int n) { return min((int)(blockIdx.x * (FLAT / 32) + threadIdx.x / 32), n - 1); }
DEV bool mine(int n) { return (int)(blockIdx.x * (FLAT / 32) + threadIdx.x / 32) < n; }

extern "C" __global__ __launch_bounds__(FLAT)
void climb_kl(float* y, const float* z, const float* clean, int classes, int n) {
    const int row = row_of(n);
    const Softmax q(z + (i64)row * classes, classes), p(clean + (i64)row * classes, classes);
    double part = 0.0;
    for (int i = Warp::rank(); i < classes; i += 32) {
        const double share = p.share(i);
        // A class that cannot be says nothing.
        part += share == 0.0 ? 0.0 : share * (p.log_share(i) - q.log_share(i));
    }
    const double sum = Warp::sum(part);
    if (Warp::rank() == 0 && mine(n)) y[row] = (float)sum;
}

extern "C" __global__ __launch_bounds__(FLAT)
void climb_kl_grad(float* y, const float* z, const float* clean, int classes, int n) {
    const int row = row_of(n);
    const Softmax q(z + (i64)row * classes, classes), p(clean + (i64)row * classes, classes);
    for (int i = Warp::rank(); i < classes && mine(n); i += 32) y[(i64)row * classes + i] = (float)(q.share(i) - p.share(i));
}

extern "C" __global__ __launch_bounds__(FLAT)
void climb_moment(float* y, const float* m, const float* g, float keep, int square, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, i = (int)blockIdx.x % parts * FLAT + (int)threadIdx.x;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const float slope = g[at], next = square ? __fmul_rn(slope, slope) : slope;
    y[at] = __fadd_rn(__fmul_rn(keep, m[at]), __fmul_rn(__fadd_rn(1.0f, -keep), next));
}

// base^exponent by squaring, as the twin does.
DEV double power(double base, int exponent) {
    double out = 1.0;
    for (; exponent > 0; exponent /= 2) {
        if (exponent % 2 == 1) out *= base;
        base *= base;
    }
    return out;
}

extern "C" __global__ __launch_bounds__(FLAT)
void climb_adam(float* y, const float* x, const float* x0, const float* m, const float* v, const float* alpha, const float* eps,
                const float* state, float first, float second, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, i = (int)blockIdx.x % parts * FLAT + (int)threadIdx.x;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const int t = (int)state[2 * image] + 1;
    const float mean = m[at] / (float)(1.0 - power(first, t)), spread = v[at] / (float)(1.0 - power(second, t));
    const float way = mean / __fadd_rn(__fsqrt_rn(spread), 1e-8f), radius = eps[image], base = x0[at];
    const float delta = __fadd_rn(__fadd_rn(x[at], __fmul_rn(alpha[image], way)), -base);
    y[at] = clamp_keep_nan(__fadd_rn(base, clamp_keep_nan(delta, -radius, radius)), 0.0f, 1.0f);
}

extern "C" __global__ __launch_bounds__(FLAT)
void climb_shake(float* y, const float* x0, const int* index, const int* restart, const float* length, const int* seed, int hw,
                 int channels, int parts) {
    const int image = (int)blockIdx.x / parts, number = (int)blockIdx.x % parts * FLAT + (int)threadIdx.x;
    const i64 row = (i64)image * hw * channels, words = (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]);
    u32 w[4];
    float v[4];
    Stream(words, index[image], seed[2], DRAW_START, restart[image]).block((u32)number, w);
    draw_normals(w, v);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int e = number * 4 + k;
        if (e >= hw * channels) break;
        const i64 at = row + e % hw * channels + e / hw;
        y[at] = clamp_keep_nan(__fadd_rn(x0[at], __fmul_rn(length[image], v[k])), 0.0f, 1.0f);
    }
}
