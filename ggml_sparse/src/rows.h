#pragma once

// Rows of one matrix and the two things done with them, whoever provides the kernel.

#include "cpu/gemm.h"
#include "cpu/group-sum.h"
#include "cpu/kernels.h"
#include "ggml-cpu.h"
#include "types.h"

namespace ggml_sparse {

class row_reader {
  public:
    row_reader() = default;
    row_reader(const ggml_sparse_matrix & m, const sparse_kernels & kernels);

    int64_t             n_col() const { return n_col_; }
    int64_t             n_row() const { return n_row_; }
    size_t              row_size() const { return row_size_; }
    const weight_type & type() const { return *type_; }
    // For products with several columns at once, see panels.h.
    const tile_kernels & tiles() const { return *tiles_; }
    const uint8_t *      row(int64_t i) const { return data_ + static_cast<size_t>(i) * row_stride_; }

    // x is prepared for type() by x_prepare; meanwhile row `ahead`, of this or a like matrix, is brought to L2.
    float dot(int64_t i, const void * x, const uint8_t * ahead) const { return dot_(n_col_, row(i), x, ahead); }
    float dot(int64_t i, const void * x) const { return dot(i, x, row(i)); }
    // What to bring to L2 while row i is read, when rows are read in order: the nth after it or, where the CPU sees to that, none.
    const uint8_t * ahead_in_order(int64_t i, int64_t n) const { return row(follows_ ? i : i + n < n_row_ ? i + n : n_row_ - 1); }

    // The axpys are for rows in ggml's layout.
    // Up to AXPY_ROWS rows: y[c] = fma(h[k], row[ids[k]][c], y[c]) for k = 0 .. n - 1 in turn and c0 <= c < c1,
    // both at a block's edge; y points at c0. Meanwhile rows ahead[k] are brought to L2.
    void axpy(int n, const int32_t * ids, const int32_t * ahead, const float * h, int64_t c0, int64_t c1, float * y) const;
    // The same for any number of rows, those of ids < 0 left out.
    void axpy_ids(int64_t n, const int32_t * ids, const float * h, int64_t c0, int64_t c1, float * y) const;
    // The same for n rows that are all wanted, two calls' rows fetched ahead; ids [n + n_next] go on with rows that come after them.
    void axpy_list(int n, const int32_t * ids, const float * h, int n_next, int64_t c0, int64_t c1, float * y) const;

    // Sums of rows as integers, sixteen at a time (cpu/group-sum.h): for q4_0 in layout ROWS or SUMS. c0 is a multiple of 512,
    // and c1 is, or is n_col.
    bool                  has_groups() const { return type_->type == GGML_TYPE_Q4_0; }
    const group_kernels & groups() const { return groups_[type_->layout == GGML_SPARSE_LAYOUT_SUMS]; }
    grouped_rows          columns(int64_t c0, int64_t c1) const {
        return {data_ + ggml_row_size(type_->type, c0), row_stride_, static_cast<int>((c1 - c0) / 32)};
    }

    // Rows are wanted out of order: bring one to L2 (to L1 measured slower).
    void prefetch(int64_t i) const { prefetch_bytes(row(i), row_size_); }
    void prefetch(int64_t i, int64_t c0, int64_t c1) const {
        prefetch_bytes(row(i) + ggml_row_size(type_->type, c0), ggml_row_size(type_->type, c1 - c0));
    }

  private:
    static void prefetch_bytes(const uint8_t * p, size_t n) {
        for (size_t b = 0; b < n; b += 64) {
            __builtin_prefetch(p + b, 0, 2);
        }
    }

    const uint8_t *       data_       = nullptr;
    int64_t               n_col_      = 0;
    int64_t               n_row_      = 0;
    size_t                row_size_   = 0;
    size_t                row_stride_ = 0;
    const weight_type *   type_       = nullptr;
    dot_fn                dot_        = nullptr;
    axpy_fn               axpy_       = nullptr;
    const tile_kernels *  tiles_      = nullptr;
    const group_kernels * groups_     = nullptr;
    bool                  follows_    = false; // cpu_follows_rows
};

} // namespace ggml_sparse
