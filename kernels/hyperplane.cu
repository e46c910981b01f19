// hyperplane.cu: attacks that take the class boundary for a hyperplane, FAB and DeepFool: which, how far, one step, fused.
//
//   computes   hyperplane_fab: y = clip((1 - a)(x + eta d1) + a (x0 + eta d2)): d1, d2 the shortest steps of x and x0 to
//              {v: f + <w, v - x> = 0} within the box, a = min(|d1| / (|d1| + |d2|), alpha_max), lengths at least 1e-8
//              hyperplane_deepfool: y = clip(x + size / |w| * d), d the step of length 1 up w; x where stop != 0 or w = 0
//   shapes     y, x, x0, w : [N, ELEMS] f32, one row = one image;  f, stop : [N]
//   launch     hyperplane_fab, hyperplane_deepfool: block n owns image n: grid (N), block THREADS
//   constants  P_NORM: 0 L-inf, 1 L2, 2 L1 (not DeepFool);  P_VEC: 4 where it divides ELEMS, else 1;  P_THREADS of a block
//   limits     y may be x;  ELEMS < 2^31;  a w or f that is not finite makes the image NaN;  arithmetic in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Croce and Hein 2020, https://arxiv.org/abs/1907.02044;  Moosavi-Dezfooli et al. 2016,
//              https://arxiv.org/abs/1511.04599;  Newton's turns: Radzik 1992
//   twins      src/gpu/hyperplane.rs  src/cpu/hyperplane.rs  tests/kernels/hyperplane.rs  benches/ops/hyperplane.rs
//
//   computes   hyperplane_distance: y = |f| / (|w| + 1e-12) in the dual norm, infinite where w = 0
//              hyperplane_nearer: y = |x - x0| where flag != 0 and it is below best, else best
//   shapes     w, x, x0 : [N, ELEMS] f32;  f, flag, best, y : [N]
//   launch     hyperplane_distance, hyperplane_nearer: block n takes image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be best;  a NaN distance is never below
//   order      as above
//   source     as above
//   twins      as above
//
//   computes   hyperplane_back: y = x0 + beta (x - x0) where flag != 0, else x
//   shapes     as above
//   launch     hyperplane_back: PARTS blocks an image, VEC elements a thread: grid (N * PARTS), block 256
//   constants  as above
//   limits     y may be x: then rows that stay are not touched
//   order      no reductions
//   source     as above
//   twins      as above
//
//   computes   hyperplane_rival: the class at PLACE behind the highest logit, the label left out; of equals the lowest first
//   shapes     z : [N, CLASSES] f32;  label, out : [N] i32
//   launch     hyperplane_rival: a warp an image: grid (ceil(N / (THREADS / 32))), block THREADS
//   constants  as above
//   limits     0 <= label < CLASSES;  PLACE + 1 < CLASSES;  a NaN comes before all
//   order      no sums
//   source     none
//   twins      as above
//
//   computes   hyperplane_start: the bits of rng::start_at
//   shapes     y, x0 : [N, HW, C] f32, numbers drawn in the order [C, HW];  index, restart : [N] i32;  length : [N];
//              seed : its lower and upper word, then a step
//   launch     hyperplane_start: block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x0;  0 <= restart < 2^16;  C * HW < 2^18
//   order      sums of whole multiples of 2^-40: every order gives the same
//   source     Philox: Salmon et al., SC 2011
//   twins      src/gpu/hyperplane.rs  src/rng.rs  tests/kernels/hyperplane.rs
#include "lib/reduce_row.cuh"
#include "lib/rng.cuh"

constexpr int NORM = P_NORM, VEC = P_VEC, THREADS = P_THREADS, FLAT = 256;
enum : int { LINF, L2, L1 };
static_assert(NORM >= LINF && NORM <= L1, "hyperplane: unknown norm");
static_assert(VEC == 1 || VEC == 4, "hyperplane: elements one by one or as float4");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "hyperplane: whole warps");
typedef Team<THREADS> Block;
typedef Team<32> Warp;

struct __align__(4 * VEC) Pack { float v[VEC]; };
DEV Pack load(const float* p) { return *(const Pack*)p; }

// f(a, b, c, i) for every element i of this thread, of which each takes every THREADS-th vector.
template <class F> DEV void each(const float* a, const float* b, const float* c, int elems, F f) {
#pragma unroll(VEC == 4 ? 1 : 4)
    for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
        const Pack u = load(a + i), v = load(b + i), w = load(c + i);
#pragma unroll
        for (int k = 0; k < VEC; k++) f(u.v[k], v.v[k], w.v[k], i + k);
    }
}
template <class F> DEV double sum(const float* a, const float* b, int elems, F term) {
    double part = 0.0;
    each(a, b, b, elems, [&](float u, float v, float, int) { part += term(u, v); });
    return Block::sum(part);
}
DEV double clamp_unit(double v) { return v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v; }

// The shortest way of one point to the hyperplane within the box; `over`: how far it lies above, in units of the function.
// L-inf: min(level, room), L2: min(level |w|, room), where level climbs to the root of a concave sum of pieces by Newton's
// iteration; L1: the room of all with |w| above `level`, a share of it at `level`, which is found bit by bit.
struct Way {
    const float *w, *from;
    int elems;
    bool down;
    double level, share;

    DEV Way(const float* w, const float* from, int elems, double over)
        : w(w), from(from), elems(elems), down(over >= 0.0), level(0.0), share(0.0) {
        if (NORM == L1) select(fabs(over));
        else climb(fabs(over));
    }
    DEV bool up(float w) const { return (w > 0.0f) != down; }
    DEV double room(float w, float from) const { return fmax(up(w) ? 1.0 - (double)from : (double)from, 0.0); }
    DEV double amount(float w, float from) const {
        const double steep = fabs((double)w), far = room(w, from);
        if (steep == 0.0) return 0.0;
        if (NORM == LINF) return fmin(level, far);
        if (NORM == L2) return fmin(level * steep, far);
        return steep > level ? far : steep == level ? share * far : 0.0;
    }
    DEV double step(float w, float from) const { return up(w) ? amount(w, from) : -amount(w, from); }
    DEV double length() const {
        double part = 0.0;
        each(w, from, from, elems, [&](float w, float from, float, int) {
            const double a = amount(w, from);
            part = NORM == LINF ? fmax(part, a) : part + (NORM == L2 ? a * a : a);
        });
        if (NORM == LINF) return Block::join(part, MaxOrNan());
        return NORM == L2 ? sqrt(Block::sum(part)) : Block::sum(part);
    }
    DEV void climb(double goal) {
        for (int turn = 0; turn < 64; turn++) {
            double moved = 0.0, slope = 0.0;
            each(w, from, from, elems, [&](float w, float from, float, int) {
                const double steep = fabs((double)w), rate = NORM == LINF ? 1.0 : steep;
                moved += steep * amount(w, from);
                slope += level * rate < room(w, from) ? steep * rate : 0.0;
            });
            const double gap = goal - Block::sum(moved);
            slope = Block::sum(slope);
            // Not reached, and something can still move; written so that a NaN ends it.
            if (!(gap > goal * 0x1p-48 && slope > 0.0)) break;
            level += gap / slope;
        }
    }
    // What all elements with a key that `takes` lets through gain.
    template <class F> DEV double gain(F takes) const {
        return sum(w, from, elems, [&](float w, float from) {
            return takes(__float_as_uint(fabsf(w))) ? fabs((double)w) * room(w, from) : 0.0;
        });
    }
    DEV void select(double goal) {
        if (!(goal > 0.0)) {
            level = (double)__uint_as_float(0x7f800000u);
            return;
        }
        if (gain([](u32 key) { return key > 0; }) <= goal) return;
        // The largest key with which all from there on gain enough; it is that of an element.
        u32 least = 0;
        for (int bit = 30; bit >= 0; bit--) {
            const u32 next = least | 1u << bit;
            if (gain([&](u32 key) { return key >= next; }) >= goal) least = next;
        }
        const double above = gain([&](u32 key) { return key > least; }), here = gain([&](u32 key) { return key == least; });
        level = (double)__uint_as_float(least);
        share = fmin(fmax((goal - above) / here, 0.0), 1.0);
    }
};

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_fab(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ w,
                    const float* __restrict__ f, float eta, float alpha_max, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    x += row, x0 += row, w += row, y += row;
    const double over = f[blockIdx.x];
    double lag = 0.0, steep = 0.0;
    each(w, x, x0, elems, [&](float w, float x, float x0, int) {
        lag += (double)w * ((double)x0 - (double)x);
        steep += fabs((double)w);
    });
    lag = Block::sum(lag);
    const double all = over + lag + Block::sum(steep);
    const bool known = all - all == 0.0;
    const Way near(w, x, elems, known ? over : 0.0), far(w, x0, elems, known ? over + lag : 0.0);
    const double a = fmax(near.length(), 1e-8), b = fmax(far.length(), 1e-8);
    const double alpha = fmin(fmax(a / (a + b), 0.0), (double)alpha_max);
    each(w, x, x0, elems, [&](float w, float x, float x0, int i) {
        const double from_x = (double)x + (double)eta * near.step(w, x), from_x0 = (double)x0 + (double)eta * far.step(w, x0);
        y[i] = known ? (float)clamp_unit((1.0 - alpha) * from_x + alpha * from_x0) : __uint_as_float(0x7fc00000u);
    });
}

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_deepfool(float* y, const float* x, const float* __restrict__ w, const float* __restrict__ f,
                         const float* __restrict__ stop, float overshoot, float push, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    x += row, w += row, y += row;
    const double steep = sum(w, w, elems, [](float w, float) { return NORM == L2 ? (double)w * (double)w : fabs((double)w); });
    const bool stays = stop[blockIdx.x] != 0.0f || steep == 0.0;
    const double size = (1.0 + (double)overshoot) * (fabs((double)f[blockIdx.x]) + (double)push) / steep;
    each(w, x, x, elems, [&](float w, float x, float, int i) {
        const double way = NORM == L2 ? (double)w : (double)((w > 0.0f) - (w < 0.0f));
        y[i] = stays ? x : (float)clamp_unit((double)x + size * way);
    });
}

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_distance(const float* f, const float* w, float* y, int elems) {
    w += (i64)blockIdx.x * elems;
    double steep = 0.0;
    each(w, w, w, elems, [&](float w, float, float, int) {
        const double v = fabs((double)w);
        steep = NORM == L1 ? MaxOrNan()(steep, v) : steep + (NORM == L2 ? v * v : v);
    });
    steep = NORM == L1 ? Block::join(steep, MaxOrNan()) : Block::sum(steep);
    steep = NORM == L2 ? sqrt(steep) : steep;
    const double far = fabs((double)f[blockIdx.x]) / (steep + 1e-12);
    if (threadIdx.x == 0) y[blockIdx.x] = steep == 0.0 ? __uint_as_float(0x7f800000u) : (float)far;
}

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_nearer(const float* flag, const float* x, const float* x0, const float* best, float* y, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    double part = 0.0;
    each(x + row, x0 + row, x0 + row, elems, [&](float x, float x0, float, int) {
        const double d = fabs((double)x - (double)x0);
        part = NORM == LINF ? MaxOrNan()(part, d) : part + (NORM == L2 ? d * d : d);
    });
    part = NORM == LINF ? Block::join(part, MaxOrNan()) : Block::sum(part);
    const float far = (float)(NORM == L2 ? sqrt(part) : part), old = best[blockIdx.x];
    const bool nearer = flag[blockIdx.x] != 0.0f && far < old;
    if (threadIdx.x == 0) y[blockIdx.x] = nearer ? far : old;
}

extern "C" __global__ __launch_bounds__(FLAT)
void hyperplane_back(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ flag, float beta, int elems,
                     int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    const bool moves = flag[image] != 0.0f;
    if (i >= elems || (!moves && x == y)) return;
    const i64 at = (i64)image * elems + i;
    const Pack from = load(x + at), base = load(x0 + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const double o = base.v[k];
        to.v[k] = moves ? (float)(o + (double)beta * ((double)from.v[k] - o)) : from.v[k];
    }
    *(Pack*)(y + at) = to;
}

// Sorts as the floats do, +0 and -0 being equal and a NaN above all.
DEV u32 rising(float v) {
    const u32 bits = __float_as_uint(v == 0.0f ? 0.0f : v);
    return is_nan(v) ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
}

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_rival(const float* z, const int* label, int* out, int place, int classes, int n) {
    const int team = (int)blockIdx.x * (THREADS / 32) + (int)threadIdx.x / 32, row = team < n ? team : n - 1;
    z += (i64)row * classes;
    const int y = label[row];
    u64 last = ~0ull;
    for (int turn = 0; turn <= place; turn++) {
        u64 best = 0;
        for (int i = Warp::rank(); i < classes; i += 32) {
            const u64 key = (u64)rising(z[i]) << 32 | (u32)~i;
            best = i != y && (turn == 0 || key < last) ? Max()(best, key) : best;
        }
        last = Warp::join(best, Max());
    }
    if (team < n && Warp::rank() == 0) out[row] = (int)~(u32)last;
}

extern "C" __global__ __launch_bounds__(THREADS)
void hyperplane_start(float* y, const float* x0, const int* index, const int* restart, const float* length, const int* seed, int hw,
                      int channels) {
    const int image = (int)blockIdx.x, elems = hw * channels;
    const i64 row = (i64)image * elems;
    const i64 words = (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]);
    const Stream stream(words, index[image], seed[2], DRAW_FAB_START, restart[image]);
    const auto draw = [&](int e, float (&v)[4]) {
        u32 w[4];
        stream.block((u32)e / 4, w);
        if (NORM != LINF) draw_normals(w, v);
#pragma unroll
        for (int k = 0; k < 4 && NORM == LINF; k++) v[k] = __fadd_rn(__fmul_rn(2.0f, unit(w[k])), -1.0f);
    };
    double most = 0.0;
    u64 whole = 0;
    for (int e = 4 * Block::rank(); e < elems; e += 4 * THREADS) {
        float v[4];
        draw(e, v);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const double size = e + k < elems ? fabs((double)v[k]) : 0.0;
            most = fmax(most, size);
            whole += (u64)((NORM == L2 ? size * size : size) * 0x1p40);
        }
    }
    const double largest = Block::join(most, MaxOrNan()), total = (double)Block::sum(whole) * 0x1p-40;
    const double size = NORM == LINF ? largest : NORM == L2 ? sqrt(total) : total;
    const double factor = size > 0.0 ? (double)length[image] / size : 0.0;
    for (int e = 4 * Block::rank(); e < elems; e += 4 * THREADS) {
        float v[4];
        draw(e, v);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (e + k >= elems) break;
            const i64 at = row + (e + k) % hw * channels + (e + k) / hw;
            y[at] = clamp_keep_nan(__fadd_rn(x0[at], (float)((double)v[k] * factor)), 0.0f, 1.0f);
        }
    }
}
