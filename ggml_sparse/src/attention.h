#pragma once

// Softmax attention over a KV cache: out = softmax(scale * q . K + mask) V for every token and head.
//
// Guarantees
//  - Sums are F32 and made in blocks of ATTENTION_BLOCK and ranges of ATTENTION_RANGE rows, counted from the
//    cache's first; ranges join in ascending order. So bits depend on a token's q, mask and the rows that its
//    mask lets pass alone: any n_threads, any batch and any cut of a prompt give the same.
//  - A token without any row gives zeros, as in ggml.

#include "ffn.h"

namespace ggml_sparse {

constexpr int ATTENTION_RANGE = 256; // rows that one thread runs through; a multiple of ATTENTION_BLOCK

struct attention_tensor {
    void * data;
    size_t token, head, sequence; // strides in bytes; a "token" of K and V is a row of the cache
};

struct attention_work {
    int32_t          type_k, type_v; // enum ggml_type: F32, F16 or Q8_0
    int64_t          d_k, d_v;       // elements of a head, multiples of 16 (32 where Q8_0)
    int64_t          n_head, n_head_kv, n_token, n_kv, n_sequence;
    float            scale;
    attention_tensor q, k, v, mask, out; // q and out F32, mask F16 (no heads)
};

bool attention_type_supported(int32_t type);

// n_head is a multiple of n_head_kv; all counts but n_kv are > 0. Throws std::bad_alloc only.
void attention_run(const attention_work & work, int n_threads, ggml_sparse_isa isa, ffn_workspace & ws);

} // namespace ggml_sparse
