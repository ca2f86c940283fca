// Speed of the row kernels, one line per weight type and instruction set:
//   ns to prepare x, then ns per row and GB/s with rows in L2, and GB/s from memory with every thread, each for dot
//   and axpy; first what this machine reads from memory at best, and of rows that lie apart.
//
//   bench-rows [n_threads [type [isa]]]      isa as in ggml_sparse_isa, all by default
// A type that can be packed has a second line for that layout, and how fast one thread packs.

#include "cpu/dispatch.h"
#include "packing.h"
#include "rows.h"

#include <omp.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

using namespace ggml_sparse;

static constexpr int64_t N_COL        = 4096;
static constexpr size_t  N_BYTES      = size_t{768} << 20; // beyond any cache
static constexpr size_t  N_BYTES_NEAR = 192 << 10;

static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Best of a few runs of f(), after one for free.
template <typename F> static double best(F && f) {
    f();
    double t = 1e9;
    for (int i = 0; i < 3; ++i) {
        const double t0 = seconds();
        f();
        t = std::min(t, seconds() - t0);
    }
    return t;
}

static double read_speed(const uint8_t * data, int n_threads) {
    std::vector<uint64_t> sums(1024);
    const double          t = best([&] {
        const size_t n = N_BYTES / sums.size();
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (size_t i = 0; i < sums.size(); ++i) {
            uint64_t s[8] = {};
            for (size_t b = 0; b < n; b += 64) {
                uint64_t line[8];
                memcpy(line, data + i * n + b, 64);
                for (int k = 0; k < 8; ++k) {
                    s[k] ^= line[k];
                }
            }
            sums[i] = s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
        }
    });
    return double(N_BYTES) / t * 1e-9;
}

// Every eighth row of n_row_byte, in no order but rising, fetched two rows ahead: what gathered neurons can get.
static double gather_speed(const uint8_t * data, int n_threads, size_t n_row_byte) {
    std::vector<const uint8_t *> rows;
    std::minstd_rand             rng(1);
    for (size_t at = 0; at + n_row_byte <= N_BYTES; at += n_row_byte) {
        if (rng() % 8 == 0) {
            rows.push_back(data + at);
        }
    }
    std::vector<uint64_t> sums(size_t(n_threads) * 8);
    const double          t = best([&] {
#pragma omp parallel num_threads(n_threads)
        {
            const size_t ith = size_t(omp_get_thread_num()), end = rows.size() * (ith + 1) / size_t(n_threads);
            uint64_t     sum = 0;
            for (size_t k = rows.size() * ith / size_t(n_threads); k < end; ++k) {
                const uint8_t * ahead = rows[std::min(k + 2, end - 1)];
                for (size_t b = 0; b < n_row_byte; b += 64) {
                    uint64_t word;
                    memcpy(&word, rows[k] + b, sizeof(word));
                    sum ^= word;
                    __builtin_prefetch(ahead + b, 0, 2);
                }
            }
            sums[ith * 8] = sum;
        }
    });
    return double(rows.size() * n_row_byte) / t * 1e-9;
}

struct bench_case {
    row_reader   rows;
    const void * x;
    float *      y; // [n_threads][N_COL]
};

static void dots(const bench_case & c, int64_t i0, int64_t i1) {
    float s = 0;
    for (int64_t i = i0; i < i1; ++i) {
        s += c.rows.dot(i, c.x, c.rows.ahead_in_order(i, 2));
    }
    c.y[omp_get_thread_num() * N_COL] += s;
}

static void axpys(const bench_case & c, int64_t i0, int64_t i1) {
    float *     y            = c.y + omp_get_thread_num() * N_COL;
    const float h[AXPY_ROWS] = {1e-6f, 2e-6f, 3e-6f, 4e-6f};
    for (int64_t i = i0; i + AXPY_ROWS <= i1; i += AXPY_ROWS) {
        int32_t ids[AXPY_ROWS], ahead[AXPY_ROWS];
        for (int k = 0; k < AXPY_ROWS; ++k) {
            ids[k]   = int32_t(i) + k;
            ahead[k] = int32_t(std::min(i + AXPY_ROWS + k, i1 - 1));
        }
        c.rows.axpy(AXPY_ROWS, ids, ahead, h, 0, N_COL, y);
    }
}

static void report(const char * what, const bench_case & c, int n_threads, void (*run)(const bench_case &, int64_t, int64_t)) {
    const double  size = double(c.rows.row_size());
    const int64_t n = c.rows.n_row(), n_near = int64_t(N_BYTES_NEAR) / int64_t(c.rows.row_size());
    const int     n_rep = 100;
    const double  near  = best([&] {
                            for (int r = 0; r < n_rep; ++r) {
                                run(c, 0, n_near);
                            }
                          }) /
                          double(n_rep * n_near);
    const double  far   = best([&] {
#pragma omp parallel num_threads(n_threads)
        run(c, n * omp_get_thread_num() / n_threads, n * (omp_get_thread_num() + 1) / n_threads);
    });
    printf("  %s %6.1f ns %5.1f GB/s, memory %5.1f GB/s", what, near * 1e9, size / near * 1e-9, double(n) * size / far * 1e-9);
}

static void report_packing(const row_reader & rows, const uint8_t * data) {
    const auto           pack = packing_find(rows.type().type, GGML_SPARSE_LAYOUT_PACKED, N_COL)->pack;
    const size_t         size = rows.row_size();
    const int            n    = int(N_BYTES_NEAR / size);
    std::vector<uint8_t> dst(N_BYTES_NEAR);
    const double         t = best([&] {
        for (int i = 0; i < n; ++i) {
            pack(N_COL, data + size_t(i) * size, dst.data() + size_t(i) * size);
        }
    });
    printf("  packing %5.1f GB/s", double(n) * double(size) / t * 1e-9);
}

static void run_type(const weight_type & wt, const sparse_kernels & kernels, const uint8_t * data, int n_threads) {
    const int64_t      n_row = int64_t(N_BYTES / ggml_row_size(wt.type, N_COL));
    std::vector<float> x(N_COL), y(size_t(n_threads) * N_COL);
    for (int64_t i = 0; i < N_COL; ++i) {
        x[size_t(i)] = float(i * 37 % 251 - 125) / 125;
    }
    std::vector<uint8_t> space(x_prepared_size(wt, N_COL) + 64);
    uint8_t *            aligned = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
    bench_case c{row_reader({wt.type, N_COL, n_row, data, wt.layout, 0}, kernels), x_prepare(wt, x.data(), N_COL, aligned), y.data()};
    printf("%-5s %s isa %d", wt.name, wt.layout == GGML_SPARSE_LAYOUT_PACKED ? "packed" : "rows  ", int(kernels.isa));
    const double prepare = best([&] {
                               for (int i = 0; i < 100; ++i) {
                                   x_prepare(wt, x.data(), N_COL, aligned);
                               }
                           }) /
                           100;
    printf("  x %6.1f ns", prepare * 1e9);
    report("dot", c, n_threads, dots);
    if (wt.layout == GGML_SPARSE_LAYOUT_ROWS) {
        report("axpy", c, n_threads, axpys);
    } else {
        report_packing(c.rows, data);
    }
    printf("\n");
    fflush(stdout);
}

// Bytes that are finite and ordinary in every type: halfs of 0x2e2e = 0.096, nibbles 2 and 14. On huge pages, as resident
// models are.
static const uint8_t * weights() {
    void * data = mmap(nullptr, N_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    madvise(data, N_BYTES, MADV_HUGEPAGE);
    return static_cast<const uint8_t *>(memset(data, 0x2e, N_BYTES));
}

int main(int argc, char ** argv) {
    const int       n_threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
    const uint8_t * data      = weights();
    sparse_kernels_get(GGML_SPARSE_ISA_AUTO);
    for (int i = 0; i < 3; ++i) { // in turns: memory is never the same twice
        printf("%d threads read %.1f GB/s", n_threads, read_speed(data, n_threads));
        for (size_t n_byte : {2304, 6912, 18432}) {
            printf(", every eighth row of %zu bytes at %.1f", n_byte, gather_speed(data, n_threads, n_byte));
        }
        printf("\n");
    }
    for (int i = 0; i < SPARSE_SUMS_INDEX_Q4_0; ++i) {
        const weight_type & wt = weight_type_at(i);
        for (int isa = GGML_SPARSE_ISA_GENERIC; isa <= GGML_SPARSE_ISA_NEON; ++isa) {
            const sparse_kernels * kernels = sparse_kernels_get(static_cast<ggml_sparse_isa>(isa));
            if (kernels && (argc <= 2 || !strcmp(argv[2], "all") || !strcmp(argv[2], wt.name)) && (argc <= 3 || atoi(argv[3]) == isa)) {
                run_type(wt, *kernels, data, n_threads);
            }
        }
    }
}
