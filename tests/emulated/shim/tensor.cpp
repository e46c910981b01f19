// Tensor cores: ldmatrix, and mma with sums in f32 in the order of k (hardware differs in the last bits).
// Lane l has g = l / 4 and t = l % 4; the maps from lanes to elements stand in kernels/lib/ptx.cuh.
#include <cstring>

#include "checker.hpp"
#include "internal.hpp"

using namespace emu;

namespace {

typedef float Row __attribute__((vector_size(32)));

float bf16(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

float f16(uint16_t v) {
    _Float16 h;
    memcpy(&h, &v, 2);
    return (float)h;
}

// Hardware does not look at the low 13 bits.
float tf32(uint32_t v) {
    v &= 0xffffe000;
    float f;
    memcpy(&f, &v, 4);
    return f;
}

struct Mma {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};

// d[16x8] += a[16xK] b[Kx8] of a warp; LOAD puts a lane's registers into the matrices.
template <int K, void (*LOAD)(const Mma&, int g, int t, float (*a)[K], float (*b)[8])>
void mma(BlockRun&, void** slot, uint32_t mask, Fiber*) {
    if (mask != ~0u) emu_fail("WARP: mma by a part of a warp");
    alignas(32) float a[16][K], b[K][8], d[16][8];
    for (int l = 0; l < (int)LANES; l++) {
        const Mma& m = *(Mma*)slot[l];
        const int g = l / 4, t = l % 4;
        LOAD(m, g, t, a, b);
        for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][2 * t + i % 2] = m.d[i];
    }
    for (int i = 0; i < 16; i++) {
        Row sum = *(Row*)d[i];
        for (int k = 0; k < K; k++) sum += a[i][k] * *(Row*)b[k];
        *(Row*)d[i] = sum;
    }
    for (int l = 0; l < (int)LANES; l++) {
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++) ((Mma*)slot[l])->d[i] = d[g + 8 * (i / 2)][2 * t + i % 2];
    }
}

template <float (*WIDEN)(uint16_t)> void load_16(const Mma& m, int g, int t, float (*a)[16], float (*b)[8]) {
    for (int i = 0; i < 4; i++) {
        float* two = &a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)];
        two[0] = WIDEN((uint16_t)m.a[i]), two[1] = WIDEN((uint16_t)(m.a[i] >> 16));
    }
    for (int i = 0; i < 2; i++) {
        b[2 * t + 8 * i][g] = WIDEN((uint16_t)m.b[i]);
        b[2 * t + 8 * i + 1][g] = WIDEN((uint16_t)(m.b[i] >> 16));
    }
}

void load_tf32(const Mma& m, int g, int t, float (*a)[8], float (*b)[8]) {
    for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = tf32(m.a[i]);
    for (int i = 0; i < 2; i++) b[t + 4 * i][g] = tf32(m.b[i]);
}

struct Ldmatrix {
    uint32_t* out;
    const unsigned char* row;
    int matrices;
    const void* pc;
};

template <bool TRANSPOSED> void ldmatrix(BlockRun& b, void** slot, uint32_t mask, Fiber* lanes) {
    if (mask != ~0u) emu_fail("WARP: ldmatrix by a part of a warp");
    for (int m = 0; m < ((Ldmatrix*)slot[0])->matrices; m++) {
        const unsigned char* row[8];
        for (int i = 0; i < 8; i++) {
            const int lane = 8 * m + i;
            const Ldmatrix& from = *(Ldmatrix*)slot[lane];
            row[i] = from.row;
            if ((uintptr_t)row[i] % 16) emu_fail("MISALIGNED ldmatrix: lane %d names %p", lane, (void*)row[i]);
            if (!is_shared(b, row[i], 16)) emu_fail("ldmatrix: lane %d names %p, not shared memory", lane, (void*)row[i]);
            if (b.checker) b.checker->access(b, row[i], 16, READ, from.pc, lanes + lane);
        }
        for (int l = 0; l < (int)LANES; l++) {
            const int g = l / 4, t = l % 4;
            uint16_t two[2];
            for (int i = 0; i < 2; i++) memcpy(&two[i], TRANSPOSED ? row[2 * t + i] + 2 * g : row[g] + 4 * t + 2 * i, 2);
            memcpy(&((Ldmatrix*)slot[l])->out[m], two, 4);
        }
    }
}

void start_mma(float* d, const unsigned* a, unsigned b0, unsigned b1, Exec exec, const void* pc) {
    Mma m{d, a, {b0, b1}};
    collective(~0u, &m, exec, pc);
}

}  // namespace

void emu_mma_16816(float* d, const unsigned* a, unsigned b0, unsigned b1) {
    start_mma(d, a, b0, b1, mma<16, load_16<bf16>>, CALLER);
}

void emu_mma_16816_f16(float* d, const unsigned* a, unsigned b0, unsigned b1) {
    start_mma(d, a, b0, b1, mma<16, load_16<f16>>, CALLER);
}

void emu_mma_1688_tf32(float* d, const unsigned* a, unsigned b0, unsigned b1) {
    start_mma(d, a, b0, b1, mma<8, load_tf32>, CALLER);
}

void emu_ldmatrix(unsigned* out, const void* row, int matrices, int transposed) {
    Ldmatrix m{out, (const unsigned char*)row, matrices, CALLER};
    collective(~0u, &m, transposed ? ldmatrix<true> : ldmatrix<false>, CALLER);
}
