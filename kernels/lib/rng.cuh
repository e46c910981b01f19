// rng.cuh: random numbers that belong to an image, bit for bit those of src/rng.rs: Philox4x32-10 (Salmon et al., SC 2011).
// Element i is word i % 4 of block i / 4. Written so that contraction to fused multiply-adds cannot change a bit.
#pragma once
#include "lib/num.cuh"

enum : u32 {
    DRAW_START = 1, DRAW_START_RADIUS = 2, DRAW_DROPOUT = 4, DRAW_TRANSFER = 8, DRAW_FAB_START = 10, DRAW_SQUARE = 11, DRAW_HOP = 12,
    DRAW_DIRECTION = 13
};

struct Stream {
    u32 key[2], index, step, place;

    // `restart`: of an attack, or the site of a dropout layer.
    DEV Stream(i64 seed, int index, int step, u32 purpose, int restart)
        : key{(u32)seed, (u32)((u64)seed >> 32)}, index((u32)index), step((u32)step), place(purpose << 16 | (u32)restart) {}

    DEV void block(u32 number, u32 (&w)[4]) const {
        u32 c0 = number, c1 = index, c2 = step, c3 = place, k0 = key[0], k1 = key[1];
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const u64 a = (u64)0xd2511f53u * c0, b = (u64)0xcd9e8d57u * c2;
            c0 = (u32)(b >> 32) ^ c1 ^ k0, c1 = (u32)b;
            c2 = (u32)(a >> 32) ^ c3 ^ k1, c3 = (u32)a;
            k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
        }
        w[0] = c0, w[1] = c1, w[2] = c2, w[3] = c3;
    }
    DEV u32 bits(u32 element) const {
        u32 w[4];
        block(element / 4, w);
        const u32 at = element % 4;
        return at == 0 ? w[0] : at == 1 ? w[1] : at == 2 ? w[2] : w[3];
    }
};

constexpr float DRAW_UNIT = 1.0f / 16777216.0f;
// [0,1).
DEV float unit(u32 word) { return (float)(word >> 8) * DRAW_UNIT; }
// (0,1], so that its logarithm is finite.
DEV float above_zero(u32 word) { return (float)((word >> 8) + 1) * DRAW_UNIT; }

// Natural logarithm of a normal number above zero, to 2^-23: ln(2^e * m) with m in [0.7, 1.42), ln(m) = 2 artanh((m-1)/(m+1)).
DEV float draw_ln(float v) {
    const int shifted = (int)(__float_as_uint(v) - 0x3f333333u);   // 0x3f333333 is 0.7
    const float e = (float)(shifted >> 23);
    const float f = __uint_as_float((u32)(shifted & 0x7fffff) + 0x3f333333u) - 1.0f;
    const float s = f / (2.0f + f), s2 = __fmul_rn(s, s);
    const float tail = fmaf(s2, fmaf(s2, fmaf(s2, 2.0f / 9.0f, 2.0f / 7.0f), 2.0f / 5.0f), 2.0f / 3.0f);
    // ln 2 in two parts; e times the first is exact. 2s = f - s*f, which keeps f exact.
    const float correction = fmaf(s, fmaf(s2, tail, -f), __fmul_rn(e, 1.4286068e-6f));
    return fmaf(e, 0.69314575f, __fadd_rn(f, correction));
}

// Sine and cosine of full turns in [0,1), to 1e-7: Taylor around the nearest quarter.
DEV void draw_sincos(float turns, float& sine, float& cosine) {
    const float quarters = 4.0f * turns, quadrant = floorf(__fadd_rn(quarters, 0.5f));
    const float r = __fadd_rn(quarters, -quadrant), r2 = __fmul_rn(r, r);
    const float odd = fmaf(r2, fmaf(r2, fmaf(r2, fmaf(r2, 0.0001604412f, -0.004681754f), 0.07969263f), -0.6459641f), 1.57079633f);
    const float even = fmaf(r2, fmaf(r2, fmaf(r2, fmaf(r2, -0.00002520204f, 0.0009192603f), -0.02086348f), 0.2536695f), -1.2337006f);
    const float s = __fmul_rn(r, odd), c = fmaf(r2, even, 1.0f);
    const u32 q = (u32)quadrant % 4;
    sine = q == 0 ? s : q == 1 ? c : q == 2 ? -s : -c;
    cosine = q == 0 ? c : q == 1 ? -s : q == 2 ? -c : s;
}

// Four standard normals from a block: Box-Muller on words (0, 1) and (2, 3).
DEV void draw_normals(const u32 (&w)[4], float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const float radius = sqrtf(-2.0f * draw_ln(above_zero(w[i])));
        float sine, cosine;
        draw_sincos(unit(w[i + 1]), sine, cosine);
        v[i] = __fmul_rn(radius, cosine), v[i + 1] = __fmul_rn(radius, sine);
    }
}
