// norm.cu: batch normalisation: folding, sums over a batch, training and its gradients.
//
//   computes   norm_fold: scale = gamma / sqrt(var + eps), bias = beta - (mean - before) * scale for every constant of a plan
//              norm_sums: parts of the sums over pixels of g (P_KIND 0), of g and g * (x - mean) (1), of x and x^2 about
//              the first pixel (2)
//              norm_finish: sum g [C] (0); sum g, sum g * (x - mean) / sqrt(var + eps) [2, C] (1); mean, variance [2, C] (2)
//              norm_train: y = (x - mean) * gamma / sqrt(var + eps) + beta
//              norm_train_grad: dx = scale * (g - sums[0] / M - (x - mean) * sums[1] / (sqrt(var + eps) * M)), M pixels
//              norm_update: y = (1 - momentum) * old + momentum * row * unbiased
//   shapes     x, g, y, dx : [PIXELS, C] in X, G, Y;  gamma, beta, mean, var, old, row : [C];  stats, sums : [2, C];
//              parts : [PARTS, 1 or 2, C] f64;  list : eight words a constant, see src/gpu/norm.rs
//   launch     norm_fold: grid (ceil(most channels / 256), constants)
//              norm_sums, norm_train, norm_train_grad: grid (ceil(PIXELS / (lanes * rows)), ceil(C / (columns * V))), see
//              lib/group.cuh;  norm_finish: grid (ceil(C / 8));  norm_update: grid (ceil(C / 256));  block 256 everywhere
//   constants  P_V 8 where C is a multiple of it, else 1;  P_G, P_X, P_Y storage;  P_KIND as above, 0 elsewhere
//   limits     columns <= 32;  y of norm_update may be old
//   order      each thread adds `rows` pixels in f32, threads and parts are joined in f64 in one order for one grid
//   source     Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
//   twins      src/gpu/norm.rs  src/cpu/norm.rs  tests/kernels/norm.rs  benches/ops/norm.rs
#include "lib/group.cuh"
#include "lib/reduce.cuh"

constexpr int V = P_V, KIND = P_KIND, THREADS = 256, COLUMNS = 32;
constexpr int SUM = 0, GRAD = 1, STATS = 2, FINISH_COLUMNS = 8;
typedef Stored<P_G>::type G;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
static_assert(V == 1 || V == VEC, "norm: groups of 1 or 8 channels");
static_assert(KIND >= SUM && KIND <= STATS, "norm: unknown kind of sums");
static_assert(COLUMNS * VEC <= THREADS, "norm: one thread for each channel of a block");

DEV double inv_std(float eps, float var) { return 1.0 / sqrt((double)var + (double)eps); }

extern "C" __global__ __launch_bounds__(THREADS)
void norm_fold(u8* arena, const i64* list) {
    // gamma, var, beta, mean, before, result (bytes from the start of the arena, -1 for none), channels, bits of eps.
    const i64* word = list + 8 * blockIdx.y;
    const int i = blockIdx.x * THREADS + threadIdx.x, c = (int)word[6];
    if (i >= c) return;
    const auto at = [&](int k) { return ((const float*)(arena + word[k]))[i]; };
    const double scale = (double)at(0) * inv_std(float_of(word[7]), at(1));
    float* out = (float*)(arena + word[5]);
    out[i] = (float)scale;
    float bias = 0.0f;
    if (word[2] >= 0) {
        const float mean = word[4] >= 0 ? at(3) - at(4) : at(3);
        bias = (float)((double)at(2) - (double)mean * scale);
    }
    out[c + i] = bias;
}

// The pixels of this block, eight or one channels a thread.
DEV Tile tile_here(i64 pixels, int c, int columns, int rows) {
    const i64 run = (i64)(THREADS / columns) * rows, first = blockIdx.x * run;
    return tile_of<THREADS, V>(first, first + run < pixels ? first + run : pixels, c, columns);
}

extern "C" __global__ __launch_bounds__(THREADS, 3)
void norm_sums(const G* __restrict__ g, const X* __restrict__ x, const float* __restrict__ mean, double* __restrict__ parts,
               i64 pixels, int c, int columns, int rows) {
    __shared__ double shared[V][THREADS];
    const Tile t = tile_here(pixels, c, columns, rows);
    // Deviations from the thread's own first pixel, or from the mean: a large mean costs no digits.
    float origin[V] = {}, first[V] = {}, second[V] = {};
    if (KIND == GRAD && t.first < t.end) load_group(mean + t.c0, origin);
    if (KIND == STATS && t.first < t.end) load_group(x + t.first * c + t.c0, origin);
#pragma unroll 4
    for (i64 at = t.first; at < t.end; at += t.lanes) {
        float a[V] = {}, b[V] = {};
        if (KIND != STATS) load_group(g + at * c + t.c0, a);
        if (KIND != SUM) load_group(x + at * c + t.c0, b);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float d = b[i] - origin[i];
            first[i] += KIND == STATS ? d : a[i];
            if (KIND != SUM) second[i] = fmaf(KIND == STATS ? d : a[i], d, second[i]);
        }
    }
    double sums[V], squares[V];
#pragma unroll
    for (int i = 0; i < V; i++) sums[i] = first[i], squares[i] = second[i];
    if (KIND == STATS && t.first < t.end) {
        const double count = (double)(((int)(t.end - t.first) + t.lanes - 1) / t.lanes);
        float common[V];
        load_group(x + t.c0, common);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const double shift = (double)origin[i] - (double)common[i];
            squares[i] += shift * (2.0 * sums[i] + shift * count);
            sums[i] += shift * count;
        }
    }
    constexpr int ROWS = KIND == SUM ? 1 : 2;
    double* part = parts + (i64)blockIdx.x * ROWS * c + t.c0;
    const bool writes = t.lane == 0 && t.active(c);
    sum_lanes<THREADS>(sums, shared, t.lane, t.lanes, columns);
    for (int i = 0; writes && i < V; i++) part[i] = sums[i];
    if (KIND != SUM) {
        sum_lanes<THREADS>(squares, shared, t.lane, t.lanes, columns);
        for (int i = 0; writes && i < V; i++) part[c + i] = squares[i];
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void norm_finish(const double* __restrict__ parts, const X* __restrict__ x, const float* __restrict__ var, float* __restrict__ y,
                 i64 pixels, int c, int count, float eps) {
    constexpr int ROWS = KIND == SUM ? 1 : 2, LANES = THREADS / FINISH_COLUMNS;
    __shared__ double shared[2][THREADS];
    const int lane = threadIdx.x / FINISH_COLUMNS, i = blockIdx.x * FINISH_COLUMNS + threadIdx.x % FINISH_COLUMNS;
    double sums[2] = {0.0, 0.0};
#pragma unroll 4
    for (int part = lane; part < count; part += LANES) {
        if (i < c) {
            sums[0] += parts[(i64)part * ROWS * c + i];
            if (KIND != SUM) sums[1] += parts[((i64)part * ROWS + 1) * c + i];
        }
    }
    sum_lanes<THREADS>(sums, shared, lane, LANES, FINISH_COLUMNS);
    if (lane > 0 || i >= c) return;
    if (KIND == STATS) {
        const double shift = sums[0] / (double)pixels, square = sums[1] / (double)pixels - shift * shift;
        y[i] = (float)((double)widen(x[i]) + shift);
        // Rounding can leave a hair below zero; a NaN must stay.
        y[c + i] = square < 0.0 ? 0.0f : (float)square;
    } else {
        y[i] = (float)sums[0];
        if (KIND == GRAD) y[c + i] = (float)(sums[1] * inv_std(eps, var[i]));
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void norm_train(const X* __restrict__ x, const float* __restrict__ stats, const float* __restrict__ gamma,
                const float* __restrict__ beta, Y* __restrict__ y, i64 pixels, int c, int columns, int rows, float eps) {
    __shared__ __align__(16) float scales[THREADS];
    const Tile t = tile_here(pixels, c, columns, rows);
    const int channel = blockIdx.y * columns * V + threadIdx.x;
    if (threadIdx.x < columns * V && channel < c) {
        scales[threadIdx.x] = (float)((double)gamma[channel] * inv_std(eps, stats[c + channel]));
    }
    __syncthreads();
    float mean[V] = {}, scale[V] = {}, shift[V] = {};
    if (t.first < t.end) {
        load_group(stats + t.c0, mean);
        load_group(scales + threadIdx.x % columns * V, scale);
        load_group(beta + t.c0, shift);
    }
#pragma unroll 4
    for (i64 at = t.first; at < t.end; at += t.lanes) {
        float v[V];
        load_group(x + at * c + t.c0, v);
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = (v[i] - mean[i]) * scale[i] + shift[i];
        store_group(y + at * c + t.c0, v);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void norm_train_grad(const G* __restrict__ g, const X* __restrict__ x, const float* __restrict__ stats,
                     const float* __restrict__ gamma, const float* __restrict__ sums, Y* __restrict__ dx, i64 pixels, int c,
                     int columns, int rows, float eps) {
    __shared__ __align__(16) float scales[THREADS], means[THREADS], slopes[THREADS];
    const Tile t = tile_here(pixels, c, columns, rows);
    const int channel = blockIdx.y * columns * V + threadIdx.x;
    if (threadIdx.x < columns * V && channel < c) {
        const double inv = inv_std(eps, stats[c + channel]);
        scales[threadIdx.x] = (float)((double)gamma[channel] * inv);
        means[threadIdx.x] = (float)((double)sums[channel] / (double)pixels);
        slopes[threadIdx.x] = (float)((double)sums[c + channel] * inv / (double)pixels);
    }
    __syncthreads();
    float mean[V] = {}, scale[V] = {}, mean_g[V] = {}, slope[V] = {};
    if (t.first < t.end) {
        const int k = threadIdx.x % columns * V;
        load_group(stats + t.c0, mean);
        load_group(scales + k, scale);
        load_group(means + k, mean_g);
        load_group(slopes + k, slope);
    }
#pragma unroll 2
    for (i64 at = t.first; at < t.end; at += t.lanes) {
        float a[V], b[V];
        load_group(g + at * c + t.c0, a);
        load_group(x + at * c + t.c0, b);
#pragma unroll
        for (int i = 0; i < V; i++) a[i] = scale[i] * (a[i] - mean_g[i] - (b[i] - mean[i]) * slope[i]);
        store_group(dx + at * c + t.c0, a);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void norm_update(const float* old, const float* row, float* y, int c, float momentum, i64 count) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= c) return;
    // A mean comes with a count of 0.
    const double unbiased = count > 0 ? (double)count / ((double)count - 1.0) : 1.0;
    y[i] = (float)((1.0 - (double)momentum) * (double)old[i] + (double)momentum * (double)row[i] * unbiased);
}
