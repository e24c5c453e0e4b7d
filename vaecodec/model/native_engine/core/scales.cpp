// The integer network: sums of int16 products modulo 2^32 if they fit an interval of 2^32, else in doubles below 2^53.
#include "scales.h"

#include <algorithm>

#include "pool.h"

namespace vaec {
namespace {

constexpr int ROW_FRACTION_BITS = 8;

size_t outputs_of(size_t layer, size_t width, size_t latents) {
    const size_t all[] = {width, 2 * width, width, 4 * latents};
    return all[layer];
}
size_t inputs_of(size_t layer, size_t hyper, size_t width) {
    const size_t all[] = {hyper, width, width / 2, width};
    return all[layer];
}

// The inputs of a convolution of side 1 or 3 at one row of places: [width, padded], zeros outside of the picture.
template <class To, class From>
void gather(const From* in, size_t height, size_t width, size_t channels, size_t side, size_t y, size_t padded, To* out) {
    const size_t reach = side / 2;
    for (size_t x = 0; x < width; ++x, out += padded) {
        To* to = out;
        for (size_t i = 0; i < side; ++i)
            for (size_t j = 0; j < side; ++j, to += channels) {
                const bool inside = y + i >= reach && y + i < height + reach && x + j >= reach && x + j < width + reach;
                if (!inside) {
                    std::fill_n(to, channels, To(0));
                    continue;
                }
                const From* from = in + ((y + i - reach) * width + x + j - reach) * channels;
                for (size_t c = 0; c < channels; ++c) to[c] = To(from[c]);
            }
        std::fill(to, out + padded, To(0));
    }
}

}  // namespace

Scales::Scales(const Weights& weights, size_t hyper, size_t width, size_t latents)
    : hyper_(hyper), width_(width), latents_(latents) {
    const int32_t* shifts = weights.integers<int32_t>("scales.shift", Type::int32, LAYERS);
    const int32_t* factors = weights.integers<int32_t>("scales.dequantize", Type::int32, 100 * hyper);
    dequantize_.assign(factors, factors + 100 * hyper);
    const int32_t* offsets = weights.integers<int32_t>("scales.row_offset", Type::int32, 100 * latents);
    row_offset_.assign(offsets, offsets + 100 * latents);
    for (size_t number = 0; number < LAYERS; ++number) {
        Layer& layer = layers_[number];
        const std::string name = "scales." + std::to_string(number);
        const size_t outputs = outputs_of(number, width, latents);
        layer.side = number % 2 ? 1 : 3;
        layer.inputs = inputs_of(number, hyper, width);
        layer.shift = shifts[number];
        if (layer.shift < 1 || layer.shift > 40) throw Refused("scales.shift is not in 1..40");
        const size_t taps = layer.side * layer.side, inputs = layer.inputs * taps;
        const int16_t* w = weights.integers<int16_t>(name + ".weight", Type::int16, outputs * inputs);
        const int64_t* bias = weights.integers<int64_t>(name + ".bias", Type::int64, outputs);
        // A sum is between -below and above; if these are less than 2^32 apart, its value modulo 2^32 determines it.
        std::vector<int64_t> below(outputs, 0);
        layer.is_narrow = number > 0;
        int64_t largest = 1;
        for (size_t o = 0; o < outputs; ++o) {
            int64_t above = 0;
            for (size_t i = 0; i < inputs; ++i) {
                const int64_t weight = w[o * inputs + i];
                (weight < 0 ? below[o] : above) += ACTIVATION_LIMIT * (weight < 0 ? -weight : weight);
            }
            layer.is_narrow &= below[o] + above < int64_t(1) << 32;
            largest = std::max(largest, (below[o] + above) / ACTIVATION_LIMIT);
        }
        if (number == 0 && 256 * largest <= INT32_MAX)
            ordinary_ = 256 * std::min<int64_t>(INT32_MAX / largest, INT16_MAX) - 256;
        // Inputs are ordered by channel, then position in the file; here by position, then channel.
        Order places(inputs);
        for (size_t i = 0; i < inputs; ++i) places[i] = i % layer.inputs * taps + i / layer.inputs;
        const auto weight = [&](size_t o, size_t i) { return i < inputs ? w[o * inputs + places[i]] : int16_t(0); };
        const bool shuffled = number % 2;
        layer.outputs = shuffled ? outputs / 4 : outputs;
        for (size_t p = 0; p < (shuffled ? 4 : 1); ++p) {
            const auto of = [&](size_t o) { return shuffled ? 4 * o + p : o; };
            Part part;
            part.constant.resize(layer.outputs);
            for (size_t o = 0; o < layer.outputs; ++o)
                part.constant[o] = bias[of(o)] + (int64_t(1) << (layer.shift - 1)) - (layer.is_narrow ? below[of(o)] : 0);
            if (layer.is_narrow || number == 0) {
                part.pairs = pack_values<int32_t>(layer.outputs, (inputs + 1) / 2, [&](size_t o, size_t k) {
                    const uint16_t low = uint16_t(weight(of(o), 2 * k)), high = uint16_t(weight(of(o), 2 * k + 1));
                    return int32_t(uint32_t(high) << 16 | low);
                });
            }
            if (layer.is_narrow) {
                for (size_t o = 0; o < layer.outputs; ++o) part.pairs.bias.data()[o] = int32_t(uint32_t(below[of(o)]));
                part.pairs.matrix.bias = part.pairs.bias.data();
            } else {
                part.doubles = pack_values<double>(layer.outputs, inputs, [&](size_t o, size_t k) { return weight(of(o), k); });
            }
            layer.parts.push_back(std::move(part));
        }
    }
}

template <class In>
void Scales::run_row(const Layer& layer, const Part& part, const In* in, size_t height, size_t width, size_t y,
                     size_t outputs, const int64_t* constant, int shift, int32_t largest, int16_t* out) const {
    const Kernels& kernels = active();
    const size_t inputs = layer.inputs * layer.side * layer.side;
    Scratch scratch;
    if (layer.is_narrow) {
        const size_t pairs = (inputs + 1) / 2;
        int16_t* a = scratch.take<int16_t>(width * 2 * pairs);
        int32_t* sums = scratch.take<int32_t>(width * outputs);
        gather(in, height, width, layer.inputs, layer.side, y, 2 * pairs, a);
        kernels.product_pairs(reinterpret_cast<int32_t*>(a), pairs, width, part.pairs.matrix, outputs, sums, outputs);
        for (size_t x = 0; x < width; ++x)
            kernels.finish_pairs(sums + x * outputs, constant, outputs, shift, largest, out + x * outputs);
    } else {
        double* a = scratch.take<double>(width * inputs);
        double* sums = scratch.take<double>(width * outputs);
        gather(in, height, width, layer.inputs, layer.side, y, inputs, a);
        kernels.product_double(a, inputs, width, part.doubles.matrix, outputs, sums, outputs);
        for (size_t x = 0; x < width; ++x)
            kernels.finish_double(sums + x * outputs, constant, outputs, shift, largest, out + x * outputs);
    }
}

void Scales::run_first_row(const int64_t* in, bool is_ordinary, size_t height, size_t width, size_t y, int16_t* out) const {
    const Layer& layer = layers_[0];
    const Part& part = layer.parts[0];
    if (!is_ordinary)
        return run_row(layer, part, in, height, width, y, layer.outputs, part.constant.data(), layer.shift, ACTIVATION_LIMIT,
                       out);
    const size_t inputs = layer.inputs * layer.side * layer.side, pairs = (inputs + 1) / 2, sums = width * layer.outputs;
    Scratch scratch;
    int32_t* seen = scratch.take<int32_t>(width * 2 * pairs);
    int16_t* half = scratch.take<int16_t>(width * 2 * pairs);
    int32_t* high = scratch.take<int32_t>(sums);
    int32_t* low = scratch.take<int32_t>(sums);
    double* both = scratch.take<double>(sums);
    gather(in, height, width, layer.inputs, layer.side, y, 2 * pairs, seen);
    for (int32_t* result : {high, low}) {
        for (size_t i = 0; i < width * 2 * pairs; ++i) half[i] = int16_t(result == high ? seen[i] >> 8 : seen[i] & 255);
        active().product_pairs(reinterpret_cast<int32_t*>(half), pairs, width, part.pairs.matrix, layer.outputs, result,
                               layer.outputs);
    }
    for (size_t i = 0; i < sums; ++i) both[i] = 256.0 * high[i] + low[i];
    for (size_t x = 0; x < width; ++x)
        active().finish_double(both + x * layer.outputs, part.constant.data(), layer.outputs, layer.shift, ACTIVATION_LIMIT,
                               out + x * layer.outputs);
}

void Scales::rows(const int16_t* z, size_t rows, size_t columns, int quality, size_t channels, uint8_t* out,
                  size_t threads) const {
    const size_t height = (rows + 3) / 4, width = (columns + 3) / 4, middle = width_ / 2;
    Scratch scratch;
    int64_t* x = scratch.take<int64_t>(height * width * hyper_);
    bool is_ordinary = true;
    const int32_t* factor = dequantize_.data() + size_t(quality - 1) * hyper_;
    for (size_t p = 0; p < height * width; ++p)
        for (size_t c = 0; c < hyper_; ++c) {
            const int32_t symbol = z[p * hyper_ + c];
            const int64_t value = int64_t(std::min(std::max(symbol, -HYPER_LIMIT), HYPER_LIMIT)) * factor[c];
            x[p * hyper_ + c] = value;
            is_ordinary &= std::abs(value) <= ordinary_;
        }
    int16_t* first = scratch.take<int16_t>(height * width * width_);
    int16_t* second = scratch.take<int16_t>(4 * height * width * middle);
    parallel(height, threads, [&](size_t y) {
        const Layer& b = layers_[1];
        int16_t* here = first + y * width * width_;
        run_first_row(x, is_ordinary, height, width, y, here);
        Scratch own;
        int16_t* part = own.take<int16_t>(width * middle);
        for (size_t p = 0; p < 4; ++p) {
            run_row(b, b.parts[p], here, 1, width, 0, middle, b.parts[p].constant.data(), b.shift, ACTIVATION_LIMIT, part);
            int16_t* to = second + ((2 * y + p / 2) * 2 * width + p % 2) * middle;
            for (size_t i = 0; i < width; ++i) std::copy_n(part + i * middle, middle, to + 2 * i * middle);
        }
    });
    const int shift = layers_[3].shift;
    std::vector<int64_t> constant[4];
    for (size_t p = 0; p < 4; ++p) {
        constant[p] = layers_[3].parts[p].constant;
        const int32_t* offset = row_offset_.data() + size_t(quality - 1) * latents_;
        for (size_t c = 0; c < latents_; ++c)
            constant[p][c] += (int64_t(offset[c]) * (int64_t(1) << shift)) + (int64_t(1) << (shift + ROW_FRACTION_BITS - 1));
    }
    parallel((rows + 1) / 2, threads, [&](size_t y) {
        const Layer &c = layers_[2], &d = layers_[3];
        Scratch own;
        int16_t* third = own.take<int16_t>(2 * width * width_);
        int16_t* found = own.take<int16_t>(2 * width * channels);
        run_row(c, c.parts[0], second, 2 * height, 2 * width, y, width_, c.parts[0].constant.data(), c.shift,
                ACTIVATION_LIMIT, third);
        for (size_t p = 0; p < 4; ++p) {
            const size_t row = 2 * y + p / 2;
            if (row >= rows) break;
            run_row(d, d.parts[p], third, 1, 2 * width, 0, channels, constant[p].data(), shift + ROW_FRACTION_BITS,
                    LAST_ROW, found);
            for (size_t i = 0; 2 * i + p % 2 < columns && i < 2 * width; ++i) {
                uint8_t* to = out + (row * columns + 2 * i + p % 2) * channels;
                for (size_t k = 0; k < channels; ++k) to[k] = uint8_t(found[i * channels + k]);
            }
        }
    });
}

int Scales::self_test(const Weights& weights) const {
    int64_t largest = 0;
    for (int32_t factor : dequantize_) largest = std::max(largest, factor < 0 ? -int64_t(factor) : int64_t(factor));
    largest *= HYPER_LIMIT;
    if (!is_exact(weights, 0, -largest, largest) || (ordinary_ > 0 && !is_exact(weights, 0, -ordinary_, ordinary_))) return 0;
    for (size_t number = 1; number < LAYERS; ++number)
        if (!is_exact(weights, number, 0, ACTIVATION_LIMIT)) return int(number);
    return -1;
}

bool Scales::is_exact(const Weights& weights, size_t number, int64_t low, int64_t high) const {
    constexpr size_t WIDTH = 13;  // a full tile of every level, and a partial one
    const Layer& layer = layers_[number];
    const size_t taps = layer.side * layer.side, outputs = outputs_of(number, width_, latents_);
    const std::string name = "scales." + std::to_string(number);
    const int16_t* w = weights.integers<int16_t>(name + ".weight", Type::int16, outputs * layer.inputs * taps);
    const int64_t* bias = weights.integers<int64_t>(name + ".bias", Type::int64, outputs);
    // An irregular pattern, and extreme values that drive the sums of the first outputs to their limits.
    std::vector<int64_t> x(WIDTH * layer.inputs);
    for (size_t p = 0; p < WIDTH; ++p)
        for (size_t c = 0; c < layer.inputs; ++c) {
            const int64_t number_here = int64_t(p * layer.inputs + c) * 7919 % 4099;
            const bool positive = w[((p % outputs) * layer.inputs + c) * taps + taps / 2] > 0;
            x[p * layer.inputs + c] = p % 3 == 0   ? low + number_here * (high - low) / 4098
                                      : p % 3 == 1 ? (positive ? high - number_here % 16 : low + number_here % 16)
                                                   : (positive ? low + number_here % 16 : high - number_here % 16);
        }
    const std::vector<int16_t> shorts(x.begin(), x.end());
    std::vector<int16_t> found(WIDTH * layer.outputs);
    for (size_t p = 0; p < layer.parts.size(); ++p) {
        const Part& part = layer.parts[p];
        if (number == 0)
            run_first_row(x.data(), high <= ordinary_, 1, WIDTH, 0, found.data());
        else
            run_row(layer, part, shorts.data(), 1, WIDTH, 0, layer.outputs, part.constant.data(), layer.shift,
                    ACTIVATION_LIMIT, found.data());
        for (size_t o = 0; o < layer.outputs; ++o) {
            const size_t of = layer.parts.size() == 4 ? 4 * o + p : o;
            const int16_t* row = w + of * layer.inputs * taps + (layer.side == 3 ? 3 : 0);  // the middle row of 3
            for (size_t i = 0; i < WIDTH; ++i) {
                int64_t sum = bias[of] + (int64_t(1) << (layer.shift - 1));
                for (size_t j = 0; j < layer.side; ++j) {
                    if (i + j < layer.side / 2 || i + j >= WIDTH + layer.side / 2) continue;
                    const int64_t* from = x.data() + (i + j - layer.side / 2) * layer.inputs;
                    for (size_t c = 0; c < layer.inputs; ++c) sum += from[c] * row[c * taps + j];
                }
                const int64_t expected = std::min<int64_t>(std::max<int64_t>(sum >> layer.shift, 0), ACTIVATION_LIMIT);
                if (found[i * layer.outputs + o] != expected) return false;
            }
        }
    }
    return true;
}

}  // namespace vaec
