// Arithmetic of CUDA on the host: conversions, bits, minimum and maximum, the exactly rounded and the approximate forms.
// Declares what it needs of the C library itself: <math.h> alone would triple the time that a kernel takes to compile.
#pragma once

// ---- the same bits as another type

template <class To, class From> static inline To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned v) { return emu_bits<float>(v); }
static inline float __int_as_float(int v) { return emu_bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return emu_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return emu_bits<int>(v); }
static inline double __longlong_as_double(long long v) { return emu_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return emu_bits<long long>(v); }

// ---- the C library

#define EMU_C1(name)                                                                                                       \
    extern "C" float name##f(float) noexcept;                                                                              \
    extern "C" double name(double) noexcept;                                                                               \
    static inline float name(float v) { return name##f(v); }
#define EMU_C2(name)                                                                                                       \
    extern "C" float name##f(float, float) noexcept;                                                                       \
    extern "C" double name(double, double) noexcept;                                                                       \
    static inline float name(float a, float b) { return name##f(a, b); }
EMU_C1(acos) EMU_C1(asin) EMU_C1(atan) EMU_C1(cbrt) EMU_C1(ceil) EMU_C1(cos) EMU_C1(cosh) EMU_C1(erf) EMU_C1(erfc)
EMU_C1(exp) EMU_C1(exp2) EMU_C1(expm1) EMU_C1(fabs) EMU_C1(floor) EMU_C1(log) EMU_C1(log10) EMU_C1(log1p) EMU_C1(log2)
EMU_C1(nearbyint) EMU_C1(rint) EMU_C1(round) EMU_C1(sin) EMU_C1(sinh) EMU_C1(sqrt) EMU_C1(tan) EMU_C1(tanh) EMU_C1(trunc)
EMU_C2(atan2) EMU_C2(copysign) EMU_C2(fmod) EMU_C2(hypot) EMU_C2(pow)
#undef EMU_C1
#undef EMU_C2
extern "C" void* memcpy(void*, const void*, unsigned long) noexcept;
extern "C" void* memset(void*, int, unsigned long) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
extern "C" double fma(double, double, double) noexcept;
extern "C" float ldexpf(float, int) noexcept;
extern "C" double ldexp(double, int) noexcept;
extern "C" void sincosf(float, float*, float*) noexcept;
extern "C" void sincos(double, double*, double*) noexcept;

static inline float exp10f(float v) { return (float)pow(10.0, (double)v); }
static inline float rsqrtf(float v) { return (float)(1.0 / sqrt((double)v)); }
static inline double rsqrt(double v) { return 1.0 / sqrt(v); }
static inline double cospi(double v) { return cos(3.14159265358979323846 * v); }
static inline bool isnan(float v) { return v != v; }
static inline bool isnan(double v) { return v != v; }
static inline bool isinf(float v) { return fabsf(v) == __builtin_inff(); }
static inline bool isinf(double v) { return fabs(v) == __builtin_inf(); }
static inline bool isfinite(float v) { return fabsf(v) < __builtin_inff(); }
static inline bool isfinite(double v) { return fabs(v) < __builtin_inf(); }
static inline bool signbit(float v) { return __float_as_uint(v) >> 31; }
static inline bool signbit(double v) { return __double_as_longlong(v) < 0; }

// ---- minimum and maximum: a NaN loses against a number, -0 is below +0

template <class T> static inline T emu_min(T a, T b) {
    if (a != a) return b;
    if (b != b || (a == b && __builtin_signbit(a))) return a;
    return a < b ? a : b;
}
static inline float fminf(float a, float b) { return emu_min(a, b); }
static inline float fmaxf(float a, float b) { return -emu_min(-a, -b); }
static inline double fmin(double a, double b) { return emu_min(a, b); }
static inline double fmax(double a, double b) { return -emu_min(-a, -b); }

// Exactly CUDA's overloads: a mixed call that is ambiguous there has to be so here.
#define EMU_MINMAX(R, A, B)                                                                                                \
    static inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                                                    \
    static inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
EMU_MINMAX(int, int, int)
EMU_MINMAX(unsigned, unsigned, unsigned)
EMU_MINMAX(unsigned, int, unsigned)
EMU_MINMAX(unsigned, unsigned, int)
EMU_MINMAX(long, long, long)
EMU_MINMAX(unsigned long, unsigned long, unsigned long)
EMU_MINMAX(long long, long long, long long)
EMU_MINMAX(unsigned long long, unsigned long long, unsigned long long)
EMU_MINMAX(unsigned long long, long long, unsigned long long)
EMU_MINMAX(unsigned long long, unsigned long long, long long)
#undef EMU_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }
static inline int abs(int v) { return v < 0 ? -v : v; }
static inline long long abs(long long v) { return v < 0 ? -v : v; }
static inline float abs(float v) { return fabsf(v); }
static inline double abs(double v) { return fabs(v); }
static inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }

// ---- rounded exactly once, to nearest even; compiled without contraction, so that is what the operators do

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __drcp_rn(double a) { return 1.0 / a; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// ---- approximations: here exact to the last bit or two, on the card to a few more

static inline float __expf(float v) { return expf(v); }
static inline float __exp10f(float v) { return exp10f(v); }
static inline float __logf(float v) { return logf(v); }
static inline float __log2f(float v) { return log2f(v); }
static inline float __log10f(float v) { return log10f(v); }
static inline float __sinf(float v) { return sinf(v); }
static inline float __cosf(float v) { return cosf(v); }
static inline float __tanf(float v) { return tanf(v); }
static inline float __powf(float a, float b) { return powf(a, b); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frsqrt_rn(float v) { return rsqrtf(v); }
static inline void __sincosf(float v, float* s, float* c) { sincosf(v, s, c); }

// ---- conversions: the nearest representable number where the value does not fit, 0 for NaN

template <class To, class From> static inline To emu_convert(From whole) {
    constexpr bool with_sign = (To)-1 < (To)0;
    constexpr int bits = 8 * (int)sizeof(To) - (with_sign ? 1 : 0);
    constexpr To high = (To)(((1ull << (bits - 1)) - 1) * 2 + 1);
    if (whole != whole) return 0;
    if (whole >= (From)high) return high;
    if (whole <= (From)(To)(-high - 1) && with_sign) return -high - 1;
    return whole < 0 && !with_sign ? 0 : (To)whole;
}
#define EMU_CONVERT(From, from, To, to, f)                                                                                 \
    static inline To __##from##2##to##_rn(From v) { return emu_convert<To>(rint##f(v)); }                                  \
    static inline To __##from##2##to##_rz(From v) { return emu_convert<To>(trunc##f(v)); }                                 \
    static inline To __##from##2##to##_ru(From v) { return emu_convert<To>(ceil##f(v)); }                                  \
    static inline To __##from##2##to##_rd(From v) { return emu_convert<To>(floor##f(v)); }
EMU_CONVERT(float, float, int, int, f)
EMU_CONVERT(float, float, unsigned, uint, f)
EMU_CONVERT(float, float, long long, ll, f)
EMU_CONVERT(float, float, unsigned long long, ull, f)
EMU_CONVERT(double, double, int, int, )
EMU_CONVERT(double, double, unsigned, uint, )
EMU_CONVERT(double, double, long long, ll, )
EMU_CONVERT(double, double, unsigned long long, ull, )
#undef EMU_CONVERT
static inline float __int2float_rn(int v) { return (float)v; }
static inline float __uint2float_rn(unsigned v) { return (float)v; }
static inline float __ll2float_rn(long long v) { return (float)v; }
static inline float __ull2float_rn(unsigned long long v) { return (float)v; }
static inline double __int2double_rn(int v) { return v; }
static inline double __uint2double_rn(unsigned v) { return v; }
static inline double __ll2double_rn(long long v) { return (double)v; }
static inline double __ull2double_rn(unsigned long long v) { return (double)v; }
static inline float __double2float_rn(double v) { return (float)v; }

// ---- integers

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1u) << (31 - i);
    return r;
}
static inline unsigned long long __brevll(unsigned long long v) {
    return (unsigned long long)__brev((unsigned)v) << 32 | __brev((unsigned)(v >> 32));
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((unsigned long long)high << 32 | low) << (by & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = selector >> (4 * i) & 15;
        unsigned byte = (unsigned)(bytes >> (8 * (pick & 7))) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}
