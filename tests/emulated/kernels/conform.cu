// conform.cu: one entry for each thing that the emulator plays, with answers that can be told beforehand. Standard CUDA
// through lib/, so that a card can be asked the same questions. Data movement and small integers must agree bit for bit.
//
// Every entry: in, out : u32 words, what they mean is said at the entry; n : a count. One block unless said otherwise.
#include "lib/num.cuh"

extern __shared__ __align__(1024) u8 smem[];

#define ENTRY(name) extern "C" __global__ void name(const u32* in, u32* out, int n)
DEV int thread_id() { return (int)(blockIdx.x * blockDim.x + threadIdx.x); }

// out[4i..] = block and thread indices of thread i, over a grid.
ENTRY(conform_indices) {
    const int i = thread_id();
    if (i >= n) return;
    *(uint4*)(out + 4 * i) = make_uint4(blockIdx.x, threadIdx.x, gridDim.x, blockDim.x);
}

// in: n halves; out[i] = as f32; out[n + i] = back to half, and the f32 to bf16 in the upper half.
ENTRY(conform_halves) {
    const int i = thread_id();
    if (i >= n) return;
    const float wide = f16_to_f32((u16)in[i]);
    out[i] = __float_as_uint(wide);
    out[n + i] = (u32)f32_to_f16(wide) | (u32)f32_to_bf16(wide) << 16;
}

// in: n floats; out: three words each: bf16 and half by one conversion, by a packed one, tf32.
ENTRY(conform_narrow) {
    const int i = thread_id();
    if (i >= n) return;
    const float v = __uint_as_float(in[i]);
    out[3 * i] = (u32)f32_to_bf16(v) | (u32)f32_to_f16(v) << 16;
    out[3 * i + 1] = (pack_bf16x2(v, 1.0f) & 0xffff) | pack_f16x2(1.0f, v) >> 16 << 16;
    out[3 * i + 2] = f32_to_tf32(v);
}

// in: pairs of words; out: ten words a pair.
ENTRY(conform_integers) {
    const int i = thread_id();
    if (i >= n) return;
    const u32 a = in[2 * i], b = in[2 * i + 1];
    const u64 wide = (u64)a << 32 | b;
    u32* to = out + 10 * i;
    to[0] = __umulhi(a, b);
    to[1] = (u32)__mulhi((int)a, (int)b);
    to[2] = (u32)(__umul64hi(wide, wide) >> 32);
    to[3] = __brev(a);
    to[4] = (u32)(__clz((int)a) | __clzll((i64)wide) << 8 | __ffs((int)b) << 16 | __popcll(wide) << 24);
    to[5] = (u32)(__popc(a) + 100 * __ffsll((i64)wide));
    to[6] = __byte_perm(a, b, 0x6240);
    to[7] = __funnelshift_l(a, b, b & 31);
    to[8] = min((int)a, (int)b) ^ max(a, b);
    to[9] = (u32)abs((int)(a >> 1)) + __funnelshift_r(a, b, 7);
}

// in: pairs of floats; out: ten words a pair. No operation here may be contracted with another.
ENTRY(conform_rounded) {
    const int i = thread_id();
    if (i >= n) return;
    const float a = __uint_as_float(in[2 * i]), b = __uint_as_float(in[2 * i + 1]);
    u32* to = out + 10 * i;
    to[0] = __float_as_uint(__fadd_rn(a, b));
    to[1] = __float_as_uint(__fsub_rn(a, b));
    to[2] = __float_as_uint(__fadd_rn(__fmul_rn(a, b), b));
    to[3] = __float_as_uint(__fdiv_rn(a, b));
    to[4] = __float_as_uint(__fsqrt_rn(fabsf(a)));
    to[5] = __float_as_uint(__fmaf_rn(a, b, a));
    to[6] = __float_as_uint(fminf(a, b));
    to[7] = __float_as_uint(fmaxf(a, b));
    to[8] = (u32)__float2int_rn(a);
    to[9] = __float2uint_rz(b);
}

// One warp. out[32k + lane], k < 7: the four shuffles, then three in groups of eight; values are in[lane].
ENTRY(conform_shuffles) {
    const int lane = (int)threadIdx.x;
    const u32 v = in[lane], all = 0xffffffffu;
    out[lane] = __shfl_sync(all, v, n);
    out[32 + lane] = __shfl_up_sync(all, v, (u32)n);
    out[64 + lane] = __shfl_down_sync(all, v, (u32)n);
    out[96 + lane] = __shfl_xor_sync(all, v, n);
    out[128 + lane] = __shfl_sync(all, v, lane + n, 8);
    out[160 + lane] = __shfl_up_sync(all, v, (u32)n, 8);
    out[192 + lane] = (u32)(__shfl_down_sync(all, (u64)v << 20, (u32)n, 8) >> 20);
}

// One warp. out[32k + lane], k < 8: votes and sums over a whole warp; out[256 + lane] over the lane's half of it.
ENTRY(conform_votes) {
    const int lane = (int)threadIdx.x;
    const u32 v = in[lane], all = 0xffffffffu;
    const bool odd = v & 1;
    out[lane] = __ballot_sync(all, odd);
    out[32 + lane] = (u32)__any_sync(all, v == 7);
    out[64 + lane] = (u32)__all_sync(all, v < 1000);
    out[96 + lane] = __reduce_add_sync(all, v);
    out[128 + lane] = __reduce_max_sync(all, v);
    out[160 + lane] = (u32)__reduce_min_sync(all, (int)v - 100);
    out[192 + lane] = __reduce_or_sync(all, v);
    out[224 + lane] = __reduce_and_sync(all, v | 8);
    if (lane < 16) {
        out[256 + lane] = __ballot_sync(0x0000ffffu, odd);
    } else {
        out[256 + lane] = __ballot_sync(0xffff0000u, odd);
    }
}

// n threads. out[3i..]: how many of all threads hold an odd word, whether all do, whether any does.
ENTRY(conform_barriers) {
    const int i = (int)threadIdx.x, odd = in[i] & 1;
    out[3 * i] = (u32)__syncthreads_count(odd);
    out[3 * i + 1] = (u32)(__syncthreads_and(odd) != 0);
    out[3 * i + 2] = (u32)(__syncthreads_or(odd) != 0);
}

// out[0..6]: sum, minimum, maximum, or, and, exclusive or of in[0..n], then what a
// conditional swap of out[7], 5 for 6, and a swap for 9 found there.
ENTRY(conform_atomics) {
    __shared__ u32 all[6];
    if (threadIdx.x < 6) all[threadIdx.x] = threadIdx.x == 1 || threadIdx.x == 4 ? 0xffffffffu : 0;
    __syncthreads();
    if ((int)threadIdx.x < n) {
        const u32 v = in[threadIdx.x];
        atomicAdd(&all[0], v);
        atomicMin(&all[1], v);
        atomicMax(&all[2], v);
        atomicOr(&all[3], v);
        atomicAnd(&all[4], v);
        atomicXor(&all[5], v);
    }
    __syncthreads();
    if (threadIdx.x < 6) out[threadIdx.x] = all[threadIdx.x];
    if (threadIdx.x == 0) {
        const u32 old = atomicCAS(out + 7, 5u, 6u);
        out[6] = 100 * old + atomicExch(out + 7, 9u);
    }
}

// One warp. in: 64 rows of 4 words, as four tiles of 8 rows of 8 halves in the first 32 rows; out[4 lane ..] plain,
// out[128 + 4 lane ..] transposed. Rows lie 48 bytes apart in shared memory.
ENTRY(conform_ldmatrix) {
    const int lane = (int)threadIdx.x;
    *(uint4*)(smem + lane * 48) = *(const uint4*)(in + 4 * lane);
    __syncthreads();
    u32 r[4];
    ldmatrix_x4(r, smem_addr(smem) + lane * 48);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = r[i];
    ldmatrix_x4_trans(r, smem_addr(smem) + lane * 48);
    for (int i = 0; i < 4; i++) out[128 + 4 * lane + i] = r[i];
}

// n threads, two groups: the first copies 16 bytes each, the second 16 or none (odd threads), which reads as zeros.
// Each thread then gives what its neighbour copied.
ENTRY(conform_cp_async) {
    const int i = (int)threadIdx.x, next = (i + 1) % n;
    cp_async16(smem_addr(smem) + i * 16, in + 4 * i, 16);
    cp_async_commit();
    cp_async16(smem_addr(smem) + (n + i) * 16, in + 4 * (n + i), i & 1 ? 0 : 16);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    *(uint4*)(out + 4 * i) = *(const uint4*)(smem + next * 16);
    cp_async_wait<0>();
    __syncthreads();
    *(uint4*)(out + 4 * (n + i)) = *(const uint4*)(smem + (n + next) * 16);
}

// One warp: d[16x8] = c + a b for small integers. in: a[16xK], b[Kx8], c[16x8] as f32; out: d. n = 0 bf16, 1 half, 2 tf32.
ENTRY(conform_mma) {
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4, depth = n == 2 ? 8 : 16;
    const float *a = (const float*)in, *b = a + 16 * depth, *c = b + depth * 8;
    const auto at_a = [&](int row, int k) { return a[row * depth + k]; };
    const auto at_b = [&](int k, int column) { return b[k * 8 + column]; };
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
    u32 left[4], right[2];
    for (int i = 0; i < 4; i++) {
        const int row = g + 8 * (i % 2), k = 2 * t + 8 * (i / 2);
        // What lies in the low 13 bits must not matter to tf32.
        if (n == 2) left[i] = __float_as_uint(at_a(row, t + 4 * (i / 2))) | 0x1abc;
        else if (n == 1) left[i] = pack_f16x2(at_a(row, k), at_a(row, k + 1));
        else left[i] = pack_bf16x2(at_a(row, k), at_a(row, k + 1));
    }
    for (int i = 0; i < 2; i++) {
        const int k = 2 * t + 8 * i;
        if (n == 2) right[i] = __float_as_uint(at_b(t + 4 * i, g)) | 0x1001;
        else if (n == 1) right[i] = pack_f16x2(at_b(k, g), at_b(k + 1, g));
        else right[i] = pack_bf16x2(at_b(k, g), at_b(k + 1, g));
    }
    if (n == 2) mma_1688_tf32(d, left, right[0], right[1]);
    else if (n == 1) mma_16816_f16(d, left, right[0], right[1]);
    else mma_16816_bf16(d, left, right[0], right[1]);
    for (int i = 0; i < 4; i++) ((float*)out)[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = d[i];
}
