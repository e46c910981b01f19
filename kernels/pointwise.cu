// pointwise.cu: element-wise operations on whole values: chains of fused operations, scaling, casts, copies, normalisation.
//
//   computes   pointwise_chain: y = list(x), element by element (lib/epilogue.cuh); without P_STORE only its masks
//              pointwise_scale: y = x * factor; a factor of 1 casts
//              pointwise_normalise: y = (x - mean) / std by channel, in exactly these two roundings
//              pointwise_copy: y = x, byte by byte
//   shapes     pointwise_chain: x, y : [PIXELS, C] in X and Y;  pointwise_scale: x, y : [ELEMS] in X and Y
//              pointwise_normalise: x, y : [ELEMS] in X and Y, table : mean [CHANNELS], std [CHANNELS]
//              pointwise_copy: x, y : [BYTES]
//   launch     pointwise_chain: one thread for eight channels of a pixel: grid (ceil(PIXELS * ceil(C / 8) / 256)), block 256
//              the others: one thread for eight elements or sixteen bytes, the last takes what is left
//   constants  P_C > 0 channels, P_X and P_Y storage (0 f32, 1 bf16, 2 fp16), P_HALF storage of 16-bit operands,
//              P_EPI and P_CAP as in lib/epilogue.cuh, P_STORE 0 or 1;  P_X and P_Y alone matter to the others
//   limits     y may be x: each element is read before it is written, by the thread that writes it
//   order      no reductions
//   source     none
//   twins      src/gpu/pointwise.rs  src/cpu/pointwise.rs  tests/kernels/pointwise.rs  benches/ops/pointwise.rs
#include "lib/epilogue.cuh"

constexpr int C = P_C, STORE = P_STORE, THREADS = 256;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
typedef Stored<P_HALF>::type Half;
static_assert(C > 0, "pointwise: no channels");
static_assert(STORE == 0 || STORE == 1, "pointwise: store is a flag");

extern "C" __global__ __launch_bounds__(THREADS)
void pointwise_chain(const X* x, Y* y, EPI_PARAMS, i64 pixels) {
    constexpr int VECTORS = (C + VEC - 1) / VEC;
    const i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 pixel = at / VECTORS;
    const int c0 = (int)(at % VECTORS) * VEC;
    if (pixel >= pixels) return;
    float v[VEC];
    load_row<C>(x + pixel * C, c0, v);
    const Epilogue<P_EPI, C, Half, P_CAP> epilogue = EPI_OPERANDS;
    epilogue.apply(v, pixel, c0);
    if (STORE) store_row<C>(y + pixel * C, c0, v);
}

// y = f(x) for the eight elements of this thread, one after the other.
template <class F> DEV void each(const X* x, Y* y, i64 elems, F f) {
    const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VEC;
    if (at + VEC <= elems) {
        float v[VEC];
        load8(x + at, v);
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = f(v[i]);
        store8(y + at, v);
    } else {
        for (i64 k = at; k < elems; k++) y[k] = narrow<Y>(f(widen(x[k])));
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void pointwise_scale(const X* x, Y* y, i64 elems, float factor) {
    each(x, y, elems, [=](float v) { return v * factor; });
}

extern "C" __global__ __launch_bounds__(THREADS)
void pointwise_normalise(const X* x, Y* y, const float* table, i64 elems, int channels) {
    const u32 thread = blockIdx.x * THREADS + threadIdx.x;
    each(x, y, elems, [=, c = (int)(thread % channels * VEC % channels)](float v) mutable {
        const float out = (v - table[c]) / table[channels + c];
        c = c + 1 == channels ? 0 : c + 1;
        return out;
    });
}

extern "C" __global__ __launch_bounds__(THREADS)
void pointwise_copy(const u8* x, u8* y, i64 bytes) {
    const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * 16;
    if (at + 16 <= bytes && ((u64)x | (u64)y) % 16 == 0) {
        *(uint4*)(y + at) = *(const uint4*)(x + at);
    } else {
        for (i64 k = at; k < bytes && k < at + 16; k++) y[k] = x[k];
    }
}
