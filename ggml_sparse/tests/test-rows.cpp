// The row kernels of one instruction set against scalar arithmetic on the same blocks, and
// against the portable kernels: no ggml, no Python, so that it also runs under an emulator.
//   test-rows        built with -DKERNEL_OTHER=sparse_kernels_neon and both kernel objects:
//                    tools/test-neon.sh

#include "cpu/group-sum.h"
#include "cpu/kernels.h"
#include "cpu/x-unit.h"
#include "ggml.h"
#include "packing.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

using namespace ggml_sparse;

// What the kernels take from libggml-base, which an emulated build does not have.
extern "C" float ggml_fp16_to_fp32(uint16_t h) {
    const int   e = h >> 10 & 31, f = h & 1023;
    const float v = e ? std::ldexp(1.0f + static_cast<float>(f) / 1024, e - 15) : std::ldexp(static_cast<float>(f), -24);
    return h >> 15 ? -v : v;
}
extern "C" void ggml_fp16_to_fp32_row(const uint16_t * x, float * y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        y[i] = ggml_fp16_to_fp32(x[i]);
    }
}

struct type_shape {
    int     index, block, bytes;
    int     halfs[2]; // offsets of f16 scales; -1: none
    x_order order;
    int     packed, type; // row of the packed kernels, enum ggml_type
};
static const type_shape SHAPES[] = {
    {SPARSE_INDEX_Q8_0, 32, 34, {0, -1}, x_order::PAIRS, SPARSE_PACKED_INDEX_Q8_0, GGML_TYPE_Q8_0},
    {SPARSE_INDEX_Q4_0, 32, 18, {0, -1}, x_order::PAIRS, SPARSE_PACKED_INDEX_Q4_0, GGML_TYPE_Q4_0},
    {SPARSE_INDEX_Q4_1, 32, 20, {0, 2}, x_order::PAIRS, SPARSE_PACKED_INDEX_Q4_1, GGML_TYPE_Q4_1},
    {SPARSE_INDEX_Q5_0, 32, 22, {0, -1}, x_order::PAIRS, SPARSE_PACKED_INDEX_Q5_0, GGML_TYPE_Q5_0},
    {SPARSE_INDEX_Q5_1, 32, 24, {0, 2}, x_order::PAIRS, SPARSE_PACKED_INDEX_Q5_1, GGML_TYPE_Q5_1},
    {SPARSE_INDEX_Q4_K, 256, 144, {0, 2}, x_order::SUPER4, SPARSE_PACKED_INDEX_Q4_K, GGML_TYPE_Q4_K},
    {SPARSE_INDEX_Q5_K, 256, 176, {0, 2}, x_order::SUPER4, SPARSE_PACKED_INDEX_Q5_K, GGML_TYPE_Q5_K},
    {SPARSE_INDEX_Q6_K, 256, 210, {208, -1}, x_order::SUPER6, SPARSE_PACKED_INDEX_Q6_K, GGML_TYPE_Q6_K},
};

static std::vector<uint8_t> random_rows(const type_shape & t, int n_block) {
    std::vector<uint8_t> w(static_cast<size_t>(n_block * t.bytes));
    for (uint8_t & b : w) {
        b = static_cast<uint8_t>(rand() >> 7);
    }
    for (int b = 0; b < n_block; ++b) {
        for (int at : t.halfs) {
            if (at >= 0) {
                w[static_cast<size_t>(b * t.bytes + at + 1)] = static_cast<uint8_t>(0x28 | (rand() & 0x83)); // ordinary size
            }
        }
    }
    return w;
}

// x as quants and scales, and its units for a type.
struct activations {
    std::vector<int8_t> q;
    std::vector<float>  d;
    std::vector<x_unit> units;

    activations(int n, x_order order)
        : q(static_cast<size_t>(n)), d(static_cast<size_t>(n / 32)), units(static_cast<size_t>((n + 511) / 512)) {
        memset(static_cast<void *>(units.data()), 0, units.size() * sizeof(x_unit));
        for (int b = 0; b < n / 32; ++b) {
            x_unit &  u               = units[static_cast<size_t>(b / 16)];
            const int l               = b % 16;
            d[static_cast<size_t>(b)] = u.scale[l] = 0.01f * static_cast<float>(1 + rand() % 9);
            int sums[2]                            = {0, 0};
            for (int i = 0; i < 32; ++i) {
                const int8_t v                     = static_cast<int8_t>(rand() % 255 - 127);
                q[static_cast<size_t>(b * 32 + i)] = v;
                u.quants[order == x_order::LANES ? 64 * (i / 4) + 4 * l + i % 4 : 16 * x_place(order, 2 * l + i / 16) + i % 16] = v;
                sums[i / 16] += v;
            }
            const int sign = order == x_order::LANES ? -1 : 1;
            u.sums[0][l]   = order == x_order::SUPER6 ? sums[0] : sign * (sums[0] + sums[1]);
            u.sums[1][l]   = sign * sums[1];
            u.min[l]       = u.scale[l] * static_cast<float>(sums[0] + sums[1]);
        }
    }
};

// A row's values, by adding it to zeros.
static std::vector<float> values(const sparse_kernels & k, int index, const std::vector<uint8_t> & w, int n) {
    std::vector<float> y(static_cast<size_t>(n));
    const float        one = 1;
    const void *       row = w.data();
    k.rows[index].axpy(n, 1, &one, &row, &row, y.data());
    return y;
}

static int  failures = 0;
static void check(bool ok, const char * what, int index, int n) {
    if (!ok) {
        printf("FAILED %s: type %d, n %d\n", what, index, n);
        ++failures;
    }
}

static void test(const type_shape & t, const sparse_kernels & kernels, int n) {
    const std::vector<uint8_t> w = random_rows(t, n / t.block);
    const activations          x(n, t.order);
    const std::vector<float>   v = values(kernels, t.index, w, n), portable = values(sparse_kernels_generic, t.index, w, n);
    check(v == portable, "values", t.index, n);
    double dot = 0, size = 0;
    for (int i = 0; i < n; ++i) {
        const double p = static_cast<double>(v[static_cast<size_t>(i)]) * x.q[static_cast<size_t>(i)] * x.d[static_cast<size_t>(i / 32)];
        dot += p;
        size += std::fabs(p);
    }
    const float found = kernels.rows[t.index].dot(n, w.data(), x.units.data(), w.data());
    check(std::fabs(found - dot) <= size * 1e-6, "dot", t.index, n);

    const std::vector<uint8_t> other   = random_rows(t, n / t.block);
    const void *               rows[4] = {w.data(), other.data(), w.data(), other.data()};
    const float                h[4]    = {0.5f, -0.3f, 1.7f, 0.9f};
    std::vector<float>         together(static_cast<size_t>(n), 1.0f), apart = together;
    kernels.rows[t.index].axpy(n, 4, h, rows, rows, together.data());
    for (int r = 0; r < 4; ++r) {
        kernels.rows[t.index].axpy(n, 1, h + r, rows + r, rows + r, apart.data());
    }
    check(together == apart, "four rows at once", t.index, n);
}

// The same dot from either layout, and back again.
static void test_packed(const type_shape & t, const sparse_kernels & kernels, int n) {
    const std::vector<uint8_t> w = random_rows(t, n / t.block);
    std::vector<uint8_t>       packed(w.size()), back(w.size());
    packing_find(t.type, GGML_SPARSE_LAYOUT_PACKED, n)->pack(n, w.data(), packed.data());
    packing_find(t.type, GGML_SPARSE_LAYOUT_PACKED, n)->unpack(n, packed.data(), back.data());
    check(back == w, "unpacked again", t.index, n);
    srand(7);
    const activations x(n, t.order);
    srand(7);
    const activations lanes(n, x_order::LANES);
    const float       plain = kernels.rows[t.index].dot(n, w.data(), x.units.data(), w.data());
    const float       found = kernels.rows[t.packed].dot(n, packed.data(), lanes.units.data(), packed.data());
    check(found == plain && plain == plain, "packed dot", t.index, n);
}

// Sums of n_row of some q4_0 rows as integers: bits of the portable kernels, near those of float sums, from either layout.
static void test_groups(const sparse_kernels & kernels, int n, int n_row, bool fine) {
    constexpr int              N   = 50;
    const type_shape &         t   = SHAPES[1];
    const std::vector<uint8_t> w   = random_rows(t, N * n / t.block);
    const size_t               row = w.size() / N;
    std::vector<int32_t>       ids;
    std::vector<float>         h;
    for (int k = 0; k < n_row; ++k) {
        ids.push_back(k * 7 % N);
        h.push_back(static_cast<float>(rand() % 2001 - 1000) / 250);
    }
    const auto sum = [&](const sparse_kernels & of, int layout, const std::vector<uint8_t> & rows) {
        std::vector<float>    y(static_cast<size_t>(n), 0.25f);
        const group_kernels & k = of.groups[layout];
        (fine ? k.fine : k.rough)({rows.data(), row, n / t.block}, ids.data(), h.data(), n_row, 0, y.data());
        return y;
    };
    const std::vector<float> found = sum(kernels, 0, w);
    check(found == sum(sparse_kernels_generic, 0, w), "group sum", n_row, n);

    std::vector<float> expected(static_cast<size_t>(n), 0.25f);
    double             error = 0, size = 0;
    for (int k = 0; k < n_row; ++k) {
        const void * at = w.data() + static_cast<size_t>(ids[static_cast<size_t>(k)]) * row;
        sparse_kernels_generic.rows[t.index].axpy(n, 1, &h[static_cast<size_t>(k)], &at, &at, expected.data());
    }
    for (size_t i = 0; i < found.size(); ++i) {
        error += std::pow(static_cast<double>(found[i] - expected[i]), 2);
        size += std::pow(static_cast<double>(expected[i]), 2);
    }
    check(error <= size * (fine ? 1e-8 : 1e-3), "group sum, value", n_row, n);

    if (const row_packing * packing = packing_find(t.type, GGML_SPARSE_LAYOUT_SUMS, n)) {
        std::vector<uint8_t> moved(w.size());
        for (int i = 0; i < N; ++i) {
            packing->pack(n, w.data() + static_cast<size_t>(i) * row, moved.data() + static_cast<size_t>(i) * row);
        }
        check(found == sum(kernels, 1, moved), "group sum, layout for sums", n_row, n);
    }
}

int main() {
    for (int n : {32, 480, 512, 1056, 1536}) {
        for (int n_row = 1; n_row < 40; ++n_row) {
            for (bool fine : {false, true}) {
                test_groups(KERNEL_OTHER, n, n_row, fine);
            }
        }
    }
    for (const type_shape & t : SHAPES) {
        for (int n : {256, 512, 1024, 1280, 4096}) {
            test(t, KERNEL_OTHER, n);
            test(t, sparse_kernels_generic, n);
        }
        for (int n : {512, 1536, 4096}) {
            test_packed(t, KERNEL_OTHER, n);
            test_packed(t, sparse_kernels_generic, n);
        }
        for (int n = 32; t.block == 32 && n < 512; n += 32) {
            test(t, KERNEL_OTHER, n);
        }
    }
    printf(failures ? "%d failures\n" : "ok\n", failures);
    return failures != 0;
}
