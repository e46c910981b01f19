// square.cu: Square's start, its state, and its proposals: a block owns an image.
//
//   computes   square_start_linf: vertical stripes of eps up or down, one sign a column and channel
//              square_start_l2, square_start_l1: whole tiles with the last pattern, turned or not, a sign a channel; scaled to eps, in
//              L1 upwards only and then the closest point of ball and box
//   shapes     y, x0 : [N, H, W, C] f32;  index, restart : [N] i32;  eps : [N];  seed : its lower and upper word, then a step;
//              patterns : [ROWS, AREA]
//   launch     block n owns image n: grid (N), block THREADS
//   constants  P_C channels of an image;  P_THREADS of a block that owns one
//   limits     y may be x0;  0 <= restart < 2^16
//   order      L1: sums over an image by Team
//   source     Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049
//   twins      src/gpu/square.rs  src/cpu/square.rs  tests/kernels/square.rs
//
//   computes   square_control: the state of an image after a query: queries made, best loss, broken, better
//   shapes     y, state : [N, 4] f32;  loss, fooled : [N]
//   launch     one thread an image: grid (ceil(N / 256)), block 256
//   constants  none
//   limits     y may be state
//   order      no reductions
//   source     as above
//   twins      as above
//
//   computes   square_step_linf: y = x, the window of the last query again as in best, that of the next one 2 eps up or down from
//              best, back to ball and box
//              square_step_l2, square_step_l1: best with the pattern on top of one window, another one emptied, the mass of both in the
//              first; L2: of length eps; L1: the closest point of ball and box
//   shapes     y, x, best, x0 : [N, H, W, C] f32;  state : [N, 4];  schedule : [ENTRIES, 2] i32;  patterns : [ENTRIES + 1, AREA]
//   launch     block n owns image n: grid (N), block THREADS
//   constants  as above
//   limits     y may be x: then square_step_linf touches the two windows alone;  an image that is broken or has no query yet keeps x
//   order      sums over an image by Team: fixed by THREADS, H, W
//   source     as above;  L1: Croce and Hein 2020, https://arxiv.org/abs/2003.01690
//   twins      as above
#include "lib/fit_l1.cuh"
#include "lib/rng.cuh"

constexpr int C = P_C, THREADS = P_THREADS;
static_assert(C >= 1 && C <= 1024, "square: channels");
typedef Team<THREADS> Block;

enum { MADE, LOSS, BROKEN, BETTER, STATE };
// Words of a query's stream, as in src/cpu/square.rs.
enum { ROW, COLUMN, ROW2, COLUMN2, TURNED, SIGNS = 8 };

DEV i64 words(const int* seed) { return (i64)((u64)(u32)seed[1] << 32 | (u32)seed[0]); }
DEV float sign(const Stream& stream, int element) { return stream.bits((u32)element) >> 31 == 0 ? 1.0f : -1.0f; }
DEV float to_unit(double v) { return (float)(v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v); }

extern "C" __global__ __launch_bounds__(THREADS)
void square_start_linf(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed, int h,
                       int w) {
    const int image = (int)blockIdx.x, elems = h * w * C;
    const Stream stream(words(seed), index[image], 0, DRAW_SQUARE, restart[image]);
    const float radius = eps[image];
    y += (i64)image * elems, x0 += (i64)image * elems;
    for (int e = Block::rank(); e < elems; e += THREADS) {
        const float delta = __fmul_rn(radius, sign(stream, e % C * w + e / C % w));
        y[e] = clamp_keep_nan(__fadd_rn(x0[e], delta), 0.0f, 1.0f);
    }
}

// What the tiles of a start add to an image.
struct Tiles {
    Stream stream;
    const float* tile;
    int side, down, across, top, left, w;
    double scale;

    DEV Tiles(const Stream& stream, const float* tile, int h, int w, double eps, bool l1) : stream(stream), tile(tile), w(w) {
        const int fifth = (h < w ? h : w) / 5;
        side = fifth > 1 ? fifth : 1;
        down = h / side, across = w / side;
        top = (h - down * side) / 2, left = (w - across * side) / 2;
        const double count = (double)(down * across * C);
        scale = l1 ? fmax(eps / count, 1.0) : eps / sqrt(count);
    }
    DEV double at(int e) const {
        const int i = e / C / w - top, j = e / C % w - left, ch = e % C;
        if (i < 0 || j < 0 || i >= down * side || j >= across * side) return 0.0;
        const int first = (i / side * across + j / side) * (C + 1), a = i % side, b = j % side;
        const float value = tile[sign(stream, first + C) < 0.0f ? b * side + a : a * side + b];
        return scale * (double)(value * sign(stream, first + ch));
    }
};

template <bool L1> DEV void start_tiles(float* y, const float* x0, const int* index, const int* restart, const float* eps,
                                        const int* seed, const float* patterns, int h, int w, int rows, int area) {
    const int image = (int)blockIdx.x, elems = h * w * C;
    const double radius = eps[image];
    const Stream stream(words(seed), index[image], 0, DRAW_SQUARE, restart[image]);
    const Tiles tiles(stream, patterns + (i64)(rows - 1) * area, h, w, radius, L1);
    y += (i64)image * elems, x0 += (i64)image * elems;
    double lambda = 0.0;
    if constexpr (L1) {
        const auto each = [&](auto f) {
            for (int e = Block::rank(); e < elems; e += THREADS) f(tiles.at(e), x0[e]);
        };
        lambda = fit_l1<Block>(each, radius);
    }
    for (int e = Block::rank(); e < elems; e += THREADS) {
        const double d = tiles.at(e);
        y[e] = to_unit((double)x0[e] + (L1 ? copysign(cut(d, x0[e], lambda), d) : d));
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void square_start_l2(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed,
                     const float* patterns, int h, int w, int rows, int area) {
    start_tiles<false>(y, x0, index, restart, eps, seed, patterns, h, w, rows, area);
}

extern "C" __global__ __launch_bounds__(THREADS)
void square_start_l1(float* y, const float* x0, const int* index, const int* restart, const float* eps, const int* seed,
                     const float* patterns, int h, int w, int rows, int area) {
    start_tiles<true>(y, x0, index, restart, eps, seed, patterns, h, w, rows, area);
}

extern "C" __global__ __launch_bounds__(256)
void square_control(float* y, const float* state, const float* loss, const float* fooled, int n) {
    const int i = (int)(blockIdx.x * 256 + threadIdx.x);
    if (i >= n) return;
    float4 s = ((const float4*)state)[i];
    const bool broken = fooled[i] != 0.0f, better = broken || loss[i] > s.y || s.x == 0.0f;
    if (s.z != 0.0f) {
        s.w = 0.0f;
    } else {
        s = make_float4(s.x + 1.0f, better ? loss[i] : s.y, broken ? 1.0f : 0.0f, better ? 1.0f : 0.0f);
    }
    ((float4*)y)[i] = s;
}

// The windows of one query: of the one that changes the top left corner is (i, j), of the one that is emptied (i2, j2).
struct Query {
    Stream stream;
    int entry, side, i, j, i2, j2;

    // Query `number`, from 1: the start was 0.
    DEV Query(const Stream& stream, const int* schedule, int entries, int number, int h, int w) : stream(stream) {
        entry = entries - 1;
        while (entry > 0 && schedule[2 * entry] >= number) entry--;
        side = schedule[2 * entry + 1];
        i = draw(ROW, h), j = draw(COLUMN, w), i2 = draw(ROW2, h), j2 = draw(COLUMN2, w);
    }
    DEV int draw(int element, int size) const { return (int)((u64)stream.bits((u32)element) * (u32)(size - side + 1) >> 32); }
    DEV bool first(int a, int b) const { return (u32)(a - i) < (u32)side && (u32)(b - j) < (u32)side; }
    DEV bool second(int a, int b) const { return (u32)(a - i2) < (u32)side && (u32)(b - j2) < (u32)side; }
    // Element t of the window that changes, in an image.
    DEV int element(int t, int w) const { return ((i + t / (side * C)) * w + j) * C + t % (side * C); }
};

extern "C" __global__ __launch_bounds__(THREADS)
void square_step_linf(float* y, const float* x, const float* best, const float* x0, const float* state, const int* index,
                      const int* restart, const float* eps, const int* seed, const int* schedule, int h, int w, int entries) {
    const int image = (int)blockIdx.x, elems = h * w * C;
    const i64 row = (i64)image * elems;
    const float radius = eps[image];
    const int made = (int)state[image * STATE + MADE];
    const bool moves = made > 0 && state[image * STATE + BROKEN] == 0.0f;
    if (y != x) {
        for (int e = Block::rank(); e < elems; e += THREADS) y[row + e] = x[row + e];
        __syncthreads();
    }
    if (!moves) return;
    y += row, best += row, x0 += row;
    // The window of the last query first, which becomes as it was.
    for (int number = made > 1 ? made - 1 : made; number <= made; number++) {
        const Query q(Stream(words(seed), index[image], number, DRAW_SQUARE, restart[image]), schedule, entries, number, h, w);
        for (int t = Block::rank(); t < q.side * q.side * C; t += THREADS) {
            const int e = q.element(t, w);
            const float low = __fadd_rn(x0[e], -radius), high = __fadd_rn(x0[e], radius);
            const float colour = __fmul_rn(__fmul_rn(2.0f, radius), sign(q.stream, SIGNS + e % C));
            const float moved = clamp_keep_nan(clamp_keep_nan(__fadd_rn(best[e], colour), low, high), 0.0f, 1.0f);
            y[e] = number < made ? best[e] : moved;
        }
        __syncthreads(); // the windows may overlap
    }
}

// How one image changes where mass moves between windows.
template <bool L1> struct Move {
    const float *best, *x0, *pattern;
    const Query& q;
    int h, w;
    bool turned;
    double content[C], scale[C], factor;

    DEV static double size(double d) { return L1 ? fabs(d) : d * d; }
    DEV static double root(double v) { return L1 ? v : sqrt(v); }
    DEV double delta(int e) const { return (double)best[e] - (double)x0[e]; }
    // What element e of the window that changes is to hold, before it is scaled.
    DEV double fresh(int e) const {
        const int i = e / C / w - q.i, j = e / C % w - q.j, ch = e % C;
        const float value = pattern[turned ? j * q.side + i : i * q.side + j];
        return (double)(value * sign(q.stream, SIGNS + ch)) + delta(e) / (1e-12 + content[ch]);
    }
    DEV double changed(int e) const {
        const int i = e / C / w, j = e / C % w;
        if (q.first(i, j)) return fresh(e) * scale[e % C] * factor;
        return q.second(i, j) ? 0.0 : delta(e) * factor;
    }

    DEV Move(const float* best, const float* x0, const float* pattern, const Query& q, int h, int w, double eps)
        : best(best), x0(x0), pattern(pattern), q(q), h(h), w(w), turned(q.stream.bits(TURNED) >> 31 != 0) {
        double outside = 0.0, joint[C], total = 0.0;
#pragma unroll
        for (int ch = 0; ch < C; ch++) joint[ch] = content[ch] = 0.0;
        for (int p = Block::rank(); p < h * w; p += THREADS) {
            const bool first = q.first(p / w, p % w), both = first || q.second(p / w, p % w);
#pragma unroll
            for (int ch = 0; ch < C; ch++) {
                const double s = size(delta(p * C + ch));
                outside += both ? 0.0 : s, joint[ch] += both ? s : 0.0, content[ch] += first ? s : 0.0;
            }
        }
        total = outside = Block::sum(outside);
#pragma unroll
        for (int ch = 0; ch < C; ch++) {
            joint[ch] = Block::sum(joint[ch]), content[ch] = root(Block::sum(content[ch]));
            total += joint[ch];
        }
        const double slack = fmax((L1 ? eps : eps * eps) - total, 0.0);
        total = outside;
#pragma unroll
        for (int ch = 0; ch < C; ch++) {
            double length = 0.0;
            for (int t = Block::rank(); t < q.side * q.side; t += THREADS) length += size(fresh(q.element(t * C + ch, w)));
            length = root(Block::sum(length));
            // L1 gives every channel what all would share: the projection takes it back where it does least.
            const double mass = L1 ? slack + C * joint[ch] : sqrt(slack / C + joint[ch]);
            scale[ch] = mass / (1e-12 + length);
            total += size(scale[ch] * length);
        }
        factor = L1 ? 1.0 : eps / (1e-12 + sqrt(total));
    }
};

template <bool L1>
DEV void step_ball(float* y, const float* x, const float* best, const float* x0, const float* state, const int* index,
                   const int* restart, const float* eps, const int* seed, const int* schedule, const float* patterns, int h, int w,
                   int entries, int area) {
    const int image = (int)blockIdx.x, elems = h * w * C;
    const i64 row = (i64)image * elems;
    const int made = (int)state[image * STATE + MADE];
    y += row, x += row, best += row, x0 += row;
    if (made == 0 || state[image * STATE + BROKEN] != 0.0f) {
        if (y != x) {
            for (int e = Block::rank(); e < elems; e += THREADS) y[e] = x[e];
        }
        return;
    }
    const Query q(Stream(words(seed), index[image], made, DRAW_SQUARE, restart[image]), schedule, entries, made, h, w);
    const double radius = eps[image];
    const Move<L1> move(best, x0, patterns + (i64)q.entry * area, q, h, w, radius);
    double lambda = 0.0;
    if constexpr (L1) {
        const auto each = [&](auto f) {
            for (int e = Block::rank(); e < elems; e += THREADS) f(move.changed(e), x0[e]);
        };
        lambda = fit_l1<Block>(each, radius);
    }
    for (int e = Block::rank(); e < elems; e += THREADS) {
        const double d = move.changed(e);
        y[e] = to_unit((double)x0[e] + (L1 ? copysign(cut(d, x0[e], lambda), d) : d));
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void square_step_l2(float* y, const float* x, const float* best, const float* x0, const float* state, const int* index,
                    const int* restart, const float* eps, const int* seed, const int* schedule, const float* patterns, int h, int w,
                    int entries, int area) {
    step_ball<false>(y, x, best, x0, state, index, restart, eps, seed, schedule, patterns, h, w, entries, area);
}

extern "C" __global__ __launch_bounds__(THREADS)
void square_step_l1(float* y, const float* x, const float* best, const float* x0, const float* state, const int* index,
                    const int* restart, const float* eps, const int* seed, const int* schedule, const float* patterns, int h, int w,
                    int entries, int area) {
    step_ball<true>(y, x, best, x0, state, index, restart, eps, seed, schedule, patterns, h, w, entries, area);
}
