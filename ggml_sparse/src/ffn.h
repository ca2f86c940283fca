#pragma once

// One sparse FFN: select -> gate and up -> down, on columns that need not be contiguous.
//
// Guarantees
//  - Bits depend on the FFN, the kernels' instruction set and the column alone: any
//    n_threads, any batch, any neighbour give the same y; EXACT gives the bits of DENSE.
//  - Neuron j belongs to piece (j / stretch) % 16, see neurons.h. Each piece adds its neurons in ascending j from +0, one FMA per element;
//    of q4_0 rows those that are not zero by sixteen, as integers (cpu/group-sum.h). Pieces 0 .. 3, 4 .. 7, ... are
//    added in ascending order, and then the four sums.
//  - relu keeps NaN: a first branch that is NaN counts as positive, and its neuron as active.
//    A first branch <= 0 makes the neuron 0 whatever the second is, in every mode.
//    Weights must be finite. x may hold NaN or Inf only where the rows are of float types.

#include "ggml-sparse.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ggml_sparse {

struct sparse_kernels; // cpu/kernels.h; from sparse_kernels_get(isa) of cpu/dispatch.h

struct ffn_columns {
    int64_t               n;
    const float * const * x; // [n] pointers to [n_embd]
    float * const *       y; // [n] pointers to [n_embd], overwritten; never overlaps an x
};

struct ffn_times { // wall time, nanoseconds; ffn_run adds to it
    uint64_t ns_select;
    uint64_t ns_gate_up;
    uint64_t ns_down;
};

struct ffn_call {
    ggml_sparse_ffn ffn;
    ffn_columns     cols;
    uint64_t *      profile = nullptr; // [n_ff], += 1 per column where the neuron is active; or null
    uint8_t *       mask    = nullptr; // [n, n_ff], 1 where the neuron was selected; or null
};

struct ffn_run_params {
    int                       n_threads;
    const sparse_kernels *    kernels;
    const std::atomic<bool> * cancel; // or null; looked at between units of work of a large batch, otherwise once
};

// Scratch of ffn_run: grows to the largest FFN seen, reused between calls. One call at a time.
class ffn_workspace {
  public:
    ffn_workspace();
    ~ffn_workspace();
    ffn_workspace(const ffn_workspace &)             = delete;
    ffn_workspace & operator=(const ffn_workspace &) = delete;

    void * reserve(size_t n_bytes); // 64-byte aligned; throws std::bad_alloc

  private:
    struct buffer;
    std::unique_ptr<buffer> buf;
};

// Several FFNs (the experts of a layer), each on its own columns; those on few columns share one parallel region.
// ffn.mode must be DENSE, EXACT, PREDICTED (fc1 and fc2 given) or REFERENCE (selects by the
// predictor iff fc1 is given), the same in all calls. `stats` is added to. False = cancelled, the y are then undefined.
// Shapes are the caller's promise, see ffn_check in ops.h. Throws std::bad_alloc only.
bool ffn_run(const std::vector<ffn_call> & calls, const ffn_run_params & params, ffn_workspace & ws, ggml_sparse_layer_stats & stats,
             ffn_times & times);

} // namespace ggml_sparse
