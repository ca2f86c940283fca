#pragma once

// The packed layout of quantised rows: what the dots want to read, made when a file is copied into
// memory (packing.h). A row is units of 16 blocks of 32 quants, with the bytes of ggml's row in another
// order; lane l of a vector is block l, so that products need neither gathers nor transpositions.
//
//   quants   4, 5, 6 bits   [4][16][4] bytes: byte k of (j, l) is element 4j + k of block l in its low
//                           nibble, element 16 + 4j + k in its high one
//            8 bits         [8][16][4] bytes: byte k of (i, l) is element 4i + k of block l, plus 128
//   top      5 bits         [16][4] bytes: bit i of byte k of l belongs to element 4i + k of block l
//            6 bits         [2][16][4] bytes: bits 2i and 2i + 1 of byte k of (h, l) to element 16h + 4i + k
//   scales   D, DM          f16 d[16], DM then f16 m[16]
//            K              24 bytes of six-bit scales and minima (simd.h packed_k_scale), f16 d[2], f16 -dmin[2]
//            SIX            int8 scales of the first halves [16], of the second [16], f16 d[2]
//
// d[2]: of blocks 0 .. 7 and 8 .. 15. Values are those of ggml's types.

#include <cstdint>

namespace ggml_sparse {

enum class packed_scales { D, DM, K, SIX };

template <int BITS_, packed_scales SCALES_, int OFFSET_> struct packed_format {
    static constexpr int           BITS   = BITS_;
    static constexpr packed_scales SCALES = SCALES_;
    static constexpr int           OFFSET = OFFSET_; // quants are unsigned by so much

    static constexpr int TOP      = BITS == 8 ? 512 : 256; // where the pieces begin
    static constexpr int SCALE_AT = TOP + (BITS == 5 ? 64 : BITS == 6 ? 128 : 0);
    static constexpr int BYTES    = SCALE_AT + (SCALES == packed_scales::DM ? 64 : SCALES == packed_scales::SIX ? 36 : 32);
};

// The layout of q4_0 rows that are added (group-sum.h), again in units of 16 blocks: 256 bytes of nibbles, f16 d[16]. Four
// blocks share 64 bytes, so that unpacking four rows byte by byte leaves sixteen columns of one block in order: byte
// 4 i + k of block b of them lies at 16 i + 4 b + k.
constexpr int SUMS_SCALE_AT = 256;
constexpr int sums_place(int block, int byte) { return block / 4 * 64 + byte / 4 * 16 + block % 4 * 4 + byte % 4; }

using q4_0_packed = packed_format<4, packed_scales::D, 8>;
using q4_1_packed = packed_format<4, packed_scales::DM, 0>;
using q5_0_packed = packed_format<5, packed_scales::D, 16>;
using q5_1_packed = packed_format<5, packed_scales::DM, 0>;
using q8_0_packed = packed_format<8, packed_scales::D, 128>;
using q4_K_packed = packed_format<4, packed_scales::K, 0>;
using q5_K_packed = packed_format<5, packed_scales::K, 0>;
using q6_K_packed = packed_format<6, packed_scales::SIX, 32>;

} // namespace ggml_sparse
