// A model's weights in memory of their own: matrices that are only multiplied are packed on the way.

#include "error.h"
#include "model.h"
#include "packing.h"

#include <algorithm>
#include <vector>

using namespace ggml_sparse;

// Matrices that can be packed, and where their rows lie in the file.
class pack_list {
  public:
    explicit pack_list(const mapped_file & file) : file_(file) {}

    // m and the n_set - 1 like it that follow.
    void add(ggml_sparse_matrix & m, int64_t n_set) {
        const row_packing * packing = m.data ? packing_find(m.type, m.n_col) : nullptr;
        if (packing) {
            const size_t row   = ggml_row_size(ggml_type(m.type), m.n_col);
            const size_t begin = size_t(static_cast<const uint8_t *>(m.data) - file_.data());
            matrices_.push_back(&m);
            ranges_.push_back({begin, begin + row * size_t(m.n_row * n_set), row, packing->pack, m.n_col});
        }
    }

    std::vector<rewritten_range> ranges() const {
        std::vector<rewritten_range> rising = ranges_;
        std::sort(rising.begin(), rising.end(), [](const rewritten_range & a, const rewritten_range & b) { return a.begin < b.begin; });
        return rising;
    }

    void set_packed() const {
        for (ggml_sparse_matrix * m : matrices_) {
            m->layout = GGML_SPARSE_LAYOUT_PACKED;
        }
    }

  private:
    const mapped_file &               file_;
    std::vector<ggml_sparse_matrix *> matrices_;
    std::vector<rewritten_range>      ranges_;
};

// Packed is what dots and tiles read and nobody adds rows of.
void ggml_sparse_model::make_resident() {
    if (file.bytes().resident()) {
        return;
    }
    pack_list list(file.bytes());
    for (layer_spec & l : spec.layers) {
        for (ggml_sparse_matrix * m : {&l.ffn.gate, &l.ffn.up, &l.ffn.fc1, &l.ffn.fc2}) {
            list.add(*m, std::max(spec.info.n_expert, 1));
        }
    }
    for (ggml_sparse_matrix & m : products.matrices()) {
        list.add(m, 1);
    }
    file.bytes().make_resident(list.ranges());
    list.set_packed();
}

// --- C API -------------------------------------------------------------------------

static constexpr uint64_t k_worth_copying = uint64_t(64) << 20; // smaller files fit caches, or nearly so

static bool has_room(uint64_t bytes) { return bytes >= k_worth_copying && bytes <= available_memory() / 3 * 2; }

ggml_sparse_status ggml_sparse_model_make_resident(ggml_sparse_model * model, bool force, bool * resident,
                                                   ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(model, "ggml_sparse_model_make_resident: model must not be NULL");
        if (force || has_room(model->file.size())) {
            model->make_resident();
        }
        if (resident) {
            *resident = model->file.bytes().resident();
        }
    });
}
