// vec.cuh: eight values at a time: 16-byte accesses where every row is a whole number of vectors, guarded ones elsewhere.
#pragma once
#include "lib/num.cuh"

constexpr int VEC = 8;

// Whether rows of C elements let every vector be loaded and stored whole.
template <int C> constexpr bool WHOLE = C % VEC == 0;

DEV void load8(const float* p, float (&v)[VEC]) {
    const float4 a = ((const float4*)p)[0], b = ((const float4*)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
template <class H> DEV void load8(const H* p, float (&v)[VEC]) {
    const uint4 raw = *(const uint4*)p;
    const u32 word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = widen(H{(u16)(word[i] & 0xffff)});
        v[2 * i + 1] = widen(H{(u16)(word[i] >> 16)});
    }
}
DEV void store8(float* p, const float (&v)[VEC]) {
    ((float4*)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
template <class H> DEV void store8(H* p, const float (&v)[VEC]) {
    u32 word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) word[i] = (u32)narrow<H>(v[2 * i]).bits | (u32)narrow<H>(v[2 * i + 1]).bits << 16;
    *(uint4*)p = make_uint4(word[0], word[1], word[2], word[3]);
}

// Elements c0 .. c0+7 of a row of C at `row`; what lies beyond the row reads as 0 and is not written.
template <int C, class T> DEV void load_row(const T* row, int c0, float (&v)[VEC]) {
    if constexpr (WHOLE<C>) {
        load8(row + c0, v);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = c0 + i < C ? widen(row[c0 + i]) : 0.0f;
    }
}
template <int C, class T> DEV void store_row(T* row, int c0, const float (&v)[VEC]) {
    if constexpr (WHOLE<C>) {
        store8(row + c0, v);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            if (c0 + i < C) row[c0 + i] = narrow<T>(v[i]);
        }
    }
}

// Masks hold one bit an element, each pixel padded to whole 16-bit words.
template <int C> constexpr int MASK_BYTES = (C + 15) / 16 * 2;

// The bits of channels c0 .. c0+7; c0 is a multiple of 8.
template <int C> DEV u32 load_bits(const u8* mask, i64 pixel, int c0) { return mask[pixel * MASK_BYTES<C> + c0 / 8]; }
// Writes them; the last vector of a pixel also clears what is left of its word.
template <int C> DEV void store_bits(u8* mask, i64 pixel, int c0, u32 bits) {
    u8* p = mask + pixel * MASK_BYTES<C> + c0 / 8;
    *p = (u8)bits;
    if (c0 + VEC >= C && c0 / 8 % 2 == 0) p[1] = 0;
}
