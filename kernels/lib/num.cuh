// num.cuh: integer names, the 16-bit floats as their bits, and conversions; clamps with a stated stance on NaN.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#define DEV __device__ __forceinline__
#include "lib/ptx.cuh"

struct __align__(2) bf16 { u16 bits; };
struct __align__(2) f16 { u16 bits; };

// Storage types by the numbers that constants carry: 0 f32, 1 bf16, 2 fp16.
template <int CODE> struct Stored;
template <> struct Stored<0> { typedef float type; };
template <> struct Stored<1> { typedef bf16 type; };
template <> struct Stored<2> { typedef f16 type; };

DEV float widen(float v) { return v; }
DEV float widen(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
DEV float widen(f16 v) { return f16_to_f32(v.bits); }

// Rounds to nearest, ties to even; NaN stays NaN.
template <class T> DEV T narrow(float v);
template <> DEV float narrow<float>(float v) { return v; }
template <> DEV bf16 narrow<bf16>(float v) { return bf16{f32_to_bf16(v)}; }
template <> DEV f16 narrow<f16>(float v) { return f16{f32_to_f16(v)}; }

// A float constant, which arrives as its bits.
DEV constexpr u32 bits_of(i64 constant) { return (u32)constant; }
DEV float float_of(i64 constant) { return __uint_as_float((u32)constant); }

DEV bool is_nan(float v) { return v != v; }
// Unlike fminf and fmaxf these keep a NaN in `v`.
DEV float max_keep_nan(float v, float low) { return v < low ? low : v; }
DEV float min_keep_nan(float v, float high) { return v > high ? high : v; }
DEV float clamp_keep_nan(float v, float low, float high) { return min_keep_nan(max_keep_nan(v, low), high); }
