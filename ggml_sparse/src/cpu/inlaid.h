#pragma once

// x laid out for rows of q8_0 or q4_0 blocks, so that a row is read as it lies in memory.
//
// The dwords of such a row never hold quants of two blocks: a pair of blocks is 17 (q8_0) or
// 9 (q4_0) dwords. Each plane is as long as the row and holds, at the place of a quant's byte,
// what meets it:
//   quants[0]  int8 x of the byte (q8_0) or of its low nibble (q4_0); 0 where the row keeps a scale
//   quants[1]  q4_0: int8 x of the high nibble
//   offset     one int32 per dword: -128 (q8_0) or -8 (q4_0) times the sum of the x that meet it
// Behind them one F32 scale per block. Everything is 0 from the last block to a multiple of 32.

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

struct inlaid_layout {
    size_t n_block;  // of x, a multiple of 32
    size_t plane;    // bytes of one plane
    size_t n_quants; // planes of quants

    constexpr size_t offset() const { return n_quants * plane; }
    constexpr size_t scale() const { return offset() + plane; }
    constexpr size_t size() const { return scale() + n_block * sizeof(float); }
};

// For rows of n elements in 32-wide blocks of 34 (q8_0) or 18 (q4_0) bytes.
constexpr inlaid_layout inlaid_layout_of(int64_t n, size_t block_bytes) {
    const size_t n_block = static_cast<size_t>((n / 32 + 31) / 32 * 32);
    return {n_block, n_block * block_bytes, block_bytes == 18 ? size_t{2} : size_t{1}};
}

} // namespace ggml_sparse
