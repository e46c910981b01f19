// objective.cu: losses that train, on the logits of two forms of an image, on soft targets, focal. In f64, rounded once.
//
//   computes   objective_value: out[n] = objective(z[n], w[n]);  objective_grad: out[n] = its gradient by z[n], or by w[n]
//              where BY is 1; the kinds of graph::Objective
//   shapes     z, w : [N, CLASSES] f32 (w is z again where one row is read);  label : [N] i32;  out : [N], or [N, CLASSES]
//   launch     objective_value, objective_grad: a team of TEAM threads an image: grid (ceil(N / (THREADS / TEAM))), block THREADS
//   constants  P_TEAM threads an image: 32, or those of a block for many classes
//   limits     0 <= label < CLASSES;  CLASSES >= 2; a NaN shows in the value
//   order      sums over the classes by Team: fixed by TEAM and CLASSES
//   source     TRADES: Zhang et al. 2019, https://arxiv.org/abs/1901.08573;  MART: Wang et al. 2020;  focal: Lin et al. 2017
//   twins      src/gpu/objective.rs  src/cpu/objective.rs  tests/kernels/objective.rs  benches/ops/objective.rs
#include "lib/reduce_row.cuh"

constexpr int TEAM = P_TEAM, THREADS = TEAM > 128 ? TEAM : 128;
static_assert(THREADS % TEAM == 0 && (TEAM == 32 || TEAM == THREADS), "objective: a team is a warp or a block");
typedef Team<TEAM> Crew;

enum : int { KL, MART, SQUARED, SOFT, FOCAL, SIGMOID_FOCAL, SOFT_MARGIN };

constexpr double TINY = 1e-12, ONE_BOOSTED = 1.0001, ONE_WEIGHT = 1.0000001;

// The sum over the classes of this thread's team. Every thread gets it.
template <class F> DEV double over(int classes, F f) {
    double part = 0.0;
    for (int c = Crew::rank(); c < classes; c += TEAM) part += f(c);
    return Crew::sum(part);
}

// One row of logits: the logarithm of the sum of their exponentials, all classes or all but `skip`.
struct Logits {
    const float* z;
    int classes;
    double all;

    DEV Logits(const float* z, int classes, int skip = -1) : z(z), classes(classes) {
        double part = -__longlong_as_double(0x7ff0000000000000ll);
        for (int c = Crew::rank(); c < classes; c += TEAM) part = c == skip ? part : MaxOrNan()(part, (double)z[c]);
        const double top = Crew::join(part, MaxOrNan());
        all = top + log(over(classes, [&](int c) { return c == skip ? 0.0 : exp((double)z[c] - top); }));
    }
    DEV double log_p(int c) const { return (double)z[c] - all; }
    DEV double p(int c) const { return exp(log_p(c)); }
    // The most probable class other than `y`, of equals the lowest.
    DEV int rival(int y) const {
        double best = -__longlong_as_double(0x7ff0000000000000ll);
        for (int c = Crew::rank(); c < classes; c += TEAM) best = c == y ? best : MaxOrNan()(best, p(c));
        best = Crew::join(best, MaxOrNan());
        u32 lowest = 0;
        for (int c = Crew::rank(); c < classes; c += TEAM) lowest = c != y && p(c) == best ? Max()(lowest, (u32)~c) : lowest;
        const int found = (int)~Crew::join(lowest, Max());
        return found < 0 ? y == 0 : found;   // none where a NaN is the best
    }
};

DEV double sigmoid(double t) { return 1.0 / (1.0 + exp(-t)); }
DEV double softplus(double t) { return (t < 0.0 ? 0.0 : t) + log1p(exp(-fabs(t))); }
DEV double power(double base, double exponent) { return exponent == 0.0 ? 1.0 : exponent == 2.0 ? base * base : pow(base, exponent); }

// sum_c p_c (log p_c - log(q_c + 1e-12))
DEV double mart_kl(const Logits& p, const Logits& q) {
    return over(p.classes, [&](int c) { return p.p(c) * (p.log_p(c) - log(q.p(c) + TINY)); });
}

// What the classes other than the label have together.
DEV double rest(const Logits& p, int y) {
    return over(p.classes, [&](int c) { return c == y ? 0.0 : p.p(c); });
}

// `amount`: MART's weight, the focal losses' gamma.
extern "C" __global__ __launch_bounds__(THREADS)
void objective_value(const float* z, const float* w, const int* label, float* out, int kind, float amount, int classes, int n) {
    const int team = (int)blockIdx.x * (THREADS / TEAM) + (int)threadIdx.x / TEAM;
    const int row = team < n ? team : n - 1, y = label[row];
    z += (i64)row * classes, w += (i64)row * classes;
    const double a = amount;
    double value;
    if (kind == SQUARED) {
        value = over(classes, [&](int c) { const double d = (double)z[c] - (double)w[c]; return d * d; });
    } else if (kind == SIGMOID_FOCAL) {
        value = over(classes, [&](int c) {
            const double t = c == y ? (double)z[c] : -(double)z[c];
            return power(sigmoid(-t), a) * softplus(-t);
        });
    } else {
        const Logits p(z, classes, kind == SOFT_MARGIN ? y : -1);
        if (kind == KL || kind == MART) {
            const Logits q(w, classes);
            if (kind == KL) {
                value = over(classes, [&](int c) { return p.p(c) * (p.log_p(c) - q.log_p(c)); });
            } else {
                const double boosted = -q.log_p(y) - log(ONE_BOOSTED - q.p(q.rival(y)) + TINY);
                value = boosted + a * (ONE_WEIGHT - p.p(y)) * mart_kl(p, q);
            }
        } else if (kind == SOFT) {
            // A class without weight has no say, even at minus infinity.
            value = over(classes, [&](int c) { return w[c] == 0.0f ? 0.0 : -(double)w[c] * p.log_p(c); });
        } else if (kind == FOCAL) {
            value = -power(rest(p, y), a) * p.log_p(y);
        } else {
            value = p.all - (double)z[y];
        }
    }
    if (team < n && Crew::rank() == 0) out[row] = (float)value;
}

// out[c] = f(c) for the classes of this thread.
template <class F> DEV void each(float* out, int classes, bool mine, F f) {
    for (int c = Crew::rank(); c < classes && mine; c += TEAM) out[c] = (float)f(c);
}

DEV void mart_grad(const Logits& p, const Logits& q, int y, double weight, int by, float* out, bool mine) {
    const double factor = ONE_WEIGHT - p.p(y), at_y = p.p(y);
    if (by == 0) {
        const double kl = mart_kl(p, q);
        each(out, p.classes, mine, [&](int c) {
            const double through_kl = p.p(c) * (p.log_p(c) - log(q.p(c) + TINY) - kl);
            return weight * (factor * through_kl - kl * at_y * ((c == y ? 1.0 : 0.0) - p.p(c)));
        });
    } else {
        const int k = q.rival(y);
        const double boost = q.p(k) / (ONE_BOOSTED - q.p(k) + TINY);
        const auto ratio = [&](int c) { return p.p(c) * q.p(c) / (q.p(c) + TINY); };
        const double total = over(p.classes, ratio);
        each(out, p.classes, mine, [&](int c) {
            const double own = q.p(c), boosted = own - (c == y ? 1.0 : 0.0) + boost * ((c == k ? 1.0 : 0.0) - own);
            return boosted + weight * factor * (own * total - ratio(c));
        });
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void objective_grad(const float* z, const float* w, const int* label, float* out, int kind, float amount, int by, int classes,
                    int n) {
    const int team = (int)blockIdx.x * (THREADS / TEAM) + (int)threadIdx.x / TEAM;
    const int row = team < n ? team : n - 1, y = label[row];
    const bool mine = team < n;
    z += (i64)row * classes, w += (i64)row * classes, out += (i64)row * classes;
    const double a = amount;
    if (kind == SQUARED) {
        const double sign = by == 0 ? 2.0 : -2.0;
        each(out, classes, mine, [&](int c) { return sign * ((double)z[c] - (double)w[c]); });
    } else if (kind == SIGMOID_FOCAL) {
        each(out, classes, mine, [&](int c) {
            const double sign = c == y ? 1.0 : -1.0, t = sign * (double)z[c], miss = sigmoid(-t), missed = power(miss, a);
            return sign * (-a * missed * sigmoid(t) * softplus(-t) - missed * miss);
        });
    } else {
        const Logits p(z, classes, kind == SOFT_MARGIN ? y : -1);
        if (kind == KL || kind == MART) {
            const Logits q(w, classes);
            if (kind == MART) {
                mart_grad(p, q, y, a, by, out, mine);
            } else if (by == 1) {
                each(out, classes, mine, [&](int c) { return q.p(c) - p.p(c); });
            } else {
                const double kl = over(classes, [&](int c) { return p.p(c) * (p.log_p(c) - q.log_p(c)); });
                each(out, classes, mine, [&](int c) { return p.p(c) * (p.log_p(c) - q.log_p(c) - kl); });
            }
        } else if (kind == SOFT) {
            const double total = over(classes, [&](int c) { return (double)w[c]; });
            each(out, classes, mine, [&](int c) { return p.p(c) * total - (double)w[c]; });
        } else if (kind == FOCAL) {
            const double others = rest(p, y);
            const double through = others == 0.0 ? 0.0 : a * p.p(y) * power(others, a - 1.0) * p.log_p(y);
            const double slope = through - power(others, a);
            each(out, classes, mine, [&](int c) { return slope * ((c == y ? 1.0 : 0.0) - p.p(c)); });
        } else {
            each(out, classes, mine, [&](int c) { return c == y ? -1.0 : p.p(c); });
        }
    }
}
