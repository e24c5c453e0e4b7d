// Entropy coding: the arithmetic of docs/format.md, section "Entropy coding".
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vaec {

// Fault codes, which the Python side turns into its errors.
enum Fault : int32_t {
    OK = 0,
    CODER_WORDS = 1,
    CODER_STATE = 2,
    ESCAPE_RANGE = 3,
    BAD_ARGUMENT = 4,
    NO_ROOM = 5,
    NOT_A_NUMBER = 6,
    NO_MEMORY = 7,
};

constexpr int PRECISION = 24;
constexpr uint64_t SENTINEL = 0x01454156;
constexpr int32_t ESCAPE_LIMIT = 2047;
constexpr size_t MOST_ROWS = 256, MOST_RADIUS = 511;

// Cumulative counts by row, and where to start the search for the column of an interval.
class Tables {
  public:
    // counts [rows, width]; false if a rule of vaecodec.entropy.tables.Tables is broken.
    bool assign(const int64_t* radius, const int64_t* counts, size_t rows, size_t width, size_t first_coded_row);

    struct Row {
        uint32_t left_at, part_at;  // where its values begin in `lefts`, and in `parts` and `columns`
        int32_t radius;
        int shift;  // shift from 24 bits to the number of a part
    };
    std::vector<Row> rows;
    std::vector<uint32_t> lefts;   // of each row, the left end of each column, and 2^24
    // Of each row and each of some equal parts of the unit interval: the interval that its left end is in. Both ends side
    // by side, because the next state depends on nothing else. Narrow rows have few parts, so that caches hold many rows.
    struct Part {
        uint32_t left, right;
    };
    std::vector<Part> parts;
    std::vector<uint16_t> columns;  // theirs
    size_t first_coded_row = 0;
};

struct Reader {
    uint64_t state, words_left;
};

Fault reader_start(Reader& reader, const uint8_t* payload, size_t bytes);
// Symbols of rows [n] -> out [n].
Fault reader_read(Reader& reader, const uint8_t* payload, size_t bytes, const Tables& tables, const uint8_t* rows, size_t n,
                  int32_t* out);

struct Writer {
    uint64_t state = SENTINEL;
    uint32_t* words;
    size_t capacity, size = 0;
};

// Passes are pushed last to first.
Fault writer_push(Writer& writer, const Tables& tables, const uint8_t* rows, const int32_t* symbols, size_t n);
Fault writer_finish(Writer& writer);

}  // namespace vaec
