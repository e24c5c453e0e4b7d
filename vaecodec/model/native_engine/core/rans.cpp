// Entropy decoder and encoder of rans.h: symbols sorted by table row, escapes after them.
#include "rans.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "pool.h"

namespace vaec {
namespace {

constexpr uint64_t FLOOR = uint64_t(1) << 32;
constexpr int LEAST_PART_BITS = 7, MOST_PART_BITS = 10;
constexpr uint32_t TOTAL = uint32_t(1) << PRECISION, MASK = TOTAL - 1;

uint32_t word_at(const uint8_t* payload, uint64_t number) {
    const uint8_t* p = payload + 4 * number;
    return p[0] | p[1] << 8 | p[2] << 16 | uint32_t(p[3]) << 24;
}

// Cumulative counts, 0 to 2^24, of the values -LIMIT to v - 1 of escaped symbols: triangular numbers, times four.
uint32_t escape_left(int32_t v) {
    const int64_t from_low = v + ESCAPE_LIMIT, from_high = ESCAPE_LIMIT + 1 - v;
    return uint32_t(v <= 0 ? 2 * from_low * (from_low + 1) : TOTAL - 2 * from_high * (from_high + 1));
}

// Keeps the state in registers while a pass is read.
struct Popper {
    uint64_t state, left;
    const uint8_t* payload;

    void refill() {
        if (state < FLOOR && left) state = state << 32 | word_at(payload, --left);
    }

    void take(uint32_t q, uint32_t from, uint32_t to) {
        state = (state >> PRECISION) * (to - from) + (q - from);
        refill();
    }

    uint32_t column(const uint32_t* lefts, const Tables::Part* parts, const uint16_t* columns, int shift) {
        const uint32_t q = state & MASK, number = q >> shift;
        const Tables::Part part = parts[number];
        uint32_t at = columns[number];
        if (__builtin_expect(q < part.right, 1)) {
            take(q, part.left, part.right);
            return at;
        }
        do ++at;
        while (lefts[at + 1] <= q);
        take(q, lefts[at], lefts[at + 1]);
        return at;
    }

    int32_t escaped() {
        const uint32_t q = state & MASK;
        int32_t low = -ESCAPE_LIMIT, high = ESCAPE_LIMIT;
        while (low < high) {
            const int32_t middle = low + (high - low + 1) / 2;
            if (escape_left(middle) <= q)
                low = middle;
            else
                high = middle - 1;
        }
        take(q, escape_left(low), escape_left(low + 1));
        return low;
    }
};

// The coded symbols of a pass by ascending row: those of row r from starts[r] on. Symbols of skipped rows share the place
// after the last, so that sorting needs no branch.
struct ByRow {
    int16_t* symbols;
    uint32_t starts[MOST_ROWS + 1];
    uint32_t next[MOST_ROWS], step[MOST_ROWS];

    void rewind(size_t first_coded_row) {
        for (size_t row = 0; row < MOST_ROWS; ++row) {
            step[row] = row >= first_coded_row;
            next[row] = step[row] ? starts[row] : starts[MOST_ROWS];
        }
    }
};

bool count_by_row(Scratch& scratch, const Tables& tables, const uint8_t* rows, size_t n, ByRow& out) {
    uint32_t counts[MOST_ROWS] = {}, odd_counts[MOST_ROWS] = {};  // two, so that equal neighbours do not wait for each other
    for (size_t i = 0; i < n; ++i) ++(i & 1 ? odd_counts : counts)[rows[i]];
    uint32_t total = 0;
    for (size_t row = 0; row < MOST_ROWS; ++row) {
        const uint32_t count = counts[row] + odd_counts[row];
        if (count && row >= tables.rows.size()) return false;
        out.starts[row] = total;
        total += row >= tables.first_coded_row ? count : 0;
    }
    out.starts[MOST_ROWS] = total;
    out.symbols = scratch.take<int16_t>(total + 1);
    out.rewind(tables.first_coded_row);
    return true;
}

bool push(Writer& writer, uint32_t from, uint32_t to) {
    const uint64_t count = to - from;
    if (writer.state >> 40 >= count) {
        if (writer.size == writer.capacity) return false;
        writer.words[writer.size++] = uint32_t(writer.state);
        writer.state >>= 32;
    }
    writer.state = (writer.state / count << PRECISION) + from + writer.state % count;
    return true;
}

}  // namespace

bool Tables::assign(const int64_t* radius, const int64_t* counts, size_t row_count, size_t width, size_t first) {
    if (row_count < 1 || row_count > MOST_ROWS || first >= row_count) return false;
    for (size_t r = 0; r < row_count; ++r) {
        if (radius[r] < 1 || radius[r] > int64_t(MOST_RADIUS)) return false;
        const size_t count_of_row = 2 * size_t(radius[r]) + 2;
        if (count_of_row > width) return false;
        int bits = LEAST_PART_BITS;
        while (bits < MOST_PART_BITS && radius[r] >> (bits - LEAST_PART_BITS + 2)) ++bits;
        rows.push_back({uint32_t(lefts.size()), uint32_t(parts.size()), int32_t(radius[r]), PRECISION - bits});
        int64_t left = 0;
        for (size_t c = 0; c < count_of_row; ++c) {
            const int64_t count = counts[r * width + c];
            if (count < 1 || count > int64_t(TOTAL) - left) return false;
            lefts.push_back(uint32_t(left));
            left += count;
        }
        if (left != int64_t(TOTAL)) return false;
        lefts.push_back(TOTAL);
        const uint32_t* own = lefts.data() + rows[r].left_at;
        uint16_t column = 0;
        for (uint32_t part = 0; part < 1u << bits; ++part) {
            while (own[column + 1] <= part << (PRECISION - bits)) ++column;
            parts.push_back({own[column], own[column + 1]});
            columns.push_back(column);
        }
    }
    first_coded_row = first;
    return true;
}

Fault reader_start(Reader& reader, const uint8_t* payload, size_t bytes) {
    if (!bytes || bytes % 4) return CODER_WORDS;
    Popper popper{word_at(payload, bytes / 4 - 1), bytes / 4 - 1, payload};
    if (!popper.state) return CODER_STATE;
    popper.refill();
    reader = {popper.state, popper.left};
    return OK;
}

Fault reader_read(Reader& reader, const uint8_t* payload, size_t bytes, const Tables& tables, const uint8_t* rows, size_t n,
                  int32_t* out) {
    if (reader.words_left > bytes / 4) return BAD_ARGUMENT;
    Scratch scratch;
    ByRow sorted;
    if (!count_by_row(scratch, tables, rows, n, sorted)) return BAD_ARGUMENT;
    struct Escape {
        uint32_t at;
        int32_t radius;
    };
    std::vector<Escape> escapes;
    Popper popper{reader.state, reader.words_left, payload};
    for (size_t r = tables.first_coded_row; r < tables.rows.size(); ++r) {
        const Tables::Row row = tables.rows[r];
        const int32_t radius = row.radius;
        const uint32_t* lefts = tables.lefts.data() + row.left_at;
        const Tables::Part* parts = tables.parts.data() + row.part_at;
        const uint16_t* columns = tables.columns.data() + row.part_at;
        for (uint32_t i = sorted.starts[r]; i < sorted.starts[r + 1]; ++i) {
            const int32_t symbol = int32_t(popper.column(lefts, parts, columns, row.shift)) - radius;
            sorted.symbols[i] = int16_t(symbol);
            if (__builtin_expect(symbol > radius, 0)) escapes.push_back({i, radius});
        }
    }
    bool needless = false;
    for (const Escape& escape : escapes) {
        const int32_t value = popper.escaped();
        needless |= std::abs(value) <= escape.radius;
        sorted.symbols[escape.at] = int16_t(value);
    }
    reader.state = popper.state;
    reader.words_left = popper.left;
    if (needless) return ESCAPE_RANGE;
    sorted.symbols[sorted.starts[MOST_ROWS]] = 0;
    for (size_t i = 0; i < n; ++i) {
        out[i] = sorted.symbols[sorted.next[rows[i]]];
        sorted.next[rows[i]] += sorted.step[rows[i]];
    }
    return OK;
}

Fault writer_push(Writer& writer, const Tables& tables, const uint8_t* rows, const int32_t* symbols, size_t n) {
    Scratch scratch;
    ByRow sorted;
    if (!count_by_row(scratch, tables, rows, n, sorted)) return BAD_ARGUMENT;
    bool in_range = true;
    for (size_t i = 0; i < n; ++i) {
        const int32_t symbol = symbols[i];
        in_range &= symbol >= -ESCAPE_LIMIT && symbol <= ESCAPE_LIMIT;
        sorted.symbols[sorted.next[rows[i]]] = int16_t(symbol);
        sorted.next[rows[i]] += sorted.step[rows[i]];
    }
    if (!in_range) return BAD_ARGUMENT;
    const auto backwards = [&](auto push_one) {
        for (size_t r = tables.rows.size(); r-- > tables.first_coded_row;)
            for (uint32_t i = sorted.starts[r + 1]; i-- > sorted.starts[r];)
                if (!push_one(tables.rows[r], int32_t(sorted.symbols[i]))) return false;
        return true;
    };
    const bool fits = backwards([&](const Tables::Row& row, int32_t symbol) {
        return std::abs(symbol) <= row.radius || push(writer, escape_left(symbol), escape_left(symbol + 1));
    }) && backwards([&](const Tables::Row& row, int32_t symbol) {
        const uint32_t* lefts = tables.lefts.data() + row.left_at;
        const int32_t column = std::abs(symbol) <= row.radius ? symbol + row.radius : 2 * row.radius + 1;
        return push(writer, lefts[column], lefts[column + 1]);
    });
    return fits ? OK : NO_ROOM;
}

Fault writer_finish(Writer& writer) {
    for (uint64_t rest = writer.state; rest; rest >>= 32) {
        if (writer.size == writer.capacity) return NO_ROOM;
        writer.words[writer.size++] = uint32_t(rest);
    }
    return OK;
}

}  // namespace vaec
