// augment.cu: batches of training images from a resident set of bytes: crops of padded images, half of them mirrored.
//
//   computes   augment_crop_flip: y[n][h][w] = set[image[n]][h + top[n] - PAD][w' + left[n] - PAD] / 255, 0 outside of the image;
//              w' = W - 1 - w where the image is mirrored, else w
//   shapes     set : [IMAGES] of [H, W, C] or, PLANAR, [C, H, W] bytes;  image, top, left, mirrored : [N] i32;  y : [N, H, W, C] f32
//   launch     augment_crop_flip: PARTS blocks an image, a thread an element: grid (N * PARTS), block 256
//   constants  P_C > 0 channels, P_PLANAR 0 or 1
//   limits     0 <= top, left <= 2 * PAD;  image < IMAGES
//   order      no reductions
//   source     none
//   twins      src/gpu/augment.rs  src/train/augment.rs  tests/kernels/augment.rs
#include "lib/num.cuh"

constexpr int C = P_C, THREADS = 256;
constexpr bool PLANAR = P_PLANAR != 0;
static_assert(C > 0, "augment: no channels");

extern "C" __global__ __launch_bounds__(THREADS)
void augment_crop_flip(const u8* __restrict__ set, const int* __restrict__ image, const int* __restrict__ top,
                       const int* __restrict__ left, const int* __restrict__ mirrored, float* __restrict__ y, int height, int width,
                       int pad, int parts) {
    const int n = (int)blockIdx.x / parts, part = (int)blockIdx.x % parts;
    const int pixels = height * width, i = part * THREADS + (int)threadIdx.x;
    if (i >= pixels * C) return;
    const int pixel = i / C, c = i % C, h = pixel / width, w = pixel % width;
    const int from_h = h + top[n] - pad, from_w = (mirrored[n] ? width - 1 - w : w) + left[n] - pad;
    const bool inside = from_h >= 0 && from_h < height && from_w >= 0 && from_w < width;
    const int at = from_h * width + from_w;
    const u8* from = set + (i64)image[n] * pixels * C;
    y[(i64)n * pixels * C + i] = inside ? (float)from[PLANAR ? c * pixels + at : at * C + c] / 255.0f : 0.0f;
}
