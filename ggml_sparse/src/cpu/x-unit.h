#pragma once

// x as the dots with quantised rows want it: rounded to ggml's q8_0, in units of 16 blocks
// (512 elements), whatever the weight type. Blocks behind the last one are 0.
//
// quants    32 pieces of 16 int8 in the order in which a row of the type meets them, below
// sums      of the quants: [0] whole blocks, [1] second halves; SUPER6: [0] first halves; LANES: all negative
// scale     d of the blocks
// min       d * sum of the blocks, for types whose values are d * q + m

#include <cstdint>

namespace ggml_sparse {

struct x_unit {
    int8_t  quants[512];
    int32_t sums[2][16];
    float   scale[16];
    float   min[16];
};

// Pieces are 16 elements; b and h are their block and half.
//   PAIRS   32-wide blocks      four groups {b, b + 4, b + 8, b + 12}, b < 4: h = 0 of each, then h = 1
//   SUPER4  q4_K, q5_K          per 256: even b: h = 0, then h = 1; then the same of odd b
//   SUPER6  q6_K                as they come
//   LANES   packed rows (packed-unit.h): not in such pieces; elements 4i .. 4i + 3 of block b at 64 i + 4 b
enum class x_order { PAIRS, SUPER4, SUPER6, LANES };

constexpr int UNIT_BLOCKS = 16;
constexpr int UNIT_SIZE   = 512;

// Where piece p = 2 b + h of a unit lies.
constexpr int x_place(x_order order, int p) {
    const int b = p / 2, h = p % 2;
    switch (order) {
        case x_order::PAIRS: return b % 4 * 8 + h * 4 + b / 4;
        case x_order::SUPER4: return b / 8 * 16 + b % 2 * 8 + h * 4 + b % 8 / 2;
        default: break;
    }
    return p;
}

} // namespace ggml_sparse
