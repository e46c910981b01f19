// pool.cu: maximum and average pooling and their gradients, which gather: nothing is added twice to one place.
//
//   computes   pool_max: y = largest of each window (NaN wins), index = its place in the window (first of equals)
//              pool_max_grad: dx = sum of g over the windows that this pixel won;  pool_avg: y = sum of the window / divisor
//              pool_avg_grad: dx = sum of g / divisor over the windows on this pixel
//              pool_global: y = mean over H and W;  pool_global_grad: dx = g / (H * W)
//   shapes     x, dx : [N, H, W, C] in X;  y, g : [N, P, Q, C], or [N, C] for the global ones, in Y;  index : bytes like y
//   launch     one thread for V channels of a pixel of the result: grid (ceil(TOTAL / 256)); the global ones: one block row
//              an image, grid (N, ceil(C / (columns * V))), see lib/group.cuh;  block 256
//   constants  P_V 8 where C is a multiple of it, else 1;  P_X, P_Y storage;  P_WRITES 1 y, 2 index, 3 both (pool_max), 0 elsewhere
//   limits     TOTAL < 2^31;  every window touches the image
//   order      windows are walked row by row; the global mean in f64, the same for every N
//   source     PyTorch's rules for padding and for sizes rounded up
//   twins      src/gpu/pool.rs  src/cpu/pool.rs  tests/kernels/pool.rs  benches/ops/pool.rs
#include "lib/group.cuh"
#include "lib/reduce.cuh"

constexpr int V = P_V, WRITES = P_WRITES, THREADS = 256;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
static_assert(V == 1 || V == VEC, "pool: groups of 1 or 8 channels");
static_assert(WRITES >= 0 && WRITES <= 3, "pool: writes value, index or both");

#define WINDOW_PARAMS                                                                                                        \
    int total, int groups, int h, int w, int p, int q, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w
#define WINDOW_AXES const Axis rows = {h, p, kernel_h, stride_h, pad_h}, cols = {w, q, kernel_w, stride_w, pad_w}

// Height or width: sizes of input and output, and the window along it.
struct Axis {
    int size, windows, kernel, stride, pad;

    // Places of window `o` that lie on the image: low .. high-1, counted from the image's edge.
    DEV int low(int o) const { return max(o * stride - pad, 0); }
    DEV int high(int o) const { return min(o * stride - pad + kernel, size); }
    // Places that count where padding does; what rounding up adds behind it does not.
    DEV int counted(int o) const { return min(o * stride + kernel, size + 2 * pad) - o * stride; }
    // Windows on pixel `i`: first_window .. last_window.
    DEV int first_window(int i) const { return i + pad < kernel ? 0 : (i + pad - kernel) / stride + 1; }
    DEV int last_window(int i) const { return min((i + pad) / stride, windows - 1); }
};
// One part in an average over window (o, u).
DEV float share_of(const Axis& rows, const Axis& cols, int o, int u, bool count_pad) {
    const int places = count_pad ? rows.counted(o) * cols.counted(u)
                                 : (rows.high(o) - rows.low(o)) * (cols.high(u) - cols.low(u));
    // The quick quotient and a step of Newton's: a division proper would call a function.
    const float by = (float)places, share = __fdividef(1.0f, by);
    return fmaf(fmaf(-by, share, 1.0f), share, share);
}

// The pixel and channels of a thread, in a result of height by width.
struct Place {
    i64 image;
    int i, j, c0;
    DEV Place(u32 at, int height, int width, int groups) {
        const u32 pixel = at / groups, row = pixel / width;
        c0 = (int)(at % groups) * V, j = (int)(pixel % width), i = (int)(row % height), image = row / height;
    }
};

extern "C" __global__ __launch_bounds__(THREADS, 4)
void pool_max(const X* __restrict__ x, Y* __restrict__ y, u8* __restrict__ index, WINDOW_PARAMS) {
    WINDOW_AXES;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const Place out(at, p, q, groups);
    const int c = groups * V, top = rows.low(out.i), left = cols.low(out.j);
    const int corner = (top - out.i * stride_h + pad_h) * kernel_w + left - out.j * stride_w + pad_w;
    float best[V];
    int place[V];
#pragma unroll
    for (int k = 0; k < V; k++) best[k] = -__uint_as_float(0x7f800000), place[k] = corner;
    for (int i = top; i < rows.high(out.i); i++) {
        const X* row = x + ((out.image * h + i) * w) * c + out.c0;
        for (int j = left; j < cols.high(out.j); j++) {
            float v[V];
            load_group(row + (i64)j * c, v);
            const int here = corner + (i - top) * kernel_w + j - left;
#pragma unroll
            for (int k = 0; k < V; k++) {
                const bool wins = v[k] > best[k] || (is_nan(v[k]) && !is_nan(best[k]));
                best[k] = wins ? v[k] : best[k], place[k] = wins ? here : place[k];
            }
        }
    }
    if (WRITES & 1) store_group(y + (i64)at * V, best);
    if (WRITES & 2) store_bytes(index + (i64)at * V, place);
}

extern "C" __global__ __launch_bounds__(THREADS, 4)
void pool_max_grad(const Y* __restrict__ g, const u8* __restrict__ index, X* __restrict__ dx, WINDOW_PARAMS) {
    WINDOW_AXES;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const Place out(at, h, w, groups);
    float sum[V] = {};
    for (int o = rows.first_window(out.i); o <= rows.last_window(out.i); o++) {
        for (int u = cols.first_window(out.j); u <= cols.last_window(out.j); u++) {
            const i64 from = (((out.image * p + o) * q + u) * groups) * V + out.c0;
            const int here = (out.i + pad_h - o * stride_h) * kernel_w + out.j + pad_w - u * stride_w;
            float v[V];
            int winner[V];
            load_group(g + from, v);
            load_bytes(index + from, winner);
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] += winner[k] == here ? v[k] : 0.0f;
        }
    }
    store_group(dx + (i64)at * V, sum);
}

extern "C" __global__ __launch_bounds__(THREADS, 4)
void pool_avg(const X* __restrict__ x, Y* __restrict__ y, WINDOW_PARAMS, int count_pad) {
    WINDOW_AXES;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const Place out(at, p, q, groups);
    const int c = groups * V;
    float sum[V] = {};
    for (int i = rows.low(out.i); i < rows.high(out.i); i++) {
        const X* row = x + ((out.image * h + i) * w) * c + out.c0;
        for (int j = cols.low(out.j); j < cols.high(out.j); j++) {
            float v[V];
            load_group(row + (i64)j * c, v);
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] += v[k];
        }
    }
    const float share = share_of(rows, cols, out.i, out.j, count_pad);
#pragma unroll
    for (int k = 0; k < V; k++) sum[k] *= share;
    store_group(y + (i64)at * V, sum);
}

extern "C" __global__ __launch_bounds__(THREADS, 4)
void pool_avg_grad(const Y* __restrict__ g, X* __restrict__ dx, WINDOW_PARAMS, int count_pad) {
    WINDOW_AXES;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= total) return;
    const Place out(at, h, w, groups);
    float sum[V] = {};
    for (int o = rows.first_window(out.i); o <= rows.last_window(out.i); o++) {
        for (int u = cols.first_window(out.j); u <= cols.last_window(out.j); u++) {
            const float share = share_of(rows, cols, o, u, count_pad);
            float v[V];
            load_group(g + (((out.image * p + o) * q + u) * groups) * V + out.c0, v);
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] = fmaf(v[k], share, sum[k]);
        }
    }
    store_group(dx + (i64)at * V, sum);
}

extern "C" __global__ __launch_bounds__(THREADS)
void pool_global(const X* __restrict__ x, Y* __restrict__ y, int pixels, int c, int columns) {
    __shared__ double shared[V][THREADS];
    const i64 image = blockIdx.x;
    const Tile t = tile_of<THREADS, V>(image * pixels, (image + 1) * pixels, c, columns);
    double sum[V] = {};
#pragma unroll 4
    for (i64 at = t.first; at < t.end; at += t.lanes) {
        float v[V];
        load_group(x + at * c + t.c0, v);
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] += (double)v[k];
    }
    sum_lanes<THREADS>(sum, shared, t.lane, t.lanes, columns);
    if (t.lane > 0 || !t.active(c)) return;
    float mean[V];
#pragma unroll
    for (int k = 0; k < V; k++) mean[k] = (float)(sum[k] / (double)pixels);
    store_group(y + image * c + t.c0, mean);
}

extern "C" __global__ __launch_bounds__(THREADS)
void pool_global_grad(const Y* __restrict__ g, X* __restrict__ dx, int pixels, int c, int columns) {
    const i64 image = blockIdx.x;
    const Tile t = tile_of<THREADS, V>(image * pixels, (image + 1) * pixels, c, columns);
    if (t.first >= t.end) return;
    float v[V];
    load_group(g + image * c + t.c0, v);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] /= (float)pixels;
    for (i64 at = t.first; at < t.end; at += t.lanes) store_group(dx + at * c + t.c0, v);
}
