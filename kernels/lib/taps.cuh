// taps.cuh: which source pixel meets which kernel tap: forward convolutions and input gradients in one form.
//
//   y[n, i * STEP + origin, :] = sum over taps t of x[n, i * BASE + t.dy, j * BASE + t.dx, :] . w[t.weight]
//
// forward:  BASE = stride, STEP = 1, one phase, dy = r * dilation - pad.
// gradient: BASE = 1, STEP = stride, a phase for each (oy, ox) below the stride, with the taps r for which
//           oy + pad - r * dilation is a multiple of the stride, dy = that / stride. A phase may have no taps.
// Sources outside of the image are zeros. Numbers of pixels are below 2^31; element offsets need 64 bits.
#pragma once
#include "lib/num.cuh"

// Built from constants or from arguments: everything here is inlined. src/gpu/conv.rs lists the fields in this order.
struct Geometry {
    int h, w;   // source
    int p, q;   // result
    int r, s;   // kernel
    int sh, sw; // stride
    int ph, pw; // padding
    int dh, dw; // dilation
    int grad;   // 0 forward, 1 input gradient (the source is then dY)
};
#define GEOMETRY_PARAMS int gh, int gw, int gp, int gq, int gr, int gs, int gsh, int gsw, int gph, int gpw, int gdh, int gdw, int grad
#define GEOMETRY_VALUE {gh, gw, gp, gq, gr, gs, gsh, gsw, gph, gpw, gdh, gdw, grad}

// One tap: where its source lies from a pixel's base, and which row of the packed weights it meets (r * S + s).
struct __align__(16) Tap { int dy, dx, weight, unused; };

// The result pixels oy + i * STEP, ox + j * STEP: `rows` by `cols` of them in an image.
struct Phase { int oy, ox, rows, cols; };

// One result pixel: first pixel of its source image, its base there, and its index in the result, -1 beyond the last.
struct __align__(16) Pixel { int image, y, x, result; };

DEV Phase phase_of(const Geometry& g, int index) {
    if (!g.grad) return Phase{0, 0, g.p, g.q};
    const int oy = index / g.sw, ox = index % g.sw;
    return Phase{oy, ox, (g.p - oy + g.sh - 1) / g.sh, (g.q - ox + g.sw - 1) / g.sw};
}

// Number `at` of the n * rows * cols pixels of a phase.
DEV Pixel pixel_of(const Geometry& g, const Phase& phase, int n, int at) {
    const int area = phase.rows * phase.cols;
    if (at >= n * area) return Pixel{0, -(1 << 30), 0, -1};
    const int image = at / area, rest = at % area;
    const int i = rest / phase.cols, j = rest % phase.cols;
    const int base_h = g.grad ? 1 : g.sh, base_w = g.grad ? 1 : g.sw;
    const int step_h = g.grad ? g.sh : 1, step_w = g.grad ? g.sw : 1;
    const int result = (image * g.p + i * step_h + phase.oy) * g.q + j * step_w + phase.ox;
    return Pixel{image * g.h * g.w, i * base_h, j * base_w, result};
}

// Index of the source pixel that a tap meets, -1 outside of the image.
DEV int source_of(const Geometry& g, const Pixel& pixel, const Tap& tap) {
    const int y = pixel.y + tap.dy, x = pixel.x + tap.dx;
    const bool inside = (u32)y < (u32)g.h && (u32)x < (u32)g.w;
    return inside ? pixel.image + y * g.w + x : -1;
}

// Whether kernel row or column k belongs to a phase that starts at `origin`.
DEV bool meets(int grad, int origin, int k, int stride, int pad, int dilation) {
    return !grad || (origin + pad - k * dilation) % stride == 0;
}

// The taps of a phase in row-major order, by the whole block; returns their number. Ends without a barrier.
DEV int build_taps(const Geometry& g, const Phase& phase, Tap* list) {
    int height = 0, width = 0;
    for (int r = 0; r < g.r; r++) height += meets(g.grad, phase.oy, r, g.sh, g.ph, g.dh);
    for (int s = 0; s < g.s; s++) width += meets(g.grad, phase.ox, s, g.sw, g.pw, g.dw);
    for (int t = threadIdx.x; t < g.r * g.s; t += blockDim.x) {
        const int r = t / g.s, s = t % g.s;
        if (!meets(g.grad, phase.oy, r, g.sh, g.ph, g.dh) || !meets(g.grad, phase.ox, s, g.sw, g.pw, g.dw)) continue;
        int row = 0, col = 0;
        for (int i = 0; i < r; i++) row += meets(g.grad, phase.oy, i, g.sh, g.ph, g.dh);
        for (int i = 0; i < s; i++) col += meets(g.grad, phase.ox, i, g.sw, g.pw, g.dw);
        const int dy = g.grad ? (phase.oy + g.ph - r * g.dh) / g.sh : r * g.dh - g.ph;
        const int dx = g.grad ? (phase.ox + g.pw - s * g.dw) / g.sw : s * g.dw - g.pw;
        list[row * width + col] = Tap{dy, dx, t, 0};
    }
    return height * width;
}
