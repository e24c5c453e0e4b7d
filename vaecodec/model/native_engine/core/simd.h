// Vectors of one instruction set; compiled once per level, inside that level's namespace.
//
// No std:: template may be used in code compiled for a level: the linker keeps one copy of each for all levels, and it
// might use instructions that the processor lacks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(VAEC_AVX512) || defined(VAEC_AVX2)
#include <immintrin.h>
#elif defined(VAEC_NEON)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace VAEC_LEVEL {

// A tile of TILE_ROWS positions by TILE_VECTORS vectors of outputs stays in registers while inputs stream past.
#if defined(VAEC_AVX512)
constexpr int VECTOR_BYTES = 64, TILE_ROWS = 12, TILE_VECTORS = 2;
#elif defined(VAEC_AVX2)
constexpr int VECTOR_BYTES = 32, TILE_ROWS = 6, TILE_VECTORS = 2;
#elif defined(VAEC_NEON)
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 6, TILE_VECTORS = 4;
#else
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 2, TILE_VECTORS = 4;
#endif

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));
constexpr int LANES = VECTOR_BYTES / 4;

template <class Vector, class T>
static inline Vector load(const T* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}
template <class Vector, class T>
static inline void store(T* to, Vector v) {
    memcpy(to, &v, sizeof v);
}
static inline Floats splat(float x) { return x - Floats{}; }
static inline Doubles splat(double x) { return x - Doubles{}; }
static inline Ints splat(int32_t x) { return x - Ints{}; }

// a * b + c, rounded once: the only way in which floats are multiplied and added here.
#if defined(VAEC_AVX512)
static inline Floats fma(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
static inline Ints fma(Ints a, Ints b, Ints c) {
    return (Ints)_mm512_add_epi32((__m512i)c, _mm512_madd_epi16((__m512i)a, (__m512i)b));
}
#elif defined(VAEC_AVX2)
static inline Floats fma(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static inline Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
static inline Ints fma(Ints a, Ints b, Ints c) {
    return (Ints)_mm256_add_epi32((__m256i)c, _mm256_madd_epi16((__m256i)a, (__m256i)b));
}
#elif defined(VAEC_NEON)
static inline Floats fma(Floats a, Floats b, Floats c) {
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline Doubles fma(Doubles a, Doubles b, Doubles c) {
    return (Doubles)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
static inline Ints fma(Ints a, Ints b, Ints c) {
    int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    return c + (Ints)vpaddq_s32(low, high);
}
#elif defined(__wasm_simd128__)
// There is no such instruction, and emulating it takes ten times as long. This level rounds twice: it is for decoders,
// whose floats only move pixels. (Relaxed vectors have one, a fifth faster, which rounds as each processor likes.)
static inline Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
static inline Doubles fma(Doubles a, Doubles b, Doubles c) { return a * b + c; }  // only of integers below 2^53
static inline Ints fma(Ints a, Ints b, Ints c) {
    return (Ints)wasm_i32x4_add((v128_t)c, wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)b));
}
#else
// Without such an instruction: the product is exact in double. The sum is rounded to odd, so that rounding it to float
// equals a single rounding.
static inline Floats fma(Floats a, Floats b, Floats c) {
    typedef double Wide __attribute__((vector_size(2 * VECTOR_BYTES)));
    typedef int64_t WideInts __attribute__((vector_size(2 * VECTOR_BYTES)));
    Wide product = __builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide);
    Wide addend = __builtin_convertvector(c, Wide), sum = product + addend;
    Wide rest = sum - product;
    Wide error = (product - (sum - rest)) + (addend - rest);
    WideInts bits = (WideInts)sum;
    WideInts inexact = (error > 0) | (error < 0);  // false for NaN
    WideInts away = ((error > 0) == (sum > 0)) | 1;  // -1: the exact sum is larger in magnitude; 1: smaller
    WideInts is_even = -(~bits & 1);
    bits -= away & inexact & is_even;
    return __builtin_convertvector((Wide)bits, Floats);
}
static inline Doubles fma(Doubles a, Doubles b, Doubles c) { return a * b + c; }  // only of integers below 2^53
static inline Ints fma(Ints a, Ints b, Ints c) {
#if defined(__SSE2__)
    return (Ints)_mm_add_epi32((__m128i)c, _mm_madd_epi16((__m128i)a, (__m128i)b));
#else
    typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    Ints low = ((a << 16) >> 16) * ((b << 16) >> 16), high = (a >> 16) * (b >> 16);
    return (Ints)((Bits)c + (Bits)low + (Bits)high);
#endif
}
#endif

#if defined(VAEC_BFLOAT16)
// c + both products of a pair.
static inline Floats dot(Floats a, Floats b, Floats c) { return (Floats)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
#endif

static inline Floats abs(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

// e^x, with x clamped to -87..88; NaN stays NaN.
static inline Floats exp(Floats x) {
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    x = x > 88.0f ? splat(88.0f) : x;
    x = x < -87.0f ? splat(-87.0f) : x;
    Floats rounded = fma(x, splat(1.44269504088896341f), magic);
    Floats n = rounded - magic;
    Floats r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Floats p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r) + 1.0f;
    typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    return p * (Floats)(((Bits)rounded - (Bits)magic + 127u) << 23);
}

static inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

static inline Floats tanh(Floats x) {
    Floats size = 1.0f - 2.0f / (exp(2.0f * abs(x)) + 1.0f);
    return (Floats)((Ints)size | ((Ints)x & INT32_MIN));
}

// log(1 + e^x), as x itself from 20 on.
static inline Floats softplus(Floats x) {
    Floats u = exp(x), y = 1.0f + u;
    Ints bits = (Ints)y - 0x3f3504f3;  // the mantissa from sqrt(1/2) to sqrt(2)
    Floats n = __builtin_convertvector(bits >> 23, Floats);
    Floats m = (Floats)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    Floats p = splat(7.0376836292e-2f);
    p = fma(p, m, splat(-1.1514610310e-1f));
    p = fma(p, m, splat(1.1676998740e-1f));
    p = fma(p, m, splat(-1.2420140846e-1f));
    p = fma(p, m, splat(1.4249322787e-1f));
    p = fma(p, m, splat(-1.6668057665e-1f));
    p = fma(p, m, splat(2.0000714765e-1f));
    p = fma(p, m, splat(-2.4999993993e-1f));
    p = fma(p, m, splat(3.3333331174e-1f));
    Floats square = m * m;
    p = fma(p * m, square, n * -2.12194440e-4f);
    p = fma(square, splat(-0.5f), p);
    Floats log = fma(n, splat(0.693359375f), m + p);
    log = log + (u - (y - 1.0f)) / y;  // the rounding error of 1 + u
    return x > 20.0f ? x : log;
}

}  // namespace VAEC_LEVEL
