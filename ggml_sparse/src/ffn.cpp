#include "ffn.h"

#include "batch.h"
#include "clock.h"
#include "few.h"
#include "reference.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace ggml_sparse {

// --- workspace ---------------------------------------------------------------

static constexpr std::align_val_t ALIGNMENT{64};

struct ffn_workspace::buffer {
    explicit buffer(size_t n) : data(::operator new(n, ALIGNMENT)), size(n) {}
    ~buffer() { ::operator delete(data, ALIGNMENT); }
    void * data;
    size_t size;
};

ffn_workspace::ffn_workspace()  = default;
ffn_workspace::~ffn_workspace() = default;

void * ffn_workspace::reserve(size_t n_bytes) {
    if (!buf || buf->size < n_bytes) {
        buf.reset(); // free first: never hold both
        buf = std::make_unique<buffer>(n_bytes);
    }
    return buf->data;
}

// --- counters ----------------------------------------------------------------

static uint64_t row_bytes(const ggml_sparse_matrix & m) { return ggml_row_size(static_cast<ggml_type>(m.type), m.n_col); }

static void add_stats(const ggml_sparse_ffn & ffn, int64_t n, const neuron_counts & counts, ggml_sparse_layer_stats & stats) {
    const bool     predicted = ffn.mode == GGML_SPARSE_MODE_PREDICTED;
    const bool     swapped   = first_is_up(ffn);
    const uint64_t gate      = swapped ? counts.second : counts.first;
    const uint64_t up        = swapped ? counts.first : counts.second;
    const uint64_t every     = static_cast<uint64_t>(n * ffn.up.n_row);
    stats.n_neuron += every;
    stats.n_selected += predicted ? counts.first : every;
    stats.n_active += counts.active;
    stats.rows_gate += gate;
    stats.rows_up += up;
    stats.rows_down += counts.down;
    stats.bytes_ffn += up * row_bytes(ffn.up) + counts.down * row_bytes(ffn.down_t);
    stats.bytes_ffn += ffn.gate.data ? gate * row_bytes(ffn.gate) : 0;
    if (predicted) {
        stats.bytes_predictor += static_cast<uint64_t>(n * ffn.fc1.n_row) * row_bytes(ffn.fc1) + counts.bytes_fc2;
    }
}

// --- calls -------------------------------------------------------------------

static bool cancelled(const ffn_run_params & params) { return params.cancel && params.cancel->load(std::memory_order_relaxed); }

static bool run_reference(const ffn_call & call, const ffn_run_params & params, ggml_sparse_layer_stats & stats, ffn_times & times) {
    const uint64_t       t0   = now_ns();
    const size_t         n_ff = static_cast<size_t>(call.ffn.up.n_row);
    std::vector<uint8_t> mask(n_ff), active(n_ff);
    for (int64_t c = 0; c < call.cols.n; ++c) {
        if (cancelled(params)) {
            return false;
        }
        reference_ffn(call.ffn, call.cols.x[c], call.cols.y[c], mask.data(), active.data(), stats);
        for (size_t j = 0; call.profile && j < n_ff; ++j) {
            call.profile[j] += active[j];
        }
        if (call.mask) {
            std::copy(mask.begin(), mask.end(), call.mask + static_cast<size_t>(c) * n_ff);
        }
    }
    times.ns_gate_up += now_ns() - t0;
    return true;
}

// Columns up to which rows are multiplied with one column at a time.
static constexpr int64_t N_FEW = 4;

// Experts have one shape: their counters add up to those of one FFN.
static bool run_calls(const std::vector<ffn_call> & few, const std::vector<ffn_call> & many, const ffn_run_params & params,
                      ffn_workspace & ws, neuron_counts & total, ffn_times & times) {
    if (!few.empty()) {
        few_run(few.data(), static_cast<int64_t>(few.size()), params, ws, total, times);
    }
    return std::all_of(many.begin(), many.end(), [&](const ffn_call & call) { return batch_run(call, params, ws, total, times); });
}

bool ffn_run(const std::vector<ffn_call> & calls, const ffn_run_params & params, ffn_workspace & ws, ggml_sparse_layer_stats & stats,
             ffn_times & times) {
    std::vector<ffn_call> few, many;
    int64_t               n_column = 0;
    for (const ffn_call & call : calls) {
        if (call.ffn.mode == GGML_SPARSE_MODE_REFERENCE) {
            if (!run_reference(call, params, stats, times)) {
                return false;
            }
            continue;
        }
        if (call.mask && call.ffn.mode != GGML_SPARSE_MODE_PREDICTED) {
            std::memset(call.mask, 1, static_cast<size_t>(call.cols.n * call.ffn.up.n_row));
        }
        (call.cols.n > N_FEW ? many : few).push_back(call);
        n_column += call.cols.n;
    }
    neuron_counts total;
    const bool    done = !cancelled(params) && run_calls(few, many, params, ws, total, times);
    if (n_column > 0) {
        add_stats(calls[0].ffn, n_column, total, stats);
    }
    return done;
}

} // namespace ggml_sparse
