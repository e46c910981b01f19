// search.cu: the search over the constant before a loss (C&W, EAD): each image's next state, steps in tanh space and of FISTA.
//
//   computes   search_next: the state after a turn: nearest iterate, end of a round, next constant, next step size
//   shapes     y, state : [N, COLUMNS];  x, x0 : [N, ELEMS];  margin : [N];  z : [N, CLASSES], all f32
//   launch     search_next: block n owns image n: grid (N), block THREADS
//   constants  P_VEC: 4 where it divides ELEMS, else 1;  P_THREADS of a block that owns an image
//   limits     y may be state;  a NaN margin never wins;  sums in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644;  Chen et al. 2018, https://arxiv.org/abs/1709.04114
//   twins      src/gpu/search.rs  src/cpu/search.rs  tests/kernels/search.rs  benches/ops/search.rs
//
//   computes   search_start: rows with a flag to (atanh(shrink * (2 x0 - 1)), 0, 0);  search_image: (tanh(w) + 1) / 2;
//              search_step: a step of Adam in tanh space down |x - base|^2 - constant * margin, or to the start
//   shapes     y, adam : [N, 3, ELEMS], of search_image y : [N, ELEMS];  x, x0, g : [N, ELEMS];  flag, margin : [N];
//              state : [N, COLUMNS]
//   launch     search_start, search_image, search_step: PARTS blocks an image, VEC elements a thread: grid (N * PARTS), block 256
//   constants  as above
//   limits     y may be adam;  shrink = 1 makes black and white pixels infinite, which stay;  a NaN in g stays one
//   order      no reductions
//   source     Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
//   twins      as above
//
//   computes   search_shrink: y = S(from - rate * slope), S shrinking by beta towards x0, clipped;
//              search_momentum: y = next + k / (k + 3) * (next - x), x0 where a round has ended
//   shapes     y, from, next, x, x0, g : [N, ELEMS];  margin : [N];  state : [N, COLUMNS]
//   launch     search_shrink, search_momentum: as search_step
//   constants  as above
//   limits     y none of the others;  a NaN in g stays one
//   order      no reductions
//   source     Beck and Teboulle 2009 (FISTA)
//   twins      as above
#include "lib/nearest.cuh"

constexpr int VEC = P_VEC, THREADS = P_THREADS, FLAT = 256;
static_assert(VEC == 1 || VEC == 4, "search: elements one by one or as float4");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "search: whole warps");
typedef Team<THREADS> Block;
typedef Pack<VEC> Part;

constexpr float B1 = 0.9f, B2 = 0.999f, REST1 = (float)(1.0 - 0.9), REST2 = (float)(1.0 - 0.999);
enum : int { SQUARED, L1, ELASTIC_NET };

// The image that the start in tanh space stands for.
DEV float base(float shrink, float x0) {
    return __fmul_rn(__fadd_rn(__fmul_rn(shrink, __fadd_rn(__fmul_rn(2.0f, x0), -1.0f)), 1.0f), 0.5f);
}

// What is asked of a search.
struct Search {
    int kind, steps, rounds, abort;
    float kappa, rate;

    DEV void next_round(State& s) const {
        const float constant = s.at[CONSTANT];
        if (s.at[REACHED] != 0.0f) {
            s.at[HIGH] = fminf(s.at[HIGH], constant);
        } else {
            s.at[LOW] = fmaxf(s.at[LOW], constant);
        }
        const int round = (int)s.at[ROUND] + 1;
        const float high = s.at[HIGH];
        const bool known = high <= 3.402823466e38f, last = rounds >= 10 && round + 1 == rounds;
        s.at[CONSTANT] = !known ? constant * 10.0f : last ? high : __fmul_rn(__fadd_rn(s.at[LOW], high), 0.5f);
        s.at[ROUND] = (float)round, s.at[STEP] = 0.0f, s.at[REACHED] = 0.0f, s.at[BEFORE] = __uint_as_float(0x7f800000u);
        s.at[RESTART] = 1.0f, s.at[ALIVE] = round < rounds ? 1.0f : 0.0f;
    }
    DEV void advance(State& s, bool won, float margin, double objective) const {
        if (won) s.at[REACHED] = 1.0f;
        const int step = (int)s.at[STEP], tenth = steps / 10 > 1 ? steps / 10 : 1;
        const double shortfall = is_nan(margin) ? (double)margin : fmax(-(double)margin, -(double)kappa);
        const double loss = objective + (double)s.at[CONSTANT] * shortfall;
        bool over = step + 1 >= steps;
        if (abort && step % tenth == 0) {
            // Written so that a NaN ends the round.
            over = over || !(loss <= 0.9999 * (double)s.at[BEFORE]);
            s.at[BEFORE] = (float)loss;
        }
        s.at[STEP] += 1.0f;
        if (over) next_round(s);
        const double made = s.at[STEP];
        if (kind == SQUARED) {
            const double t = fmax(made, 1.0);
            // Logarithms of 0.9 and 0.999.
            s.at[RATE] = (float)((double)rate / (1.0 - exp(t * -0.10536051565782628)));
            s.at[SCALE] = (float)(1.0 / (1.0 - exp(t * -0.0010005003335835344)));
        } else {
            s.at[RATE] = (float)((double)rate * sqrt(1.0 - made / steps));
        }
    }
};

extern "C" __global__ __launch_bounds__(THREADS)
void search_next(float* y, const float* state, const float* __restrict__ x, const float* __restrict__ x0,
                 const float* __restrict__ margin, const float* __restrict__ z, int kind, float weight, int steps, int rounds,
                 int abort, float kappa, float rate, int elems, int classes) {
    const i64 row = (i64)blockIdx.x * elems;
    double square = 0.0, size = 0.0, apart = 0.0;
    for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
        const Part a = Part::load(x + row + i), b = Part::load(x0 + row + i);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const double d = (double)a.v[k] - (double)b.v[k], e = (double)a.v[k] - (double)base(weight, b.v[k]);
            square += d * d, size += fabs(d), apart += e * e;
        }
    }
    square = Block::sum(square), size = Block::sum(size), apart = Block::sum(apart);
    const double wide = spread<Block>(z, classes);
    if (threadIdx.x != 0) return;
    State s(state + (i64)blockIdx.x * COLUMNS);
    s.at[BETTER] = 0.0f, s.at[RESTART] = 0.0f;
    if (s.at[ALIVE] != 0.0f) {
        const double both = square + (double)weight * size;
        const double distance = kind == SQUARED ? sqrt(square) : kind == L1 ? size : both;
        const bool won = s.look(margin[blockIdx.x], kappa, wide, distance);
        Search{kind, steps, rounds, abort, kappa, rate}.advance(s, won, margin[blockIdx.x], kind == SQUARED ? apart : both);
    }
    s.store(y + (i64)blockIdx.x * COLUMNS);
}

// The part of an image that a thread of a flat launch takes.
struct Place {
    int image, i;
    i64 at;
    bool mine;

    DEV Place(int elems, int parts) : image((int)blockIdx.x / parts) {
        i = ((int)blockIdx.x % parts * FLAT + (int)threadIdx.x) * VEC;
        at = (i64)image * elems + i, mine = i < elems;
    }
};

DEV Part unsquashed(float shrink, const Part& x0) {
    Part w;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const double t = (double)shrink * (2.0 * (double)x0.v[k] - 1.0);
        w.v[k] = (float)(0.5 * log1p(2.0 * t / (1.0 - t)));
    }
    return w;
}

// Three planes of one image: `adam` points at this thread's element of the first.
DEV void restart(float* adam, int elems, float shrink, const float* x0) {
    Part zero;
#pragma unroll
    for (int k = 0; k < VEC; k++) zero.v[k] = 0.0f;
    unsquashed(shrink, Part::load(x0)).store(adam);
    zero.store(adam + elems), zero.store(adam + 2 * (i64)elems);
}

DEV void keep(float* y, const float* adam, int elems) {
    if (y == adam) return;
    for (int plane = 0; plane < 3; plane++) Part::load(adam + plane * (i64)elems).store(y + plane * (i64)elems);
}

extern "C" __global__ __launch_bounds__(FLAT)
void search_start(float* y, const float* flag, const float* adam, const float* __restrict__ x0, float shrink, int elems, int parts) {
    const Place p(elems, parts);
    if (!p.mine) return;
    const i64 at = (i64)p.image * 3 * elems + p.i;
    if (flag[p.image] != 0.0f) {
        restart(y + at, elems, shrink, x0 + p.at);
    } else {
        keep(y + at, adam + at, elems);
    }
}

extern "C" __global__ __launch_bounds__(FLAT)
void search_image(float* __restrict__ y, const float* __restrict__ adam, int elems, int parts) {
    const Place p(elems, parts);
    if (!p.mine) return;
    Part v = Part::load(adam + (i64)p.image * 3 * elems + p.i);
#pragma unroll
    for (int k = 0; k < VEC; k++) v.v[k] = __fmul_rn(__fadd_rn(tanhf(v.v[k]), 1.0f), 0.5f);
    v.store(y + p.at);
}

// The constant where the hinge has a slope, else 0.
DEV float pull_of(const float* state, float margin, float kappa) { return margin > kappa ? 0.0f : state[CONSTANT]; }

// 2 (x - base) - pull * g; a gradient that has no say must not bring a NaN.
DEV float downhill(float x, float base, float pull, float g) {
    const float way = __fmul_rn(2.0f, __fadd_rn(x, -base));
    return pull == 0.0f ? way : __fadd_rn(way, -__fmul_rn(pull, g));
}

extern "C" __global__ __launch_bounds__(FLAT)
void search_step(float* y, const float* adam, const float* __restrict__ x, const float* __restrict__ x0, const float* __restrict__ g,
                 const float* __restrict__ margin, const float* __restrict__ state, float shrink, float kappa, int elems, int parts) {
    const Place p(elems, parts);
    if (!p.mine) return;
    const i64 at = (i64)p.image * 3 * elems + p.i;
    const float* s = state + (i64)p.image * COLUMNS;
    if (s[RESTART] != 0.0f) return restart(y + at, elems, shrink, x0 + p.at);
    if (s[ALIVE] == 0.0f) return keep(y + at, adam + at, elems);
    const float pull = pull_of(s, margin[p.image], kappa), rate = s[RATE], scale = s[SCALE];
    const Part from = Part::load(x + p.at), origin = Part::load(x0 + p.at), slopes = Part::load(g + p.at);
    Part w = Part::load(adam + at), first = Part::load(adam + at + elems), second = Part::load(adam + at + 2 * (i64)elems);
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float v = from.v[k], curve = __fmul_rn(__fmul_rn(2.0f, v), __fadd_rn(1.0f, -v));
        const float slope = __fmul_rn(downhill(v, base(shrink, origin.v[k]), pull, slopes.v[k]), curve);
        first.v[k] = __fadd_rn(__fmul_rn(B1, first.v[k]), __fmul_rn(REST1, slope));
        second.v[k] = __fadd_rn(__fmul_rn(B2, second.v[k]), __fmul_rn(REST2, __fmul_rn(slope, slope)));
        const float below = __fadd_rn(__fsqrt_rn(__fmul_rn(second.v[k], scale)), 1e-8f);
        w.v[k] = __fadd_rn(w.v[k], -__fdiv_rn(__fmul_rn(rate, first.v[k]), below));
    }
    w.store(y + at), first.store(y + at + elems), second.store(y + at + 2 * (i64)elems);
}

extern "C" __global__ __launch_bounds__(FLAT)
void search_shrink(float* __restrict__ y, const float* __restrict__ from, const float* __restrict__ x0, const float* __restrict__ g,
                   const float* __restrict__ margin, const float* __restrict__ state, float beta, float kappa, int elems, int parts) {
    const Place p(elems, parts);
    if (!p.mine) return;
    const float* s = state + (i64)p.image * COLUMNS;
    const float pull = pull_of(s, margin[p.image], kappa), rate = s[RATE];
    const bool alive = s[ALIVE] != 0.0f;
    const Part start = Part::load(from + p.at), origin = Part::load(x0 + p.at), slopes = Part::load(g + p.at);
    Part out;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float home = origin.v[k];
        const float to = __fadd_rn(start.v[k], -__fmul_rn(rate, downhill(start.v[k], home, pull, slopes.v[k])));
        const float d = __fadd_rn(to, -home);
        const float shrunk = d > beta ? fminf(__fadd_rn(to, -beta), 1.0f) : d < -beta ? fmaxf(__fadd_rn(to, beta), 0.0f) : home;
        out.v[k] = !alive ? home : is_nan(d) ? d : shrunk;
    }
    out.store(y + p.at);
}

extern "C" __global__ __launch_bounds__(FLAT)
void search_momentum(float* __restrict__ y, const float* __restrict__ next, const float* __restrict__ x, const float* __restrict__ x0,
                     const float* __restrict__ state, int elems, int parts) {
    const Place p(elems, parts);
    if (!p.mine) return;
    const float* s = state + (i64)p.image * COLUMNS;
    const bool home = s[RESTART] != 0.0f || s[ALIVE] == 0.0f;
    const float far = __fdiv_rn(__fadd_rn(s[STEP], -1.0f), __fadd_rn(s[STEP], 2.0f));
    const Part to = Part::load(next + p.at), before = Part::load(x + p.at), origin = Part::load(x0 + p.at);
    Part out;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        out.v[k] = home ? origin.v[k] : __fadd_rn(to.v[k], __fmul_rn(far, __fadd_rn(to.v[k], -before.v[k])));
    }
    out.store(y + p.at);
}
