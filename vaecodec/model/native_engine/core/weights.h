// The tensors of a weights file, and matrices packed from them.
#pragma once
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace vaec {

struct Refused : std::runtime_error {  // weights or arguments that are inconsistent
    using std::runtime_error::runtime_error;
};

enum class Type : int32_t { float32 = 0, float16 = 1, int16 = 2, int32 = 3, int64 = 4 };

struct Tensor {
    const void* data;
    Type type;
    size_t count;
};

float half_to_float(uint16_t half);

class Weights {
  public:
    std::map<std::string, Tensor> tensors;

    const Tensor& get(const std::string& name, size_t count) const;
    std::vector<float> floats(const std::string& name, size_t count) const;
    template <class T>
    const T* integers(const std::string& name, Type type, size_t count) const {
        const Tensor& tensor = get(name, count);
        if (tensor.type != type) throw Refused(name + " is of another type");
        return static_cast<const T*>(tensor.data);
    }
    bool all_finite() const;
};

typedef std::vector<size_t> Order;
// first, first + 1, ...
Order in_order(size_t count, size_t first = 0);
// Channels of a pixel shuffle or its inverse: of row `i` of `factor`, for each column, all `channels`.
Order of_row(size_t i, size_t factor, size_t channels);

// Memory aligned to a cache line.
template <class T>
class Aligned {
  public:
    explicit Aligned(size_t count = 0) : memory_(new unsigned char[count * sizeof(T) + 64]()) {
        size_t address = reinterpret_cast<size_t>(memory_.get());
        data_ = reinterpret_cast<T*>(memory_.get() + (-address) % 64);
    }
    T* data() const { return data_; }

  private:
    std::unique_ptr<unsigned char[]> memory_;
    T* data_;
};

// A packed matrix and its memory.
template <class T>
struct Packed {
    Matrix<T> matrix;
    Aligned<T> data, bias;
    Matrix<float> bfloat16;  // the same in pairs of bfloat16, for kernels that have them; or no data
    Aligned<float> pairs;
};

struct Shape {
    size_t outputs, inputs;
};

// Outputs and inputs of tensor `name` [shape.outputs, shape.inputs], in the given orders; bias is its name, or "".
Packed<float> pack(const Weights& weights, const std::string& name, const std::string& bias, Shape shape,
                   const Order& outputs, const Order& inputs, bool gated = false);
Packed<float> pack(const Weights& weights, const std::string& name, const std::string& bias, Shape shape,
                   bool gated = false);

// Adds the pairs of bfloat16, rounded to the nearest; leaves a matrix with an odd number of inputs as it is.
void add_bfloat16(Packed<float>& packed);

// value(output, input) for all of a matrix.
template <class T, class Value>
Packed<T> pack_values(size_t outputs, size_t inputs, Value value) {
    const size_t panels = (outputs + PANEL - 1) / PANEL;
    Packed<T> result{{}, Aligned<T>(panels * PANEL * inputs), Aligned<T>(panels * PANEL), {}, Aligned<float>()};
    for (size_t o = 0; o < outputs; ++o) {
        const size_t panel = o / PANEL, width = outputs - panel * PANEL > PANEL / 2 ? PANEL : PANEL / 2;
        T* to = result.data.data() + panel * PANEL * inputs + o % PANEL;
        for (size_t k = 0; k < inputs; ++k) to[k * width] = value(o, k);
    }
    result.matrix.data = result.data.data();
    result.matrix.inputs = result.matrix.panel_inputs = inputs;
    result.matrix.outputs = outputs;
    return result;
}

}  // namespace vaec
