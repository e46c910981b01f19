// conv_mma_patch.cu: a network's first convolution, from images of a few channels, on tensor cores (sm_80).
//
//   computes   y = epilogue(sum over channels and taps of x . w); patches are gathered value by value and rounded
//   shapes     x : [N, H, W, C] f32, w : [K, DEPTH] in X in the order (c, r, s), zeros from C * R * S on,
//              y : [N, P, Q, K] in Y
//   launch     grid (ceil(N * P * Q / BM) * ceil(K / BN)), block BM, dynamic shared memory (BM + BN) * BK elements
//   constants  as in conv_mma.cu: P_H, P_W, P_P, P_Q, P_R, P_S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD = 0, any P_C, P_K,
//              P_X, P_Y, P_EPI, P_CAP, P_HALF, P_BM, P_BN, P_BK, P_WM, P_WN, P_BLOCKS; DEPTH is C * R * S rounded up to P_BK
//   limits     fewer than 2^31 pixels
//   order      channels, then taps, in the order of an mma's own sum: free of the tile, the batch and the place in it
//   source     as conv_mma.cu
//   twins      src/gpu/conv_mma.rs  src/cpu/conv.rs  tests/kernels/conv_half.rs
#include "lib/conv_store.cuh"
#include "lib/mma_tile.cuh"

constexpr int C = P_C, K = P_K, R = P_R, S = P_S, BM = P_BM, BN = P_BN, BK = P_BK;
constexpr Geometry G = {P_H, P_W, P_P, P_Q, R, S, P_SH, P_SW, P_PH, P_PW, P_DH, P_DW, P_GRAD};
typedef MmaTile<P_X, BM, BN, BK, P_WM, P_WN, true> Tile;
typedef Tile::Elem X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_HALF>::type Half;
constexpr int THREADS = Tile::THREADS, CHUNK = Tile::CHUNK;
static_assert(C > 0 && K > 0 && R > 0 && S > 0 && !P_GRAD, "conv_mma_patch: bad constants");

extern "C" __global__ __launch_bounds__(THREADS, P_BLOCKS)
void conv_mma_patch(const float* __restrict__ x, const X* __restrict__ w, Y* y, EPI_PARAMS, int n) {
    constexpr int CHUNKS = BK / CHUNK, WORDS = (int)sizeof(X) == 2 ? 2 : 1; // elements of a 32-bit word
    constexpr int STEPS = (C * R * S + BK - 1) / BK, TILES_N = (K + BN - 1) / BN;
    static_assert(THREADS == BM, "conv_mma_patch: a thread gathers one patch");
    const int m0 = blockIdx.x / TILES_N * BM, n0 = blockIdx.x % TILES_N * BN, row = threadIdx.x;
    const Phase phase = phase_of(G, 0);
    const Pixel pixel = pixel_of(G, phase, n, m0 + row);
    const auto value = [&](int at) { // of this thread's patch
        const int c = at / (R * S), r = at / S % R, s = at % S;
        const int source = source_of(G, pixel, Tap{r * G.dh - G.ph, s * G.dw - G.pw, 0, 0});
        return at < C * R * S && source >= 0 ? x[(i64)source * C + c] : 0.0f;
    };
    Tile tile;
#pragma unroll(STEPS > 2 ? 1 : STEPS)
    for (int step = 0; step < STEPS; step++) {
        if (step > 0) __syncthreads(); // the step before has been read
        for (int i = threadIdx.x; i < BN * CHUNKS; i += THREADS) {
            const int k = n0 + i / CHUNKS;
            const X* from = w + (i64)(k < K ? k : 0) * (STEPS * BK) + step * BK + i % CHUNKS * CHUNK;
            cp_async16(smem_addr(smem) + Tile::b_at(i / CHUNKS, i % CHUNKS), from, k < K ? 16 : 0);
        }
        cp_async_commit();
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            u32 word[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = step * BK + chunk * CHUNK + i * WORDS;
                word[i] = Tile::M::pack(value(at), value(at + WORDS - 1));
            }
            *(uint4*)(smem + Tile::a_at(row, chunk)) = make_uint4(word[0], word[1], word[2], word[3]);
        }
        cp_async_wait<0>();
        __syncthreads();
        tile.multiply(0);
    }
    const Epilogue<P_EPI, K, Half, P_CAP> epilogue = EPI_OPERANDS;
    store_pixels<K>(tile, epilogue, y, G, phase, n, m0, n0);
}
