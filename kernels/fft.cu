// fft.cu: spectra of images: 2-D real transforms, filters, sums over rings, BaSS. A block owns a channel of an image, which
// it reads once, holds in shared memory until the work on its spectrum is done, and writes once.
//
//   computes   fft_forward: half spectrum times SCALE (edge columns) or SCALE2 (the columns between);  fft_inverse: the
//              image of a half spectrum, its columns scaled likewise, real parts only
//   shapes     x, y : [N, H, W, C] f32;  spectra : [N, C, H, W/2+1, 2] f32;  tables : see src/gpu/fft.rs
//   launch     one block a channel: grid (N * C), block P_THREADS, shared: see src/gpu/fft.rs
//   constants  P_H, P_W sizes,
//              P_THREADS,
//              P_SHARED 1: a channel lies in shared memory; 0: it lies in `work`
//   limits     H and W are products of 2, 3, 5 and 7, 8 to 512; x and y do not overlap
//   order      fixed by the size of the image: a channel gives the same bits wherever in whatever batch it lies
//   source     pairs of real rows as one complex row: Sorensen et al. 1987
//   twins      src/gpu/fft.rs  src/cpu/fft.rs  tests/kernels/fft.rs
//
//   computes   fft_filter: every frequency times its weight, and back;  fft_rings: amplitude or power summed over rings
//   shapes     weight : [H, W/2+1] f32;  sums : [N, C, R] f32
//   launch     as above
//   constants  as above
//   limits     as above
//   order      as above; rings by warps, 32 sums a ring and a tree over them
//   source     none
//   twins      src/gpu/fft.rs  src/cpu/fft.rs  tests/kernels/fft.rs
//
//   computes   fft_bass: rings weighted by the ratio of their shares of log amplitude and of amplitude, clipped to bytes
//   shapes     x, y : [N, H, W, C] f32 in [0,1], rounded to bytes first
//   launch     as above
//   constants  as above
//   limits     as above
//   order      as above
//   source     BaSS: see src/cpu/fft.rs
//   twins      src/gpu/fft.rs  src/cpu/fft.rs  tests/kernels/fft.rs
#include "lib/fft_line.cuh"
#include "lib/reduce_row.cuh"

constexpr int H = P_H, W = P_W, THREADS = P_THREADS;
static_assert(H >= 8 && H <= 512 && W >= 8 && W <= 512 && smooth(H) && smooth(W), "fft: sizes of 2, 3, 5 and 7, 8 to 512");
static_assert(THREADS >= 32 && THREADS <= 1024 && THREADS % 32 == 0, "fft: whole warps");

// Two rows of pixels are one complex row: even ones its real part, odd ones its imaginary part. After the rows' transform
// slot k of a pair holds coefficient k of the even row, slot W - k that of the odd row; coefficients 0 and W / 2, which are
// real, lie together, those of the even row in slot 0, those of the odd row in slot W / 2 (W odd: in one slot more).
// So a column of the spectrum has its even rows in one slot and its odd rows in another, and column 0 is two columns at once.
constexpr bool EVEN = W % 2 == 0;
constexpr int PAIRS = (H + 1) / 2, COLUMNS = (W + 1) / 2, HALF = W / 2 + 1;
constexpr int PITCH = EVEN ? W + 1 : W + 2; // odd: neighbouring pairs lie in neighbouring banks
constexpr int PLANE = PAIRS * PITCH;
constexpr int RINGS_MAX = 363;

extern __shared__ __align__(1024) u8 smem[];

// What a block works on. `turn` are roots of unity, `slot` where a frequency lies after the transform.
struct Plane {
    Complex* z;
    const Complex *turn_w, *turn_h;
    const int *slot_w, *slot_h;

    DEV int pair(int i, int slot) const { return i * PITCH + slot; }
    // Row e of column `c` of the packed spectrum.
    DEV int column(int c, int e) const {
        const int even = slot_w[c], odd = c > 0 ? slot_w[W - c] : EVEN ? slot_w[W / 2] : W;
        return pair(e / 2, e % 2 == 0 ? even : odd);
    }
    // Frequency u of column `c` once the columns are transformed.
    DEV int frequency(int c, int u) const { return column(c, slot_h[u]); }
};

// Shared memory: roots and slots of both directions, then the plane. `tables` holds the same order. Ends with a barrier.
DEV Plane plane_of(const u32* tables, Complex* work) {
    u32* shared = (u32*)smem;
    constexpr int WORDS = 3 * (W + H);
    for (int i = (int)threadIdx.x; i < WORDS; i += THREADS) shared[i] = tables[i];
    Plane p;
    p.turn_w = (const Complex*)shared;
    p.turn_h = p.turn_w + W;
    p.slot_w = (const int*)(shared + 2 * (W + H));
    p.slot_h = p.slot_w + W;
    p.z = P_SHARED ? (Complex*)(shared + (WORDS + 1) / 2 * 2) : work + (i64)blockIdx.x * PLANE;
    __syncthreads();
    return p;
}

struct RowAt {
    DEV int operator()(int line, int e) const { return line * PITCH + e; }
};
struct ColumnAt {
    Plane p;
    DEV int operator()(int line, int e) const { return p.column(line, e); }
};

// Pixels of the block's channel, each through `f`, into the plane. Ends with a barrier.
template <class F> DEV void load(const Plane& p, const float* x, int channels, F f) {
    x += (i64)(blockIdx.x / channels) * (H * W * channels) + blockIdx.x % channels;
    for (int i = (int)threadIdx.x; i < PAIRS * W; i += THREADS) {
        const int pair = i / W, w = i % W, row = 2 * pair;
        const float even = f(x[(row * W + w) * channels]);
        const float odd = row + 1 < H ? f(x[((row + 1) * W + w) * channels]) : 0.0f;
        p.z[p.pair(pair, w)] = Complex{even, odd};
    }
    __syncthreads();
}

// The plane, each value through `f(value, pixel of x)`, to the block's channel of y.
template <class F> DEV void store(const Plane& p, const float* x, float* y, int channels, F f) {
    const i64 first = (i64)(blockIdx.x / channels) * (H * W * channels) + blockIdx.x % channels;
    for (int i = (int)threadIdx.x; i < PAIRS * W; i += THREADS) {
        const int pair = i / W, w = i % W, row = 2 * pair;
        const Complex z = p.z[p.pair(pair, w)];
        const i64 at = first + (row * W + w) * channels;
        y[at] = f(z.re, x + at);
        if (row + 1 < H) y[at + W * channels] = f(z.im, x + at + W * channels);
    }
}

// a + ib at k and its mirror, apart: a, and b.
DEV void split(Complex k, Complex mirror, Complex& a, Complex& b) {
    a = Complex{0.5f * (k.re + mirror.re), 0.5f * (k.im - mirror.im)};
    b = Complex{0.5f * (k.im + mirror.im), 0.5f * (mirror.re - k.re)};
}
// And together again.
DEV void join(Complex a, Complex b, Complex& k, Complex& mirror) {
    k = Complex{a.re - b.im, a.im + b.re};
    mirror = Complex{a.re + b.im, b.re - a.im};
}

// Pairs of rows to rows, or (BACK) rows to pairs: in the two slots that hold them. Ends with a barrier.
template <bool BACK> DEV void rows_apart(const Plane& p) {
    for (int i = (int)threadIdx.x; i < PAIRS * COLUMNS; i += THREADS) {
        const int pair = i % PAIRS, k = i / PAIRS;
        if (k > 0) {
            Complex *a = p.z + p.pair(pair, p.slot_w[k]), *b = p.z + p.pair(pair, p.slot_w[W - k]);
            const Complex x = *a, y = *b;
            if (BACK) join(x, y, *a, *b);
            else split(x, y, *a, *b);
        } else {
            // (even 0, odd 0), (even W/2, odd W/2) to (even 0, even W/2), (odd 0, odd W/2): its own inverse.
            Complex *a = p.z + p.pair(pair, p.slot_w[0]), *b = p.z + p.pair(pair, EVEN ? p.slot_w[W / 2] : W);
            const Complex x = *a, y = EVEN || BACK ? *b : Complex{0.0f, 0.0f};
            *a = Complex{x.re, y.re}, *b = Complex{x.im, y.im};
        }
    }
    __syncthreads();
}

// The two columns in column 0: at u > 0 and its mirror, column 0 and column W / 2; where u is its own mirror both are real
// and stay together. Ends with a barrier.
template <bool BACK> DEV void edges_apart(const Plane& p) {
    for (int u = 1 + (int)threadIdx.x; 2 * u < H; u += THREADS) {
        Complex *a = p.z + p.frequency(0, u), *b = p.z + p.frequency(0, H - u);
        const Complex x = *a, y = *b;
        if (BACK) join(x, y, *a, *b);
        else split(x, y, *a, *b);
    }
    __syncthreads();
}

DEV void forward(const Plane& p) {
    line_fft<THREADS, W, W, false>(p.z, p.turn_w, PAIRS, RowAt());
    rows_apart<false>(p);
    line_fft<THREADS, H, H, false>(p.z, p.turn_h, COLUMNS, ColumnAt{p});
    edges_apart<false>(p);
}

// Without the division by H * W. The columns' side of an odd last row is zero where the image has none.
DEV void inverse(const Plane& p) {
    edges_apart<true>(p);
    line_fft<THREADS, H, H, true>(p.z, p.turn_h, COLUMNS, ColumnAt{p});
    rows_apart<true>(p);
    line_fft<THREADS, W, W, true>(p.z, p.turn_w, PAIRS, RowAt());
}

// The coefficient at row u of column v of the half spectrum.
DEV Complex coefficient(const Plane& p, int u, int v) {
    if (v > 0 && !(EVEN && v == W / 2)) return p.z[p.frequency(v, u)];
    const int mirror = u == 0 ? 0 : H - u;
    const bool upper = u > mirror;
    if (u == mirror) {
        const Complex both = p.z[p.frequency(0, u)];
        return Complex{v == 0 ? both.re : both.im, 0.0f};
    }
    const int near = upper ? mirror : u;
    const Complex z = p.z[p.frequency(0, v == 0 ? near : H - near)];
    return upper ? conj(z) : z;
}

// Every coefficient times `weight(u, v)`, which is the same at the mirror image of a frequency. Ends with a barrier.
template <class F> DEV void scale(const Plane& p, F weight) {
    for (int i = (int)threadIdx.x; i < COLUMNS * H; i += THREADS) {
        const int c = i % COLUMNS, u = i / COLUMNS;
        Complex* z = p.z + p.frequency(c, u);
        if (c > 0) {
            *z = weight(u, c) * *z;
        } else if (u == 0 || 2 * u == H) {
            *z = Complex{weight(u, 0) * z->re, EVEN ? weight(u, W / 2) * z->im : 0.0f};
        } else {
            *z = (2 * u < H ? weight(u, 0) : EVEN ? weight(H - u, W / 2) : 0.0f) * *z;
        }
    }
    __syncthreads();
}

DEV int ring_of(int u, int v) {
    const int du = u < H - u ? u : H - u;
    return (int)sqrtf((float)(du * du + v * v)); // exact: a square below 2^24 has its root, and no other number comes near
}

// Sums over rings into `sums`: `members` lists row | column << 16 ring by ring, ring r from `starts[r]` on; after the starts come the
// sizes of the rings in the whole spectrum. Ends with a barrier.
DEV void sum_rings(const Plane& p, const int* starts, const u32* members, int rings, int power, float* sums) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int r = warp; r < rings; r += THREADS / 32) {
        float sum = 0.0f;
        for (int i = starts[r] + lane; i < starts[r + 1]; i += 32) {
            const int u = (int)(members[i] & 0xffff), v = (int)(members[i] >> 16);
            const Complex z = coefficient(p, u, v);
            const float squared = fmaf(z.re, z.re, z.im * z.im), size = power ? squared : sqrtf(squared);
            sum += v > 0 && 2 * v != W ? 2.0f * size : size;
        }
        sum = Team<32>::sum(sum);
        if (lane == 0) sums[r] = sum;
    }
    __syncthreads();
}

extern "C" __global__ __launch_bounds__(THREADS)
void fft_forward(const float* x, float* y, const u32* tables, Complex* work, int channels, float edge, float inner) {
    const Plane p = plane_of(tables, work);
    load(p, x, channels, [](float v) { return v; });
    forward(p);
    y += (i64)blockIdx.x * (H * HALF * 2);
    for (int i = (int)threadIdx.x; i < H * HALF; i += THREADS) {
        const int u = i / HALF, v = i % HALF;
        const Complex z = (v == 0 || 2 * v == W ? edge : inner) * coefficient(p, u, v);
        *(float2*)(y + 2 * i) = make_float2(z.re, z.im);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void fft_inverse(const float* x, float* y, const u32* tables, Complex* work, int channels, float edge, float inner) {
    const Plane p = plane_of(tables, work);
    x += (i64)blockIdx.x * (H * HALF * 2);
    for (int i = (int)threadIdx.x; i < H * COLUMNS; i += THREADS) {
        const int u = i / COLUMNS, c = i % COLUMNS, mirror = u == 0 ? 0 : H - u;
        const float* at = x + 2 * (u * HALF + c);
        Complex z = inner * Complex{at[0], at[1]};
        if (c == 0) {
            // A real image has no use for what is not its own mirror image here: the mean with the mirror remains.
            const int v = 2 * u > H ? W / 2 : 0, near = 2 * u > H ? mirror : u, far = near == 0 ? 0 : H - near;
            const float *a = x + 2 * (near * HALF + v), *b = x + 2 * (far * HALF + v);
            z = 0.5f * edge * Complex{a[0] + b[0], a[1] - b[1]};
            if (u == mirror) z = Complex{z.re, EVEN ? edge * x[2 * (u * HALF + W / 2)] : 0.0f};
            if (!EVEN && 2 * u > H) z = Complex{0.0f, 0.0f};
        }
        p.z[p.frequency(c, u)] = z;
    }
    if (H % 2 == 1) {
        // The row that the last pair lacks.
        for (int c = (int)threadIdx.x; c < COLUMNS; c += THREADS) p.z[p.column(c, H)] = Complex{0.0f, 0.0f};
    }
    __syncthreads();
    inverse(p);
    store(p, y, y, channels, [](float v, const float*) { return v; });
}

extern "C" __global__ __launch_bounds__(THREADS)
void fft_filter(const float* x, const float* weight, float* y, const u32* tables, Complex* work, int channels) {
    const Plane p = plane_of(tables, work);
    load(p, x, channels, [](float v) { return v; });
    forward(p);
    scale(p, [=](int u, int v) {
        const bool own = v == 0 || 2 * v == W;
        const float here = weight[u * HALF + v], there = own ? weight[(u == 0 ? 0 : H - u) * HALF + v] : here;
        return 0.5f * (here + there) * (1.0f / (H * W));
    });
    inverse(p);
    store(p, x, y, channels, [](float v, const float*) { return v; });
}

extern "C" __global__ __launch_bounds__(THREADS)
void fft_rings(const float* x, float* y, const u32* tables, Complex* work, int channels, const int* starts, const u32* members,
               int rings, int power) {
    const Plane p = plane_of(tables, work);
    load(p, x, channels, [](float v) { return v; });
    forward(p);
    sum_rings(p, starts, members, rings, power, y + (i64)blockIdx.x * rings);
}

extern "C" __global__ __launch_bounds__(THREADS)
void fft_bass(const float* x, float* y, const u32* tables, Complex* work, int channels, const int* starts, const u32* members,
              int rings) {
    __shared__ float sums[RINGS_MAX], weights[RINGS_MAX];
    __shared__ int stays;
    const Plane p = plane_of(tables, work);
    load(p, x, channels, [](float v) { return rintf(v * 255.0f); });
    forward(p);
    sum_rings(p, starts, members, rings, 0, sums);
    if (threadIdx.x < 32) {
        const int lane = (int)threadIdx.x;
        float all = 0.0f, logs = 0.0f;
        u32 low = 0;
        for (int r = lane; r < rings; r += 32) {
            const float mean = sums[r] / (float)starts[rings + 1 + r];
            sums[r] = mean;
            if (r == 0 || r == rings - 1) continue;
            all += mean, logs += logf(mean);
            low |= mean >= 1.0f ? 0 : 1; // also for a NaN
        }
        all = Team<32>::sum(all), logs = Team<32>::sum(logs), low = Team<32>::join(low, Or());
        for (int r = lane; r < rings; r += 32) {
            const bool inner = r > 0 && r < rings - 1;
            weights[r] = (inner ? (logf(sums[r]) / logs) / (sums[r] / all) : 1.0f) * (1.0f / (H * W));
        }
        if (lane == 0) stays = low != 0 || !(logs > 0.0f) || !(all < 3e38f);
    }
    __syncthreads();
    const bool whole = stays;
    if (!whole) {
        scale(p, [&](int u, int v) { return weights[ring_of(u, v)]; });
        inverse(p);
    }
    store(p, x, y, channels, [=](float v, const float* from) {
        return whole ? *from : truncf(clamp_keep_nan(v, 0.0f, 255.0f)) / 255.0f;
    });
}
