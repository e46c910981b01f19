// The twins of kernels/lib/ptx.cuh on the host: same names, same signatures. Says no more than which runtime call it is.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// ---- conversions

static inline u16 f32_to_bf16(float v) {
    const u32 bits = __float_as_uint(v);
    if (v != v) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline u16 f32_to_f16(float v) { return v != v ? 0x7fff : emu_bits<u16>((_Float16)v); }
static inline float f16_to_f32(u16 v) { return (float)emu_bits<_Float16>(v); }
static inline u32 pack_bf16x2(float lo, float hi) { return f32_to_bf16(lo) | (u32)f32_to_bf16(hi) << 16; }
static inline u32 pack_f16x2(float lo, float hi) { return f32_to_f16(lo) | (u32)f32_to_f16(hi) << 16; }
static inline u32 f32_to_tf32(float v) {
    const u32 bits = __float_as_uint(v);
    if (v != v) return 0x7fffffff;
    return fabsf(v) == __builtin_inff() ? bits : (bits + 0x1000) & 0xffffe000;
}

// ---- shared memory and asynchronous copies

// A pointer: a kernel that takes a shared address for a number does not compile.
struct saddr {
    char* p;
    friend saddr operator+(saddr a, long bytes) { return {a.p + bytes}; }
    saddr& operator+=(long bytes) {
        p += bytes;
        return *this;
    }
};
static inline saddr smem_addr(const void* p) { return {(char*)p}; }

static inline void cp_async16(saddr dst, const void* src, int bytes) { emu_cp_async(dst.p, src, 16, bytes); }
static inline void cp_async_commit() { emu_cp_async_commit(); }
template <int N> static inline void cp_async_wait() { emu_cp_async_wait(N); }

// ---- tensor cores

static inline void ldmatrix_x4(u32 (&r)[4], saddr row) { emu_ldmatrix(r, row.p, 4, 0); }
static inline void ldmatrix_x4_trans(u32 (&r)[4], saddr row) { emu_ldmatrix(r, row.p, 4, 1); }
static inline void mma_16816_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu_mma_16816(d, a, b0, b1); }
static inline void mma_16816_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu_mma_16816_f16(d, a, b0, b1); }
static inline void mma_1688_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu_mma_1688_tf32(d, a, b0, b1); }
