#pragma once

#include <cstdint>

namespace ggml_sparse {

// f(row) for 0 <= row < n_row, which must not depend on each other. Little work stays on the calling thread: a parallel
// region costs more than the norm of one token.
template <typename F> void each_row(int64_t n_row, int64_t n_per_row, int n_threads, F && f) {
    constexpr int64_t WORTH_A_REGION = 1 << 16; // elements
    if (n_threads == 1 || n_row * n_per_row < WORTH_A_REGION) {
        for (int64_t row = 0; row < n_row; ++row) {
            f(row);
        }
        return;
    }
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t row = 0; row < n_row; ++row) {
        f(row);
    }
}

} // namespace ggml_sparse
