#include "neurons.h"

#include <algorithm>

namespace ggml_sparse {

static constexpr int     N_AHEAD     = next_neurons::N; // rows prefetched ahead of a dot
static constexpr int64_t N_CHUNK_MAX = 512;             // neurons per unit of work

bool first_is_up(const ggml_sparse_ffn & ffn) { // reglu: relu(gate) decides
    return ffn.activation == GGML_SPARSE_RELU || (ffn.activation == GGML_SPARSE_DRELU && ffn.first_branch == 1);
}

branches branches_of(const ggml_sparse_ffn & ffn, const sparse_kernels & kernels) {
    branches b;
    b.has_second       = ffn.activation != GGML_SPARSE_RELU;
    b.relu_second      = ffn.activation == GGML_SPARSE_DRELU;
    b.every_row        = ffn.mode == GGML_SPARSE_MODE_DENSE;
    const bool swapped = first_is_up(ffn);
    b.first            = row_reader(swapped ? ffn.up : ffn.gate, kernels);
    if (b.has_second) {
        b.second = row_reader(swapped ? ffn.gate : ffn.up, kernels);
    }
    return b;
}

// Neurons in increasing order, with what is needed to fetch their rows ahead of time.
struct row_list {
    int     n = 0;
    int32_t ids[N_CHUNK_MAX + 1]; // list_rows writes one entry behind the last

    // Calls f(j, ahead): `ahead` is the row to bring to L2 meanwhile; those of after(0), after(1), ... follow the last one.
    template <typename A, typename F> void each(const row_reader & rows, A && after, F && f) const {
        for (int k = 0; k < std::min(N_AHEAD, n); ++k) {
            rows.prefetch(ids[k]);
        }
        for (int k = 0; k < n; ++k) {
            const int next = k + N_AHEAD;
            f(ids[k], next < n ? rows.row(ids[next]) : after(next - n));
        }
    }
};

// Of the neurons at(0) .. at(n_id - 1), those that are wanted.
template <typename A, typename F> static void list_rows(row_list & list, int64_t n_id, A && at, F && wanted) {
    int n = list.n;                      // not in memory, where every store to ids might change it
    for (int64_t k = 0; k < n_id; ++k) { // no branch, but a store that may be overwritten
        const int64_t j = at(k);
        list.ids[n]     = static_cast<int32_t>(j);
        n += wanted(j);
    }
    list.n = n;
}
template <typename F> static void list_rows(row_list & list, int64_t j0, int64_t j1, F && wanted) {
    list_rows(list, j1 - j0, [=](int64_t k) { return j0 + k; }, wanted);
}

// Leaves the selected neurons of j0 .. j1 - 1 in `list`.
static void first_branch(const branches & b, const gate_up_column & col, int64_t j0, int64_t j1, row_list & list) {
    std::fill(col.h + j0, col.h + j1, 0.0f);
    list_rows(list, j0, j1, [&](int64_t j) { return !col.mask || col.mask[j]; });
    int        seen  = 0;         // of the list, for after()
    const auto after = [&](int) { // a neuron that needs its second branch: the first ones are known before the last ones
        while (seen < list.n - N_AHEAD && col.h[list.ids[seen]] == 0.0f) {
            ++seen;
        }
        const row_reader & next = b.has_second ? b.second : b.first;
        return next.row(list.ids[std::min(seen++, list.n - 1)]);
    };
    list.each(b.first, after, [&](int64_t j, const uint8_t * ahead) { col.h[j] = relu(b.first.dot(j, col.first, ahead)); });
}

// Of the neurons in `list`, leaves those that need their second branch.
static void second_branch(const branches & b, const gate_up_column & col, row_list & list, const next_neurons & next) {
    const row_list first = list;
    list.n               = 0;
    list_rows(list, first.n, [&](int64_t k) { return first.ids[k]; }, [&](int64_t j) { return b.every_row || col.h[j] != 0.0f; });
    const auto after = [&](int i) { return i < next.n ? b.first.row(next.ids[i]) : b.second.row(list.ids[list.n - 1]); };
    list.each(b.second, after, [&](int64_t j, const uint8_t * ahead) {
        const float second = b.second.dot(j, col.second, ahead);
        float &     h      = col.h[j];
        h                  = h == 0.0f ? 0.0f : h * (b.relu_second ? relu(second) : second);
    });
}

static void count_active(const gate_up_column & col, const row_list & list, neuron_counts & counts) {
    for (int k = 0; k < list.n; ++k) {
        const int32_t j      = list.ids[k];
        const bool    active = col.h[j] != 0.0f;
        counts.active += active;
        if (col.profile) {
            col.profile[j] += active;
        }
    }
}

int64_t gate_up_width(int64_t n_ff) { return std::clamp<int64_t>(n_ff / 32, STRETCH_MIN, N_CHUNK_MAX); }

neuron_counts gate_up(const branches & b, const gate_up_column & col, int64_t j0, int64_t j1, const next_neurons & next) {
    neuron_counts counts;
    row_list      list;
    first_branch(b, col, j0, j1, list);
    counts.first = static_cast<uint64_t>(list.n);
    if (b.has_second) {
        second_branch(b, col, list, next);
        counts.second = static_cast<uint64_t>(list.n);
    }
    count_active(col, list, counts);
    return counts;
}

int64_t stretch_of(int64_t n_ff) {
    int64_t stretch = STRETCH_MIN;
    while (stretch < STRETCH_MAX && 2 * stretch <= n_ff / 192) {
        stretch *= 2;
    }
    return stretch;
}

// The wanted neurons of a piece in ascending order.
template <typename W> class piece_reader {
  public:
    piece_reader(int64_t n_ff, int piece, const float * h, W wanted)
        : n_ff_(n_ff), stretch_(stretch_of(n_ff)), j0_(piece * stretch_), h_(h), wanted_(wanted) {}

    // More neurons to the list, until it has n of them or the piece ends.
    void read(row_list & list, int n) {
        for (; list.n < n && j0_ < n_ff_; j0_ += N_PIECE * stretch_) {
            prefetch_h(j0_ + 256 * N_PIECE);
            list_rows(list, j0_, std::min(n_ff_, j0_ + stretch_), wanted_);
        }
    }
    bool done() const { return j0_ >= n_ff_; }

  private:
    void prefetch_h(int64_t j0) const { // another core has written it
        for (int64_t j = j0; j < std::min(n_ff_, j0 + stretch_); j += STRETCH_MIN) {
            __builtin_prefetch(h_ + j);
        }
    }

    const int64_t n_ff_, stretch_;
    int64_t       j0_;
    const float * h_;
    const W       wanted_;
};

// The first n rows of the list; those behind them are fetched.
static void add_rows(const row_reader & down_t, const row_list & list, int n, const float * h, int64_t c0, int64_t c1, float * acc) {
    float factors[N_CHUNK_MAX];
    for (int k = 0; k < n; ++k) {
        factors[k] = h[list.ids[k]];
    }
    if (down_t.has_groups()) {
        down_t.groups().fine(down_t.columns(c0, c1), list.ids, factors, n, std::min(list.n - n, N_GROUP_ROWS), acc);
    } else {
        down_t.axpy_list(n, list.ids, factors, list.n - n, c0, c1, acc);
    }
}

// Those of a piece for which wanted(j) holds, in ascending order.
template <typename W>
static uint64_t add_piece(const row_reader & down_t, W wanted, int piece, const float * h, int64_t c0, int64_t c1, float * acc) {
    constexpr int N_LIST = N_CHUNK_MAX - 2 * STRETCH_MAX - N_GROUP_ROWS; // either piece may go beyond what it is asked for
    piece_reader  here(down_t.n_row(), piece, h, wanted), next(down_t.n_row(), piece + 1, h, wanted);
    uint64_t      n_rows = 0;
    row_list      list;
    while (!here.done()) {
        here.read(list, N_LIST);
        const int n       = here.done() ? list.n : list.n / N_GROUP_ROWS * N_GROUP_ROWS; // the rest goes with what follows
        const int n_known = list.n;
        next.read(list, n + (here.done() && piece + 1 < N_PIECE ? N_GROUP_ROWS : 0));
        add_rows(down_t, list, n, h, c0, c1, acc);
        std::copy(list.ids + n, list.ids + n_known, list.ids);
        list.n = n_known - n;
        n_rows += static_cast<uint64_t>(n);
    }
    return n_rows;
}

// Rows whose h is zero come last: they change nothing, but groups of sixteen are of those that do.
uint64_t down_piece(const row_reader & down_t, bool every_row, int piece, const float * h, int64_t c0, int64_t c1, float * acc) {
    std::fill(acc, acc + (c1 - c0), 0.0f);
    uint64_t n = add_piece(down_t, [=](int64_t j) { return h[j] != 0.0f; }, piece, h, c0, c1, acc);
    if (every_row) {
        n += add_piece(down_t, [=](int64_t j) { return h[j] == 0.0f; }, piece, h, c0, c1, acc);
    }
    return n;
}

static void add(const float * a, int64_t n, float * y) {
    for (int64_t i = 0; i < n; ++i) {
        y[i] += a[i];
    }
}

void reduce_pieces(const float * pieces, int64_t stride, const uint8_t * kept, int64_t n, float * y) {
    constexpr int64_t WIDTH = 512; // both sums stay in L1
    for (int64_t i = 0; i < n; i += WIDTH) {
        const int64_t width = std::min(WIDTH, n - i);
        std::fill(y + i, y + i + width, 0.0f);
        for (int q = 0; q < N_PIECE / N_QUARTER; ++q) {
            const float * first = pieces + q * N_QUARTER * stride + i;
            float         sum[WIDTH];
            std::copy(first, first + width, sum);
            for (int k = kept ? kept[q] : 1; k < N_QUARTER; ++k) {
                add(first + k * stride, width, sum);
            }
            add(sum, width, y + i);
        }
    }
}

void down_slice(const row_reader & down_t, bool every_row, const float * h, int64_t c0, int64_t c1, float * y) {
    constexpr int64_t STRIDE = 1024;
    float             pieces[N_PIECE * STRIDE];
    for (int piece = 0; piece < N_PIECE; ++piece) {
        down_piece(down_t, every_row, piece, h, c0, c1, pieces + piece * STRIDE);
    }
    reduce_pieces(pieces, STRIDE, nullptr, c1 - c0, y);
}

} // namespace ggml_sparse
