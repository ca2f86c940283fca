#include "reference.h"

#include "types.h"

#include <algorithm>
#include <vector>

namespace ggml_sparse {

using floats = std::vector<float>;

static size_t row_size(const ggml_sparse_matrix & m) { return ggml_row_size(static_cast<ggml_type>(m.type), m.n_col); }

static floats row_of(const ggml_sparse_matrix & m, int64_t i) {
    floats row(static_cast<size_t>(m.n_col));
    matrix_row_to_float(m, i, row.data());
    return row;
}

static floats rounded_for(const ggml_sparse_matrix & m, const floats & x) {
    floats dst(x.size());
    x_round(*weight_type_find(m.type), x.data(), static_cast<int64_t>(x.size()), dst.data());
    return dst;
}

static double dot(const ggml_sparse_matrix & m, int64_t i, const floats & x) {
    const floats w = row_of(m, i);
    double       s = 0;
    for (size_t c = 0; c < w.size(); ++c) {
        s += static_cast<double>(w[c]) * static_cast<double>(x[c]);
    }
    return s;
}

static std::vector<double> dots(const ggml_sparse_matrix & m, const floats & x) {
    std::vector<double> s;
    for (int64_t i = 0; i < m.n_row; ++i) {
        s.push_back(dot(m, i, x));
    }
    return s;
}

static std::vector<double> sum_of_rows(const ggml_sparse_matrix & m, const floats & h) {
    std::vector<double> s(static_cast<size_t>(m.n_col));
    for (int64_t i = 0; i < m.n_row; ++i) {
        const floats w = row_of(m, i);
        for (size_t c = 0; c < s.size(); ++c) {
            s[c] += static_cast<double>(h[static_cast<size_t>(i)]) * static_cast<double>(w[c]);
        }
    }
    return s;
}

static double relu64(double a) { return a <= 0 ? 0 : a; }

// Returns how many hidden units are not zero.
static uint64_t select(const ggml_sparse_ffn & ffn, floats x, uint8_t * mask) {
    for (size_t c = 0; ffn.pred_in_scale && c < x.size(); ++c) {
        x[c] *= ffn.pred_in_scale[c];
    }
    x = rounded_for(ffn.fc1, x);
    floats hidden(static_cast<size_t>(ffn.fc1.n_row));
    for (int64_t i = 0; i < ffn.fc1.n_row; ++i) {
        hidden[static_cast<size_t>(i)] = static_cast<float>(relu64(dot(ffn.fc1, i, x)));
    }
    const std::vector<double> logits = ffn.fc2_t.data ? sum_of_rows(ffn.fc2_t, hidden) : dots(ffn.fc2, rounded_for(ffn.fc2, hidden));
    for (size_t j = 0; j < logits.size(); ++j) {
        mask[j] = logits[j] > static_cast<double>(ffn.threshold);
    }
    return static_cast<uint64_t>(std::count_if(hidden.begin(), hidden.end(), [](float h) { return h != 0.0f; }));
}

static double neuron(const ggml_sparse_ffn & ffn, int64_t j, const floats & x_gate, const floats & x_up) {
    const double up = dot(ffn.up, j, x_up);
    switch (ffn.activation) {
        case GGML_SPARSE_DRELU: return relu64(dot(ffn.gate, j, x_gate)) * relu64(up);
        case GGML_SPARSE_REGLU: return relu64(dot(ffn.gate, j, x_gate)) * up;
        case GGML_SPARSE_RELU: return relu64(up);
    }
    return 0;
}

void reference_ffn(const ggml_sparse_ffn & ffn, const float * x, float * y, uint8_t * mask, uint8_t * active,
                   ggml_sparse_layer_stats & stats) {
    const int64_t n_embd = ffn.up.n_col, n_ff = ffn.up.n_row;
    const floats  x_in(x, x + n_embd);
    const floats  x_up   = rounded_for(ffn.up, x_in);
    const floats  x_gate = ffn.gate.data ? rounded_for(ffn.gate, x_in) : x_up;

    std::fill(mask, mask + n_ff, uint8_t{1});
    if (ffn.fc1.data) {
        const uint64_t n_unit = select(ffn, x_in, mask);
        stats.bytes_predictor += static_cast<uint64_t>(ffn.fc1.n_row) * row_size(ffn.fc1) +
                                 (ffn.fc2_t.data ? n_unit * row_size(ffn.fc2_t) : static_cast<uint64_t>(ffn.fc2.n_row) * row_size(ffn.fc2));
    }
    std::vector<double> sum(static_cast<size_t>(n_embd));
    for (int64_t j = 0; j < n_ff; ++j) {
        const double h = mask[j] ? neuron(ffn, j, x_gate, x_up) : 0;
        active[j]      = h != 0;
        const floats w = row_of(ffn.down_t, j);
        for (size_t c = 0; h != 0 && c < w.size(); ++c) {
            sum[c] += h * static_cast<double>(w[c]);
        }
    }
    std::copy(sum.begin(), sum.end(), y);

    const uint64_t n_selected = static_cast<uint64_t>(std::count(mask, mask + n_ff, uint8_t{1}));
    const uint64_t n_active   = static_cast<uint64_t>(std::count(active, active + n_ff, uint8_t{1}));
    const uint64_t n_gate     = ffn.gate.data ? n_selected : 0;
    stats.n_neuron += static_cast<uint64_t>(n_ff);
    stats.n_selected += n_selected;
    stats.n_active += n_active;
    stats.rows_gate += n_gate;
    stats.rows_up += n_selected;
    stats.rows_down += n_active;
    stats.bytes_ffn += n_selected * row_size(ffn.up) + n_active * row_size(ffn.down_t);
    stats.bytes_ffn += n_gate ? n_gate * row_size(ffn.gate) : 0;
}

} // namespace ggml_sparse
