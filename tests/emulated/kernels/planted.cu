// planted.cu: small kernels, each right as it stands and wrong in one way where P_PLANT is 1. The check build must find
// every fault and must find none in what is right.
//
// Every entry: x : [n] floats, ready to be read, y : [n] floats, never written; n = 256 in two blocks of 128 threads.
#include "lib/num.cuh"

extern __shared__ __align__(1024) u8 smem[];

constexpr bool PLANT = P_PLANT;
constexpr int THREADS = 128;

#define ENTRY(name) extern "C" __global__ void name(const float* x, float* y, int n)
#define AT ((int)(blockIdx.x * THREADS + threadIdx.x))
#define TID ((int)threadIdx.x)

// A neighbour's word without a barrier between.
ENTRY(planted_no_barrier) {
    __shared__ float s[THREADS];
    s[TID] = x[AT];
    if (!PLANT) __syncthreads();
    y[AT] = s[(TID + 37) % THREADS];
}

// The next round's write reaches those who still read this round's.
ENTRY(planted_no_barrier_before_refill) {
    __shared__ float s[THREADS];
    float sum = 0.0f;
    for (int round = 0; round < 3; round++) {
        s[TID] = x[AT] + (float)round;
        __syncthreads();
        sum += s[(TID + 37) % THREADS];
        if (!PLANT) __syncthreads();
    }
    y[AT] = sum;
}

ENTRY(planted_no_syncwarp) {
    __shared__ float s[THREADS];
    s[TID] = x[AT];
    if (!PLANT) __syncwarp();
    y[AT] = s[TID ^ 1];
}

// Half of a block meets a barrier that the rest does not.
ENTRY(planted_barrier_in_branch) {
    if (!PLANT || TID < 64) __syncthreads();
    y[AT] = x[AT];
}

ENTRY(planted_shuffle_in_branch) {
    float v = x[AT];
    if (!PLANT || TID % 32 < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    y[AT] = v;
}

// Half of a warp reads lanes of the other half, which take no part.
ENTRY(planted_shuffle_from_absent) {
    float v = x[AT];
    if (TID % 32 < 16) v = __shfl_down_sync(0x0000ffffu, v, PLANT ? 8 : 0);
    y[AT] = v;
}

// A group of copies too few is waited for.
ENTRY(planted_wait_for_too_few) {
    cp_async16(smem_addr(smem) + TID * 16, x, 16);
    cp_async_commit();
    cp_async16(smem_addr(smem) + (THREADS + TID) * 16, x + 4, 16);
    cp_async_commit();
    cp_async_wait<PLANT ? 1 : 0>();
    __syncthreads();
    y[AT] = ((const float*)smem)[(THREADS + TID) * 4];
}

// Each thread has waited for its own copies, but not for those of the others.
ENTRY(planted_wait_without_barrier) {
    cp_async16(smem_addr(smem) + TID * 16, x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    if (!PLANT) __syncthreads();
    y[AT] = ((const float*)smem)[(TID + 37) % THREADS * 4];
}

ENTRY(planted_read_past_end) { y[AT] = x[AT + (PLANT ? 1 : 0)]; }
ENTRY(planted_read_before_start) { y[AT] = x[AT - (PLANT ? 1 : 0)]; }
ENTRY(planted_write_past_end) { y[AT + (PLANT ? 1 : 0)] = x[AT]; }
ENTRY(planted_write_before_start) { y[AT - (PLANT ? 1 : 0)] = x[AT]; }

// One float more than was asked for.
ENTRY(planted_dynamic_overrun) {
    float* s = (float*)smem;
    const int at = TID + (PLANT ? 1024 - THREADS + 1 : 0);
    s[at] = x[AT];
    __syncthreads();
    y[AT] = s[at];
}

ENTRY(planted_static_overrun) {
    __shared__ float s[32], after[32];
    const int at = TID % 32 + (PLANT ? n / 128 : 0);
    if (TID < 32) after[TID] = s[at] = x[AT];
    __syncthreads();
    y[AT] = s[at % 32] + after[TID % 32];
}

ENTRY(planted_local_overrun) {
    float a[4];
    for (int i = 0; i < 4; i++) a[i] = x[AT] + (float)i;
    float sum = 0.0f;
    for (int i = 0; i < 4 + (PLANT ? n / 256 : 0); i++) sum += a[i];
    y[AT] = sum;
}

ENTRY(planted_unwritten_shared) {
    __shared__ float s[THREADS];
    if (!PLANT || TID < 60) s[TID] = x[AT];
    __syncthreads();
    y[AT] = s[TID];
}

ENTRY(planted_unwritten_global) {
    if (!PLANT) y[AT] = x[AT];
    y[AT] = y[AT] + 1.0f;
}

ENTRY(planted_two_blocks_one_word) {
    if (TID == 0) y[PLANT ? 0 : blockIdx.x] = x[AT];
}

// A block reads what another one of the same launch writes.
ENTRY(planted_read_of_other_block) {
    y[AT] = x[AT];
    const int other = (AT + THREADS) % n;
    if (PLANT && blockIdx.x == 1) y[AT] = y[other];
}

ENTRY(planted_two_lanes_one_word) { y[PLANT ? AT / 2 : AT] = x[AT]; }

// Neighbours share a word but no byte, which is fine; or a half.
ENTRY(planted_two_lanes_one_half) { ((u16*)y)[PLANT ? AT / 2 : AT] = f32_to_f16(x[AT]); }

ENTRY(planted_misaligned_vector) {
    const float4 v = *(const float4*)(x + TID / 4 * 4 + (PLANT ? 1 : 0));
    y[AT] = v.x + v.w;
}

ENTRY(planted_shift_too_far) { y[AT] = (float)(1u << (TID % 32 + (PLANT ? n / 8 : 0))); }

ENTRY(planted_division_by_zero) { y[AT] = (float)(AT / (PLANT ? n - 256 : n)); }

ENTRY(planted_ldmatrix_misaligned) {
    *(float4*)(smem + TID * 16) = *(const float4*)(x + TID % 4 * 4);
    *(float4*)(smem + (THREADS + TID) * 16) = *(const float4*)(x + TID % 4 * 4);
    __syncthreads();
    u32 r[4];
    ldmatrix_x4(r, smem_addr(smem) + TID * (PLANT ? 24 : 16));
    y[AT] = __uint_as_float(r[0]);
}

// A thread's own atomic must not hide that it has written the word plainly before.
ENTRY(planted_atomic_after_plain) {
    __shared__ int count;
    if (TID == 0) count = 0;
    __syncthreads();
    if (PLANT && TID == 0) count = 1;
    atomicAdd(&count, 1);
    __syncthreads();
    y[AT] = (float)count;
}

// A kernel without a fault that leans on everything at once.
ENTRY(planted_nothing) {
    __shared__ float partial[THREADS / 32];
    __shared__ int count;
    if (TID == 0) count = 0;
    float v = x[AT];
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (TID % 32 == 0) partial[TID / 32] = v;
    __syncthreads();
    if (TID < 10) {
        const float same = __shfl_down_sync(0x3ffu, v, 1);
        if (TID == 3) atomicAdd(&count, same == v);
    }
    atomicAdd(&count, 1);
    const int odd = __syncthreads_count(TID & 1);
    float sum = (float)(odd + count);
    for (int w = 0; w < THREADS / 32; w++) sum += partial[w];
    y[AT] = sum;
}
