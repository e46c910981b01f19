// reduce_row.cuh: the values of one row joined by a team of threads: a warp, or a whole block. Every thread gets the result.
// The order depends on the size of the team alone, so a row gives the same bits wherever in whatever batch it lies.
#pragma once
#include "lib/num.cuh"

struct Add {
    template <class T> DEV T operator()(T a, T b) const { return a + b; }
};
struct Or {
    DEV u32 operator()(u32 a, u32 b) const { return a | b; }
};
// For whole numbers.
struct Max {
    template <class T> DEV T operator()(T a, T b) const { return a < b ? b : a; }
};
// For floats: a NaN is above all.
struct MaxOrNan {
    DEV double operator()(double a, double b) const { return a < b || b != b ? b : a; }
};

template <int THREADS> struct Team {
    static_assert(THREADS >= 32 && THREADS <= 1024 && THREADS % 32 == 0, "team: not whole warps of one block");
    static constexpr int WARPS = THREADS / 32;

    // Which thread of its team this is.
    DEV static int rank() { return (int)threadIdx.x % THREADS; }

    // One value a thread; F is commutative. Ends with a barrier where the team is a block.
    template <class F, class T> DEV static T join(T v, F f) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, step));
        if constexpr (WARPS > 1) {
            __shared__ T part[WARPS];
            if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
            __syncthreads();
            v = part[0];
            for (int w = 1; w < WARPS; w++) v = f(v, part[w]);
            __syncthreads();
        }
        return v;
    }
    template <class T> DEV static T sum(T v) { return join(v, Add()); }

    // The sum of the values of all threads before this one. Ends with a barrier where the team is a block.
    DEV static int before(int v) {
        const int lane = (int)threadIdx.x % 32, warp = rank() / 32;
        int until = v;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, until, step);
            until += lane >= step ? other : 0;
        }
        int warps_before = 0;
        if constexpr (WARPS > 1) {
            __shared__ int part[WARPS];
            if (lane == 31) part[warp] = until;
            __syncthreads();
            for (int w = 0; w < warp; w++) warps_before += part[w];
            __syncthreads();
        }
        return warps_before + until - v;
    }
};
