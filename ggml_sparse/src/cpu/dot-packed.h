#pragma once

// Dot of a packed row (packed-unit.h) with x in LANES order. Sums in the order of dot-quants.h, so
// the bits are those of the same row in ggml's layout.

#include "dot-quants.h"
#include "packed-unit.h"

namespace ggml_sparse {
namespace {

// Dwords 0 .. 7 of blocks p * W .. as unsigned quants, with their top bits.
template <typename format> inline void packed_quants(const uint8_t * w, int p, vq * u) {
    w += 4 * W * p;
    for (int i = 0; i < 8; ++i) {
        const vq both = vq_load(w + 64 * (format::BITS == 8 ? i : i % 4));
        u[i]          = format::BITS == 8 ? both : i < 4 ? vq_low(both) : vq_high(both);
        if (format::BITS == 5) {
            u[i] = vq_or_bits<16>(u[i], vq_load(w + format::TOP), 4 - i);
        } else if (format::BITS == 6) {
            u[i] = vq_or_bits<48>(u[i], vq_load(w + format::TOP + 64 * (i / 4)), 4 - i % 4 * 2);
        }
    }
}

// What signed quants owe: OFFSET times the sum of x, negative. 8-bit dots that are signed anyway owe nothing.
template <typename format> inline vi packed_start(const int32_t * sums) {
    constexpr int shift = format::OFFSET == 8 ? 3 : format::OFFSET == 16 ? 4 : format::OFFSET == 32 ? 5 : SIGNED_SHIFT;
    return vi_shift_left(vi_load(sums), shift);
}

template <typename format> inline vi packed_ints(const uint8_t * w, const x_unit & x, int p) {
    constexpr bool owes = format::OFFSET != 0 && (format::OFFSET != 128 || SIGNED_SHIFT != 0);
    vq             u[8];
    packed_quants<format>(w, p, u);
    const vi start = owes ? packed_start<format>(x.sums[0] + p * W) : vi_zero();
    return vi_dots<format::BITS, 8>(start, u, x.quants + 4 * W * p);
}

template <typename format, packed_scales = format::SCALES> struct packed_dot {
    static constexpr int BYTES = format::BYTES;

    // d and minimum of blocks p * W ..
    static void scales(const uint8_t * w, int p, vf & d, vf & m) {
        if (format::SCALES == packed_scales::K) {
            load_packed_k(w, p, d, m);
            d = vf_mul(vf_by_super(w + 24, p), d);
            m = vf_mul(vf_by_super(w + 28, p), m);
        } else {
            const uint16_t * halfs = reinterpret_cast<const uint16_t *>(w) + p * W;
            d                      = vf_load_f16(halfs);
            m                      = format::SCALES == packed_scales::DM ? vf_load_f16(halfs + 16) : vf_set1(0);
        }
    }

    static void add(const uint8_t * w, const x_unit & x, vf * acc) {
        for (int p = 0; p < N_PART; ++p) {
            vf d, m;
            scales(w + format::SCALE_AT, p, d, m);
            if (format::SCALES != packed_scales::D) {
                add_minimum(m, x, p, acc[p]);
            }
            add_products(packed_ints<format>(w, x, p), d, x, p, acc[p]);
        }
    }
};

template <typename format> struct packed_dot<format, packed_scales::SIX> {
    static constexpr int BYTES = format::BYTES;

    static void add(const uint8_t * w, const x_unit & x, vf * acc) {
        const uint8_t * scales = w + format::SCALE_AT;
        for (int p = 0; p < N_PART; ++p) {
            const vf d     = vf_by_super(scales + 32, p);
            const vi whole = vi_load(x.sums[0] + p * W), second = vi_load(x.sums[1] + p * W);
            vq       u[8];
            packed_quants<format>(w, p, u);
            for (int h = 0; h < 2; ++h) {
                const vi owed = vi_shift_left(h ? second : vi_sub(whole, second), 5);
                const vi dot  = vi_dots<6, 4>(owed, u + 4 * h, x.quants + 256 * h + 4 * W * p);
                const vf s    = vf_load_i8(reinterpret_cast<const int8_t *>(scales) + 16 * h + p * W);
                add_products(dot, vf_mul(d, s), x, p, acc[p]);
            }
        }
    }
};

} // namespace
} // namespace ggml_sparse
