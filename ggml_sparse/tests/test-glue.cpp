// Norms, residuals, the router's choice, rotations and cache writes against ggml's CPU backend: the same graph node,
// computed by both.

#include "glue.h"
#include "rope.h"

#include "ggml-cpu.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace ggml_sparse;

static int n_failed = 0;

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        std::printf("FAILED: %s\n", what.c_str());
        n_failed++;
    }
}

struct arena {
    ggml_context * ctx = ggml_init({size_t{256} << 20, nullptr, false});
    ~arena() { ggml_free(ctx); }

    ggml_tensor * floats(std::vector<int64_t> ne) {
        ggml_tensor *                   t = ggml_new_tensor(ctx, GGML_TYPE_F32, int(ne.size()), ne.data());
        std::normal_distribution<float> normal;
        for (int64_t i = 0; i < ggml_nelements(t); ++i) {
            static_cast<float *>(t->data)[i] = normal(rng);
        }
        return t;
    }
    template <typename T> ggml_tensor * integers(ggml_type type, const std::vector<T> & values, int64_t n_row = 1) {
        ggml_tensor * t = ggml_new_tensor_2d(ctx, type, int64_t(values.size()) / n_row, n_row);
        std::memcpy(t->data, values.data(), values.size() * sizeof(T));
        return t;
    }

    std::mt19937 rng{1};
};

static std::vector<char> bytes_of(const ggml_tensor * t) {
    const char * data = static_cast<const char *>(t->data);
    return {data, data + ggml_nbytes(t)};
}

static bool near(const std::vector<char> & a, const std::vector<char> & b) {
    for (size_t i = 0; i + sizeof(float) <= a.size(); i += sizeof(float)) {
        float x, y;
        std::memcpy(&x, &a[i], sizeof(x));
        std::memcpy(&y, &b[i], sizeof(y));
        if (!(std::fabs(x - y) <= 2e-6f * (1 + std::fabs(x)))) {
            return false;
        }
    }
    return true;
}

static bool ours(const ggml_tensor * op, int n_threads) {
    if (op->op != GGML_OP_ROPE) {
        return glue_run(op, n_threads);
    }
    rope_table().run(op, n_threads);
    return true;
}

// `exact`: the bytes must be those of ggml.
static void check(const std::string & name, arena & a, ggml_tensor * op, bool exact) {
    expect(op->op == GGML_OP_ROPE ? rope_supports(op) : glue_supports(op), name + " is supported");
    ggml_cgraph * graph = ggml_new_graph(a.ctx);
    ggml_build_forward_expand(graph, op);
    expect(ggml_graph_compute_with_ctx(a.ctx, graph, 1) == GGML_STATUS_SUCCESS, name + " by ggml");
    const std::vector<char> wanted = bytes_of(op);
    for (int n_threads : {1, 3}) {
        std::memset(op->data, 0, ggml_nbytes(op));
        expect(ours(op, n_threads), name);
        const std::vector<char> found = bytes_of(op);
        expect(exact ? found == wanted : near(found, wanted), name + ", " + std::to_string(n_threads) + " threads");
    }
}

static void check_arithmetic(arena & a) {
    ggml_tensor * x = a.floats({512, 160});
    check("add", a, ggml_add(a.ctx, x, a.floats({512, 160})), true);
    check("mul by a row", a, ggml_mul(a.ctx, x, a.floats({512})), true);
    check("mul of experts", a, ggml_mul(a.ctx, a.floats({96, 2, 5}), a.floats({1, 2, 5})), true);
    check("add of views", a,
          ggml_add(a.ctx, ggml_view_2d(a.ctx, x, 512, 80, x->nb[1] * 2, 0), ggml_view_2d(a.ctx, x, 512, 80, x->nb[1] * 2, x->nb[1])), true);
    check("div", a, ggml_div(a.ctx, a.floats({2, 7}), ggml_clamp(a.ctx, a.floats({1, 7}), 0.5f, INFINITY)), true);
    check("clamp", a, ggml_clamp(a.ctx, a.floats({1, 9}), -0.25f, 0.5f), true);
    check("sum of rows", a, ggml_sum_rows(a.ctx, a.floats({2, 9})), false);
    for (int64_t n : {1, 7, 576, 4096}) {
        check("norm of " + std::to_string(n), a, ggml_rms_norm(a.ctx, a.floats({n, 33}), 1e-5f), false);
    }
}

static void check_router(arena & a) {
    check("soft max", a, ggml_soft_max(a.ctx, a.floats({8, 21})), false);
    check("scaled soft max", a, ggml_soft_max_ext(a.ctx, a.floats({8, 21}), nullptr, 0.5f, 0), false);
    check("arg sort", a, ggml_argsort(a.ctx, a.floats({8, 21}), GGML_SORT_ORDER_DESC), true);
    check("picked rows", a, ggml_get_rows(a.ctx, a.floats({64, 9}), a.integers<int32_t>(GGML_TYPE_I32, {8, 0, 8, 3})), true);
    check("picked weights", a, ggml_get_rows(a.ctx, a.floats({1, 8, 3}), a.integers<int32_t>(GGML_TYPE_I32, {7, 0, 1, 2, 5, 5}, 3)), true);
    expect(!glue_run(ggml_get_rows(a.ctx, a.floats({4, 3}), a.integers<int32_t>(GGML_TYPE_I32, {3})), 1),
           "a row behind the last is refused");
    ggml_tensor * mask = ggml_new_tensor_2d(a.ctx, GGML_TYPE_F16, 8, 21);
    expect(!glue_supports(ggml_soft_max_ext(a.ctx, a.floats({8, 21}), mask, 1, 0)), "a masked soft max is left to ggml");
    expect(!glue_supports(ggml_argsort(a.ctx, a.floats({8, 2}), GGML_SORT_ORDER_ASC)), "an ascending sort is left to ggml");
}

static void check_cache(arena & a) {
    for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
        ggml_tensor * cache = ggml_new_tensor_2d(a.ctx, type, 256, 400);
        std::memset(cache->data, 0, ggml_nbytes(cache));
        std::vector<int64_t> at(300);
        for (size_t i = 0; i < at.size(); ++i) {
            at[i] = int64_t((i * 7) % 400);
        }
        ggml_tensor * ids = a.integers<int64_t>(GGML_TYPE_I64, at);
        check(std::string("cache of ") + ggml_type_name(type), a, ggml_set_rows(a.ctx, cache, a.floats({256, 300}), ids), true);
        static_cast<int64_t *>(ids->data)[299] = 400;
        expect(!glue_run(ggml_set_rows(a.ctx, cache, a.floats({256, 300}), ids), 1), "a row behind the cache is refused");
    }
}

static void check_rotation(arena & a) {
    ggml_tensor * at   = a.integers<int32_t>(GGML_TYPE_I32, {0, 1, 17, 4095});
    const auto    rope = [&](int64_t d, int n_dims, int mode, float scale, float yarn) {
        return ggml_rope_ext(a.ctx, a.floats({d, 6, 4}), at, nullptr, n_dims, mode, 4096, 1e4f, scale, yarn, 1, 32, 1);
    };
    check("rotation", a, rope(128, 128, GGML_ROPE_TYPE_NORMAL, 1, 0), false);
    check("rotation of some dimensions, linear scaling", a, rope(64, 32, GGML_ROPE_TYPE_NORMAL, 0.25f, 0), false);
    expect(!rope_supports(rope(64, 64, GGML_ROPE_TYPE_NEOX, 1, 0)), "NeoX's order is left to ggml");
    expect(!rope_supports(rope(64, 64, GGML_ROPE_TYPE_NORMAL, 0.25f, 1)), "YaRN is left to ggml");
    rope_table    table; // made anew when positions change
    ggml_tensor * op = rope(64, 64, GGML_ROPE_TYPE_NORMAL, 1, 0);
    table.run(op, 1);
    const std::vector<char> before      = bytes_of(op);
    static_cast<int32_t *>(at->data)[3] = 4094;
    table.run(op, 1);
    const std::vector<char> after = bytes_of(op);
    expect(before != after, "other positions, other rotation");
    rope_table().run(op, 1);
    expect(bytes_of(op) == after, "a used table gives what a fresh one does");
}

int main() {
    ggml_cpu_init();
    for (const auto & part : {check_arithmetic, check_router, check_cache, check_rotation}) {
        arena a;
        part(a);
    }
    std::printf("test-glue: %d failed\n", n_failed);
    return n_failed == 0 ? 0 : 1;
}
