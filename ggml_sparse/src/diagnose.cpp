#include "diagnose.h"

#include "neurons.h"

#include <cmath>
#include <vector>

namespace ggml_sparse {

static const void * prepared(const row_reader & rows, const float * x, std::vector<uint8_t> & buffer) {
    buffer.resize(x_prepared_size(rows.type(), rows.n_col()));
    return x_prepare(rows.type(), x, rows.n_col(), buffer.data());
}

struct branch_counts {
    uint64_t first = 0, second = 0;
};

// act[j] = the neuron's product; counts neurons whose branch is positive.
static branch_counts products(const branches & b, int n_threads, const float * x, float * act) {
    std::vector<uint8_t> buffer_first, buffer_second;
    const void *         x_first  = prepared(b.first, x, buffer_first);
    const void *         x_second = b.has_second ? prepared(b.second, x, buffer_second) : nullptr;
    const int64_t        n_ff     = b.first.n_row();
    uint64_t             first = 0, second = 0;
#pragma omp parallel for num_threads(n_threads) reduction(+ : first, second)
    for (int64_t j = 0; j < n_ff; ++j) {
        const float one   = relu(b.first.dot(j, x_first));
        const float other = b.has_second ? b.second.dot(j, x_second) : 1.0f;
        first += one != 0.0f;
        second += b.has_second && relu(other) != 0.0f;
        act[j] = one == 0.0f ? 0.0f : one * (b.relu_second ? relu(other) : other);
    }
    return {first, second};
}

void diagnose_column(const ggml_sparse_ffn & ffn, const sparse_kernels & kernels, int n_threads, const float * x, const uint8_t * mask,
                     float * act, ggml_sparse_layer_diagnosis & sum) {
    const branches      b     = branches_of(ffn, kernels);
    const branch_counts found = products(b, n_threads, x, act);
    const int64_t       n_ff  = ffn.up.n_row;
    sum.n_column += 1;
    sum.n_neuron += static_cast<uint64_t>(n_ff);
    sum.n_gate += first_is_up(ffn) ? found.second : found.first;
    sum.n_up += first_is_up(ffn) ? found.first : found.second;
    for (int64_t j = 0; j < n_ff; ++j) {
        const bool   active = act[j] != 0.0f, selected = mask[j] != 0;
        const double weight = std::fabs(static_cast<double>(act[j]));
        sum.n_active += active;
        sum.n_selected += selected;
        sum.n_hit += active && selected;
        sum.weight_active += weight;
        sum.weight_hit += selected ? weight : 0.0;
    }
}

} // namespace ggml_sparse
