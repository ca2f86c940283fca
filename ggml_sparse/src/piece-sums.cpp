#include "piece-sums.h"

#include "neurons.h"

#include <algorithm>

namespace ggml_sparse {

static constexpr int64_t WIDTH      = 512; // whole vectors of factors
static constexpr int64_t N_TOGETHER = 64;  // columns of a unit: enough to find the rows in L2

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

piece_sums::piece_sums(const row_reader & rows, bool every_row) : rows_(rows), every_row_(every_row) {}

void piece_sums::lay_out(carver & c, int n_column) {
    const auto n = static_cast<size_t>(n_column), n_entry = static_cast<size_t>(stride());
    ids_    = c.take<int32_t>(n * n_entry);
    h_      = c.take<float>(n * n_entry);
    starts_ = c.take<int32_t>(n * (N_PIECE + 1));
}

uint64_t piece_sums::list(int c, const float * h) {
    int32_t *  ids   = ids_ + c * stride();
    float *    hs    = h_ + c * stride();
    int32_t *  start = starts_ + c * (N_PIECE + 1);
    int32_t    n     = 0;
    const auto n_ff = rows_.n_row(), stretch = stretch_of(n_ff);
    const auto take = [&](int piece, auto wanted) {
        for (int64_t j0 = piece * stretch; j0 < n_ff; j0 += N_PIECE * stretch) {
            for (int64_t j = j0; j < std::min(n_ff, j0 + stretch); ++j) { // written first, counted if wanted
                ids[n] = static_cast<int32_t>(j);
                hs[n]  = h[j];
                n += wanted(h[j]);
            }
        }
    };
    for (int piece = 0; piece < N_PIECE; ++piece) {
        start[piece] = n;
        take(piece, [](float a) { return a != 0.0f; });
        if (every_row_) { // behind the others, which are the same groups then
            take(piece, [](float a) { return a == 0.0f; });
        }
    }
    start[N_PIECE] = n;
    return static_cast<uint64_t>(n);
}

int64_t piece_sums::n_unit(int n_column) const { return divide_up(rows_.n_col(), WIDTH) * divide_up(n_column, N_TOGETHER); }

static void add_to(float * y, const float * a, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        y[i] += a[i];
    }
}

// sum, of a quarter, += elements e0 .. e1 - 1 of one piece of column c.
void piece_sums::add(int c, int piece, int64_t e0, int64_t e1, float * sum) const {
    const int32_t * start = starts_ + c * (N_PIECE + 1) + piece;
    const int64_t   k     = c * stride() + start[0];
    const bool      first = piece % N_QUARTER == 0;
    float           acc[WIDTH], *y = first ? sum : acc;
    std::fill(y, y + (e1 - e0), 0.0f);
    rows_.groups().fine(rows_.columns(e0, e1), ids_ + k, h_ + k, start[1] - start[0], 0, y);
    if (!first) {
        add_to(sum, acc, e1 - e0);
    }
}

size_t piece_sums::scratch_size() { return N_TOGETHER * WIDTH * sizeof(float); }

void piece_sums::sum(int64_t unit, int n_column, float * const * y, uint8_t * scratch) const {
    const int64_t n_slice = divide_up(rows_.n_col(), WIDTH), c0 = unit / n_slice * N_TOGETHER;
    const int64_t e0 = unit % n_slice * WIDTH, e1 = std::min(rows_.n_col(), e0 + WIDTH);
    const int64_t c1 = std::min<int64_t>(n_column, c0 + N_TOGETHER);
    for (int64_t c = c0; c < c1; ++c) {
        std::fill(y[c] + e0, y[c] + e1, 0.0f);
    }
    for (int piece = 0; piece < N_PIECE; ++piece) {
        float * sum = reinterpret_cast<float *>(scratch);
        for (int64_t c = c0; c < c1; ++c, sum += WIDTH) {
            add(static_cast<int>(c), piece, e0, e1, sum);
            if ((piece + 1) % N_QUARTER == 0) {
                add_to(y[c] + e0, sum, e1 - e0);
            }
        }
    }
}

} // namespace ggml_sparse
