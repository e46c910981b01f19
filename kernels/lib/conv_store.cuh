// conv_store.cuh: how a tile of result pixels by channels leaves the tensor cores: fused operations, then 16-byte stores.
#pragma once
#include "lib/epilogue.cuh"
#include "lib/taps.cuh"

// Row 0 of the tile is pixel `m0` of a phase, column 0 is channel `n0` of K.
template <int K, class Tile, class Epi, class Y>
DEV void store_pixels(const Tile& tile, const Epi& epilogue, Y* y, const Geometry& g, const Phase& phase, int n, int m0, int n0) {
    const bool dense = !g.grad || (g.sh == 1 && g.sw == 1); // one phase: pixels are stored in their order
    tile.each_octet([&](int row, int col, float (&v)[VEC]) {
        const int at = m0 + row;
        const i64 pixel = !dense ? pixel_of(g, phase, n, at).result : at < n * g.p * g.q ? at : -1;
        const int k = n0 + col;
        if (pixel < 0 || k >= K) return;
        epilogue.apply(v, pixel, k);
        store_row<K>(y + pixel * K, k, v);
    });
}
