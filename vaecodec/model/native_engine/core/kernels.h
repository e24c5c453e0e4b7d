// The kernels that are compiled once per instruction set, and their matrices.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vaec {

constexpr size_t PANEL = 32;  // outputs of a panel; the last one has 16 if those are enough
constexpr size_t MOST_TAPS = 5;

// Weights of a product of matrices by panels of outputs: of each panel, input by input, the weights of its outputs, with
// zeros for missing outputs. All levels use the same layout.
//
// T is float; double, for integers below 2^53; or int32_t, for pairs of int16.
template <class T>
struct Matrix {
    const T* data = nullptr;
    const T* bias = nullptr;  // one per output of all panels, or none
    size_t inputs = 0;        // of T: pairs count once
    size_t outputs = 0;
    size_t panel_inputs = 0;  // by which panels are spaced: more than `inputs` in a view of some of them
    bool gated = false;       // panels hold 16 values and their 16 gates, and `outputs` counts values
    size_t skipped = 0;       // inputs before the first of a view
};

enum class After { none, leaky };

// The bits that one step closer to zero saves, [rows, width]; row r holds those of -reach[r] to reach[r].
struct Savings {
    const float* bits;
    int32_t width, rows, first_coded_row;
    float limit;  // magnitude of the largest symbol
    int32_t reach[256];
};

struct Kernels {
    const char* name;
    // c [positions, outputs] = bias + (add ? c : 0) + a [positions, inputs] W, summed input by input; of the first
    // `outputs` outputs. Gated: value * sigmoid(gate).
    void (*product)(const float* a, size_t a_stride, size_t positions, const Matrix<float>& w, size_t outputs, bool add,
                    After after, float* c, size_t c_stride);
    // The same of pairs of bfloat16, which float sums keep apart: `a` and `w` have half as many inputs, of two each. Null
    // if the instruction set lacks it. The sums differ from float32, so only encoders use it, which may choose other symbols.
    void (*product_bfloat16)(const float* a, size_t a_stride, size_t positions, const Matrix<float>& w, size_t outputs,
                             bool add, After after, float* c, size_t c_stride);
    void (*to_bfloat16)(const float* x, size_t n, float* pairs);  // n even; likewise
    void (*product_double)(const double* a, size_t a_stride, size_t positions, const Matrix<double>& w, size_t outputs,
                           double* c, size_t c_stride);
    void (*product_pairs)(const int32_t* a, size_t a_stride, size_t positions, const Matrix<int32_t>& w, size_t outputs,
                          int32_t* c, size_t c_stride);
    // One row of a depthwise convolution: `rows` are side rows [width, channels] of the input, taps
    // [side^2, padded channels], padded to multiples of 16.
    void (*depthwise)(const float* const* rows, size_t side, size_t width, size_t channels, const float* taps,
                      const float* bias, float* out);
    void (*exp)(float* x, size_t n);
    void (*silu)(float* x, size_t n);
    void (*softplus)(float* x, size_t n);
    // out [positions, n] = x + x * scale or x + y * gate, of strided rows.
    void (*add_product)(const float* x, const float* y, const float* factor, size_t factor_stride, size_t positions,
                        size_t n, float* out);
    // x [positions, n] times factor [n], in place.
    void (*scale)(float* x, const float* factor, size_t positions, size_t n);
    // mean + symbol / gain of n channels.
    void (*dequantize)(const float* mean, const int16_t* symbols, const float* gain, size_t n, float* out);
    // Quantizes n residuals with RDOQ, given their table rows, without fused operations, like vaecodec.model.coding.rdoq.
    // Clears `are_numbers` and `are_rows` where some are not; these become 0, or use the last row.
    void (*rdoq)(const float* residual, const uint8_t* rows, size_t n, const Savings& savings, int16_t* out,
                 bool& are_numbers, bool& are_rows);
    // The correction of deblocking before its taps, in place of `excess`: bound * tanh(excess / bound) * share.
    void (*artefact)(float* excess, const float* bound, float share, size_t n);
    // The border between two rows of latents: rows[0..7] are n samples each, four above it and four below.
    void (*smooth_rows)(float* const* rows, const float* bound, const float* ramp, float slope, float share, size_t n);
    // Converts n samples to uint8, 1 to 255; false if one is not finite.
    bool (*to_bytes)(const float* x, float factor, size_t n, uint8_t* out);
    // min(max(t + constant, 0) >> shift, largest) of sums t modulo 2^32, of n outputs.
    void (*finish_pairs)(const int32_t* sums, const int64_t* constant, size_t n, int shift, int32_t largest, int16_t* out);
    void (*finish_double)(const double* sums, const int64_t* constant, size_t n, int shift, int32_t largest, int16_t* out);
};

// All levels that were compiled in, ascending; each can be run if its flag in supported() is set.
size_t level_count();
const Kernels& level(size_t number);
bool supported(size_t number);
const Kernels& active();
bool activate(const char* name);  // false if the level is not available

}  // namespace vaec
