#pragma once

// The two phases of an FFN that touch its neurons, on one column:
//   gate and up   h[j] = 0 unless selected and first > 0, else first * second
//   down          y = sum_j h[j] * down_t[j]

#include "select.h"

namespace ggml_sparse {

constexpr int N_PIECE   = 16; // partial sums of y
constexpr int N_QUARTER = 4;  // neighbouring pieces that are added before their sums are

// Neighbours that belong to one piece: neuron j is in piece (j / stretch) % 16. Memory reads rows faster the closer they
// lie, and pieces stay alike, also where neurons are sorted, when each has a dozen stretches.
constexpr int64_t STRETCH_MIN = 16, STRETCH_MAX = 64;
int64_t           stretch_of(int64_t n_ff); // the power of two at or below n_ff / 192, in these bounds

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

struct gate_up_column {
    const void *    first;   // x prepared for the two branches
    const void *    second;  // not used without a second branch
    const uint8_t * mask;    // [n_ff], or null = all selected
    float *         h;       // [n_ff]
    uint64_t *      profile; // [n_ff], += 1 where the neuron is active; or null
};

// The first neurons of what the thread is likely to take next, for their rows to be fetched.
struct next_neurons {
    static constexpr int N = 3;

    int     n = 0;
    int32_t ids[N];
};

// A unit is some neighbouring neurons: few enough to balance threads.
int64_t gate_up_width(int64_t n_ff);
// j1 - j0 <= width
neuron_counts gate_up(const branches & b, const gate_up_column & col, int64_t j0, int64_t j1, const next_neurons & next = {});

// Elements c0 .. c1 - 1, at a block's edge, of one piece's sum; acc points at c0 and is overwritten. Returns rows added.
uint64_t down_piece(const row_reader & down_t, bool every_row, int piece, const float * h, int64_t c0, int64_t c1, float * acc);

// y [n] = the sum of sixteen pieces, `stride` apart: those of a quarter in ascending order, then the four sums. The first
// piece of quarter q stands for kept[q] of them already; null: each for itself.
void reduce_pieces(const float * pieces, int64_t stride, const uint8_t * kept, int64_t n, float * y);

// The same elements of y, of all pieces. c1 - c0 <= 1024; y points at c0.
void down_slice(const row_reader & down_t, bool every_row, const float * h, int64_t c0, int64_t c1, float * y);

} // namespace ggml_sparse
