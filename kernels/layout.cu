// layout.cu: moving elements without computing: joins, slices, shortcuts, and the two orders of a feature map.
//
//   computes   layout_gather: y[n, i, j, k] = x[n, i', j', k - SHIFT], 0 where x has no such place; i' = i * STRIDE, or
//              i / STRIDE where that is whole (P_UP); j' alike
//              layout_window: y[n, i, j] = x[n, i + FROM_I, j + FROM_J], FILL where x has no such place
//              layout_transpose: y[n, j, i] = x[n, i, j]
//   shapes     layout_gather: x : [N, SOURCE_H, SOURCE_W, SOURCE_C] in X, y : [N, H, W, C] in Y, its pixels PITCH apart
//              layout_window: x : [N, SOURCE_H, SOURCE_W, C] in X, y : [N, H, W, C] in Y
//              layout_transpose: x : [N, ROWS, COLS] in X, y : [N, COLS, ROWS] in Y
//   launch     layout_gather, layout_window: one thread for V channels of a pixel: grid (ceil(TOTAL / 256)), block 256
//              layout_transpose: one block a square of 32: grid (N * ceil(ROWS / 32), ceil(COLS / 32)), block 256
//   constants  P_V 8 where C, PITCH, SHIFT and SOURCE_C are multiples of it, else 1;  P_X, P_Y storage;  P_UP 0 or 1
//   limits     TOTAL < 2^31
//   order      no reductions
//   source     none
//   twins      src/gpu/layout.rs  src/cpu/layout.rs  tests/kernels/layout.rs  benches/ops/layout.rs
#include "lib/group.cuh"

constexpr int V = P_V, UP = P_UP, THREADS = 256, SIDE = 32;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
static_assert(V == 1 || V == VEC, "layout: groups of 1 or 8 channels");
static_assert(UP == 0 || UP == 1, "layout: up is a flag");
static_assert(THREADS % SIDE == 0, "layout: whole rows of a square");

extern "C" __global__ __launch_bounds__(THREADS)
void layout_gather(const X* __restrict__ x, Y* __restrict__ y, int total, int groups, int h, int w, i64 pitch, int source_h,
                   int source_w, int source_c, int shift, int stride) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const u32 pixel = at / groups, row = pixel / w;
    const int i = (int)(row % h), j = (int)(pixel % w), k = (int)(at % groups) * V;
    const int from_i = UP ? i / stride : i * stride, from_j = UP ? j / stride : j * stride, from_k = k - shift;
    const bool there = !UP || (from_i * stride == i && from_j * stride == j);
    float v[V] = {};
    if (there && from_k >= 0 && from_k < source_c) {
        load_group(x + (((i64)(row / h) * source_h + from_i) * source_w + from_j) * source_c + from_k, v);
    }
    store_group(y + pixel * pitch + k, v);
}

extern "C" __global__ __launch_bounds__(THREADS)
void layout_window(const X* __restrict__ x, Y* __restrict__ y, int total, int groups, int h, int w, int source_h, int source_w,
                   int from_i, int from_j, float fill) {
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const u32 pixel = at / groups, row = pixel / w;
    const int i = (int)(row % h) + from_i, j = (int)(pixel % w) + from_j, k = (int)(at % groups) * V;
    float v[V];
#pragma unroll
    for (int e = 0; e < V; e++) v[e] = fill;
    if (i >= 0 && i < source_h && j >= 0 && j < source_w) {
        load_group(x + (((i64)(row / h) * source_h + i) * source_w + j) * groups * V + k, v);
    }
    store_group(y + (i64)at * V, v);
}

extern "C" __global__ __launch_bounds__(THREADS)
void layout_transpose(const X* __restrict__ x, Y* __restrict__ y, int rows, int cols) {
    // A column more, so that columns of the square lie in different banks.
    __shared__ float square[SIDE][SIDE + 1];
    const int down = (rows + SIDE - 1) / SIDE, a = threadIdx.x % SIDE, b = threadIdx.x / SIDE;
    const i64 base = (i64)(blockIdx.x / down) * rows * cols;
    const int i0 = (int)(blockIdx.x % down) * SIDE, j0 = blockIdx.y * SIDE;
#pragma unroll
    for (int k = b; k < SIDE; k += THREADS / SIDE) {
        if (i0 + k < rows && j0 + a < cols) square[k][a] = widen(x[base + (i64)(i0 + k) * cols + j0 + a]);
    }
    __syncthreads();
#pragma unroll
    for (int k = b; k < SIDE; k += THREADS / SIDE) {
        if (j0 + k < cols && i0 + a < rows) y[base + (i64)(j0 + k) * rows + i0 + a] = narrow<Y>(square[a][k]);
    }
}
