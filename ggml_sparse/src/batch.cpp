#include "batch.h"

#include "clock.h"
#include "panels.h"
#include "piece-sums.h"
#include "row-sums.h"

#include <omp.h>

#include <algorithm>

namespace ggml_sparse {

static constexpr int64_t N_CHUNK_MAX = 256; // rows per unit of work
static constexpr int     N_FEW       = 16;  // columns that `down` takes row by row

namespace {

enum phase {
    PHASE_X,
    PHASE_HIDDEN,
    PHASE_HIDDEN_X,
    PHASE_MASK,
    PHASE_COMPARE,
    PHASE_GATE_UP,
    PHASE_LIST,
    PHASE_DOWN,
    PHASE_REDUCE,
    N_PHASE
};

struct row_list { // in increasing order
    int     n = 0;
    int32_t ids[N_CHUNK_MAX + 1];
};

// Where column panels of one matrix go, made anew for each block of columns.
struct panel_slot {
    const row_reader * rows  = nullptr;
    uint8_t *          space = nullptr;
    column_panels      x;

    void lay_out(const row_reader & r, int n, carver & c) {
        rows  = &r;
        space = c.take<uint8_t>(column_panels(r, n, nullptr).size());
    }
    void start(int n) { x = column_panels(*rows, n, space); }
};

// What the threads of one call share. Columns are taken in blocks whose x stays in L2.
class batch_job {
  public:
    batch_job(const ffn_call & call, const ffn_run_params & params, ffn_workspace & ws);

    // Called by every thread of a team. False = cancelled.
    bool run(int ith, neuron_counts & counts, ffn_times & times);

  private:
    struct chunk { // neurons j0 .. j1 - 1
        int64_t j0, j1;
    };

    void          lay_out(carver & c);
    void          start(int64_t c0);
    int64_t       take(phase p, int64_t n);
    const float * x_of(int c) const { return cols_.x[c0_ + c]; }
    uint8_t *     mask_of(int c) const { return (call_.mask ? call_.mask + c0_ * n_ff_ : mask_) + c * n_ff_; }
    float *       h_of(int c) const { return h_ + c * n_ff_; }
    unit_list     units_of(int c) const { return {n_unit_[c], unit_ids_ + c * fc1_.n_row(), unit_h_ + c * fc1_.n_row()}; }
    uint8_t *     scratch(int ith) const { return scratch_ + static_cast<size_t>(ith) * scratch_size_; }

    void                       prepare_x();
    void                       select(int ith, neuron_counts & counts);
    void                       select_by_unit(neuron_counts & counts);
    template <typename F> void every_product(const panel_slot & slot, phase p, int ith, F && f);
    void                       gate_up(int ith, neuron_counts & counts);
    void                       first_branch(const chunk & u, int ith, neuron_counts & counts);
    void                       second_branch(const chunk & u, int ith, neuron_counts & counts);
    void                       count_active(const chunk & u, neuron_counts & counts);
    void                       down(int ith, neuron_counts & counts);
    void                       down_few(neuron_counts & counts);
    void                       down_many(int ith, neuron_counts & counts);
    void                       down_many_groups(int ith, neuron_counts & counts);
    void                       reduce();

    const ffn_call &        call_;
    const ggml_sparse_ffn & ffn_;
    const ffn_columns &     cols_;
    const ffn_run_params &  params_;
    const bool              predicted_;
    const int64_t           n_embd_, n_ff_;
    const branches          branches_;
    const row_reader        down_t_, fc1_;
    const bool              by_unit_;
    const row_reader        fc2_;       // fc2_t where by_unit_
    const int               n_at_once_; // columns per block
    row_sums                down_;
    piece_sums              down_groups_; // instead, of rows that have them

    panel_slot first_, second_, pred_, hidden_x_;
    float *    x_scaled_     = nullptr; // [n, n_embd], x * pred_in_scale
    float *    hidden_       = nullptr; // [n, r]
    uint8_t *  mask_         = nullptr; // [n, n_ff]
    int32_t *  unit_ids_     = nullptr; // [n, r], where by_unit_
    float *    unit_h_       = nullptr; // [n, r]
    int32_t *  n_unit_       = nullptr; // [n]
    float *    h_            = nullptr; // [n, n_ff]
    float *    acc_          = nullptr; // [n, N_PIECE, n_embd] while columns are few
    uint8_t *  scratch_      = nullptr; // [n_threads, scratch_size_]
    size_t     scratch_size_ = 0;

    int64_t c0_ = 0; // the block under way: first column, number of columns
    int     n_  = 0;

    std::atomic<int64_t> next_[N_PHASE] = {};
    std::atomic<bool>    stop_{false};
};

row_reader reader_of(const ggml_sparse_matrix & m, bool wanted, const sparse_kernels & kernels) {
    return wanted ? row_reader(m, kernels) : row_reader();
}

batch_job::batch_job(const ffn_call & call, const ffn_run_params & params, ffn_workspace & ws)
    : call_(call), ffn_(call.ffn), cols_(call.cols), params_(params), predicted_(ffn_.mode == GGML_SPARSE_MODE_PREDICTED),
      n_embd_(ffn_.up.n_col), n_ff_(ffn_.up.n_row), branches_(branches_of(ffn_, *params.kernels)), down_t_(ffn_.down_t, *params.kernels),
      fc1_(reader_of(ffn_.fc1, predicted_, *params.kernels)), by_unit_(predicted_ && ffn_.fc2_t.data),
      fc2_(reader_of(by_unit_ ? ffn_.fc2_t : ffn_.fc2, predicted_, *params.kernels)),
      n_at_once_(static_cast<int>(std::min<int64_t>(cols_.n, columns_at_once(n_embd_)))),
      down_(down_t_, *params.kernels->batch, branches_.every_row), down_groups_(down_t_, branches_.every_row) {
    carver dry(nullptr);
    lay_out(dry);
    carver real(ws.reserve(dry.used()));
    lay_out(real);
}

void batch_job::lay_out(carver & c) {
    const auto n     = static_cast<size_t>(n_at_once_);
    const auto width = static_cast<size_t>(n_embd_), n_ff = static_cast<size_t>(n_ff_);
    first_.lay_out(branches_.first, n_at_once_, c);
    scratch_size_ = row_tile::size(branches_.first);
    if (branches_.has_second) {
        second_.lay_out(branches_.second, n_at_once_, c);
        scratch_size_ = std::max(scratch_size_, row_tile::size(branches_.second));
    }
    if (predicted_) {
        pred_.lay_out(fc1_, n_at_once_, c);
        if (!by_unit_) {
            hidden_x_.lay_out(fc2_, n_at_once_, c);
        } else {
            unit_ids_ = c.take<int32_t>(n * static_cast<size_t>(fc1_.n_row()));
            unit_h_   = c.take<float>(n * static_cast<size_t>(fc1_.n_row()));
            n_unit_   = c.take<int32_t>(n);
        }
        x_scaled_     = c.take<float>(ffn_.pred_in_scale ? n * width : 0);
        hidden_       = c.take<float>(n * static_cast<size_t>(fc1_.n_row()));
        mask_         = c.take<uint8_t>(call_.mask ? 0 : n * n_ff);
        scratch_size_ = std::max({scratch_size_, row_tile::size(fc1_), by_unit_ ? 0 : row_tile::size(fc2_)});
    }
    h_   = c.take<float>(n * n_ff);
    acc_ = c.take<float>(std::min<size_t>(n, N_FEW) * N_PIECE * width);
    if (n_at_once_ > N_FEW && down_t_.has_groups()) {
        down_groups_.lay_out(c, n_at_once_);
        scratch_size_ = std::max(scratch_size_, piece_sums::scratch_size());
    } else if (n_at_once_ > N_FEW) {
        down_.lay_out(c, n_at_once_);
        scratch_size_ = std::max(scratch_size_, row_sums::scratch_size(n_at_once_));
    }
    scratch_size_ = (scratch_size_ + 63) / 64 * 64;
    scratch_      = c.take<uint8_t>(static_cast<size_t>(params_.n_threads) * scratch_size_);
}

// Called by one thread while the others wait.
void batch_job::start(int64_t c0) {
    c0_ = c0;
    n_  = static_cast<int>(std::min<int64_t>(n_at_once_, cols_.n - c0));
    for (panel_slot * slot : {&first_, &second_, &pred_, &hidden_x_}) {
        if (slot->rows) {
            slot->start(n_);
        }
    }
    if (n_ > N_FEW && !down_t_.has_groups()) {
        down_.start();
    }
    for (std::atomic<int64_t> & next : next_) {
        next.store(0, std::memory_order_relaxed);
    }
}

// The next unit of a phase; -1 when there is none below n, or the call is cancelled.
int64_t batch_job::take(phase p, int64_t n) {
    if (params_.cancel && params_.cancel->load(std::memory_order_relaxed)) {
        stop_.store(true, std::memory_order_relaxed);
    }
    const int64_t u = next_[p].fetch_add(1, std::memory_order_relaxed);
    return u < n && !stop_.load(std::memory_order_relaxed) ? u : -1;
}

// --- phases ------------------------------------------------------------------------

void batch_job::prepare_x() {
    for (int64_t u; (u = take(PHASE_X, n_)) >= 0;) {
        const int     c = static_cast<int>(u);
        const float * x = x_of(c);
        first_.x.set(c, x);
        if (branches_.has_second) {
            second_.x.set(c, x);
        }
        if (predicted_) {
            float * scaled = x_scaled_ + c * n_embd_;
            for (int64_t i = 0; ffn_.pred_in_scale && i < n_embd_; ++i) {
                scaled[i] = x[i] * ffn_.pred_in_scale[i];
            }
            pred_.x.set(c, ffn_.pred_in_scale ? scaled : x);
        }
    }
}

// All rows times all columns: f(c, i, product).
template <typename F> void batch_job::every_product(const panel_slot & slot, phase p, int ith, F && f) {
    row_tile      tile(*slot.rows, scratch(ith));
    const int64_t n_row = slot.rows->n_row();
    const auto    every = [](int, int32_t) { return true; };
    for (int64_t u; (u = take(p, (n_row + N_CHUNK_MAX - 1) / N_CHUNK_MAX)) >= 0;) {
        const int64_t i0 = u * N_CHUNK_MAX;
        row_list      list;
        for (int64_t i = i0; i < std::min(n_row, i0 + N_CHUNK_MAX); ++i) {
            list.ids[list.n++] = static_cast<int32_t>(i);
        }
        multiply_rows(list.ids, list.n, slot.x, tile, every, [&](int c, int k, float product) { f(c, i0 + k, product); });
    }
}

void batch_job::select(int ith, neuron_counts & counts) {
    const int64_t r = fc1_.n_row();
    every_product(pred_, PHASE_HIDDEN, ith, [&](int c, int64_t i, float product) { hidden_[c * r + i] = relu(product); });
#pragma omp barrier
    if (by_unit_) {
        select_by_unit(counts);
        return;
    }
    for (int64_t c; (c = take(PHASE_HIDDEN_X, n_)) >= 0;) {
        hidden_x_.x.set(static_cast<int>(c), hidden_ + c * r);
        counts.bytes_fc2 += static_cast<uint64_t>(fc2_.n_row()) * fc2_.row_size();
    }
#pragma omp barrier
    every_product(hidden_x_, PHASE_MASK, ith, [&](int c, int64_t j, float product) { mask_of(c)[j] = product > ffn_.threshold; });
}

// Unit = some neurons: short enough for their part of all rows to stay in L2 while the columns pass.
void batch_job::select_by_unit(neuron_counts & counts) {
    constexpr int64_t N_SLICE = 1024;
    const int64_t     r       = fc1_.n_row();
    for (int64_t c; (c = take(PHASE_HIDDEN_X, n_)) >= 0;) {
        unit_list units = units_of(static_cast<int>(c));
        list_units(fc2_, hidden_ + c * r, units);
        n_unit_[c] = units.n;
    }
#pragma omp barrier
    alignas(64) float logits[N_UNIT_PIECE * N_SLICE];
    for (int64_t u; (u = take(PHASE_MASK, (n_ff_ + N_SLICE - 1) / N_SLICE)) >= 0;) {
        const int64_t j0 = u * N_SLICE, j1 = std::min(n_ff_, j0 + N_SLICE);
        for (int c = 0; c < n_; ++c) {
            for (int piece = 0; piece < N_UNIT_PIECE; ++piece) {
                const int64_t n = sum_units(fc2_, units_of(c), piece, j0, j1, logits + piece * N_SLICE);
                counts.bytes_fc2 += static_cast<uint64_t>(n) * ggml_row_size(fc2_.type().type, j1 - j0);
            }
            select_by_logits(logits, N_SLICE, ffn_.threshold, 0, j1 - j0, mask_of(c) + j0);
        }
    }
}

// Neurons of a chunk for which wanted(c, j) holds in any column.
template <typename W> void list_rows(row_list & list, int64_t j0, int64_t j1, int n, W && wanted) {
    uint8_t any[N_CHUNK_MAX] = {};
    for (int c = 0; c < n; ++c) {
        for (int64_t j = j0; j < j1; ++j) {
            any[j - j0] |= wanted(c, j);
        }
    }
    for (int64_t j = j0; j < j1; ++j) {
        list.ids[list.n] = static_cast<int32_t>(j);
        list.n += any[j - j0];
    }
}

void batch_job::first_branch(const chunk & u, int ith, neuron_counts & counts) {
    row_tile   tile(branches_.first, scratch(ith));
    row_list   list;
    const auto selected = [&](int c, int64_t j) { return !predicted_ || mask_of(c)[j] != 0; };
    list_rows(list, u.j0, u.j1, n_, selected);
    for (int c = 0; c < n_; ++c) {
        std::fill(h_of(c) + u.j0, h_of(c) + u.j1, 0.0f);
    }
    multiply_rows(list.ids, list.n, first_.x, tile, selected, [&](int c, int i, float product) {
        h_of(c)[list.ids[i]] = relu(product);
        counts.first++;
    });
}

void batch_job::second_branch(const chunk & u, int ith, neuron_counts & counts) {
    row_tile   tile(branches_.second, scratch(ith));
    row_list   list;
    const auto wanted = [&](int c, int64_t j) { return branches_.every_row || h_of(c)[j] != 0.0f; };
    list_rows(list, u.j0, u.j1, n_, wanted);
    multiply_rows(list.ids, list.n, second_.x, tile, wanted, [&](int c, int i, float product) {
        float & h = h_of(c)[list.ids[i]];
        h         = h == 0.0f ? 0.0f : h * (branches_.relu_second ? relu(product) : product);
        counts.second++;
    });
}

void batch_job::count_active(const chunk & u, neuron_counts & counts) {
    for (int c = 0; c < n_; ++c) {
        for (int64_t j = u.j0; j < u.j1; ++j) {
            const bool active = h_of(c)[j] != 0.0f;
            counts.active += active;
            if (call_.profile) {
                call_.profile[j] += active;
            }
        }
    }
}

void batch_job::gate_up(int ith, neuron_counts & counts) {
    const int64_t n_chunk = std::clamp<int64_t>(n_ff_ / 32, STRETCH_MIN, N_CHUNK_MAX); // units enough to balance threads
    for (int64_t u; (u = take(PHASE_GATE_UP, (n_ff_ + n_chunk - 1) / n_chunk)) >= 0;) {
        const chunk part{u * n_chunk, std::min(n_ff_, (u + 1) * n_chunk)};
        first_branch(part, ith, counts);
        if (branches_.has_second) {
            second_branch(part, ith, counts);
        }
        count_active(part, counts);
    }
}

// Few columns: one after the other, while the rows of a piece stay in L2. Unit = one piece.
void batch_job::down_few(neuron_counts & counts) {
    for (int64_t u; (u = take(PHASE_DOWN, N_PIECE)) >= 0;) {
        const int piece = static_cast<int>(u);
        for (int c = 0; c < n_; ++c) {
            counts.down += down_piece(down_t_, branches_.every_row, piece, h_of(c), 0, n_embd_, acc_ + (c * N_PIECE + piece) * n_embd_);
        }
    }
#pragma omp barrier
    reduce();
}

// Unit = 512 elements of one column.
void batch_job::reduce() {
    const int64_t n_slice = (n_embd_ + 511) / 512;
    for (int64_t u; (u = take(PHASE_REDUCE, n_slice * n_)) >= 0;) {
        const int64_t c = u / n_slice, i0 = u % n_slice * 512, i1 = std::min(n_embd_, i0 + 512);
        reduce_pieces(acc_ + c * N_PIECE * n_embd_ + i0, n_embd_, nullptr, i1 - i0, cols_.y[c0_ + c] + i0);
    }
}

// Many: unpacked rows stay in L2 while the columns pass.
void batch_job::down_many(int ith, neuron_counts & counts) {
    for (int64_t c; (c = take(PHASE_LIST, n_)) >= 0;) {
        counts.down += down_.list(static_cast<int>(c), h_of(static_cast<int>(c)));
    }
#pragma omp barrier
    for (int64_t u; (u = take(PHASE_DOWN, down_.n_unit())) >= 0;) {
        down_.sum(u, n_, cols_.y + c0_, scratch(ith));
    }
}

void batch_job::down_many_groups(int ith, neuron_counts & counts) {
    for (int64_t c; (c = take(PHASE_LIST, n_)) >= 0;) {
        counts.down += down_groups_.list(static_cast<int>(c), h_of(static_cast<int>(c)));
    }
#pragma omp barrier
    for (int64_t u; (u = take(PHASE_DOWN, down_groups_.n_unit(n_))) >= 0;) {
        down_groups_.sum(u, n_, cols_.y + c0_, scratch(ith));
    }
}

void batch_job::down(int ith, neuron_counts & counts) {
    if (n_ <= N_FEW) {
        down_few(counts);
    } else if (down_t_.has_groups()) {
        down_many_groups(ith, counts);
    } else {
        down_many(ith, counts);
    }
}

bool batch_job::run(int ith, neuron_counts & counts, ffn_times & times) {
    for (int64_t c0 = 0; c0 < cols_.n; c0 += n_at_once_) {
#pragma omp barrier
#pragma omp single
        start(c0);
        const uint64_t t0 = now_ns();
        prepare_x();
#pragma omp barrier
        if (predicted_) {
            select(ith, counts);
#pragma omp barrier
        }
        const uint64_t t1 = predicted_ ? now_ns() : t0; // preparing x is selection only where there is one
        gate_up(ith, counts);
#pragma omp barrier
        const uint64_t t2 = now_ns();
        down(ith, counts);
#pragma omp barrier
        times.ns_select += t1 - t0;
        times.ns_gate_up += t2 - t1;
        times.ns_down += now_ns() - t2;
        if (stop_.load(std::memory_order_relaxed)) {
            return false;
        }
    }
    return true;
}

} // namespace

bool batch_run(const ffn_call & call, const ffn_run_params & params, ffn_workspace & ws, neuron_counts & total, ffn_times & times) {
    batch_job job(call, params, ws);
    bool      done = true;
#pragma omp parallel num_threads(params.n_threads)
    {
        const int     ith = omp_get_thread_num();
        neuron_counts counts;
        ffn_times     clock{};
        const bool    finished = job.run(ith, counts, clock);
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

} // namespace ggml_sparse
