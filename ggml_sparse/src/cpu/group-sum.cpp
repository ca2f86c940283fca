// Compiled once per instruction set, like kernels.cpp, with GROUP_TABLE = the name of its table.

#include "group-sum.h"

#include "kernels.h"
#include "packed-unit.h"
#include "simd.h"

namespace ggml_sparse {
namespace {

constexpr int BYTES = 18; // of a block: in ggml's layout f16 d, 16 bytes of nibbles
constexpr int CHUNK = 16; // blocks whose factors are made at once
constexpr int QUADS = N_GROUP_ROWS / 4;

// Sixteen rows at the columns of a chunk. Rows behind the last one repeat it with factor 0.
struct row_group {
    const uint8_t * row[N_GROUP_ROWS];
    const uint8_t * ahead[N_GROUP_ROWS]; // rows of the next group
    float           h[N_GROUP_ROWS];
    int             n_quad; // of rows that are there
};

// What the nibbles of a chunk's blocks are multiplied with: h times d, rounded, in P signed bytes.
template <int P> struct group_factors {
    static constexpr int32_t MOST = P == 1 ? 127 : 127 * 256;

    int8_t  q[P][QUADS][CHUNK][4]; // the lowest bytes first, four rows to a dword
    int32_t offset[CHUNK];         // -8 * sum of factors: a nibble means nibble - 8
    float   scale[CHUNK];
};

// The largest of them is at least this, so that its inverse is finite.
constexpr float LEAST = 0x1p-110f;

// The step that every instruction set has in a form of its own, in ggml's layout.
template <int P> void add_block(const row_group & g, int64_t at, const group_factors<P> & f, int b, float * y);

// The next group's rows come to L2 one behind the other while this group is added: memory reads a row after a row
// faster than sixteen side by side.
struct group_ahead {
    const uint8_t * const * row;
    int64_t                 n_bytes; // of each
    int                     k;
    int64_t                 at;

    void fetch(int n_line) {
        for (; n_line > 0 && k < N_GROUP_ROWS; --n_line) {
            __builtin_prefetch(row[k] + at, 0, 2);
            at += 64;
            if (at >= n_bytes) {
                at = 0;
                ++k;
            }
        }
    }
};

// --- factors, a block at a time ------------------------------------------------------------

#if !defined(__AVX512VNNI__)

inline bool is_finite(float a) { return __builtin_fabsf(a) <= 0x1.fffffep127f; }

template <int P> void make_factors(const row_group & g, int64_t at, int n_block, group_factors<P> & f) {
    constexpr float MOST = group_factors<P>::MOST;
    for (int b = 0; b < n_block; ++b) {
        float h_d[N_GROUP_ROWS], peak = LEAST;
        bool  finite = true;
        for (int k = 0; k < N_GROUP_ROWS; ++k) {
            h_d[k]        = g.h[k] * load_half(g.row[k] + at + b * BYTES);
            const float a = __builtin_fabsf(h_d[k]);
            peak          = a > peak ? a : peak;
            finite        = finite && is_finite(a);
        }
        f.scale[b]  = finite ? peak / MOST : __builtin_nanf("");
        f.offset[b] = 0;
        for (int k = 0; k < N_GROUP_ROWS; ++k) {
            int32_t q = finite ? static_cast<int32_t>(__builtin_rintf(h_d[k] * (MOST / peak))) : 0;
            f.offset[b] -= 8 * q;
            for (int p = 0; p < P; ++p) {
                const int8_t low        = static_cast<int8_t>(q);
                f.q[p][k / 4][b][k % 4] = low;
                q                       = (q - low) / 256;
            }
        }
    }
}

#endif

// --- generic -------------------------------------------------------------------------------

#if !defined(__AVX2__) && !defined(__ARM_FEATURE_DOTPROD)

template <int P> int32_t factor(const group_factors<P> & f, int b, int k) {
    int32_t q = 0;
    for (int p = P; p-- > 0;) {
        q = q * 256 + f.q[p][k / 4][b][k % 4];
    }
    return q;
}

template <int P> void add_block(const row_group & g, int64_t at, const group_factors<P> & f, int b, float * y) {
    for (int j = 0; j < 32; ++j) {
        int32_t s = f.offset[b];
        for (int k = 0; k < 4 * g.n_quad; ++k) {
            const int byte = g.row[k][at + 2 + j % 16];
            s += factor(f, b, k) * (j < 16 ? byte & 15 : byte >> 4);
        }
        y[j] = __builtin_fmaf(static_cast<float>(s), f.scale[b], y[j]);
    }
}

#elif defined(__ARM_FEATURE_DOTPROD)

// Columns 4 i .. 4 i + 3 of four rows, a dword each.
inline void load_quad(const uint8_t * const * row, int64_t at, uint8x16_t * v) {
    const uint8x16x2_t ab = vzipq_u8(vld1q_u8(row[0] + at), vld1q_u8(row[1] + at));
    const uint8x16x2_t cd = vzipq_u8(vld1q_u8(row[2] + at), vld1q_u8(row[3] + at));
    for (int h = 0; h < 2; ++h) {
        const uint16x8x2_t abcd = vzipq_u16(vreinterpretq_u16_u8(ab.val[h]), vreinterpretq_u16_u8(cd.val[h]));
        v[2 * h]                = vreinterpretq_u8_u16(abcd.val[0]);
        v[2 * h + 1]            = vreinterpretq_u8_u16(abcd.val[1]);
    }
}

template <int P> void add_block(const row_group & g, int64_t at, const group_factors<P> & f, int b, float * y) {
    int32x4_t acc[P][8] = {};
    for (int k = 0; k < g.n_quad; ++k) {
        uint8x16_t v[4];
        load_quad(g.row + 4 * k, at + 2, v);
        for (int p = 0; p < P; ++p) {
            int32_t q;
            memcpy(&q, f.q[p][k][b], sizeof(q));
            const int8x16_t factor = vreinterpretq_s8_s32(vdupq_n_s32(q));
            for (int i = 0; i < 4; ++i) {
                acc[p][i]     = vdotq_s32(acc[p][i], vreinterpretq_s8_u8(vq_low(v[i])), factor);
                acc[p][4 + i] = vdotq_s32(acc[p][4 + i], vreinterpretq_s8_u8(vq_high(v[i])), factor);
            }
        }
    }
    for (int i = 0; i < 8; ++i) {
        int32x4_t s = acc[P - 1][i];
        for (int p = P - 1; p-- > 0;) {
            s = vaddq_s32(vshlq_n_s32(s, 8), acc[p][i]);
        }
        const vf v = vcvtq_f32_s32(vaddq_s32(s, vdupq_n_s32(f.offset[b])));
        vf_store(y + 4 * i, vf_fma(v, vf_set1(f.scale[b]), vf_load(y + 4 * i)));
    }
}

#elif !defined(__AVX512VNNI__)

// Columns 0 .. 7, 8 .. 15, 16 .. 23, 24 .. 31 of four rows, a dword each.
inline void load_quad(const uint8_t * const * row, int64_t at, __m256i * v) {
    __m128i r[4];
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row[i] + at));
    }
    const __m128i lo01 = _mm_unpacklo_epi8(r[0], r[1]), lo23 = _mm_unpacklo_epi8(r[2], r[3]);
    const __m128i hi01 = _mm_unpackhi_epi8(r[0], r[1]), hi23 = _mm_unpackhi_epi8(r[2], r[3]);
    const __m256i a   = _mm256_set_m128i(_mm_unpackhi_epi16(lo01, lo23), _mm_unpacklo_epi16(lo01, lo23));
    const __m256i c   = _mm256_set_m128i(_mm_unpackhi_epi16(hi01, hi23), _mm_unpacklo_epi16(hi01, hi23));
    const __m256i low = _mm256_set1_epi8(15);
    v[0]              = _mm256_and_si256(a, low);
    v[1]              = _mm256_and_si256(c, low);
    v[2]              = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
    v[3]              = _mm256_and_si256(_mm256_srli_epi16(c, 4), low);
}

// Two rows to an int16, which holds QUADS * 2 * 15 * 128.
template <int P> void add_block(const row_group & g, int64_t at, const group_factors<P> & f, int b, float * y) {
    __m256i acc[P][4] = {};
    for (int k = 0; k < g.n_quad; ++k) {
        __m256i v[4];
        load_quad(g.row + 4 * k, at + 2, v);
        for (int p = 0; p < P; ++p) {
            int32_t q;
            memcpy(&q, f.q[p][k][b], sizeof(q));
            for (int i = 0; i < 4; ++i) {
                acc[p][i] = _mm256_add_epi16(acc[p][i], _mm256_maddubs_epi16(v[i], _mm256_set1_epi32(q)));
            }
        }
    }
    const auto total = [&](int p, int i) { return _mm256_madd_epi16(acc[p][i], _mm256_set1_epi16(1)); };
    for (int i = 0; i < 4; ++i) {
        __m256i s = total(P - 1, i);
        for (int p = P - 1; p-- > 0;) {
            s = _mm256_add_epi32(_mm256_slli_epi32(s, 8), total(p, i));
        }
        const __m256 v = _mm256_cvtepi32_ps(_mm256_add_epi32(s, _mm256_set1_epi32(f.offset[b])));
        _mm256_storeu_ps(y + 8 * i, _mm256_fmadd_ps(v, _mm256_set1_ps(f.scale[b]), _mm256_loadu_ps(y + 8 * i)));
    }
}

#else

// Bytes of two vectors of words, a dword for a row's four.
inline __m512i pack_words(__m512i (*pack)(__m512i, __m512i), __m512i a, __m512i b) {
    const __m512i byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_shuffle_epi8(pack(a, b), byte);
}
inline __m512i pack_signed(__m512i a, __m512i b) { return _mm512_packs_epi16(a, b); }
inline __m512i pack_unsigned(__m512i a, __m512i b) { return _mm512_packus_epi16(a, b); }

// Factors of four rows, a lane being a block.
inline void split_factors(const __m512i * q, __m512i (&bytes)[1]) {
    bytes[0] = pack_words(pack_signed, _mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
}
inline void split_factors(const __m512i * q, __m512i (&bytes)[2]) {
    const __m512i a = _mm512_packs_epi32(q[0], q[1]), b = _mm512_packs_epi32(q[2], q[3]);
    const __m512i low  = _mm512_set1_epi16(255);
    const auto    high = [](__m512i v) { return _mm512_srai_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(128)), 8); };
    bytes[0]           = pack_words(pack_unsigned, _mm512_and_si512(a, low), _mm512_and_si512(b, low));
    bytes[1]           = pack_words(pack_signed, high(a), high(b));
}

// Scales of CHUNK blocks of a row, 0 behind the last.
inline __m512 load_scales(const uint8_t * row, int n_block) {
    if (n_block == CHUNK) {
        return vf_load_halfs<BYTES>(row);
    }
    float d[CHUNK] = {};
    for (int b = 0; b < n_block; ++b) {
        d[b] = load_half(row + b * BYTES);
    }
    return vf_load(d);
}

// scales(k) are those of row k's blocks, a lane each.
template <int P, typename S> void make_factors_of(const row_group & g, S && scales, group_factors<P> & f) {
    const __m512 most = _mm512_set1_ps(group_factors<P>::MOST);
    __m512       h_d[N_GROUP_ROWS];
    __m512i      peak_bits = _mm512_castps_si512(_mm512_set1_ps(LEAST)); // NaN is more than Inf is more than any number
    for (int k = 0; k < 4 * g.n_quad; ++k) {
        h_d[k]    = _mm512_mul_ps(_mm512_set1_ps(g.h[k]), scales(k));
        peak_bits = _mm512_max_epi32(peak_bits, _mm512_castps_si512(_mm512_abs_ps(h_d[k])));
    }
    const __m512 peak = _mm512_castsi512_ps(peak_bits), inverse = _mm512_div_ps(most, peak);
    __m512i      sum[P];
    for (int p = 0; p < P; ++p) {
        sum[p] = _mm512_setzero_si512();
    }
    for (int k = 0; k < g.n_quad; ++k) {
        __m512i q[4], bytes[P];
        for (int i = 0; i < 4; ++i) {
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(h_d[4 * k + i], inverse));
        }
        split_factors(q, bytes);
        for (int p = 0; p < P; ++p) {
            sum[p] = _mm512_dpbusd_epi32(sum[p], _mm512_set1_epi8(8), bytes[p]);
            _mm512_storeu_si512(f.q[p][k], bytes[p]);
        }
    }
    __m512i all = sum[P - 1];
    for (int p = P - 1; p-- > 0;) {
        all = _mm512_add_epi32(_mm512_slli_epi32(all, 8), sum[p]);
    }
    _mm512_storeu_si512(f.offset, _mm512_sub_epi32(_mm512_setzero_si512(), all));
    // 0 * peak: NaN where it is not finite
    _mm512_storeu_ps(f.scale, _mm512_fmadd_ps(peak, _mm512_setzero_ps(), _mm512_div_ps(peak, most)));
}

template <int P> void make_factors(const row_group & g, int64_t at, int n_block, group_factors<P> & f) {
    make_factors_of(g, [&](int k) { return load_scales(g.row[k] + at, n_block); }, f);
}

// Sums of sixteen columns' low nibbles and of their whole bytes, which have sixteen times the high nibbles and the low ones
// once: no nibble is shifted. The lowest bytes of the factors first.
template <int P> struct byte_sums {
    __m512i low[P], both[P];

    byte_sums() {
        for (int p = 0; p < P; ++p) {
            low[p] = both[p] = _mm512_setzero_si512();
        }
    }
    // v: column c of four rows in dword c; q: their factors.
    void add(__m512i v, const int8_t (*q)[QUADS][CHUNK][4], int k, int b) {
        const __m512i nibbles = _mm512_and_si512(v, _mm512_set1_epi8(15));
        for (int p = 0; p < P; ++p) {
            int32_t factors;
            memcpy(&factors, q[p][k][b], sizeof(factors));
            low[p]  = _mm512_dpbusd_epi32(low[p], nibbles, _mm512_set1_epi32(factors));
            both[p] = _mm512_dpbusd_epi32(both[p], v, _mm512_set1_epi32(factors));
        }
    }
    static __m512i total(const __m512i * sums) {
        __m512i s = sums[P - 1];
        for (int p = P - 1; p-- > 0;) {
            s = _mm512_add_epi32(_mm512_slli_epi32(s, 8), sums[p]);
        }
        return s;
    }
    // y += the block's sums.
    void finish(const group_factors<P> & f, int b, float * y) const {
        const __m512i first = total(low), second = _mm512_srai_epi32(_mm512_sub_epi32(total(both), first), 4);
        const __m512i offset = _mm512_set1_epi32(f.offset[b]);
        const __m512  scale  = _mm512_set1_ps(f.scale[b]);
        vf_store(y, vf_fma(vf_from(_mm512_add_epi32(first, offset)), scale, vf_load(y)));
        vf_store(y + 16, vf_fma(vf_from(_mm512_add_epi32(second, offset)), scale, vf_load(y + 16)));
    }
};

// 16 dwords: column c of four rows at once.
inline __m512i load_quad(const uint8_t * const * row, int64_t at) {
    const auto    load  = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(row[i] + at)); };
    __m512i       v     = _mm512_castsi128_si512(load(0));
    const __m512i dword = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i byte  = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    v                   = _mm512_inserti32x4(v, load(1), 1);
    v                   = _mm512_inserti32x4(v, load(2), 2);
    v                   = _mm512_inserti32x4(v, load(3), 3);
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(dword, v), byte);
}

template <int P> void add_block(const row_group & g, int64_t at, const group_factors<P> & f, int b, float * y) {
    byte_sums<P> sums;
    for (int k = 0; k < g.n_quad; ++k) {
        sums.add(load_quad(g.row + 4 * k, at + 2), f.q, k, b);
    }
    sums.finish(f, b, y);
}

// The same columns of four rows, in their layout for sums: four blocks at once, each in order.
inline void load_quad_of_four(const uint8_t * const * row, int64_t at, __m512i * v) {
    const __m512i a = vq_load(row[0] + at), b = vq_load(row[1] + at), c = vq_load(row[2] + at), d = vq_load(row[3] + at);
    const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
    const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
    v[0] = _mm512_unpacklo_epi16(ab0, cd0);
    v[1] = _mm512_unpackhi_epi16(ab0, cd0);
    v[2] = _mm512_unpacklo_epi16(ab1, cd1);
    v[3] = _mm512_unpackhi_epi16(ab1, cd1);
}

template <int P> void add_four_blocks(const row_group & g, int64_t at, const group_factors<P> & f, int b, group_ahead & next, float * y) {
    byte_sums<P> sums[4];
    for (int k = 0; k < g.n_quad; ++k) {
        __m512i v[4];
        load_quad_of_four(g.row + 4 * k, at + sums_place(b, 0), v);
        for (int i = 0; i < 4; ++i) {
            sums[i].add(v[i], f.q, k, b + i);
        }
        next.fetch(P == 1 ? 5 : 4);
    }
    for (int i = 0; i < 4; ++i) {
        sums[i].finish(f, b + i, y + 32 * i);
    }
}

// 72 lines of the next group. Spread over all of this work they come an eighth faster where rows are short, as those of
// `down`, while the long ones of fc2_t, P = 1, want nothing else to happen while factors are made.
template <int P> void add_sums_chunk(const row_group & g, int64_t at, group_ahead & next, float * y) {
    group_factors<P> f;
    const auto       scales = [&](int k) {
        next.fetch(P == 1 ? 0 : 1);
        return vf_load_f16(reinterpret_cast<const uint16_t *>(g.row[k] + at + SUMS_SCALE_AT));
    };
    make_factors_of(g, scales, f);
    for (int b = 0; b < CHUNK; b += 4) {
        add_four_blocks(g, at, f, b, next, y + b * 32);
    }
}

#endif

// --- all groups ----------------------------------------------------------------------------

template <int P> void add_chunk(const row_group & g, int64_t at, int n_block, group_ahead & next, float * y) {
    group_factors<P> f;
    make_factors(g, at, n_block, f);
    for (int b = 0; b < n_block; ++b) {
        add_block(g, at + b * BYTES, f, b, y + b * 32);
        next.fetch(5); // of 288 bytes
    }
}

#if !defined(__AVX512VNNI__)

// Rows in their layout for sums: by way of ggml's.
template <int P> void add_sums_chunk(const row_group & g, int64_t at, group_ahead & next, float * y) {
    uint8_t   plain[N_GROUP_ROWS][CHUNK * BYTES];
    row_group there = g;
    for (int k = 0; k < N_GROUP_ROWS; ++k) {
        for (int b = 0; b < CHUNK; ++b) {
            memcpy(plain[k] + b * BYTES, g.row[k] + at + SUMS_SCALE_AT + 2 * b, 2);
            for (int byte = 0; byte < 16; byte += 4) {
                memcpy(plain[k] + b * BYTES + 2 + byte, g.row[k] + at + sums_place(b, byte), 4);
            }
        }
        there.row[k] = plain[k];
    }
    add_chunk<P>(there, 0, CHUNK, next, y);
}

#endif

row_group group_at(const grouped_rows & rows, const int32_t * ids, const float * h, int k0, int n, int n_next) {
    row_group g;
    for (int k = 0; k < N_GROUP_ROWS; ++k) {
        const int at   = k0 + k < n ? k0 + k : n - 1;
        const int next = k0 + N_GROUP_ROWS + k < n + n_next ? k0 + N_GROUP_ROWS + k : n + n_next - 1;
        g.row[k]       = rows.data + static_cast<size_t>(ids[at]) * rows.row_stride;
        g.ahead[k]     = rows.data + static_cast<size_t>(ids[next]) * rows.row_stride;
        g.h[k]         = k0 + k < n ? h[at] : 0.0f;
    }
    g.n_quad = n - k0 < N_GROUP_ROWS ? (n - k0 + 3) / 4 : QUADS;
    return g;
}

template <int P, bool SUMS> void group_sum(const grouped_rows & rows, const int32_t * ids, const float * h, int n, int n_next, float * y) {
    for (int k = 0; k < n; k += N_GROUP_ROWS) {
        const row_group g    = group_at(rows, ids, h, k, n, n_next);
        const bool      more = k + N_GROUP_ROWS < n + n_next;
        group_ahead     next{g.ahead, static_cast<int64_t>(rows.n_block) * BYTES, more ? 0 : N_GROUP_ROWS, 0};
        for (int b = 0; b < rows.n_block; b += CHUNK) {
            const int     left = rows.n_block - b;
            const int64_t at   = static_cast<int64_t>(b) * BYTES;
            if (SUMS) {
                add_sums_chunk<P>(g, at, next, y + b * 32);
            } else {
                add_chunk<P>(g, at, left < CHUNK ? left : CHUNK, next, y + b * 32);
            }
        }
    }
}

} // namespace

const group_kernels GROUP_TABLE[2] = {{group_sum<1, false>, group_sum<2, false>}, {group_sum<1, true>, group_sum<2, true>}};

} // namespace ggml_sparse
