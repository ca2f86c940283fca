#include "ffn.h"

#include "batch.h"
#include "carver.h"
#include "clock.h"
#include "neurons.h"
#include "reference.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

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

// --- one call ----------------------------------------------------------------

// Columns as F32, to be prepared for dots against one matrix; `dst` holds n of `stride` bytes.
struct x_slot {
    const weight_type * type   = nullptr;
    uint8_t *           dst    = nullptr;
    size_t              stride = 0;

    bool copies() const { return type->form != x_form::F32; }
};

enum phase { PHASE_X, PHASE_HIDDEN, PHASE_HIDDEN_X, PHASE_MASK, PHASE_GATE_UP, PHASE_DOWN, PHASE_REDUCE, N_PHASE };

// Everything that the threads of one call share. Written before the parallel region, but for
// the arrays, the work counters and `stop`.
class ffn_job {
  public:
    ffn_job(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params, ffn_workspace & ws);

    // Called by every thread of a team. False = cancelled.
    bool run(int ith, int nth, neuron_counts & counts, ffn_times & times);

  private:
    struct tile {
        int64_t c0; // first column
        int     n;
    };

    void             lay_out(carver & c);
    x_slot           make_slot(const row_reader & rows, carver & c) const;
    work_share       share(phase p, int ith, int nth) { return work_share(ith, nth, &next_[p]); }
    void             rearm(std::initializer_list<phase> phases, int ith);
    prepared_columns columns(const x_slot & slot, const float * const * x, int n) const;
    uint8_t *        mask_of(const tile & t) const { return params_.mask ? params_.mask + t.c0 * n_ff_ : mask_; }

    void prepare_x(const tile & t, work_share work);
    void select(const tile & t, int ith, int nth, neuron_counts & counts);
    void select_by_unit(const tile & t, int ith, int nth, neuron_counts & counts);
    void gate_up_tile(const tile & t, work_share work, neuron_counts & counts);
    void down_tile(const tile & t, work_share work, neuron_counts & counts);
    void reduce_tile(const tile & t, work_share work);

    const ggml_sparse_ffn & ffn_;
    const ffn_columns &     cols_;
    const ffn_run_params &  params_;
    const bool              predicted_;
    const int64_t           n_embd_, n_ff_;
    branches                branches_;
    row_reader              down_t_, fc1_, fc2_; // fc2_: fc2_t where by_unit_
    bool                    by_unit_ = false;

    x_slot    first_, second_, pred_, hidden_x_;
    float *   x_scaled_ = nullptr; // [16, n_embd], x * pred_in_scale
    float *   hidden_   = nullptr; // [16, r]
    uint8_t * mask_     = nullptr; // [16, n_ff]
    int32_t * unit_ids_ = nullptr; // [16, r], where sums_integers
    float *   unit_h_   = nullptr; // [16, r]
    int32_t * n_unit_   = nullptr; // [16]
    float *   h_        = nullptr; // [16, n_ff]
    float *   acc_      = nullptr; // [16, N_PIECE, n_embd]

    std::atomic<int64_t> next_[N_PHASE] = {};
    std::atomic<bool>    stop_{false};
};

ffn_job::ffn_job(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params, ffn_workspace & ws)
    : ffn_(ffn), cols_(cols), params_(params), predicted_(ffn.mode == GGML_SPARSE_MODE_PREDICTED), n_embd_(ffn.up.n_col),
      n_ff_(ffn.up.n_row), branches_(branches_of(ffn, *params.kernels)), down_t_(ffn.down_t, *params.kernels) {
    if (predicted_) {
        fc1_     = row_reader(ffn.fc1, *params.kernels);
        by_unit_ = ffn.fc2_t.data != nullptr;
        fc2_     = row_reader(by_unit_ ? ffn.fc2_t : ffn.fc2, *params.kernels);
    }
    carver dry(nullptr);
    lay_out(dry);
    carver real(ws.reserve(dry.used()));
    lay_out(real);
}

x_slot ffn_job::make_slot(const row_reader & rows, carver & c) const {
    x_slot slot;
    slot.type   = &rows.type();
    slot.stride = x_prepared_size(rows.type(), rows.n_col());
    if (slot.copies()) {
        slot.dst = c.take<uint8_t>(slot.stride * N_COLUMN_MAX);
    }
    return slot;
}

void ffn_job::lay_out(carver & c) {
    first_ = make_slot(branches_.first, c);
    if (branches_.has_second) {
        second_ = branches_.second.type().shares_x(*first_.type) ? first_ : make_slot(branches_.second, c);
    }
    if (predicted_) {
        pred_     = make_slot(fc1_, c);
        hidden_x_ = by_unit_ ? x_slot{} : make_slot(fc2_, c);
        x_scaled_ = c.take<float>(static_cast<size_t>(N_COLUMN_MAX * n_embd_));
        hidden_   = c.take<float>(static_cast<size_t>(N_COLUMN_MAX * fc1_.n_row()));
        mask_     = c.take<uint8_t>(static_cast<size_t>(N_COLUMN_MAX * n_ff_));
        if (by_unit_ && sums_integers(fc2_)) {
            unit_ids_ = c.take<int32_t>(static_cast<size_t>(N_COLUMN_MAX * fc1_.n_row()));
            unit_h_   = c.take<float>(static_cast<size_t>(N_COLUMN_MAX * fc1_.n_row()));
            n_unit_   = c.take<int32_t>(N_COLUMN_MAX);
        }
    }
    h_   = c.take<float>(static_cast<size_t>(N_COLUMN_MAX * n_ff_));
    acc_ = c.take<float>(static_cast<size_t>(N_COLUMN_MAX * N_PIECE * n_embd_));
}

void ffn_job::rearm(std::initializer_list<phase> phases, int ith) {
    for (phase p : phases) {
        if (ith == 0) {
            next_[p].store(0, std::memory_order_relaxed);
        }
    }
}

prepared_columns ffn_job::columns(const x_slot & slot, const float * const * x, int n) const {
    prepared_columns p;
    p.n = n;
    for (int c = 0; c < n; ++c) {
        p.x[c] = slot.copies() ? static_cast<const void *>(slot.dst + static_cast<size_t>(c) * slot.stride) : x[c];
    }
    return p;
}

// --- phases --------------------------------------------------------------------

// Unit = one column for one slot.
void ffn_job::prepare_x(const tile & t, work_share work) {
    const bool own_second = branches_.has_second && second_.dst != first_.dst;
    for (int64_t u; (u = work.take(3 * t.n)) >= 0;) {
        const int     c = static_cast<int>(u / 3);
        const float * x = cols_.x[t.c0 + c];
        if (u % 3 == 0 && first_.copies()) {
            x_prepare(*first_.type, x, n_embd_, first_.dst + static_cast<size_t>(c) * first_.stride);
        } else if (u % 3 == 1 && own_second && second_.copies()) {
            x_prepare(*second_.type, x, n_embd_, second_.dst + static_cast<size_t>(c) * second_.stride);
        } else if (u % 3 == 2 && predicted_) {
            float * scaled = x_scaled_ + c * n_embd_;
            for (int64_t i = 0; ffn_.pred_in_scale && i < n_embd_; ++i) {
                scaled[i] = x[i] * ffn_.pred_in_scale[i];
            }
            x_prepare(*pred_.type, ffn_.pred_in_scale ? scaled : x, n_embd_, pred_.dst + static_cast<size_t>(c) * pred_.stride);
        }
    }
}

void ffn_job::select(const tile & t, int ith, int nth, neuron_counts & counts) {
    const int64_t r = fc1_.n_row();
    const float * x[N_COLUMN_MAX];
    const float * hidden[N_COLUMN_MAX];
    for (int c = 0; c < t.n; ++c) {
        x[c]      = ffn_.pred_in_scale ? x_scaled_ + c * n_embd_ : cols_.x[t.c0 + c];
        hidden[c] = hidden_ + c * r;
    }
    select_hidden(fc1_, columns(pred_, x, t.n), hidden_, share(PHASE_HIDDEN, ith, nth));
#pragma omp barrier
    if (by_unit_) {
        select_by_unit(t, ith, nth, counts);
        return;
    }
    if (hidden_x_.copies()) {
        work_share work = share(PHASE_HIDDEN_X, ith, nth);
        for (int64_t c; (c = work.take(t.n)) >= 0;) {
            x_prepare(*hidden_x_.type, hidden[c], r, hidden_x_.dst + static_cast<size_t>(c) * hidden_x_.stride);
        }
#pragma omp barrier
    }
    if (ith == 0) {
        counts.bytes_fc2 += static_cast<uint64_t>(t.n * fc2_.n_row()) * fc2_.row_size();
    }
    select_mask(fc2_, columns(hidden_x_, hidden, t.n), ffn_.threshold, mask_of(t), n_ff_, share(PHASE_MASK, ith, nth));
#pragma omp barrier
}

void ffn_job::select_by_unit(const tile & t, int ith, int nth, neuron_counts & counts) {
    const int64_t r = fc1_.n_row();
    if (unit_ids_) {
        work_share work = share(PHASE_HIDDEN_X, ith, nth);
        for (int64_t c; (c = work.take(t.n)) >= 0;) {
            n_unit_[c] = list_units(hidden_ + c * r, r, unit_ids_ + c * r, unit_h_ + c * r);
        }
#pragma omp barrier
    }
    const hidden_units units{t.n, unit_ids_ ? unit_h_ : hidden_, unit_ids_, n_unit_, unit_sum_get(params_.kernels->isa)};
    const int64_t      slice = select_slice(n_ff_, t.n, nth);
    counts.bytes_fc2 += select_mask_by_unit(fc2_, units, slice, ffn_.threshold, mask_of(t), n_ff_, share(PHASE_MASK, ith, nth));
#pragma omp barrier
}

void ffn_job::gate_up_tile(const tile & t, work_share work, neuron_counts & counts) {
    gate_up_columns cols;
    cols.first       = columns(first_, cols_.x + t.c0, t.n);
    cols.second      = branches_.has_second ? columns(second_, cols_.x + t.c0, t.n) : cols.first;
    cols.mask        = predicted_ ? mask_of(t) : nullptr;
    cols.mask_stride = n_ff_;
    cols.h           = h_;
    cols.profile     = params_.profile;

    const neuron_counts done = gate_up(branches_, cols, work);
    counts.first += done.first;
    counts.second += done.second;
    counts.active += done.active;
}

// Unit = one piece, for all columns of the tile.
void ffn_job::down_tile(const tile & t, work_share work, neuron_counts & counts) {
    for (int64_t piece; (piece = work.take(N_PIECE)) >= 0;) {
        float * acc[N_COLUMN_MAX];
        for (int c = 0; c < t.n; ++c) {
            acc[c] = acc_ + (c * N_PIECE + piece) * n_embd_;
        }
        counts.down += down_piece(down_t_, branches_.every_row, static_cast<int>(piece), t.n, h_, acc);
    }
}

// Unit = 512 elements of one column.
void ffn_job::reduce_tile(const tile & t, work_share work) {
    const int64_t n_slice = (n_embd_ + 511) / 512;
    for (int64_t u; (u = work.take(n_slice * t.n)) >= 0;) {
        const int64_t c = u / n_slice, i0 = u % n_slice * 512, i1 = std::min(n_embd_, i0 + 512);
        float *       y = cols_.y[t.c0 + c];
        std::fill(y + i0, y + i1, 0.0f);
        for (int piece = 0; piece < N_PIECE; ++piece) {
            const float * acc = acc_ + (c * N_PIECE + piece) * n_embd_;
            for (int64_t i = i0; i < i1; ++i) {
                y[i] += acc[i];
            }
        }
    }
}

// --- the driver ----------------------------------------------------------------

// A phase's counter is rearmed where a barrier on either side keeps every thread out of it.
bool ffn_job::run(int ith, int nth, neuron_counts & counts, ffn_times & times) {
    for (tile t{0, 0}; t.c0 < cols_.n; t.c0 += N_COLUMN_MAX) {
        t.n = static_cast<int>(std::min<int64_t>(N_COLUMN_MAX, cols_.n - t.c0));
        if (ith == 0 && params_.cancel) {
            stop_.store(params_.cancel->load(std::memory_order_relaxed), std::memory_order_relaxed);
        }
        const uint64_t t0 = now_ns();
        prepare_x(t, share(PHASE_X, ith, nth));
#pragma omp barrier
        if (stop_.load(std::memory_order_relaxed)) {
            return false;
        }
        if (predicted_) {
            select(t, ith, nth, counts);
        }
        const uint64_t t1 = predicted_ ? now_ns() : t0; // preparing x is selection only where there is one
        rearm({PHASE_DOWN, PHASE_REDUCE}, ith);
        gate_up_tile(t, share(PHASE_GATE_UP, ith, nth), counts);
#pragma omp barrier
        const uint64_t t2 = now_ns();
        rearm({PHASE_X, PHASE_HIDDEN, PHASE_HIDDEN_X, PHASE_MASK, PHASE_GATE_UP}, ith);
        down_tile(t, share(PHASE_DOWN, ith, nth), counts);
#pragma omp barrier
        reduce_tile(t, share(PHASE_REDUCE, ith, nth));
        times.ns_select += t1 - t0;
        times.ns_gate_up += t2 - t1;
        times.ns_down += now_ns() - t2;
    }
    return true;
}

static bool few_run(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params, ffn_workspace & ws,
                    neuron_counts & total, ffn_times & times) {
    ffn_job job(ffn, cols, params, ws);
    bool    done = true;
#pragma omp parallel num_threads(params.n_threads)
    {
        const int     ith = omp_get_thread_num();
        neuron_counts counts;
        ffn_times     clock{};
        const bool    finished = job.run(ith, omp_get_num_threads(), counts, clock);
#pragma omp          critical(ggml_sparse_ffn_total)
        total.add(counts);
        if (ith == 0) {
            done = finished;
            times.ns_select += clock.ns_select;
            times.ns_gate_up += clock.ns_gate_up;
            times.ns_down += clock.ns_down;
        }
    }
    return done;
}

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

static bool run_reference(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params,
                          ggml_sparse_layer_stats & stats) {
    const size_t         n_ff = static_cast<size_t>(ffn.up.n_row);
    std::vector<uint8_t> mask(n_ff), active(n_ff);
    for (int64_t c = 0; c < cols.n; ++c) {
        if (params.cancel && params.cancel->load(std::memory_order_relaxed)) {
            return false;
        }
        reference_ffn(ffn, cols.x[c], cols.y[c], mask.data(), active.data(), stats);
        for (size_t j = 0; params.profile && j < n_ff; ++j) {
            params.profile[j] += active[j];
        }
        if (params.mask) {
            std::copy(mask.begin(), mask.end(), params.mask + static_cast<size_t>(c) * n_ff);
        }
    }
    return true;
}

bool ffn_run(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params, ffn_workspace & ws,
             ggml_sparse_layer_stats & stats, ffn_times & times) {
    if (ffn.mode == GGML_SPARSE_MODE_REFERENCE) {
        const uint64_t t0   = now_ns();
        const bool     done = run_reference(ffn, cols, params, stats);
        times.ns_gate_up += now_ns() - t0;
        return done;
    }
    if (params.mask && ffn.mode != GGML_SPARSE_MODE_PREDICTED) {
        std::memset(params.mask, 1, static_cast<size_t>(cols.n * ffn.up.n_row));
    }
    neuron_counts total;
    const auto    run  = cols.n > 1 ? batch_run : few_run;
    const bool    done = run(ffn, cols, params, ws, total, times);
    add_stats(ffn, cols.n, total, stats);
    return done;
}

} // namespace ggml_sparse
