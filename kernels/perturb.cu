// perturb.cu: the change of a weight in adversarial weight perturbation: along its gradient, as long as a share of the weight.
//
//   computes   perturb_squares: part[b] = sums of w^2 and of g^2 over chunk b
//   shapes     w, g : [ELEMS] f32;  part : [CHUNKS, 2] f64
//   launch     perturb_squares: one block a chunk of 4096 elements: grid (CHUNKS), block 256
//   constants  none
//   limits     w, g aligned to 16 bytes
//   order      within a chunk by Team: fixed
//   source     Wu et al. 2020, https://arxiv.org/abs/2004.05884
//   twins      src/gpu/perturb.rs  src/cpu/perturb.rs  tests/kernels/perturb.rs
//
//   computes   perturb_apply: y = gamma * |w| / (|g| + 1e-20) * g
//   shapes     g, y : [ELEMS] f32;  part : [CHUNKS, 2] f64 of perturb_squares;  gamma : a scalar
//   launch     perturb_apply: as above; each block adds up all parts
//   constants  none
//   limits     y may be g; lengths in f64
//   order      parts by Team: fixed by CHUNKS
//   source     Wu et al. 2020, https://arxiv.org/abs/2004.05884
//   twins      src/gpu/perturb.rs  src/cpu/perturb.rs  tests/kernels/perturb.rs
#include "lib/reduce_row.cuh"

constexpr int THREADS = 256, CHUNK = 4096;
typedef Team<THREADS> Block;

extern "C" __global__ __launch_bounds__(THREADS)
void perturb_squares(const float* w, const float* g, double* part, i64 elems) {
    const i64 from = (i64)blockIdx.x * CHUNK;
    const int length = (int)(elems - from < CHUNK ? elems - from : CHUNK);
    w += from, g += from;
    double a = 0.0, b = 0.0;
    for (int i = (int)threadIdx.x; i < length; i += THREADS) {
        a += (double)w[i] * (double)w[i];
        b += (double)g[i] * (double)g[i];
    }
    a = Block::sum(a), b = Block::sum(b);
    if (threadIdx.x == 0) part[2 * blockIdx.x] = a, part[2 * blockIdx.x + 1] = b;
}

extern "C" __global__ __launch_bounds__(THREADS)
void perturb_apply(const float* g, const double* part, const float* gamma, float* y, i64 elems, int chunks) {
    double a = 0.0, b = 0.0;
    for (int i = (int)threadIdx.x; i < chunks; i += THREADS) a += part[2 * i], b += part[2 * i + 1];
    a = Block::sum(a), b = Block::sum(b);
    const double factor = (double)gamma[0] * sqrt(a) / (sqrt(b) + 1e-20);
    const i64 from = (i64)blockIdx.x * CHUNK;
    for (i64 i = from + (int)threadIdx.x; i < elems && i < from + CHUNK; i += THREADS) y[i] = (float)(factor * (double)g[i]);
}
