#pragma once

// Rows added to y: y[i] = fma(h[r], w[r][i], y[i]) for r = 0 .. n_row - 1 in turn, a few rows in
// one pass over y. Values of quantised rows are fma(d, q, m), exact or rounded once in every type.

#include "dot-floats.h"
#include "dot-quants.h"
#include "kernels.h"

namespace ggml_sparse {
namespace {

constexpr int N_ROW_MAX = AXPY_ROWS; // rows of one pass

// The rows of one pass from element i on.
struct axpy_rows {
    int             n;
    float           h[N_ROW_MAX];
    const uint8_t * w[N_ROW_MAX];
    const uint8_t * ahead[N_ROW_MAX];

    size_t done, fetched; // bytes of each row, and of each `ahead`

    void advance(size_t n_bytes) {
        for (int r = 0; r < n; ++r) {
            w[r] += n_bytes;
        }
        done += n_bytes;
    }
    // Bring `ahead` to L2 up to n_bytes behind `done`, a few lines at a time: many at once would
    // take the buffers that loads need.
    void prefetch(size_t n_bytes) {
        for (; fetched < done + n_bytes; fetched += 64) {
            for (int r = 0; r < n; ++r) {
                prefetch_l2(ahead[r] + fetched, 64);
            }
        }
    }
};

inline axpy_rows axpy_rows_of(int n, const float * h, const void * const * w, const void * const * ahead) {
    axpy_rows rows{n, {}, {}, {}, 0, 0};
    for (int r = 0; r < n; ++r) {
        rows.h[r]     = h[r];
        rows.w[r]     = static_cast<const uint8_t *>(w[r]);
        rows.ahead[r] = static_cast<const uint8_t *>(ahead[r]);
    }
    return rows;
}

// --- float rows ------------------------------------------------------------------------

template <typename row, int N> void axpy_float_pass(int64_t n, const axpy_rows & rows, float * y) {
    using elem         = typename row::elem;
    constexpr int LINE = 64 / sizeof(elem);
    for (int64_t i = 0; i + W <= n; i += W) {
        vf v = vf_load(y + i);
        for (int r = 0; r < N; ++r) {
            v = vf_fma(vf_set1(rows.h[r]), row::load(reinterpret_cast<const elem *>(rows.w[r]) + i), v);
            if (i % LINE == 0) {
                prefetch_l2(reinterpret_cast<const elem *>(rows.ahead[r]) + i, 64);
            }
        }
        vf_store(y + i, v);
    }
    if (const int left = static_cast<int>(n % W)) {
        const int64_t i = n - left;
        vf            v = vf_load_n(y + i, left);
        for (int r = 0; r < N; ++r) {
            v = vf_fma(vf_set1(rows.h[r]), load_tail<row>(reinterpret_cast<const elem *>(rows.w[r]) + i, left), v);
        }
        vf_store_n(y + i, v, left);
    }
}

template <typename row>
void axpy_float(int64_t n, int n_row, const float * h, const void * const * w, const void * const * ahead, float * y) {
    const axpy_rows rows = axpy_rows_of(n_row, h, w, ahead);
    switch (n_row) {
        case 1: return axpy_float_pass<row, 1>(n, rows, y);
        case 2: return axpy_float_pass<row, 2>(n, rows, y);
        case 3: return axpy_float_pass<row, 3>(n, rows, y);
        case 4: return axpy_float_pass<row, 4>(n, rows, y);
    }
}

// --- quantised rows: one unit of one row ------------------------------------------------

// Values are d[h][b] * q + m[h][b] in half h of block b; q in the order of x (x-unit.h).
struct unit_values {
    int8_t q[UNIT_SIZE];
    float  d[2][UNIT_BLOCKS], m[2][UNIT_BLOCKS];

    void scale(int p, const vf & dp, const vf & mp) {
        for (int h = 0; h < 2; ++h) {
            scale_half(h, p, dp, mp);
        }
    }
    void scale_half(int h, int p, const vf & dp, const vf & mp) {
        vf_store(d[h] + p * W, dp);
        vf_store(m[h] + p * W, mp);
    }
};

template <typename row> void scale_unit(block_dot<row>, const uint8_t * w, unit_values & v) {
    for (int p = 0; p < N_PART; ++p) {
        const uint8_t * wp = w + p * W * row::BYTES;
        const vf        d  = vf_load_halfs<row::BYTES>(wp);
        v.scale(p, d, row::HAS_MIN ? vf_load_halfs<row::BYTES>(wp + 2) : vf_mul(d, vf_set1(-row::OFFSET)));
    }
}

template <typename row> void unpack_unit(block_dot<row>, const uint8_t * w, unit_values & v) {
    for (int p = 0; p < N_PART; ++p) {
        for (int g = 0; g < 4; ++g) {
            vq a, b;
            row::quants(w + (p * W + g) * row::BYTES, a, b);
            vq_store(v.q + g * 128 + p * W * 4, a);
            vq_store(v.q + g * 128 + p * W * 4 + 64, b);
        }
    }
    scale_unit(block_dot<row>(), w, v);
}

template <typename row> void scale_unit(super4_dot<row>, const uint8_t * w, unit_values & v) {
    for (int p = 0; p < N_PART; ++p) {
        vf d, m;
        load_k_scales<row::BYTES>(w, p, d, m);
        v.scale(p, d, m);
    }
}

template <typename row> void unpack_unit(super4_dot<row>, const uint8_t * w, unit_values & v) {
    for (int k = 0; k < 2 * N_PART; ++k) {
        vq       q[4];
        int8_t * at = v.q + super4_dot<row>::place(k);
        super4_dot<row>::quants(w, k, q);
        for (int i = 0; i < 4; ++i) {
            vq_store(at + 64 * i, q[i]);
        }
    }
    scale_unit(super4_dot<row>(), w, v);
}

inline void unpack_unit(super6_dot, const uint8_t * w, unit_values & v) {
    for (int p = 0; p < N_PART; ++p) {
        for (int k = 0; k < 4; ++k) {
            vq        a, b;
            const int at = super6_dot::quants(w, 4 * p + k, a, b);
            vq_store(v.q + at, a);
            vq_store(v.q + at + 64, b);
        }
        vf d[2];
        load_q6_scales(w, p, d[0], d[1]);
        for (int h = 0; h < 2; ++h) {
            v.scale_half(h, p, d[h], vf_mul(d[h], vf_set1(-32)));
        }
    }
}

constexpr x_order                         order_of_unit(const void *) { return x_order::PAIRS; }
template <typename row> constexpr x_order order_of_unit(const super4_dot<row> *) { return x_order::SUPER4; }
constexpr x_order                         order_of_unit(const super6_dot *) { return x_order::SUPER6; }

// y += N rows of n_block blocks. Any type: quants become bytes in L1 first.
template <typename unit, int N> struct axpy_bytes {
    static void add(axpy_rows & rows, int n_block, float * y) {
        constexpr x_order order = order_of_unit(static_cast<const unit *>(nullptr));
        unit_values       values[N];
        for (int r = 0; r < N; ++r) {
            unpack_unit(unit(), rows.w[r], values[r]);
        }
        for (int piece = 0; piece < 2 * n_block; ++piece) {
            rows.prefetch(static_cast<size_t>(piece + 1) * unit::BYTES / (2 * UNIT_BLOCKS));
            add_piece(rows, values, piece, x_place(order, piece) * 16, y + piece * 16);
        }
    }

    static void add_piece(const axpy_rows & rows, const unit_values * values, int piece, int at, float * y) {
        const int b = piece / 2, h = piece % 2;
        for (int k = 0; k < 16; k += W) {
            vf sum = vf_load(y + k);
            for (int r = 0; r < N; ++r) {
                const unit_values & v = values[r];
                const vf            w = vf_fma(vf_set1(v.d[h][b]), vf_load_i8(v.q + at + k), vf_set1(v.m[h][b]));
                sum                   = vf_fma(vf_set1(rows.h[r]), w, sum);
            }
            vf_store(y + k, sum);
        }
    }
};

template <typename unit, int N> struct axpy_unit : axpy_bytes<unit, N> {};

#if defined(SIMD_HAS_TABLES)
// The sixteen values that a nibble of block b may mean.
template <typename unit> inline vf nibble_values(unit, const unit_values & v, int b) { return vf_table(v.d[0][b], v.m[0][b]); }
inline vf nibble_values(block_dot<q4_0_row>, const unit_values & v, int b) { return vf_table_of_signed(v.d[0][b]); } // m = -8 d

// A multiplication takes a scale from memory for nothing; gcc would keep all sixteen in a vector and permute. Not where a minimum
// comes from there too.
template <typename unit> inline void stay_in_memory(unit, unit_values *) {}
inline void                          stay_in_memory(block_dot<q4_0_row>, unit_values * v) { asm volatile("" : : "r"(v) : "memory"); }

// The same for nibbles: a block has sixteen values, and a vector holds them.
template <typename unit, int N> struct axpy_nibbles {
    static constexpr int N_LINE = (unit::BYTES + 63) / 64;

    static void add(axpy_rows & rows, int n_block, float * y) {
        unit_values values[N];
        for (int r = 0; r < N; ++r) {
            scale_unit(unit(), rows.w[r], values[r]);
        }
        stay_in_memory(unit(), values);
        if (n_block == UNIT_BLOCKS) {
#    pragma GCC unroll 16
            for (int i = 0; i < UNIT_BLOCKS; ++i) { // unrolled, all places are constants
                prefetch(rows, i, y);
                add_piece(rows, values, unit::nibbles(i), y);
            }
            return;
        }
        for (int i = 0; i < n_block; ++i) { // as many pieces of bytes as blocks
            add_piece(rows, values, unit::nibbles(i), y);
        }
    }

    // Block i's share of the lines of `ahead`, row by row.
    static inline __attribute__((always_inline)) void prefetch(const axpy_rows & rows, int i, float *& y) {
        for (int line = i * N_LINE * N / UNIT_BLOCKS; line < (i + 1) * N_LINE * N / UNIT_BLOCKS; ++line) {
            prefetch_here(rows.ahead[line % N] + rows.done + line / N * 64, y);
        }
    }

    static inline __attribute__((always_inline)) void add_piece(const axpy_rows & rows, const unit_values * values,
                                                                const nibbles_place & at, float * y) {
        const int b = at.low / 32, c = at.high / 32;
        vf        low = vf_load(y + at.low), high = vf_load(y + at.high);
        for (int r = 0; r < N; ++r) {
            const vi q   = vi_load_bytes(rows.w[r] + at.bytes);
            const vf one = nibble_values(unit(), values[r], b);
            const vf two = b == c ? one : nibble_values(unit(), values[r], c);
            low          = vf_fma(vf_set1(rows.h[r]), vf_look_up(one, q), low);
            high         = vf_fma(vf_set1(rows.h[r]), vf_look_up(two, vi_shift_right(q, 4)), high);
        }
        vf_store(y + at.low, low);
        vf_store(y + at.high, high);
    }
};
template <int N> struct axpy_unit<block_dot<q4_0_row>, N> : axpy_nibbles<block_dot<q4_0_row>, N> {};
template <int N> struct axpy_unit<block_dot<q4_1_row>, N> : axpy_nibbles<block_dot<q4_1_row>, N> {};
template <int N> struct axpy_unit<super4_dot<q4_K_row>, N> : axpy_nibbles<super4_dot<q4_K_row>, N> {};
#endif

// --- quantised rows ----------------------------------------------------------------------

template <typename unit, int N> void axpy_quant_pass(int64_t n, axpy_rows rows, float * y) {
    for (; n >= UNIT_SIZE; n -= UNIT_SIZE, y += UNIT_SIZE) {
        axpy_unit<unit, N>::add(rows, UNIT_BLOCKS, y);
        rows.advance(unit::BYTES);
    }
    if (n > 0) {
        const size_t left                 = static_cast<size_t>(n) * unit::BYTES / UNIT_SIZE;
        uint8_t      last[N][unit::BYTES] = {};
        for (int r = 0; r < N; ++r) {
            memcpy(last[r], rows.w[r], left);
            rows.w[r] = last[r];
        }
        axpy_unit<unit, N>::add(rows, static_cast<int>(n / 32), y);
    }
}

template <typename unit>
void axpy_quant(int64_t n, int n_row, const float * h, const void * const * w, const void * const * ahead, float * y) {
    const axpy_rows rows = axpy_rows_of(n_row, h, w, ahead);
    switch (n_row) {
        case 1: return axpy_quant_pass<unit, 1>(n, rows, y);
        case 2: return axpy_quant_pass<unit, 2>(n, rows, y);
        case 3: return axpy_quant_pass<unit, 3>(n, rows, y);
        case 4: return axpy_quant_pass<unit, 4>(n, rows, y);
    }
}

} // namespace
} // namespace ggml_sparse
