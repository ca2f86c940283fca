#pragma once

#pragma GCC diagnostic push // gcc 12 warns about its own _mm512_undefined_*
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

namespace ggml_sparse {
namespace {

inline float load_half(const uint8_t * w) { return _cvtsh_ss(static_cast<uint16_t>(w[0] | w[1] << 8)); }

// The eight scales, then the eight minima of a q4_K or q5_K block, unpacked from their six bits: words
// s0 s1 s2 follow d and dmin; scales and minima 0..3 are the low six bits of s0 and s1, those of
// 4..7 the nibbles of s2 below the high two bits of s0 and s1.
inline __m128i k_scale_bytes(const uint8_t * w) {
    const __m128i s    = _mm_loadu_si128(reinterpret_cast<const __m128i *>(w));
    const __m128i low  = _mm_srlv_epi32(_mm_shuffle_epi32(s, 0xed), _mm_setr_epi32(0, 0, 0, 4));
    const __m128i high = _mm_srli_epi32(_mm_shuffle_epi32(s, 0x84), 2);
    const __m128i l    = _mm_and_si128(low, _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    return _mm_or_si128(l, _mm_and_si128(high, _mm_setr_epi32(0, 0x30303030, 0, 0x30303030)));
}

} // namespace
} // namespace ggml_sparse
