// dropout.cu: which elements stay, and dropping the others.
//
//   computes   dropout_mask: the bit of element i of an image is set where its uniform number is at least p
//   shapes     index : [N] i32, numbers of the images;  step : [1] i32;  mask : [N, PIXELS, C] bits
//   launch     dropout_mask: PARTS blocks an image, a thread for sixteen channels: grid (N * PARTS), block 256
//   constants  P_C > 0 channels;  P_X and P_Y as below, unused
//   limits     0 <= p < 1;  PIXELS * C < 2^31
//   order      no reductions
//   source     Philox: Salmon et al., SC 2011
//   twins      src/gpu/dropout.rs  src/cpu/dropout.rs  tests/kernels/dropout.rs
//
//   computes   dropout_apply: y = x / keep where the bit is set, else 0
//   shapes     x, y : [PIXELS, C] in X and Y;  mask : [PIXELS, C] bits
//   launch     dropout_apply: a thread for eight channels of a pixel: grid (ceil(PIXELS * ceil(C / 8) / 256)), block 256
//   constants  P_C > 0 channels;  P_X and P_Y storage (0 f32, 1 bf16, 2 fp16)
//   limits     a dropped NaN is 0
//   order      no reductions
//   source     none
//   twins      src/gpu/dropout.rs  src/cpu/dropout.rs  tests/kernels/dropout.rs
#include "lib/rng.cuh"
#include "lib/vec.cuh"

constexpr int C = P_C, THREADS = 256;
typedef Stored<P_X>::type X;
typedef Stored<P_Y>::type Y;
static_assert(C > 0, "dropout: no channels");

extern "C" __global__ __launch_bounds__(THREADS)
void dropout_mask(const int* index, const int* step, u16* mask, float p, i64 seed, int site, int pixels, int parts) {
    constexpr int WORDS = MASK_BYTES<C> / 2;
    const int image = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int word = part * THREADS + (int)threadIdx.x, channel = word % WORDS * 16;
    if (word >= pixels * WORDS) return;
    const Stream stream(seed, index[image], step[0], DRAW_DROPOUT, site);
    const int count = C - channel < 16 ? C - channel : 16;
    const u32 first = (u32)(word / WORDS) * C + channel, last = first + count - 1;
    u32 bits = 0;
    for (u32 block = first / 4; block <= last / 4; block++) {
        u32 w[4];
        stream.block(block, w);
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            const u32 at = 4 * block + k - first;   // beyond 16 where it lies before `first`
            bits |= at < (u32)count && unit(w[k]) >= p ? 1u << at : 0;
        }
    }
    mask[(i64)image * pixels * WORDS + word] = (u16)bits;
}

extern "C" __global__ __launch_bounds__(THREADS)
void dropout_apply(const X* x, const u8* mask, Y* y, float keep, i64 pixels) {
    constexpr int VECTORS = (C + VEC - 1) / VEC;
    const i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 pixel = at / VECTORS;
    const int c0 = (int)(at % VECTORS) * VEC;
    if (pixel >= pixels) return;
    float v[VEC];
    load_row<C>(x + pixel * C, c0, v);
    const u32 bits = load_bits<C>(mask, pixel, c0);
#pragma unroll
    for (int i = 0; i < VEC; i++) v[i] = bits >> i & 1 ? v[i] / keep : 0.0f;
    store_row<C>(y + pixel * C, c0, v);
}
