// conv_grad_weight.cu: weight gradients of convolutions: sums over the pixels of a batch, split into parts of a fixed size.
//
//   computes   conv_grad_weight: parts[split][k][t * CG + c] = sum over the split's pixels of dy[pixel, k] * x[source(pixel, t), c]
//              conv_grad_weight_sum: dw[k][c][t] = sum over splits of parts[split][k][t * CG + c]
//   shapes     x : [N, H, W, C] in X;  dy : [N, P, Q, K] in DY;  parts : [splits, K, pitch] f32;  dw : [K, CG, R, S] f32
//   launch     conv_grad_weight: grid (tiles of R * S * CG, tiles of KG, groups * splits), block BM / TM * BN / 4
//              conv_grad_weight_sum: one thread an element of dw: grid (ceil(K * CG * R * S / 256)), block 256
//   constants  P_X and P_DY storage (0 f32, 1 bf16, 2 fp16), P_VX and P_VK whether CG % 4 == 0 and KG % 4 == 0,
//              P_BM channels of dy by P_BN columns of the tile, P_TM channels of dy of a thread
//   limits     fewer than 2^31 pixels;  a split is a multiple of 64 pixels;  pitch % 4 == 0
//   order      pixels in order, 64 at a time added to the total of the split, then splits in order in f64
//   source     none
//   twins      src/gpu/conv.rs  src/cpu/conv.rs  tests/kernels/conv.rs  benches/ops/conv.rs
#include "lib/block.cuh"
#include "lib/taps.cuh"

constexpr int BM = P_BM, BN = P_BN, TM = P_TM, TN = 4;
typedef Stored<P_X>::type X;
typedef Stored<P_DY>::type DY;
constexpr int BK = 16, BLOCK = 4, CHUNK = BK * BLOCK; // pixels of a step, steps and pixels of a partial sum
constexpr int TX = BN / TN, THREADS = BM / TM * TX, SUM_THREADS = 256;
constexpr int WA = P_VK ? 4 : 1, WB = P_VX ? 4 : 1;                     // values of a load
constexpr int A_COLS = BM / WA, B_COLS = BN / WB;                       // loads of a pixel
constexpr int A_ROWS = THREADS / A_COLS, B_ROWS = THREADS / B_COLS;     // pixels of a pass
constexpr int A_LOADS = (BK + A_ROWS - 1) / A_ROWS, B_LOADS = BK / B_ROWS;
constexpr int STAGE = BK * (BM + BN);
static_assert(TM % 4 == 0 && BM % TM == 0 && THREADS % 32 == 0 && CHUNK <= 2 * THREADS, "conv_grad_weight: tiles");
static_assert(THREADS % A_COLS == 0 && THREADS % B_COLS == 0 && BK % B_ROWS == 0, "conv_grad_weight: loads come out even");
static_assert(STAGE * 8 + CHUNK * 32 <= 48 << 10, "conv_grad_weight: shared memory");

// What one thread loads of every step: a column of dy and a column of the patches of x.
struct Loader {
    const X* x;
    const DY* dy;
    int c, k;
    Tap tap;
    bool a_some, b_some;
    float a[A_LOADS][WA], b[B_LOADS][WB];

    DEV void load(const Geometry& g, const Pixel* pixels) {
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) {
            const int row = (int)threadIdx.x / A_COLS + i * A_ROWS;
            const int at = a_some && row < BK ? pixels[row].result : -1;
            fetch(a[i], dy + (i64)at * k, at >= 0);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; i++) {
            const int at = b_some ? source_of(g, pixels[threadIdx.x / B_COLS + i * B_ROWS], tap) : -1;
            fetch(b[i], x + (i64)at * c, at >= 0);
        }
    }
    DEV void store(float* stage) const {
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) {
            const int row = (int)threadIdx.x / A_COLS + i * A_ROWS;
            if (row < BK) put(stage + row * BM + threadIdx.x % A_COLS * WA, a[i]);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; i++) {
            put(stage + BK * BM + (threadIdx.x / B_COLS + i * B_ROWS) * BN + threadIdx.x % B_COLS * WB, b[i]);
        }
    }
};

// The products of one step: channels 4 * ty + i of dy, with 4 * TY between quads, and columns 4 * tx + j.
DEV void multiply(float (&sum)[TM][TN], const float* stage, int ty, int tx) {
#pragma unroll
    for (int kk = 0; kk < BK; kk++) {
        float a[TM / 4][4], b[TN];
#pragma unroll
        for (int i = 0; i < TM / 4; i++) load4(stage + kk * BM + ty * 4 + i * (BM / (TM / 4)), a[i]);
        load4(stage + BK * BM + kk * BN + tx * 4, b);
#pragma unroll
        for (int i = 0; i < TM; i++) {
#pragma unroll
            for (int j = 0; j < TN; j++) sum[i][j] = fmaf(a[i / 4][i % 4], b[j], sum[i][j]);
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, THREADS == 256 ? 2 : 1)
void conv_grad_weight(const X* __restrict__ x, const DY* __restrict__ dy, float* parts, GEOMETRY_PARAMS, int n, int c, int k, int cg,
                      int kg, int splits, int split_pixels, int pitch) {
    __shared__ __align__(16) float tiles[2 * STAGE];
    __shared__ Pixel pixels[2][CHUNK];
    const Geometry g = GEOMETRY_VALUE;
    const Phase phase = phase_of(g, 0);
    const int tid = threadIdx.x, group = blockIdx.z / splits, split = blockIdx.z % splits;
    const int from = split * split_pixels, total_pixels = n * g.p * g.q;
    const int count = total_pixels - from < split_pixels ? total_pixels - from : split_pixels;
    const int k0 = blockIdx.y * BM, column0 = blockIdx.x * BN;

    const int a_at = k0 + tid % A_COLS * WA, b_at = column0 + tid % B_COLS * WB, t = b_at / cg;
    Loader in;
    in.c = c, in.k = k;
    in.a_some = a_at < kg, in.b_some = t < g.r * g.s;
    in.dy = dy + group * kg + a_at;
    in.x = x + group * cg + b_at % cg;
    in.tap = Tap{t / g.s * g.dh - g.ph, t % g.s * g.dw - g.pw, t, 0};

    const int ty = tid / TX, tx = tid % TX;
    float total[TM][TN] = {}, sum[TM][TN] = {};
    const int steps = (count + BK - 1) / BK;
    // The pixels of a chunk, listed while the one before is computed.
    auto list = [&](int chunk) {
        for (int i = tid; i < CHUNK; i += THREADS) pixels[chunk & 1][i] = pixel_of(g, phase, n, from + chunk * CHUNK + i);
    };
    auto load = [&](int step) { in.load(g, pixels[step / BLOCK & 1] + step % BLOCK * BK); };
    list(0);
    __syncthreads();
    load(0);
    in.store(tiles);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        if (step % BLOCK == 0) list(step / BLOCK + 1);
        if (more) load(step + 1);
        multiply(sum, tiles + (step & 1) * STAGE, ty, tx);
        if (more) in.store(tiles + (~step & 1) * STAGE);
        if (step % BLOCK == BLOCK - 1 || !more) {
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < TN; j++) total[i][j] += sum[i][j], sum[i][j] = 0.0f;
            }
        }
        __syncthreads();
    }

    const int column = column0 + tx * 4;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int channel = k0 + ty * 4 + i / 4 * (BM / (TM / 4)) + i % 4;
        if (channel < kg && column < pitch) put(parts + ((i64)split * k + group * kg + channel) * pitch + column, total[i]);
    }
}

extern "C" __global__ __launch_bounds__(SUM_THREADS)
void conv_grad_weight_sum(const float* __restrict__ parts, float* dw, int k, int cg, int taps, int splits, int pitch) {
    const int at = blockIdx.x * SUM_THREADS + threadIdx.x, columns = taps * cg;
    if (at >= k * columns) return;
    const int row = at / columns, column = at % columns;
    double sum = 0.0;
    for (int split = 0; split < splits; split++) sum += (double)parts[((i64)split * k + row) * pitch + column];
    dw[((i64)row * cg + column % cg) * taps + column / cg] = (float)sum;
}
