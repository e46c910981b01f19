// minimum.cu: DDN and FMN: each image's next state, and the step along the gradient back to a ball that grows and shrinks.
//
//   computes   minimum_next: the state after a turn: nearest iterate, next radius, next step length
//   shapes     y, state : [N, COLUMNS];  x, x0, g : [N, ELEMS];  margin : [N];  z : [N, CLASSES], all f32
//   launch     minimum_next: block n owns image n: grid (N), block THREADS
//   constants  P_KIND: 0 DDN, 1 FMN in L-inf, 2 in L2, 3 in L1, 4 in L0;  P_THREADS of a block that owns an image
//   limits     y may be state;  a NaN margin never wins;  arithmetic in f64
//   order      sums over an image by Team: fixed by THREADS and ELEMS
//   source     Rony et al. 2019, https://arxiv.org/abs/1811.09600;  Pintor et al. 2021, https://arxiv.org/abs/2102.12827
//   twins      src/gpu/minimum.rs  src/cpu/minimum.rs  tests/kernels/minimum.rs  benches/ops/minimum.rs
//
//   computes   minimum_step: y = clip(x0 + project(x - x0 + alpha * g / |g|_2)), onto the sphere (DDN) or into the ball of the
//              state's radius; in L1 the closest point of ball and box; along a random direction where g is zero
//   shapes     y, x, x0, g : [N, HW, C];  state : [N, COLUMNS];  index : [N] i32;  seed : its lower and upper word
//   launch     minimum_step: as minimum_next
//   constants  as above
//   limits     y may be x;  ELEMS < 2^31 - 1;  a NaN in g makes the image NaN (in L0 the values that are kept);  f64
//   order      as above; L0 keeps the first of equals
//   source     projection in L1: Croce and Hein 2021, https://arxiv.org/abs/2103.01208
//   twins      as above
#include "lib/nearest.cuh"
#include "lib/rng.cuh"

constexpr int KIND = P_KIND, THREADS = P_THREADS;
enum : int { DDN, LINF, L2, L1, L0 };
static_assert(KIND >= DDN && KIND <= L0, "minimum: no such kind");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "minimum: whole warps");
constexpr bool ROUND_BALL = KIND == DDN || KIND == L2;
typedef Team<THREADS> Block;

// Sum or, in L-inf, the largest of what each thread has; a NaN shows.
template <bool LARGEST> DEV double gather(double part) {
    return LARGEST ? Block::join(part, MaxOrNan()) : Block::sum(part);
}

DEV double next_radius(const State& s, bool won, double gamma, double edge) {
    const double radius = s.at[RADIUS], best = s.at[BEST];
    const double less = radius * (1.0 - gamma), more = radius * (1.0 + gamma);
    if (KIND == DDN) return won ? less : more;
    if (KIND == L0) return won ? fmax(fmin(fmin(radius - 1.0, floor(less)), best), 0.0) : fmax(radius + 1.0, floor(more));
    return won ? fmin(less, best) : best <= 3.402823466e38 ? more : edge;
}

extern "C" __global__ __launch_bounds__(THREADS)
void minimum_next(float* y, const float* state, const float* __restrict__ x, const float* __restrict__ x0, const float* __restrict__ g,
                  const float* __restrict__ margin, const float* __restrict__ z, float rate, float gamma, int steps, int elems,
                  int classes) {
    const i64 row = (i64)blockIdx.x * elems;
    double far = 0.0, steep = 0.0, corner = 0.0;
#pragma unroll 4
    for (int i = Block::rank(); i < elems; i += THREADS) {
        const double to = x[row + i], from = x0[row + i], d = fabs(to - from), slope = fabs((double)g[row + i]);
        const double room = fmax(from, 1.0 - from);
        if (KIND == LINF) far = MaxOrNan()(far, d), steep += slope, corner = fmax(corner, room);
        if (ROUND_BALL) far += d * d, steep += slope * slope, corner += room * room;
        if (KIND == L1) far += d, steep = fmax(steep, slope), corner += room;
        if (KIND == L0) far += to != from ? 1.0 : 0.0, steep = fmax(steep, slope), corner += 1.0;
    }
    far = gather<KIND == LINF>(far), corner = gather<KIND == LINF>(corner);
    steep = KIND == L1 || KIND == L0 ? Block::join(steep, Larger()) : Block::sum(steep);
    if (ROUND_BALL) far = sqrt(far), steep = sqrt(steep), corner = sqrt(corner);
    const double wide = spread<Block>(z, classes);
    if (threadIdx.x != 0) return;
    State s(state + (i64)blockIdx.x * COLUMNS);
    s.at[BETTER] = 0.0f;
    if (s.at[ALIVE] != 0.0f) {
        const double turn = s.at[TURNS], fall = 0.5 * (1.0 + cospi(turn / steps));
        const float lead = margin[blockIdx.x];
        const bool won = s.look(lead, 0.0, wide, far);
        const double first = gamma, last = fmin(first, 0.001);
        const double share = KIND == DDN ? first : last + (first - last) * fall;
        const double radius = next_radius(s, won, share, far + fabs((double)lead) / fmax(steep, 1e-12));
        s.at[RADIUS] = (float)fmin(radius, corner);
        s.at[ALPHA] = (float)((double)rate * (0.01 + 0.99 * fall));
        s.at[ALIVE] = turn + 1.0 < steps ? 1.0f : 0.0f;
    }
    s.store(y + (i64)blockIdx.x * COLUMNS);
}

// The change of one image after a step, element by element.
struct Step {
    const float *x, *x0, *g;
    int elems, hw, channels;
    double factor;
    bool drawn;
    Stream stream;

    DEV Step(const float* x, const float* x0, const float* g, const float* state, int index, const int* seed, int hw, int channels)
        : elems(hw * channels), hw(hw), channels(channels),
          stream((i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]), index, (int)state[TURNS], DRAW_DIRECTION, 0) {
        const i64 row = (i64)blockIdx.x * elems;
        this->x = x + row, this->x0 = x0 + row, this->g = g + row;
        u32 any = 0;
        for (int i = Block::rank(); i < elems; i += THREADS) any |= this->g[i] != 0.0f ? 1 : 0;
        drawn = Block::join(any, Or()) == 0;
        double part = 0.0;
        for (int i = Block::rank(); i < elems; i += THREADS) part += along(i) * along(i);
        factor = (double)state[ALPHA] / sqrt(Block::sum(part));
    }
    // The gradient, or numbers drawn in the order [C, HW].
    DEV double along(int i) const {
        if (!drawn) return g[i];
        const u32 element = (u32)(i % channels * hw + i / channels);
        u32 w[4];
        float v[4];
        stream.block(element / 4, w);
        draw_normals(w, v);
        const u32 at = element % 4;
        return at == 0 ? v[0] : at == 1 ? v[1] : at == 2 ? v[2] : v[3];
    }
    DEV double delta(int i) const { return (double)x[i] - (double)x0[i] + factor * along(i); }
    // The way to the box.
    DEV double room(double d, int i) const { return fmax(d > 0.0 ? 1.0 - (double)x0[i] : (double)x0[i], 0.0); }
    DEV double shrunk(int i, double lambda) const {
        const double d = delta(i);
        return copysign(fmin(fmax(fabs(d) - lambda, 0.0), room(d, i)), d);
    }
};

// The smallest lambda >= 0 that brings an image into the L1 ball. Newton's steps within a bracket: the length falls piecewise
// linearly with lambda; every third step halves the bracket.
DEV double threshold(const Step& s, double radius, double high) {
    double low = 0.0, lambda = 0.0;
    for (int turn = 1;; turn++) {
        double length = 0.0;
        int moving = 0;
#pragma unroll 1
        for (int i = Block::rank(); i < s.elems; i += THREADS) {
            const double d = s.delta(i), rest = fabs(d) - lambda;
            length += fabs(s.shrunk(i, lambda));
            moving += rest > 0.0 && rest <= s.room(d, i) ? 1 : 0;
        }
        const double over = Block::sum(length) - radius;
        moving = Block::sum(moving);
        if (over == 0.0 || (over < 0.0 && lambda == 0.0)) return lambda;
        if (over > 0.0) {
            low = lambda;
        } else {
            high = lambda;
        }
        const double newton = lambda + over / moving;
        if (fabs(newton - lambda) <= lambda * 0x1p-51) return lambda;
        const double middle = low + 0.5 * (high - low);
        const double next = newton > low && newton < high && turn % 3 != 0 ? newton : middle;
        if (next <= low || next >= high) return high;
        lambda = next;
    }
}

// Which changes are among the `count` largest: those above an edge, and at the edge those up to an index. Bit by bit.
struct Largest {
    u32 edge;
    int last;

    DEV static u32 key(const Step& s, int i) { return __float_as_uint(fabsf((float)s.delta(i))); }
    template <class F> DEV static int count(const Step& s, F f) {
        int mine = 0;
        for (int i = Block::rank(); i < s.elems; i += THREADS) mine += f(key(s, i), i) ? 1 : 0;
        return Block::sum(mine);
    }
    DEV Largest(const Step& s, int wanted) : edge(0), last(s.elems) {
        if (wanted >= s.elems) return;
        if (wanted <= 0) edge = 0xffffffffu;
        for (u32 bit = 1u << 30; bit != 0 && wanted > 0; bit >>= 1) {
            const u32 trial = edge | bit;
            if (count(s, [&](u32 k, int) { return k >= trial; }) >= wanted) edge = trial;
        }
        const int above = count(s, [&](u32 k, int) { return k > edge; });
        last = 0;
        for (int bit = 1 << 30; bit != 0; bit >>= 1) {
            const int trial = last | bit;
            if (trial < s.elems && count(s, [&](u32 k, int i) { return k == edge && i < trial; }) < wanted - above) last = trial;
        }
    }
    DEV bool takes(const Step& s, int i) const {
        const u32 k = key(s, i);
        return k > edge || (k == edge && i <= last);
    }
};

extern "C" __global__ __launch_bounds__(THREADS, THREADS > 512 ? 1 : 2)
void minimum_step(float* y, const float* x, const float* __restrict__ x0, const float* __restrict__ g, const float* __restrict__ state,
                  const int* __restrict__ index, const int* __restrict__ seed, int hw, int channels) {
    state += (i64)blockIdx.x * COLUMNS;
    const Step s(x, x0, g, state, index[blockIdx.x], seed, hw, channels);
    const double radius = state[RADIUS];
    const bool alive = state[ALIVE] != 0.0f;
    y += (i64)blockIdx.x * s.elems;
    double scale = 1.0, lambda = 0.0, size = 0.0;
    if (ROUND_BALL) {
        for (int i = Block::rank(); i < s.elems; i += THREADS) size += s.delta(i) * s.delta(i);
        size = sqrt(Block::sum(size));
        // A NaN length goes through to the product.
        scale = size == 0.0 || (KIND == L2 && size <= radius) ? 1.0 : radius / size;
    }
    if (KIND == L1) {
#pragma unroll 1
        for (int i = Block::rank(); i < s.elems; i += THREADS) size = MaxOrNan()(size, fabs(s.delta(i)));
        size = Block::join(size, MaxOrNan());
        if (size == size) lambda = threshold(s, radius, size);
    }
    const Largest largest(s, KIND == L0 ? (int)fmin(radius, (double)s.elems) : s.elems);
#pragma unroll 1
    for (int i = Block::rank(); i < s.elems; i += THREADS) {
        double d = s.delta(i);
        if (ROUND_BALL) d *= scale;
        if (KIND == LINF) d = d < -radius ? -radius : d > radius ? radius : d;
        if (KIND == L1) d = size == size ? s.shrunk(i, lambda) : size;
        if (KIND == L0) d = largest.takes(s, i) ? d : 0.0;
        const double to = (double)s.x0[i] + d;
        y[i] = alive ? (float)(to < 0.0 ? 0.0 : to > 1.0 ? 1.0 : to) : s.x[i];
    }
}
