#include "packing.h"

#include "cpu/kernels.h"
#include "cpu/packed-unit.h"
#include "cpu/x-unit.h"
#include "ggml.h"

#include <cstring>

namespace ggml_sparse {

namespace {

// --- dwords: four neighbouring quants of a block ---------------------------------

uint32_t load(const uint8_t * p) {
    uint32_t w;
    std::memcpy(&w, p, sizeof(w));
    return w;
}
void store(uint8_t * p, uint32_t w) { std::memcpy(p, &w, sizeof(w)); }
void merge(uint8_t * p, uint32_t w) { store(p, load(p) | w); }

constexpr uint32_t every_byte(uint32_t b) { return b * 0x01010101u; }

// Sixteen blocks of eight dwords, quants unsigned.
struct unit_quants {
    uint32_t u[8][UNIT_BLOCKS];
};

// --- ggml's blocks -----------------------------------------------------------------
//
// Where dword i of block l of a unit lies: `at` and the shift of its low four bits, and of its top bits
// where there are any. Bytes that are no quants are the rows' scales.

struct field {
    int at, shift;
};

template <typename format, packed_scales = format::SCALES> struct plain_blocks { // 32 wide, scales first
    static constexpr int  BYTES = format::BYTES / UNIT_BLOCKS, N_HALF = format::SCALES == packed_scales::DM ? 2 : 1;
    static constexpr int  QUANTS     = BYTES - (format::BITS == 8 ? 32 : 16);
    static constexpr bool SAME_PAIRS = true;

    static field low(int l, int i) {
        return format::BITS == 8 ? field{l * BYTES + QUANTS + 4 * i, 0} : field{l * BYTES + QUANTS + 4 * (i % 4), i / 4 * 4};
    }
    // Bit 4 i + k of 32 is that of element 4 i + k.
    static uint32_t load_top(const uint8_t * w, int l, int i) {
        const uint32_t four = load(w + l * BYTES + QUANTS - 4) >> 4 * i & 15;
        return four * 0x00204081u & every_byte(1);
    }
    static void store_top(uint8_t * w, int l, int i, uint32_t top) {
        const uint32_t four = (top | top >> 7 | top >> 14 | top >> 21) & 15;
        merge(w + l * BYTES + QUANTS - 4, four << 4 * i);
    }
    template <bool PACK> static void scales(const uint8_t * src, uint8_t * dst) {
        for (int l = 0; l < UNIT_BLOCKS; ++l) {
            for (int h = 0; h < N_HALF; ++h) {
                const int at = l * BYTES + 2 * h, packed = format::SCALE_AT + 32 * h + 2 * l;
                std::memcpy(dst + (PACK ? packed : at), src + (PACK ? at : packed), 2);
            }
        }
    }
};

template <typename format> struct plain_blocks<format, packed_scales::K> { // two of 256
    static constexpr int  SUPER      = format::BYTES / 2;
    static constexpr bool SAME_PAIRS = false;

    static field low(int l, int i) { return {l / 8 * SUPER + SUPER - 128 + l % 8 / 2 * 32 + 4 * i, l % 2 * 4}; }

    static uint32_t load_top(const uint8_t * w, int l, int i) { return load(w + l / 8 * SUPER + 16 + 4 * i) >> l % 8 & every_byte(1); }
    static void     store_top(uint8_t * w, int l, int i, uint32_t top) { merge(w + l / 8 * SUPER + 16 + 4 * i, top << l % 8); }

    // Six-bit scale and minimum j of a block, in twelve bytes.
    static int  scale(const uint8_t * s, int j) { return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4; }
    static int  minimum(const uint8_t * s, int j) { return j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4; }
    static void put(uint8_t * s, int j, int scale, int minimum) {
        if (j < 4) {
            s[j] |= static_cast<uint8_t>(scale);
            s[j + 4] |= static_cast<uint8_t>(minimum);
        } else {
            s[j + 4] |= static_cast<uint8_t>((scale & 15) | minimum << 4);
            s[j - 4] |= static_cast<uint8_t>(scale >> 4 << 6);
            s[j] |= static_cast<uint8_t>(minimum >> 4 << 6);
        }
    }

    template <bool PACK> static void scales(const uint8_t * src, uint8_t * dst) {
        uint8_t *     plain    = PACK ? const_cast<uint8_t *>(src) : dst;
        uint8_t *     packed   = (PACK ? dst : const_cast<uint8_t *>(src)) + format::SCALE_AT;
        constexpr int NEGATIVE = 0x80; // of the high byte of a half
        for (int l = 0; l < UNIT_BLOCKS; ++l) {
            uint8_t * s = plain + l / 8 * SUPER + 4;
            if (PACK) {
                const int m = minimum(s, l % 8);
                packed[l]   = static_cast<uint8_t>(scale(s, l % 8) | m << 6);
                packed[16 + l % 8] |= static_cast<uint8_t>(m >> 2 << l / 8 * 4);
            } else {
                put(s, l % 8, packed[l] & 63, packed[l] >> 6 | (packed[16 + l % 8] >> l / 8 * 4 & 15) << 2);
            }
        }
        for (int s = 0; s < 2; ++s) {
            for (int h = 0; h < 2; ++h) { // d, dmin
                uint8_t *       to   = PACK ? packed + 24 + 4 * h + 2 * s : plain + s * SUPER + 2 * h;
                const uint8_t * from = PACK ? plain + s * SUPER + 2 * h : packed + 24 + 4 * h + 2 * s;
                to[0]                = from[0];
                to[1]                = static_cast<uint8_t>(from[1] ^ (h ? NEGATIVE : 0));
            }
        }
    }
};

template <typename format> struct plain_blocks<format, packed_scales::SIX> { // two of 256
    static constexpr int  SUPER      = format::BYTES / 2;
    static constexpr bool SAME_PAIRS = false;

    static field low(int l, int i) { return {l / 8 * SUPER + l % 8 / 4 * 64 + l % 2 * 32 + 4 * i, l % 4 / 2 * 4}; }

    static int      top_at(int l, int i) { return l / 8 * SUPER + 128 + l % 8 / 4 * 32 + 4 * i; }
    static uint32_t load_top(const uint8_t * w, int l, int i) { return load(w + top_at(l, i)) >> l % 4 * 2 & every_byte(3); }
    static void     store_top(uint8_t * w, int l, int i, uint32_t top) { merge(w + top_at(l, i), top << l % 4 * 2); }

    template <bool PACK> static void scales(const uint8_t * src, uint8_t * dst) {
        for (int s = 0; s < 2; ++s) {
            for (int i = 0; i < 16; ++i) {
                const int at = s * SUPER + 192 + i, packed = format::SCALE_AT + i % 2 * 16 + 8 * s + i / 2;
                dst[PACK ? packed : at] = src[PACK ? at : packed];
            }
            const int at = s * SUPER + 208, packed = format::SCALE_AT + 32 + 2 * s;
            std::memcpy(dst + (PACK ? packed : at), src + (PACK ? at : packed), 2);
        }
    }
};

// --- either way -----------------------------------------------------------------------

template <typename format> constexpr uint32_t low_mask() { return every_byte(format::BITS == 8 ? 255 : 15); }
template <typename format> constexpr uint32_t bias() { return format::BITS == 8 ? every_byte(128) : 0; } // signed quants plus 128
template <typename format> constexpr bool     has_top() { return format::BITS == 5 || format::BITS == 6; }

// Top bits of dword i: of a packed unit: vector `at`, `shift` bits up.
template <typename format> constexpr field top_of(int i) { return format::BITS == 5 ? field{0, i} : field{i / 4, i % 4 * 2}; }

template <typename format> void store_plain(const unit_quants & q, uint8_t * w) {
    using blocks = plain_blocks<format>;
    for (int l = 0; l < UNIT_BLOCKS; ++l) {
        for (int i = 0; i < 8; ++i) {
            const field f = blocks::low(l, i);
            merge(w + f.at, ((q.u[i][l] ^ bias<format>()) & low_mask<format>()) << f.shift);
            if (has_top<format>()) {
                blocks::store_top(w, l, i, q.u[i][l] >> 4 & every_byte(format::BITS == 5 ? 1 : 3));
            }
        }
    }
}

// Dword j of block l as the packed unit has it: 32-wide blocks pair their nibbles in the same way.
template <typename format> uint32_t packed_low(const uint8_t * w, int l, int j) {
    using blocks = plain_blocks<format>;
    if (blocks::SAME_PAIRS) {
        return load(w + blocks::low(l, j).at) ^ bias<format>();
    }
    const field    f = blocks::low(l, j), g = blocks::low(l, j + 4);
    const uint32_t first = load(w + f.at) >> f.shift & every_byte(15), second = load(w + g.at) >> g.shift & every_byte(15);
    return first | second << 4;
}

template <typename format> void pack_quants(const uint8_t * src, uint8_t * dst) {
    constexpr int N = format::TOP / 64;
    uint32_t      low[N][UNIT_BLOCKS], top[2][UNIT_BLOCKS];
    for (int l = 0; l < UNIT_BLOCKS; ++l) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) {
            low[j][l] = packed_low<format>(src, l, j);
        }
        if (has_top<format>()) {
            uint32_t tops[2] = {};
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                tops[top_of<format>(i).at] |= plain_blocks<format>::load_top(src, l, i) << top_of<format>(i).shift;
            }
            top[0][l] = tops[0];
            top[1][l] = tops[1];
        }
    }
    std::memcpy(dst, low, sizeof(low));
    if (has_top<format>()) {
        std::memcpy(dst + format::TOP, top, format::SCALE_AT - format::TOP);
    }
}

template <typename format> void load_packed(const uint8_t * w, unit_quants & q) {
    for (int i = 0; i < 8; ++i) {
        const field f = top_of<format>(i);
        for (int l = 0; l < UNIT_BLOCKS; ++l) {
            const uint32_t low = load(w + 64 * (format::BITS == 8 ? i : i % 4) + 4 * l);
            q.u[i][l]          = format::BITS == 8 ? low : low >> i / 4 * 4 & every_byte(15);
            if (has_top<format>()) {
                const uint32_t top = load(w + format::TOP + 64 * f.at + 4 * l) >> f.shift;
                q.u[i][l] |= (top & every_byte(format::BITS == 5 ? 1 : 3)) << 4;
            }
        }
    }
}

template <typename format> void pack(int64_t n, const uint8_t * src, uint8_t * dst) {
    for (; n > 0; n -= UNIT_SIZE, src += format::BYTES, dst += format::BYTES) {
        pack_quants<format>(src, dst);
        std::memset(dst + format::SCALE_AT, 0, format::BYTES - format::SCALE_AT);
        plain_blocks<format>::template scales<true>(src, dst);
    }
}

template <typename format> void unpack(int64_t n, const uint8_t * src, uint8_t * dst) {
    for (; n > 0; n -= UNIT_SIZE, src += format::BYTES, dst += format::BYTES) {
        unit_quants q;
        load_packed<format>(src, q);
        std::memset(dst, 0, format::BYTES);
        store_plain<format>(q, dst);
        plain_blocks<format>::template scales<false>(src, dst);
    }
}

// --- q4_0 rows that are added --------------------------------------------------------------

template <bool PACK> void move_sums(int64_t n, const uint8_t * src, uint8_t * dst) {
    constexpr int BLOCK = q4_0_packed::BYTES / UNIT_BLOCKS;
    for (; n > 0; n -= UNIT_SIZE, src += q4_0_packed::BYTES, dst += q4_0_packed::BYTES) {
        for (int b = 0; b < UNIT_BLOCKS; ++b) {
            const int scale = SUMS_SCALE_AT + 2 * b;
            std::memcpy(dst + (PACK ? scale : b * BLOCK), src + (PACK ? b * BLOCK : scale), 2);
            for (int byte = 0; byte < 16; byte += 4) {
                const int plain = b * BLOCK + 2 + byte, packed = sums_place(b, byte);
                std::memcpy(dst + (PACK ? packed : plain), src + (PACK ? plain : packed), 4);
            }
        }
    }
}

} // namespace

const row_packing * packing_find(int32_t type, ggml_sparse_layout layout, int64_t n_col) {
    static constexpr row_packing packings[] = {
#define SPARSE_TYPE(NAME, name, FORM)                                                                                                      \
    SPARSE_PACKED_##FORM({GGML_TYPE_##NAME, GGML_SPARSE_LAYOUT_PACKED, pack<name##_packed>, unpack<name##_packed>}, )
#include "quants.def"
#undef SPARSE_TYPE
        {GGML_TYPE_Q4_0, GGML_SPARSE_LAYOUT_SUMS, move_sums<true>, move_sums<false>},
    };
    for (const row_packing & p : packings) {
        if (p.type == type && p.layout == layout && n_col > 0 && n_col % UNIT_SIZE == 0) {
            return &p;
        }
    }
    return nullptr;
}

} // namespace ggml_sparse
