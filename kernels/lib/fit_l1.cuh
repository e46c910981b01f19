// fit_l1.cuh: the closest point of L1 ball and box for an image that a block owns, as project_l1 in src/threat.rs.
#pragma once
#include "lib/reduce_row.cuh"

// The way from `o` to the box in the direction of `d`.
DEV double way(double d, float o) { return fmax(d > 0.0 ? 1.0 - (double)o : (double)o, 0.0); }
DEV double cut(double d, float o, double lambda) { return fmin(fmax(fabs(d) - lambda, 0.0), way(d, o)); }

// The smallest lambda >= 0 with which the lengths of all cut steps fit `eps`. each(f) calls f(step, original) for every element
// of this thread. The sum falls piecewise linearly: Newton's step is exact on the right piece, a bracket keeps it from cycling.
template <class Block, class Each> DEV double fit_l1(Each each, double eps) {
    double high = 0.0, low = 0.0, lambda = 0.0;
    each([&](double d, float) { high = MaxOrNan()(high, fabs(d)); });
    high = Block::join(high, MaxOrNan());
    for (int turn = 1;; turn++) {
        double length = 0.0;
        int moving = 0;
        each([&](double d, float o) {
            const double rest = fabs(d) - lambda;
            length += cut(d, o, lambda);
            moving += rest > 0.0 && rest <= way(d, o);
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
