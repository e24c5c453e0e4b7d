// The integer scale network; the same table indexes as the torch engine for every input.
#pragma once
#include "weights.h"

namespace vaec {

class Scales {
  public:
    Scales(const Weights& weights, size_t hyper, size_t width, size_t latents);

    // Table rows of z [positions of ceil(rows / 4) x ceil(columns / 4), hyper] -> out [rows * columns, channels].
    void rows(const int16_t* z, size_t rows, size_t columns, int quality, size_t channels, uint8_t* out,
              size_t threads) const;
    // Compares every layer with plain int64 arithmetic; the number of the first that differs, or -1.
    int self_test(const Weights& weights) const;

    static constexpr size_t LAYERS = 4;
    static constexpr int32_t HYPER_LIMIT = 127, ACTIVATION_LIMIT = 4095, LAST_ROW = 63;

  private:
    // The outputs of a layer that are computed together: all, or one of four parts in layers before a shuffle.
    struct Part {
        Packed<int32_t> pairs;
        Packed<double> doubles;
        std::vector<int64_t> constant;  // added to sums before the division
    };
    struct Layer {
        size_t side, inputs, outputs;  // outputs of a part
        int shift;
        bool is_narrow;  // sums are known modulo 2^32, from products of int16
        std::vector<Part> parts;
    };
    // One row of a layer's outputs [width, outputs] from its inputs [height, width, inputs].
    template <class In>
    void run_row(const Layer& layer, const Part& part, const In* in, size_t height, size_t width, size_t y,
                 size_t outputs, const int64_t* constant, int shift, int32_t largest, int16_t* out) const;

    // Whether a layer computes what plain int64 arithmetic does, for inputs from low to high.
    bool is_exact(const Weights& weights, size_t number, int64_t low, int64_t high) const;
    // `run_row` for the first layer. Inputs of ordinary size are 256 * high + low in int16: twice the work, and less time.
    void run_first_row(const int64_t* in, bool is_ordinary, size_t height, size_t width, size_t y, int16_t* out) const;

    size_t hyper_, width_, latents_;
    int64_t ordinary_ = -1;  // the largest magnitude of inputs for which the sums of either half fit in int32
    Layer layers_[LAYERS];
    std::vector<int32_t> dequantize_, row_offset_;  // [100, hyper], [100, latents]
};

}  // namespace vaec
