// Reading and packing the tensors of a weights file.
#include "weights.h"

#include <algorithm>
#include <numeric>

namespace vaec {

float half_to_float(uint16_t half) {
    const uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &magnitude, sizeof value);
    value *= 5.192296858534828e33f;  // 2^112: the exponents of both start elsewhere
    return half & 0x8000 ? -value : value;
}

static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

const Tensor& Weights::get(const std::string& name, size_t count) const {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw Refused(name + " is missing");
    if (found->second.count != count)
        throw Refused(name + " has " + std::to_string(found->second.count) + " values, expected " + std::to_string(count));
    return found->second;
}

std::vector<float> Weights::floats(const std::string& name, size_t count) const {
    const Tensor& tensor = get(name, count);
    std::vector<float> values(count);
    if (tensor.type == Type::float32) {
        memcpy(values.data(), tensor.data, count * sizeof(float));
    } else if (tensor.type == Type::float16) {
        const uint16_t* halves = static_cast<const uint16_t*>(tensor.data);
        for (size_t i = 0; i < count; ++i) values[i] = half_to_float(halves[i]);
    } else {
        throw Refused(name + " holds no floats");
    }
    return values;
}

bool Weights::all_finite() const {
    for (const auto& entry : tensors) {
        const Tensor& tensor = entry.second;
        bool bad = false;
        if (tensor.type == Type::float16) {
            const uint16_t* values = static_cast<const uint16_t*>(tensor.data);
            int16_t largest = 0;  // as integers, magnitudes are in the same order
            for (size_t i = 0; i < tensor.count; ++i) largest = std::max(largest, int16_t(values[i] & 0x7fff));
            bad = largest >= 0x7c00;
        } else if (tensor.type == Type::float32) {
            const uint32_t* values = static_cast<const uint32_t*>(tensor.data);
            for (size_t i = 0; i < tensor.count; ++i) bad |= (values[i] & 0x7f800000) == 0x7f800000;
        }
        if (bad) return false;
    }
    return true;
}

Order in_order(size_t count, size_t first) {
    Order order(count);
    std::iota(order.begin(), order.end(), first);
    return order;
}

Order of_row(size_t i, size_t factor, size_t channels) {
    Order order;
    for (size_t j = 0; j < factor; ++j)
        for (size_t c = 0; c < channels; ++c) order.push_back((c * factor + i) * factor + j);
    return order;
}

Packed<float> pack(const Weights& weights, const std::string& name, const std::string& bias, Shape shape,
                   const Order& outputs, const Order& inputs, bool gated) {
    const std::vector<float> values = weights.floats(name, shape.outputs * shape.inputs);
    Packed<float> result;
    if (gated) {
        // Of each panel the first half are values, the second their gates, which follow all values in the file.
        const size_t count = outputs.size() / 2, half = PANEL / 2, panels = (count + half - 1) / half;
        const std::vector<float> biases = weights.floats(bias, shape.outputs);
        result = pack_values<float>(panels * PANEL, inputs.size(), [&](size_t o, size_t k) {
            const size_t value = o / PANEL * half + o % half, row = value + (o % PANEL < half ? 0 : count);
            return value < count ? values[outputs[row] * shape.inputs + inputs[k]] : 0.0f;
        });
        for (size_t o = 0; o < panels * PANEL; ++o) {
            const size_t value = o / PANEL * half + o % half, row = value + (o % PANEL < half ? 0 : count);
            if (value < count) result.bias.data()[o] = biases[outputs[row]];
        }
        result.matrix.bias = result.bias.data();
        result.matrix.outputs = count;
        result.matrix.gated = true;
        return result;
    }
    result = pack_values<float>(outputs.size(), inputs.size(), [&](size_t o, size_t k) {
        return values[outputs[o] * shape.inputs + inputs[k]];
    });
    if (!bias.empty()) {
        const std::vector<float> biases = weights.floats(bias, shape.outputs);
        for (size_t o = 0; o < outputs.size(); ++o) result.bias.data()[o] = biases[outputs[o]];
        result.matrix.bias = result.bias.data();
    }
    return result;
}

void add_bfloat16(Packed<float>& packed) {
    const Matrix<float>& m = packed.matrix;
    if (m.inputs % 2) return;
    const size_t step = m.gated ? PANEL / 2 : PANEL, panels = (m.outputs + step - 1) / step;
    packed.pairs = Aligned<float>(panels * PANEL * m.inputs / 2);
    for (size_t p = 0; p < panels; ++p) {
        const size_t width = m.gated || m.outputs - p * step > PANEL / 2 ? PANEL : PANEL / 2;
        const float* from = m.data + p * PANEL * m.inputs;
        float* to = packed.pairs.data() + p * PANEL * m.inputs / 2;
        for (size_t k = 0; k < m.inputs; k += 2)
            for (size_t o = 0; o < width; ++o) {
                const uint32_t low = to_bfloat16(from[k * width + o]), high = to_bfloat16(from[(k + 1) * width + o]);
                const uint32_t pair = low | high << 16;
                memcpy(to + k / 2 * width + o, &pair, sizeof pair);
            }
    }
    packed.bfloat16 = m;
    packed.bfloat16.data = packed.pairs.data();
    packed.bfloat16.inputs = packed.bfloat16.panel_inputs = m.inputs / 2;
}

Packed<float> pack(const Weights& weights, const std::string& name, const std::string& bias, Shape shape, bool gated) {
    return pack(weights, name, bias, shape, in_order(shape.outputs), in_order(shape.inputs), gated);
}

}  // namespace vaec
