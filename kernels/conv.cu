// conv.cu: convolutions and their input gradients as products of matrices in f32, any stride, dilation and number of groups.
//
//   computes   conv_gather: y[pixel, k] = list(sum over taps t, channels c of x[source(pixel, t), c] * w[k, t, c])
//              with taps and sources as in lib/taps.cuh, the list as in lib/epilogue.cuh
//   shapes     x : [N, H, W, C] in X;  w : [groups, KG padded to BN, R * S, CG] f32;  y : [N, P, Q, K] in Y
//   launch     conv_gather: grid (tiles of pixels * tiles of KG, the latter fastest; groups; phases), block BM / TM * BN / TN
//   constants  P_X and P_Y storage (0 f32, 1 bf16, 2 fp16), P_K result channels, P_KG those of a group, P_VEC whether CG % 4
//              == 0, P_TAPS >= R * S, P_BM x P_BN tile, P_TM x P_TN tile of a thread, P_EPI, P_CAP, P_HALF as in epilogue.cuh
//   limits     with groups, a list needs KG % 8 == 0;  fewer than 2^31 pixels
//   order      taps in row-major order, in each the channels in order; sums of 64 products are added to the total. It does
//              not depend on tiles, batch or place
//   source     Chetlur et al. 2014, https://arxiv.org/abs/1410.0759
//   twins      src/gpu/conv.rs  src/cpu/conv.rs  tests/kernels/conv.rs  benches/ops/conv.rs
#include "lib/block.cuh"
#include "lib/epilogue.cuh"
#include "lib/taps.cuh"

constexpr int K = P_K, KG = P_KG, TAPS = P_TAPS, BM = P_BM, BN = P_BN, TM = P_TM, TN = P_TN;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_HALF>::type Half;
constexpr int BK = 16, LD = BK + 4;       // rows of a tile stand 20 floats apart: 8 of them, or 4 by 2 chunks, hit all banks
constexpr int BLOCK = 64 / BK;            // steps of one partial sum
constexpr int TY = BM / TM, TX = BN / TN; // threads over pixels and over channels
constexpr int THREADS = TY * TX;
constexpr int WIDTH = P_VEC ? 4 : 1, COLS = BK / WIDTH, ROWS = THREADS / COLS; // a pass of loads: ROWS x COLS threads
constexpr int A_LOADS = BM / ROWS, B_LOADS = BN / ROWS;
constexpr int LDO = BN + 4;
constexpr int KR = (KG + BN - 1) / BN * BN; // rows of a group's weights
constexpr int STAGE = (BM + BN) * LD, FLOATS = 2 * STAGE > BM * LDO ? 2 * STAGE : BM * LDO;
constexpr bool WHOLE_GROUPS = K == KG || KG % VEC == 0;
static_assert(K % KG == 0 && TAPS > 0, "conv: sizes");
static_assert(TY % 8 == 0 && TX % 4 == 0 && THREADS % 32 == 0 && BN % VEC == 0, "conv: warps are 8 by 4 threads");
static_assert(BM % ROWS == 0 && BN % ROWS == 0 && BM * BN / VEC % THREADS == 0, "conv: loads and stores come out even");
static_assert(WHOLE_GROUPS || P_EPI == 0, "conv: a list on parts of vectors");
static_assert(FLOATS * 4 + BM * 16 + TAPS * 16 <= 48 << 10, "conv: shared memory");

// What one thread loads of every step: column `tap, c` of the sums, and its pixels' and channels' rows.
struct Loader {
    const X* x;     // first channel of the group
    const float* w; // this thread's first row of weights
    int c, cg, taps, rows; // rows: weights from one pass to the next
    int row, tap, channel;
    float a[A_LOADS][WIDTH], b[B_LOADS][WIDTH];

    DEV void load(const Geometry& g, const Pixel* pixels, const Tap* list) {
        const bool some = tap < taps;
        Tap at = {};
        if (some) at = list[tap];
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) {
            const int source = some ? source_of(g, pixels[row + i * ROWS], at) : -1;
            fetch(a[i], x + ((i64)source * c + channel), source >= 0);
        }
#pragma unroll
        for (int i = 0; i < B_LOADS; i++) {
            fetch(b[i], w + ((i64)i * rows + at.weight * cg + channel), some);
        }
        for (channel += BK; channel >= cg; channel -= cg) tap++;
    }
    DEV void store(float* stage, int col) const {
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) put(stage + (row + i * ROWS) * LD + col * WIDTH, a[i]);
#pragma unroll
        for (int i = 0; i < B_LOADS; i++) put(stage + (BM + row + i * ROWS) * LD + col * WIDTH, b[i]);
    }
};

// The products of one step: rows ty + i * TY and channels tx + j * TX of the tile.
DEV void multiply(float (&sum)[TM][TN], const float* stage, int ty, int tx) {
#pragma unroll 1 // unrolled it would not fit into 128 registers
    for (int kk = 0; kk < BK; kk += 4) {
        float4 b[TN];
#pragma unroll
        for (int j = 0; j < TN; j++) b[j] = *(const float4*)(stage + (BM + tx + j * TX) * LD + kk);
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const float4 a = *(const float4*)(stage + (ty + i * TY) * LD + kk);
#pragma unroll
            for (int j = 0; j < TN; j++) {
                sum[i][j] = fmaf(a.x, b[j].x, sum[i][j]);
                sum[i][j] = fmaf(a.y, b[j].y, sum[i][j]);
                sum[i][j] = fmaf(a.z, b[j].z, sum[i][j]);
                sum[i][j] = fmaf(a.w, b[j].w, sum[i][j]);
            }
        }
    }
}

// Adds a partial sum to the total and begins the next.
DEV void flush(float (&total)[TM][TN], float (&sum)[TM][TN]) {
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) total[i][j] += sum[i][j], sum[i][j] = 0.0f;
    }
}

// Channels first .. first+7 of a pixel through the list into the result.
DEV void finish(float (&v)[VEC], Y* y, int pixel, int k, int group, const Epilogue<P_EPI, K, Half, P_CAP>& epilogue) {
    Y* row = y + (i64)pixel * K;
    const int first = group * KG + k;
    if constexpr (WHOLE_GROUPS) {
        epilogue.apply(v, pixel, first);
        store_row<K>(row, first, v);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            if (k + i < KG) row[first + i] = narrow<Y>(v[i]);
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, THREADS >= 128 ? 512 / THREADS : 1)
void conv_gather(const X* __restrict__ x, const float* __restrict__ w, Y* y, EPI_PARAMS, GEOMETRY_PARAMS, int n, int c, int cg) {
    __shared__ __align__(16) float tiles[FLOATS];
    __shared__ Pixel pixels[BM];
    __shared__ Tap list[TAPS];
    constexpr int K_TILES = (KG + BN - 1) / BN;
    const Geometry g = GEOMETRY_VALUE;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int group = blockIdx.y, k0 = blockIdx.x % K_TILES * BN, first = blockIdx.x / K_TILES * BM;
    const Phase phase = phase_of(g, blockIdx.z);
    const int taps = build_taps(g, phase, list);
    for (int i = tid; i < BM; i += THREADS) pixels[i] = pixel_of(g, phase, n, first + i);
    __syncthreads();

    const int q = tid / COLS, col = tid % COLS;
    Loader in;
    in.x = x + group * cg;
    in.c = c, in.cg = cg, in.taps = taps;
    in.row = P_VEC ? (q & ~7) | (q >> 1 & 3) | (q & 1) << 2 : q; // rows of 8 lanes stand 4 apart, for the banks
    in.w = w + (i64)(group * KR + k0 + in.row) * g.r * g.s * cg, in.rows = ROWS * g.r * g.s * cg;
    in.channel = col * WIDTH, in.tap = 0;
    for (; in.channel >= cg; in.channel -= cg) in.tap++;

    const int ty = warp % (TY / 8) * 8 + lane % 8, tx = warp / (TY / 8) * 4 + lane / 8;
    float total[TM][TN] = {}, sum[TM][TN] = {};
    const int steps = (taps * cg + BK - 1) / BK;
    in.load(g, pixels, list);
    in.store(tiles, col);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        if (more) in.load(g, pixels, list);
        multiply(sum, tiles + (step & 1) * STAGE, ty, tx);
        if (more) in.store(tiles + (~step & 1) * STAGE, col);
        if (step % BLOCK == BLOCK - 1) flush(total, sum);
        __syncthreads();
    }
    flush(total, sum);

#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) tiles[(ty + i * TY) * LDO + tx + j * TX] = total[i][j];
    }
    __syncthreads();
    const Epilogue<P_EPI, K, Half, P_CAP> epilogue = EPI_OPERANDS;
#pragma unroll 1
    for (int at = tid; at < BM * BN / VEC; at += THREADS) {
        const int row = at / (BN / VEC), k = k0 + at % (BN / VEC) * VEC, result = pixels[row].result;
        if (result < 0 || k >= KG) continue;
        float v[VEC];
        load8(tiles + row * LDO + (k - k0), v);
        finish(v, y, result, k, group, epilogue);
    }
}
