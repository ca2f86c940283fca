#include "few.h"

#include "carver.h"
#include "clock.h"
#include "row-split.h"

#include <omp.h>

#include <algorithm>
#include <list>
#include <vector>

namespace ggml_sparse {

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What threads do between two barriers.
enum phase { PHASE_X, PHASE_HIDDEN, PHASE_HIDDEN_X, PHASE_LOGITS, PHASE_GATE_UP, PHASE_DOWN, PHASE_REDUCE, N_PHASE };

// x as one matrix wants it.
struct x_slot {
    const weight_type * type = nullptr;
    uint8_t *           dst  = nullptr; // null where the dot takes x as it is

    void lay_out(const row_reader & rows, carver & c) {
        type = &rows.type();
        dst  = type->form == x_form::F32 ? nullptr : c.take<uint8_t>(x_prepared_size(*type, rows.n_col()));
    }
    void prepare(const float * x, int64_t n) const {
        if (dst) {
            x_prepare(*type, x, n, dst);
        }
    }
    const void * get(const float * x) const { return dst ? static_cast<const void *>(dst) : x; }
};

struct column {
    const float * x;
    float *       y;
    x_slot        first, second, pred, hidden_x;
    float *       x_scaled; // [n_embd], x * pred_in_scale
    float *       hidden;   // [r]
    unit_list     units;    // [r], where by unit
    float *       logits;   // [N_UNIT_PIECE, n_ff], where by unit
    uint8_t *     mask;     // [n_ff]
    float *       h;        // [n_ff]
    float *       acc;      // [N_PIECE, n_embd]
    uint8_t *     kept;     // [slices of n_embd, quarters]: how many pieces the first one's acc stands for
};

// Neighbouring pieces of a quarter from its first on, which one thread has added in memory of its own: other cores
// own the lines of acc after each token.
struct piece_run {
    int64_t unit   = 0; // of the first
    int     n      = 0;
    float * sum    = nullptr; // [n_column, n_embd]
    float * newest = nullptr; // [n_embd]

    bool goes_on_with(int64_t u) const { return n > 0 && u == unit + n; }
};

// One FFN on its columns: n_unit(p) units of work in phase p, which threads take as they come.
class few_ffn {
  public:
    few_ffn(const ffn_call & call, int64_t n_call, const ffn_run_params & params); // one of n_call

    void    lay_out(carver & c);
    int64_t n_unit(phase p) const;
    void    run(phase p, int64_t u, int ith, neuron_counts & counts);
    void    finish_down(int ith); // when thread ith has no unit left

  private:
    void lay_out_predictor(column & col, carver & c) const;

    void         prepare_x(const column & col, int64_t what) const;
    void         prepare_hidden(column & col) const;
    void         logits(const column & col, int64_t u, neuron_counts & counts) const;
    next_neurons next_at(const column & col, int64_t j0) const;
    void         gate_up_unit(const column & col, int64_t u, neuron_counts & counts) const;
    void         down(int64_t u, piece_run & own, neuron_counts & counts) const;
    uint64_t     down_column(const column & col, int64_t u, float * sum) const;
    void         hand_over(piece_run & own) const;
    void         reduce(const column & col, int64_t u) const;

    const ffn_call         call_;
    const bool             predicted_;
    const int64_t          n_embd_, n_ff_;
    const branches         branches_;
    const row_reader       down_t_;
    const bool             by_unit_;
    row_reader             fc1_, fc2_; // fc2_: fc2_t where by_unit_
    const int64_t          slice_;     // of n_ff, in PHASE_LOGITS by unit
    const int64_t          width_;     // of n_ff, in PHASE_GATE_UP
    const int64_t          part_;      // of n_embd, in PHASE_DOWN
    std::vector<column>    columns_;
    std::vector<piece_run> runs_; // of each thread
};

constexpr int64_t N_ALIGN  = 512; // where rows are cut: every type's block, and whole vectors of factors (cpu/group-sum.cpp)
constexpr int64_t N_REDUCE = 512;

// Width of the parts that n is cut into: whole rows read fastest, but four units for each thread balance them.
int64_t part_of(int64_t n, int64_t n_piece, int n_threads) { return divide_up(n, divide_up(4 * n_threads, n_piece) * N_ALIGN) * N_ALIGN; }

few_ffn::few_ffn(const ffn_call & call, int64_t n_call, const ffn_run_params & params)
    : call_(call), predicted_(call.ffn.mode == GGML_SPARSE_MODE_PREDICTED), n_embd_(call.ffn.up.n_col), n_ff_(call.ffn.up.n_row),
      branches_(branches_of(call.ffn, *params.kernels)), down_t_(call.ffn.down_t, *params.kernels),
      by_unit_(predicted_ && call.ffn.fc2_t.data), slice_(part_of(n_ff_, N_UNIT_PIECE * n_call, params.n_threads)),
      width_(gate_up_width(n_ff_)), part_(part_of(n_embd_, N_PIECE * n_call, params.n_threads)), columns_(static_cast<size_t>(call.cols.n)),
      runs_(static_cast<size_t>(params.n_threads)) {
    if (predicted_) {
        fc1_ = row_reader(call.ffn.fc1, *params.kernels);
        fc2_ = row_reader(by_unit_ ? call.ffn.fc2_t : call.ffn.fc2, *params.kernels);
    }
    for (size_t c = 0; c < columns_.size(); ++c) {
        columns_[c].x = call.cols.x[c];
        columns_[c].y = call.cols.y[c];
    }
}

void few_ffn::lay_out(carver & c) {
    const auto n_ff = static_cast<size_t>(n_ff_);
    for (size_t i = 0; i < columns_.size(); ++i) {
        column & col = columns_[i];
        col.first.lay_out(branches_.first, c);
        if (branches_.has_second && !branches_.second.type().shares_x(*col.first.type)) {
            col.second.lay_out(branches_.second, c);
        } else {
            col.second = col.first;
        }
        if (predicted_) {
            lay_out_predictor(col, c);
            col.mask = call_.mask ? call_.mask + i * n_ff : c.take<uint8_t>(n_ff);
        }
        col.h    = c.take<float>(n_ff);
        col.acc  = c.take<float>(static_cast<size_t>(N_PIECE * n_embd_));
        col.kept = c.take<uint8_t>(static_cast<size_t>(n_unit(PHASE_DOWN) / N_QUARTER));
    }
    for (piece_run & own : runs_) {
        own.sum    = c.take<float>(columns_.size() * static_cast<size_t>(n_embd_));
        own.newest = c.take<float>(static_cast<size_t>(n_embd_));
    }
}

void few_ffn::lay_out_predictor(column & col, carver & c) const {
    const auto r = static_cast<size_t>(fc1_.n_row());
    col.pred.lay_out(fc1_, c);
    col.x_scaled = c.take<float>(call_.ffn.pred_in_scale ? static_cast<size_t>(n_embd_) : 0);
    col.hidden   = c.take<float>(r);
    if (by_unit_) {
        col.units  = {0, c.take<int32_t>(r), c.take<float>(r)};
        col.logits = c.take<float>(static_cast<size_t>(N_UNIT_PIECE * n_ff_));
    } else {
        col.hidden_x.lay_out(fc2_, c);
    }
}

int64_t few_ffn::n_unit(phase p) const {
    const int64_t n = static_cast<int64_t>(columns_.size());
    switch (p) {
        case PHASE_X: return n * 3;
        case PHASE_HIDDEN: return predicted_ ? select_units(fc1_) : 0;
        case PHASE_HIDDEN_X: return predicted_ ? n : 0;
        case PHASE_LOGITS: return by_unit_ ? N_UNIT_PIECE * divide_up(n_ff_, slice_) : predicted_ ? select_units(fc2_) : 0;
        case PHASE_GATE_UP: return divide_up(n_ff_, width_);
        case PHASE_DOWN: return N_PIECE * divide_up(n_embd_, part_);
        default: return divide_up(n_embd_, N_REDUCE);
    }
}

void few_ffn::run(phase p, int64_t u, int ith, neuron_counts & counts) {
    if (p == PHASE_X) {
        return prepare_x(columns_[static_cast<size_t>(u / 3)], u % 3);
    }
    if (p == PHASE_HIDDEN_X) {
        return prepare_hidden(columns_[static_cast<size_t>(u)]);
    }
    if (p == PHASE_DOWN) {
        return down(u, runs_[static_cast<size_t>(ith)], counts);
    }
    for (const column & col : columns_) {
        switch (p) {
            case PHASE_HIDDEN: select_hidden(fc1_, col.pred.get(call_.ffn.pred_in_scale ? col.x_scaled : col.x), u, col.hidden); break;
            case PHASE_LOGITS: logits(col, u, counts); break;
            case PHASE_GATE_UP: gate_up_unit(col, u, counts); break;
            default: reduce(col, u); break;
        }
    }
}

void few_ffn::prepare_x(const column & col, int64_t what) const {
    if (what == 0) {
        col.first.prepare(col.x, n_embd_);
    } else if (what == 1 && branches_.has_second && col.second.dst != col.first.dst) {
        col.second.prepare(col.x, n_embd_);
    } else if (what == 2 && predicted_) {
        const float * scale = call_.ffn.pred_in_scale;
        for (int64_t i = 0; scale && i < n_embd_; ++i) {
            col.x_scaled[i] = col.x[i] * scale[i];
        }
        col.pred.prepare(scale ? col.x_scaled : col.x, n_embd_);
    }
}

void few_ffn::prepare_hidden(column & col) const {
    if (by_unit_) {
        list_units(fc2_, col.hidden, col.units);
    } else {
        col.hidden_x.prepare(col.hidden, fc1_.n_row());
    }
}

void few_ffn::logits(const column & col, int64_t u, neuron_counts & counts) const {
    if (!by_unit_) {
        select_mask(fc2_, col.hidden_x.get(col.hidden), call_.ffn.threshold, u, col.mask);
        counts.bytes_fc2 += u == 0 ? static_cast<uint64_t>(fc2_.n_row()) * fc2_.row_size() : 0;
        return;
    }
    const int     piece = static_cast<int>(u % N_UNIT_PIECE);
    const int64_t j0 = u / N_UNIT_PIECE * slice_, j1 = std::min(n_ff_, j0 + slice_);
    const int64_t n = sum_units(fc2_, col.units, piece, j0, j1, col.logits + piece * n_ff_ + j0);
    counts.bytes_fc2 += static_cast<uint64_t>(n) * ggml_row_size(fc2_.type().type, j1 - j0);
}

// The first selected neurons from j0 on: of the next unit, whose mask may not be there yet.
next_neurons few_ffn::next_at(const column & col, int64_t j0) const {
    constexpr int64_t N_LOOK = 64;
    uint8_t           local[N_LOOK];
    const int64_t     n    = std::min(N_LOOK, n_ff_ - j0);
    const uint8_t *   mask = predicted_ ? col.mask + j0 : nullptr;
    if (by_unit_) {
        select_by_logits(col.logits + j0, n_ff_, call_.ffn.threshold, 0, n, local);
        mask = local;
    }
    next_neurons next;
    for (int64_t k = 0; k < n && next.n < next_neurons::N; ++k) {
        if (!mask || mask[k]) {
            next.ids[next.n++] = static_cast<int32_t>(j0 + k);
        }
    }
    return next;
}

void few_ffn::gate_up_unit(const column & col, int64_t u, neuron_counts & counts) const {
    const int64_t j0 = u * width_, j1 = std::min(n_ff_, j0 + width_);
    if (by_unit_) {
        select_by_logits(col.logits, n_ff_, call_.ffn.threshold, j0, j1, col.mask);
    }
    const uint8_t *    mask = predicted_ ? col.mask : nullptr;
    const next_neurons next = next_at(col, j1);
    counts.add(gate_up(branches_, {col.first.get(col.x), col.second.get(col.x), mask, col.h, call_.profile}, j0, j1, next));
}

// Into sum [n_embd]; returns how many rows it added.
uint64_t few_ffn::down_column(const column & col, int64_t u, float * sum) const {
    const int64_t c0 = u / N_PIECE * part_, c1 = std::min(n_embd_, c0 + part_);
    return down_piece(down_t_, branches_.every_row, static_cast<int>(u % N_PIECE), col.h, c0, c1, sum + c0);
}

void few_ffn::down(int64_t u, piece_run & own, neuron_counts & counts) const {
    const bool first = u % N_QUARTER == 0, next = own.goes_on_with(u);
    if (!next) {
        hand_over(own);
    }
    const int64_t c0 = u / N_PIECE * part_, c1 = std::min(n_embd_, c0 + part_);
    float *       sum = own.sum;
    for (const column & col : columns_) {
        const uint64_t n = down_column(col, u, first ? sum : next ? own.newest : col.acc + u % N_PIECE * n_embd_);
        counts.down += c0 == 0 ? n : 0;
        for (int64_t i = c0; next && i < c1; ++i) {
            sum[i] += own.newest[i];
        }
        sum += n_embd_;
    }
    if (first) {
        own.unit = u;
    }
    own.n += first || next;
    if (own.n == N_QUARTER) {
        hand_over(own);
    }
}

void few_ffn::hand_over(piece_run & own) const {
    const int64_t c0 = own.unit / N_PIECE * part_, c1 = std::min(n_embd_, c0 + part_);
    for (size_t i = 0; own.n > 0 && i < columns_.size(); ++i) {
        const float * sum = own.sum + static_cast<int64_t>(i) * n_embd_;
        std::copy(sum + c0, sum + c1, columns_[i].acc + own.unit % N_PIECE * n_embd_ + c0);
        columns_[i].kept[own.unit / N_QUARTER] = static_cast<uint8_t>(own.n);
    }
    own.n = 0;
}

void few_ffn::finish_down(int ith) { hand_over(runs_[static_cast<size_t>(ith)]); }

void few_ffn::reduce(const column & col, int64_t u) const {
    const int64_t   i0 = u * N_REDUCE, i1 = std::min(n_embd_, i0 + N_REDUCE);
    const uint8_t * kept = col.kept + i0 / part_ * (N_PIECE / N_QUARTER);
    reduce_pieces(col.acc + i0, n_embd_, kept, i1 - i0, col.y + i0);
}

// --- the driver ----------------------------------------------------------------

// What the threads of one call share.
struct few_job {
    std::vector<few_ffn> ffns;
    bool                 predicted       = false; // any of them
    int64_t              n_unit[N_PHASE] = {};
    std::list<row_split> units; // of each phase

    few_job(const ffn_call * calls, int64_t n_call, const ffn_run_params & params, ffn_workspace & ws) {
        for (int64_t i = 0; i < n_call; ++i) {
            ffns.emplace_back(calls[i], n_call, params);
            predicted = predicted || calls[i].ffn.mode == GGML_SPARSE_MODE_PREDICTED;
        }
        carver dry(nullptr);
        lay_out(dry);
        carver real(ws.reserve(dry.used()));
        lay_out(real);
        for (int p = 0; p < N_PHASE; ++p) {
            for (const few_ffn & f : ffns) {
                n_unit[p] += f.n_unit(static_cast<phase>(p));
            }
            units.emplace_back(n_unit[p], params.n_threads, 1);
        }
    }
    void lay_out(carver & c) {
        for (few_ffn & f : ffns) {
            f.lay_out(c);
        }
    }
    // The units of all FFNs: results never depend on who computes one.
    void run(row_split & split, phase p, int ith, neuron_counts & counts) {
        while (const row_split::rows unit = split.take(ith)) {
            int64_t u = unit.begin;
            auto    f = ffns.begin();
            for (; u >= f->n_unit(p); ++f) {
                u -= f->n_unit(p);
            }
            f->run(p, u, ith, counts);
        }
        for (few_ffn & f : ffns) {
            f.finish_down(ith);
        }
    }
};

uint64_t & time_of(phase p, bool predicted, ffn_times & times) {
    if (p >= PHASE_DOWN) {
        return times.ns_down;
    }
    return p == PHASE_GATE_UP || !predicted ? times.ns_gate_up : times.ns_select; // preparing x is selection where there is one
}

} // namespace

void few_run(const ffn_call * calls, int64_t n_call, const ffn_run_params & params, ffn_workspace & ws, neuron_counts & total,
             ffn_times & times) {
    few_job job(calls, n_call, params, ws);
#pragma omp parallel num_threads(params.n_threads)
    {
        neuron_counts counts;
        uint64_t      t0    = now_ns();
        auto          split = job.units.begin();
        for (int i = 0; i < N_PHASE; ++i, ++split) {
            const phase p = static_cast<phase>(i);
            if (job.n_unit[p] == 0) {
                continue;
            }
            job.run(*split, p, omp_get_thread_num(), counts);
#pragma omp barrier
#pragma omp master
            {
                const uint64_t t1 = now_ns();
                time_of(p, job.predicted, times) += t1 - t0;
                t0 = t1;
            }
        }
#pragma omp critical(ggml_sparse_ffn_total)
        total.add(counts);
    }
}

} // namespace ggml_sparse
