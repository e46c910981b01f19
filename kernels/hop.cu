// hop.cu: HopSkipJump between two forward passes: distances, the state, the sums of an estimate, the next query.
//
//   computes   hop_distance: the distance of a and b, KIND 0 L-inf, 1 L2, 2 L1; in f64
//   shapes     a, b : [N, ELEMS] f32;  y : [N]
//   launch     block n owns image n: grid (N), block THREADS
//   constants  P_THREADS of a block that owns an image
//   limits     a NaN is the distance
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Chen et al. 2020, https://arxiv.org/abs/1904.02144
//   twins      src/gpu/hop.rs  src/cpu/hop.rs  tests/kernels/hop.rs  benches/ops/hop.rs
//
//   computes   hop_control: the state of an image after the verdict on its query, entries as in src/graph/hop.rs
//   shapes     y, state : [N, 16] f32;  hit, distance : [N]
//   launch     one thread an image: grid (ceil(N / 256)), block 256
//   constants  none
//   limits     y may be state
//   order      no reductions
//   source     as above
//   twins      as above, and src/graph/hop.rs
//
//   computes   hop_gather: y = sums + q - x, with the sign of the verdict and without; of the first query: no sums before
//   shapes     y, sums : [N, 2, ELEMS] f32;  q, x : [N, ELEMS];  state : [N, 16]
//   launch     block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be sums: then images that are not in an estimate are not touched
//   order      no reductions
//   source     as above
//   twins      as above
//
//   computes   hop_query: what the state asks for: noise; a share of the way from x0 to far, in L-inf far within a radius; x plus a
//              Gaussian direction of a length; x plus a step along the sums. Clipped to [0,1]; the bits of src/rng.rs
//   shapes     y, q, x, far, x0 : [N, ELEMS] f32;  sums : [N, 2, ELEMS];  state : [N, 16];  index : [N] i32;  seed : two words
//   launch     block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be q: then an image that is through is not touched
//   order      sums over an image by Team
//   source     as above
//   twins      as above
#include "lib/reduce_row.cuh"
#include "lib/rng.cuh"

constexpr int THREADS = P_THREADS;
typedef Team<THREADS> Block;

enum {
    PHASE, QUERIES, ROUND, LOW, HIGH, COUNT, PLUS, SAMPLES, DISTANCE, BEST, LENGTH, TAKE_X, TAKE_FAR, BETTER, SIGN, LEN = 16
};
enum { GIVEN, NOISE, BLEND, BISECT, ESTIMATE, STEP, DONE };
constexpr float NOISES = 1000.0f, BLENDS = 50.0f, HALVINGS = 40.0f;

DEV float to_unit(double v) { return (float)(v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v); }

extern "C" __global__ __launch_bounds__(THREADS)
void hop_distance(float* y, const float* a, const float* b, int kind, int elems) {
    a += (i64)blockIdx.x * elems, b += (i64)blockIdx.x * elems;
    double part = 0.0;
    for (int e = Block::rank(); e < elems; e += THREADS) {
        const double d = fabs((double)a[e] - (double)b[e]);
        part = kind == 0 ? MaxOrNan()(part, d) : part + (kind == 1 ? d * d : d);
    }
    part = kind == 0 ? Block::join(part, MaxOrNan()) : Block::sum(part);
    if (threadIdx.x == 0) y[blockIdx.x] = (float)(kind == 1 ? sqrt(part) : part);
}

// The state of one image and how it goes on.
struct State {
    float s[LEN];
    int linf, halvings, rounds;
    float radius;

    DEV void go(int phase, float length) { s[PHASE] = (float)phase, s[COUNT] = 1.0f, s[LENGTH] = length; }
    // The last query is the point on the boundary now, and the far end of the next bisection.
    DEV void take(float distance, bool far) { s[TAKE_X] = 1.0f, s[TAKE_FAR] = far ? 1.0f : 0.0f, s[DISTANCE] = distance; }
    DEV void bisect(float distance) {
        s[LOW] = 0.0f, s[HIGH] = linf ? distance : 1.0f;
        go(BISECT, 0.5f * s[HIGH]);
    }
    DEV void estimate() {
        if (s[ROUND] >= (float)rounds) {
            s[PHASE] = (float)DONE;
            return;
        }
        s[ROUND] += 1.0f;
        const double samples = floor(100.0 * sqrt((double)s[ROUND]));
        s[PLUS] = 0.0f, s[SAMPLES] = samples > 10000.0 ? 10000.0f : (float)samples;
        go(ESTIMATE, s[ROUND] == 1.0f ? 0.1f : __fmul_rn(radius, s[DISTANCE]));
    }
    DEV void next(bool hit, float distance) {
        const int phase = (int)s[PHASE];
        if (phase == NOISE && hit) {
            take(distance, true);
            go(BLEND, 1.0f / BLENDS);
        } else if (phase == NOISE) {
            s[s[COUNT] >= NOISES ? PHASE : COUNT] = s[COUNT] >= NOISES ? (float)DONE : s[COUNT] + 1.0f;
        } else if (hit && (phase == GIVEN || phase == BLEND || phase == STEP)) {
            take(distance, true);
            bisect(distance);
        } else if (phase == GIVEN) {
            go(NOISE, 0.0f);
        } else if (phase == BLEND) {
            // The noise itself is the last of the steps.
            if (s[COUNT] + 1.0f >= BLENDS) return bisect(s[DISTANCE]);
            s[COUNT] += 1.0f, s[LENGTH] = s[COUNT] / BLENDS;
        } else if (phase == BISECT) {
            if (hit) take(distance, false);
            s[hit ? HIGH : LOW] = s[LENGTH];
            if (s[COUNT] >= (float)halvings) return estimate();
            s[COUNT] += 1.0f, s[LENGTH] = 0.5f * (s[LOW] + s[HIGH]);
        } else if (phase == ESTIMATE) {
            s[PLUS] += hit ? 1.0f : 0.0f;
            s[SIGN] = (hit ? 1.0f : -1.0f) * (s[COUNT] == 1.0f ? 2.0f : 1.0f);
            if (s[COUNT] >= s[SAMPLES]) return go(STEP, (float)((double)s[DISTANCE] / sqrt((double)s[ROUND])));
            s[COUNT] += 1.0f;
        } else {
            if (s[COUNT] >= HALVINGS) return estimate();
            s[COUNT] += 1.0f, s[LENGTH] *= 0.5f;
        }
    }
};

extern "C" __global__ __launch_bounds__(256)
void hop_control(float* y, const float* state, const float* hit, const float* distance, int linf, int halvings, int rounds,
                 int queries, float radius, int n) {
    const int i = (int)(blockIdx.x * 256 + threadIdx.x);
    if (i >= n) return;
    State now;
    now.linf = linf, now.halvings = halvings, now.rounds = rounds, now.radius = radius;
    float(&s)[LEN] = now.s;
    for (int k = 0; k < LEN; k++) s[k] = state[(i64)i * LEN + k];
    s[TAKE_X] = s[TAKE_FAR] = s[BETTER] = s[SIGN] = 0.0f;
    if (s[PHASE] != (float)DONE) {
        s[QUERIES] += 1.0f;
        const bool reached = hit[i] != 0.0f;
        if (reached && distance[i] < s[BEST]) s[BETTER] = 1.0f, s[BEST] = distance[i];
        now.next(reached, distance[i]);
        if (s[QUERIES] >= (float)queries) s[PHASE] = (float)DONE;
    }
    for (int k = 0; k < LEN; k++) y[(i64)i * LEN + k] = s[k];
}

extern "C" __global__ __launch_bounds__(THREADS)
void hop_gather(float* y, const float* sums, const float* q, const float* x, const float* state, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    const float code = state[(i64)blockIdx.x * LEN + SIGN];
    const float sign = code < 0.0f ? -1.0f : 1.0f;
    const bool first = fabsf(code) == 2.0f;
    if (code == 0.0f && y == sums) return;
    y += 2 * row, sums += 2 * row, q += row, x += row;
    for (int e = Block::rank(); e < elems; e += THREADS) {
        const float moved = __fadd_rn(q[e], -x[e]), before = first ? 0.0f : sums[e], all = first ? 0.0f : sums[elems + e];
        y[e] = code == 0.0f ? sums[e] : __fadd_rn(before, __fmul_rn(sign, moved));
        y[elems + e] = code == 0.0f ? sums[elems + e] : __fadd_rn(all, moved);
    }
}

// y = f(e) clipped to [0,1], for the elements of this thread.
template <class F> DEV void write(float* y, int elems, F f) {
    for (int e = Block::rank(); e < elems; e += THREADS) y[e] = clamp_keep_nan(f(e), 0.0f, 1.0f);
}

// f(number, v) with four standard normals for every block of numbers of this thread.
template <class F> DEV void normals(const Stream& stream, int elems, F f) {
    for (int e = 4 * Block::rank(); e < elems; e += 4 * THREADS) {
        u32 w[4];
        float v[4];
        stream.block((u32)e / 4, w);
        draw_normals(w, v);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (e + k < elems) f(e + k, v[k]);
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void hop_query(float* y, const float* q, const float* x, const float* far, const float* x0, const float* sums, const float* state,
               const int* index, const int* seed, int linf, int elems) {
    const int image = (int)blockIdx.x;
    const i64 row = (i64)image * elems;
    const float* s = state + (i64)image * LEN;
    const float length = s[LENGTH];
    const int phase = (int)s[PHASE];
    y += row, q += row, x += row, far += row, x0 += row, sums += 2 * row;
    const Stream stream((i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]), index[image], (int)s[QUERIES], DRAW_HOP, 0);
    if (phase == NOISE) {
        write(y, elems, [&](int e) { return unit(stream.bits((u32)e)); });
    } else if (phase == BISECT && linf) {
        write(y, elems, [&](int e) { return clamp_keep_nan(far[e], __fadd_rn(x0[e], -length), __fadd_rn(x0[e], length)); });
    } else if (phase == BLEND || phase == BISECT) {
        write(y, elems, [&](int e) { return __fadd_rn(x0[e], __fmul_rn(length, __fadd_rn(far[e], -x0[e]))); });
    } else if (phase == ESTIMATE) {
        double part = 0.0;
        normals(stream, elems, [&](int, float v) { part += (double)v * (double)v; });
        const float factor = (float)((double)length / (sqrt(Block::sum(part)) + 1e-12));
        normals(stream, elems, [&](int e, float v) { y[e] = clamp_keep_nan(__fadd_rn(x[e], __fmul_rn(factor, v)), 0.0f, 1.0f); });
    } else if (phase == STEP) {
        // The signed sum minus the mean sign times the plain one, unless all signs agree.
        const double mean = (2.0 * (double)s[PLUS] - (double)s[SAMPLES]) / (double)s[SAMPLES], base = fabs(mean) == 1.0 ? 0.0 : mean;
        const auto slope = [&](int e) { return (double)sums[e] - base * (double)sums[elems + e]; };
        double part = 0.0;
        for (int e = Block::rank(); e < elems; e += THREADS) part += slope(e) * slope(e);
        const double factor = (double)length / (sqrt(Block::sum(part)) + 1e-30);
        for (int e = Block::rank(); e < elems; e += THREADS) {
            const double g = slope(e);
            y[e] = to_unit((double)x[e] + (linf ? (double)length * ((double)(g > 0.0) - (double)(g < 0.0)) : factor * g));
        }
    } else if (y != q) {
        for (int e = Block::rank(); e < elems; e += THREADS) y[e] = q[e];
    }
}
