// Tiles of 16 weight rows times panels of columns, over the primitives of simd.h and
// tile-simd.h. Compiled once per instruction set with BATCH_TABLE = its table's name; what
// kernels.cpp says about its compilation holds here.

#include "gemm.h"

#include "kernels.h"
#include "packed-unit.h"
#include "tile-simd.h"

#include <type_traits>

namespace ggml_sparse {
namespace {

constexpr int N_RUN  = TILE_ROWS / W; // a tile is N_RUN runs of W rows
constexpr int N_LANE = 16;

// --- planar tiles ---------------------------------------------------------------------
//
// A run is [n_block] blocks of 32: eight planes (dword i of every row) and the scales.

struct plain_block {
    int8_t planes[8][W * 4];
    float  scale[1][W];
};
struct min_block {
    int8_t planes[8][W * 4];
    float  scale[1][W];
    float  min[W];
};
struct halves_block { // a scale for planes 0..3, another for 4..7
    int8_t planes[8][W * 4];
    float  scale[2][W];
};

// Quants u >= 0 of value u - offset, as vq_dot4 wants them.
inline vq to_plane(vq u, int offset) { return SIGNED_PLANES && offset ? vq_sub_bytes(u, vq_bytes(offset)) : u; }

// Four dwords of nibbles per row: planes 0..3 are the low ones, 4..7 the high ones.
template <typename F> void unpack_nibbles(const uint8_t * const * rows, int64_t at, F && store) {
    const vq mask = vq_bytes(15);
    vq       w[4];
    load_dwords(rows, at, w);
    for (int i = 0; i < 4; ++i) {
        store(i, vq_and(w[i], mask));
        store(i + 4, vq_and(vq_shr(w[i], 4), mask));
    }
}

// 16 where bits 4 i .. 4 i + 3 of a row's u32 are set, for its bytes 4 i .. 4 i + 3.
inline vq fifth_bits(vq bits, int i) {
    const vq b      = vq_and(vq_shr(bits, 4 * i), vq_set1(15));
    const vq spread = vq_or(vq_or(b, vq_shl(b, 7)), vq_or(vq_shl(b, 14), vq_shl(b, 21)));
    return vq_shl(vq_and(spread, vq_bytes(1)), 4);
}

// The rows of quants.def: BYTES per UNIT blocks; OFFSET as in tile_kernels.
struct q8_0_tile {
    using block                    = plain_block;
    static constexpr int64_t BYTES = 34, UNIT = 1;
    static constexpr int     OFFSET = 128;

    static void unpack(const uint8_t * const * rows, int64_t at, block * b) {
        vf_store(b->scale[0], vf_from_halves(gather_words(rows, at)));
        for (int half = 0; half < 2; ++half) {
            vq w[4];
            load_dwords(rows, at + 2 + 16 * half, w);
            for (int i = 0; i < 4; ++i) {
                vq_store_words(b->planes[4 * half + i], SIGNED_PLANES ? w[i] : vq_xor(w[i], vq_bytes(OFFSET)));
            }
        }
    }
};

template <int HEADER, int OFFSET_, bool HAS_HIGH, typename block_> struct nibble_tile {
    using block                    = block_;
    static constexpr int64_t BYTES = HEADER + 16, UNIT = 1;
    static constexpr int     OFFSET = OFFSET_;

    static void store_scales(plain_block * b, vq dm) { vf_store(b->scale[0], vf_from_halves(dm)); }
    static void store_scales(min_block * b, vq dm) {
        vf_store(b->scale[0], vf_from_halves(dm));
        vf_store(b->min, vf_from_halves(vq_shr(dm, 16)));
    }
    static void unpack(const uint8_t * const * rows, int64_t at, block * b) {
        const vq high = HAS_HIGH ? gather_words(rows, at + HEADER - 4) : vq_set1(0);
        store_scales(b, gather_words(rows, at));
        unpack_nibbles(rows, at + HEADER,
                       [&](int i, vq u) { vq_store_words(b->planes[i], to_plane(HAS_HIGH ? vq_or(u, fifth_bits(high, i)) : u, OFFSET)); });
    }
};
using q4_0_tile = nibble_tile<2, 8, false, plain_block>;
using q4_1_tile = nibble_tile<4, 0, false, min_block>;
using q5_0_tile = nibble_tile<6, 16, true, plain_block>;
using q5_1_tile = nibble_tile<8, 0, true, min_block>;

// Byte i of every dword, as floats.
inline vf byte_of(vq a, int i) { return vf_from_words(vq_and(vq_shr(a, 8 * i), vq_set1(255))); }

// Scales of q4_K and q5_K: {f16 d, f16 dmin, 12 bytes of six-bit numbers}; see ggml's get_scale_min_k4.
inline void unpack_k_scales(const uint8_t * const * rows, int64_t at, min_block * b) {
    vq w[4];
    load_dwords(rows, at, w);
    const vf d = vf_from_halves(w[0]), dmin = vf_mul(vf_set1(-1), vf_from_halves(vq_shr(w[0], 16)));
    const vq low6 = vq_bytes(63), low4 = vq_bytes(15), top2 = vq_bytes(48);
    const vq scale[2] = {vq_and(w[1], low6), vq_or(vq_and(w[3], low4), vq_and(vq_shr(w[1], 2), top2))};
    const vq min[2]   = {vq_and(w[2], low6), vq_or(vq_and(vq_shr(w[3], 4), low4), vq_and(vq_shr(w[2], 2), top2))};
    for (int i = 0; i < 8; ++i) {
        vf_store(b[i].scale[0], vf_mul(d, byte_of(scale[i / 4], i % 4)));
        vf_store(b[i].min, vf_mul(dmin, byte_of(min[i / 4], i % 4)));
    }
}

// 64 quants are 32 bytes: low nibbles are one block, high nibbles the next.
template <bool HAS_HIGH> struct k_tile {
    using block                    = min_block;
    static constexpr int64_t BYTES = HAS_HIGH ? 176 : 144, UNIT = 8;
    static constexpr int     OFFSET = 0;

    static void unpack(const uint8_t * const * rows, int64_t at, block * b) {
        unpack_k_scales(rows, at, b);
        vq high[8] = {};
        for (int half = 0; HAS_HIGH && half < 2; ++half) {
            load_dwords(rows, at + 16 + 16 * half, high + 4 * half);
        }
        const int64_t nibbles = at + BYTES - 128;
        for (int half = 0; half < 8; ++half) { // 16 bytes of the 128
            block * pair = b + half / 2 * 2;
            unpack_nibbles(rows, nibbles + 16 * half, [&](int i, vq u) {
                const int part = i / 4, plane = half % 2 * 4 + i % 4;
                const vq  bit = vq_and(vq_shr(high[plane], half / 2 * 2 + part), vq_bytes(1));
                vq_store_words(pair[part].planes[plane], HAS_HIGH ? vq_or(u, vq_shl(bit, 4)) : u);
            });
        }
    }
};
using q4_K_tile = k_tile<false>;
using q5_K_tile = k_tile<true>;

// {128 bytes of nibbles, 64 of two-bit tops, 16 int8 scales, f16 d}; 128 quants are 64 + 32 bytes.
struct q6_K_tile {
    using block                    = halves_block;
    static constexpr int64_t BYTES = 210, UNIT = 8;
    static constexpr int     OFFSET = 32;

    static void unpack(const uint8_t * const * rows, int64_t at, block * b) {
        for (int quarter = 0; quarter < 4; ++quarter) { // planes 0..3 or 4..7 of four blocks
            const int half = quarter % 2;
            block *   four = b + quarter / 2 * 4;
            vq        low[2][4], top[4];
            load_dwords(rows, at + quarter / 2 * 64 + half * 16, low[0]);
            load_dwords(rows, at + quarter / 2 * 64 + half * 16 + 32, low[1]);
            load_dwords(rows, at + 128 + quarter / 2 * 32 + half * 16, top);
            for (int k = 0; k < 4; ++k) {
                for (int i = 0; i < 4; ++i) {
                    const vq u = vq_and(vq_shr(low[k % 2][i], k / 2 * 4), vq_bytes(15));
                    const vq t = vq_shl(vq_and(vq_shr(top[i], 2 * k), vq_bytes(3)), 4);
                    vq_store_words(four[k].planes[half * 4 + i], to_plane(vq_or(u, t), OFFSET));
                }
            }
        }
        unpack_scales(rows, at + 192, b);
    }

    static void unpack_scales(const uint8_t * const * rows, int64_t at, block * b) {
        vq w[4];
        load_dwords(rows, at, w);
        const vf d = vf_from_halves(vq_shr(gather_words(rows, at + 14), 16));
        for (int i = 0; i < 16; ++i) { // int8 s + 128 is a byte
            const vq s = vq_xor(w[i / 4], vq_bytes(128));
            vf_store(b[i / 2].scale[i % 2], vf_mul(d, vf_add(byte_of(s, i % 4), vf_set1(-128))));
        }
    }
};

// Rows in the packed layout of packed-unit.h.
template <typename format> struct packed_tile {
    static constexpr bool IS_SIX = format::SCALES == packed_scales::SIX, HAS_MIN = !IS_SIX && format::OFFSET == 0;

    using block                    = std::conditional_t<IS_SIX, halves_block, std::conditional_t<HAS_MIN, min_block, plain_block>>;
    static constexpr int64_t BYTES = format::BYTES, UNIT = 16;
    static constexpr int     OFFSET = format::OFFSET;

    static void unpack(const uint8_t * const * rows, int64_t at, block * b) {
        for (int four = 0; four < 4; ++four) { // 16 bytes of a vector: four blocks
            vq top[2][4] = {};
            for (int h = 0; h < 2 && (format::BITS == 6 || (format::BITS == 5 && h == 0)); ++h) {
                load_dwords(rows, at + format::TOP + 64 * h + 16 * four, top[h]);
            }
            for (int j = 0; j < (format::BITS == 8 ? 8 : 4); ++j) {
                vq w[4];
                load_dwords(rows, at + 64 * j + 16 * four, w);
                for (int k = 0; k < 4; ++k) {
                    store(b[4 * four + k], j, w[k], top[0][k], top[1][k]);
                }
            }
        }
        scales(rows, at + format::SCALE_AT, b);
    }

    static void store(block & b, int j, vq w, vq top0, vq top1) {
        if (format::BITS == 8) {
            vq_store_words(b.planes[j], to_plane(w, OFFSET));
            return;
        }
        for (int h = 0; h < 2; ++h) {
            vq u = vq_and(vq_shr(w, 4 * h), vq_bytes(15));
            if (format::BITS == 5) {
                u = vq_or(u, vq_shl(vq_and(vq_shr(top0, j + 4 * h), vq_bytes(1)), 4));
            } else if (format::BITS == 6) {
                u = vq_or(u, vq_shl(vq_and(vq_shr(h ? top1 : top0, 2 * j), vq_bytes(3)), 4));
            }
            vq_store_words(b.planes[j + 4 * h], to_plane(u, OFFSET));
        }
    }

    // Sixteen halfs, one per block.
    template <typename F> static void halfs(const uint8_t * const * rows, int64_t at, F && set) {
        for (int half = 0; half < 2; ++half) {
            vq w[4];
            load_dwords(rows, at + 16 * half, w);
            for (int k = 0; k < 4; ++k) {
                set(8 * half + 2 * k, vf_from_halves(w[k]));
                set(8 * half + 2 * k + 1, vf_from_halves(vq_shr(w[k], 16)));
            }
        }
    }

    static void scales(const uint8_t * const * rows, int64_t at, plain_block * b) {
        halfs(rows, at, [&](int i, vf d) { vf_store(b[i].scale[0], d); });
    }
    static void scales(const uint8_t * const * rows, int64_t at, min_block * b) {
        if (format::SCALES == packed_scales::DM) {
            halfs(rows, at, [&](int i, vf d) { vf_store(b[i].scale[0], d); });
            halfs(rows, at + 32, [&](int i, vf m) { vf_store(b[i].min, m); });
            return;
        }
        vq low[4], rest[4]; // rest: eight bytes of nibbles, d[2], -dmin[2]
        load_dwords(rows, at, low);
        load_dwords(rows, at + 16, rest);
        for (int i = 0; i < 16; ++i) {
            const vq l = vq_and(vq_shr(low[i / 4], i % 4 * 8), vq_set1(255)), h = vq_shr(rest[i % 8 / 4], i % 4 * 8 + i / 8 * 4);
            const vq min = vq_or(vq_shr(l, 6), vq_shl(vq_and(h, vq_set1(15)), 2));
            const vf d = vf_from_halves(vq_shr(rest[2], i / 8 * 16)), m = vf_from_halves(vq_shr(rest[3], i / 8 * 16));
            vf_store(b[i].scale[0], vf_mul(d, vf_from_words(vq_and(l, vq_set1(63)))));
            vf_store(b[i].min, vf_mul(m, vf_from_words(min)));
        }
    }
    static void scales(const uint8_t * const * rows, int64_t at, halves_block * b) {
        const vq d = gather_words(rows, at + 32);
        for (int h = 0; h < 2; ++h) {
            vq w[4];
            load_dwords(rows, at + 16 * h, w);
            for (int i = 0; i < 16; ++i) { // int8 s + 128 is a byte
                const vf s = byte_of(vq_xor(w[i / 4], vq_bytes(128)), i % 4);
                vf_store(b[i].scale[h], vf_mul(vf_from_halves(vq_shr(d, i / 8 * 16)), vf_add(s, vf_set1(-128))));
            }
        }
    }
};

constexpr int64_t N_LINE = 64; // bytes of a cache line

// Bring to L2 what of `rows` lies in [from, to).
inline void prefetch_rows(const uint8_t * const * rows, int64_t from, int64_t to) {
    for (int64_t at = (from + N_LINE - 1) / N_LINE * N_LINE; at < to; at += N_LINE) {
        for (int r = 0; r < TILE_ROWS; ++r) {
            __builtin_prefetch(rows[r] + at, 0, 2);
        }
    }
}

template <typename type> size_t planar_size(int64_t n) { return static_cast<size_t>(N_RUN * (n / 32)) * sizeof(typename type::block); }

template <typename type> void planar_unpack(int64_t n, const uint8_t * const * rows, const uint8_t * const * ahead, void * tile) {
    auto * blocks = static_cast<typename type::block *>(tile);
    for (int64_t b = 0; b < n / 32; b += type::UNIT) {
        const int64_t at = b / type::UNIT * type::BYTES;
        prefetch_rows(ahead, at, at + type::BYTES);
        for (int run = 0; run < N_RUN; ++run) {
            type::unpack(rows + run * W, at, blocks + run * (n / 32) + b);
        }
    }
}

// Products of N planes with the quants of one column, added to `acc`.
template <int N> inline vq dot_planes(vq acc, const vq * w, const int8_t * q) {
    for (int i = 0; i < N; ++i) {
        acc = vq_dot4(acc, w[i], q + 4 * i);
    }
    return acc;
}

// -offset * sum of x, which unsigned planes owe.
inline vq start_of(const gemm_panel & x, int64_t at) { return SIGNED_PLANES ? vq_set1(0) : vq_set1(x.start[at]); }

// A block in registers. add(): one column's share of its lane.
template <typename block> struct loaded;

template <> struct loaded<plain_block> {
    vq w[8];
    vf scale;

    explicit loaded(const plain_block & b) : scale(vf_load(b.scale[0])) {
        for (int i = 0; i < 8; ++i) {
            w[i] = vq_words(b.planes[i]);
        }
    }
    vf add(vf acc, const gemm_panel & x, int64_t at) const {
        const vq sum = dot_planes<8>(start_of(x, at), w, x.q + at * 32);
        return vf_fma(vf_from_words(sum), vf_mul(scale, vf_set1(x.d[at])), acc);
    }
};

template <> struct loaded<min_block> {
    vq w[8];
    vf scale, min;

    explicit loaded(const min_block & b) : scale(vf_load(b.scale[0])), min(vf_load(b.min)) {
        for (int i = 0; i < 8; ++i) {
            w[i] = vq_words(b.planes[i]);
        }
    }
    vf add(vf acc, const gemm_panel & x, int64_t at) const {
        const vq sum = dot_planes<8>(vq_set1(0), w, x.q + at * 32);
        acc          = vf_fma(min, vf_set1(x.sum[at]), acc);
        return vf_fma(vf_from_words(sum), vf_mul(scale, vf_set1(x.d[at])), acc);
    }
};

template <> struct loaded<halves_block> {
    vq w[8];
    vf scale[2];

    explicit loaded(const halves_block & b) : scale{vf_load(b.scale[0]), vf_load(b.scale[1])} {
        for (int i = 0; i < 8; ++i) {
            w[i] = vq_words(b.planes[i]);
        }
    }
    vf add(vf acc, const gemm_panel & x, int64_t at) const {
        const vf d = vf_set1(x.d[at]);
        for (int half = 0; half < 2; ++half) {
            const vq sum = dot_planes<4>(start_of(x, 2 * at + half), w + 4 * half, x.q + at * 32 + 16 * half);
            acc          = vf_fma(vf_from_words(sum), vf_mul(scale[half], d), acc);
        }
        return acc;
    }
};

// One run of W rows times some columns of a panel.
template <typename block> struct run_product {
    int64_t            n_block;
    const block *      blocks;
    const gemm_panel & x;
    const uint8_t *    ids;
    int                n;

    template <bool FIRST, bool ALL> void add(int64_t b, float * acc) const {
        const loaded<block> w(blocks[b]);
        const int64_t       at = b * x.n;
        for (int k = 0; k < n; ++k) {
            const vf a = FIRST ? vf_set1(0) : vf_load(acc + k * W);
            vf_store(acc + k * W, w.add(a, x, at + (ALL ? k : ids[k])));
        }
    }

    void lane(int lane, float * acc) const {
        ids ? add<true, false>(lane, acc) : add<true, true>(lane, acc);
        for (int64_t b = lane + N_LANE; b < n_block; b += N_LANE) {
            ids ? add<false, false>(b, acc) : add<false, true>(b, acc);
        }
    }

    // Sum of the lanes lane, lane + step, ..; acc [n][W], with as much room behind it per level below.
    void lanes(int first, int step, float * acc) const {
        if (step == N_LANE) {
            lane(first, acc);
            return;
        }
        lanes(first, 2 * step, acc);
        if (first + step < n_block) {
            float * other = acc + n * W;
            lanes(first + step, 2 * step, other);
            for (int i = 0; i < n * W; i += W) {
                vf_store(acc + i, vf_add(vf_load(acc + i), vf_load(other + i)));
            }
        }
    }
};

template <typename type>
void planar_multiply(int64_t n, const void * tile, const gemm_panel & x, const uint8_t * ids, int n_id, float * y) {
    using block = typename type::block;
    alignas(64) float acc[5 * PANEL_COLUMNS * W]; // one per level of the tree
    for (int run = 0; run < N_RUN; ++run) {
        const run_product<block> product{n / 32, static_cast<const block *>(tile) + run * (n / 32), x, ids, n_id};
        product.lanes(0, 1, acc);
        for (int k = 0; k < n_id; ++k) {
            vf_store(y + k * TILE_ROWS + run * W, vf_load(acc + k * W));
        }
    }
}

// --- float tiles: [16][n] F32 ------------------------------------------------------------

struct f32_tile {
    using elem = float;
    static vf load(const elem * p) { return vf_load(p); }
};
struct f16_tile {
    using elem = uint16_t;
    static vf load(const elem * p) { return vf_load_f16(p); }
};
struct bf16_tile {
    using elem = uint16_t;
    static vf load(const elem * p) { return vf_load_bf16(p); }
};

constexpr int64_t float_stride(int64_t n) { return (n + 15) / 16 * 16; }

template <typename type> size_t float_size(int64_t n) { return static_cast<size_t>(TILE_ROWS * float_stride(n)) * sizeof(float); }

template <typename type> void float_unpack(int64_t n, const uint8_t * const * rows, const uint8_t * const * ahead, void * tile) {
    using elem = typename type::elem;
    for (int r = 0; r < TILE_ROWS; ++r) {
        const elem * src = reinterpret_cast<const elem *>(rows[r]);
        float *      dst = static_cast<float *>(tile) + r * float_stride(n);
        int64_t      i   = 0;
        for (; i + W <= n; i += W) {
            vf_store(dst + i, type::load(src + i));
        }
        if (i < n) {
            elem last[W] = {};
            memcpy(last, src + i, static_cast<size_t>(n - i) * sizeof(elem));
            vf_store(dst + i, type::load(last));
        }
    }
    prefetch_rows(ahead, 0, n * static_cast<int64_t>(sizeof(elem)));
}

// R rows times C columns, in the order of kernels.cpp dot_float. y[c][r], TILE_ROWS apart.
template <int R, int C> void dot_floats(int64_t n, const float * w, const float * const * x, float * y) {
    const int64_t stride = float_stride(n);
    vf            acc[R][C][4];
    for (auto & row : acc) {
        for (auto & sum : row) {
            sum[0] = sum[1] = sum[2] = sum[3] = vf_set1(0);
        }
    }
    const auto add = [&](int64_t i, int k, int m) {
        vf a[R];
        for (int r = 0; r < R; ++r) {
            a[r] = vf_load(w + r * stride + i);
        }
        for (int c = 0; c < C; ++c) {
            const vf b = m == W ? vf_load(x[c] + i) : vf_load_n(x[c] + i, m);
            for (int r = 0; r < R; ++r) {
                acc[r][c][k] = vf_fma(a[r], b, acc[r][c][k]);
            }
        }
    };
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        add(i, 0, W);
        add(i + W, 1, W);
        add(i + 2 * W, 2, W);
        add(i + 3 * W, 3, W);
    }
    for (; i + W <= n; i += W) {
        add(i, 0, W);
    }
    if (i < n) {
        add(i, 1, static_cast<int>(n - i));
    }
    for (int c = 0; c < C; ++c) {
        for (int r = 0; r < R; ++r) {
            const vf * s         = acc[r][c];
            y[c * TILE_ROWS + r] = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
        }
    }
}

constexpr int ROWS_AT_ONCE    = W == 16 ? 2 : 1; // as many sums as there are registers
constexpr int COLUMNS_AT_ONCE = 3;

inline void float_multiply(int64_t n, const void * tile, const gemm_panel & x, const uint8_t * ids, int n_id, float * y) {
    const float * w = static_cast<const float *>(tile);
    for (int k = 0; k < n_id; k += COLUMNS_AT_ONCE) {
        const int     m = n_id - k < COLUMNS_AT_ONCE ? n_id - k : COLUMNS_AT_ONCE;
        const float * columns[COLUMNS_AT_ONCE];
        for (int c = 0; c < m; ++c) {
            columns[c] = x.x[ids ? ids[k + c] : k + c];
        }
        for (int r = 0; r < TILE_ROWS; r += ROWS_AT_ONCE) {
            const float * rows = w + r * float_stride(n);
            float *       dst  = y + k * TILE_ROWS + r;
            switch (m) {
                case 1: dot_floats<ROWS_AT_ONCE, 1>(n, rows, columns, dst); break;
                case 2: dot_floats<ROWS_AT_ONCE, 2>(n, rows, columns, dst); break;
                default: dot_floats<ROWS_AT_ONCE, 3>(n, rows, columns, dst); break;
            }
        }
    }
}

// --- sums of rows -----------------------------------------------------------------------

inline void add_rows(const float * rows, const row_entry * entries, int64_t n, float * acc) {
    constexpr int N = SLICE_COLUMNS / W;
    vf            sum[N];
    for (int i = 0; i < N; ++i) {
        sum[i] = vf_load(acc + i * W);
    }
    for (int64_t k = 0; k < n; ++k) {
        const float * row = rows + static_cast<size_t>(entries[k].row) * SLICE_COLUMNS;
        const vf      h   = vf_set1(entries[k].h);
        for (int i = 0; i < N; ++i) {
            sum[i] = vf_fma(h, vf_load(row + i * W), sum[i]);
        }
    }
    for (int i = 0; i < N; ++i) {
        vf_store(acc + i * W, sum[i]);
    }
}

// --- the table -----------------------------------------------------------------------------

template <typename type> constexpr tile_kernels planar_kernels() {
    constexpr int n_start = sizeof(typename type::block) == sizeof(halves_block) && type::OFFSET ? 2 : 1;
    return {type::OFFSET, n_start, planar_size<type>, planar_unpack<type>, planar_multiply<type>};
}
template <typename type> constexpr tile_kernels float_kernels() { return {0, 0, float_size<type>, float_unpack<type>, float_multiply}; }

#define TILE_F32(name) float_kernels<name##_tile>()
#define TILE_PAIRS(name) planar_kernels<name##_tile>()
#define TILE_SUPER4(name) planar_kernels<name##_tile>()
#define TILE_SUPER6(name) planar_kernels<name##_tile>()

constexpr tile_kernels TILES[] = {
#define SPARSE_TYPE(NAME, name, FORM) TILE_##FORM(name),
#include "../quants.def"
#undef SPARSE_TYPE
#define SPARSE_TYPE(NAME, name, FORM) SPARSE_PACKED_##FORM(planar_kernels<packed_tile<name##_packed>>(), )
#include "../quants.def"
#undef SPARSE_TYPE
    {}, // rows that are only added
};

} // namespace

const batch_kernels BATCH_TABLE = {TILES, add_rows};

} // namespace ggml_sparse
