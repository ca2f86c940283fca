// The graph builders against the direct operators: same numbers from a stock ggml graph on
// the stock CPU backend, for every weight type, mode and several thread counts.

#include "ggml-cpu.h"
#include "ggml-sparse.h"
#include "ggml.h"

#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

static int n_failed = 0;

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        std::printf("FAILED: %s\n", what.c_str());
        n_failed++;
    }
}

static std::vector<float> random_floats(size_t n, unsigned seed) {
    std::mt19937                    rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float>              x(n);
    for (float & v : x) {
        v = normal(rng);
    }
    return x;
}

// One ggml context whose tensors own their data; freed at the end of a case.
struct graph {
    ggml_context * ctx = ggml_init({64 << 20, nullptr, false});
    ~graph() { ggml_free(ctx); }

    ggml_tensor * matrix(int32_t type, int64_t n_col, int64_t n_row, unsigned seed) {
        ggml_tensor * t = ggml_new_tensor_2d(ctx, static_cast<ggml_type>(type), n_col, n_row);
        const auto    x = random_floats(static_cast<size_t>(n_col * n_row), seed);
        expect(ggml_sparse_quantize(type, x.data(), n_row, n_col, t->data, nullptr) == GGML_SPARSE_OK, "quantize");
        return t;
    }

    std::vector<float> compute(ggml_tensor * out, int n_threads) {
        ggml_cgraph * g = ggml_new_graph(ctx);
        ggml_build_forward_expand(g, out);
        expect(ggml_graph_compute_with_ctx(ctx, g, n_threads) == GGML_STATUS_SUCCESS, "graph compute");
        std::vector<float> y(static_cast<size_t>(ggml_nelements(out)));
        std::memcpy(y.data(), out->data, ggml_nbytes(out));
        return y;
    }
};

static ggml_sparse_matrix matrix_of(const ggml_tensor * t) { return {t->type, t->ne[0], t->ne[1], t->data, GGML_SPARSE_LAYOUT_ROWS, 0}; }

static bool same_bits(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

static bool is_zero(const std::vector<float> & a) {
    for (float v : a) {
        if (v != 0) {
            return false;
        }
    }
    return true;
}

static const float * floats_of(const ggml_tensor * t) { return static_cast<const float *>(t->data); }

static ggml_tensor * random_ids(graph & g, int64_t n_ids, int64_t n_tokens, int n_row) {
    ggml_tensor *                      ids = ggml_new_tensor_2d(g.ctx, GGML_TYPE_I32, n_ids, n_tokens);
    std::mt19937                       rng(5);
    std::uniform_int_distribution<int> pick(-2, n_row - 1);
    for (int64_t i = 0; i < n_ids * n_tokens; ++i) {
        static_cast<int32_t *>(ids->data)[i] = pick(rng);
    }
    return ids;
}

static void test_gather(const ggml_sparse_type_info & type, int n_threads) {
    const int64_t n_col = 1280, n_row = 40, n_ids = 77, n_tokens = 5;
    const auto    name = std::string(type.name) + ", " + std::to_string(n_threads) + " threads";
    graph         g;
    ggml_tensor * w   = g.matrix(type.type, n_col, n_row, 1);
    ggml_tensor * x   = g.matrix(GGML_TYPE_F32, n_col, n_tokens, 2);
    ggml_tensor * h   = g.matrix(GGML_TYPE_F32, n_ids, n_tokens, 3);
    ggml_tensor * ids = random_ids(g, n_ids, n_tokens, static_cast<int>(n_row));

    const ggml_sparse_matrix m  = matrix_of(w);
    const int32_t *          id = static_cast<const int32_t *>(ids->data);
    std::vector<float>       expected(static_cast<size_t>(n_ids * n_tokens));
    ggml_sparse_op_gather_dot(&m, floats_of(x), id, n_tokens, n_ids, expected.data(), 1, GGML_SPARSE_ISA_AUTO, nullptr);
    expect(same_bits(g.compute(ggml_sparse_gather_dot(g.ctx, w, x, ids), n_threads), expected), "gather_dot " + name);

    expected.resize(static_cast<size_t>(n_col * n_tokens));
    ggml_sparse_op_gather_axpy(&m, floats_of(h), id, n_tokens, n_ids, expected.data(), 1, GGML_SPARSE_ISA_AUTO, nullptr);
    expect(!is_zero(expected), "gather_axpy gives something");
    expect(same_bits(g.compute(ggml_sparse_gather_axpy(g.ctx, w, h, ids), n_threads), expected), "gather_axpy " + name);
}

struct ffn_case {
    ggml_sparse_activation activation;
    ggml_sparse_mode       mode;
    int32_t                first_branch;
    bool                   scaled;
};

static void test_ffn(const ggml_sparse_type_info & type, const ffn_case & c, int n_threads) {
    const int64_t n_embd = 1280, n_ff = 300, rank = type.block_size == 1 ? 48 : 256, n_tokens = 19;
    const bool    predicted = c.mode == GGML_SPARSE_MODE_PREDICTED, gated = c.activation != GGML_SPARSE_RELU;
    graph         g;
    ggml_tensor * x     = g.matrix(GGML_TYPE_F32, n_embd, c.mode == GGML_SPARSE_MODE_REFERENCE ? 2 : n_tokens, 1);
    ggml_tensor * gate  = gated ? g.matrix(type.type, n_embd, n_ff, 2) : nullptr;
    ggml_tensor * up    = g.matrix(type.type, n_embd, n_ff, 3);
    ggml_tensor * down  = g.matrix(type.type, n_embd, n_ff, 4);
    ggml_tensor * fc1   = predicted ? g.matrix(type.type, n_embd, rank, 5) : nullptr;
    ggml_tensor * fc2   = predicted ? g.matrix(type.type, rank, n_ff, 6) : nullptr;
    ggml_tensor * scale = c.scaled ? g.matrix(GGML_TYPE_F32, n_embd, 1, 7) : nullptr;

    ggml_sparse_ffn ffn{};
    ffn.activation   = c.activation;
    ffn.mode         = c.mode;
    ffn.first_branch = c.first_branch;
    ffn.threshold    = 0.25f;
    ggml_tensor * y  = ggml_sparse_build_ffn(g.ctx, x, gate, up, down, fc1, fc2, scale, &ffn);
    if (!y) {
        expect(false, "build_ffn returns a node");
        return;
    }
    ffn.up            = matrix_of(up);
    ffn.down_t        = matrix_of(down);
    ffn.gate          = gated ? matrix_of(gate) : ggml_sparse_matrix{};
    ffn.fc1           = predicted ? matrix_of(fc1) : ggml_sparse_matrix{};
    ffn.fc2           = predicted ? matrix_of(fc2) : ggml_sparse_matrix{};
    ffn.pred_in_scale = scale ? floats_of(scale) : nullptr;
    std::vector<float> expected(static_cast<size_t>(ggml_nelements(x)));
    ggml_sparse_op_ffn(&ffn, floats_of(x), x->ne[1], expected.data(), nullptr, nullptr, 1, GGML_SPARSE_ISA_AUTO, nullptr);
    const auto name = std::string(type.name) + ", mode " + std::to_string(c.mode) + ", activation " + std::to_string(c.activation) + ", " +
                      std::to_string(n_threads) + " threads";
    expect(!is_zero(expected), "ffn gives something, " + name);
    expect(same_bits(g.compute(y, n_threads), expected), "ffn " + name);
}

// What does not fit gives NULL, never an abort.
static void test_refusals() {
    graph           g;
    ggml_tensor *   w   = g.matrix(GGML_TYPE_F32, 64, 8, 1);
    ggml_tensor *   x   = g.matrix(GGML_TYPE_F32, 64, 3, 2);
    ggml_tensor *   odd = g.matrix(GGML_TYPE_F32, 63, 3, 3);
    ggml_tensor *   ids = random_ids(g, 4, 3, 8);
    ggml_sparse_ffn ffn{};
    ffn.mode = GGML_SPARSE_MODE_EXACT;
    expect(!ggml_sparse_gather_dot(g.ctx, w, odd, ids), "gather_dot of another width");
    expect(!ggml_sparse_gather_dot(g.ctx, w, x, x), "gather_dot with float ids");
    expect(!ggml_sparse_gather_dot(g.ctx, nullptr, x, ids), "gather_dot without w");
    expect(!ggml_sparse_gather_axpy(g.ctx, w, x, ids), "gather_axpy of another shape");
    expect(!ggml_sparse_build_ffn(g.ctx, odd, w, w, w, nullptr, nullptr, nullptr, &ffn), "ffn of another width");
    expect(!ggml_sparse_build_ffn(g.ctx, x, nullptr, w, w, nullptr, nullptr, nullptr, &ffn), "drelu without gate");
    expect(!ggml_sparse_build_ffn(g.ctx, x, w, w, w, nullptr, nullptr, nullptr, nullptr), "ffn without params");
    ffn.mode = GGML_SPARSE_MODE_PREDICTED;
    expect(!ggml_sparse_build_ffn(g.ctx, x, w, w, w, nullptr, nullptr, nullptr, &ffn), "predicted without predictor");
}

int main() {
    const ffn_case cases[] = {
        {GGML_SPARSE_DRELU, GGML_SPARSE_MODE_DENSE, 0, false},     {GGML_SPARSE_DRELU, GGML_SPARSE_MODE_EXACT, 1, false},
        {GGML_SPARSE_REGLU, GGML_SPARSE_MODE_EXACT, 0, false},     {GGML_SPARSE_RELU, GGML_SPARSE_MODE_EXACT, 0, false},
        {GGML_SPARSE_DRELU, GGML_SPARSE_MODE_PREDICTED, 0, false}, {GGML_SPARSE_DRELU, GGML_SPARSE_MODE_PREDICTED, 0, true},
        {GGML_SPARSE_DRELU, GGML_SPARSE_MODE_REFERENCE, 0, false},
    };
    for (int i = 0; i < ggml_sparse_type_count(); ++i) {
        ggml_sparse_type_info type;
        ggml_sparse_type_get(i, &type);
        for (int n_threads : {1, 3}) {
            test_gather(type, n_threads);
            for (const ffn_case & c : cases) {
                test_ffn(type, c, n_threads);
            }
        }
    }
    test_refusals();
    std::printf("%s\n", n_failed == 0 ? "ok" : "FAILED");
    return n_failed == 0 ? 0 : 1;
}
