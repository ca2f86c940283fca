#pragma once

// The primitives that kernels are made of, over one vector of F32; the only #if ladder on
// instruction sets.
//
// vf   W floats, W = 4, 8 or 16
// vi   W int32
// vq   W * 4 int8, in pieces of 16
//
// Everything is static: the same names mean different code in every object.

#include "ggml.h"

#include <cstdint>
#include <cstring>

namespace ggml_sparse {
namespace {

// n bytes are wanted soon: to L2, since to L1 measured slower.
inline void prefetch_l2(const void * p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(static_cast<const char *>(p) + i, 0, 2);
    }
}

// The line of p is wanted soon, and asked for here: before anything that `place` points at is read. Compilers gather prefetches
// of straight code, and a burst of them takes the buffers that loads need.
inline void prefetch_here(const uint8_t * p, float *& place) {
#if defined(__x86_64__)
    asm volatile("prefetcht1 %1" : "+r"(place) : "m"(*p));
#else
    __builtin_prefetch(p, 0, 2);
    asm volatile("" : "+r"(place));
#endif
}

// Six-bit scale j and minimum j of a q4_K or q5_K block, from the twelve bytes behind d and dmin.
inline int k_scale(const uint8_t * s, int j) { return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4; }
inline int k_minimum(const uint8_t * s, int j) { return j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4; }

// The same of block l in a packed unit.
inline int packed_k_scale(const uint8_t * w, int l) { return w[l] & 63; }
inline int packed_k_minimum(const uint8_t * w, int l) { return w[l] >> 6 | (w[16 + l % 8] >> l / 8 * 4 & 15) << 2; }

} // namespace
} // namespace ggml_sparse

#if defined(__AVX512VNNI__)
#    include "simd-avx512.h"
#elif defined(__AVX2__)
#    include "simd-avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#    include "simd-neon.h"
#else
#    include "simd-generic.h"
#endif
