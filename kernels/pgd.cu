// pgd.cu: one projected-gradient step on a batch of images, fused: direction, step, ball, box; and where an attack starts.
//
//   computes   pgd_linf: y = clip(x0 + clamp(x + alpha * sign(g) - x0, -eps, eps), 0, 1)
//   shapes     y, x, x0, g : [N, ELEMS] f32, one row = one image;  alpha, eps : [N]
//   launch     pgd_linf: PARTS blocks an image, VEC elements a thread: grid (N * PARTS), block 256
//   constants  P_VEC: 4 where it divides ELEMS, else 1;  P_THREADS of a block that owns an image
//   limits     y may be x;  sign(0) = 0;  a NaN in g makes y NaN there (never silently clipped)
//   order      no reductions
//   source     Madry et al. 2018, https://arxiv.org/abs/1706.06083
//   twins      src/gpu/pgd.rs  src/cpu/pgd.rs  tests/kernels/pgd.rs  benches/ops/pgd.rs
//
//   computes   pgd_l2: as above with alpha * g / (|g| + 1e-10), scaled down to length eps
//              pgd_l1: alpha spread over the twentieth with the largest |g| that the box lets move, then the closest point
//              of ball and box; both leave an image inside the ball where it is if nothing points anywhere
//   shapes     as above
//   launch     pgd_l2, pgd_l1: block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x;  ELEMS < 2^31 - 1;  a NaN in g makes the whole image NaN; arithmetic in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     L1 step: Tramer and Boneh 2019, https://arxiv.org/abs/1904.13000;  projection: Croce and Hein 2021,
//              https://arxiv.org/abs/2103.01208
//   twins      src/gpu/pgd.rs  src/cpu/pgd.rs  src/threat.rs  tests/kernels/pgd.rs  benches/ops/pgd.rs
//
//   computes   pgd_l1_top: x plus the step of its state spread with their signs over the largest |g|, a share of the values
//              that the state names (those equal to the smallest come along); then the closest point of ball and box
//   shapes     y, x, x0, g : as above;  state : [N, 20] with radius, step and share, see kernels/apgd.cu
//   launch     pgd_l1_top: block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x;  ELEMS < 2^24;  a NaN in g makes the whole image NaN;  a step of 0 only projects;  arithmetic in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Croce and Hein 2021
//   twins      src/gpu/apgd.rs  src/cpu/apgd.rs  tests/kernels/apgd.rs
//
//   computes   pgd_start_edge_linf, pgd_start_edge_l2, pgd_start_noise: the bits of rng::start_boundary
//   shapes     as pgd_start_l2
//   launch     block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x0;  0 <= restart < 2^16
//   order      linf: a maximum, in any order;  l2: as pgd_start_l2;  noise: none
//   source     Croce and Hein 2020, https://arxiv.org/abs/2003.01690
//   twins      src/gpu/pgd.rs  src/rng.rs  tests/kernels/apgd.rs
//
//   computes   pgd_start_linf, pgd_start_sign, pgd_start_l2, pgd_start_l1: the bits of rng::start and rng::start_sign
//   shapes     y, x0 : [N, HW, C] f32, numbers drawn in the order [C, HW];  index, restart : [N] i32;  eps : [N];
//              seed : its lower and upper word, then a step
//   launch     linf, sign: PARTS blocks an image, four elements a thread: grid (N * PARTS), block 256
//              l2, l1: block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x0;  0 <= restart < 2^16
//   order      l2, l1: one thread adds up in the order of the elements, as the twin does
//   source     Philox: Salmon et al., SC 2011
//   twins      src/gpu/pgd.rs  src/rng.rs  tests/kernels/pgd.rs
//
//   computes   pgd_start_normal: the bits of rng::start_normal;  pgd_between: clip(x0 + share * (x - x0), 0, 1)
//   shapes     as those of pgd_start_linf, sigma for eps;  y, x0, x : [N, ELEMS] f32, share : [N]
//   launch     as pgd_start_linf;  as pgd_linf
//   constants  as above
//   limits     pgd_between: y may be x0 or x; a NaN stays one
//   order      no reductions
//   source     Zhang et al. 2019, https://arxiv.org/abs/1901.08573;  Lee et al. 2020, https://arxiv.org/abs/2003.02484
//   twins      src/gpu/pgd.rs  src/cpu/pgd.rs  src/rng.rs  tests/kernels/pgd.rs
#include "lib/reduce_row.cuh"
#include "lib/rng.cuh"

constexpr int VEC = P_VEC, THREADS = P_THREADS, FLAT = 256;
static_assert(VEC == 1 || VEC == 4, "pgd: elements one by one or as float4");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "pgd: whole warps");
typedef Team<THREADS> Block;

// VEC elements side by side; rows of whole vectors are aligned.
struct __align__(4 * VEC) Pack { float v[VEC]; };
DEV Pack load(const float* p) { return *(const Pack*)p; }
DEV void store(float* p, const Pack& v) { *(Pack*)p = v; }

DEV double clamp_unit(double v) { return v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v; }

extern "C" __global__ __launch_bounds__(FLAT)
void pgd_linf(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ alpha,
              const float* __restrict__ eps, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const float stride = alpha[image], radius = eps[image];
    const Pack from = load(x + at), base = load(x0 + at), slope = load(g + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float s = slope.v[k];
        // The last term carries a NaN.
        const float sign = (float)((s > 0.0f) - (s < 0.0f)) + (is_nan(s) ? s : 0.0f);
        const float delta = __fadd_rn(__fadd_rn(from.v[k], __fmul_rn(stride, sign)), -base.v[k]);
        to.v[k] = clamp_keep_nan(__fadd_rn(base.v[k], clamp_keep_nan(delta, -radius, radius)), 0.0f, 1.0f);
    }
    store(y + at, to);
}

// The rows of one image for a block that owns it. Rows come by vectors of which each thread takes every THREADS-th.
struct Rows {
    const float *x, *x0, *g;
    int elems;

    DEV Rows(const float* x, const float* x0, const float* g, int elems) : elems(elems) {
        const i64 row = (i64)blockIdx.x * elems;
        this->x = x + row, this->x0 = x0 + row, this->g = g + row;
    }
    // f(x, x0, g, i) for every element i of this thread.
    template <class F> DEV void each(F f) const {
#pragma unroll(VEC == 4 ? 1 : 4)
        for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
            const Pack a = load(x + i), b = load(x0 + i), c = load(g + i);
#pragma unroll
            for (int k = 0; k < VEC; k++) f(a.v[k], b.v[k], c.v[k], i + k);
        }
    }
    // y = f(x, x0, g, i); y may be x.
    template <class F> DEV void write(float* y, F f) const {
        y += (i64)blockIdx.x * elems;
        for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
            const Pack a = load(x + i), b = load(x0 + i), c = load(g + i);
            Pack to;
#pragma unroll
            for (int k = 0; k < VEC; k++) to.v[k] = f(a.v[k], b.v[k], c.v[k], i + k);
            store(y + i, to);
        }
    }
    // Whether the image lies in the threat model; `tolerance` for rounding, as ThreatModel::tolerance.
    template <class F> DEV bool inside(F distance, double eps, double tolerance) const {
        double part = 0.0;
        each([&](float x, float x0, float, int) {
            const double d = (double)x - (double)x0;
            part += x >= 0.0f && x <= 1.0f ? distance(d) : (double)__uint_as_float(0x7fc00000u);
        });
        return distance.total(Block::sum(part)) <= eps + tolerance;
    }
};

struct Squares {
    DEV double operator()(double d) const { return d * d; }
    DEV double total(double sum) const { return sqrt(sum); }
};
struct Sizes {
    DEV double operator()(double d) const { return fabs(d); }
    DEV double total(double sum) const { return sum; }
};

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_l2(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ alpha,
            const float* __restrict__ eps, int elems) {
    const Rows rows(x, x0, g, elems);
    const double radius = eps[blockIdx.x];
    double part = 0.0;
    rows.each([&](float, float, float g, int) { part += (double)g * (double)g; });
    const double steepness = sqrt(Block::sum(part));
    const bool stays = steepness == 0.0 && rows.inside(Squares(), radius, 0x1p-24 * sqrt((double)elems));
    const double factor = (double)alpha[blockIdx.x] / (steepness + 1e-10);
    const auto delta = [&](float x, float x0, float g) { return (double)x + factor * (double)g - (double)x0; };
    part = 0.0;
    rows.each([&](float x, float x0, float g, int) { part += delta(x, x0, g) * delta(x, x0, g); });
    const double length = sqrt(Block::sum(part));
    // Written so that a NaN length falls through to the product.
    const double scale = length <= radius ? 1.0 : radius / length;
    rows.write(y, [&](float x, float x0, float g, int) {
        return stays ? x : (float)clamp_unit((double)x0 + delta(x, x0, g) * scale);
    });
}

// What a selection found: the key, how many of the elements with this key belong to the selection, how many have it.
struct Found {
    u32 key;
    int taken, equal;
};

// The `count`-th largest key; key(i) < 2^31 for element i, 0 where it does not take part; at least `count` do.
// Digit by digit from the top: a histogram of the elements that share the digits found so far. `bins` and `found` are shared.
constexpr int BINS = 2048;
template <class F> DEV Found select(int elems, int count, int (&bins)[BINS], Found& found, F key) {
    constexpr int MINE = BINS / THREADS;
    static_assert(BINS % THREADS == 0, "pgd: whole bins a thread");
    Found out = {0, count, 0};
    for (int shift = 20, digits = 11; shift >= 0; shift -= 10, digits = 10) {
        for (int b = Block::rank(); b < BINS; b += THREADS) bins[b] = 0;
        __syncthreads();
        for (int i = Block::rank(); i < elems; i += THREADS) {
            const u32 k = key(i);
            if (k != 0 && k >> (shift + digits) == out.key) atomicAdd(&bins[k >> shift & ((1u << digits) - 1)], 1);
        }
        __syncthreads();
        // Thread 0 has the highest bins.
        const int first = BINS - 1 - Block::rank() * MINE;
        int sum = 0;
        for (int b = 0; b < MINE; b++) sum += bins[first - b];
        int above = Block::before(sum);
        for (int b = 0; b < MINE; b++) {
            const int here = bins[first - b];
            if (above < out.taken && out.taken <= above + here) found = {out.key << digits | (u32)(first - b), out.taken - above, here};
            above += here;
        }
        __syncthreads();
        out = found;
    }
    return out;
}

// Which elements a step in L1 moves: |g| above an edge, or at the edge up to an index; and how many these are.
struct Steepest {
    u32 edge;
    int last, count;

    // The bits of |g|, which sort as the numbers do, where the box lets x move along g; else 0.
    DEV static u32 key(float x, float g) {
        const bool free = (g > 0.0f && x < 1.0f) || (g < 0.0f && x > 0.0f);
        return free ? __float_as_uint(fabsf(g)) : 0;
    }
    DEV bool takes(float x, float g, int i) const {
        const u32 k = key(x, g);
        return k > edge || (k == edge && k != 0 && i <= last);
    }
    DEV Steepest(const Rows& rows) : edge(0), last(rows.elems) {
        int free = 0;
        rows.each([&](float x, float, float g, int) { free += key(x, g) != 0; });
        free = Block::sum(free);
        const int most = (rows.elems + 19) / 20;
        count = free < most ? free : most;
        if (free <= most) return;
        __shared__ int bins[BINS];
        __shared__ Found found;
        const Found level = select(rows.elems, most, bins, found, [&](int i) { return key(rows.x[i], rows.g[i]); });
        edge = level.key;
        if (level.taken == level.equal) return;
        const auto early = [&](int i) { return key(rows.x[i], rows.g[i]) == edge ? 0x7fffffffu - (u32)i : 0; };
        last = (int)(0x7fffffffu - select(rows.elems, level.taken, bins, found, early).key);
    }
};

// The way from `o` to the box in the direction of `d`.
DEV double room(double d, float o) { return fmax(d > 0.0 ? 1.0 - (double)o : (double)o, 0.0); }
DEV double shrunk(double d, float o, double lambda) { return fmin(fmax(fabs(d) - lambda, 0.0), room(d, o)); }

// The smallest lambda >= 0 with which the lengths of all shrunk steps fit `eps`. Their sum falls piecewise linearly: Newton's
// step is exact on the right piece, a bracket keeps it from cycling. `delta` as above; `high` the largest |delta|.
template <class F> DEV double fitting(const Rows& rows, F delta, double eps, double high) {
    double low = 0.0, lambda = 0.0;
    for (int turn = 1;; turn++) {
        double length = 0.0;
        int moving = 0;
        rows.each([&](float x, float x0, float g, int i) {
            const double d = delta(x, x0, g, i), rest = fabs(d) - lambda;
            length += shrunk(d, x0, lambda);
            moving += rest > 0.0 && rest <= room(d, x0);
        });
        const double over = Block::sum(length) - eps;
        moving = Block::sum(moving);
        if (over == 0.0 || (over < 0.0 && lambda == 0.0)) return lambda;
        if (over > 0.0) {
            low = lambda;
        } else {
            high = lambda;
        }
        const double newton = lambda + over / moving;
        if (fabs(newton - lambda) <= lambda * 0x1p-51) return lambda;
        // Every third step halves the bracket whatever Newton's does.
        const double middle = low + 0.5 * (high - low);
        const double next = newton > low && newton < high && turn % 3 != 0 ? newton : middle;
        if (next <= low || next >= high) return high;
        lambda = next;
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_l1(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ alpha,
            const float* __restrict__ eps, int elems) {
    const Rows rows(x, x0, g, elems);
    const double radius = eps[blockIdx.x];
    const Steepest steepest(rows);
    const bool stays = steepest.count == 0 && rows.inside(Sizes(), radius, 0x1p-24 * elems);
    const double share = (double)alpha[blockIdx.x] / steepest.count;
    const auto delta = [&](float x, float x0, float g, int i) {
        const double d = (double)x - (double)x0;
        return steepest.takes(x, g, i) ? d + copysign(share, (double)g) : d;
    };
    double high = 0.0;
    rows.each([&](float x, float x0, float g, int i) { high = MaxOrNan()(high, is_nan(g) ? (double)g : fabs(delta(x, x0, g, i))); });
    high = Block::join(high, MaxOrNan());
    const bool known = high == high;
    const double lambda = known ? fitting(rows, delta, radius, high) : 0.0;
    rows.write(y, [&](float x, float x0, float g, int i) {
        const double d = delta(x, x0, g, i), to = copysign(shrunk(d, x0, lambda), d);
        return !known ? __uint_as_float(0x7fc00000u) : stays ? x : (float)clamp_unit((double)x0 + to);
    });
}

extern "C" __global__ __launch_bounds__(THREADS, THREADS > 512 ? 1 : 2)
void pgd_l1_top(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ state,
                int elems) {
    constexpr int STATE = 20, RADIUS = 2, STEP = 3, TOP = 14;
    const Rows rows(x, x0, g, elems);
    const float* s = state + (i64)blockIdx.x * STATE;
    const double radius = s[RADIUS];
    const float below = __fmul_rn(__fadd_rn(1.0f, -s[TOP]), (float)elems);
    const int skipped = (int)fminf(fmaxf(below, 0.0f), (float)(elems - 1));
    const auto size = [&](int i) { return __float_as_uint(fabsf(rows.g[i])); };
    int different = 0;
    rows.each([&](float, float, float g, int) { different += g != 0.0f; });
    different = Block::sum(different);
    __shared__ int bins[BINS];
    __shared__ Found found;
    // Where the share reaches down to zeros, all that is not zero moves.
    u32 edge = 1;
    if (different > elems - skipped) edge = select(elems, elems - skipped, bins, found, size).key;
    const auto takes = [&](float g) { return __float_as_uint(fabsf(g)) >= edge; };
    int count = 0;
    rows.each([&](float, float, float g, int) { count += takes(g); });
    count = Block::sum(count);
    const double share = (double)s[STEP] / ((double)count + 1e-10);
    const auto delta = [&](float x, float x0, float g, int) {
        const double d = (double)x - (double)x0;
        return takes(g) ? d + copysign(share, (double)g) : d;
    };
    double high = 0.0;
    rows.each([&](float x, float x0, float g, int i) { high = MaxOrNan()(high, is_nan(g) ? (double)g : fabs(delta(x, x0, g, i))); });
    high = Block::join(high, MaxOrNan());
    const bool known = high == high;
    const double lambda = known ? fitting(rows, delta, radius, high) : 0.0;
    rows.write(y, [&](float x, float x0, float g, int i) {
        const double d = delta(x, x0, g, i);
        return !known ? __uint_as_float(0x7fc00000u) : (float)clamp_unit((double)x0 + copysign(shrunk(d, x0, lambda), d));
    });
}

// Four numbers of the simplex that `start` in src/rng.rs scales to the L1 ball.
DEV void draw_signed_exponentials(const u32 (&w)[4], float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = w[i] & 1 ? draw_ln(above_zero(w[i])) : -draw_ln(above_zero(w[i]));
}

// A seed from its lower and upper word.
DEV i64 words(const int* seed) { return (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]); }

// Where element e of [C, HW] lies in [HW, C].
DEV int place(int e, int hw, int channels) { return e % hw * channels + e / hw; }

// y = clip(x0 + delta[k]) for the elements e .. e+3.
DEV void store_start(float* y, const float* x0, const float (&delta)[4], int e, int hw, int channels) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (e + k >= hw * channels) break;
        const int at = place(e + k, hw, channels);
        y[at] = clamp_keep_nan(__fadd_rn(x0[at], delta[k]), 0.0f, 1.0f);
    }
}

template <bool SIGN> DEV void start_flat(float* y, const float* x0, const int* index, const int* restart, const float* eps,
                                         const int* seed, int hw, int channels, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const u32 number = (u32)(part * FLAT + (int)threadIdx.x);
    const i64 row = (i64)image * hw * channels;
    const float size = eps[image];
    u32 w[4];
    Stream(words(seed), index[image], seed[2], DRAW_START, restart[image]).block(number, w);
    float v[4];
    if (SIGN) draw_normals(w, v);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (SIGN) v[k] = v[k] == 0.0f ? 0.0f : copysignf(size, v[k]);
        if (!SIGN) v[k] = __fmul_rn(size, __fadd_rn(__fmul_rn(2.0f, unit(w[k])), -1.0f));
    }
    store_start(y + row, x0 + row, v, (int)number * 4, hw, channels);
}

extern "C" __global__ __launch_bounds__(FLAT)
void pgd_start_linf(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                    int channels, int parts) {
    start_flat<false>(y, x0, index, restart, eps, seed, hw, channels, parts);
}

extern "C" __global__ __launch_bounds__(FLAT)
void pgd_start_sign(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                    int channels, int parts) {
    start_flat<true>(y, x0, index, restart, eps, seed, hw, channels, parts);
}

// The sum of term(v) over all elements in their order, as the twin adds: in thread 0 alone. All threads draw.
template <class Draw, class Term> DEV double ordered_sum(const Stream& stream, int elems, Draw draw, Term term) {
    constexpr int TILE = 4 * THREADS;
    __shared__ double terms[TILE];
    double total = 0.0;
    for (int from = 0; from < elems; from += TILE) {
        const int mine = 4 * Block::rank();
        u32 w[4];
        float v[4];
        stream.block((u32)(from + mine) / 4, w);
        draw(w, v);
#pragma unroll
        for (int k = 0; k < 4; k++) terms[mine + k] = from + mine + k < elems ? term((double)v[k]) : 0.0;
        __syncthreads();
        if (threadIdx.x == 0) {
#pragma unroll 16
            for (int i = 0; i < TILE; i++) total += terms[i];
        }
        __syncthreads();
    }
    return total;
}

template <bool L1, bool EDGE> DEV void start_scaled(float* y, const float* x0, const int* index, const int* restart, const float* eps,
                                         const int* seed, int hw, int channels) {
    const int image = (int)blockIdx.x, elems = hw * channels;
    const i64 row = (i64)image * elems;
    const Stream stream(words(seed), index[image], seed[2], DRAW_START, restart[image]);
    const auto draw = [](const u32 (&w)[4], float (&v)[4]) {
        if (L1) draw_signed_exponentials(w, v);
        if (!L1) draw_normals(w, v);
    };
    const double total = ordered_sum(stream, elems, draw, [](double v) { return L1 ? fabs(v) : v * v; });
    __shared__ double shared_factor;
    if (threadIdx.x == 0) {
        const double size = eps[image];
        double radius = size, length = total;
        if (L1) {
            // One exponential more than elements fills the ball evenly.
            length += (double)-draw_ln(above_zero(stream.bits((u32)elems)));
        } else {
            if (!EDGE) radius *= (double)unit(Stream(words(seed), index[image], seed[2], DRAW_START_RADIUS, restart[image]).bits(0));
            length = sqrt(total);
        }
        shared_factor = length > 0.0 ? radius / length : 0.0;
    }
    __syncthreads();
    const double factor = shared_factor;
    for (int e = 4 * Block::rank(); e < elems; e += 4 * THREADS) {
        u32 w[4];
        float v[4];
        stream.block((u32)e / 4, w);
        draw(w, v);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = (float)((double)v[k] * factor);
        store_start(y + row, x0 + row, v, e, hw, channels);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_start_l2(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                  int channels) {
    start_scaled<false, false>(y, x0, index, restart, eps, seed, hw, channels);
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_start_l1(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                  int channels) {
    start_scaled<true, false>(y, x0, index, restart, eps, seed, hw, channels);
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_start_edge_l2(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                       int channels) {
    start_scaled<false, true>(y, x0, index, restart, eps, seed, hw, channels);
}

// f(v, e) for the numbers v of the elements e .. e+3 of this thread.
template <bool NORMAL, class F> DEV void draw_each(const int* index, const int* restart, const int* seed, int elems, F f) {
    const Stream stream(words(seed), index[blockIdx.x], seed[2], DRAW_START, restart[blockIdx.x]);
    for (int e = 4 * Block::rank(); e < elems; e += 4 * THREADS) {
        u32 w[4];
        float v[4];
        stream.block((u32)e / 4, w);
        if (NORMAL) draw_normals(w, v);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = NORMAL ? v[k] : __fadd_rn(__fmul_rn(2.0f, unit(w[k])), -1.0f);
        f(v, e);
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_start_edge_linf(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                         int channels) {
    const int elems = hw * channels;
    const i64 row = (i64)blockIdx.x * elems;
    const float size = eps[blockIdx.x];
    double largest = 0.0;
    draw_each<false>(index, restart, seed, elems, [&](const float (&v)[4], int e) {
#pragma unroll
        for (int k = 0; k < 4; k++) largest = e + k < elems ? MaxOrNan()(largest, fabs((double)v[k])) : largest;
    });
    const float top = (float)Block::join(largest, MaxOrNan());
    draw_each<false>(index, restart, seed, elems, [&](float (&v)[4], int e) {
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = top > 0.0f ? __fmul_rn(size, v[k] / top) : 0.0f;
        store_start(y + row, x0 + row, v, e, hw, channels);
    });
}

extern "C" __global__ __launch_bounds__(THREADS)
void pgd_start_noise(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int hw,
                     int channels) {
    const int elems = hw * channels;
    const i64 row = (i64)blockIdx.x * elems;
    draw_each<true>(index, restart, seed, elems, [&](const float (&v)[4], int e) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (e + k >= elems) break;
            const i64 at = row + place(e + k, hw, channels);
            y[at] = __fadd_rn(x0[at], v[k]);
        }
    });
}

extern "C" __global__ __launch_bounds__(FLAT)
void pgd_start_normal(float* y, const float* x0, const int* index, const int* restart, const float* sigma, const int* seed, int hw,
                      int channels, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int first = (part * FLAT + (int)threadIdx.x) * 4;
    y += (i64)image * hw * channels, x0 += (i64)image * hw * channels;
    u32 w[4];
    Stream(words(seed), index[image], seed[2], DRAW_START, restart[image]).block((u32)first / 4, w);
    float v[4];
    draw_normals(w, v);
    for (int k = 0; k < 4 && first + k < hw * channels; k++) {
        const int at = place(first + k, hw, channels);
        y[at] = __fadd_rn(x0[at], __fmul_rn(sigma[image], v[k]));
    }
}

extern "C" __global__ __launch_bounds__(FLAT)
void pgd_between(float* y, const float* x0, const float* x, const float* share, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const Pack from = load(x0 + at), end = load(x + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float way = __fmul_rn(share[image], __fadd_rn(end.v[k], -from.v[k]));
        to.v[k] = clamp_keep_nan(__fadd_rn(from.v[k], way), 0.0f, 1.0f);
    }
    store(y + at, to);
}
