// conv_mma_weight.cu: weight gradients of convolutions and linear layers on tensor cores (sm_80).
//
//   computes   partial[z] = sum over the z-th range of pixels of dy . x, for all taps
//   shapes     x : [N, H, W, C], dy : [N, P, Q, K] in X, partial : [splits, K, R * S, C] f32
//   launch     grid (ceil(K / BM) * ceil(R * S * C / BN), 1, splits), block (BM / WM) * (BN / WN) * 32, dynamic shared
//              memory STAGES * (BM + BN) * BK elements
//   constants  as in conv_mma.cu: P_H, P_W, P_P, P_Q, P_R, P_S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD = 0, P_C and P_K
//              multiples of 8, P_X, P_BM, P_BN, P_BK, P_WM, P_WN, P_STAGES, P_BLOCKS
//   limits     fewer than 2^31 pixels; `range` is a multiple of BK
//   order      pixels in order, in the order of an mma's own sum
//   source     as conv_mma.cu
//   twins      src/gpu/conv_mma.rs  src/cpu/conv.rs  tests/kernels/conv_half.rs
#include "lib/mma_tile.cuh"
#include "lib/taps.cuh"

constexpr int C = P_C, K = P_K, R = P_R, S = P_S, BM = P_BM, BN = P_BN, BK = P_BK, STAGES = P_STAGES;
constexpr Geometry G = {P_H, P_W, P_P, P_Q, R, S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD};
typedef MmaTile<P_X, BM, BN, BK, P_WM, P_WN, false> Tile;
typedef Tile::Elem X;
constexpr int THREADS = Tile::THREADS, CHUNK = Tile::CHUNK;
static_assert(C > 0 && K > 0 && R > 0 && S > 0 && STAGES >= 2 && !P_GRAD, "conv_mma_weight: bad constants");

extern "C" __global__ __launch_bounds__(THREADS, P_BLOCKS)
void conv_mma_grad_weight(const X* __restrict__ x, const X* __restrict__ dy, float* __restrict__ partial, int n, int range) {
    constexpr int A_ROWS = THREADS / Tile::A_CHUNKS, B_ROWS = THREADS / Tile::B_CHUNKS, COLS = R * S * C;
    constexpr int TILES_N = (COLS + BN - 1) / BN;
    static_assert(C % CHUNK == 0 && K % CHUNK == 0 && BK % A_ROWS == 0 && BK % B_ROWS == 0, "conv_mma_weight: rows do not divide");
    const int m0 = blockIdx.x / TILES_N * BM, n0 = blockIdx.x % TILES_N * BN;
    const int total = n * G.p * G.q, first = blockIdx.z * range;
    const int pixels = total - first < range ? total - first : range;
    const int a_row = threadIdx.x / Tile::A_CHUNKS, a_chunk = threadIdx.x % Tile::A_CHUNKS, k = m0 + a_chunk * CHUNK;
    const int b_row = threadIdx.x / Tile::B_CHUNKS, b_chunk = threadIdx.x % Tile::B_CHUNKS, col = n0 + b_chunk * CHUNK;
    const int c = col % C;
    const Tap tap = {col / C / S * G.dh - G.ph, col / C % S * G.dw - G.pw, 0, 0};
    const Phase phase = phase_of(G, 0);

    const auto load = [&](int stage, int step) {
        const saddr out = smem_addr(smem) + stage;
#pragma unroll
        for (int i = 0; i < BK / A_ROWS; i++) {
            const int at = step * BK + a_row + i * A_ROWS;
            const bool there = at < pixels && k < K;
            cp_async16(out + Tile::a_at(a_row + i * A_ROWS, a_chunk), dy + (i64)(first + at) * K + k, there ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < BK / B_ROWS; i++) {
            const int at = step * BK + b_row + i * B_ROWS;
            const int source = source_of(G, pixel_of(G, phase, n, first + at), tap);
            const bool there = at < pixels && source >= 0 && col < COLS;
            cp_async16(out + Tile::b_at(b_row + i * B_ROWS, b_chunk), x + (i64)source * C + c, there ? 16 : 0);
        }
    };
    Tile tile;
    pipeline<STAGES, Tile::STAGE_BYTES>((pixels + BK - 1) / BK, load, [&](int stage) { tile.multiply(stage); });
    tile.each_octet([&](int row, int column, float (&v)[VEC]) {
        const i64 at = (i64)blockIdx.z * K + m0 + row;
        if (m0 + row < K && n0 + column < COLS) store8(partial + at * COLS + n0 + column, v);
    });
}
