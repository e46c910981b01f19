// group.cuh: V neighbouring channels at a time: eight in 16-byte accesses, or one where rows are not whole vectors.
#pragma once
#include "lib/vec.cuh"

template <int V, class T> DEV void load_group(const T* p, float (&v)[V]) {
    static_assert(V == VEC || V == 1, "a group is a vector or one channel");
    if constexpr (V == VEC) {
        load8(p, v);
    } else {
        v[0] = widen(*p);
    }
}
template <int V, class T> DEV void store_group(T* p, const float (&v)[V]) {
    static_assert(V == VEC || V == 1, "a group is a vector or one channel");
    if constexpr (V == VEC) {
        store8(p, v);
    } else {
        *p = narrow<T>(v[0]);
    }
}

// One byte a channel.
template <int V> DEV void load_bytes(const u8* p, int (&v)[V]) {
    if constexpr (V == VEC) {
        const uint2 raw = *(const uint2*)p;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = (int)(raw.x >> (8 * i) & 255), v[i + 4] = (int)(raw.y >> (8 * i) & 255);
    } else {
        v[0] = *p;
    }
}
template <int V> DEV void store_bytes(u8* p, const int (&v)[V]) {
    if constexpr (V == VEC) {
        uint2 raw = {0, 0};
#pragma unroll
        for (int i = 0; i < 4; i++) raw.x |= (u32)v[i] << (8 * i), raw.y |= (u32)v[i + 4] << (8 * i);
        *(uint2*)p = raw;
    } else {
        *p = (u8)v[0];
    }
}

// A thread's share of a feature map. A block is `columns` groups wide, so that neighbours read neighbouring bytes even
// where channels are few, and as many lanes deep as fit; each lane takes every lanes-th of the block's pixels.
struct Tile {
    int lane, lanes, c0;
    i64 first, end;

    // Whether the thread has channels at all; one that has none also has no pixels.
    DEV bool active(int c) const { return lane < lanes && c0 < c; }
};
// Block x takes pixels first .. end-1, block y its channels.
template <int THREADS, int V> DEV Tile tile_of(i64 first, i64 end, int c, int columns) {
    const int tid = threadIdx.x;
    Tile t;
    t.lanes = THREADS / columns;
    t.lane = tid / columns;
    t.c0 = ((int)blockIdx.y * columns + tid % columns) * V;
    t.first = first + t.lane;
    t.end = t.active(c) ? end : t.first;
    return t;
}
