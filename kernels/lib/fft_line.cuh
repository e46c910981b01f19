// fft_line.cuh: transforms of lines of complex numbers where they lie: forwards from natural to digit-reversed order, and
// backwards from there, so that nothing is ever permuted. Stage by stage, each for all lines at once, a barrier between them.
#pragma once
#include "lib/num.cuh"

struct Complex { float re, im; };
DEV Complex operator+(Complex a, Complex b) { return Complex{a.re + b.re, a.im + b.im}; }
DEV Complex operator-(Complex a, Complex b) { return Complex{a.re - b.re, a.im - b.im}; }
DEV Complex operator*(float s, Complex a) { return Complex{s * a.re, s * a.im}; }
DEV Complex times(Complex a, Complex b) {
    return Complex{fmaf(a.re, b.re, -(a.im * b.im)), fmaf(a.re, b.im, a.im * b.re)};
}
DEV Complex conj(Complex a) { return Complex{a.re, -a.im}; }
// By -i forwards, by i backwards.
template <bool BACK> DEV Complex quarter(Complex a) { return BACK ? Complex{-a.im, a.re} : Complex{a.im, -a.re}; }

// The radix of the first stage of n values: 8 as long as that leaves no lone 2, then what there is.
DEV constexpr int radix_of(int n) {
    return n == 1 ? 1 : n % 7 == 0 ? 7 : n % 5 == 0 ? 5 : n % 3 == 0 ? 3 : n == 16 ? 4 : n % 8 == 0 ? 8 : n % 4 == 0 ? 4 : 2;
}
DEV constexpr bool smooth(int n) {
    return n == 1 || (n % 2 == 0 ? smooth(n / 2) : n % 3 == 0 ? smooth(n / 3) : n % 5 == 0 ? smooth(n / 5) : n % 7 == 0 && smooth(n / 7));
}

// Cosines and sines of the turns of 3, 5 and 7, rounded once: index R, then the multiple up to (R - 1) / 2.
template <int R> struct Turn;
template <> struct Turn<3> {
    DEV static float cos(int) { return -0.5f; }
    DEV static float sin(int) { return 0.866025403784438647f; }
};
template <> struct Turn<5> {
    DEV static float cos(int k) { return k == 1 ? 0.309016994374947424f : -0.809016994374947424f; }
    DEV static float sin(int k) { return k == 1 ? 0.951056516295153572f : 0.587785252292473129f; }
};
template <> struct Turn<7> {
    DEV static float cos(int k) { return k == 1 ? 0.623489801858733530f : k == 2 ? -0.222520933956314404f : -0.900968867902419126f; }
    DEV static float sin(int k) { return k == 1 ? 0.781831482468029809f : k == 2 ? 0.974927912181823607f : 0.433883739117558120f; }
};

// z[k] = sum over j of z[j] e^(-+ 2 pi i j k / R), in registers; R is 3, 5 or 7.
template <int R, bool BACK> struct Dft {
    DEV static void run(Complex (&z)[R]) {
        constexpr int HALF = (R - 1) / 2;
        Complex sum[HALF], apart[HALF], first = z[0];
#pragma unroll
        for (int j = 0; j < HALF; j++) sum[j] = z[j + 1] + z[R - 1 - j], apart[j] = z[j + 1] - z[R - 1 - j], first = first + sum[j];
#pragma unroll
        for (int k = 1; k <= HALF; k++) {
            Complex even = z[0], odd = Complex{0.0f, 0.0f};
#pragma unroll
            for (int j = 0; j < HALF; j++) {
                const int at = (j + 1) * k % R, near = at <= HALF ? at : R - at;
                const float c = Turn<R>::cos(near), s = at <= HALF ? Turn<R>::sin(near) : -Turn<R>::sin(near);
                even = Complex{fmaf(c, sum[j].re, even.re), fmaf(c, sum[j].im, even.im)};
                odd = Complex{fmaf(s, apart[j].re, odd.re), fmaf(s, apart[j].im, odd.im)};
            }
            // Slots that later k still read are not among these: z[0] alone is, and it is written last.
            const Complex turned = quarter<BACK>(odd);
            z[k] = even + turned, z[R - k] = even - turned;
        }
        z[0] = first;
    }
};
template <bool BACK> struct Dft<2, BACK> {
    DEV static void run(Complex (&z)[2]) {
        const Complex a = z[0];
        z[0] = a + z[1], z[1] = a - z[1];
    }
};
template <bool BACK> struct Dft<4, BACK> {
    DEV static void run(Complex (&z)[4]) {
        const Complex a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = quarter<BACK>(z[1] - z[3]);
        z[0] = a + c, z[1] = b + d, z[2] = a - c, z[3] = b - d;
    }
};
template <bool BACK> struct Dft<8, BACK> {
    DEV static void run(Complex (&z)[8]) {
        Complex even[4] = {z[0], z[2], z[4], z[6]}, odd[4] = {z[1], z[3], z[5], z[7]};
        Dft<4, BACK>::run(even);
        Dft<4, BACK>::run(odd);
        const float r = 0.707106781186547524f;
        const Complex q1 = quarter<BACK>(odd[1]), q3 = quarter<BACK>(odd[3]);
        odd[1] = r * (odd[1] + q1), odd[2] = quarter<BACK>(odd[2]), odd[3] = r * (q3 - odd[3]);
#pragma unroll
        for (int k = 0; k < 4; k++) z[k] = even[k] + odd[k], z[k + 4] = even[k] - odd[k];
    }
};

// One stage: blocks of L = R * M values out of N. `lines` of them, value e of line l at `at(l, e)`; neighbouring threads take
// neighbouring lines. Forwards the turns follow the butterfly, backwards they come before it. Ends with a barrier.
template <int THREADS, int N, int R, int M, bool BACK, class At>
DEV void stage(Complex* z, const Complex* turns, int lines, At at) {
    constexpr int STEP = N / (R * M);
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < lines * (N / R); i += THREADS) {
        const int line = i % lines, b = i / lines, j = b % M, first = b / M * (R * M) + j;
        Complex v[R];
#pragma unroll
        for (int q = 0; q < R; q++) v[q] = z[at(line, first + q * M)];
        if (BACK) {
#pragma unroll
            for (int q = 1; q < R; q++) v[q] = M > 1 ? times(v[q], conj(turns[j * q * STEP])) : v[q];
        }
        Dft<R, BACK>::run(v);
        if (!BACK) {
#pragma unroll
            for (int q = 1; q < R; q++) v[q] = M > 1 ? times(v[q], turns[j * q * STEP]) : v[q];
        }
#pragma unroll
        for (int q = 0; q < R; q++) z[at(line, first + q * M)] = v[q];
    }
    __syncthreads();
}

// All stages of lines of N values: LEFT is what a block still holds. The whole block calls it.
template <int THREADS, int N, int LEFT, bool BACK, class At>
DEV void line_fft(Complex* z, const Complex* turns, int lines, At at) {
    constexpr int R = radix_of(LEFT), M = LEFT / (R > 1 ? R : 1);
    if constexpr (LEFT > 1) {
        if constexpr (!BACK) stage<THREADS, N, R, M, BACK>(z, turns, lines, at);
        line_fft<THREADS, N, M, BACK>(z, turns, lines, at);
        if constexpr (BACK) stage<THREADS, N, R, M, BACK>(z, turns, lines, at);
    }
}
