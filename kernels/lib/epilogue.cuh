// epilogue.cuh: what happens to a result before it is stored: element-wise operations in the order of a list.
// The list is a constant, four bits an operation, the first in the lowest; operand i belongs to operation i.
#pragma once
#include "lib/vec.cuh"

enum : int { EPI_END, EPI_SCALE, EPI_BIAS, EPI_ADD, EPI_ADD_HALF, EPI_RELU, EPI_RELU_CAP, EPI_MASK, EPI_MASK_CAP, EPI_GATE };
constexpr int EPI_MAX = 8;

#define EPI_PARAMS                                                                                                          \
    const void *e0, const void *e1, const void *e2, const void *e3, const void *e4, const void *e5, const void *e6, const void *e7
#define EPI_OPERANDS {{e0, e1, e2, e3, e4, e5, e6, e7}}

// LIST as above; C channels a pixel; H the 16-bit type of EPI_ADD_HALF; CAP the bits of the bound of EPI_*_CAP.
// Scale and bias hold one f32 a channel; what is added is shaped like the result; masks as in vec.cuh.
template <i64 LIST, int C, class H, i64 CAP> struct Epilogue {
    const void* operand[EPI_MAX];

    // Channels c0 .. c0+7 of a pixel, c0 a multiple of 8. NaN passes ReLUs.
    template <int I = 0> DEV void apply(float (&v)[VEC], i64 pixel, int c0) const {
        constexpr int op = (int)(LIST >> (4 * I) & 15);
        if constexpr (op != EPI_END) {
            const void* p = operand[I];
            [[maybe_unused]] float o[VEC];
            if constexpr (op == EPI_SCALE || op == EPI_BIAS) load_row<C>((const float*)p, c0, o);
            if constexpr (op == EPI_ADD) load_row<C>((const float*)p + pixel * C, c0, o);
            if constexpr (op == EPI_ADD_HALF) load_row<C>((const H*)p + pixel * C, c0, o);
            [[maybe_unused]] u32 bits = 0;
            if constexpr (op == EPI_GATE) bits = load_bits<C>((const u8*)p, pixel, c0);
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                if constexpr (op == EPI_SCALE) v[i] *= o[i];
                if constexpr (op == EPI_BIAS || op == EPI_ADD || op == EPI_ADD_HALF) v[i] += o[i];
                if constexpr (op == EPI_RELU || op == EPI_RELU_CAP) v[i] = max_keep_nan(v[i], 0.0f);
                if constexpr (op == EPI_RELU_CAP) v[i] = min_keep_nan(v[i], float_of(CAP));
                if constexpr (op == EPI_MASK) bits |= (u32)(v[i] > 0.0f && c0 + i < C) << i;
                if constexpr (op == EPI_MASK_CAP) bits |= (u32)(v[i] > 0.0f && v[i] < float_of(CAP) && c0 + i < C) << i;
                if constexpr (op == EPI_GATE) v[i] = bits >> i & 1 ? v[i] : 0.0f;
            }
            if constexpr (op == EPI_MASK || op == EPI_MASK_CAP) store_bits<C>((u8*)p, pixel, c0, bits);
            if constexpr (I + 1 < EPI_MAX) apply<I + 1>(v, pixel, c0);
        }
    }
};
