#pragma once

// Rotary position embedding (GGML_OP_ROPE) of queries and keys.

#include "ggml.h"

#include <cstdint>
#include <vector>

namespace ggml_sparse {

// Is `op` a rotation of F32 heads by neighbouring pairs, as models of the `llama` graph have it, without YaRN's ramp?
bool rope_supports(const ggml_tensor * op);

// Cosines and sines of a batch's positions, which all layers share.
class rope_table {
  public:
    // Rotates op's heads; the table is made anew when parameters or positions are not those of the last call.
    void run(const ggml_tensor * op, int n_threads);

  private:
    struct settings {
        int32_t n_dims;
        float   base, scale, magnitude;

        bool operator==(const settings & o) const {
            return n_dims == o.n_dims && base == o.base && scale == o.scale && magnitude == o.magnitude;
        }
    };
    static settings settings_of(const ggml_tensor * op);
    void            fill(const settings & made, const int32_t * positions, int64_t n_token);

    settings             made_{};
    std::vector<int32_t> positions_;
    std::vector<float>   turns_; // [n_token][n_dims / 2] pairs of cosine and sine
};

} // namespace ggml_sparse
