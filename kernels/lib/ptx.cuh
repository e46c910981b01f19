// ptx.cuh: the only inline PTX. Each wrapper has a twin of the same name and signature for the emulator, which defines
// PETARD_EMULATED and includes the twins first.
#pragma once
#ifndef PETARD_EMULATED

// f32 -> bf16 bits, to nearest even (sm_80).
__device__ __forceinline__ u16 f32_to_bf16(float v) {
    u16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(v));
    return out;
}
// f32 -> half bits, to nearest even.
__device__ __forceinline__ u16 f32_to_f16(float v) {
    u16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(v));
    return out;
}
// half bits -> f32, exact.
__device__ __forceinline__ float f16_to_f32(u16 v) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(v));
    return out;
}

// Tensor cores and asynchronous copies (sm_80). Fragment maps: lane l has g = l / 4 and t = l % 4.

// Address in the shared window; the emulator's is opaque, so arithmetic is addition of byte counts only.
typedef u32 saddr;
DEV saddr smem_addr(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Starts a copy of `bytes` (0 or 16) to 16 bytes of shared memory, past L1; 0 writes zeros and does not look at `src`.
DEV void cp_async16(saddr dst, const void* src, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(__cvta_generic_to_global(src)), "r"(bytes)
                 : "memory");
}
// Ends this thread's group of copies; an empty group is complete at once.
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's youngest groups are under way; others' copies need a barrier after it.
template <int N> DEV void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 tiles of 16-bit elements: lane l names row l % 8 of tile l / 8. r[i] of lane l: tile i, row g, columns 2t and
// 2t + 1 (low half first); seen as 32-bit elements (8x4): row g, column t.
DEV void ldmatrix_x4(u32 (&r)[4], saddr row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
// The same, transposed: r[i] of lane l: tile i, rows 2t and 2t + 1, column g.
DEV void ldmatrix_x4_trans(u32 (&r)[4], saddr row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// d[16x8] += a[16x16] * b[16x8] for 16-bit a and b. d[i]: row g + 8 (i / 2), column 2t + i % 2. a[i]: row g + 8 (i % 2),
// columns 2t + 8 (i / 2) and the next. b[i]: rows 2t + 8i and the next, column g.
DEV void mma_16816_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEV void mma_16816_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d[16x8] += a[16x8] * b[8x8] for tf32 (f32 whose low 13 bits are not looked at). d as above. a[i]: row g + 8 (i % 2),
// column t + 4 (i / 2). b[i]: row t + 4i, column g.
DEV void mma_1688_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two f32 to nearest even, `lo` in the low half.
DEV u32 pack_bf16x2(float lo, float hi) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(hi), "f"(lo));
    return out;
}
DEV u32 pack_f16x2(float lo, float hi) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(hi), "f"(lo));
    return out;
}
// f32 -> f32 bits with 10 bits of mantissa, to nearest, ties away from zero.
DEV u32 f32_to_tf32(float v) {
    u32 out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(v));
    return out;
}

#endif
