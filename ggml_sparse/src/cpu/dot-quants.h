#pragma once

// Dot of a quantised row with x in units of 16 blocks (x-unit.h). The order of all sums is
// part of the contract (kernels.h); it is the same for every instruction set and for batches:
//   sixteen F32 sums, block b goes to sum b % 16, blocks in ascending order:
//     sum = fma(m, x.min, sum)                    for types with a minimum m per block
//     sum = fma(float(dot of quants), d * x.scale, sum)     the dot is an exact int32
//   q6_K: the first halves of all sixteen blocks of a unit, then the second halves.
// The sums are added (l, l + 8), then + 4, + 2, + 1.

#include "simd.h"
#include "x-unit.h"

namespace ggml_sparse {
namespace {

constexpr int N_PART = UNIT_BLOCKS / W; // vectors of sixteen sums

inline float sum_parts(const vf * acc) {
    vf s[N_PART];
    for (int p = 0; p < N_PART; ++p) {
        s[p] = acc[p];
    }
    for (int n = N_PART / 2; n > 0; n /= 2) {
        for (int p = 0; p < n; ++p) {
            s[p] = vf_add(s[p], s[p + n]);
        }
    }
    return vf_sum(s[0]);
}

// sum += float(ints) * (d * x.scale) for part p.
inline void add_products(const vi & ints, const vf & d, const x_unit & x, int p, vf & sum) {
    sum = vf_fma(vf_from(ints), vf_mul(d, vf_load(x.scale + p * W)), sum);
}
inline void add_minimum(const vf & m, const x_unit & x, int p, vf & sum) { sum = vf_fma(m, vf_load(x.min + p * W), sum); }

// --- 32-wide blocks --------------------------------------------------------------
//
// ggml's blocks are {f16 d}, {f16 m} where HAS_MIN, {u32 fifth bits} in q5, then bytes or nibbles.
// Value of a quant q: d * (q - OFFSET), or d * q + m where HAS_MIN.

inline void vq_load_nibbles(const uint8_t * w, int stride, vq & a, vq & b) {
    const vq both = vq_gather(w, stride);
    a             = vq_low(both);
    b             = vq_high(both);
}

struct q4_0_row {
    static constexpr int  BYTES   = 18;
    static constexpr int  OFFSET  = 8;
    static constexpr bool HAS_MIN = false;
    static void           quants(const uint8_t * w, vq & a, vq & b) { vq_load_nibbles(w + 2, 4 * BYTES, a, b); }
};
struct q4_1_row {
    static constexpr int  BYTES   = 20;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = true;
    static void           quants(const uint8_t * w, vq & a, vq & b) { vq_load_nibbles(w + 4, 4 * BYTES, a, b); }
};
struct q5_0_row {
    static constexpr int  BYTES   = 22;
    static constexpr int  OFFSET  = 16;
    static constexpr bool HAS_MIN = false;
    static void           quants(const uint8_t * w, vq & a, vq & b) {
        vq_load_nibbles(w + 6, 4 * BYTES, a, b);
        vq_add_fifth_bits(w + 2, 4 * BYTES, a, b);
    }
};
struct q5_1_row {
    static constexpr int  BYTES   = 24;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = true;
    static void           quants(const uint8_t * w, vq & a, vq & b) {
        vq_load_nibbles(w + 8, 4 * BYTES, a, b);
        vq_add_fifth_bits(w + 4, 4 * BYTES, a, b);
    }
};
struct q8_0_row { // signed
    static constexpr int  BYTES   = 34;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = false;
    static void           quants(const uint8_t * w, vq & a, vq & b) {
        a = vq_gather(w + 2, 4 * BYTES);
        b = vq_gather(w + 18, 4 * BYTES);
    }
};

// Dot of two pieces of 16, and what it has too much of: 1 << shift times the sum of x.
inline vi dot_halves(const q8_0_row *, vq a, const int8_t * x, vq b, const int8_t * y) {
    return vi_dot2_signed(a, vq_load(x), b, vq_load(y));
}
inline vi dot_halves(const void *, vq a, const int8_t * x, vq b, const int8_t * y) { return vi_dot2(a, vq_load(x), b, vq_load(y)); }

template <typename row> constexpr int shift_of(const row *) { return row::OFFSET == 16 ? 4 : row::OFFSET == 8 ? 3 : 0; }
constexpr int                         shift_of(const q8_0_row *) { return SIGNED_SHIFT; }

// Sixteen bytes of nibbles at `bytes` of a unit: low ones are elements low .. low + 15 of it.
struct nibbles_place {
    int bytes, low, high;
};

template <typename row> struct block_dot {
    static constexpr int BYTES = UNIT_BLOCKS * row::BYTES;

    static constexpr nibbles_place nibbles(int i) { return {i * row::BYTES + row::BYTES - 16, 32 * i, 32 * i + 16}; }

    // Dots of blocks p * W .. p * W + W - 1.
    static vi ints(const uint8_t * w, const x_unit & x, int p) {
        vi v[4];
        for (int g = 0; g < 4; ++g) {
            vq             a, b;
            const int8_t * q = x.quants + g * 128 + p * W * 4;
            row::quants(w + (p * W + g) * row::BYTES, a, b);
            v[g] = dot_halves(static_cast<const row *>(nullptr), a, q, b, q + 64);
        }
        const vi      all   = vi_transpose_add(v[0], v[1], v[2], v[3]);
        constexpr int shift = shift_of(static_cast<const row *>(nullptr));
        return shift ? vi_sub(all, vi_shift_left(vi_load(x.sums[0] + p * W), shift)) : all;
    }

    static void add(const uint8_t * w, const x_unit & x, vf * acc) {
        for (int p = 0; p < N_PART; ++p) {
            const uint8_t * wp = w + p * W * row::BYTES;
            if (row::HAS_MIN) {
                add_minimum(vf_load_halfs<row::BYTES>(wp + 2), x, p, acc[p]);
            }
            add_products(ints(w, x, p), vf_load_halfs<row::BYTES>(wp), x, p, acc[p]);
        }
    }
};

// --- 256-wide blocks: two to a unit --------------------------------------------------
//
// q4_K, q5_K: {f16 d, f16 dmin, 12 bytes: eight 6-bit scales and eight 6-bit minima}, q5_K {32 bytes
// of fifth bits}, then four groups of 32 bytes: low nibbles are an even block of 32, high ones an odd.

struct q4_K_row {
    static constexpr int BYTES  = 144;
    static constexpr int QUANTS = 16;
    static void          add_bits(const uint8_t *, int, vq &, vq &, vq &, vq &) {}
};
struct k_bits {
    int8_t even[64], odd[64]; // fifth bits: of the even and the odd block of each group
    constexpr k_bits() : even(), odd() {
        for (int i = 0; i < 64; ++i) {
            even[i] = static_cast<int8_t>(1 << i / 16 * 2);
            odd[i]  = static_cast<int8_t>(2 << i / 16 * 2);
        }
    }
};

struct q5_K_row {
    static constexpr int BYTES  = 176;
    static constexpr int QUANTS = 48;
    // Of the even and odd blocks in groups `first` .. first + W / 4 - 1: elements 0..15, then 16..31.
    static void add_bits(const uint8_t * w, int first, vq & even0, vq & even1, vq & odd0, vq & odd1) {
        static constexpr k_bits bits;
        const vq                h0 = vq_repeat(w + 16), h1 = vq_repeat(w + 32);
        const vq                even = vq_load(bits.even + 16 * first), odd = vq_load(bits.odd + 16 * first);
        even0 = vq_add_16_where(even0, h0, even);
        even1 = vq_add_16_where(even1, h1, even);
        odd0  = vq_add_16_where(odd0, h0, odd);
        odd1  = vq_add_16_where(odd1, h1, odd);
    }
};

template <typename row> struct super4_dot {
    static constexpr int BYTES = 2 * row::BYTES;

    // The kth W / 4 groups: where in the order of x their even blocks' first halves lie; the second
    // halves, then the odd blocks' follow 64 elements apart. quants() gives the four.
    static constexpr int super(int k) { return k / N_PART; }
    static constexpr int first(int k) { return k % N_PART * (W / 4); }
    static constexpr int place(int k) { return super(k) * 256 + 16 * first(k); }

    static void quants(const uint8_t * w, int k, vq * q) {
        const uint8_t * ws = w + super(k) * row::BYTES;
        vq              a, b;
        vq_split(ws + row::QUANTS + 32 * first(k), a, b);
        q[0] = vq_low(a);
        q[1] = vq_low(b);
        q[2] = vq_high(a);
        q[3] = vq_high(b);
        row::add_bits(ws, first(k), q[0], q[1], q[2], q[3]);
    }

    static constexpr nibbles_place nibbles(int i) {
        const int low = i / 8 * 256 + i % 8 / 2 * 64 + i % 2 * 16;
        return {i / 8 * row::BYTES + row::QUANTS + i % 8 * 16, low, low + 32};
    }

    // Of the even and the odd blocks in the kth groups.
    static void sums(const uint8_t * w, const x_unit & x, int k, vi * v) {
        const int8_t * at = x.quants + place(k);
        vq             q[4];
        quants(w, k, q);
        v[0] = vi_dot2(q[0], vq_load(at), q[1], vq_load(at + 64));
        v[1] = vi_dot2(q[2], vq_load(at + 128), q[3], vq_load(at + 192));
    }

    static void add(const uint8_t * w, const x_unit & x, vf * acc) {
        for (int p = 0; p < N_PART; ++p) {
            vi v[4];
            vf d, m;
            sums(w, x, 2 * p, v);
            sums(w, x, 2 * p + 1, v + 2);
            load_k_scales<row::BYTES>(w, p, d, m);
            add_minimum(m, x, p, acc[p]);
            add_products(vi_pairs_in_order(vi_transpose_add(v[0], v[1], v[2], v[3])), d, x, p, acc[p]);
        }
    }
};

// {128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 x i8 scales, f16 d}; d * scale * (q - 32)
// with a scale for every 16 elements.
struct q6_K_row {
    static constexpr int BYTES = 210;
};

struct super6_dot {
    static constexpr int BYTES = 2 * q6_K_row::BYTES;

    // The kth vector of low nibbles and their high bits (a), and the high nibbles 64 elements on (b).
    // Returns where they lie.
    static int quants(const uint8_t * w, int k, vq & a, vq & b) {
        const int at = 4 * W * k, super = at / 128, half = at / 64 % 2, i = at % 64;
        vq_load_six_bits(w + super * q6_K_row::BYTES, half, i, a, b);
        return super * 256 + half * 128 + i;
    }

    // even, odd: dots of the first and second halves of blocks p * W ..
    static void ints(const uint8_t * w, const x_unit & x, int p, vi & even, vi & odd) {
        vi low[4], high[4];
        for (int k = 0; k < 4; ++k) {
            vq             a, b;
            const int8_t * q = x.quants + quants(w, 4 * p + k, a, b);
            low[k]           = vi_dot(a, vq_load(q));
            high[k]          = vi_dot(b, vq_load(q + 64));
        }
        vi_even_odd(low, high, even, odd);
        even = vi_sub(even, vi_shift_left(vi_load(x.sums[0] + p * W), 5));
        odd  = vi_sub(odd, vi_shift_left(vi_load(x.sums[1] + p * W), 5));
    }

    static void add(const uint8_t * w, const x_unit & x, vf * acc) {
        for (int p = 0; p < N_PART; ++p) {
            vi even, odd;
            vf d_even, d_odd;
            ints(w, x, p, even, odd);
            load_q6_scales(w, p, d_even, d_odd);
            add_products(even, d_even, x, p, acc[p]);
            add_products(odd, d_odd, x, p, acc[p]);
        }
    }
};

// --- a row -----------------------------------------------------------------------------

template <typename unit> float dot_quant(int64_t n, const void * w_row, const void * x_row, const void * ahead_row) {
    const uint8_t * w     = static_cast<const uint8_t *>(w_row);
    const uint8_t * ahead = static_cast<const uint8_t *>(ahead_row);
    const x_unit *  x     = static_cast<const x_unit *>(x_row);
    vf              acc[N_PART];
    for (vf & a : acc) {
        a = vf_set1(0);
    }
    for (; n >= UNIT_SIZE; n -= UNIT_SIZE, w += unit::BYTES, ahead += unit::BYTES) {
        prefetch_l2(ahead, unit::BYTES);
        unit::add(w, *x++, acc);
    }
    if (n > 0) {
        const size_t left              = static_cast<size_t>(n) * unit::BYTES / UNIT_SIZE;
        uint8_t      last[unit::BYTES] = {};
        memcpy(last, w, left);
        prefetch_l2(ahead, left);
        unit::add(last, *x, acc);
    }
    return sum_parts(acc);
}

} // namespace
} // namespace ggml_sparse
