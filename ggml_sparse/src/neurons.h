#pragma once

// The two phases of an FFN that touch its neurons. Both take a few columns at a time, so
// that a weight row is read once for all of them.
//   gate and up   h[c][j] = 0 unless selected and first > 0, else first * second
//   down          y[c] = sum_j h[c][j] * down_t[j]

#include "select.h"

namespace ggml_sparse {

constexpr int N_PIECE = 16; // partial sums of y
constexpr int N_GROUP = 16; // neighbours in one piece: neuron j is in piece (j / 16) % 16

struct neuron_counts {
    uint64_t first     = 0; // rows of the first branch computed
    uint64_t second    = 0;
    uint64_t down      = 0;
    uint64_t active    = 0; // h != 0
    uint64_t bytes_fc2 = 0; // of the predictor, read

    void add(const neuron_counts & o) {
        first += o.first;
        second += o.second;
        down += o.down;
        active += o.active;
        bytes_fc2 += o.bytes_fc2;
    }
};

// How the branches combine, see ggml_sparse_activation.
struct branches {
    row_reader first;
    row_reader second; // not used when !has_second
    bool       has_second;
    bool       relu_second;
    bool       every_row; // DENSE: compute all rows whatever comes out
};

// Does up decide which neurons are computed further?
bool     first_is_up(const ggml_sparse_ffn & ffn);
branches branches_of(const ggml_sparse_ffn & ffn, const sparse_kernels & kernels);

struct gate_up_columns {
    prepared_columns first, second; // x prepared for the two branches
    const uint8_t *  mask;          // rows of n_ff bytes, mask_stride apart; null = all selected
    int64_t          mask_stride;
    float *          h;       // [n][n_ff]
    uint64_t *       profile; // [n_ff] or null: += 1 per active column
};

neuron_counts gate_up(const branches & b, const gate_up_columns & cols, work_share work);

// One piece of the sums of n columns: acc[c] [n_embd] is overwritten. h: [n][n_ff].
// Returns rows added, over all columns.
uint64_t down_piece(const row_reader & down_t, bool every_row, int piece, int n, const float * h, float * const * acc);

// Elements c0 .. c1 - 1 of y for one column: the sum of its sixteen pieces. Same bits as
// down_piece and an ordered sum. c1 - c0 <= 1024, both at a block's edge; y points at c0.
void down_slice(const row_reader & down_t, bool every_row, const float * h, int64_t c0, int64_t c1, float * y);

} // namespace ggml_sparse
