#pragma once

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

// Lays arrays out one behind the other, 64-byte aligned: first dry to learn the size, then
// for real.
class carver {
  public:
    explicit carver(void * base) : base_(reinterpret_cast<uintptr_t>(base)) {}
    template <typename T> T * take(size_t n) {
        T * p = reinterpret_cast<T *>(base_ + used_);
        used_ += (n * sizeof(T) + 63) / 64 * 64;
        return p;
    }
    size_t used() const { return used_; }

  private:
    uintptr_t base_;
    size_t    used_ = 0;
};

} // namespace ggml_sparse
