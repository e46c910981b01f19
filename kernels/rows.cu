// rows.cu: one value an image: comparisons, choices between rows, and the state of a gradient.
//
//   computes   rows_greater: y = a > b ? 1 : 0;  rows_max: y = the larger of a and b, a NaN loses to a number
//   shapes     a, b, y : [N] f32
//   launch     rows_greater, rows_max: one thread a row: grid (ceil(N / 256)), block 256
//   constants  none
//   limits     y may be a or b
//   order      no reductions
//   source     none
//   twins      src/gpu/rows.rs  src/cpu/rows.rs  tests/kernels/rows.rs
//
//   computes   rows_select: row of a where flag != 0, else of b
//   shapes     flag : [N];  a, b, y : [N, ELEMS] f32
//   launch     rows_select: PARTS blocks an image, four elements a thread: grid (N * PARTS), any block
//   constants  none
//   limits     y may be b: then rows that stay are not touched
//   order      no reductions
//   source     none
//   twins      src/gpu/rows.rs  src/cpu/rows.rs  tests/kernels/rows.rs
//
//   computes   rows_column: y[n] = state[n, INDEX]
//   shapes     state : [N, LEN] f32;  y : [N]
//   launch     rows_column: one thread a row: grid (ceil(N / 256)), block 256
//   constants  none
//   limits     none
//   order      no reductions
//   source     none
//   twins      src/gpu/rows.rs  src/cpu/rows.rs  tests/kernels/rows.rs
//
//   computes   rows_grad_status: 0 = ordinary, 1 = every element zero, 2 = some element NaN or infinite
//   shapes     g : [N, ELEMS] f32;  y : [N]
//   launch     rows_grad_status: block n takes image n: grid (N), block 256
//   constants  none
//   limits     none
//   order      whole numbers: every order gives the same
//   source     none
//   twins      src/gpu/rows.rs  src/cpu/rows.rs  tests/kernels/rows.rs
#include "lib/reduce_row.cuh"

constexpr int THREADS = 256;

extern "C" __global__ __launch_bounds__(THREADS)
void rows_greater(const float* a, const float* b, float* y, int n) {
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (i < n) y[i] = a[i] > b[i] ? 1.0f : 0.0f;
}

extern "C" __global__ __launch_bounds__(THREADS)
void rows_max(const float* a, const float* b, float* y, int n) {
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (i < n) y[i] = fmaxf(a[i], b[i]);
}

extern "C" __global__ __launch_bounds__(THREADS)
void rows_select(const float* flag, const float* a, const float* b, float* y, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * (int)blockDim.x + (int)threadIdx.x) * 4;
    const float* from = flag[image] != 0.0f ? a : b;
    if (i >= elems || from == y) return;
    from += (i64)image * elems, y += (i64)image * elems;
    if (elems % 4 == 0) {
        *(float4*)(y + i) = *(const float4*)(from + i);
    } else {
        for (int k = i; k < i + 4 && k < elems; k++) y[k] = from[k];
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void rows_column(const float* state, float* y, int index, int len, int n) {
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (i < n) y[i] = state[(i64)i * len + index];
}

enum : u32 { NON_ZERO = 1, NOT_FINITE = 2 };

DEV u32 state(float v) {
    const u32 size = __float_as_uint(v) & 0x7fffffffu;
    return (size != 0 ? NON_ZERO : 0) | (size >= 0x7f800000u ? NOT_FINITE : 0);
}

extern "C" __global__ __launch_bounds__(THREADS)
void rows_grad_status(const float* g, float* y, int elems) {
    g += (i64)blockIdx.x * elems;
    u32 seen = 0;
    if (elems % 4 == 0) {
#pragma unroll 4
        for (int i = 4 * (int)threadIdx.x; i < elems; i += 4 * THREADS) {
            const float4 v = *(const float4*)(g + i);
            seen |= state(v.x) | state(v.y) | state(v.z) | state(v.w);
        }
    } else {
        for (int i = (int)threadIdx.x; i < elems; i += THREADS) seen |= state(g[i]);
    }
    seen = Team<THREADS>::join(seen, Or());
    if (threadIdx.x == 0) y[blockIdx.x] = seen & NOT_FINITE ? 2.0f : seen & NON_ZERO ? 0.0f : 1.0f;
}
