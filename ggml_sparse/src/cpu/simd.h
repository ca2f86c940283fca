#pragma once

// The primitives that kernels are made of, over one vector of F32; the only #if ladder on
// instruction sets.
//
// vf        W floats                    BLOCKS   32-wide int8 blocks in one vector (W * 4 bytes)
// vi        W int32
// vq        W * 4 int8, whole blocks    bytes, nibbles, high bits: of BLOCKS ggml blocks, `stride` bytes apart
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

} // namespace
} // namespace ggml_sparse

#if defined(__AVX512VNNI__)
#    include "simd-avx512.h"
#elif defined(__AVX2__)
#    include "simd-avx2.h"
#else
#    include "simd-generic.h"
#endif
