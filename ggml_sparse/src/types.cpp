#include "types.h"

#include "cpu/kernels.h"
#include "cpu/x-unit.h"
#include "ggml-cpu.h"
#include "packing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace ggml_sparse {

static const std::array<weight_type, SPARSE_ROWS_COUNT> & weight_types() {
    static const std::array<weight_type, SPARSE_ROWS_COUNT> types = {{
#define SPARSE_TYPE(NAME, name, FORM)                                                                                                      \
    {GGML_TYPE_##NAME,       #name,                                                                                                        \
     x_form::FORM,           x_form::FORM == x_form::F32 ? GGML_TYPE_F32 : GGML_TYPE_Q8_0,                                                 \
     SPARSE_INDEX_##NAME,    ggml_get_type_traits(GGML_TYPE_##NAME)->blck_size,                                                            \
     GGML_SPARSE_LAYOUT_ROWS},
#include "quants.def"
#undef SPARSE_TYPE
#define SPARSE_TYPE(NAME, name, FORM)                                                                                                      \
    SPARSE_PACKED_##FORM(                                                                                                                  \
        {GGML_TYPE_##NAME, #name, x_form::LANES, GGML_TYPE_Q8_0, SPARSE_PACKED_INDEX_##NAME, UNIT_SIZE, GGML_SPARSE_LAYOUT_PACKED}, )
#include "quants.def"
#undef SPARSE_TYPE
        {GGML_TYPE_Q4_0, "q4_0", x_form::F32, GGML_TYPE_F32, SPARSE_SUMS_INDEX_Q4_0, UNIT_SIZE, GGML_SPARSE_LAYOUT_SUMS},
    }};
    return types;
}

int weight_type_count() { return SPARSE_TYPE_COUNT; }

const weight_type & weight_type_at(int index) { return weight_types()[static_cast<size_t>(index)]; }

static_assert(UNIT_SIZE == GGML_SPARSE_PACKED_COLUMNS, "a packed row is whole units");

const weight_type * weight_type_find(int32_t type, ggml_sparse_layout layout) {
    for (const weight_type & wt : weight_types()) {
        if (wt.type == type && wt.layout == layout) {
            return &wt;
        }
    }
    return nullptr;
}

size_t x_prepared_size(const weight_type & wt, int64_t n) {
    if (wt.form == x_form::F32) {
        return (static_cast<size_t>(n) * sizeof(float) + 63) / 64 * 64;
    }
    return static_cast<size_t>((n + UNIT_SIZE - 1) / UNIT_SIZE) * sizeof(x_unit);
}

// ggml's q8_0 block, declared here because ggml-common.h is not installed.
struct q8_0 {
    ggml_fp16_t d;
    int8_t      qs[32];
};

static x_order order_of(x_form form) {
    switch (form) {
        case x_form::SUPER4: return x_order::SUPER4;
        case x_form::SUPER6: return x_order::SUPER6;
        case x_form::LANES: return x_order::LANES;
        default: return x_order::PAIRS;
    }
}

static void place_quants(const q8_0 & block, x_order order, int b, int8_t * quants) {
    if (order == x_order::LANES) {
        for (int i = 0; i < 8; ++i) {
            std::memcpy(quants + 64 * i + 4 * b, block.qs + 4 * i, 4);
        }
        return;
    }
    std::memcpy(quants + 16 * x_place(order, 2 * b), block.qs, 16);
    std::memcpy(quants + 16 * x_place(order, 2 * b + 1), block.qs + 16, 16);
}

// Sum of 16 signed bytes, eight at a time in one register.
static int32_t sum_of_16(const int8_t * q) {
    constexpr uint64_t SIGNS = 0x8080808080808080, EVEN = 0x00ff00ff00ff00ff, ONES = 0x0001000100010001;
    uint64_t           words = 0;
    for (int i = 0; i < 16; i += 8) {
        uint64_t v;
        std::memcpy(&v, q + i, sizeof(v));
        v ^= SIGNS; // + 128
        words += (v & EVEN) + (v >> 8 & EVEN);
    }
    return static_cast<int32_t>(words * ONES >> 48) - 16 * 128;
}

static void place_block(const q8_0 & block, x_order order, int b, x_unit & unit) {
    place_quants(block, order, b, unit.quants);
    const int   first = sum_of_16(block.qs), second = sum_of_16(block.qs + 16);
    const float d    = ggml_fp16_to_fp32(block.d);
    const int   sign = order == x_order::LANES ? -1 : 1;
    unit.sums[0][b]  = order == x_order::SUPER6 ? first : sign * (first + second);
    unit.sums[1][b]  = sign * second;
    unit.scale[b]    = d;
    unit.min[b]      = d * static_cast<float>(first + second); // exact
}

const void * x_prepare(const weight_type & wt, const float * x, int64_t n, void * dst) {
    if (wt.form == x_form::F32) {
        return x;
    }
    const auto    round = ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float;
    const x_order order = order_of(wt.form);
    x_unit *      unit  = static_cast<x_unit *>(dst);
    for (int64_t i = 0; i < n; i += UNIT_SIZE, ++unit) {
        const int n_block = static_cast<int>(std::min<int64_t>(UNIT_SIZE, n - i) / 32);
        q8_0      blocks[UNIT_BLOCKS];
        round(x + i, blocks, n_block * 32);
        if (n_block < UNIT_BLOCKS) {
            std::memset(unit, 0, sizeof(*unit));
        }
        for (int b = 0; b < n_block; ++b) {
            place_block(blocks[b], order, b, *unit);
        }
    }
    return dst;
}

void x_round(const weight_type & wt, const float * x, int64_t n, float * dst) {
    if (wt.form == x_form::F32) {
        std::copy(x, x + n, dst);
        return;
    }
    std::vector<uint8_t> rounded(ggml_row_size(GGML_TYPE_Q8_0, n));
    ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float(x, rounded.data(), n);
    row_to_float(GGML_TYPE_Q8_0, rounded.data(), dst, n);
}

void row_to_float(ggml_type type, const void * src, float * dst, int64_t n) {
    if (type == GGML_TYPE_F32) {
        std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
    } else {
        ggml_get_type_traits(type)->to_float(src, dst, n);
    }
}

void matrix_row_to_float(const ggml_sparse_matrix & m, int64_t i, float * dst) {
    const ggml_type type = static_cast<ggml_type>(m.type);
    const uint8_t * row  = row_at(m, i);
    if (m.layout == GGML_SPARSE_LAYOUT_ROWS) {
        row_to_float(type, row, dst, m.n_col);
        return;
    }
    std::vector<uint8_t> plain(ggml_row_size(type, m.n_col));
    packing_find(type, m.layout, m.n_col)->unpack(m.n_col, row, plain.data());
    row_to_float(type, plain.data(), dst, m.n_col);
}

} // namespace ggml_sparse
