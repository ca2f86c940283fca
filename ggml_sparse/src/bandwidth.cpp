// What this machine's memory gives to n threads that read it from one end to the other: the
// yardstick for decode, which reads every weight once.

#include "error.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

using namespace ggml_sparse;

namespace {

constexpr size_t k_lines_ahead = 2048; // bytes; far enough for L2 to be filled in time
constexpr size_t k_words       = 16;   // two cache lines per step

// Anonymous memory on huge pages where the system has them: the page size costs a third of the speed.
class buffer {
  public:
    explicit buffer(size_t size) : size_(size), data_(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
        if (data_ == MAP_FAILED) {
            throw error(GGML_SPARSE_ERR_MEMORY, "There is no memory for the bandwidth probe.").counts(int64_t(size), 0);
        }
#ifdef MADV_HUGEPAGE
        madvise(data_, size, MADV_HUGEPAGE); // a hint: no failure matters
#endif
        std::memset(data_, 1, size); // else all pages are the one page of zeros
    }
    ~buffer() { munmap(data_, size_); }
    buffer(const buffer &)             = delete;
    buffer & operator=(const buffer &) = delete;

    const uint64_t * words() const { return static_cast<const uint64_t *>(data_); }
    size_t           n_words() const { return size_ / sizeof(uint64_t); }

  private:
    size_t size_;
    void * data_;
};

// The xor of words[n]: something that cannot be left out. Some CPUs want to be told what comes next, others lose half by it.
template <bool AHEAD> uint64_t read(const uint64_t * words, size_t n) {
    uint64_t sums[k_words] = {};
    for (size_t i = 0; i + k_words <= n; i += k_words) {
        const char * ahead = reinterpret_cast<const char *>(words + i) + k_lines_ahead;
        if (AHEAD) {
            __builtin_prefetch(ahead, 0, 2);
            __builtin_prefetch(ahead + 64, 0, 2);
        }
        for (size_t k = 0; k < k_words; ++k) {
            sums[k] ^= words[i + k];
        }
    }
    uint64_t sum = 0;
    for (uint64_t s : sums) {
        sum ^= s;
    }
    return sum;
}

// Bytes per second of all threads together.
template <bool AHEAD> double speed(const uint64_t * words, size_t n, int32_t n_threads, uint64_t & sum) {
    const auto   begin = std::chrono::steady_clock::now();
    const size_t part  = n / size_t(n_threads);
    uint64_t     x     = 0;
#pragma omp parallel num_threads(n_threads) reduction(^ : x)
    x ^= read<AHEAD>(words + part * size_t(omp_get_thread_num()), part);
    sum ^= x;
    return double(n * sizeof(uint64_t)) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

} // namespace

struct ggml_sparse_bandwidth {
    buffer   memory;
    uint64_t sum = 0;
};

ggml_sparse_status ggml_sparse_bandwidth_create(uint64_t n_bytes, ggml_sparse_bandwidth ** probe, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(probe && n_bytes >= 4096, "the bandwidth probe needs at least 4096 bytes");
        *probe = new ggml_sparse_bandwidth{buffer(size_t(n_bytes))};
    });
}

void ggml_sparse_bandwidth_free(ggml_sparse_bandwidth * probe) noexcept { delete probe; }

ggml_sparse_status ggml_sparse_bandwidth_measure(ggml_sparse_bandwidth * probe, int32_t n_threads, double * bytes_per_second,
                                                 ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(n_threads >= 1 && n_threads <= 512, "n_threads must be from 1 to 512");
        const uint64_t * words = probe->memory.words();
        const size_t     half  = probe->memory.n_words() / 2;
        const double told = speed<true>(words, half, n_threads, probe->sum), left = speed<false>(words + half, half, n_threads, probe->sum);
        *bytes_per_second = std::max(told, left);
    });
}
