// The CUDA language for a host compiler: keywords, indices, vector types, barriers, shuffles, votes and atomics.
// Comes before the kernel's text; every kernel includes it, so it includes no header of the C or C++ library.
#pragma once
#include "runtime.hpp"
#include "math.hpp"

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__
// One block of a module runs at a time, so what a block shares may be the module's own memory. It is all that a module
// has in .bss: the runtime finds it there.
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(condition) assert(condition)
#define assert(condition) ((condition) ? (void)0 : emu_fail("assertion failed at line %d: %s", __LINE__, #condition))

// Dynamic shared memory. Kernels name it through DYNAMIC_SMEM.
static unsigned char smem[emu::SHARED_CAP] __align__(1024) __attribute__((used));

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define threadIdx (emu_cur->tid)
#define blockIdx (emu_cur->block->index)
#define blockDim (emu_cur->block->threads)
#define gridDim (emu_cur->block->grid)
#define warpSize 32

// ---- vector types, aligned as CUDA does

#define EMU_VECTORS(T, name, align2, align4)                                                                               \
    struct __align__(align2) name##2 { T x, y; };                                                                          \
    struct name##3 { T x, y, z; };                                                                                         \
    struct __align__(align4) name##4 { T x, y, z, w; };                                                                    \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                      \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(unsigned char, uchar, 2, 4)
#undef EMU_VECTORS
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(16) double2 { double x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- barriers and fences

static inline void __syncthreads() { emu_syncthreads(); }
static inline int __syncthreads_count(int p) { return emu_syncthreads_count(p); }
static inline int __syncthreads_and(int p) { return emu_syncthreads_count(!p) == 0; }
static inline int __syncthreads_or(int p) { return emu_syncthreads_count(p) != 0; }
static inline void __syncwarp(unsigned mask = ~0u) { emu_syncwarp(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) { emu_yield(); }
static inline void __trap() { emu_fail("__trap()"); }

// ---- shuffles and votes

#define EMU_SHUFFLE(name, kind, from)                                                                                      \
    template <class T> static inline T name(unsigned mask, T value, from lane, int width = 32) {                           \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");                                     \
        unsigned long long bits = 0;                                                                                       \
        __builtin_memcpy(&bits, &value, sizeof(T));                                                                        \
        bits = emu_shuffle(mask, kind, bits, (int)lane, width);                                                            \
        __builtin_memcpy(&value, &bits, sizeof(T));                                                                        \
        return value;                                                                                                      \
    }
EMU_SHUFFLE(__shfl_sync, emu::FROM_LANE, int)
EMU_SHUFFLE(__shfl_up_sync, emu::FROM_BELOW, unsigned)
EMU_SHUFFLE(__shfl_down_sync, emu::FROM_ABOVE, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, emu::FROM_XOR, int)
#undef EMU_SHUFFLE
static inline unsigned __ballot_sync(unsigned mask, int p) { return emu_vote(mask, emu::BALLOT, p != 0); }
static inline int __any_sync(unsigned mask, int p) { return emu_vote(mask, emu::BALLOT, p != 0) != 0; }
static inline int __all_sync(unsigned mask, int p) { return emu_vote(mask, emu::BALLOT, p == 0) == 0; }
static inline unsigned __reduce_add_sync(unsigned mask, unsigned v) { return emu_vote(mask, emu::ADD, v); }
static inline unsigned __reduce_min_sync(unsigned mask, unsigned v) { return emu_vote(mask, emu::MIN_U, v); }
static inline unsigned __reduce_max_sync(unsigned mask, unsigned v) { return emu_vote(mask, emu::MAX_U, v); }
static inline int __reduce_add_sync(unsigned mask, int v) { return (int)emu_vote(mask, emu::ADD, (unsigned)v); }
static inline int __reduce_min_sync(unsigned mask, int v) { return (int)emu_vote(mask, emu::MIN_S, (unsigned)v); }
static inline int __reduce_max_sync(unsigned mask, int v) { return (int)emu_vote(mask, emu::MAX_S, (unsigned)v); }
static inline unsigned __reduce_and_sync(unsigned mask, unsigned v) { return emu_vote(mask, emu::ALL_BITS, v); }
static inline unsigned __reduce_or_sync(unsigned mask, unsigned v) { return emu_vote(mask, emu::ANY_BITS, v); }

// ---- atomics: out of line, so that the runtime sees them; blocks run one after another, so they need no lock

static inline float atomicAdd(float* p, float v) { return emu_atomic_f32(p, v); }
static inline double atomicAdd(double* p, double v) { return emu_atomic_f64(p, v); }
static inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
    return emu_atomic_u64(p, emu::ADD, v, 0);
}
static inline unsigned long long atomicCAS(unsigned long long* p, unsigned long long old, unsigned long long v) {
    return emu_atomic_u64(p, emu::SWAP_IF, v, old);
}
#define EMU_ATOMIC(name, T, op)                                                                                            \
    static inline T name(T* p, T v) { return (T)emu_atomic_u32((unsigned*)p, op, (unsigned)v, 0); }
EMU_ATOMIC(atomicAdd, int, emu::ADD)
EMU_ATOMIC(atomicAdd, unsigned, emu::ADD)
EMU_ATOMIC(atomicMin, int, emu::MIN_S)
EMU_ATOMIC(atomicMin, unsigned, emu::MIN_U)
EMU_ATOMIC(atomicMax, int, emu::MAX_S)
EMU_ATOMIC(atomicMax, unsigned, emu::MAX_U)
EMU_ATOMIC(atomicOr, int, emu::ANY_BITS)
EMU_ATOMIC(atomicOr, unsigned, emu::ANY_BITS)
EMU_ATOMIC(atomicAnd, int, emu::ALL_BITS)
EMU_ATOMIC(atomicAnd, unsigned, emu::ALL_BITS)
EMU_ATOMIC(atomicXor, unsigned, emu::ODD_BITS)
EMU_ATOMIC(atomicExch, int, emu::SWAP)
EMU_ATOMIC(atomicExch, unsigned, emu::SWAP)
#undef EMU_ATOMIC
static inline unsigned atomicCAS(unsigned* p, unsigned old, unsigned v) { return emu_atomic_u32(p, emu::SWAP_IF, v, old); }
static inline int atomicCAS(int* p, int old, int v) {
    return (int)emu_atomic_u32((unsigned*)p, emu::SWAP_IF, (unsigned)v, (unsigned)old);
}

// ---- loads and stores with a hint for the caches

template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldca(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline void __stcg(T* p, T v) { *p = v; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }

// ---- what the generated unit around a kernel says

// The arguments lie in memory of the host, which kernels may not touch.
#define EMU_UNSEEN __attribute__((no_sanitize("thread", "alignment")))
namespace emu {
template <class T> struct Plain { typedef T type; };
template <class T> struct Plain<const T> { typedef T type; };
template <class T> struct Plain<T&> : Plain<T> {};
// Unpacks the arguments from an array of pointers to them, as cuLaunchKernel takes them.
template <class... A> struct Unpack {
    template <int... I> struct Indices {};
    template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
    template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };
    template <int... I> EMU_UNSEEN static void call(void (*kernel)(A...), void** args, Indices<I...>) {
        kernel(*(typename Plain<A>::type*)args[I]...);
    }
    EMU_UNSEEN static void call(void (*kernel)(A...), void** args) {
        call(kernel, args, typename Count<sizeof...(A)>::type());
    }
};
template <class... A> Unpack<A...> unpack(void (*)(A...)) { return {}; }
template <auto K> EMU_UNSEEN void invoke(void** args) { decltype(unpack(K))::call(K, args); }
}
extern "C" __attribute__((visibility("hidden"))) unsigned char __ehdr_start[], __bss_start[], _end[];
#define EMU_EXPORT(entry, kernel)                                                                                          \
    extern "C" __attribute__((visibility("default"))) int emu_run_##entry(emu::Launch* launch) {                           \
        return emu_run(launch, {emu::invoke<kernel>, __ehdr_start, __bss_start, _end, smem});                              \
    }
