#include "ops.h"

#include "attention.h"
#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "error.h"
#include "neurons.h"
#include "packing.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace ggml_sparse {

// --- checks --------------------------------------------------------------------

static error bad(const std::string & where, const std::string & expected, const std::string & found) {
    error e(GGML_SPARSE_ERR_ARGUMENT, where + ": expected " + expected + ", found " + found + ".");
    e.at(where).expected(expected).found(found);
    return e;
}

static std::string shape(int64_t n_col, int64_t n_row) { return "{" + std::to_string(n_col) + ", " + std::to_string(n_row) + "}"; }

static const weight_type & type_check(int32_t type, ggml_sparse_layout layout, const char * name) {
    if (!weight_type_find(type)) {
        error e(GGML_SPARSE_ERR_UNSUPPORTED, std::string(name) + ": ggml type " + std::to_string(type) +
                                                 " is not a weight type of this build; ggml_sparse_type_get lists them.");
        e.at(name).expected("a type of quants.def").found(std::to_string(type));
        throw e;
    }
    const weight_type * wt = weight_type_find(type, layout);
    if (!wt) {
        const std::string found = std::string(ggml_type_name(static_cast<ggml_type>(type))) + ", layout " + std::to_string(layout);
        error             e(GGML_SPARSE_ERR_UNSUPPORTED,
                            std::string(name) + ": only quantised types can be packed, and q4_0 for sums; found " + found + ".");
        e.at(name).expected("a type that has this layout").found(found);
        throw e;
    }
    return *wt;
}

static const weight_type & rows_check(int32_t type, ggml_sparse_layout layout, int64_t n_row, int64_t n_col, const char * name) {
    const weight_type & wt = type_check(type, layout, name);
    if (n_col <= 0 || n_col > std::numeric_limits<int32_t>::max() || n_row < 0 || n_row > std::numeric_limits<int32_t>::max()) {
        throw bad(name, "0 < n_col < 2^31 and 0 <= n_row < 2^31", shape(n_col, n_row));
    }
    if (n_col % wt.block != 0) {
        const char * packed = layout == GGML_SPARSE_LAYOUT_PACKED ? "packed " : "";
        throw bad(name, packed + std::string(wt.name) + " rows of a multiple of " + std::to_string(wt.block), std::to_string(n_col));
    }
    return wt;
}

void matrix_check(const ggml_sparse_matrix & m, const char * name) {
    rows_check(m.type, m.layout, m.n_row, m.n_col, name);
    if (!m.data) {
        throw bad(name, "data", "NULL");
    }
    const size_t size = ggml_row_size(static_cast<ggml_type>(m.type), m.n_col);
    if (m.row_stride != 0 && m.row_stride < size) {
        throw bad(name, "row_stride 0 or at least " + std::to_string(size) + " bytes", std::to_string(m.row_stride));
    }
}

// Rows that are added, not multiplied.
static void plain_check(const ggml_sparse_matrix & m, const char * name) {
    if (m.layout != GGML_SPARSE_LAYOUT_ROWS) {
        throw bad(name, "rows in ggml's layout (ggml_sparse_pack makes them)", "layout " + std::to_string(m.layout));
    }
}
static void sums_check(const ggml_sparse_matrix & m, const char * name) {
    if (m.layout != GGML_SPARSE_LAYOUT_SUMS) {
        plain_check(m, name);
    }
}

// Rows that are multiplied.
static void dots_check(const ggml_sparse_matrix & m, const char * name) {
    if (m.layout == GGML_SPARSE_LAYOUT_SUMS) {
        throw bad(name, "rows in layout ROWS or PACKED", "layout SUMS");
    }
}

static void matrix_check_shape(const ggml_sparse_matrix & m, const char * name, int64_t n_col, int64_t n_row) {
    matrix_check(m, name);
    if (m.n_col != n_col || m.n_row != n_row) {
        throw bad(name, shape(n_col, n_row), shape(m.n_col, m.n_row));
    }
}

static void predictor_check(const ggml_sparse_ffn & ffn) {
    if (ffn.mode == GGML_SPARSE_MODE_PREDICTED && !ffn.fc1.data) {
        throw bad("fc1", "a predictor, as mode is PREDICTED", "NULL");
    }
    if (!ffn.fc1.data && !ffn.fc2.data && !ffn.fc2_t.data) {
        return;
    }
    matrix_check_shape(ffn.fc1, "fc1", ffn.up.n_col, ffn.fc1.n_row);
    dots_check(ffn.fc1, "fc1");
    if (ffn.fc1.n_row == 0) {
        throw bad("fc1", "a rank above 0", "0");
    }
    if (ffn.fc2.data && ffn.fc2_t.data) {
        throw bad("fc2_t", "NULL, as fc2 is given", "a matrix");
    }
    if (ffn.fc2_t.data) {
        matrix_check_shape(ffn.fc2_t, "fc2_t", ffn.up.n_row, ffn.fc1.n_row);
        sums_check(ffn.fc2_t, "fc2_t");
    } else {
        matrix_check_shape(ffn.fc2, "fc2", ffn.fc1.n_row, ffn.up.n_row);
        dots_check(ffn.fc2, "fc2");
    }
}

void ffn_check(const ggml_sparse_ffn & ffn) {
    const int mode = ffn.mode, activation = ffn.activation;
    if (mode < GGML_SPARSE_MODE_DENSE || mode > GGML_SPARSE_MODE_REFERENCE) {
        throw bad("mode", "DENSE, EXACT, PREDICTED or REFERENCE", std::to_string(mode));
    }
    if (activation < GGML_SPARSE_DRELU || activation > GGML_SPARSE_RELU) {
        throw bad("activation", "DRELU, REGLU or RELU", std::to_string(activation));
    }
    if (ffn.first_branch != 0 && ffn.first_branch != 1) {
        throw bad("first_branch", "0 (gate) or 1 (up)", std::to_string(ffn.first_branch));
    }
    matrix_check(ffn.up, "up");
    dots_check(ffn.up, "up");
    matrix_check_shape(ffn.down_t, "down_t", ffn.up.n_col, ffn.up.n_row);
    sums_check(ffn.down_t, "down_t");
    if (activation != GGML_SPARSE_RELU) {
        matrix_check_shape(ffn.gate, "gate", ffn.up.n_col, ffn.up.n_row);
        dots_check(ffn.gate, "gate");
    } else if (ffn.gate.data) {
        throw bad("gate", "NULL, as activation is RELU", "a matrix");
    }
    predictor_check(ffn);
}

static void count_check(int64_t n, const char * name) {
    if (n < 0 || n > std::numeric_limits<int32_t>::max()) {
        throw bad(name, "0 <= n < 2^31", std::to_string(n));
    }
}

static void ids_check(const int32_t * ids, int64_t n, int64_t n_row) {
    for (int64_t i = 0; i < n; ++i) {
        if (ids[i] >= n_row) {
            throw bad("ids[" + std::to_string(i) + "]", "below n_row = " + std::to_string(n_row), std::to_string(ids[i]));
        }
    }
}

static const sparse_kernels & kernels_check(int32_t n_threads, ggml_sparse_isa isa) {
    if (n_threads < 1 || n_threads > 1024) {
        throw bad("n_threads", "1 to 1024", std::to_string(n_threads));
    }
    const sparse_kernels * kernels = sparse_kernels_get(isa);
    if (!kernels) {
        error e(GGML_SPARSE_ERR_UNSUPPORTED, "This CPU cannot run instruction set " + std::to_string(static_cast<int>(isa)) +
                                                 "; ggml_sparse_isa_best says what it can, AUTO picks it.");
        e.at("isa").found(std::to_string(static_cast<int>(isa)));
        throw e;
    }
    return *kernels;
}

template <typename T> static T * pointer_check(T * p, const char * name) {
    if (!p) {
        throw bad(name, "a pointer", "NULL");
    }
    return p;
}

// --- gathered dot and axpy -------------------------------------------------------

static constexpr int64_t N_ID_UNIT  = 64;   // dots per unit of work
static constexpr int64_t N_COL_UNIT = 1024; // elements of y per unit

static void gather_dot(const row_reader & rows, const float * x, const int32_t * ids, int64_t n_tokens, int64_t n_ids, float * out,
                       int n_threads) {
    const size_t         stride = x_prepared_size(rows.type(), rows.n_col());
    const int64_t        n_unit = (n_ids + N_ID_UNIT - 1) / N_ID_UNIT;
    std::vector<uint8_t> space(stride * static_cast<size_t>(n_tokens) + 63); // beside a cache line a dot is a tenth slower
    uint8_t *            prepared = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
    auto                 prepare  = [&](int64_t t) {
        return x_prepare(rows.type(), x + t * rows.n_col(), rows.n_col(), prepared + stride * static_cast<size_t>(t));
    };
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for
        for (int64_t t = 0; t < n_tokens; ++t) {
            prepare(t);
        }
#pragma omp for
        for (int64_t u = 0; u < n_unit * n_tokens; ++u) {
            const int64_t t     = u / n_unit;
            const bool    as_is = rows.type().form == x_form::F32;
            const void *  xt    = as_is ? static_cast<const void *>(x + t * rows.n_col()) : prepared + stride * static_cast<size_t>(t);
            for (int64_t i = u % n_unit * N_ID_UNIT; i < std::min(n_ids, (u % n_unit + 1) * N_ID_UNIT); ++i) {
                const int32_t id   = ids[t * n_ids + i];
                out[t * n_ids + i] = id < 0 ? 0.0f : rows.dot(id, xt);
            }
        }
    }
}

static void gather_axpy(const row_reader & rows, const float * h, const int32_t * ids, int64_t n_tokens, int64_t n_ids, float * y,
                        int n_threads) {
    const int64_t n_col = rows.n_col(), n_unit = (n_col + N_COL_UNIT - 1) / N_COL_UNIT;
#pragma omp parallel for num_threads(n_threads)
    for (int64_t u = 0; u < n_unit * n_tokens; ++u) {
        const int64_t t = u / n_unit, c0 = u % n_unit * N_COL_UNIT, c1 = std::min(n_col, c0 + N_COL_UNIT);
        std::fill(y + t * n_col + c0, y + t * n_col + c1, 0.0f);
        rows.axpy_ids(n_ids, ids + t * n_ids, h + t * n_ids, c0, c1, y + t * n_col + c0);
    }
}

static void op_ffn(const ggml_sparse_ffn & ffn, const float * x, int64_t n_tokens, float * y, uint8_t * mask, const ffn_run_params & params,
                   ggml_sparse_layer_stats & stats) {
    std::vector<const float *> xs;
    std::vector<float *>       ys;
    for (int64_t t = 0; t < n_tokens; ++t) {
        xs.push_back(x + t * ffn.up.n_col);
        ys.push_back(y + t * ffn.up.n_col);
    }
    ffn_workspace ws;
    ffn_times     times{};
    ffn_run({{ffn, {n_tokens, xs.data(), ys.data()}, nullptr, mask}}, params, ws, stats, times);
}

// --- attention -------------------------------------------------------------------

static void cache_check(const ggml_sparse_matrix & m, const char * name, int64_t n_row) {
    matrix_check(m, name);
    plain_check(m, name);
    if (!attention_type_supported(m.type) || m.n_col % ATTENTION_ALIGN != 0) {
        throw bad(name, "F32, F16 or Q8_0 rows of a multiple of " + std::to_string(ATTENTION_ALIGN),
                  ggml_type_name(static_cast<ggml_type>(m.type)) + shape(m.n_col, m.n_row));
    }
    if (m.n_row != n_row) {
        throw bad(name, std::to_string(n_row) + " rows", std::to_string(m.n_row));
    }
}

static int64_t heads_check(const ggml_sparse_matrix & k, int64_t n_head, int64_t n_kv) {
    if (n_kv < 1 || n_kv > std::numeric_limits<int32_t>::max() || k.n_row % n_kv != 0) {
        throw bad("n_kv", "a divisor of the rows of k, " + std::to_string(k.n_row), std::to_string(n_kv));
    }
    const int64_t n_head_kv = k.n_row / n_kv;
    if (n_head < 1 || n_head_kv < 1 || n_head % n_head_kv != 0) {
        throw bad("n_head", "a multiple of the heads of k, " + std::to_string(n_head_kv), std::to_string(n_head));
    }
    return n_head_kv;
}

static attention_tensor heads_of(const void * data, size_t row, int64_t n_head) {
    return {const_cast<void *>(data), row * static_cast<size_t>(n_head), row, 0};
}

static attention_work attention_check(const ggml_sparse_matrix & k, const ggml_sparse_matrix & v, int64_t n_head, int64_t n_kv) {
    attention_work w{};
    w.n_head_kv = heads_check(k, n_head, n_kv);
    cache_check(k, "k", k.n_row);
    cache_check(v, "v", k.n_row);
    w.type_k     = k.type;
    w.type_v     = v.type;
    w.d_k        = k.n_col;
    w.d_v        = v.n_col;
    w.n_head     = n_head;
    w.n_kv       = n_kv;
    w.n_sequence = 1;
    w.k          = heads_of(k.data, row_stride(k), w.n_head_kv);
    w.v          = heads_of(v.data, row_stride(v), w.n_head_kv);
    return w;
}

} // namespace ggml_sparse

// --- the C API ---------------------------------------------------------------------

using namespace ggml_sparse;

int32_t ggml_sparse_type_count(void) noexcept { return weight_type_count(); }

void ggml_sparse_type_get(int32_t i, ggml_sparse_type_info * info) noexcept {
    if (i < 0 || i >= weight_type_count() || !info) {
        return;
    }
    const weight_type & wt = weight_type_at(i);
    info->name             = wt.name;
    info->type             = wt.type;
    info->block_size       = static_cast<int32_t>(wt.block);
    info->type_size        = static_cast<int32_t>(ggml_type_size(wt.type));
    info->x_name           = ggml_type_name(wt.x_type);
}

ggml_sparse_isa ggml_sparse_isa_best(void) noexcept { return sparse_kernels_get(GGML_SPARSE_ISA_AUTO)->isa; }

bool ggml_sparse_isa_usable(ggml_sparse_isa isa) noexcept { return sparse_kernels_get(isa) != nullptr; }

ggml_sparse_status ggml_sparse_quantize(int32_t type, const float * src, int64_t n_row, int64_t n_col, void * dst,
                                        ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        const weight_type & wt = rows_check(type, GGML_SPARSE_LAYOUT_ROWS, n_row, n_col, "src");
        pointer_check(src, "src");
        pointer_check(dst, "dst");
        sparse_kernels_get(GGML_SPARSE_ISA_AUTO); // initialises ggml
        if (n_row > 0) {
            ggml_quantize_chunk(wt.type, src, dst, 0, n_row, n_col, nullptr);
        }
    });
}

ggml_sparse_status ggml_sparse_dequantize(const ggml_sparse_matrix * src, float * dst, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        matrix_check(*pointer_check(src, "src"), "src");
        pointer_check(dst, "dst");
        sparse_kernels_get(GGML_SPARSE_ISA_AUTO);
        for (int64_t i = 0; i < src->n_row; ++i) {
            matrix_row_to_float(*src, i, dst + i * src->n_col);
        }
    });
}

ggml_sparse_status ggml_sparse_pack(const ggml_sparse_matrix * src, ggml_sparse_layout layout, void * dst,
                                    ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        matrix_check(*pointer_check(src, "src"), "src");
        pointer_check(dst, "dst");
        rows_check(src->type, layout, src->n_row, src->n_col, "layout");
        const size_t         size = ggml_row_size(static_cast<ggml_type>(src->type), src->n_col);
        uint8_t *            to   = static_cast<uint8_t *>(dst);
        std::vector<uint8_t> plain(size);
        const row_packing *  from = packing_find(src->type, src->layout, src->n_col), *into = packing_find(src->type, layout, src->n_col);
        for (int64_t i = 0; i < src->n_row; ++i, to += size) {
            const uint8_t * row = row_at(*src, i);
            if (from) {
                from->unpack(src->n_col, row, plain.data());
                row = plain.data();
            }
            into ? into->pack(src->n_col, row, to) : static_cast<void>(std::memcpy(to, row, size));
        }
    });
}

ggml_sparse_status ggml_sparse_round_x(int32_t type, const float * x, int64_t n_row, int64_t n_col, float * dst,
                                       ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        const weight_type & wt = rows_check(type, GGML_SPARSE_LAYOUT_ROWS, n_row, n_col, "x");
        pointer_check(x, "x");
        pointer_check(dst, "dst");
        sparse_kernels_get(GGML_SPARSE_ISA_AUTO);
        for (int64_t i = 0; i < n_row; ++i) {
            x_round(wt, x + i * n_col, n_col, dst + i * n_col);
        }
    });
}

ggml_sparse_status ggml_sparse_op_gather_dot(const ggml_sparse_matrix * w, const float * x, const int32_t * ids, int64_t n_tokens,
                                             int64_t n_ids, float * out, int32_t n_threads, ggml_sparse_isa isa,
                                             ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        matrix_check(*pointer_check(w, "w"), "w");
        dots_check(*w, "w");
        count_check(n_tokens, "n_tokens");
        count_check(n_ids, "n_ids");
        pointer_check(x, "x");
        pointer_check(out, "out");
        ids_check(pointer_check(ids, "ids"), n_tokens * n_ids, w->n_row);
        const row_reader rows(*w, kernels_check(n_threads, isa));
        gather_dot(rows, x, ids, n_tokens, n_ids, out, n_threads);
    });
}

ggml_sparse_status ggml_sparse_op_gather_axpy(const ggml_sparse_matrix * w, const float * h, const int32_t * ids, int64_t n_tokens,
                                              int64_t n_ids, float * y, int32_t n_threads, ggml_sparse_isa isa,
                                              ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        matrix_check(*pointer_check(w, "w"), "w");
        plain_check(*w, "w");
        count_check(n_tokens, "n_tokens");
        count_check(n_ids, "n_ids");
        pointer_check(h, "h");
        pointer_check(y, "y");
        ids_check(pointer_check(ids, "ids"), n_tokens * n_ids, w->n_row);
        const row_reader rows(*w, kernels_check(n_threads, isa));
        gather_axpy(rows, h, ids, n_tokens, n_ids, y, n_threads);
    });
}

ggml_sparse_status ggml_sparse_op_ffn(const ggml_sparse_ffn * ffn, const float * x, int64_t n_tokens, float * y, uint8_t * mask,
                                      ggml_sparse_layer_stats * stats, int32_t n_threads, ggml_sparse_isa isa,
                                      ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        ffn_check(*pointer_check(ffn, "ffn"));
        count_check(n_tokens, "n_tokens");
        pointer_check(x, "x");
        pointer_check(y, "y");
        ggml_sparse_layer_stats counted{};
        op_ffn(*ffn, x, n_tokens, y, mask, {n_threads, &kernels_check(n_threads, isa), nullptr}, counted);
        if (stats) {
            *stats = counted;
        }
    });
}

ggml_sparse_status ggml_sparse_op_attention(const ggml_sparse_matrix * k, const ggml_sparse_matrix * v, const float * q,
                                            const uint16_t * mask, int64_t n_tokens, int64_t n_head, int64_t n_kv, float scale, float * out,
                                            int32_t n_threads, ggml_sparse_isa isa, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        attention_work w = attention_check(*pointer_check(k, "k"), *pointer_check(v, "v"), n_head, n_kv);
        count_check(n_tokens, "n_tokens");
        w.n_token = n_tokens;
        w.scale   = scale;
        w.q       = heads_of(pointer_check(q, "q"), size_t(w.d_k) * sizeof(float), n_head);
        w.out     = heads_of(pointer_check(out, "out"), size_t(w.d_v) * sizeof(float), n_head);
        w.mask    = heads_of(pointer_check(mask, "mask"), size_t(n_kv) * sizeof(uint16_t), 1);
        ffn_workspace ws;
        if (n_tokens > 0) {
            attention_run(w, n_threads, kernels_check(n_threads, isa).isa, ws);
        }
    });
}
