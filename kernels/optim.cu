// optim.cu: the update of parameters: SGD with momentum and weight decay, moving averages. Many parameters in one launch.
//
//   computes   optim_update: each chunk of the table, by its kind:
//              velocity   v' = momentum * v + (g + decay * w)
//              step       w' = w - lr * v,  Nesterov's w' = w - lr * ((g + decay * w) + momentum * v), v the next velocity
//              sgd        both, v' first
//              average    a' = a + (1 - keep) * (w - a)
//   shapes     table : [CHUNKS] of Chunk;  arena : the bytes that its offsets count from;  all values f32
//   launch     optim_update: one block a chunk: grid (CHUNKS), block 256
//   constants  none
//   limits     offsets of values are multiples of 16 bytes; a result may lie in the place of what it replaces
//   order      no reductions; contraction cannot change a bit: the bits of the CPU
//   source     PyTorch's optim.SGD without dampening
//   twins      src/gpu/optim.rs  src/cpu/optim.rs  tests/kernels/optim.rs
#include "lib/num.cuh"

constexpr int THREADS = 256;

enum : i64 { VELOCITY, STEP, STEP_NESTEROV, SGD, SGD_NESTEROV, AVERAGE };

// Elements that lie side by side; byte offsets into the arena. `hyper`: learning rate, momentum, decay; of an average `keep`.
struct Chunk {
    i64 kind, length, hyper;
    i64 v, g, w;            // of an average: v is the average
    i64 next_v, next_w;     // a kind without one repeats the other
};

// The next velocity (or average) and weight of one element.
template <i64 KIND> DEV void update(float& v, float g, float& w, const float (&hyper)[3]) {
    if constexpr (KIND == AVERAGE) {
        v = __fadd_rn(v, __fmul_rn(hyper[0], __fadd_rn(w, -v)));
        return;
    }
    const float lr = hyper[0], momentum = hyper[1], pull = __fadd_rn(g, __fmul_rn(hyper[2], w));
    if constexpr (KIND == VELOCITY || KIND == SGD || KIND == SGD_NESTEROV) v = __fadd_rn(__fmul_rn(momentum, v), pull);
    if constexpr (KIND == STEP || KIND == SGD) w = __fadd_rn(w, -__fmul_rn(lr, v));
    if constexpr (KIND == STEP_NESTEROV || KIND == SGD_NESTEROV) {
        w = __fadd_rn(w, -__fmul_rn(lr, __fadd_rn(pull, __fmul_rn(momentum, v))));
    }
}

template <i64 KIND> DEV void chunk(char* arena, const Chunk& c, const float (&hyper)[3]) {
    constexpr bool STORES_V = KIND != STEP && KIND != STEP_NESTEROV, STORES_W = KIND != VELOCITY && KIND != AVERAGE;
    constexpr bool READS_G = KIND != STEP && KIND != AVERAGE;
    const int length = (int)c.length;
    const float *v = (const float*)(arena + c.v), *g = (const float*)(arena + c.g), *w = (const float*)(arena + c.w);
    float *next_v = (float*)(arena + c.next_v), *next_w = (float*)(arena + c.next_w);
    for (int i = 4 * (int)threadIdx.x; i < length / 4 * 4; i += 4 * THREADS) {
        float4 a = *(const float4*)(v + i), b = make_float4(0.0f, 0.0f, 0.0f, 0.0f), c = *(const float4*)(w + i);
        if (READS_G) b = *(const float4*)(g + i);
        update<KIND>(a.x, b.x, c.x, hyper), update<KIND>(a.y, b.y, c.y, hyper);
        update<KIND>(a.z, b.z, c.z, hyper), update<KIND>(a.w, b.w, c.w, hyper);
        if (STORES_V) *(float4*)(next_v + i) = a;
        if (STORES_W) *(float4*)(next_w + i) = c;
    }
    const int i = length / 4 * 4 + (int)threadIdx.x;
    if (i < length) {
        float a = v[i], b = w[i];
        update<KIND>(a, READS_G ? g[i] : 0.0f, b, hyper);
        if (STORES_V) next_v[i] = a;
        if (STORES_W) next_w[i] = b;
    }
}

extern "C" __global__ __launch_bounds__(THREADS)
void optim_update(char* arena, const Chunk* table) {
    const Chunk c = table[blockIdx.x];
    const float* given = (const float*)(arena + c.hyper);
    float hyper[3] = {given[0], 0.0f, 0.0f};
    if (c.kind == AVERAGE) {
        hyper[0] = (float)(1.0 - (double)given[0]);
    } else {
        hyper[1] = given[1], hyper[2] = given[2];
    }
    switch (c.kind) {
        case VELOCITY: return chunk<VELOCITY>(arena, c, hyper);
        case STEP: return chunk<STEP>(arena, c, hyper);
        case STEP_NESTEROV: return chunk<STEP_NESTEROV>(arena, c, hyper);
        case SGD: return chunk<SGD>(arena, c, hyper);
        case SGD_NESTEROV: return chunk<SGD_NESTEROV>(arena, c, hyper);
        case AVERAGE: return chunk<AVERAGE>(arena, c, hyper);
    }
}
