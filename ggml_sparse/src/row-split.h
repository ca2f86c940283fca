#pragma once

// Rows of one matrix among threads: each walks a range of its own, which memory gives faster than
// ranges that change hands every few rows (a third faster on the machine of docs/performance.md), and
// then helps the others with theirs.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace ggml_sparse {

class row_split {
  public:
    struct rows {
        int64_t  begin, end;
        explicit operator bool() const { return begin < end; }
    };

    // Up to `step` rows at once, never of two ranges.
    row_split(int64_t n, int n_threads, int64_t step) : ranges_(static_cast<size_t>(n_threads)), step_(step) {
        for (int t = 0; t < n_threads; ++t) {
            ranges_[static_cast<size_t>(t)].next = n * t / n_threads;
            ranges_[static_cast<size_t>(t)].end  = n * (t + 1) / n_threads;
        }
    }

    // The next rows for thread ith; none when all are taken.
    rows take(int ith) {
        for (size_t k = 0; k < ranges_.size(); ++k) {
            range & r = ranges_[(static_cast<size_t>(ith) + k) % ranges_.size()];
            if (r.next.load(std::memory_order_relaxed) < r.end) {
                const int64_t begin = r.next.fetch_add(step_, std::memory_order_relaxed);
                if (begin < r.end) {
                    return {begin, std::min(r.end, begin + step_)};
                }
            }
        }
        return {0, 0};
    }

  private:
    struct alignas(64) range { // a cache line each
        std::atomic<int64_t> next{0};
        int64_t              end = 0;
    };
    std::vector<range> ranges_;
    const int64_t      step_;
};

} // namespace ggml_sparse
