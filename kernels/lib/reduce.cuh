// reduce.cuh: sums over the threads of a block, always in one order.
#pragma once
#include "lib/num.cuh"

// Threads as `lanes` rows of `columns`; those left over have a lane of `lanes` or more. Adds each v over the lanes of a
// column, pairwise: lane 0 gets the sums. The whole block calls it. Ends with a barrier.
template <int THREADS, int V>
DEV void sum_lanes(double (&v)[V], double (&shared)[V][THREADS], int lane, int lanes, int columns) {
    const int tid = threadIdx.x;
#pragma unroll
    for (int i = 0; i < V; i++) shared[i][tid] = v[i];
    __syncthreads();
    int half = 1;
    while (2 * half < lanes) half *= 2;
    for (; half > 0; half /= 2) {
        if (lane < half && lane + half < lanes) {
#pragma unroll
            for (int i = 0; i < V; i++) shared[i][tid] = v[i] += shared[i][tid + half * columns];
        }
        __syncthreads();
    }
}
