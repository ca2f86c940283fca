// The operators as nodes of any ggml graph. A GGML_OP_CUSTOM node has no barrier inside, so
// every phase is a node of its own; parameters travel in the free part of op_params, so that
// nothing outlives its graph.

#include "cpu/dispatch.h"
#include "error.h"
#include "neurons.h"
#include "ops.h"
#include "reference.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace ggml_sparse {

// --- tensors as matrices and columns ---------------------------------------------

static ggml_sparse_matrix matrix_of(const ggml_tensor * t, bool shape_only = false) {
    ggml_sparse_matrix m{};
    if (t) {
        m = {t->type, t->ne[0], t->ne[1], shape_only ? static_cast<const void *>(t) : t->data, GGML_SPARSE_LAYOUT_ROWS, 0};
    }
    return m;
}

static row_reader rows_of(const ggml_tensor * t) { return row_reader(matrix_of(t), *sparse_kernels_get(GGML_SPARSE_ISA_AUTO)); }

static bool is_matrix(const ggml_tensor * t) {
    return t && weight_type_find(t->type) && t->ne[2] == 1 && t->ne[3] == 1 && t->nb[1] == ggml_row_size(t->type, t->ne[0]);
}

static bool is_columns(const ggml_tensor * t, ggml_type type) {
    return t && t->type == type && t->ne[2] == 1 && t->ne[3] == 1 && t->nb[0] == ggml_type_size(type);
}

template <typename T> static T * column(const ggml_tensor * t, int64_t c) {
    return reinterpret_cast<T *>(static_cast<uint8_t *>(t->data) + static_cast<size_t>(c) * t->nb[1]);
}

// --- parameters ------------------------------------------------------------------

struct node_params {
    int32_t activation, mode, first_branch;
    float   threshold;
};

static constexpr size_t PARAMS_AT = 8; // int32 words behind ggml's own {fun, n_tasks, userdata}
static_assert(PARAMS_AT * 4 + sizeof(node_params) <= GGML_MAX_OP_PARAMS, "op_params is too small");

static node_params params_of(const ggml_tensor * dst) {
    node_params p;
    std::memcpy(&p, dst->op_params + PARAMS_AT, sizeof(p));
    return p;
}

static ggml_tensor * new_node(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1, std::vector<ggml_tensor *> src,
                              ggml_custom_op_t fun, node_params params = {}, int n_tasks = GGML_N_TASKS_MAX) {
    ggml_tensor * node = ggml_custom_4d(ctx, type, ne0, ne1, 1, 1, src.data(), static_cast<int>(src.size()), fun, n_tasks, nullptr);
    std::memcpy(node->op_params + PARAMS_AT, &params, sizeof(params));
    return node;
}

// --- nodes: what each computes from its src --------------------------------------

// {x, w} -> x prepared for dots against w
static void node_prepare(ggml_tensor * dst, int ith, int nth, void *) {
    const weight_type & wt = *weight_type_find(dst->src[1]->type);
    for (int64_t c = ith; c < dst->ne[1]; c += nth) {
        x_prepare(wt, column<float>(dst->src[0], c), dst->src[0]->ne[0], column<void>(dst, c));
    }
}

// {x, w, ids} -> dots
static void node_gather_dot(ggml_tensor * dst, int ith, int nth, void *) {
    const row_reader rows = rows_of(dst->src[1]);
    for (int64_t u = ith; u < dst->ne[0] * dst->ne[1]; u += nth) {
        const int64_t t = u / dst->ne[0], i = u % dst->ne[0];
        const int32_t id = column<int32_t>(dst->src[2], t)[i];
        GGML_ASSERT(id < rows.n_row());
        column<float>(dst, t)[i] = id < 0 ? 0.0f : rows.dot(id, column<void>(dst->src[0], t));
    }
}

// {h, w, ids} -> sums of rows. Unit: 1024 elements of one column.
static void node_gather_axpy(ggml_tensor * dst, int ith, int nth, void *) {
    const row_reader rows    = rows_of(dst->src[1]);
    const int64_t    n_slice = (rows.n_col() + 1023) / 1024;
    for (int64_t u = ith; u < n_slice * dst->ne[1]; u += nth) {
        const int64_t   t = u / n_slice, c0 = u % n_slice * 1024, c1 = std::min(rows.n_col(), c0 + 1024);
        const float *   h   = column<float>(dst->src[0], t);
        const int32_t * ids = column<int32_t>(dst->src[2], t);
        float *         y   = column<float>(dst, t);
        std::fill(y + c0, y + c1, 0.0f);
        for (int64_t i = 0; i < dst->src[2]->ne[0]; ++i) {
            GGML_ASSERT(ids[i] < rows.n_row());
        }
        rows.axpy_ids(dst->src[2]->ne[0], ids, h, c0, c1, y + c0);
    }
}

// {x prepared, fc1} -> hidden
static void node_hidden(ggml_tensor * dst, int ith, int nth, void *) {
    const row_reader fc1    = rows_of(dst->src[1]);
    const int64_t    n_unit = select_units(fc1);
    for (int64_t u = ith; u < n_unit * dst->ne[1]; u += nth) {
        select_hidden(fc1, column<void>(dst->src[0], u / n_unit), u % n_unit, column<float>(dst, u / n_unit));
    }
}

// {hidden prepared, fc2} -> mask
static void node_mask(ggml_tensor * dst, int ith, int nth, void *) {
    const row_reader fc2    = rows_of(dst->src[1]);
    const int64_t    n_unit = select_units(fc2);
    for (int64_t u = ith; u < n_unit * dst->ne[1]; u += nth) {
        select_mask(fc2, column<void>(dst->src[0], u / n_unit), params_of(dst).threshold, u % n_unit, column<uint8_t>(dst, u / n_unit));
    }
}

static ggml_sparse_ffn ffn_of(const node_params & p) {
    ggml_sparse_ffn ffn{};
    ffn.activation   = static_cast<ggml_sparse_activation>(p.activation);
    ffn.mode         = static_cast<ggml_sparse_mode>(p.mode);
    ffn.first_branch = p.first_branch;
    ffn.threshold    = p.threshold;
    return ffn;
}

// {x for the first branch, x for the second, gate, up, mask} -> h
static void node_gate_up(ggml_tensor * dst, int ith, int nth, void *) {
    ggml_sparse_ffn ffn = ffn_of(params_of(dst));
    ffn.gate            = matrix_of(dst->src[2]);
    ffn.up              = matrix_of(dst->src[3]);
    const branches b    = branches_of(ffn, *sparse_kernels_get(GGML_SPARSE_ISA_AUTO));
    const int64_t  n_ff = dst->ne[0], width = gate_up_width(n_ff), n_unit = (n_ff + width - 1) / width;
    for (int64_t u = ith; u < n_unit * dst->ne[1]; u += nth) {
        const int64_t   c = u / n_unit, j0 = u % n_unit * width;
        const uint8_t * mask = dst->src[4] ? column<uint8_t>(dst->src[4], c) : nullptr;
        gate_up(b, {column<void>(dst->src[0], c), column<void>(dst->src[1], c), mask, column<float>(dst, c), nullptr}, j0,
                std::min(n_ff, j0 + width));
    }
}

// {h, down_t} -> y. Unit: 1024 elements of one column.
static void node_down(ggml_tensor * dst, int ith, int nth, void *) {
    const row_reader down_t  = rows_of(dst->src[1]);
    const bool       dense   = params_of(dst).mode == GGML_SPARSE_MODE_DENSE;
    const int64_t    n_slice = (dst->ne[0] + 1023) / 1024;
    for (int64_t u = ith; u < n_slice * dst->ne[1]; u += nth) {
        const int64_t c = u / n_slice, c0 = u % n_slice * 1024, c1 = std::min(dst->ne[0], c0 + 1024);
        down_slice(down_t, dense, column<float>(dst->src[0], c), c0, c1, column<float>(dst, c) + c0);
    }
}

// {x, gate, up, down_t, fc1, fc2, pred_in_scale} -> y, one thread
static void node_reference(ggml_tensor * dst, int ith, int, void *) {
    if (ith != 0) {
        return;
    }
    ggml_sparse_ffn ffn = ffn_of(params_of(dst));
    ffn.gate            = matrix_of(dst->src[1]);
    ffn.up              = matrix_of(dst->src[2]);
    ffn.down_t          = matrix_of(dst->src[3]);
    ffn.fc1             = matrix_of(dst->src[4]);
    ffn.fc2             = matrix_of(dst->src[5]);
    ffn.fc2_t           = {};
    ffn.pred_in_scale   = dst->src[6] ? static_cast<const float *>(dst->src[6]->data) : nullptr;
    std::vector<uint8_t>    mask(static_cast<size_t>(ffn.up.n_row)), active(mask.size());
    ggml_sparse_layer_stats stats{};
    for (int64_t c = 0; c < dst->ne[1]; ++c) {
        reference_ffn(ffn, column<float>(dst->src[0], c), column<float>(dst, c), mask.data(), active.data(), stats);
    }
}

// --- builders ----------------------------------------------------------------------

static ggml_tensor * prepared(ggml_context * ctx, ggml_tensor * x, ggml_tensor * w) {
    const weight_type & wt = *weight_type_find(w->type);
    if (wt.form == x_form::F32) {
        return x;
    }
    return new_node(ctx, GGML_TYPE_I8, static_cast<int64_t>(x_prepared_size(wt, x->ne[0])), x->ne[1], {x, w}, node_prepare);
}

static ggml_tensor * build_mask(ggml_context * ctx, ggml_tensor * x, ggml_tensor * fc1, ggml_tensor * fc2, ggml_tensor * scale,
                                node_params p) {
    ggml_tensor * tap    = scale ? ggml_mul(ctx, x, scale) : x;
    ggml_tensor * hidden = new_node(ctx, GGML_TYPE_F32, fc1->ne[1], x->ne[1], {prepared(ctx, tap, fc1), fc1}, node_hidden, p);
    return new_node(ctx, GGML_TYPE_I8, fc2->ne[1], x->ne[1], {prepared(ctx, hidden, fc2), fc2}, node_mask, p);
}

// Throws what ffn_check throws.
static void graph_check(const ggml_tensor * x, const ggml_tensor * gate, const ggml_tensor * up, const ggml_tensor * down_t,
                        const ggml_tensor * fc1, const ggml_tensor * fc2, const ggml_tensor * scale, ggml_sparse_ffn ffn) {
    ffn.gate   = matrix_of(gate, true);
    ffn.up     = matrix_of(up, true);
    ffn.down_t = matrix_of(down_t, true);
    ffn.fc1    = matrix_of(fc1, true);
    ffn.fc2    = matrix_of(fc2, true);
    ffn.fc2_t  = {}; // a tensor cannot say which of the two it is
    ffn_check(ffn);
    for (const ggml_tensor * w : {gate, up, down_t, fc1, fc2}) {
        require_argument(!w || is_matrix(w), "weights must be contiguous matrices");
    }
    require_argument(is_columns(x, GGML_TYPE_F32) && x->ne[0] == up->ne[0], "x must be F32 {n_embd, n_tokens}");
    require_argument(!scale || (is_columns(scale, GGML_TYPE_F32) && ggml_nelements(scale) == x->ne[0]),
                     "pred_in_scale must be F32 {n_embd}");
}

static ggml_tensor * build_ffn(ggml_context * ctx, ggml_tensor * x, ggml_tensor * gate, ggml_tensor * up, ggml_tensor * down_t,
                               ggml_tensor * fc1, ggml_tensor * fc2, ggml_tensor * scale, const ggml_sparse_ffn & params) {
    graph_check(x, gate, up, down_t, fc1, fc2, scale, params);
    const node_params p{params.activation, params.mode, params.first_branch, params.threshold};
    if (params.mode == GGML_SPARSE_MODE_REFERENCE) {
        return new_node(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], {x, gate, up, down_t, fc1, fc2, scale}, node_reference, p, 1);
    }
    const bool    predicted = params.mode == GGML_SPARSE_MODE_PREDICTED;
    const bool    up_first  = !gate || (params.activation == GGML_SPARSE_DRELU && params.first_branch == 1);
    ggml_tensor * mask      = predicted ? build_mask(ctx, x, fc1, fc2, scale, p) : nullptr;
    ggml_tensor * x_first   = prepared(ctx, x, up_first ? up : gate);
    ggml_tensor * x_second  = gate ? prepared(ctx, x, up_first ? gate : up) : x_first;
    ggml_tensor * h         = new_node(ctx, GGML_TYPE_F32, up->ne[1], x->ne[1], {x_first, x_second, gate, up, mask}, node_gate_up, p);
    return new_node(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], {h, down_t}, node_down, p);
}

} // namespace ggml_sparse

using namespace ggml_sparse;

ggml_tensor * ggml_sparse_gather_dot(ggml_context * ctx, ggml_tensor * w, ggml_tensor * x, ggml_tensor * ids) noexcept {
    if (!is_matrix(w) || !is_columns(x, GGML_TYPE_F32) || !is_columns(ids, GGML_TYPE_I32) || x->ne[0] != w->ne[0] ||
        x->ne[1] != ids->ne[1]) {
        return nullptr;
    }
    return new_node(ctx, GGML_TYPE_F32, ids->ne[0], ids->ne[1], {prepared(ctx, x, w), w, ids}, node_gather_dot);
}

ggml_tensor * ggml_sparse_gather_axpy(ggml_context * ctx, ggml_tensor * w, ggml_tensor * h, ggml_tensor * ids) noexcept {
    if (!is_matrix(w) || !is_columns(h, GGML_TYPE_F32) || !is_columns(ids, GGML_TYPE_I32) || !ggml_are_same_shape(h, ids)) {
        return nullptr;
    }
    return new_node(ctx, GGML_TYPE_F32, w->ne[0], ids->ne[1], {h, w, ids}, node_gather_axpy);
}

ggml_tensor * ggml_sparse_build_ffn(ggml_context * ctx, ggml_tensor * x, ggml_tensor * gate, ggml_tensor * up, ggml_tensor * down_t,
                                    ggml_tensor * fc1, ggml_tensor * fc2, ggml_tensor * pred_in_scale,
                                    const ggml_sparse_ffn * params) noexcept {
    try {
        require_argument(params != nullptr, "params is NULL");
        return build_ffn(ctx, x, gate, up, down_t, fc1, fc2, pred_in_scale, *params);
    } catch (...) {
        return nullptr;
    }
}
