#pragma once

// Dot of a q8_0 or q4_0 row with an x that is laid out for it (inlaid.h).

#include "inlaid.h"
#include "simd.h"

namespace ggml_sparse {
namespace {

constexpr int UNIT = 32; // blocks whose scales are taken at once; a whole number of vectors

// Which block the dwords of vector k of a unit belong to.
struct lane_map {
    int     first;
    int32_t lane[W];
};

template <int BYTES> struct lane_maps {
    lane_map of[UNIT * BYTES / (4 * W)];

    constexpr lane_maps() : of() {
        constexpr int PAIR = BYTES / 2, EVEN = (PAIR + 1) / 2; // dwords of two blocks, of the first one
        for (int i = 0; i < UNIT * BYTES / 4; ++i) {
            const int block = i / PAIR * 2 + (i % PAIR >= EVEN);
            lane_map & m    = of[i / W];
            if (i % W == 0) {
                m.first = LANES_COUNT_FROM_FIRST ? block : 0;
            }
            m.lane[i % W] = block - m.first;
        }
    }
};

struct inlaid_x {
    const int8_t *  quants[2];
    const int32_t * offset;
    const float *   scale;
};

inline inlaid_x inlaid_x_at(const void * x, const inlaid_layout & l) {
    const int8_t * p = static_cast<const int8_t *>(x);
    return {{p, p + l.plane}, reinterpret_cast<const int32_t *>(p + l.offset()), reinterpret_cast<const float *>(p + l.scale())};
}

// Sums of one vector at byte i of its row.
template <int BYTES> vi inlaid_sums(const uint8_t * w, const inlaid_x & x, int64_t i) {
    const vq a = vq_load(reinterpret_cast<const int8_t *>(w));
    if (BYTES == 34) {
        return vi_dot_signed(x.offset + i / 4, a, vq_load(x.quants[0] + i));
    }
    return vi_dot2(vi_load(x.offset + i / 4), vq_low(a), vq_load(x.quants[0] + i), vq_high(a), vq_load(x.quants[1] + i));
}

// acc[0] + acc[1] += the first n_vector vectors of the unit at byte i.
template <int BYTES> void dot_unit(const uint8_t * w, const inlaid_x & x, int64_t i, int n_vector, const uint8_t * ahead, vf * acc) {
    static constexpr lane_maps<BYTES> maps;
    const block_scales                s = load_block_scales<BYTES>(w, x.scale + i / BYTES);
    for (int k = 0; k < n_vector; ++k) {
        const int at = k * W * 4;
        if (at % 64 == 0) {
            prefetch_l2(ahead + at, 64);
        }
        acc[k % 2] = vf_fma(vf_spread(s, maps.of[k].first, maps.of[k].lane), vf_from(inlaid_sums<BYTES>(w + at, x, i + at)), acc[k % 2]);
    }
}

template <int BYTES> float dot_inlaid(int64_t n, const void * w_row, const void * x_row, const void * ahead_row) {
    constexpr int   SIZE   = UNIT * BYTES;
    const uint8_t * w      = static_cast<const uint8_t *>(w_row);
    const uint8_t * ahead  = static_cast<const uint8_t *>(ahead_row);
    const inlaid_x  x      = inlaid_x_at(x_row, inlaid_layout_of(n, BYTES));
    const int64_t   size   = n / 32 * BYTES;
    vf              acc[2] = {vf_set1(0), vf_set1(0)};
    int64_t         i      = 0;
    for (; i + SIZE <= size; i += SIZE) {
        dot_unit<BYTES>(w + i, x, i, SIZE / (4 * W), ahead + i, acc);
    }
    if (i < size) {
        const int left           = static_cast<int>(size - i);
        uint8_t   last[SIZE + 2] = {};
        memcpy(last, w + i, static_cast<size_t>(left));
        dot_unit<BYTES>(last, x, i, (left + 4 * W - 1) / (4 * W), ahead + i, acc);
    }
    return vf_sum(vf_add(acc[0], acc[1]));
}

} // namespace
} // namespace ggml_sparse
