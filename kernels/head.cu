// head.cu: what classifiers on a sphere are made of: rows of unit length, scales and margins by class, weights by image.
//
//   computes   head_unit: y = x / (|x| + gamma) for each row;  head_unit_grad: its gradient from g
//   shapes     x, g, y : [ROWS, LEN] f32
//   launch     head_unit, head_unit_grad: block r owns row r: grid (ROWS), block 256
//   constants  none
//   limits     a row without length gives zeros; lengths in f64
//   order      sums over a row by Team: fixed by LEN
//   source     Pang et al. 2020, https://arxiv.org/abs/2002.08619
//   twins      src/gpu/head.rs  src/cpu/head.rs  tests/kernels/head.rs
//
//   computes   head_scales: s = 1 / (|w| + gamma) for each row;  head_scales_grad: y = -g s^2 w / |w|, one g a row
//   shapes     w, y : [ROWS, LEN] f32;  s, g : [ROWS]
//   launch     as above
//   constants  none
//   limits     0 for a row without length
//   order      as above
//   source     as above
//   twins      src/gpu/head.rs  src/cpu/head.rs  tests/kernels/head.rs
//
//   computes   head_channels: y = x * r along the last dimension;  head_rows: y = x * r, one r an image;
//              head_margins: y = scale * z + bias, less margin at the label
//   shapes     x, y : [ROWS, LEN] f32;  r : [LEN] or [ROWS];  label : [ROWS] i32;  table : [3, LEN]
//   launch     one thread an element: grid (ceil(ROWS * LEN / 256)), block 256
//   constants  none
//   limits     y may be x
//   order      no reductions
//   source     Wu et al. 2021, https://arxiv.org/abs/2104.02703
//   twins      src/gpu/head.rs  src/cpu/head.rs  tests/kernels/head.rs
//
//   computes   head_product: s[c] = sum over the rows of g * x
//   shapes     g, x : [ROWS, LEN] f32;  s : [LEN]
//   launch     head_product: block c owns channel c: grid (LEN), block 256
//   constants  none
//   limits     sums in f64
//   order      by Team: fixed by ROWS
//   source     none
//   twins      src/gpu/head.rs  src/cpu/head.rs  tests/kernels/head.rs
#include "lib/reduce_row.cuh"

constexpr int THREADS = 256;
typedef Team<THREADS> Block;

DEV double inverse(double v) { return v == 0.0 ? 0.0 : 1.0 / v; }

// The length of a row. Every thread gets it.
DEV double row_length(const float* x, int len) {
    double part = 0.0;
    for (int i = Block::rank(); i < len; i += THREADS) part += (double)x[i] * (double)x[i];
    return sqrt(Block::sum(part));
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_unit(const float* x, float* y, float gamma, int len) {
    x += (i64)blockIdx.x * len, y += (i64)blockIdx.x * len;
    const double scale = inverse(row_length(x, len) + (double)gamma);
    for (int i = Block::rank(); i < len; i += THREADS) y[i] = (float)((double)x[i] * scale);
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_unit_grad(const float* g, const float* x, float* y, float gamma, int len) {
    g += (i64)blockIdx.x * len, x += (i64)blockIdx.x * len, y += (i64)blockIdx.x * len;
    const double length = row_length(x, len), scale = inverse(length + (double)gamma);
    double part = 0.0;
    for (int i = Block::rank(); i < len; i += THREADS) part += (double)g[i] * (double)x[i];
    const double pull = Block::sum(part) * scale * scale * inverse(length);
    for (int i = Block::rank(); i < len; i += THREADS) {
        y[i] = length == 0.0 ? 0.0f : (float)((double)g[i] * scale - (double)x[i] * pull);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_scales(const float* w, float* s, float gamma, int len) {
    const double scale = inverse(row_length(w + (i64)blockIdx.x * len, len) + (double)gamma);
    if (threadIdx.x == 0) s[blockIdx.x] = (float)scale;
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_scales_grad(const float* g, const float* w, float* y, float gamma, int len) {
    w += (i64)blockIdx.x * len, y += (i64)blockIdx.x * len;
    const double length = row_length(w, len), scale = inverse(length + (double)gamma);
    const double pull = -(double)g[blockIdx.x] * scale * scale * inverse(length);
    for (int i = Block::rank(); i < len; i += THREADS) y[i] = (float)((double)w[i] * pull);
}

DEV i64 element() { return (i64)blockIdx.x * THREADS + (int)threadIdx.x; }

extern "C" __global__ __launch_bounds__(THREADS)
void head_channels(const float* x, const float* r, float* y, int len, i64 elems) {
    const i64 i = element();
    if (i < elems) y[i] = x[i] * r[i % len];
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_rows(const float* x, const float* r, float* y, int len, i64 elems) {
    const i64 i = element();
    if (i < elems) y[i] = x[i] * r[i / len];
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_margins(const float* z, const int* label, const float* table, float* y, int len, i64 elems) {
    const i64 i = element();
    if (i >= elems) return;
    const int c = (int)(i % len);
    const double less = label[i / len] == c ? (double)table[2 * len + c] : 0.0;
    y[i] = (float)((double)table[c] * (double)z[i] + (double)table[len + c] - less);
}

extern "C" __global__ __launch_bounds__(THREADS)
void head_product(const float* g, const float* x, float* s, int len, i64 rows) {
    double part = 0.0;
    for (i64 row = Block::rank(); row < rows; row += THREADS) {
        const i64 i = row * len + (int)blockIdx.x;
        part += (double)g[i] * (double)x[i];
    }
    part = Block::sum(part);
    if (threadIdx.x == 0) s[blockIdx.x] = (float)part;
}
