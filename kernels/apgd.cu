// apgd.cu: what APGD makes of an image it has looked at, and its move with momentum, fused: direction, step, ball, box, twice.
//
//   computes   apgd_state: flags, checks and step size of each image after a look at it: next = the turn of src/cpu/apgd.rs
//   shapes     next, state : [N, 20] f32, the numbers of src/graph/apgd.rs;  loss, fooled, eps : [N]
//   launch     apgd_state: one thread an image: grid (ceil(N / 256)), block 256
//   constants  P_L1: 0;  P_VEC: 4 where it divides ELEMS, else 1;  P_THREADS of a block that owns an image
//   limits     next may be state;  1 <= phases <= 3
//   order      no reductions
//   source     Croce and Hein 2020, https://arxiv.org/abs/2003.01690
//   twins      src/gpu/apgd.rs  src/cpu/apgd.rs  tests/kernels/apgd.rs
//
//   computes   apgd_state_l1: the same for L1, which counts the values that differ from the original
//   shapes     as above;  x, best, x0 : [N, ELEMS] f32, one row = one image
//   launch     apgd_state_l1: block n owns image n: grid (N), block THREADS
//   constants  P_L1: 1;  others as above
//   limits     as above;  ELEMS < 2^24: counts are exact in f32
//   order      whole numbers: every order gives the same
//   source     Croce and Hein 2021, https://arxiv.org/abs/2103.01208
//   twins      src/gpu/apgd.rs  src/cpu/apgd.rs  tests/kernels/apgd.rs
//
//   computes   apgd_linf: z = clip(x + step * sign(g)), y = clip(x + (z - x) (1 - m) + (x - old) m) into ball and box
//   shapes     y, x, x0, g, old : [N, ELEMS] f32;  state : [N, 20] with radius, step and m
//   launch     apgd_linf: PARTS blocks an image, VEC elements a thread: grid (N * PARTS), block 256
//   constants  as above
//   limits     y may be x;  with m = 0 old is not read as a number;  a NaN in g makes y NaN there
//   order      no reductions
//   source     Croce and Hein 2020
//   twins      src/gpu/apgd.rs  src/cpu/apgd.rs  tests/kernels/apgd.rs
//
//   computes   apgd_l2: as above with step * g / (|g| + 1e-12), scaled down to the radius, then clipped
//   shapes     as above
//   launch     apgd_l2: block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     as above;  a NaN in g makes the whole image NaN;  arithmetic in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Croce and Hein 2020
//   twins      src/gpu/apgd.rs  src/cpu/apgd.rs  tests/kernels/apgd.rs
#include "lib/reduce_row.cuh"

constexpr bool L1 = P_L1 != 0;
constexpr int VEC = P_VEC, THREADS = P_THREADS, FLAT = 256;
static_assert(VEC == 1 || VEC == 4, "apgd: elements one by one or as float4");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "apgd: whole warps");
typedef Team<THREADS> Block;

// The places of src/graph/apgd.rs.
enum { TURN, PHASE, RADIUS, STEP, MOMENTUM, ETA, BEST, LAST, FIRST, SINCE, PERIOD, RISES, AT_CHECK, HALVED, TOP, CHANGED, BETTER,
       STORE, BACK, BROKEN, STATE };

// The checks of up to three phases.
struct Phase { int steps, first, shrink, least; };
struct Rule {
    int phases;
    Phase phase[3];
    int larger;
    float rho;

    DEV Phase of(int i) const { return i == 0 ? phase[0] : i == 1 ? phase[1] : phase[2]; }
};
#define RULE_PARAMS int phases, int steps0, int first0, int shrink0, int least0, int steps1, int first1, int shrink1, int least1, \
                    int steps2, int first2, int shrink2, int least2, int larger, float rho
#define RULE {phases, {{steps0, first0, shrink0, least0}, {steps1, first1, shrink1, least1}, {steps2, first2, shrink2, least2}}, larger, rho}

DEV float flag(bool b) { return b ? 1.0f : 0.0f; }
DEV bool better(const float* s, float loss) { return s[TURN] == 0.0f || loss > s[BEST]; }

// Whether the step was halved and the search goes back to the best image.
DEV bool look(float (&s)[STATE], const Rule& rule, const Phase& phase) {
    const bool swings = s[RISES] <= __fmul_rn(rule.rho, s[PERIOD]), stuck = s[HALVED] == 0.0f && s[AT_CHECK] >= s[BEST];
    const bool halve = swings || stuck;
    s[HALVED] = flag(halve), s[AT_CHECK] = s[BEST];
    s[ETA] *= halve ? 0.5f : 1.0f;
    s[PERIOD] = fmaxf(s[PERIOD] - (float)phase.shrink, (float)phase.least);
    return halve;
}

// The same in L1: fewer changed values mean a fresh start from the best image, with as few values to move.
DEV bool look_l1(float (&s)[STATE], float changed, float elems) {
    const bool sparser = changed / s[CHANGED] < 0.95f;
    const float low = s[RADIUS] / 10.0f, high = s[RADIUS];
    s[ETA] = sparser ? high : fminf(fmaxf(s[ETA] / 1.5f, low), high);
    s[TOP] = changed / elems / 1.5f, s[CHANGED] = changed;
    return sparser;
}

// The first turn of a phase.
DEV void begin(float (&s)[STATE], const Rule& rule, const Phase& phase, float loss, float changed, float elems) {
    if (s[PHASE] == 0.0f) s[FIRST] = loss;
    s[BEST] = s[LAST] = s[AT_CHECK] = loss;
    s[SINCE] = s[RISES] = 0.0f, s[HALVED] = 1.0f;
    s[PERIOD] = (float)phase.first;
    s[ETA] = L1 ? s[RADIUS] : 2.0f * s[RADIUS];
    // A phase that starts where another ended is as sparse as that was.
    s[TOP] = rule.larger ? changed / elems / 1.5f : 0.2f;
    s[CHANGED] = rule.larger ? changed : elems;
}

DEV void advance(float* next, const float* state, const Rule& rule, float loss, bool fooled, float eps, float changed, float elems) {
    float s[STATE];
#pragma unroll
    for (int k = 0; k < STATE; k++) s[k] = state[k];
    const int which = (int)s[PHASE];
    const Phase phase = rule.of(which);
    const bool last = which + 1 == rule.phases, first = s[TURN] == 0.0f;
    s[BETTER] = flag(better(s, loss)), s[STORE] = flag(first || fooled);
    s[BROKEN] = flag(last && (fooled || s[BROKEN] != 0.0f)), s[BACK] = 0.0f;
    if (first) {
        begin(s, rule, phase, loss, changed, elems);
    } else {
        s[RISES] += flag(loss > s[LAST]);
        s[BEST] = loss > s[BEST] ? loss : s[BEST];
        s[LAST] = loss;
        s[SINCE] += 1.0f;
        if (s[SINCE] == s[PERIOD]) {
            s[BACK] = flag(L1 ? look_l1(s, changed, elems) : look(s, rule, phase));
            s[SINCE] = s[RISES] = 0.0f;
        }
    }
    s[MOMENTUM] = first ? 0.0f : 0.25f;
    s[STEP] = s[ETA];
    s[TURN] += 1.0f;
    if (!last && s[TURN] > (float)phase.steps) {
        // The next phase starts at the best image of this one, brought into the smaller ball.
        s[TURN] = s[STEP] = 0.0f, s[BACK] = 1.0f;
        s[PHASE] += 1.0f;
        s[RADIUS] = __fmul_rn((float)(rule.phases - which - 1), eps);
    }
#pragma unroll
    for (int k = 0; k < STATE; k++) next[k] = s[k];
}

extern "C" __global__ __launch_bounds__(FLAT)
void apgd_state(float* next, const float* state, const float* loss, const float* fooled, const float* eps, int n, RULE_PARAMS) {
    const int i = (int)(blockIdx.x * FLAT + threadIdx.x);
    if (i >= n) return;
    const Rule rule = RULE;
    advance(next + (i64)i * STATE, state + (i64)i * STATE, rule, loss[i], fooled[i] != 0.0f, eps[i], 0.0f, 1.0f);
}

extern "C" __global__ __launch_bounds__(THREADS)
void apgd_state_l1(float* next, const float* state, const float* loss, const float* fooled, const float* eps, const float* x,
                   const float* best, const float* x0, int elems, RULE_PARAMS) {
    const int i = (int)blockIdx.x;
    const float* s = state + (i64)i * STATE;
    const float* from = (better(s, loss[i]) ? x : best) + (i64)i * elems;
    x0 += (i64)i * elems;
    int differ = 0;
    for (int e = Block::rank(); e < elems; e += THREADS) differ += from[e] != x0[e];
    // Ends with a barrier: everybody has read the state that thread 0 replaces.
    differ = Block::sum(differ);
    const Rule rule = RULE;
    if (threadIdx.x == 0) {
        advance(next + (i64)i * STATE, s, rule, loss[i], fooled[i] != 0.0f, eps[i], (float)differ, (float)elems);
    }
}

// VEC elements side by side; rows of whole vectors are aligned.
struct __align__(4 * VEC) Pack { float v[VEC]; };
DEV Pack load(const float* p) { return *(const Pack*)p; }

extern "C" __global__ __launch_bounds__(FLAT)
void apgd_linf(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ state,
               const float* __restrict__ old, int elems, int parts) {
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int i = (part * FLAT + (int)threadIdx.x) * VEC;
    if (i >= elems) return;
    const i64 at = (i64)image * elems + i;
    const float* s = state + (i64)image * STATE;
    const float eps = s[RADIUS], eta = s[STEP], momentum = s[MOMENTUM], rest = __fadd_rn(1.0f, -momentum);
    const Pack from = load(x + at), base = load(x0 + at), slope = load(g + at), before = load(old + at);
    Pack to;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float low = fmaxf(__fadd_rn(base.v[k], -eps), 0.0f), high = fminf(__fadd_rn(base.v[k], eps), 1.0f);
        // The last term carries a NaN.
        const float d = slope.v[k], sign = (float)((d > 0.0f) - (d < 0.0f)) + (is_nan(d) ? d : 0.0f), here = from.v[k];
        const float z = clamp_keep_nan(__fadd_rn(here, __fmul_rn(eta, sign)), low, high);
        const float ahead = __fadd_rn(here, __fmul_rn(__fadd_rn(z, -here), rest));
        // Without momentum `old` may hold anything.
        const float moved = momentum == 0.0f ? z : __fadd_rn(ahead, __fmul_rn(__fadd_rn(here, -before.v[k]), momentum));
        to.v[k] = clamp_keep_nan(moved, low, high);
    }
    *(Pack*)(y + at) = to;
}

DEV double clamp_unit(double v) { return v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v; }

// 64 registers a thread: with fewer it spills.
extern "C" __global__ __launch_bounds__(THREADS, 1024 / THREADS)
void apgd_l2(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ state,
             const float* __restrict__ old, int elems) {
    const i64 row = (i64)blockIdx.x * elems;
    const float* s = state + (i64)blockIdx.x * STATE;
    const float eps = s[RADIUS], momentum = s[MOMENTUM];
    const auto length = [&](auto part) {
        double sum = 0.0;
#pragma unroll(VEC == 4 ? 1 : 4)
        for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
            const Pack a = load(x + row + i), b = load(x0 + row + i), c = load(g + row + i), d = load(old + row + i);
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                const double v = part(a.v[k], b.v[k], c.v[k], d.v[k]);
                sum += v * v;
            }
        }
        return sqrt(Block::sum(sum));
    };
    // Written so that a NaN length falls through to the quotient.
    const auto fits = [&](double length) { return length <= (double)eps ? 1.0 : (double)eps / length; };
    const double factor = (double)s[STEP] / (length([](float, float, float g, float) { return (double)g; }) + 1e-12);
    const auto first = [&](double x, double x0, double g) { return x + factor * g - x0; };
    const double inner = fits(length([&](float x, float x0, float g, float) { return first(x, x0, g); }));
    const auto second = [&](double x, double x0, double g, double old) {
        const double z = clamp_unit(x0 + first(x, x0, g) * inner);
        const double m = momentum;
        return m == 0.0 ? z - x0 : x + (z - x) * (1.0 - m) + (x - old) * m - x0;
    };
    const double outer = fits(length([&](float x, float x0, float g, float old) { return second(x, x0, g, old); }));
    for (int i = Block::rank() * VEC; i < elems; i += THREADS * VEC) {
        const Pack a = load(x + row + i), b = load(x0 + row + i), c = load(g + row + i), d = load(old + row + i);
        Pack to;
#pragma unroll
        for (int k = 0; k < VEC; k++) to.v[k] = (float)clamp_unit((double)b.v[k] + second(a.v[k], b.v[k], c.v[k], d.v[k]) * outer);
        *(Pack*)(y + row + i) = to;
    }
}
