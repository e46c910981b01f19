// conv_pack.cu: weights in the layouts that the convolution kernels read, with what is folded into them.
//
//   computes   conv_pack:      out[g][row][t][col] = w[g * RESULT + row][col][t], row < RESULT, col < SOURCE, else 0
//              conv_pack_grad: out[g][row][t][col] = w[g * SOURCE + col][row][t] * scale[g * SOURCE + col], likewise
//   shapes     w : [K, C / groups, R, S] f32;  scale : [K];  out : [groups, rows, taps, cols] in Y
//   launch     conv_pack:      one thread an element of out: grid (ceil(total / 256)), block 256
//              conv_pack_grad: the same
//   constants  P_Y storage (0 f32, 1 bf16, 2 fp16), P_SCALE whether there is a scale
//   limits     fewer than 2^31 elements
//   order      no reductions
//   source     none
//   twins      src/gpu/conv.rs  src/cpu/conv.rs  tests/kernels/conv.rs  benches/ops/conv.rs
#include "lib/num.cuh"

typedef Stored<P_Y>::type Y;
constexpr bool SCALE = P_SCALE != 0;
constexpr int THREADS = 256;

template <bool GRAD> DEV void pack(const float* w, [[maybe_unused]] const float* scale, Y* out, int groups, int result, int taps,
                                   int source, int rows, int cols) {
    const int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= groups * rows * taps * cols) return;
    const int col = at % cols, t = at / cols % taps, row = at / cols / taps % rows, g = at / cols / taps / rows;
    float v = 0.0f;
    if (row < result && col < source) {
        const int k = GRAD ? g * source + col : g * result + row;
        const int c = GRAD ? row : col, width = GRAD ? result : source;
        v = w[((i64)k * width + c) * taps + t];
        if constexpr (SCALE) v *= scale[k];
    }
    out[at] = narrow<Y>(v);
}

extern "C" __global__ __launch_bounds__(THREADS)
void conv_pack(const float* w, const float* scale, Y* out, int groups, int result, int taps, int source, int rows, int cols) {
    pack<false>(w, scale, out, groups, result, taps, source, rows, cols);
}

extern "C" __global__ __launch_bounds__(THREADS)
void conv_pack_grad(const float* w, const float* scale, Y* out, int groups, int result, int taps, int source, int rows, int cols) {
    pack<true>(w, scale, out, groups, result, taps, source, rows, cols);
}
