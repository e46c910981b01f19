// mma_tile.cuh: a tile of a matrix product on tensor cores: operands pass through a ring of stages in shared memory, each
// warp keeps WM x WN of the sums, results leave as eight neighbours of a row at a time. Must not know what is multiplied.
#pragma once
#include "lib/vec.cuh"

#ifndef PETARD_EMULATED // the emulator has declared it
extern __shared__ __align__(1024) u8 smem[];
#endif

// Operands by storage code. DEPTH is the contraction of one mma, 32 bytes of either type; round() what it wants of a word.
template <int CODE> struct Math;
template <> struct Math<0> {
    typedef float Elem;
    static constexpr int DEPTH = 8;
    DEV static u32 round(u32 word) { return f32_to_tf32(__uint_as_float(word)); }
    DEV static void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_1688_tf32(d, a, b[0], b[1]); }
    DEV static u32 pack(float lo, float) { return f32_to_tf32(lo); }
};
template <> struct Math<1> {
    typedef bf16 Elem;
    static constexpr int DEPTH = 16;
    DEV static u32 round(u32 word) { return word; }
    DEV static void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_16816_bf16(d, a, b[0], b[1]); }
    DEV static u32 pack(float lo, float hi) { return pack_bf16x2(lo, hi); }
};
template <> struct Math<2> {
    typedef f16 Elem;
    static constexpr int DEPTH = 16;
    DEV static u32 round(u32 word) { return word; }
    DEV static void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_16816_f16(d, a, b[0], b[1]); }
    DEV static u32 pack(float lo, float hi) { return pack_f16x2(lo, hi); }
};

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile of CHUNKS (a power of two) chunks a row. Chunks are XORed
// with the number of their 128-byte line, so that eight rows at one chunk lie in different banks. SPREAD = 2: so do four
// rows at two neighbouring chunks.
template <int CHUNKS, int SPREAD = 1> DEV int swizzle(int row, int chunk) {
    constexpr int ROWS = CHUNKS < 8 ? 8 / CHUNKS : 1, MASK = (CHUNKS < 8 ? CHUNKS : 8) - 1;
    return (row * CHUNKS + (chunk ^ (row / ROWS * SPREAD & MASK))) * 16;
}

// Who holds what for a BM x BN tile. By rows: a [BM][BK] and b [BN][BK], the contraction contiguous. By columns:
// a [BK][BM] and b [BK][BN].
template <int CODE, int BM, int BN, int BK, int WM, int WN, bool BY_ROWS> struct MmaTile {
    typedef Math<CODE> M;
    typedef typename M::Elem Elem;
    static constexpr int CHUNK = 16 / sizeof(Elem), STEPS = BK / M::DEPTH;
    static constexpr int MI = WM / 16, NJ = WN / 8, WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
    static constexpr int A_CHUNKS = (BY_ROWS ? BK : BM) / CHUNK, B_CHUNKS = (BY_ROWS ? BK : BN) / CHUNK;
    static constexpr int A_BYTES = BM * BK * sizeof(Elem), STAGE_BYTES = A_BYTES + BN * BK * sizeof(Elem);
    // Words of 32 bits cannot be transposed by ldmatrix: they are read one by one.
    static constexpr bool WORDS = !BY_ROWS && CODE == 0;
    static constexpr int SPREAD = WORDS ? 2 : 1;
    static_assert(BM % WM == 0 && BN % WN == 0 && BK % M::DEPTH == 0 && BK % CHUNK == 0, "mma: tiles do not divide");
    static_assert(WM % 16 == 0 && (NJ == 1 || NJ % 2 == 0) && MI * NJ % 2 == 0, "mma: a warp's tile is too narrow");
    static_assert((A_CHUNKS & (A_CHUNKS - 1)) == 0 && (B_CHUNKS & (B_CHUNKS - 1)) == 0, "mma: rows of an odd length");

    float acc[MI][NJ][4];
    int lane, row, col; // of the warp's part

    DEV MmaTile() {
        const int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32, row = warp / WARPS_N * WM, col = warp % WARPS_N * WN;
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NJ; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f;
    }
    DEV static int a_at(int row, int chunk) { return swizzle<A_CHUNKS, SPREAD>(row, chunk); }
    DEV static int b_at(int row, int chunk) { return A_BYTES + swizzle<B_CHUNKS, SPREAD>(row, chunk); }

    // Adds the products of the stage that begins at byte `stage` of smem.
    DEV void multiply(int stage) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 a[MI][4], b[NJ][2];
            if constexpr (WORDS) {
                read_words(stage, k, a, b);
            } else {
                load_a(stage, k, a);
                load_b(stage, k, b);
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NJ; j++) M::mma(acc[i][j], a[i], b[j]);
        }
    }

    // f(row, column, v): v holds eight neighbours of a row of the tile. The lanes of a quad hold two columns of four
    // octets each and swap them, so that each gets one octet whole.
    template <class F> DEV void each_octet(F f) const {
        const int t = lane % 4;
#pragma unroll
        for (int first = 0; first < MI * 2 * NJ; first += 4) {
            float part[4][2], v[VEC];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int o = first + i;
                part[i][0] = acc[o / NJ / 2][o % NJ][o / NJ % 2 * 2];
                part[i][1] = acc[o / NJ / 2][o % NJ][o / NJ % 2 * 2 + 1];
            }
            swap_parts<1>(part, t);
            swap_parts<2>(part, t);
#pragma unroll
            for (int i = 0; i < VEC; i++) v[i] = part[i / 2][i % 2];
            const int mine = first + t;
            f(row + mine / NJ * 8 + lane / 4, col + mine % NJ * 8, v);
        }
    }

  private:
    // Where this lane's row of a fragment lies: what differs between fragments is constant, so that one register and one XOR
    // serve them all. By rows, `chunk` is below 2 and step k is 2k chunks on.
    template <int CHUNKS> DEV static int by_rows(int row, int chunk, int k) {
        return swizzle<CHUNKS>(row, chunk) ^ k * 32;
    }
    DEV void load_a(int stage, int k, u32 (&a)[MI][4]) const {
        const int low = lane % 16, high = lane / 16, tile = lane / 8 % 2;
        const saddr from = smem_addr(smem) + stage;
#pragma unroll
        for (int i = 0; i < MI; i++) {
            if constexpr (BY_ROWS) {
                ldmatrix_x4(a[i], from + (by_rows<A_CHUNKS>(row + low, high, k) + i * 16 * A_CHUNKS * 16));
            } else {
                ldmatrix_x4_trans(a[i], from + (a_at(lane % 8 + high * 8, row / 8 + i * 2 + tile) + k * 16 * A_CHUNKS * 16));
            }
#pragma unroll
            for (int w = 0; w < 4; w++) a[i][w] = M::round(a[i][w]);
        }
    }
    DEV void load_b(int stage, int k, u32 (&b)[NJ][2]) const {
        const int low = lane % 16, high = lane / 16, tile = lane / 8 % 2;
        const saddr from = smem_addr(smem) + (stage + A_BYTES);
#pragma unroll
        for (int j = 0; j < NJ; j += 2) {
            u32 r[4];
            if constexpr (BY_ROWS) {
                const int second = NJ > 1 ? high * 8 : 0; // one octet alone is read twice
                ldmatrix_x4(r, from + (by_rows<B_CHUNKS>(col + lane % 8 + second, tile, k) + j * 8 * B_CHUNKS * 16));
            } else {
                ldmatrix_x4_trans(r, from + (swizzle<B_CHUNKS>(low, col / 8 + j + high) + k * 16 * B_CHUNKS * 16));
            }
#pragma unroll
            for (int w = 0; w < (NJ > 1 ? 4 : 2); w++) b[j + w / 2][w % 2] = M::round(r[w]);
        }
    }
    // Rows of the contraction 4 apart and columns 32 apart have one swizzle.
    DEV void read_words(int stage, int k, u32 (&a)[MI][4], u32 (&b)[NJ][2]) const {
        static_assert(!WORDS || (WM % 32 == 0 && WN % 32 == 0), "mma: words need parts of 32 columns");
        const int g = lane / 4, t = lane % 4;
        const u8* from = smem + stage + g % 4 * 4;
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int w = 0; w < 4; w++) {
                const int at = a_at(t, g / 4 + i % 2 * 4 + w % 2 * 2) + row * 4;
                a[i][w] = M::round(*(const u32*)(from + at + (k * 8 + w / 2 * 4) * A_CHUNKS * 16 + i / 2 * 128));
            }
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int w = 0; w < 2; w++) {
                const int at = b_at(t, g / 4 + j % 4 * 2) + col * 4;
                b[j][w] = M::round(*(const u32*)(from + at + (k * 8 + w * 4) * B_CHUNKS * 16 + j / 4 * 128));
            }
    }
    // One round of a transposition between the lanes of a quad: part i of a lane whose bit BIT of t differs from that of
    // i goes to the lane that differs in that bit, into part i ^ BIT.
    template <int BIT> DEV static void swap_parts(float (&part)[4][2], int t) {
        const bool upper = t & BIT;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & BIT) continue;
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float got = __shfl_xor_sync(0xffffffffu, upper ? part[i][e] : part[i | BIT][e], BIT);
                part[i][e] = upper ? got : part[i][e];
                part[i | BIT][e] = upper ? part[i | BIT][e] : got;
            }
        }
    }
};

// Runs `steps` stages through a ring of STAGES: load(stage, step) starts this thread's copies to byte `stage` of smem,
// use(stage) reads what all threads have copied. Ends without a barrier.
template <int STAGES, int STAGE_BYTES, class Load, class Use> DEV void pipeline(int steps, Load load, Use use) {
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(s * STAGE_BYTES, s);
        cp_async_commit();
    }
    int full = 0, empty = (STAGES - 1) * STAGE_BYTES;
    for (int s = 0; s < steps; s++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // everybody's copies of this stage are there, and nobody reads the empty one any more
        if (s + STAGES - 1 < steps) load(empty, s + STAGES - 1);
        cp_async_commit();
        use(full);
        empty = full;
        full = full + STAGE_BYTES == STAGES * STAGE_BYTES ? 0 : full + STAGE_BYTES;
    }
}
