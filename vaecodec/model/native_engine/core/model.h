// The float network of one weights file: pixels to latents, hyper-latents to means, latents to pixels.
//
// Arrays are position by position, row by row, the channels of a position side by side; latents [rows, columns, channels].
#pragma once
#include <functional>
#include <mutex>

#include "scales.h"

namespace vaec {

struct Architecture {  // the fields of vaecodec.model.architecture.Architecture, in its order
    int32_t latent_channels, hyper_channels, analysis_channels, analysis_blocks, synthesis_channels, synthesis_blocks,
        synthesis_gate_channels, correction_channels, render_channels, render_hidden_channels, condition_channels,
        prior_channels, scale_channels, quality_anchors;
};

struct Depthwise {
    size_t side = 3, channels = 0;
    Aligned<float> taps, bias;
};

struct Block {
    size_t channels, gates;
    Packed<float> mix_in, mix_out, gate_in, gate_out;
    Depthwise space;
};

// A product of matrices and a pixel shuffle: part i makes row i of `factor`.
struct Unfold {
    size_t factor, inputs, channels;  // channels of the fine grid
    std::vector<Packed<float>> parts;
};

// The inverse: part i reads row i of `factor`.
struct Fold {
    size_t factor, channels, outputs;
    std::vector<Packed<float>> parts;
};

struct Curve {
    size_t anchors, channels;
    std::vector<float> log_gain;
};

struct Encoder {  // weights for encoders only, packed on first use
    Block local;
    Fold patch_in, detail;
    std::vector<Block> blocks;
    Curve gain;
    Packed<float> latent_out;
    Packed<float> hyper_in;
    Block hyper_blocks[2];
    Fold hyper_folds[2];
};

class Model {
  public:
    // The tensors must outlive the model: some are read later.
    Model(const Architecture& arch, Weights weights);

    const Architecture arch;

    // uint8 [height, width, 3], multiples of 16 -> y.
    void analyze(const uint8_t* pixels, size_t height, size_t width, int quality, float* y, size_t threads) const;
    // y -> y and z [ceil(rows / 4) * ceil(columns / 4), hyper], both in quantizer steps.
    void hyper_analyze(const float* y, size_t rows, size_t columns, int quality, float* steps, float* z,
                       size_t threads) const;
    // The hyper-synthesis: features [rows, columns, prior] and means of the first `channels`.
    void start_prediction(const int16_t* z, size_t rows, size_t columns, int quality, size_t channels, float* features,
                          float* mean, size_t threads) const;
    // Computes the latents of the first half from means and symbols, and refines the means of the second half.
    void refine(const int16_t* symbols, const float* features, size_t rows, size_t columns, int quality, size_t channels,
                float* mean, float* latents, size_t threads) const;
    // Latents of the second half.
    void complete(const int16_t* symbols, size_t rows, size_t columns, int quality, size_t channels, const float* mean,
                  float* latents, size_t threads) const;
    // steps - mean * gain
    void residual(const float* steps, const float* mean, size_t positions, int quality, size_t channels, float* out,
                  size_t threads) const;
    // Latents -> uint8 [16 rows, 16 columns, 3]; false if some are not finite.
    bool synthesize(const float* y, size_t rows, size_t columns, int quality, int cut, uint8_t* pixels,
                    size_t threads) const;
    // The same with the cut that fits the original [height, width, 3], at position (top, left) of the result.
    bool synthesize_like(const float* y, size_t rows, size_t columns, int quality, const uint8_t* original, size_t height,
                         size_t width, size_t top, size_t left, uint8_t* pixels, int& cut, size_t threads) const;
    // Latents [rows, columns, channels] -> uint8 [16 rows / scale, 16 columns / scale, 3].
    void preview(const float* y, size_t rows, size_t columns, size_t channels, size_t scale, uint8_t* pixels,
                 size_t threads) const;

    const Scales& scales() const { return scales_; }
    const Weights& weights() const { return weights_; }
    size_t preview_channels(size_t scale) const;

  private:
    struct Picture;
    std::vector<float> gains(const Curve& curve, int quality, bool inverse = false) const;
    const Encoder& encoder() const;
    void render(const float* y, size_t rows, size_t columns, int quality, Picture& picture, size_t threads) const;
    void render_rows(const Picture& picture, const float* content, const float* body, size_t first, size_t last) const;
    bool deblock(const Picture& from, float* to, int cut, uint8_t* pixels, size_t threads) const;

    Weights weights_;
    Scales scales_;
    Curve latent_gain_, latent_restore_, hyper_gain_, synthesis_gain_;
    Packed<float> body_in_, correction_in_, mean_out_, latent_in_, feature_in_, context_low_, context_high_;
    Packed<float> modulation_, render_in_, render_out_, pixels_out_, bound_;
    std::vector<Block> synthesis_blocks_, context_blocks_;
    Unfold content_, condition_, hyper_in_, hyper_out_;  // content_: of latents and corrections
    Block hyper_block_;
    Depthwise overlap_, render_space_;
    float ramp_[4], slope_;
    Packed<float> previews_[3];
    mutable std::once_flag encoder_made_;
    mutable std::unique_ptr<Encoder> encoder_;
};

}  // namespace vaec
