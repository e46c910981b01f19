// momentum.cu: what attacks with a momentum keep between networks: places of gradients, their sums, the momentum.
//
//   computes   momentum_tick: y = (turns + 1, factor / 2, or 1 after 2^(1 - COPIES))
//   shapes     state, y : [N, 2] f32
//   launch     momentum_tick: one thread a row: grid (ceil(N / 256)), block 256
//   constants  P_VEC: 4 where it divides ELEMS, else 1;  P_THREADS of a block that owns an image
//   limits     y may be state;  1 <= COPIES <= 32
//   order      no reductions
//   source     Lin et al. 2020, https://arxiv.org/abs/1908.06281
//   twins      src/gpu/momentum.rs  src/cpu/momentum.rs  tests/kernels/momentum.rs
//
//   computes   momentum_ahead: y = (x + reach * m) * factor
//              momentum_accumulate: y = sum + share * factor * g
//   shapes     y, x, m, sum, g : [N, ELEMS] f32;  reach : [N];  state : [N, 2], the factor second
//   launch     PARTS blocks an image, VEC elements a thread: grid (N * PARTS), block 256
//   constants  as above
//   limits     y may be x or sum
//   order      no reductions; contraction cannot change a bit: the bits of the CPU
//   source     Lin et al. 2020
//   twins      src/gpu/momentum.rs  src/cpu/momentum.rs  tests/kernels/momentum.rs
//
//   computes   momentum_jitter: y = (x + length * (2u - 1)) * factor, u in [0,1) by purpose Transfer and the turn
//   shapes     y, x : [N, HW, C] f32, numbers drawn in the order [C, HW];  index, restart : [N] i32;  length : [N];
//              state : [N, 2];  seed : its lower and upper word, then one that is not read
//   launch     PARTS blocks an image, four elements a thread: grid (N * PARTS), block 256
//   constants  as above
//   limits     y may be x;  0 <= restart < 2^16
//   order      no reductions: the bits of the CPU
//   source     Wang and He 2021, https://arxiv.org/abs/2103.15571
//   twins      src/gpu/momentum.rs  src/cpu/momentum.rs  tests/kernels/momentum.rs
//
//   computes   momentum_step: y = decay * m + g / max(mean |g|, 1e-12)
//   shapes     y, m, g : [N, ELEMS] f32;  decay : [N]
//   launch     block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be m;  a NaN in g makes the whole image NaN;  the mean in f64, rounded once
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Dong et al. 2018, https://arxiv.org/abs/1710.06081
//   twins      src/gpu/momentum.rs  src/cpu/momentum.rs  tests/kernels/momentum.rs
#include "lib/reduce_row.cuh"
#include "lib/rng.cuh"

constexpr int VEC = P_VEC, THREADS = P_THREADS, FLAT = 256;
static_assert(VEC == 1 || VEC == 4, "momentum: elements one by one or as float4");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "momentum: whole warps");
typedef Team<THREADS> Block;

// VEC elements side by side; rows of whole vectors are aligned.
struct __align__(4 * VEC) Pack { float v[VEC]; };
DEV Pack load(const float* p) { return *(const Pack*)p; }
DEV void store(float* p, const Pack& v) { *(Pack*)p = v; }

extern "C" __global__ __launch_bounds__(FLAT)
void momentum_tick(float* y, const float* state, int copies, int n) {
    const int i = (int)(blockIdx.x * FLAT + threadIdx.x);
    if (i >= n) return;
    const float turns = state[2 * i], factor = state[2 * i + 1];
    const float last = __uint_as_float((u32)(128 - copies) << 23);   // 2^(1 - copies)
    y[2 * i] = turns + 1.0f;
    y[2 * i + 1] = factor > last ? 0.5f * factor : 1.0f;
}

extern "C" __global__ __launch_bounds__(FLAT)
void momentum_ahead(float* y, const float* x, const float* __restrict__ m, const float* __restrict__ reach,
                    const float* __restrict__ state, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const float step = reach[image], factor = state[2 * image + 1];
    const Pack from = load(x + at), way = load(m + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) to.v[k] = __fmul_rn(__fadd_rn(from.v[k], __fmul_rn(step, way.v[k])), factor);
    store(y + at, to);
}

extern "C" __global__ __launch_bounds__(FLAT)
void momentum_accumulate(float* y, const float* sum, const float* __restrict__ g, const float* __restrict__ state, float share,
                         int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const float weight = __fmul_rn(share, state[2 * image + 1]);
    const Pack before = load(sum + at), slope = load(g + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) to.v[k] = __fadd_rn(before.v[k], __fmul_rn(weight, slope.v[k]));
    store(y + at, to);
}

extern "C" __global__ __launch_bounds__(FLAT)
void momentum_jitter(float* y, const float* x, const int* index, const int* restart, const float* length, const float* state,
                     const int* seed, int hw, int channels, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int number = part * FLAT + (int)threadIdx.x;
    const i64 row = (i64)image * hw * channels;
    const float size = length[image], factor = state[2 * image + 1];
    const i64 words = (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]);
    u32 w[4];
    Stream(words, index[image], (int)state[2 * image], DRAW_TRANSFER, restart[image]).block((u32)number, w);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int e = number * 4 + k;
        if (e >= hw * channels) break;
        const i64 at = row + e % hw * channels + e / hw;
        const float shift = __fmul_rn(size, __fadd_rn(__fmul_rn(2.0f, unit(w[k])), -1.0f));
        y[at] = __fmul_rn(__fadd_rn(x[at], shift), factor);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void momentum_step(float* y, const float* m, const float* __restrict__ g, const float* __restrict__ decay, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    double part = 0.0;
    for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
        const Pack slope = load(g + row + i);
#pragma unroll
        for (int k = 0; k < VEC; k++) part += fabs((double)slope.v[k]);
    }
    const float mean = (float)(Block::sum(part) / elems), size = max_keep_nan(mean, 1e-12f), keep = decay[blockIdx.x];
    for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
        const Pack before = load(m + row + i), slope = load(g + row + i);
        Pack to;
#pragma unroll
        for (int k = 0; k < VEC; k++) to.v[k] = __fadd_rn(__fmul_rn(keep, before.v[k]), slope.v[k] / size);
        store(y + row + i, to);
    }
}
