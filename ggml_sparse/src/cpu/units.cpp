// Compiled once per instruction set, like kernels.cpp, with UNIT_SUM = the name of its function.

#include "units.h"

#include "simd.h"

namespace ggml_sparse {
namespace {

constexpr int BYTES = 18; // of a block: f16 d, 16 bytes of nibbles
constexpr int CHUNK = 16; // blocks whose factors are made at once
constexpr int QUADS = N_UNIT / 4;

// Sixteen rows at the columns of a chunk. Units behind the last one repeat it with factor 0.
struct unit_group {
    const uint8_t * row[N_UNIT];
    const uint8_t * ahead[N_UNIT]; // rows of the next group
    float           h[N_UNIT];
};

// What the nibbles of a chunk's blocks are multiplied with.
struct unit_factors {
    int8_t  q[QUADS][CHUNK][4]; // h times d, rounded, four units to a dword
    int32_t offset[CHUNK];      // -8 * sum of q: a nibble means nibble - 8
    float   scale[CHUNK];
};

// The steps that have SIMD forms below.
void make_factors(const unit_group & g, int64_t at, int n_block, unit_factors & f);
void add_block(const unit_group & g, int64_t at, const unit_factors & f, int b, float * y);

void make_factors_portable(const unit_group & g, int64_t at, int n_block, unit_factors & f) {
    float h_d[N_UNIT][CHUNK], inverse[CHUNK];
    for (int b = 0; b < n_block; ++b) {
        float peak = 0;
        for (int k = 0; k < N_UNIT; ++k) {
            h_d[k][b]     = g.h[k] * load_half(g.row[k] + at + b * BYTES);
            const float a = h_d[k][b] < 0 ? -h_d[k][b] : h_d[k][b];
            peak          = a > peak ? a : peak;
        }
        f.scale[b]  = peak / 127.0f;
        inverse[b]  = peak > 0 ? 127.0f / peak : 0.0f;
        f.offset[b] = 0;
    }
    for (int k = 0; k < N_UNIT; ++k) {
        for (int b = 0; b < n_block; ++b) {
            const int32_t q      = static_cast<int32_t>(__builtin_rintf(h_d[k][b] * inverse[b]));
            f.q[k / 4][b][k % 4] = static_cast<int8_t>(q);
            f.offset[b] -= 8 * q;
        }
    }
}

// The next group's rows come to L2 one behind the other while this group is added: memory reads a row after a row
// faster than sixteen side by side.
struct unit_ahead {
    const uint8_t * const * row;
    int64_t                 n_bytes; // of each
    int                     k;
    int64_t                 at;

    void fetch(int64_t n) {
        for (; n > 0 && k < N_UNIT; n -= 64) {
            __builtin_prefetch(row[k] + at, 0, 2);
            at += 64;
            if (at >= n_bytes) {
                at = 0;
                ++k;
            }
        }
    }
};

void add_chunk(const unit_group & g, int64_t at, int n_block, unit_ahead & next, float * y) {
    unit_factors f;
    make_factors(g, at, n_block, f);
    for (int b = 0; b < n_block; ++b) {
        add_block(g, at + b * BYTES, f, b, y + b * 32);
        next.fetch(N_UNIT * BYTES);
    }
}

// --- generic -------------------------------------------------------------------------------

#if !defined(__AVX2__)

void make_factors(const unit_group & g, int64_t at, int n_block, unit_factors & f) { make_factors_portable(g, at, n_block, f); }

void add_block(const unit_group & g, int64_t at, const unit_factors & f, int b, float * y) {
    for (int j = 0; j < 32; ++j) {
        int32_t s = f.offset[b];
        for (int k = 0; k < N_UNIT; ++k) {
            const int byte = g.row[k][at + 2 + j % 16];
            s += f.q[k / 4][b][k % 4] * (j < 16 ? byte & 15 : byte >> 4);
        }
        y[j] = __builtin_fmaf(static_cast<float>(s), f.scale[b], y[j]);
    }
}

#elif !defined(__AVX512VNNI__)

void make_factors(const unit_group & g, int64_t at, int n_block, unit_factors & f) { make_factors_portable(g, at, n_block, f); }

// acc[k] += columns 4k .. 4k + 3 of one quad, two units to an int16.
inline void add_quad(__m128i r0, __m128i r1, __m128i r2, __m128i r3, __m256i q, __m256i * acc) {
    const __m128i lo01 = _mm_unpacklo_epi8(r0, r1), lo23 = _mm_unpacklo_epi8(r2, r3);
    const __m128i hi01 = _mm_unpackhi_epi8(r0, r1), hi23 = _mm_unpackhi_epi8(r2, r3);
    const __m256i a   = _mm256_set_m128i(_mm_unpackhi_epi16(lo01, lo23), _mm_unpacklo_epi16(lo01, lo23)); // columns 0 .. 7
    const __m256i c   = _mm256_set_m128i(_mm_unpackhi_epi16(hi01, hi23), _mm_unpacklo_epi16(hi01, hi23)); // 8 .. 15
    const __m256i low = _mm256_set1_epi8(15);
    acc[0]            = _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(_mm256_and_si256(a, low), q));
    acc[1]            = _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(_mm256_and_si256(c, low), q));
    acc[2]            = _mm256_add_epi16(acc[2], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(a, 4), low), q));
    acc[3]            = _mm256_add_epi16(acc[3], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(c, 4), low), q));
}

// An int16 holds QUADS * 2 * 15 * 127.
void add_block(const unit_group & g, int64_t at, const unit_factors & f, int b, float * y) {
    __m256i acc[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int k = 0; k < QUADS; ++k) {
        __m128i r[4];
        for (int i = 0; i < 4; ++i) {
            r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(g.row[4 * k + i] + at + 2));
        }
        int32_t q;
        memcpy(&q, f.q[k][b], sizeof(q));
        add_quad(r[0], r[1], r[2], r[3], _mm256_set1_epi32(q), acc);
    }
    for (int k = 0; k < 4; ++k) {
        const __m256i s = _mm256_add_epi32(_mm256_madd_epi16(acc[k], _mm256_set1_epi16(1)), _mm256_set1_epi32(f.offset[b]));
        const __m256  v = _mm256_cvtepi32_ps(s);
        _mm256_storeu_ps(y + 8 * k, _mm256_fmadd_ps(v, _mm256_set1_ps(f.scale[b]), _mm256_loadu_ps(y + 8 * k)));
    }
}

#else

// Bytes of four vectors, dword for dword.
inline __m512i pack_quad(const __m512i * q) {
    const __m512i words = _mm512_packs_epi32(q[0], q[1]), more = _mm512_packs_epi32(q[2], q[3]);
    const __m512i byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_shuffle_epi8(_mm512_packs_epi16(words, more), byte);
}

// A lane is a block.
void make_factors(const unit_group & g, int64_t at, int n_block, unit_factors & f) {
    if (n_block < CHUNK) {
        return make_factors_portable(g, at, n_block, f);
    }
    __m512 h_d[N_UNIT], peak = _mm512_setzero_ps();
    for (int k = 0; k < N_UNIT; ++k) {
        h_d[k] = _mm512_mul_ps(_mm512_set1_ps(g.h[k]), vf_load_halfs<BYTES>(g.row[k] + at));
        peak   = _mm512_max_ps(peak, _mm512_abs_ps(h_d[k]));
    }
    const __m512    most    = _mm512_set1_ps(127);
    const __mmask16 some    = _mm512_cmp_ps_mask(peak, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512    inverse = _mm512_maskz_div_ps(some, most, peak);
    __m512i         offset  = _mm512_setzero_si512();
    for (int k = 0; k < N_UNIT; k += 4) {
        __m512i q[4];
        for (int i = 0; i < 4; ++i) {
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(h_d[k + i], inverse));
        }
        const __m512i bytes = pack_quad(q);
        offset              = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(8), bytes);
        _mm512_storeu_si512(f.q[k / 4], bytes);
    }
    _mm512_storeu_si512(f.offset, _mm512_sub_epi32(_mm512_setzero_si512(), offset));
    _mm512_storeu_ps(f.scale, _mm512_div_ps(peak, most));
}

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

// The sum of whole bytes has sixteen times the high nibbles and the low ones once: no nibble is shifted.
void add_block(const unit_group & g, int64_t at, const unit_factors & f, int b, float * y) {
    const __m512i offset = _mm512_set1_epi32(f.offset[b]);
    __m512i       low = _mm512_setzero_si512(), both = low;
    for (int k = 0; k < QUADS; ++k) {
        int32_t q;
        memcpy(&q, f.q[k][b], sizeof(q));
        const __m512i v = load_quad(g.row + 4 * k, at + 2), factor = _mm512_set1_epi32(q);
        low  = _mm512_dpbusd_epi32(low, _mm512_and_si512(v, _mm512_set1_epi8(15)), factor);
        both = _mm512_dpbusd_epi32(both, v, factor);
    }
    const __m512i high  = _mm512_srai_epi32(_mm512_sub_epi32(both, low), 4);
    const __m512  scale = _mm512_set1_ps(f.scale[b]);
    const auto    add   = [&](__m512i sum, float * to) {
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, offset)), scale, _mm512_loadu_ps(to)));
    };
    add(low, y);
    add(high, y + 16);
}

#endif

// --- all groups ----------------------------------------------------------------------------

unit_group group_at(const unit_rows & rows, const int32_t * ids, const float * h, int k0, int n, int n_next) {
    unit_group g;
    for (int k = 0; k < N_UNIT; ++k) {
        const int at   = k0 + k < n ? k0 + k : n - 1;
        const int next = k0 + N_UNIT + k < n + n_next ? k0 + N_UNIT + k : n + n_next - 1;
        g.row[k]       = rows.data + static_cast<size_t>(ids[at]) * rows.row_size;
        g.ahead[k]     = rows.data + static_cast<size_t>(ids[next]) * rows.row_size;
        g.h[k]         = k0 + k < n ? h[at] : 0.0f;
    }
    return g;
}

void unit_sum(const unit_rows & rows, const int32_t * ids, const float * h, int n, int n_next, float * y) {
    memset(y, 0, sizeof(float) * 32 * static_cast<size_t>(rows.n_block));
    for (int k = 0; k < n; k += N_UNIT) {
        const unit_group g = group_at(rows, ids, h, k, n, n_next);
        unit_ahead       next{g.ahead, static_cast<int64_t>(rows.n_block) * BYTES, k + N_UNIT < n + n_next ? 0 : N_UNIT, 0};
        for (int b = 0; b < rows.n_block; b += CHUNK) {
            const int left = rows.n_block - b;
            add_chunk(g, static_cast<int64_t>(b) * BYTES, left < CHUNK ? left : CHUNK, next, y + b * 32);
        }
    }
}

} // namespace

const unit_sum_fn UNIT_SUM = unit_sum;

} // namespace ggml_sparse
