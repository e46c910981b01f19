// conv_mma.cu: convolutions, their input gradients and linear layers on tensor cores (sm_80).
//
//   computes   y = epilogue(sum over taps and source channels of x . w), as in lib/taps.cuh
//   shapes     x : [N, H, W, C] in X, w : [K, R * S, C] in X, y : [N, P, Q, K] in Y
//   launch     grid (ceil(pixels of the largest phase / BM) * ceil(K / BN), 1, phases), block (BM / WM) * (BN / WN) * 32,
//              dynamic shared memory STAGES * (BM + BN) * BK elements
//   constants  the geometry of lib/taps.cuh: P_H, P_W, P_P, P_Q, P_R, P_S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD; P_C a multiple of 8 channels of the source, P_K of the result;
//              P_X what is multiplied (0 tf32, 1 bf16, 2 fp16), P_Y storage, P_EPI, P_CAP, P_HALF as in lib/epilogue.cuh;
//              tile P_BM, P_BN, P_BK, a warp's part P_WM, P_WN; P_STAGES >= 2; P_BLOCKS at least on a multiprocessor
//   limits     fewer than 2^31 pixels; f32 operands are rounded to 10 bits of mantissa
//   order      taps, then channels, in the order of an mma's own sum: free of the tile, the batch and the place in it
//   source     implicit GEMM: Chetlur et al. 2014, https://arxiv.org/abs/1410.0759
//   twins      src/gpu/conv_mma.rs  src/cpu/conv.rs  tests/kernels/conv_half.rs
#include "lib/conv_store.cuh"
#include "lib/mma_tile.cuh"

constexpr int C = P_C, K = P_K, R = P_R, S = P_S, BM = P_BM, BN = P_BN, BK = P_BK, STAGES = P_STAGES;
constexpr Geometry G = {P_H, P_W, P_P, P_Q, R, S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD};
constexpr int PHASES = P_GRAD ? P_SH * P_SW : 1;
typedef MmaTile<P_X, BM, BN, BK, P_WM, P_WN, true> Tile;
typedef Tile::Elem X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_HALF>::type Half;
constexpr int THREADS = Tile::THREADS, CHUNK = Tile::CHUNK;
static_assert(C > 0 && K > 0 && R > 0 && S > 0 && STAGES >= 2, "conv_mma: bad constants");

extern "C" __global__ __launch_bounds__(THREADS, P_BLOCKS)
void conv_mma_gather(const X* __restrict__ x, const X* __restrict__ w, Y* y, EPI_PARAMS, int n) {
    constexpr int CHUNKS = BK / CHUNK, ROWS = THREADS / CHUNKS; // a thread copies one column of chunks, every ROWS-th row
    constexpr int TILES_N = (K + BN - 1) / BN;
    static_assert(C % CHUNK == 0 && BM % ROWS == 0 && ROWS % 8 == 0, "conv_mma: rows do not divide");
    __shared__ Tap taps[R * S];
    const int m0 = blockIdx.x / TILES_N * BM, n0 = blockIdx.x % TILES_N * BN; // neighbours share their pixels
    const Phase phase = phase_of(G, PHASES - 1 - (int)blockIdx.z);           // the last has most taps
    const int depth = build_taps(G, phase, taps) * C;
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    int base[BM / ROWS], top[BM / ROWS], left[BM / ROWS];
#pragma unroll
    for (int i = 0; i < BM / ROWS; i++) {
        const Pixel pixel = pixel_of(G, phase, n, m0 + row + i * ROWS);
        top[i] = pixel.y, left[i] = pixel.x;
        base[i] = pixel.result < 0 ? 0 : pixel.image + pixel.y * G.w + pixel.x;
    }
    __syncthreads();

    const auto load = [&](int stage, int step) {
        const int at = step * BK + chunk * CHUNK;
        const bool inside = at < depth;
        const Tap tap = taps[inside ? at / C : 0];
        const X* from = x + at % C; // of source pixel 0
        const X* weights = w + ((i64)(n0 + row) * (R * S) + tap.weight) * C + at % C;
        const saddr out = smem_addr(smem) + stage;
#pragma unroll
        for (int i = 0; i < BM / ROWS; i++) {
            const bool there = inside && (u32)(top[i] + tap.dy) < (u32)G.h && (u32)(left[i] + tap.dx) < (u32)G.w;
            const X* source = from + (i64)(base[i] + tap.dy * G.w + tap.dx) * C;
            cp_async16(out + (Tile::a_at(row, chunk) + i * ROWS * CHUNKS * 16), source, there ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < (BN + ROWS - 1) / ROWS; i++) {
            if (BN % ROWS != 0 && row + i * ROWS >= BN) continue;
            const bool there = inside && n0 + row + i * ROWS < K;
            const int at = Tile::b_at(row, chunk) + i * ROWS * CHUNKS * 16;
            cp_async16(out + at, weights + (i64)i * ROWS * (R * S) * C, there ? 16 : 0);
        }
    };
    const int steps = m0 < n * phase.rows * phase.cols ? (depth + BK - 1) / BK : 0; // smaller phases have fewer tiles
    Tile tile;
    pipeline<STAGES, Tile::STAGE_BYTES>(steps, load, [&](int stage) { tile.multiply(stage); });
    const Epilogue<P_EPI, K, Half, P_CAP> epilogue = EPI_OPERANDS;
    store_pixels<K>(tile, epilogue, y, G, phase, n, m0, n0);
}
