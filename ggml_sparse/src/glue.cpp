#include "glue.h"

#include "ggml-cpu.h"
#include "row-loop.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace ggml_sparse {

namespace {

float real(const ggml_tensor * op, int i) {
    float f;
    std::memcpy(&f, op->op_params + i, sizeof(f));
    return f;
}

// --- rows ------------------------------------------------------------------------------

// Rows of a tensor, counted through ne[1], ne[2], ne[3].
struct row_index {
    int64_t i1, i2, i3;
};

row_index index_of(const ggml_tensor * t, int64_t row) { return {row % t->ne[1], row / t->ne[1] % t->ne[2], row / t->ne[1] / t->ne[2]}; }

template <typename T = float> T * row_at(const ggml_tensor * t, row_index i) {
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size_t(i.i1) * t->nb[1] + size_t(i.i2) * t->nb[2] +
                                 size_t(i.i3) * t->nb[3]);
}

bool has_float_rows(const ggml_tensor * t) { return t && t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float); }

// f(row of src0, row of op) for every row of op, which has src0's shape but for ne[0].
template <typename F> void map_rows(const ggml_tensor * op, int n_threads, F && f) {
    const ggml_tensor * x = op->src[0];
    each_row(ggml_nrows(x), x->ne[0], n_threads, [&](int64_t row) {
        const row_index i = index_of(x, row);
        f(row_at(x, i), row_at(op, i));
    });
}

// --- norms and sums ----------------------------------------------------------------------

// Sums in double keep the order of summation out of sight; eight of them keep the adder busy.
template <typename F> double sum(int64_t n, F && term) {
    constexpr int N       = 8;
    double        part[N] = {};
    int64_t       i       = 0;
    for (; i + N <= n; i += N) {
        for (int k = 0; k < N; ++k) {
            part[k] += term(i + k);
        }
    }
    for (; i < n; ++i) {
        part[0] += term(i);
    }
    return std::accumulate(part, part + N, 0.0);
}

void rms_norm(const ggml_tensor * op, int n_threads) {
    const int64_t n   = op->ne[0];
    const float   eps = real(op, 0);
    map_rows(op, n_threads, [=](const float * x, float * y) {
        const double squares = sum(n, [=](int64_t i) { return double(x[i]) * double(x[i]); });
        const float  scale   = 1.0f / std::sqrt(float(squares / double(n)) + eps);
        for (int64_t i = 0; i < n; ++i) {
            y[i] = x[i] * scale;
        }
    });
}

void sum_rows(const ggml_tensor * op, int n_threads) {
    const int64_t n = op->src[0]->ne[0];
    map_rows(op, n_threads, [=](const float * x, float * y) { *y = float(sum(n, [=](int64_t i) { return double(x[i]); })); });
}

void clamp(const ggml_tensor * op, int n_threads) {
    const float low = real(op, 0), high = real(op, 1);
    map_rows(op, n_threads, [=](const float * x, float * y) {
        for (int64_t i = 0; i < op->ne[0]; ++i) {
            y[i] = x[i] < low ? low : x[i] > high ? high : x[i]; // NaN stays
        }
    });
}

// --- two operands -------------------------------------------------------------------------

// src1 has src0's shape, or 1 where it repeats.
bool is_pair(const ggml_tensor * op) {
    const ggml_tensor *a = op->src[0], *b = op->src[1];
    if (!has_float_rows(a) || !has_float_rows(b) || !has_float_rows(op)) {
        return false;
    }
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (b->ne[i] != a->ne[i] && b->ne[i] != 1) {
            return false;
        }
    }
    return true;
}

template <typename F> void combine(const ggml_tensor * op, int n_threads, F && f) {
    const ggml_tensor *a = op->src[0], *b = op->src[1];
    const int64_t      n = op->ne[0];
    each_row(ggml_nrows(op), n, n_threads, [&](int64_t row) {
        const row_index i = index_of(op, row);
        const float *   x = row_at(a, i), *w = row_at(b, {i.i1 % b->ne[1], i.i2 % b->ne[2], i.i3 % b->ne[3]});
        float *         y = row_at(op, i);
        if (b->ne[0] == n) {
            for (int64_t c = 0; c < n; ++c) {
                y[c] = f(x[c], w[c]);
            }
        } else {
            const float one = w[0];
            for (int64_t c = 0; c < n; ++c) {
                y[c] = f(x[c], one);
            }
        }
    });
}

// --- the router ----------------------------------------------------------------------------

bool is_plain_soft_max(const ggml_tensor * op) { return !op->src[1] && !op->src[2] && real(op, 1) == 0; }

void soft_max(const ggml_tensor * op, int n_threads) {
    const int64_t n     = op->ne[0];
    const float   scale = real(op, 0);
    map_rows(op, n_threads, [=](const float * x, float * y) {
        float most = -INFINITY;
        for (int64_t i = 0; i < n; ++i) {
            most = std::max(most, x[i] * scale);
        }
        for (int64_t i = 0; i < n; ++i) {
            y[i] = std::exp(x[i] * scale - most);
        }
        const float inverse = float(1.0 / sum(n, [=](int64_t i) { return double(y[i]); }));
        for (int64_t i = 0; i < n; ++i) {
            y[i] *= inverse;
        }
    });
}

// A NaN, which compares with nothing, counts as the least: the order stays strict.
void arg_sort(const ggml_tensor * op, int n_threads) {
    const int64_t n = op->ne[0];
    map_rows(op, n_threads, [=](const float * x, float * y) {
        auto *     ids = reinterpret_cast<int32_t *>(y);
        const auto key = [=](int32_t i) { return std::isnan(x[i]) ? -INFINITY : x[i]; };
        std::iota(ids, ids + n, 0);
        std::stable_sort(ids, ids + n, [&](int32_t a, int32_t b) { return key(a) > key(b); });
    });
}

bool is_descending(const ggml_tensor * op) { return op->op_params[0] == GGML_SORT_ORDER_DESC && op->type == GGML_TYPE_I32; }

// --- rows by index --------------------------------------------------------------------------

bool is_row_pick(const ggml_tensor * op) {
    const ggml_tensor *x = op->src[0], *ids = op->src[1];
    return has_float_rows(x) && has_float_rows(op) && ids->type == GGML_TYPE_I32 && ids->nb[0] == sizeof(int32_t);
}

// op's row (i, j, k) is row ids[i, j, k] of x[.., .., j, k].
bool pick_rows(const ggml_tensor * op) {
    const ggml_tensor *x = op->src[0], *ids = op->src[1];
    for (int64_t row = 0; row < ggml_nrows(op); ++row) {
        const row_index i  = index_of(op, row);
        const int64_t   at = row_at<int32_t>(ids, {i.i2, i.i3, 0})[i.i1];
        if (at < 0 || at >= x->ne[1]) {
            return false;
        }
        std::memcpy(row_at(op, i), row_at(x, {at, i.i2, i.i3}), size_t(op->ne[0]) * sizeof(float));
    }
    return true;
}

bool is_cache_write(const ggml_tensor * op) {
    const ggml_tensor *x = op->src[0], *ids = op->src[1];
    return has_float_rows(x) && ids->type == GGML_TYPE_I64 && ids->nb[0] == sizeof(int64_t) && ids->ne[1] == 1 && ids->ne[2] == 1 &&
           x->ne[2] == 1 && x->ne[3] == 1 && x->ne[0] % ggml_blck_size(op->type) == 0 && ggml_get_type_traits_cpu(op->type)->from_float;
}

// Row ids[i] of the cache is row i of x, in the cache's type.
bool write_cache(const ggml_tensor * op, int n_threads) {
    const ggml_tensor * x    = op->src[0];
    const auto *        ids  = static_cast<const int64_t *>(op->src[1]->data);
    const auto          from = ggml_get_type_traits_cpu(op->type)->from_float;
    const bool          fit  = std::all_of(ids, ids + x->ne[1], [=](int64_t at) { return at >= 0 && at < op->ne[1]; });
    each_row(fit ? x->ne[1] : 0, x->ne[0], n_threads,
             [&](int64_t i) { from(row_at(x, {i, 0, 0}), row_at<void>(op, {ids[i], 0, 0}), x->ne[0]); });
    return fit;
}

} // namespace

bool glue_supports(const ggml_tensor * op) {
    const bool maps = has_float_rows(op->src[0]) && (has_float_rows(op) || op->op == GGML_OP_ARGSORT);
    switch (op->op) {
        case GGML_OP_ADD:
        case GGML_OP_MUL:
        case GGML_OP_DIV: return is_pair(op);
        case GGML_OP_RMS_NORM:
        case GGML_OP_SUM_ROWS:
        case GGML_OP_CLAMP: return maps;
        case GGML_OP_SOFT_MAX: return maps && is_plain_soft_max(op);
        case GGML_OP_ARGSORT: return maps && is_descending(op);
        case GGML_OP_GET_ROWS: return is_row_pick(op);
        case GGML_OP_SET_ROWS: return is_cache_write(op);
        default: return false;
    }
}

bool glue_run(const ggml_tensor * op, int n_threads) {
    switch (op->op) {
        case GGML_OP_ADD: combine(op, n_threads, [](float a, float b) { return a + b; }); return true;
        case GGML_OP_MUL: combine(op, n_threads, [](float a, float b) { return a * b; }); return true;
        case GGML_OP_DIV: combine(op, n_threads, [](float a, float b) { return a / b; }); return true;
        case GGML_OP_RMS_NORM: rms_norm(op, n_threads); return true;
        case GGML_OP_SUM_ROWS: sum_rows(op, n_threads); return true;
        case GGML_OP_CLAMP: clamp(op, n_threads); return true;
        case GGML_OP_SOFT_MAX: soft_max(op, n_threads); return true;
        case GGML_OP_ARGSORT: arg_sort(op, n_threads); return true;
        case GGML_OP_GET_ROWS: return pick_rows(op);
        default: return write_cache(op, n_threads);
    }
}

} // namespace ggml_sparse
