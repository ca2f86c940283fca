#include "rope.h"

#include "row-loop.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ggml_sparse {

namespace {

enum source { X, POSITIONS, FACTORS }; // factors: per dimension, which the format does not have
enum parameter { N_DIMS = 1, MODE = 2, BASE = 5, SCALE = 6, YARN = 7, MAGNITUDE = 8 };

float real(const ggml_tensor * op, parameter i) {
    float f;
    std::memcpy(&f, op->op_params + i, sizeof(f));
    return f;
}

// Pairs (2i, 2i + 1).
void rotate(const float * x, const float * turns, int64_t n_dims, float * y) {
    for (int64_t i = 0; i < n_dims; i += 2) {
        const float a = x[i], b = x[i + 1], cosine = turns[i], sine = turns[i + 1];
        y[i]     = a * cosine - b * sine;
        y[i + 1] = a * sine + b * cosine;
    }
}

} // namespace

bool rope_supports(const ggml_tensor * op) {
    const ggml_tensor *x = op->src[X], *positions = op->src[POSITIONS];
    const int32_t      n_dims = op->op_params[N_DIMS];
    const bool         plain  = op->op_params[MODE] == GGML_ROPE_TYPE_NORMAL && real(op, YARN) == 0 && !op->src[FACTORS];
    const bool         floats = x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float);
    return plain && floats && n_dims > 0 && n_dims % 2 == 0 && n_dims <= x->ne[0] && x->ne[3] == 1 && positions->type == GGML_TYPE_I32 &&
           ggml_is_contiguous(positions) && positions->ne[0] == x->ne[2];
}

rope_table::settings rope_table::settings_of(const ggml_tensor * op) {
    return {op->op_params[N_DIMS], real(op, BASE), real(op, SCALE), real(op, MAGNITUDE)};
}

// Angles grow by repeated multiplication, as in ggml, so that they have its rounding.
void rope_table::fill(const settings & made, const int32_t * positions, int64_t n_token) {
    const float step = std::pow(made.base, -2.0f / static_cast<float>(made.n_dims));
    turns_.resize(static_cast<size_t>(n_token * made.n_dims));
    float * turn = turns_.data();
    for (int64_t t = 0; t < n_token; ++t) {
        float angle = static_cast<float>(positions[t]);
        for (int32_t i = 0; i < made.n_dims; i += 2, turn += 2, angle *= step) {
            turn[0] = std::cos(made.scale * angle) * made.magnitude;
            turn[1] = std::sin(made.scale * angle) * made.magnitude;
        }
    }
    made_ = made;
    positions_.assign(positions, positions + n_token);
}

void rope_table::run(const ggml_tensor * op, int n_threads) {
    const ggml_tensor * x         = op->src[X];
    const auto *        positions = static_cast<const int32_t *>(op->src[POSITIONS]->data);
    const settings      wanted    = settings_of(op);
    const int64_t       n_dims = wanted.n_dims, n_head = x->ne[1], n_token = x->ne[2];
    if (!(wanted == made_) || !std::equal(positions_.begin(), positions_.end(), positions, positions + n_token)) {
        fill(wanted, positions, n_token);
    }
    each_row(n_head * n_token, x->ne[0], n_threads, [&](int64_t row) {
        const int64_t head = row % n_head, token = row / n_head;
        const auto *  from = reinterpret_cast<const float *>(static_cast<const char *>(x->data) + head * x->nb[1] + token * x->nb[2]);
        auto *        to   = reinterpret_cast<float *>(static_cast<char *>(op->data) + head * op->nb[1] + token * op->nb[2]);
        rotate(from, turns_.data() + token * n_dims, n_dims, to);
        if (to != from) {
            std::copy(from + n_dims, from + x->ne[0], to + n_dims);
        }
    });
}

} // namespace ggml_sparse
