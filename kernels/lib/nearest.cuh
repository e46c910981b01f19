// nearest.cuh: what an image knows while its nearest adversarial image is looked for, and what a turn changes in any case.
// The twin of graph::nearest::column. Thread 0 of the block that owns an image keeps its state.
#pragma once
#include "lib/reduce_row.cuh"

enum : int { ALIVE, BETTER, BEST, TURNS, MARGIN, SLACK, RESTART, CONSTANT, LOW, HIGH, STEP, ROUND, REACHED, BEFORE, RATE, SCALE, COLUMNS };
enum : int { RADIUS = RESTART, ALPHA = CONSTANT };

// VEC elements side by side; rows of whole vectors are aligned.
template <int VEC> struct __align__(4 * VEC) Pack {
    float v[VEC];
    DEV static Pack load(const float* p) { return *(const Pack*)p; }
    DEV void store(float* p) const { *(Pack*)p = *this; }
};

// Drops a NaN.
struct Larger {
    DEV double operator()(double a, double b) const { return fmax(a, b); }
};

// The distance between the highest and the lowest logit of this block's image.
template <class Block> DEV double spread(const float* z, int classes) {
    z += (i64)blockIdx.x * classes;
    double high = -(double)__uint_as_float(0x7f800000u), low = high;
    for (int i = Block::rank(); i < classes; i += (int)blockDim.x) high = fmax(high, (double)z[i]), low = fmax(low, -(double)z[i]);
    return Block::join(high, Larger()) + Block::join(low, Larger());
}

// One image's state in registers.
struct State {
    float at[COLUMNS];

    DEV State(const float* row) {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) at[i] = row[i];
    }
    DEV void store(float* row) const {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) row[i] = at[i];
    }
    // Counts a turn and keeps the nearest; whether the goal is reached.
    DEV bool look(float margin, double kappa, double spread, double distance) {
        const bool won = (double)margin > kappa + (double)at[SLACK] * spread;
        at[TURNS] += 1.0f, at[MARGIN] = fmaxf(at[MARGIN], margin);
        if (won && (float)distance < at[BEST]) at[BETTER] = 1.0f, at[BEST] = (float)distance;
        return won;
    }
};
