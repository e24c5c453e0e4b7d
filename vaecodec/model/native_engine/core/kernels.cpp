// The inner loops, compiled once for each instruction set with VAEC_LEVEL set to its name.
//
// Every result has the same bits at every level: sums run input by input with fused multiply-add, for every tile size.
#include "kernels.h"
#include "simd.h"

namespace VAEC_LEVEL {
using vaec::After;
using vaec::Matrix;
using vaec::Savings;
using vaec::PANEL;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> { typedef Floats type; };
template <>
struct VectorOf<double> { typedef Doubles type; };
template <>
struct VectorOf<int32_t> { typedef Ints type; };

static inline Floats leaky(Floats x) { return x > 0.0f ? x : x * 0.1f; }
static inline Doubles leaky(Doubles x) { return x; }
static inline Ints leaky(Ints x) { return x; }

constexpr size_t CHUNK_BYTES = 256 << 10;  // weights that stay in the L2 cache while positions stream past

// A vector filled with one value, copied bit by bit.
template <bool PAIRS, class T>
static inline typename VectorOf<T>::type all_of(const T* value) {
    if constexpr (PAIRS) {
        int32_t bits;
        memcpy(&bits, value, sizeof bits);
        return (typename VectorOf<T>::type)splat(bits);
    } else {
        return splat(*value);
    }
}

template <bool PAIRS, class V>
static inline V accumulate(V a, V b, V sum) {
#if defined(VAEC_BFLOAT16)
    if constexpr (PAIRS) return dot(a, b, sum);
#endif
    return fma(a, b, sum);
}

// A tile of ROWS positions by VECTORS vectors of outputs, of which `width` values are stored.
template <class T, int ROWS, int VECTORS, bool PAIRS>
static inline void tile(const T* a, size_t a_stride, size_t inputs, const T* w, size_t w_stride, const T* bias, bool add,
                        After after, T* c, size_t c_stride, size_t width) {
    typedef typename VectorOf<T>::type V;
    constexpr int N = VECTOR_BYTES / sizeof(T);
    V sum[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; ++v) {
        V start = bias ? load<V>(bias + v * N) : V{};
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m) sum[m][v] = start;
    }
    if (add) {
        if (width == (size_t)VECTORS * N) {
#pragma GCC unroll 16
            for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v) sum[m][v] += load<V>(c + m * c_stride + v * N);
        } else {
#pragma GCC unroll 16
            for (int m = 0; m < ROWS; ++m) {
                T part[VECTORS * N] = {};
                memcpy(part, c + m * c_stride, width * sizeof(T));
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v) sum[m][v] += load<V>(part + v * N);
            }
        }
    }
    for (size_t k = 0; k < inputs; ++k, w += w_stride) {
        V b[VECTORS];
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) b[v] = load<V>(w + v * N);
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m) {
            V x = all_of<PAIRS>(a + m * a_stride + k);
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) sum[m][v] = accumulate<PAIRS>(x, b[v], sum[m][v]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m) {
        if (after == After::leaky) {
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) sum[m][v] = leaky(sum[m][v]);
        }
        if (width == (size_t)VECTORS * N) {
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) store(c + m * c_stride + v * N, sum[m][v]);
        } else {
            T part[VECTORS * N];
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) store(part + v * N, sum[m][v]);
            memcpy(c + m * c_stride, part, width * sizeof(T));
        }
    }
}

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// A panel over ROWS positions.
template <class T, int ROWS, bool PAIRS>
static void panel(const T* a, size_t a_stride, size_t inputs, const T* w, size_t w_width, const T* bias, bool add,
                  After after, T* c, size_t c_stride, size_t width) {
    constexpr size_t N = VECTOR_BYTES / sizeof(T), FULL = TILE_VECTORS * N;
    for (size_t at = 0; at < w_width && at < width;) {
        const T* start = bias ? bias + at : nullptr;
        size_t left = smaller(width - at, w_width - at);
        if (w_width - at >= FULL) {
            tile<T, ROWS, TILE_VECTORS, PAIRS>(a, a_stride, inputs, w + at, w_width, start, add, after, c + at, c_stride,
                                        smaller(left, FULL));
            at += FULL;
        } else {
            tile<T, ROWS, TILE_VECTORS / 2, PAIRS>(a, a_stride, inputs, w + at, w_width, start, add, after, c + at, c_stride,
                                            smaller(left, FULL / 2));
            at += FULL / 2;
        }
    }
}

// The same for values and their gates; stores value * sigmoid(gate).
template <int ROWS, bool PAIRS>
static void gated_panel(const float* a, size_t a_stride, size_t inputs, const float* w, const float* bias, float* c,
                        size_t c_stride, size_t width) {
    float both[ROWS * PANEL];
    panel<float, ROWS, PAIRS>(a, a_stride, inputs, w, PANEL, bias, false, After::none, both, PANEL, PANEL);
    for (int m = 0; m < ROWS; ++m) {
        float out[PANEL / 2];
        for (size_t at = 0; at < PANEL / 2; at += LANES) {
            Floats value = load<Floats>(both + m * PANEL + at), gate = load<Floats>(both + m * PANEL + PANEL / 2 + at);
            store(out + at, value * sigmoid(gate));
        }
        memcpy(c + m * c_stride, out, width * sizeof(float));
    }
}

template <class T, int ROWS, bool PAIRS>
static void panels(const T* a, size_t a_stride, const Matrix<T>& w, size_t first, size_t last, size_t outputs, bool add,
                   After after, T* c, size_t c_stride) {
    const size_t step = w.gated ? PANEL / 2 : PANEL;
    for (size_t p = first; p < last; ++p) {
        size_t width = smaller(outputs - p * step, step);
        size_t w_width = w.gated || w.outputs - p * step > PANEL / 2 ? PANEL : PANEL / 2;
        const T* data = w.data + p * w.panel_inputs * PANEL + w.skipped * w_width;
        const T* bias = w.bias ? w.bias + p * PANEL : nullptr;
        if constexpr (T(0.5f) != T(0) && sizeof(T) == sizeof(float)) {
            if (w.gated) {
                gated_panel<ROWS, PAIRS>(a, a_stride, w.inputs, data, bias, c + p * step, c_stride, width);
                continue;
            }
        }
        panel<T, ROWS, PAIRS>(a, a_stride, w.inputs, data, w_width, bias, add, after, c + p * step, c_stride, width);
    }
}

template <class T, bool PAIRS = false>
static void product(const T* a, size_t a_stride, size_t positions, const Matrix<T>& w, size_t outputs, bool add,
                    After after, T* c, size_t c_stride) {
    const size_t step = w.gated ? PANEL / 2 : PANEL, count = (outputs + step - 1) / step;
    size_t chunk = CHUNK_BYTES / (sizeof(T) * PANEL * (w.inputs + 1));
    chunk = chunk ? chunk : 1;
    for (size_t first = 0; first < count; first += chunk) {
        const size_t last = smaller(first + chunk, count);
        size_t m = 0;
        for (; m + TILE_ROWS <= positions; m += TILE_ROWS)
            panels<T, TILE_ROWS, PAIRS>(a + m * a_stride, a_stride, w, first, last, outputs, add, after, c + m * c_stride, c_stride);
        for (; m + TILE_ROWS / 2 <= positions; m += TILE_ROWS / 2)
            panels<T, TILE_ROWS / 2, PAIRS>(a + m * a_stride, a_stride, w, first, last, outputs, add, after, c + m * c_stride,
                                     c_stride);
        if constexpr (TILE_ROWS > 6)
            for (; m + TILE_ROWS / 4 <= positions; m += TILE_ROWS / 4)
                panels<T, TILE_ROWS / 4, PAIRS>(a + m * a_stride, a_stride, w, first, last, outputs, add, after,
                                         c + m * c_stride, c_stride);
        if constexpr (TILE_ROWS > 2)
            for (; m < positions; ++m)
                panels<T, 1, PAIRS>(a + m * a_stride, a_stride, w, first, last, outputs, add, after, c + m * c_stride, c_stride);
    }
}

static void product_float(const float* a, size_t a_stride, size_t positions, const Matrix<float>& w, size_t outputs,
                          bool add, After after, float* c, size_t c_stride) {
    product<float>(a, a_stride, positions, w, outputs, add, after, c, c_stride);
}
#if defined(VAEC_BFLOAT16)
static void pairs_product(const float* a, size_t a_stride, size_t positions, const Matrix<float>& w, size_t outputs, bool add,
                          After after, float* c, size_t c_stride) {
    product<float, true>(a, a_stride, positions, w, outputs, add, after, c, c_stride);
}
static void to_pairs(const float* x, size_t n, float* pairs) {
    char* to = (char*)pairs;
    for (size_t i = 0; i < n; i += LANES) {
        float part[LANES] = {};
        const size_t left = smaller(n - i, LANES);
        const float* from = x + i;
        if (left < (size_t)LANES) from = (const float*)memcpy(part, from, left * sizeof(float));
        const __m256bh narrow = _mm512_cvtneps_pbh((__m512)load<Floats>(from));
        memcpy(to + 2 * i, &narrow, 2 * left);
    }
}
static void (*const product_bfloat16)(const float*, size_t, size_t, const Matrix<float>&, size_t, bool, After, float*,
                                      size_t) = pairs_product;
static void (*const to_bfloat16)(const float*, size_t, float*) = to_pairs;
#else
static void (*const product_bfloat16)(const float*, size_t, size_t, const Matrix<float>&, size_t, bool, After, float*,
                                      size_t) = nullptr;
static void (*const to_bfloat16)(const float*, size_t, float*) = nullptr;
#endif
static void product_double(const double* a, size_t a_stride, size_t positions, const Matrix<double>& w, size_t outputs,
                           double* c, size_t c_stride) {
    product<double>(a, a_stride, positions, w, outputs, false, After::none, c, c_stride);
}
static void product_pairs(const int32_t* a, size_t a_stride, size_t positions, const Matrix<int32_t>& w, size_t outputs,
                          int32_t* c, size_t c_stride) {
    product<int32_t>(a, a_stride, positions, w, outputs, false, After::none, c, c_stride);
}

static inline void store_some(float* to, Floats v, size_t n) {
    if (n >= (size_t)LANES) {
        store(to, v);
    } else {
        float part[LANES];
        store(part, v);
        memcpy(to, part, n * sizeof(float));
    }
}
static inline Floats load_some(const float* from, size_t n) {
    if (n >= (size_t)LANES) return load<Floats>(from);
    float part[LANES] = {};
    memcpy(part, from, n * sizeof(float));
    return load<Floats>(part);
}

// COUNT neighbouring positions of a row, none of which needs values beyond its ends.
template <int SIDE, int COUNT>
static inline void depthwise_inside(const float* const* rows, size_t x, size_t channels, size_t c, const Floats* tap,
                                    Floats start, float* out) {
    Floats sum[COUNT];
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) sum[k] = start;
#pragma GCC unroll 5
    for (int i = 0; i < SIDE; ++i) {
        const float* from = rows[i] + (x - SIDE / 2) * channels + c;
#pragma GCC unroll 8
        for (int j = 0; j < SIDE + COUNT - 1; ++j) {
            const Floats v = load<Floats>(from + j * channels);
#pragma GCC unroll 4
            for (int k = 0; k < COUNT; ++k)
                if (j >= k && j - k < SIDE) sum[k] = fma(v, tap[i * SIDE + j - k], sum[k]);
        }
    }
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) store(out + (x + k) * channels + c, sum[k]);
}

template <int SIDE>
static void depthwise_row(const float* const* rows, size_t width, size_t channels, const float* taps, const float* bias,
                          float* out) {
    constexpr size_t REACH = SIDE / 2, TOGETHER = SIDE == 3 ? 4 : 1;
    const size_t padded = (channels + 15) / 16 * 16;
    for (size_t c = 0; c < channels; c += LANES) {
        const size_t n = smaller(channels - c, LANES);
        Floats tap[SIDE * SIDE];
#pragma GCC unroll 25
        for (int t = 0; t < SIDE * SIDE; ++t) tap[t] = load<Floats>(taps + t * padded + c);
        const Floats start = load<Floats>(bias + c);
        const bool is_whole = n == (size_t)LANES;
        for (size_t x = 0; x < width;) {
            if (is_whole && x >= REACH && x + REACH + TOGETHER <= width) {
                depthwise_inside<SIDE, TOGETHER>(rows, x, channels, c, tap, start, out);
                x += TOGETHER;
                continue;
            }
            Floats sum = start;
            for (size_t i = 0; i < SIDE; ++i)
                for (size_t j = 0; j < SIDE; ++j) {
                    if (x + j < REACH || x + j >= width + REACH) continue;
                    sum = fma(load_some(rows[i] + (x + j - REACH) * channels + c, n), tap[i * SIDE + j], sum);
                }
            store_some(out + x * channels + c, sum, n);
            ++x;
        }
    }
}

static void depthwise(const float* const* rows, size_t side, size_t width, size_t channels, const float* taps,
                      const float* bias, float* out) {
    if (side == 3)
        depthwise_row<3>(rows, width, channels, taps, bias, out);
    else
        depthwise_row<5>(rows, width, channels, taps, bias, out);
}

template <class Change>
static inline void each(float* x, size_t n, Change change) {
    for (size_t i = 0; i < n; i += LANES) store_some(x + i, change(load_some(x + i, n - i), i), n - i);
}

static void exp_all(float* x, size_t n) {
    each(x, n, [](Floats v, size_t) { return exp(v); });
}
static void silu(float* x, size_t n) {
    each(x, n, [](Floats v, size_t) { return v * sigmoid(v); });
}
static void softplus_all(float* x, size_t n) {
    each(x, n, [](Floats v, size_t) { return softplus(v); });
}

static void add_product(const float* x, const float* y, const float* factor, size_t factor_stride, size_t positions,
                        size_t n, float* out) {
    for (size_t p = 0; p < positions; ++p, x += n, y += n, out += n, factor += factor_stride)
        for (size_t i = 0; i < n; i += LANES) {
            const size_t left = n - i;
            store_some(out + i, fma(load_some(y + i, left), load_some(factor + i, left), load_some(x + i, left)), left);
        }
}

static void scale(float* x, const float* factor, size_t positions, size_t n) {
    for (size_t p = 0; p < positions; ++p, x += n)
        each(x, n, [=](Floats v, size_t i) { return v * load_some(factor + i, n - i); });
}

static void dequantize(const float* mean, const int16_t* symbols, const float* gain, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = mean[i] + float(symbols[i]) / gain[i];
}

// Without branches, because nothing predicts whether a symbol is zero.
static void rdoq(const float* residual, const uint8_t* rows, size_t n, const Savings& savings, int16_t* out,
                 bool& are_numbers, bool& are_rows) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));
    constexpr float BITS_PER_DISTORTION = 20.0f, MAGIC = 12582912.0f;  // adding MAGIC rounds to the nearest integer
    const Ints last_row = splat(savings.rows - 1);
    Ints bad_numbers = {}, bad_rows = {};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t left = smaller(n - i, LANES);
        Bytes bytes = {};
        memcpy(&bytes, rows + i, left);
        Floats r = load_some(residual + i, left);
        Ints row = __builtin_convertvector(bytes, Ints);
        bad_numbers |= ~(r == r);
        bad_rows |= row > last_row;
        r = r == r ? r : Floats{};
        row = row > last_row ? last_row : row;
        Floats clamped = r > savings.limit ? splat(savings.limit) : r;
        clamped = clamped < -savings.limit ? splat(-savings.limit) : clamped;
        const Floats rounded = (clamped + MAGIC) - MAGIC;
        const Ints symbol = __builtin_convertvector(rounded, Ints);
        int32_t of_lane[LANES];
        store(of_lane, row);
        for (int k = 0; k < LANES; ++k) of_lane[k] = savings.reach[of_lane[k]];
        const Ints reach = load<Ints>(of_lane);
        Ints at = symbol > reach ? reach : symbol;
        at = at < -reach ? -reach : at;
        store(of_lane, row * savings.width + at + reach);
        float saved[LANES];
        for (int k = 0; k < LANES; ++k) saved[k] = savings.bits[of_lane[k]];
        const Ints is_coded = at == symbol;  // escapes save nothing
        const Floats saving = (Floats)((Ints)load<Floats>(saved) & is_coded);
        const Floats distortion = 2.0f * (abs(r) - abs(rounded)) + 1.0f;
        const Ints moves = saving > BITS_PER_DISTORTION * distortion;
        const Ints sign = (symbol < 0) - (symbol > 0);  // comparisons are 0 or -1
        const Shorts chosen = __builtin_convertvector((symbol - (sign & moves)) & ~(row < savings.first_coded_row), Shorts);
        memcpy(out + i, &chosen, 2 * left);
    }
    int32_t lanes[2][LANES];
    store(lanes[0], bad_numbers);
    store(lanes[1], bad_rows);
    for (int k = 0; k < LANES; ++k) {
        are_numbers &= !lanes[0][k];
        are_rows &= !lanes[1][k];
    }
}

static inline Floats artefact_of(Floats excess, Floats bound, float share) {
    Floats divisor = bound < 1e-9f ? splat(1e-9f) : bound;  // softplus can underflow to 0, and 0 / 0 is NaN
    return bound * tanh(excess / divisor) * share;
}

static void artefact(float* excess, const float* bound, float share, size_t n) {
    each(excess, n, [=](Floats v, size_t i) { return artefact_of(v, load_some(bound + i, n - i), share); });
}

static inline Floats excess_of(const Floats* left, const Floats* right, float slope) {
    Floats beside = right[2] - right[0] + left[2] - left[0];
    return fma(beside, splat(-slope), right[0] - left[2]);
}

static void smooth_rows(float* const* rows, const float* bound, const float* ramp, float slope, float share, size_t n) {
    for (size_t i = 0; i < n; i += LANES) {
        const size_t left = n - i;
        Floats row[8];
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) row[k] = load_some(rows[k] + i, left);
        Floats art = artefact_of(excess_of(row + 1, row + 4, slope), load_some(bound + i, left), share);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            float tap = k < 4 ? ramp[3 - k] : -ramp[k - 4];
            store_some(rows[k] + i, fma(art, splat(tap), row[k]), left);
        }
    }
}

static bool to_bytes(const float* x, float factor, size_t n, uint8_t* out) {
    Ints bad = {};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t left = smaller(n - i, LANES);
        Floats v = load_some(x + i, left);
        bad |= ~(abs(v) <= 3.4028234e38f);
        v = v * factor;
        v = v > 0.0f ? v : Floats{};  // also true for NaN
        v = v < 255.0f ? v : splat(255.0f);
        Ints bits = (Ints)(v + 12582912.0f);  // rounds to the nearest integer, in the low bits
        typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
        Bytes bytes = __builtin_convertvector(bits & 255, Bytes);
        memcpy(out + i, &bytes, left);
    }
    int32_t lanes[LANES], any = 0;
    store(lanes, bad);
    for (int i = 0; i < LANES; ++i) any |= lanes[i];
    return !any;
}

template <class Sum>
static void finish(const Sum* sums, const int64_t* constant, size_t n, int shift, int32_t largest, int16_t* out) {
    for (size_t i = 0; i < n; ++i) {
        int64_t v = (int64_t)sums[i] + constant[i];
        v = v > 0 ? v : 0;
        v = (int64_t)((uint64_t)v >> shift);
        out[i] = (int16_t)(v < largest ? v : largest);
    }
}
static void finish_pairs(const int32_t* sums, const int64_t* constant, size_t n, int shift, int32_t largest, int16_t* out) {
    finish((const uint32_t*)sums, constant, n, shift, largest, out);
}
static void finish_double(const double* sums, const int64_t* constant, size_t n, int shift, int32_t largest, int16_t* out) {
    finish(sums, constant, n, shift, largest, out);
}

#define NAME_OF(level) #level
#define NAME(level) NAME_OF(level)
extern const vaec::Kernels kernels;
const vaec::Kernels kernels = {
    NAME(VAEC_LEVEL), product_float, product_bfloat16, to_bfloat16, product_double, product_pairs, depthwise, exp_all, silu, softplus_all, add_product,
    scale, dequantize, rdoq, artefact, smooth_rows, to_bytes, finish_pairs, finish_double,
};

}  // namespace VAEC_LEVEL
