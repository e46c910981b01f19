// block.cuh: how a block brings f32 tiles into shared memory: one value or four at a time, zeros where there is nothing.
#pragma once
#include "lib/num.cuh"

DEV void load4(const float* p, float (&v)[4]) {
    const float4 a = *(const float4*)p;
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
}
template <class H> DEV void load4(const H* p, float (&v)[4]) {
    const uint2 raw = *(const uint2*)p;
    v[0] = widen(H{(u16)(raw.x & 0xffff)}), v[1] = widen(H{(u16)(raw.x >> 16)});
    v[2] = widen(H{(u16)(raw.y & 0xffff)}), v[3] = widen(H{(u16)(raw.y >> 16)});
}

// Global memory -> registers; p is not read where there is nothing.
template <class T> DEV void fetch(float (&v)[4], const T* p, bool some) {
    if (some) load4(p, v);
    else v[0] = v[1] = v[2] = v[3] = 0.0f;
}
template <class T> DEV void fetch(float (&v)[1], const T* p, bool some) { v[0] = some ? widen(*p) : 0.0f; }

// Registers -> shared memory.
DEV void put(float* p, const float (&v)[4]) { *(float4*)p = make_float4(v[0], v[1], v[2], v[3]); }
DEV void put(float* p, const float (&v)[1]) { *p = v[0]; }
