// The float network: layers packed from the weights, and the schedule of rows of positions through them.
//
// Work is split into bands of rows, which stay in the caches while several layers run over them. Only depthwise kernels
// need neighbouring rows, and wait until these are complete.
#include "model.h"

#include <algorithm>
#include <cmath>

#include "pool.h"

namespace vaec {
namespace {

constexpr size_t BAND_POSITIONS = 128;
constexpr size_t GRID = 4;  // pixels per position of the fine grid, and positions of it per latent

Depthwise depthwise_of(const Weights& weights, const std::string& name, size_t channels, size_t side, const Order& order,
                       bool residual) {
    const size_t taps = side * side, padded = (channels + 15) / 16 * 16;
    const std::vector<float> values = weights.floats(name + ".weight", channels * taps);
    const std::vector<float> bias = weights.floats(name + ".bias", channels);
    Depthwise result{side, channels, Aligned<float>(taps * padded), Aligned<float>(padded)};
    for (size_t c = 0; c < channels; ++c) {
        for (size_t t = 0; t < taps; ++t)
            result.taps.data()[t * padded + c] = values[order[c] * taps + t] + (residual && t == taps / 2 ? 1.0f : 0.0f);
        result.bias.data()[c] = bias[order[c]];
    }
    return result;
}

// `order` is the order of the channels in memory.
Block block_of(const Weights& weights, const std::string& name, size_t channels, size_t gates, size_t side,
               const Order& order) {
    const Order all = in_order(2 * gates), half = in_order(gates);
    return {
        channels, gates,
        pack(weights, name + ".mix_in.weight", name + ".mix_in.bias", {channels, channels}, order, order),
        pack(weights, name + ".mix_out.weight", "", {channels, channels}, order, order),
        pack(weights, name + ".gate_in.weight", name + ".gate_in.bias", {2 * gates, channels}, all, order, true),
        pack(weights, name + ".gate_out.weight", "", {channels, gates}, order, half),
        depthwise_of(weights, name + ".mix_space", channels, side, order, false),
    };
}
Block block_of(const Weights& weights, const std::string& name, size_t channels, size_t gates, size_t side = 3) {
    return block_of(weights, name, channels, gates, side, in_order(channels));
}

Unfold unfold_of(const Weights& weights, const std::string& name, const std::string& bias, size_t factor, size_t inputs,
                 size_t channels) {
    Unfold result{factor, inputs, channels, {}};
    for (size_t i = 0; i < factor; ++i)
        result.parts.push_back(pack(weights, name, bias, {factor * factor * channels, inputs}, of_row(i, factor, channels),
                                    in_order(inputs)));
    return result;
}

// `order` is the order of the channels of the fine grid in memory.
Fold fold_of(const Weights& weights, const std::string& name, const std::string& bias, size_t factor, size_t outputs,
             const Order& order) {
    Fold result{factor, order.size(), outputs, {}};
    for (size_t i = 0; i < factor; ++i) {
        Order inputs;
        for (size_t j = 0; j < factor; ++j)
            for (size_t c : order) inputs.push_back((c * factor + i) * factor + j);
        result.parts.push_back(pack(weights, name, i ? "" : bias, {outputs, factor * factor * order.size()},
                                    in_order(outputs), inputs));
    }
    return result;
}

// The content and its correction, which are added, as one map of both inputs.
Unfold content_of(const Weights& weights, size_t latents, size_t corrections, size_t channels) {
    const size_t samples = GRID * GRID * channels, inputs = latents + corrections;
    const std::vector<float> content = weights.floats("synthesis.content.weight", samples * latents);
    const std::vector<float> correction = weights.floats("synthesis.correction.weight", samples * corrections);
    const std::vector<float> bias = weights.floats("synthesis.content.bias", samples);
    Unfold result{GRID, inputs, channels, {}};
    for (size_t i = 0; i < GRID; ++i) {
        const Order order = of_row(i, GRID, channels);
        Packed<float> part = pack_values<float>(order.size(), inputs, [&](size_t o, size_t k) {
            return k < latents ? content[order[o] * latents + k] : correction[order[o] * corrections + k - latents];
        });
        for (size_t o = 0; o < order.size(); ++o) part.bias.data()[o] = bias[order[o]];
        part.matrix.bias = part.bias.data();
        result.parts.push_back(std::move(part));
    }
    return result;
}

Curve curve_of(const Weights& weights, const std::string& name, size_t anchors, size_t channels) {
    return {anchors, channels, weights.floats(name + ".log_gain", anchors * channels)};
}

size_t band_rows(size_t columns) { return std::max<size_t>(1, BAND_POSITIONS / columns); }

// work(first, last) for bands of rows.
template <class Work>
void by_bands(size_t rows, size_t band, size_t threads, const Work& work) {
    parallel((rows + band - 1) / band, threads, [&](size_t n) { work(n * band, std::min(rows, (n + 1) * band)); });
}

void multiply(const Packed<float>& w, const float* a, size_t positions, float* c, bool add = false,
              After after = After::none) {
    const Kernels& kernels = active();
    const size_t inputs = w.matrix.inputs, outputs = w.matrix.outputs;
    if (!w.bfloat16.data || !kernels.product_bfloat16)
        return kernels.product(a, inputs, positions, w.matrix, outputs, add, after, c, outputs);
    Scratch scratch;
    float* pairs = scratch.take<float>(positions * inputs / 2);
    kernels.to_bfloat16(a, positions * inputs, pairs);
    kernels.product_bfloat16(pairs, inputs / 2, positions, w.bfloat16, outputs, add, after, c, outputs);
}

void unfold_row(const Unfold& unfold, size_t i, const float* a, size_t positions, float* c) {
    multiply(unfold.parts[i], a, positions, c);
}

// A row of outputs from `factor` rows of the fine grid, from `fine` on.
void fold_row(const Fold& fold, const float* fine, size_t columns, float* c, bool add = false) {
    for (size_t i = 0; i < fold.factor; ++i)
        multiply(fold.parts[i], fine + i * columns * fold.factor * fold.channels, columns, c, add || i > 0);
}

// One row of a depthwise convolution over x [height, width, channels]; `zeros` is a row of them.
void depthwise_row(const Depthwise& layer, const float* x, size_t height, size_t width, size_t y, const float* zeros,
                   float* out) {
    const float* rows[MOST_TAPS];
    const size_t reach = layer.side / 2;
    for (size_t i = 0; i < layer.side; ++i)
        rows[i] = y + i < reach || y + i >= height + reach ? zeros : x + (y + i - reach) * width * layer.channels;
    active().depthwise(rows, layer.side, width, layer.channels, layer.taps.data(), layer.bias.data(), out);
}

const float* zero_row(Scratch& scratch, size_t count) {
    float* zeros = scratch.take<float>(count);
    std::fill_n(zeros, count, 0.0f);
    return zeros;
}

// Blocks over x [rows, columns, channels], in place. before(first, last) makes rows of x; between(n, first, last) changes
// them after block n; after(first, last) follows the last one. All of them work on bands.
template <class Before, class Between, class Last>
void run_blocks(const Block* blocks, size_t count, float* x, size_t rows, size_t columns, size_t band, size_t threads,
                const Before& before, const Between& between, const Last& last_step) {
    const size_t channels = blocks[0].channels, row = columns * channels;
    Scratch scratch;
    float* mixed[2] = {scratch.take<float>(rows * row), count > 1 ? scratch.take<float>(rows * row) : nullptr};
    const float* zeros = zero_row(scratch, row);
    by_bands(rows, band, threads, [&](size_t first, size_t last) {
        before(first, last);
        multiply(blocks[0].mix_in, x + first * row, (last - first) * columns, mixed[0] + first * row, false, After::leaky);
    });
    for (size_t n = 0; n < count; ++n)
        by_bands(rows, band, threads, [&](size_t first, size_t last) {
            const Block& block = blocks[n];
            const size_t positions = (last - first) * columns;
            Scratch own;
            float* spread = own.take<float>(positions * channels);
            float* gated = own.take<float>(positions * block.gates);
            float* here = x + first * row;
            for (size_t y = first; y < last; ++y)
                depthwise_row(block.space, mixed[n % 2], rows, columns, y, zeros, spread + (y - first) * row);
            multiply(block.mix_out, spread, positions, here, true);
            multiply(block.gate_in, here, positions, gated);
            multiply(block.gate_out, gated, positions, here, true);
            between(n, first, last);
            if (n + 1 < count)
                multiply(blocks[n + 1].mix_in, here, positions, mixed[(n + 1) % 2] + first * row, false, After::leaky);
            else
                last_step(first, last);
        });
}

const auto nothing = [](auto...) {};

}  // namespace

// Pixels [16 rows, 16 columns, 3] about 0..1, before their deblocking, and the bounds that guide it.
struct Model::Picture {
    size_t rows, columns;  // of latents
    float* pixels;
    float* bounds;  // [rows, columns, 48]
    size_t width() const { return 16 * columns; }
    size_t row() const { return 3 * width(); }
};

Model::Model(const Architecture& a, Weights given)
    : arch(a), weights_(std::move(given)), scales_(weights_, a.hyper_channels, a.scale_channels, a.latent_channels) {
    if (!weights_.all_finite()) throw Refused("a tensor holds NaN or infinity");
    const Weights& w = weights_;
    const size_t latents = a.latent_channels, hyper = a.hyper_channels, body = a.synthesis_channels;
    const size_t render = a.render_channels, hidden = a.render_hidden_channels, prior = a.prior_channels;
    const size_t condition = a.condition_channels, anchors = a.quality_anchors;
    latent_gain_ = curve_of(w, "latent_gain", anchors, latents);
    latent_restore_ = curve_of(w, "latent_restore", anchors, latents);
    hyper_gain_ = curve_of(w, "hyper_gain", anchors, hyper);
    synthesis_gain_ = curve_of(w, "synthesis.gain", anchors, body);

    body_in_ = pack(w, "synthesis.body_in.weight", "synthesis.body_in.bias", {body, latents});
    for (int32_t n = 0; n < a.synthesis_blocks; ++n)
        synthesis_blocks_.push_back(
            block_of(w, "synthesis.blocks." + std::to_string(n), body, a.synthesis_gate_channels));
    correction_in_ = pack(w, "synthesis.correction_in.weight", "", {size_t(a.correction_channels), body});
    content_ = content_of(w, latents, a.correction_channels, render);
    condition_ = unfold_of(w, "synthesis.condition.weight", "synthesis.condition.bias", GRID, body, condition);
    modulation_ = pack(w, "synthesis.modulation.weight", "synthesis.modulation.bias", {2 * render, condition});
    overlap_ = depthwise_of(w, "synthesis.overlap", render, 3, in_order(render), true);
    render_in_ = pack(w, "synthesis.render_in.weight", "synthesis.render_in.bias", {hidden, render});
    render_space_ = depthwise_of(w, "synthesis.render_space", hidden, 3, in_order(hidden), true);
    render_out_ = pack(w, "synthesis.render_out.weight", "synthesis.render_out.bias", {render, hidden});
    Order by_row;  // of the samples of a position: its rows, their pixels, colours
    for (size_t i = 0; i < GRID; ++i)
        for (size_t sample : of_row(i, GRID, 3)) by_row.push_back(sample);
    pixels_out_ = pack(w, "synthesis.pixels_out.weight", "synthesis.pixels_out.bias", {48, render}, by_row, in_order(render));
    bound_ = pack(w, "synthesis.deblocking.bound.weight", "synthesis.deblocking.bound.bias", {48, body});
    const std::vector<float> ramp = w.floats("synthesis.deblocking.ramp", 4);
    std::copy(ramp.begin(), ramp.end(), ramp_);
    slope_ = w.floats("synthesis.deblocking.slope", 1)[0];

    hyper_in_ = unfold_of(w, "hyper_synthesis.body.0.weight", "hyper_synthesis.body.0.bias", 2, hyper, prior);
    hyper_block_ = block_of(w, "hyper_synthesis.body.2", prior, prior);
    hyper_out_ = unfold_of(w, "hyper_synthesis.body.3.weight", "hyper_synthesis.body.3.bias", 2, prior, prior);
    mean_out_ = pack(w, "hyper_synthesis.mean_out.weight", "hyper_synthesis.mean_out.bias", {latents, prior});
    latent_in_ = pack(w, "context.latent_in.weight", "context.latent_in.bias", {prior, latents});
    feature_in_ = pack(w, "context.feature_in.weight", "", {prior, prior});
    context_blocks_.push_back(block_of(w, "context.body.0", prior, prior, 5));
    context_blocks_.push_back(block_of(w, "context.body.1", prior, prior, 3));
    const size_t half = latents / 2;
    context_low_ = pack(w, "context.mean_out.weight", "", {latents, prior}, in_order(half), in_order(prior));
    context_high_ = pack(w, "context.mean_out.weight", "", {latents, prior}, in_order(latents - half, half), in_order(prior));

    const size_t base = latents / 8;
    const std::vector<float> whole = w.floats("preview.whole", (latents + 1) * 192);
    const std::vector<float> of_base = w.floats("preview.base", (base + 1) * 12);
    for (size_t n = 0; n < 3; ++n) {
        const size_t side = 8 >> n, cell = size_t(1) << n, inputs = n == 2 ? base : latents;
        // Samples in memory by row, pixel, colour; in the file by colour, row, pixel, at scale 4 in means of 2x2.
        const auto value = [&](size_t o, size_t k) {
            const size_t row = o / (3 * side), column = o / 3 % side, colour = o % 3;
            if (n == 2) return of_base[k * 12 + (colour * side + row) * side + column];
            float sum = 0;
            for (size_t i = 0; i < cell; ++i)
                for (size_t j = 0; j < cell; ++j)
                    sum += whole[k * 192 + (colour * 8 + cell * row + i) * 8 + cell * column + j];
            return sum / float(cell * cell);
        };
        previews_[n] = pack_values<float>(3 * side * side, inputs, value);
        for (size_t o = 0; o < 3 * side * side; ++o) previews_[n].bias.data()[o] = value(o, inputs);
        previews_[n].matrix.bias = previews_[n].bias.data();
    }
}

const Encoder& Model::encoder() const {
    std::call_once(encoder_made_, [this] {
        const Weights& w = weights_;
        const size_t width = arch.analysis_channels, latents = arch.latent_channels, prior = arch.prior_channels;
        Order by_row;
        for (size_t i = 0; i < GRID; ++i)
            for (size_t sample : of_row(i, GRID, 3)) by_row.push_back(sample);
        auto made = std::make_unique<Encoder>();
        made->local = block_of(w, "analysis.local", 48, 48, 3, by_row);
        made->patch_in = fold_of(w, "analysis.patch_in.weight", "analysis.patch_in.bias", GRID, width, by_row);
        made->detail = fold_of(w, "analysis.detail.weight", "", GRID, latents, by_row);
        for (int32_t n = 0; n < arch.analysis_blocks; ++n)
            made->blocks.push_back(block_of(w, "analysis.blocks." + std::to_string(n), width, width));
        made->gain = curve_of(w, "analysis.gain", arch.quality_anchors, width);
        made->latent_out = pack(w, "analysis.latent_out.weight", "analysis.latent_out.bias", {latents, width});
        // The analysis may use bfloat16, because its result is quantized. Layers that need full precision keep it.
        made->blocks.push_back(std::move(made->local));
        for (Block& block : made->blocks)
            for (Packed<float>* each : {&block.mix_in, &block.mix_out, &block.gate_in, &block.gate_out}) add_bfloat16(*each);
        made->local = std::move(made->blocks.back());
        made->blocks.pop_back();
        for (Packed<float>& each : made->patch_in.parts) add_bfloat16(each);
        add_bfloat16(made->latent_out);
        made->hyper_in = pack(w, "hyper_analysis.0.weight", "hyper_analysis.0.bias", {prior, latents});
        made->hyper_blocks[0] = block_of(w, "hyper_analysis.1", prior, prior);
        made->hyper_folds[0] =
            fold_of(w, "hyper_analysis.3.weight", "hyper_analysis.3.bias", 2, prior, in_order(prior));
        made->hyper_blocks[1] = block_of(w, "hyper_analysis.4", prior, prior);
        made->hyper_folds[1] = fold_of(w, "hyper_analysis.6.weight", "hyper_analysis.6.bias", 2, arch.hyper_channels,
                                       in_order(prior));
        encoder_ = std::move(made);
    });
    return *encoder_;
}

std::vector<float> Model::gains(const Curve& curve, int quality, bool inverse) const {
    const float level = float((quality - 1) / 99.0), position = level * float(curve.anchors - 1);
    const size_t left = std::min(size_t(position), curve.anchors - 2);
    const float weight = position - float(left);
    std::vector<float> result(curve.channels);
    for (size_t c = 0; c < curve.channels; ++c) {
        const float* at = curve.log_gain.data() + left * curve.channels + c;
        const float log = at[0] * (1 - weight) + at[curve.channels] * weight;
        result[c] = inverse ? -log : log;
    }
    active().exp(result.data(), result.size());
    return result;
}

// --- pixels to latents ------------------------------------------------------------------------------------------------

void Model::analyze(const uint8_t* pixels, size_t height, size_t width, int quality, float* y, size_t threads) const {
    const Encoder& parts = encoder();
    const size_t rows = height / 16, columns = width / 16, channels = arch.analysis_channels;
    const size_t fine_columns = width / GRID, fine_row = fine_columns * 48;
    float of_byte[256];
    for (int value = 0; value < 256; ++value) of_byte[value] = 2 * (float(value) / 255) - 1;
    Scratch scratch;
    float* x = scratch.take<float>(rows * columns * channels);
    {
        Scratch inner;
        float* fine = inner.take<float>(4 * rows * fine_row);
        run_blocks(
            &parts.local, 1, fine, 4 * rows, fine_columns, GRID, threads,
            [&](size_t first, size_t last) {
                for (size_t r = first; r < last; ++r)
                    for (size_t i = 0; i < GRID; ++i) {
                        const uint8_t* from = pixels + (GRID * r + i) * width * 3;
                        float* to = fine + r * fine_row + i * 12;
                        for (size_t p = 0; p < fine_columns; ++p, to += 48, from += 12)
                            for (size_t s = 0; s < 12; ++s) to[s] = of_byte[from[s]];
                    }
            },
            nothing,
            [&](size_t first, size_t) {  // four rows: one of latents
                const size_t r = first / GRID;
                fold_row(parts.patch_in, fine + first * fine_row, columns, x + r * columns * channels);
                fold_row(parts.detail, fine + first * fine_row, columns, y + r * columns * arch.latent_channels);
            });
    }
    const std::vector<float> gain = gains(parts.gain, quality);
    run_blocks(
        parts.blocks.data(), parts.blocks.size(), x, rows, columns, band_rows(columns), threads, nothing,
        [&](size_t n, size_t first, size_t last) {
            if (n == parts.blocks.size() / 2)
                active().scale(x + first * columns * channels, gain.data(), (last - first) * columns, channels);
        },
        [&](size_t first, size_t last) {
            multiply(parts.latent_out, x + first * columns * channels, (last - first) * columns,
                     y + first * columns * arch.latent_channels, true);
        });
}

void Model::hyper_analyze(const float* y, size_t rows, size_t columns, int quality, float* steps, float* z,
                          size_t threads) const {
    const Encoder& parts = encoder();
    const size_t height = (rows + 3) / 4, width = (columns + 3) / 4, latents = arch.latent_channels;
    const size_t prior = arch.prior_channels, hyper = arch.hyper_channels;
    Scratch scratch;
    float* fine = scratch.take<float>(16 * height * width * prior);
    float* middle = scratch.take<float>(4 * height * width * prior);
    const size_t fine_row = 4 * width * prior, middle_row = 2 * width * prior;
    run_blocks(
        &parts.hyper_blocks[0], 1, fine, 4 * height, 4 * width, 2, threads,
        [&](size_t first, size_t last) {
            Scratch own;
            float* padded = own.take<float>(4 * width * latents);
            for (size_t r = first; r < last; ++r) {
                std::fill_n(padded, 4 * width * latents, 0.0f);
                if (r < rows) std::copy_n(y + r * columns * latents, columns * latents, padded);
                multiply(parts.hyper_in, padded, 4 * width, fine + r * fine_row);
            }
        },
        nothing,
        [&](size_t first, size_t) {
            fold_row(parts.hyper_folds[0], fine + first * fine_row, 2 * width, middle + first / 2 * middle_row);
        });
    const std::vector<float> hyper_gain = gains(hyper_gain_, quality);
    run_blocks(&parts.hyper_blocks[1], 1, middle, 2 * height, 2 * width, 2, threads, nothing, nothing,
               [&](size_t first, size_t) {
                   float* out = z + first / 2 * width * hyper;
                   fold_row(parts.hyper_folds[1], middle + first * middle_row, width, out);
                   active().scale(out, hyper_gain.data(), width, hyper);
               });
    const std::vector<float> gain = gains(latent_gain_, quality);
    std::copy_n(y, rows * columns * latents, steps);
    active().scale(steps, gain.data(), rows * columns, latents);
}

// --- hyper-latents to means -------------------------------------------------------------------------------------------

void Model::start_prediction(const int16_t* z, size_t rows, size_t columns, int quality, size_t channels, float* features,
                             float* mean, size_t threads) const {
    const size_t height = (rows + 3) / 4, width = (columns + 3) / 4, hyper = arch.hyper_channels;
    const size_t prior = arch.prior_channels, row = 2 * width * prior;
    const std::vector<float> restore = gains(hyper_gain_, quality, true);
    Scratch scratch;
    float* x = scratch.take<float>(2 * height * row);
    run_blocks(
        &hyper_block_, 1, x, 2 * height, 2 * width, 2, threads,
        [&](size_t first, size_t) {
            Scratch own;
            float* a = own.take<float>(width * hyper);
            for (size_t i = 0; i < width * hyper; ++i) a[i] = float(z[first / 2 * width * hyper + i]) * restore[i % hyper];
            for (size_t i = 0; i < 2; ++i) unfold_row(hyper_in_, i, a, width, x + (first + i) * row);
        },
        nothing,
        [&](size_t first, size_t last) {
            Scratch own;
            float* fine = own.take<float>(4 * width * prior);
            for (size_t r = 2 * first; r < std::min(2 * last, rows); ++r) {
                unfold_row(hyper_out_, r % 2, x + r / 2 * row, 2 * width, fine);
                std::copy_n(fine, columns * prior, features + r * columns * prior);
                active().product(fine, prior, columns, mean_out_.matrix, channels, false, After::none,
                                 mean + r * columns * channels, channels);
            }
        });
}

namespace {

// The channels of one half at a position: at odd positions, those of the first half are the low ones.
struct Range {
    size_t first, last;
};
Range half_at(size_t number, size_t row, size_t column, size_t latents, size_t channels) {
    const bool is_low = ((row + column) % 2 == 1) == (number == 0);
    const size_t half = latents / 2;
    return is_low ? Range{0, std::min(half, channels)} : Range{std::min(half, channels), channels};
}

}  // namespace

void Model::refine(const int16_t* symbols, const float* features, size_t rows, size_t columns, int quality,
                   size_t channels, float* mean, float* latents, size_t threads) const {
    const size_t prior = arch.prior_channels, all = arch.latent_channels;
    const std::vector<float> gain = gains(latent_gain_, quality);
    const Kernels& kernels = active();
    Scratch scratch;
    float* x = scratch.take<float>(rows * columns * prior);
    const auto begin = [&](size_t first, size_t last) {
        for (size_t r = first; r < last; ++r) {
            const size_t row = r * columns;
            for (size_t column = 0; column < columns; ++column) {
                const Range range = half_at(0, r, column, all, channels);
                const size_t at = (row + column) * channels;
                kernels.dequantize(mean + at + range.first, symbols + at + range.first, gain.data() + range.first,
                                   range.last - range.first, latents + at + range.first);
            }
            // At each position only half of the channels are known; the sums skip the others.
            for (size_t start = 0; start < std::min<size_t>(2, columns); ++start) {
                const Range range = half_at(0, r, start, all, channels);
                Matrix<float> some = latent_in_.matrix;
                some.skipped = range.first;
                some.inputs = range.last - range.first;
                kernels.product(latents + (row + start) * channels + range.first, 2 * channels,
                                (columns - start + 1) / 2, some, prior, false, After::none, x + (row + start) * prior,
                                2 * prior);
            }
        }
        multiply(feature_in_, features + first * columns * prior, (last - first) * columns, x + first * columns * prior,
                 true);
    };
    const auto finish = [&](size_t first, size_t last) {
        for (size_t r = first; r < last; ++r)
            for (size_t start = 0; start < std::min<size_t>(2, columns); ++start) {
                const Range range = half_at(1, r, start, all, channels);
                if (range.first == range.last) continue;
                const size_t at = r * columns + start;
                kernels.product(x + at * prior, 2 * prior, (columns - start + 1) / 2,
                                (range.first ? context_high_ : context_low_).matrix, range.last - range.first, true,
                                After::none, mean + at * channels + range.first, 2 * channels);
            }
    };
    const size_t band = band_rows(columns), row = columns * prior;
    const Block& last_block = context_blocks_[1];
    if (channels > all / 2)
        return run_blocks(context_blocks_.data(), 2, x, rows, columns, band, threads, begin, nothing, finish);
    // Of the base, the second half is at even positions only, and so is all that the last block needs after its mixing.
    float* mixed = scratch.take<float>(rows * row);
    const float* zeros = zero_row(scratch, row);
    run_blocks(context_blocks_.data(), 1, x, rows, columns, band, threads, begin, nothing, [&](size_t first, size_t last) {
        multiply(last_block.mix_in, x + first * row, (last - first) * columns, mixed + first * row, false, After::leaky);
    });
    by_bands(rows, band, threads, [&](size_t first, size_t last) {
        Scratch own;
        float* spread = own.take<float>(row);
        float* gated = own.take<float>(columns * last_block.gates);
        for (size_t r = first; r < last; ++r) {
            const size_t start = r % 2, count = (columns - start + 1) / 2;
            float* here = x + r * row + start * prior;
            depthwise_row(last_block.space, mixed, rows, columns, r, zeros, spread);
            kernels.product(spread + start * prior, 2 * prior, count, last_block.mix_out.matrix, prior, true, After::none, here,
                            2 * prior);
            kernels.product(here, 2 * prior, count, last_block.gate_in.matrix, last_block.gates, false, After::none, gated,
                            last_block.gates);
            kernels.product(gated, last_block.gates, count, last_block.gate_out.matrix, prior, true, After::none, here,
                            2 * prior);
        }
        finish(first, last);
    });
}

void Model::complete(const int16_t* symbols, size_t rows, size_t columns, int quality, size_t channels, const float* mean,
                     float* latents, size_t threads) const {
    const std::vector<float> gain = gains(latent_gain_, quality);
    by_bands(rows, band_rows(columns), threads, [&](size_t first, size_t last) {
        for (size_t row = first; row < last; ++row)
            for (size_t column = 0; column < columns; ++column) {
                const Range range = half_at(1, row, column, arch.latent_channels, channels);
                const size_t at = (row * columns + column) * channels;
                active().dequantize(mean + at + range.first, symbols + at + range.first, gain.data() + range.first,
                                    range.last - range.first, latents + at + range.first);
            }
    });
}

void Model::residual(const float* steps, const float* mean, size_t positions, int quality, size_t channels, float* out,
                     size_t threads) const {
    const std::vector<float> gain = gains(latent_gain_, quality);
    by_bands(positions, BAND_POSITIONS, threads, [&](size_t first, size_t last) {
        for (size_t p = first; p < last; ++p)
            for (size_t c = 0; c < channels; ++c)
                out[p * channels + c] = steps[p * channels + c] - mean[p * channels + c] * gain[c];
    });
}

// --- latents to pixels ------------------------------------------------------------------------------------------------

void Model::render(const float* y, size_t rows, size_t columns, int quality, Picture& picture, size_t threads) const {
    const size_t latents = arch.latent_channels, body = arch.synthesis_channels, render = arch.render_channels;
    const std::vector<float> restore = gains(latent_restore_, quality), gain = gains(synthesis_gain_, quality);
    const size_t fine_row = GRID * columns * render;
    Scratch scratch;
    float* x = scratch.take<float>(rows * columns * body);
    float* content = scratch.take<float>(GRID * rows * fine_row);
    const size_t inputs = content_.inputs;
    float* restored = scratch.take<float>(rows * columns * inputs);  // latents, then corrections
    run_blocks(
        synthesis_blocks_.data(), synthesis_blocks_.size(), x, rows, columns, band_rows(columns), threads,
        [&](size_t first, size_t last) {
            for (size_t p = first * columns; p < last * columns; ++p)
                for (size_t c = 0; c < latents; ++c) restored[p * inputs + c] = y[p * latents + c] * restore[c];
            active().product(restored + first * columns * inputs, inputs, (last - first) * columns, body_in_.matrix, body,
                             false, After::none, x + first * columns * body, body);
        },
        [&](size_t n, size_t first, size_t last) {
            if (n == synthesis_blocks_.size() / 2)
                active().scale(x + first * columns * body, gain.data(), (last - first) * columns, body);
        },
        [&](size_t first, size_t last) {
            const size_t positions = (last - first) * columns;
            const float* here = x + first * columns * body;
            active().product(here, body, positions, correction_in_.matrix, inputs - latents, false, After::none,
                             restored + first * columns * inputs + latents, inputs);
            for (size_t i = 0; i < GRID; ++i)
                for (size_t r = first; r < last; ++r)
                    unfold_row(content_, i, restored + r * columns * inputs, columns, content + (GRID * r + i) * fine_row);
            multiply(bound_, here, positions, picture.bounds + first * columns * 48);
        });
    const size_t band = 4 * GRID;
    by_bands(GRID * rows, band, threads,
             [&](size_t first, size_t last) { render_rows(picture, content, x, first, last); });
}

// Processes rows of the fine grid in order; ring buffers keep what neighbouring rows share.
void Model::render_rows(const Picture& picture, const float* content, const float* body, size_t first,
                        size_t last) const {
    const Kernels& kernels = active();
    const size_t width = GRID * picture.columns, height = GRID * picture.rows, render = arch.render_channels;
    const size_t hidden = arch.render_hidden_channels, condition = arch.condition_channels;
    Scratch scratch;
    const float* zeros = zero_row(scratch, width * std::max(render, hidden));
    float *smooth[2], *modulated[2], *seen[3];
    for (size_t n = 0; n < 3; ++n) {
        seen[n] = scratch.take<float>(width * hidden);
        if (n == 2) break;
        smooth[n] = scratch.take<float>(width * render);
        modulated[n] = scratch.take<float>(width * 2 * render);
    }
    float* conditions = scratch.take<float>(width * condition);
    float* wide = scratch.take<float>(width * std::max(render, hidden));
    float* narrow = scratch.take<float>(width * std::max<size_t>(render, 48));
    const auto prepare = [&](size_t r) {
        float* scales = modulated[r % 2];
        unfold_row(condition_, r % GRID, body + r / GRID * picture.columns * arch.synthesis_channels, picture.columns,
                   conditions);
        kernels.silu(conditions, width * condition);
        multiply(modulation_, conditions, width, scales);
        depthwise_row(overlap_, content, height, width, r, zeros, smooth[r % 2]);
        kernels.add_product(smooth[r % 2], smooth[r % 2], scales, 2 * render, width, render, narrow);
        multiply(render_in_, narrow, width, seen[r % 3], false, After::leaky);
    };
    for (size_t r = first ? first - 1 : 0; r <= first; ++r) prepare(r);
    for (size_t r = first; r < last; ++r) {
        if (r + 1 < height) prepare(r + 1);
        const float* around[3] = {r ? seen[(r + 2) % 3] : zeros, seen[r % 3], r + 1 < height ? seen[(r + 1) % 3] : zeros};
        kernels.depthwise(around, 3, width, hidden, render_space_.taps.data(), render_space_.bias.data(), wide);
        multiply(render_out_, wide, width, narrow);
        kernels.add_product(smooth[r % 2], narrow, modulated[r % 2] + render, 2 * render, width, render, wide);
        multiply(pixels_out_, wide, width, narrow);
        for (size_t i = 0; i < GRID; ++i) {
            float* to = picture.pixels + (GRID * r + i) * picture.row();
            for (size_t p = 0; p < width; ++p) memcpy(to + 12 * p, narrow + 48 * p + 12 * i, 12 * sizeof(float));
        }
    }
}

// Smooths `from` into `to`, which may be the same memory, and converts to bytes; false if values are not finite.
//
// Bounds of a latent: for its right, left, bottom and top border, by colour and segment of four pixels.
bool Model::deblock(const Picture& from, float* to, int cut, uint8_t* pixels, size_t threads) const {
    const Kernels& kernels = active();
    const size_t rows = from.rows, columns = from.columns, row = from.row();
    const float share = 1 - float(cut) / 64;
    by_bands(rows, 1, threads, [&](size_t r, size_t) {
        const size_t borders = columns - 1;
        Scratch scratch;
        float* bounds = scratch.take<float>(12 * borders + 1);
        float* bound = scratch.take<float>(3 * borders + 1);
        float* excess = scratch.take<float>(3 * borders + 1);
        for (size_t b = 0; b < borders; ++b)
            for (size_t k = 0; k < 12; ++k)
                bounds[12 * b + k] = from.bounds[(r * columns + b) * 48 + k] + from.bounds[(r * columns + b + 1) * 48 + 12 + k];
        kernels.softplus(bounds, 12 * borders);
        for (size_t i = 0; i < 16; ++i) {
            float* line = to + (16 * r + i) * row;
            if (to != from.pixels) std::copy_n(from.pixels + (16 * r + i) * row, row, line);
            for (size_t b = 0; b < borders; ++b)
                for (size_t c = 0; c < 3; ++c) {
                    const float* at = line + 48 * (b + 1) + c;  // the first pixel to the right of the border
                    const float beside = at[6] - at[0] + at[-3] - at[-9];
                    excess[3 * b + c] = (at[0] - at[-3]) - slope_ * beside;
                    bound[3 * b + c] = bounds[12 * b + 4 * c + i / 4];
                }
            kernels.artefact(excess, bound, share, 3 * borders);
            for (size_t b = 0; b < borders; ++b) {
                float* at = line + 48 * (b + 1) - 12;
                for (size_t k = 0; k < 4; ++k)
                    for (size_t c = 0; c < 3; ++c) {
                        at[3 * k + c] += excess[3 * b + c] * ramp_[3 - k];
                        at[12 + 3 * k + c] -= excess[3 * b + c] * ramp_[k];
                    }
            }
        }
    });
    // Band n are the rows that are final after the border above latents n: from the 4th row after the previous border on.
    std::vector<char> finite(rows + 1, 1);
    by_bands(rows + 1, 1, threads, [&](size_t r, size_t) {
        if (r > 0 && r < rows) {
            Scratch scratch;
            float* bounds = scratch.take<float>(12 * columns);
            float* bound = scratch.take<float>(row);
            for (size_t x = 0; x < columns; ++x)
                for (size_t k = 0; k < 12; ++k)
                    bounds[12 * x + k] =
                        from.bounds[((r - 1) * columns + x) * 48 + 24 + k] + from.bounds[(r * columns + x) * 48 + 36 + k];
            kernels.softplus(bounds, 12 * columns);
            for (size_t x = 0; x < columns; ++x)
                for (size_t p = 0; p < 16; ++p)
                    for (size_t c = 0; c < 3; ++c) bound[(16 * x + p) * 3 + c] = bounds[12 * x + 4 * c + p / 4];
            float* lines[8];
            for (size_t k = 0; k < 8; ++k) lines[k] = to + (16 * r + k - 4) * row;
            kernels.smooth_rows(lines, bound, ramp_, slope_, share, row);
        }
        const size_t first = r ? 16 * r - 12 : 0, last = r < rows ? 16 * r + 4 : 16 * rows;
        if (first < last) finite[r] = kernels.to_bytes(to + first * row, 255.0f, (last - first) * row, pixels + first * row);
    });
    return std::all_of(finite.begin(), finite.end(), [](char ok) { return ok; });
}

bool Model::synthesize(const float* y, size_t rows, size_t columns, int quality, int cut, uint8_t* pixels,
                       size_t threads) const {
    Scratch scratch;
    Picture picture{rows, columns, scratch.take<float>(16 * rows * 16 * columns * 3),
                    scratch.take<float>(rows * columns * 48)};
    render(y, rows, columns, quality, picture, threads);
    return deblock(picture, picture.pixels, cut, pixels, threads);
}

namespace {

// The mean step of samples [height, width, 3] across borders, relative to that between other lines, in an array with
// rows of length `stride`. 1 means no grid.
constexpr size_t ROW_PART = 1 << 16;  // samples whose steps are summed in 32 bits

double border_ratio(const uint8_t* samples, size_t height, size_t width, size_t stride) {
    const size_t row = 3 * width;
    double at = 0, elsewhere = 0;
    size_t at_count = 0, elsewhere_count = 0;
    std::vector<uint32_t> of_sample(row, 0);  // steps to the left neighbour; a column has fewer than 2^22 rows
    for (size_t y = 0; y < height; ++y) {
        const uint8_t* line = samples + y * stride;
        for (size_t s = 3; s < row; ++s) of_sample[s] += uint32_t(std::abs(line[s] - line[s - 3]));
        if (!y) continue;
        uint64_t sum = 0;
        for (size_t first = 0; first < row; first += ROW_PART) {
            uint32_t part = 0;
            for (size_t s = first; s < std::min(row, first + ROW_PART); ++s)
                part += uint32_t(std::abs(line[s] - (line - stride)[s]));
            sum += part;
        }
        (y % 16 ? elsewhere : at) += double(sum) / double(3 * width);
        ++(y % 16 ? elsewhere_count : at_count);
    }
    for (size_t x = 1; x < width; ++x) {
        const uint64_t sum = uint64_t(of_sample[3 * x]) + of_sample[3 * x + 1] + of_sample[3 * x + 2];
        (x % 16 ? elsewhere : at) += double(sum) / double(3 * height);
        ++(x % 16 ? elsewhere_count : at_count);
    }
    if (!at_count || elsewhere == 0) return 1;
    return at / double(at_count) / (elsewhere / double(elsewhere_count));
}

// Steps across borders of a part of a picture, first between rows; their sum of magnitudes is weighted by what a line of
// them has pixels. visit(place of the sample beyond, place before, weight).
template <class Visit>
void visit_borders(size_t height, size_t width, size_t stride, const Visit& visit) {
    for (size_t y = 16; y < height; y += 16)
        for (size_t s = 0; s < 3 * width; ++s) visit(y * stride + s, (y - 1) * stride + s, 1.0 / double(3 * width));
    for (size_t x = 16; x < width; x += 16)
        for (size_t y = 0; y < height; ++y)
            for (size_t c = 0; c < 3; ++c)
                visit(y * stride + 3 * x + c, y * stride + 3 * (x - 1) + c, 1.0 / double(3 * height));
}

}  // namespace

bool Model::synthesize_like(const float* y, size_t rows, size_t columns, int quality, const uint8_t* original,
                            size_t height, size_t width, size_t top, size_t left, uint8_t* pixels, int& cut,
                            size_t threads) const {
    constexpr double TOLERATED = 0.01;
    const size_t samples = 16 * rows * 16 * columns * 3;
    Scratch scratch;
    Picture before{rows, columns, scratch.take<float>(samples), scratch.take<float>(rows * columns * 48)};
    float* after = scratch.take<float>(samples);
    render(y, rows, columns, quality, before, threads);
    cut = 0;
    if (!deblock(before, after, 0, pixels, threads)) return false;
    const size_t start = top * before.row() + 3 * left;
    const double wanted = border_ratio(original, height, width, 3 * width);
    const double found = border_ratio(pixels + start, height, width, before.row());
    if (!(wanted > (1 + TOLERATED) * found)) return true;
    const float *with = before.pixels + start, *without = after + start;
    const auto size = [&](int tried) {
        double sum = 0;
        visit_borders(height, width, before.row(), [&](size_t beyond, size_t here, double weight) {
            const double rest = without[beyond] - without[here];
            const double removed = with[beyond] - with[here] - rest;
            sum += weight * std::abs(rest + tried / 64.0 * removed);
        });
        return sum;
    };
    // Sizes are convex in the cut, so they exceed the target from one cut on.
    const double goal = wanted / found * size(0);
    int low = 1, high = 64;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (size(middle) < goal)
            low = middle + 1;
        else
            high = middle;
    }
    cut = low;
    deblock(before, before.pixels, cut, pixels, threads);
    return true;
}

size_t Model::preview_channels(size_t scale) const {
    return scale == 8 ? size_t(arch.latent_channels) / 8 : size_t(arch.latent_channels);
}

void Model::preview(const float* y, size_t rows, size_t columns, size_t channels, size_t scale, uint8_t* pixels,
                    size_t threads) const {
    const Packed<float>& map = previews_[scale == 2 ? 0 : scale == 4 ? 1 : 2];
    const size_t side = 16 / scale, samples = 3 * side * side, line = 3 * side;
    by_bands(rows, band_rows(columns), threads, [&](size_t first, size_t last) {
        Scratch own;
        float* found = own.take<float>(columns * samples);
        uint8_t* bytes = own.take<uint8_t>(columns * samples);
        for (size_t r = first; r < last; ++r) {
            active().product(y + r * columns * channels, channels, columns, map.matrix, samples, false, After::none, found,
                             samples);
            active().to_bytes(found, 1.0f, columns * samples, bytes);
            for (size_t x = 0; x < columns; ++x)
                for (size_t i = 0; i < side; ++i)
                    memcpy(pixels + ((r * side + i) * columns + x) * line, bytes + x * samples + i * line, line);
        }
    });
}

}  // namespace vaec
