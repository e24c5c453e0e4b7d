// The C interface: every pointer comes with its size, every size is checked, and no exception escapes.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>

#include "model.h"
#include "pool.h"
#include "rans.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

using namespace vaec;

namespace {

constexpr int32_t ABI_VERSION = 2;
constexpr size_t MOST_POSITIONS = size_t(1) << 22;  // maximum number of latents in one call, far beyond any tile
constexpr int MOST_WIDTH = 1024, MOST_BLOCKS = 32;

thread_local char message[256];

Fault refuse(const char* text) {
    std::snprintf(message, sizeof message, "%s", text);
    return BAD_ARGUMENT;
}

Fault told(Fault fault) { return fault == BAD_ARGUMENT ? refuse("table indexes or symbols are out of range") : fault; }

template <class Work>
Fault guarded(const Work& work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (const std::exception& error) {
        return refuse(error.what());
    }
}

bool is_grid(size_t rows, size_t columns) {
    return rows && columns && rows <= MOST_POSITIONS && columns <= MOST_POSITIONS / rows;
}
size_t hyper_positions(size_t rows, size_t columns) { return ((rows + 3) / 4) * ((columns + 3) / 4); }
bool is_quality(int32_t quality) { return quality >= 1 && quality <= 100; }

bool is_architecture(const Architecture& a) {
    const int32_t* widths = reinterpret_cast<const int32_t*>(&a);
    for (size_t i = 0; i < sizeof a / sizeof *widths; ++i)
        if (widths[i] < 2 || widths[i] > MOST_WIDTH) return false;
    return a.analysis_blocks <= MOST_BLOCKS && a.synthesis_blocks <= MOST_BLOCKS && a.latent_channels % 2 == 0 &&
           a.scale_channels % 2 == 0;
}

}  // namespace

// --- the library ------------------------------------------------------------------------------------------------------

EXPORT int32_t vaec_abi_version() { return ABI_VERSION; }
EXPORT const char* vaec_message() { return message; }

// Returns the instruction set in use; selects `name` first if it is not null. Returns null if it is not supported.
EXPORT const char* vaec_level(const char* name) {
    if (name && !activate(name)) return nullptr;
    return active().name;
}
EXPORT const char* vaec_level_name(size_t number) {
    return number < level_count() && supported(number) ? level(number).name : nullptr;
}

// --- entropy coding ---------------------------------------------------------------------------------------------------

EXPORT Tables* vaec_tables_new(const int64_t* radius, const int64_t* counts, size_t rows, size_t width,
                               size_t first_coded_row) {
    try {
        auto tables = std::make_unique<Tables>();
        if (tables->assign(radius, counts, rows, width, first_coded_row)) return tables.release();
        refuse("the tables break a rule");
    } catch (const std::bad_alloc&) {
        refuse("out of memory");
    }
    return nullptr;
}
EXPORT void vaec_tables_free(Tables* tables) { delete tables; }

EXPORT int32_t vaec_reader_start(Reader* reader, const uint8_t* payload, size_t bytes) {
    return reader_start(*reader, payload, bytes);
}
EXPORT int32_t vaec_reader_read(Reader* reader, const uint8_t* payload, size_t bytes, const Tables* tables,
                                const uint8_t* rows, size_t count, int32_t* symbols) {
    return guarded([&] { return told(reader_read(*reader, payload, bytes, *tables, rows, count, symbols)); });
}

// A payload being written: the caller's words, and how many of them are used.
struct Payload {
    uint64_t state;
    uint64_t size;
};
EXPORT int32_t vaec_writer_push(Payload* payload, uint32_t* words, size_t capacity, const Tables* tables,
                                const uint8_t* rows, const int32_t* symbols, size_t count) {
    return guarded([&] {
        if (payload->size > capacity) return refuse("no such payload");
        Writer writer{payload->state, words, capacity, size_t(payload->size)};
        const Fault fault = writer_push(writer, *tables, rows, symbols, count);
        *payload = {writer.state, writer.size};
        return told(fault);
    });
}
EXPORT int32_t vaec_writer_finish(Payload* payload, uint32_t* words, size_t capacity) {
    if (payload->size > capacity) return refuse("no such payload");
    Writer writer{payload->state, words, capacity, size_t(payload->size)};
    const Fault fault = writer_finish(writer);
    *payload = {writer.state, writer.size};
    return fault;
}

// --- quantization -----------------------------------------------------------------------------------------------------

// Quantizes residuals [n] like vaecodec.model.coding.rdoq. `saved` [table_rows, width] holds the bits that one step closer
// to zero saves.
EXPORT int32_t vaec_rdoq(const float* residual, const uint8_t* rows, size_t count, const float* saved,
                         const int64_t* radius, size_t table_rows, size_t width, size_t first_coded_row, int16_t* out,
                         size_t threads) {
    constexpr size_t PART = 1 << 15;
    if (!table_rows || table_rows > MOST_ROWS || first_coded_row >= table_rows || width > MOST_WIDTH)
        return refuse("a table row is out of range");
    Savings savings{saved, int32_t(width), int32_t(table_rows), int32_t(first_coded_row), float(ESCAPE_LIMIT), {}};
    for (size_t row = 0; row < table_rows; ++row) {
        if (radius[row] < 1 || 2 * radius[row] + 1 > int64_t(width)) return refuse("a table row is out of range");
        savings.reach[row] = int32_t(radius[row]);
    }
    return guarded([&] {
        std::atomic<bool> is_number{true}, in_range{true};
        parallel((count + PART - 1) / PART, threads, [&](size_t part) {
            const size_t first = part * PART, n = std::min(PART, count - first);
            bool numbers_here = true, in_range_here = true;
            active().rdoq(residual + first, rows + first, n, savings, out + first, numbers_here, in_range_here);
            if (!numbers_here) is_number = false;
            if (!in_range_here) in_range = false;
        });
        return !is_number ? NOT_A_NUMBER : in_range ? OK : refuse("a table row is out of range");
    });
}

// --- the network ------------------------------------------------------------------------------------------------------

EXPORT Model* vaec_model_new(const Architecture* arch, size_t tensors, const char* const* names, const void* const* data,
                             const int32_t* types, const size_t* counts) {
    try {
        if (!is_architecture(*arch)) throw Refused("no such architecture");
        Weights weights;
        for (size_t i = 0; i < tensors; ++i) weights.tensors[names[i]] = {data[i], Type(types[i]), counts[i]};
        return new Model(*arch, std::move(weights));
    } catch (const std::exception& error) {
        refuse(error.what());
        return nullptr;
    }
}
EXPORT void vaec_model_free(Model* model) { delete model; }

// The first layer of the scale network that is not exact on this machine, or -1.
EXPORT int32_t vaec_self_test(const Model* model) {
    try {
        return model->scales().self_test(model->weights());
    } catch (const std::exception&) {
        return 0;
    }
}

EXPORT int32_t vaec_table_rows(const Model* model, const int16_t* z, size_t z_size, size_t rows, size_t columns,
                               int32_t quality, size_t channels, uint8_t* out, size_t out_size, size_t threads) {
    return guarded([&] {
        if (!is_grid(rows, columns) || !is_quality(quality) || channels > size_t(model->arch.latent_channels) ||
            z_size != hyper_positions(rows, columns) * size_t(model->arch.hyper_channels) ||
            out_size != rows * columns * channels)
            return refuse("sizes do not fit together");
        model->scales().rows(z, rows, columns, quality, channels, out, threads);
        return OK;
    });
}

EXPORT int32_t vaec_analyze(const Model* model, const uint8_t* pixels, size_t height, size_t width, int32_t quality,
                            float* y, size_t y_size, size_t threads) {
    return guarded([&] {
        if (height % 16 || width % 16 || !is_grid(height / 16, width / 16) || !is_quality(quality) ||
            y_size != height / 16 * (width / 16) * size_t(model->arch.latent_channels))
            return refuse("sizes do not fit together");
        model->analyze(pixels, height, width, quality, y, threads);
        return OK;
    });
}

EXPORT int32_t vaec_hyper_analyze(const Model* model, const float* y, size_t rows, size_t columns, int32_t quality,
                                  float* steps, size_t y_size, float* z, size_t z_size, size_t threads) {
    return guarded([&] {
        if (!is_grid(rows, columns) || !is_quality(quality) ||
            y_size != rows * columns * size_t(model->arch.latent_channels) ||
            z_size != hyper_positions(rows, columns) * size_t(model->arch.hyper_channels))
            return refuse("sizes do not fit together");
        model->hyper_analyze(y, rows, columns, quality, steps, z, threads);
        return OK;
    });
}

static bool is_prediction(const Model* model, size_t rows, size_t columns, int32_t quality, size_t channels, size_t size) {
    const size_t latents = size_t(model->arch.latent_channels);
    return is_grid(rows, columns) && is_quality(quality) && (channels == latents || channels <= latents / 2) &&
           size == rows * columns * channels;
}

EXPORT int32_t vaec_start_prediction(const Model* model, const int16_t* z, size_t z_size, size_t rows, size_t columns,
                                     int32_t quality, size_t channels, float* features, size_t features_size, float* mean,
                                     size_t size, size_t threads) {
    return guarded([&] {
        if (!is_prediction(model, rows, columns, quality, channels, size) ||
            z_size != hyper_positions(rows, columns) * size_t(model->arch.hyper_channels) ||
            features_size != rows * columns * size_t(model->arch.prior_channels))
            return refuse("sizes do not fit together");
        model->start_prediction(z, rows, columns, quality, channels, features, mean, threads);
        return OK;
    });
}
EXPORT int32_t vaec_refine(const Model* model, const int16_t* symbols, const float* features, size_t features_size,
                           size_t rows, size_t columns, int32_t quality, size_t channels, float* mean, float* latents,
                           size_t size, size_t threads) {
    return guarded([&] {
        if (!is_prediction(model, rows, columns, quality, channels, size) ||
            features_size != rows * columns * size_t(model->arch.prior_channels))
            return refuse("sizes do not fit together");
        model->refine(symbols, features, rows, columns, quality, channels, mean, latents, threads);
        return OK;
    });
}
EXPORT int32_t vaec_complete(const Model* model, const int16_t* symbols, size_t rows, size_t columns, int32_t quality,
                             size_t channels, const float* mean, float* latents, size_t size, size_t threads) {
    return guarded([&] {
        if (!is_prediction(model, rows, columns, quality, channels, size)) return refuse("sizes do not fit together");
        model->complete(symbols, rows, columns, quality, channels, mean, latents, threads);
        return OK;
    });
}
EXPORT int32_t vaec_residual(const Model* model, const float* steps, const float* mean, size_t positions, int32_t quality,
                             size_t channels, float* out, size_t size, size_t threads) {
    return guarded([&] {
        if (!is_grid(positions, 1) || !is_prediction(model, positions, 1, quality, channels, size))
            return refuse("sizes do not fit together");
        model->residual(steps, mean, positions, quality, channels, out, threads);
        return OK;
    });
}

EXPORT int32_t vaec_synthesize(const Model* model, const float* y, size_t y_size, size_t rows, size_t columns,
                               int32_t quality, int32_t cut, uint8_t* pixels, size_t size, int32_t* is_finite,
                               size_t threads) {
    return guarded([&] {
        if (!is_grid(rows, columns) || !is_quality(quality) || cut < 0 || cut > 64 ||
            y_size != rows * columns * size_t(model->arch.latent_channels) || size != rows * columns * 768)
            return refuse("sizes do not fit together");
        *is_finite = model->synthesize(y, rows, columns, quality, cut, pixels, threads);
        return OK;
    });
}
EXPORT int32_t vaec_synthesize_like(const Model* model, const float* y, size_t y_size, size_t rows, size_t columns,
                                    int32_t quality, const uint8_t* original, size_t height, size_t width, size_t top,
                                    size_t left, uint8_t* pixels, size_t size, int32_t* cut, int32_t* is_finite,
                                    size_t threads) {
    return guarded([&] {
        if (!is_grid(rows, columns) || !is_quality(quality) ||
            y_size != rows * columns * size_t(model->arch.latent_channels) || size != rows * columns * 768 || !height ||
            !width || top > 16 * rows || left > 16 * columns || height > 16 * rows - top || width > 16 * columns - left)
            return refuse("sizes do not fit together");
        int found = 0;
        *is_finite = model->synthesize_like(y, rows, columns, quality, original, height, width, top, left, pixels, found, threads);
        *cut = found;
        return OK;
    });
}

EXPORT int32_t vaec_preview(const Model* model, const float* y, size_t y_size, size_t rows, size_t columns, size_t channels,
                            size_t scale, uint8_t* pixels, size_t size, size_t threads) {
    return guarded([&] {
        if (!is_grid(rows, columns) || (scale != 2 && scale != 4 && scale != 8) || y_size != rows * columns * channels ||
            channels < model->preview_channels(scale) || channels > size_t(MOST_WIDTH) ||
            size != rows * columns * 768 / (scale * scale))
            return refuse("sizes do not fit together");
        model->preview(y, rows, columns, channels, scale, pixels, threads);
        return OK;
    });
}
